"""The tokenizer's files of a Hugging Face folder, written and recognised."""
import json
from pathlib import Path

from corpora.tokenizer import END_OF_TEXT, PATTERN
from corpora.vocabulary import write_tiktoken

from data import get_tokenizer
from hf.files import read_hf_json

# A tokenizer.json spells a token with one printable character a byte: 188 bytes stand for
# themselves, the others, a space among them, are 256, 257, ...
KEPT = [*range(33, 127), *range(161, 173), *range(174, 256)]
OTHERS = [b for b in range(256) if b not in KEPT]
SPELL = {b: chr(b) for b in KEPT} | {b: chr(256 + i) for i, b in enumerate(OTHERS)}


def hf_vocab(tokenizer):
    """Tokenizer -> {token as Hugging Face spells it: id}, and of these what is matched before
    the BPE."""
    added = {END_OF_TEXT.decode(): tokenizer.eot} | tokenizer.runs
    ranks = {"".join(SPELL[b] for b in token): i for i, token in enumerate(tokenizer.vocab)
             if i not in added.values()}
    return ranks | added, added


# -------------------------------------------- writing ---------------------------------------------

def last_merge(token, ranks):
    """The two parts that the BPE joins last to make this token, or None for a single byte."""
    parts = [bytes([b]) for b in token]
    while len(parts) > 2:
        pairs = enumerate(zip(parts, parts[1:]))
        rank, i = min((ranks.get(a + b, len(ranks)), i) for i, (a, b) in pairs)
        if rank == len(ranks):
            return None        # no merge leads to it: only a word that is this token gives it
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
    return parts if len(parts) == 2 else None


def write_hf_tokenizer(tokenizer, folder, block_size):
    """The files from which transformers' AutoTokenizer makes a tokenizer with the same ids, and a
    .tiktoken file beside them where that is what we read ourselves.

    The text "<|endoftext|>" is its end of text there; here it is 13 characters."""
    vocab, added = hf_vocab(tokenizer)
    ranks = {token: i for i, token in enumerate(tokenizer.vocab) if i not in added.values()}
    pairs = [last_merge(token, ranks) for token in ranks] if tokenizer.bpe else []
    merges = [["".join(SPELL[b] for b in part) for part in pair] for pair in pairs if pair]
    plain = dict(single_word=False, lstrip=False, rstrip=False, normalized=False)
    special = [dict(id=i, content=text, special=i == tokenizer.eot) | plain
               for text, i in sorted(added.items(), key=lambda item: item[1])]
    own = tokenizer.name not in ("gpt2", "codegen")
    # Where it is to cut by a regex, that is GPT-2's.
    by_bytes = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    before = by_bytes
    if own:
        cut = dict(type="Split", pattern=dict(Regex=PATTERN), behavior="Isolated", invert=False)
        before = dict(type="Sequence", pretokenizers=[cut, by_bytes | dict(use_regex=False)])
    model = dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix="",
                 end_of_word_suffix="", fuse_unk=False, byte_fallback=False, ignore_merges=True,
                 vocab=vocab, merges=merges)
    content = dict(version="1.0", truncation=None, padding=None, normalizer=None,
                   pre_tokenizer=before, post_processor=None, decoder=by_bytes,
                   added_tokens=special, model=model)
    end = END_OF_TEXT.decode()
    about = dict(tokenizer_class="PreTrainedTokenizerFast", bos_token=end, eos_token=end,
                 unk_token=end, clean_up_tokenization_spaces=False, model_max_length=block_size)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=1))
    if own and tokenizer.bpe:
        write_tiktoken(folder / f"{Path(tokenizer.name).stem}.tiktoken", ranks)


# ------------------------------------------ recognising -------------------------------------------

ASK = ("name one with python model.py import --tokenizer gpt2 (the NL models) "
       "or codegen (MULTI, MONO)")
ID = (0, 2 ** 31 - 1)
FAST = {"model": {"vocab": {str: ID}}, "added_tokens?": [{"content": str, "id": ID}]}
ABOUT = {"tokenizer_class?": str, "added_tokens_decoder?": {str: {"content": str}}}


def read_hf_tokenizer(folder):
    """Which tokenizer (for get_tokenizer) has the ids of a folder's files. ValueError if none."""
    folder = Path(folder)
    own = sorted(folder.glob("*.tiktoken"))
    if len(own) > 1:
        raise ValueError(f"{folder} holds several tokenizers ({', '.join(p.name for p in own)}): "
                         f"keep one, or {ASK}")
    if own:
        check_cutting(folder, own[0])
        return str(own[0])
    try:
        vocab, sure = read_vocab(folder)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} has no tokenizer files, or damaged ones ({error}): "
                         f"{ASK}") from None
    known = ("codegen", "gpt2", "bytes")
    name = next((n for n in known if hf_vocab(get_tokenizer(n))[0] == vocab), None)
    if name is None:
        raise ValueError(f"the tokenizer in {folder} ({len(vocab):,} entries) is neither GPT-2's "
                         "nor CodeGen's: python model.py import --tokenizer takes another")
    if name == "gpt2" and not sure:
        raise ValueError(f"{folder} has vocab.json without added_tokens.json: GPT-2's tokenizer, "
                         f"or CodeGen's with its runs of white space lost: {ASK}")
    return name


def check_cutting(folder, own):
    """ValueError where tokenizer.json cuts a text otherwise than we do before the merges of the
    .tiktoken file beside it: an earlier version wrote both."""
    file = folder / "tokenizer.json"
    if file.is_file() and json.dumps(PATTERN) not in file.read_text(errors="replace"):
        raise ValueError(f"{folder} was made with another version of tokenizer {own.name}, whose "
                         "ids mean other text: use the version of the project that wrote it, or "
                         "make it anew")


def read_vocab(folder):
    """(token -> id, whether these are surely all of them) from a folder's tokenizer files."""
    if (folder / "tokenizer.json").is_file():
        content = read_hf_json(folder / "tokenizer.json", FAST)
        added = {token["content"]: token["id"] for token in content.get("added_tokens") or []}
        return content["model"]["vocab"] | added, True
    vocab, extra = folder / "vocab.json", folder / "added_tokens.json"
    tokens = read_hf_json(vocab, {str: ID})
    about = {}
    if (folder / "tokenizer_config.json").is_file():
        about = read_hf_json(folder / "tokenizer_config.json", ABOUT)
    added = about.get("added_tokens_decoder") or {}
    tokens |= {token["content"]: int(i) for i, token in added.items()}
    if extra.is_file():
        tokens |= read_hf_json(extra, {str: ID})
    sure = extra.is_file() or str(about.get("tokenizer_class")).startswith("GPT2")
    return tokens, sure
