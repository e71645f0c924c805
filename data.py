"""From source files to batches: tokenizers, the paper's five steps of preparation (section 2.1), batches by step.

    python data.py prepare --input DIR ... --out DIR            filter, deduplicate, tokenize, shuffle, pack
    python data.py train-bpe --input DIR --vocab_size N --out FILE.tiktoken

Only numpy and tiktoken are imported, never jax: the worker processes of `prepare` start in a blink.
"""
from harness.cli import CORES, PROJECT, cli, one_line_errors, unheard

import argparse
import base64
import collections
import concurrent.futures
import contextlib
import dataclasses
import fcntl
import hashlib
import heapq
import json
import multiprocessing
import os
import re
import shutil
import stat
import threading
from pathlib import Path

import numpy as np
import tiktoken
from tiktoken_ext.openai_public import r50k_base
from tqdm import tqdm

# ---------------------------------------------------------------------------------------------------------------------
# Tokenizers

GPT2_URL = "https://openaipublic.blob.core.windows.net/encodings/r50k_base.tiktoken"
END_OF_TEXT = b"<|endoftext|>"  # how the separator shows when it is decoded; this text in a file is ordinary text

# CodeGen adds 38 whitespace runs to GPT-2's 50,257 entries: 31 down to 2 spaces are ids 50257 to 50286, 9 down to 2
# tabs are 50287 to 50294. They are cut from the text before GPT-2's words, each as long as it can be: 32 spaces are a
# run of 31 and one space that is left to the BPE. As special tokens of tiktoken they would not always be the longest.
RUNS = [b" " * n for n in range(31, 1, -1)] + [b"\t" * n for n in range(9, 1, -1)]
RUN = r" {2,31}|\t{2,9}"
BLANK = r"(?:(?!  |\t\t)\s)"     # white space that begins no run
CODEGEN_PATTERN = rf"{RUN}|'(?:[sdmt]|ll|ve|re)| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|{BLANK}+(?!\S)|{BLANK}"
# A lone surrogate is no valid UTF-8, hence nothing that tiktoken can encode: it goes in as its three bytes.
SURROGATE = re.compile("([\ud800-\udfff])")
# A merge takes up to n^2 steps in the length of one word and a regex may backtrack over it: cut the endless ones.
ENDLESS = re.compile(r"(\S{4000}|\s{4000})")
CODEGEN_ENDLESS = re.compile(rf"({RUN}|\S{{4000}}|{BLANK}{{4000}})")

# How the text is cut before the merges, for every .tiktoken file: a digit alone; a line break with the blank lines and
# the indentation after it (so a Python line starts with one token); letters, and all else, each with a space before.
# "Letters" are all characters but ASCII's non-letters: Python's re (trainer) and Rust's regex (tiktoken) cut alike.
PATTERN = r"[0-9]|[\r\n][ \t\r\n]*| ?[^\x00-@\[-`{-\x7f]+| ?[!-/:-@\[-`{-~\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+|[ \t]+"


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Byte-level tokenizer with decode(encode(s)) == s for every str s. Made by `get_tokenizer`."""
    name: str
    vocab: list = dataclasses.field(repr=False)  # the bytes of each id, end of text included
    eot: int                 # id that ends each document; encode() never returns it
    bpe: object = None       # tiktoken.Encoding, or None for plain bytes
    endless: object = ENDLESS
    runs: dict = dataclasses.field(default_factory=dict)  # text -> id of the whitespace runs

    @property
    def n_vocab(self):
        """Number of ids in use, end of text included (the model pads this: 51,200 rows for CodeGen)."""
        return len(self.vocab)

    def encode(self, text):
        """str -> list of ids. Nothing in the text is special: "<|endoftext|>" in a source file is 13 characters."""
        if self.bpe is None:
            return list(text.encode("utf-8", "surrogatepass"))
        ids = []
        for i, part in enumerate(SURROGATE.split(text)):  # odd places: a surrogate
            if i % 2:
                ids += [self.bpe.encode_single_token(bytes([b])) for b in part.encode("utf-8", "surrogatepass")]
            else:
                # Where 4000 characters are one word or one gap, one of these blocks of 2000 does not hold two words.
                blocks = (part[start:start + 2000] for start in range(0, len(part) - 1999, 2000))
                whole = all(len(block.split(None, 1)) == 2 for block in blocks)
                for piece in [part] if whole else self.endless.split(part):
                    ids += self.bpe.encode_ordinary(piece)
        return ids

    def decode_bytes(self, ids):
        """ids -> bytes, for streaming: a character may be spread over tokens. ValueError for an unknown id."""
        for i in ids:
            if not 0 <= i < len(self.vocab):
                raise ValueError(f"token id {i} is outside the tokenizer {self.name} (0 to {len(self.vocab) - 1})")
        return b"".join(self.vocab[i] for i in ids)

    def decode(self, ids):
        """ids -> str. Bytes that are no text (a sampled half of a character) become U+FFFD."""
        raw = self.decode_bytes(ids)
        try:
            return raw.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return raw.decode("utf-8", "replace")


def get_tokenizer(name):
    """"gpt2" (CodeGen-NL), "codegen" (MULTI, MONO), "bytes", "miniature", or the path of a .tiktoken file -> Tokenizer.

    ValueError says what is wrong: an unknown name, a damaged file, or GPT-2's vocabulary not there and no network.
    """
    name = str(name)
    if name == "bytes":
        return Tokenizer(name, [bytes([i]) for i in range(256)] + [END_OF_TEXT], 256)
    if name in ("gpt2", "codegen"):
        gpt2 = gpt2_arguments()
        vocab = [*gpt2["mergeable_ranks"], END_OF_TEXT]
        if name == "gpt2":
            return Tokenizer(name, vocab, 50256, tiktoken.Encoding(**gpt2))
        runs = {run: 50257 + i for i, run in enumerate(RUNS)}
        ranks = gpt2["mergeable_ranks"] | runs
        bpe = tiktoken.Encoding(name, pat_str=CODEGEN_PATTERN, mergeable_ranks=ranks, special_tokens={})
        return Tokenizer(name, vocab + RUNS, 50256, bpe, CODEGEN_ENDLESS, {run.decode(): i for run, i in runs.items()})
    path = PROJECT / "miniature" / "miniature.tiktoken" if name == "miniature" else Path(name)
    if path.suffix != ".tiktoken":
        raise ValueError(f"unknown tokenizer {name!r}: use gpt2, codegen, bytes, miniature or a .tiktoken file")
    ranks = read_tiktoken(path)
    bpe = tiktoken.Encoding(name, pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    return Tokenizer(name, list(ranks) + [END_OF_TEXT], len(ranks), bpe)


def gpt2_arguments():
    """What tiktoken.Encoding makes GPT-2's BPE of, from tiktoken's cache, or downloaded into it once (0.8 MB)."""
    try:
        return r50k_base()
    except Exception as error:  # requests' own errors, a checksum that differs, a cache folder that cannot be written
        file = hashlib.sha1(GPT2_URL.encode()).hexdigest()
        raise ValueError(f"GPT-2's vocabulary cannot be loaded ({type(error).__name__}): download {GPT2_URL}, "
                         f"save it as DIR/{file} and set TIKTOKEN_CACHE_DIR=DIR") from error


def read_tiktoken(path):
    """A .tiktoken file (one token a line: base64, space, rank) -> dict bytes -> rank, in rank order."""
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise ValueError(f"cannot read the tokenizer {path}: {error.strerror}") from error
    try:
        pairs = [line.split() for line in lines if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    except ValueError as error:
        raise ValueError(f"{path} is not a .tiktoken file (lines of base64, space, rank): {error}") from error
    if list(ranks.values()) != list(range(len(pairs))) or any(bytes([i]) not in ranks for i in range(256)):
        raise ValueError(f"{path} is damaged: ranks must count up from 0 and all 256 single bytes must be there")
    return ranks


def write_tiktoken(path, ranks):
    """dict bytes -> rank -> .tiktoken file, written under another name and renamed."""
    temporary = Path(f"{path}.tmp")
    rows = sorted(ranks.items(), key=lambda item: item[1])
    temporary.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in rows))
    os.replace(temporary, path)


# A Hugging Face tokenizer.json spells a token with one printable character a byte: 188 bytes stand for themselves, the
# others, a space among them, are 256, 257, ...
KEPT = [*range(33, 127), *range(161, 173), *range(174, 256)]
SPELL = {b: chr(b) for b in KEPT} | {b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in KEPT)}


def hf_vocab(tokenizer):
    """Tokenizer -> {token as Hugging Face spells it: id}, and of these what is matched in the text before the BPE."""
    added = {END_OF_TEXT.decode(): tokenizer.eot} | tokenizer.runs
    ranks = {"".join(SPELL[b] for b in token): i for i, token in enumerate(tokenizer.vocab) if i not in added.values()}
    return ranks | added, added


def last_merge(token, ranks):
    """The two parts that the BPE joins last to make this token, or None for a single byte."""
    parts = [bytes([b]) for b in token]
    while len(parts) > 2:
        rank, i = min((ranks.get(a + b, len(ranks)), i) for i, (a, b) in enumerate(zip(parts, parts[1:])))
        if rank == len(ranks):
            return None        # no merge leads to it: only a word that is this token as a whole gives it
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
    return parts if len(parts) == 2 else None


def write_hf_tokenizer(tokenizer, folder, block_size):
    """The files from which transformers' AutoTokenizer makes a tokenizer with the same ids (and a .tiktoken file beside
    them where that is what we read ourselves). The text "<|endoftext|>" is its end of text there; here it is 13 characters."""
    vocab, added = hf_vocab(tokenizer)
    ranks = {token: i for i, token in enumerate(tokenizer.vocab) if i not in added.values()}
    pairs = [last_merge(token, ranks) for token in ranks] if tokenizer.bpe else []
    merges = [["".join(SPELL[b] for b in part) for part in pair] for pair in pairs if pair]
    bytes_level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)     # GPT-2's regex
    own = tokenizer.name not in ("gpt2", "codegen")
    cut = dict(type="Split", pattern=dict(Regex=PATTERN), behavior="Isolated", invert=False)
    before = dict(type="Sequence", pretokenizers=[cut, bytes_level | dict(use_regex=False)]) if own else bytes_level
    content = dict(
        version="1.0", truncation=None, padding=None, normalizer=None, pre_tokenizer=before, post_processor=None,
        decoder=bytes_level, added_tokens=[
            dict(id=i, content=text, single_word=False, lstrip=False, rstrip=False, normalized=False,
                 special=i == tokenizer.eot) for text, i in sorted(added.items(), key=lambda item: item[1])],
        model=dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix="", end_of_word_suffix="",
                   fuse_unk=False, byte_fallback=False, ignore_merges=True, vocab=vocab, merges=merges))
    end = END_OF_TEXT.decode()
    about = dict(tokenizer_class="PreTrainedTokenizerFast", bos_token=end, eos_token=end, unk_token=end,
                 clean_up_tokenization_spaces=False, model_max_length=block_size)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=1))
    if own and tokenizer.bpe:
        write_tiktoken(folder / f"{Path(tokenizer.name).stem}.tiktoken", ranks)


def read_hf_tokenizer(folder):
    """Which tokenizer (for get_tokenizer) has the ids of a Hugging Face folder's files. ValueError when it is none."""
    folder = Path(folder)
    for path in sorted(folder.glob("*.tiktoken")):
        return str(path)
    try:
        if (folder / "tokenizer.json").is_file():
            content = json.loads((folder / "tokenizer.json").read_text())
            vocab = content["model"]["vocab"] | {token["content"]: token["id"] for token in content["added_tokens"]}
        else:
            vocab = json.loads((folder / "vocab.json").read_text())
            if (folder / "added_tokens.json").is_file():
                vocab |= json.loads((folder / "added_tokens.json").read_text())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} has no tokenizer files, or damaged ones ({type(error).__name__}): name one with python "
                         "model.py import --tokenizer gpt2 (the NL models) or codegen (MULTI, MONO)") from None
    for name in ("codegen", "gpt2", "bytes"):
        if hf_vocab(get_tokenizer(name))[0] == vocab:
            return name
    raise ValueError(f"the tokenizer in {folder} ({len(vocab)} entries) is neither GPT-2's nor CodeGen's: "
                     "python model.py import --tokenizer takes another")


def train_bpe(texts, vocab_size):
    """Byte-pair encoding learned from an iterable of str -> dict bytes -> rank, at most vocab_size - 1 entries.

    The id after the last rank is the end of text, so vocab_size is what the model sees. Fewer entries come back when
    the text has no pair left that occurs twice. Sennrich et al. 2016, on bytes, inside the pieces that PATTERN cuts.
    """
    if not 257 <= vocab_size <= 65536:
        raise ValueError(f"vocab_size {vocab_size}: must be 257 (256 bytes, end of text) to 65536 (uint16 shards)")
    counts = collections.Counter()
    for text in texts:
        counts.update(re.findall(PATTERN, text))
    words = [list(word.encode("utf-8", "surrogatepass")) for word in counts]
    weights = list(counts.values())

    # Each merge touches only the words that hold its pair: `where` finds them, pair_count is kept up to date, and the
    # heap gets a new entry whenever a count changes. An entry that disagrees with pair_count is stale and skipped.
    pair_count, where = collections.Counter(), collections.defaultdict(set)
    for w, word in enumerate(words):
        for pair in zip(word, word[1:]):
            pair_count[pair] += weights[w]
            where[pair].add(w)
    heap = [(-count, pair) for pair, count in pair_count.items()]
    heapq.heapify(heap)
    vocab = [bytes([i]) for i in range(256)]
    ranks = {token: i for i, token in enumerate(vocab)}
    while heap and len(vocab) < vocab_size - 1:
        count, pair = heapq.heappop(heap)
        if -count != pair_count[pair]:
            continue
        if -count < 2:
            break
        token = vocab[pair[0]] + vocab[pair[1]]
        if token not in ranks:  # "ab" + "c" may follow "a" + "bc": the same bytes are one token, as for tiktoken
            ranks[token] = len(vocab)
            vocab.append(token)
        changed = set()
        for w in where.pop(pair, ()):
            old, new, i = words[w], [], 0
            while i < len(old):
                if i + 1 < len(old) and (old[i], old[i + 1]) == pair:
                    new.append(ranks[token])
                    i += 2
                else:
                    new.append(old[i])
                    i += 1
            for p in zip(old, old[1:]):
                pair_count[p] -= weights[w]
                changed.add(p)
            for p in zip(new, new[1:]):
                pair_count[p] += weights[w]
                where[p].add(w)
                changed.add(p)
            words[w] = new
        for p in changed:
            if pair_count[p] > 0:
                heapq.heappush(heap, (-pair_count[p], p))
    return ranks


# ---------------------------------------------------------------------------------------------------------------------
# Filter and deduplicate (paper section 2.1, steps 1 and 2)

# The six languages of BIGQUERY. The paper puts the language's name before each file but does not print the exact text;
# ours is the name on a line of its own.
LANGUAGES = {".c": "C", ".h": "C", ".cc": "C++", ".cpp": "C++", ".cxx": "C++", ".hpp": "C++", ".go": "Go",
             ".java": "Java", ".js": "JavaScript", ".py": "Python"}
MAX_FILE = 16 * 2 ** 20  # bytes; nobody wrote more by hand, and a worker holds whole files
# Why a file is left out, in the order of the tests: a file counts under the first that it fails.
REASONS = ("extension", "unreadable", "too_large", "empty", "not_utf8", "average_line", "longest_line", "digits",
           "duplicate")


def filter_reason(raw):
    """bytes of a file -> None, or the first filter that drops it. The last three filters are the paper's."""
    if not raw.strip():
        return "empty"
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return "not_utf8"
    lengths = [len(line) for line in text.removesuffix("\n").split("\n")]
    if sum(lengths) / len(lengths) >= 100:
        return "average_line"
    if max(lengths) > 1000:
        return "longest_line"
    if len(raw) - len(raw.translate(None, b"0123456789abcdefABCDEF")) > 0.9 * len(text):
        return "digits"


def walk(folders, skip=(), on_error=None):
    """Yields (path, size in bytes) of every file below the folders, sorted; size is None for what is no regular file.

    Links to folders are not followed, so loops end. Folders in `skip` (our own output) are passed over.
    """
    for top in folders:
        for folder, names, files in os.walk(top, onerror=on_error):
            names[:] = sorted(name for name in names if os.path.realpath(os.path.join(folder, name)) not in skip)
            for file in sorted(files):
                path = os.path.join(folder, file)
                try:
                    status = os.stat(path)
                    yield path, status.st_size if stat.S_ISREG(status.st_mode) else None
                except OSError:  # a link to itself or to nothing
                    yield path, None


def read_checked(path):
    """One file through the filters -> (None, SHA-256, bytes), or (reason, None, None) where it is dropped."""
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_FILE + 1)
    except OSError:
        return "unreadable", None, None
    reason = "too_large" if len(raw) > MAX_FILE else filter_reason(raw)
    return (reason, None, None) if reason else (None, hashlib.sha256(raw).digest(), raw)


def check_files(paths):
    """Worker, first visit: [path] -> [(path, reason, digest)]."""
    return [(path, *read_checked(path)[:2]) for path in paths]


def tokenize_files(jobs):
    """Worker, second visit: [(path, digest, prefix)] -> [uint16 ids, or None where the file has changed since]."""
    documents = []
    for path, digest, prefix in jobs:
        _, now, raw = read_checked(path)
        documents.append(np.array(WORKER.encode(prefix + raw.decode("utf-8")), np.uint16) if now == digest else None)
    return documents


def start_worker(tokenizer):
    """Runs once in each worker: one whose parent was killed leaves too."""
    global WORKER
    WORKER = get_tokenizer(tokenizer)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def bounded_map(pool, function, items, window):
    """pool.map in order, with at most `window` items on the way: `items` may be endless, memory is not."""
    pending = collections.deque()
    for item in items:
        with unheard():             # this may start a worker
            pending.append(pool.submit(function, item))
        if len(pending) >= window:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def batched(files, size=2 ** 18):
    """(path, bytes) pairs -> lists of paths of about 256 KB together: work for some 0.04 s, little to keep in flight."""
    batch, total = [], 0
    for path, n_bytes in files:
        batch.append(path)
        total += n_bytes + 1024
        if total >= size:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def prepare_documents(folders, extensions, tokenizer, workers, language_prefix, counts, total, skip):
    """Steps 1 to 3: yields the uint16 ids of each file that stays. `counts` (a Counter) is filled on the way.

    Two visits to each file, the second mostly from the page cache: the first decides (filters, digest), the second
    tokenizes only what stays, so duplicates cost no tokenization and no text travels between processes. The set of
    digests (32 bytes each) is the one thing that grows with the corpus: 0.1 GB a million distinct files.
    """
    def eligible():
        for path, size in walk(folders, skip, lambda error: counts.update(["unreadable_folders"])):
            counts["files_seen"] += 1
            if os.path.splitext(path)[1].lower() not in extensions:
                counts["extension"] += 1
            elif size is None:
                counts["unreadable"] += 1
            elif size > MAX_FILE:
                counts["too_large"] += 1
            else:
                yield path, size

    def stay(pool):
        seen = set()
        for results in bounded_map(pool, check_files, batched(eligible()), 4 * workers):
            jobs = []
            for path, reason, digest in results:
                reason = reason or ("duplicate" if digest in seen else None)
                if reason:
                    counts[reason] += 1
                else:
                    seen.add(digest)
                    language = LANGUAGES[os.path.splitext(path)[1].lower()] + "\n" if language_prefix else ""
                    jobs.append((path, digest, language))
            bar.update(len(results))
            yield jobs

    context = multiprocessing.get_context("spawn")  # fork would copy whatever threads and locks the caller has
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, start_worker, (tokenizer,))
    with tqdm(total=total, unit=" files", desc="filter, tokenize") as bar:
        try:
            for documents in bounded_map(pool, tokenize_files, stay(pool), 4 * workers):
                for ids in documents:
                    if ids is None:
                        counts["unreadable"] += 1
                    else:
                        yield ids
        finally:
            pool.shutdown(cancel_futures=True)


# ---------------------------------------------------------------------------------------------------------------------
# Shuffle and pack (steps 4 and 5)

SHARD = 2 ** 27       # tokens a shard file: 256 MB
BUCKET = 2 ** 26      # bytes of text that share a bucket of the shuffle: what `pack` holds in memory, and no more
MARKER = "unfinished"  # tells a half-written folder of ours from any other folder of that name


@contextlib.contextmanager
def unfinished_folder(folder):
    """An empty folder for the time of writing: what a killed run left in it goes, a stranger's folder is refused."""
    marker = folder / MARKER
    if folder.exists() and not marker.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} exists and is not an unfinished run of ours: delete it, or choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    with open(marker, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel gives it back however the process ends
        except BlockingIOError:
            raise ValueError(f"another run is writing {folder}: wait for it, or choose another --out") from None
        for path in folder.iterdir():
            if path != marker:
                path.unlink()
        try:
            yield
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


class ShardWriter:
    """The token stream of one split, cut into shard files that each hold whole sequences and one token more."""

    def __init__(self, folder, split, block_size):
        self.folder, self.split, self.block_size = folder, split, block_size
        self.capacity = max(1, SHARD // block_size) * block_size + 1
        self.documents = self.tokens = self.sequences = 0
        self.shards, self.file, self.written, self.last = [], None, 0, None

    def add(self, ids):
        """Appends one document."""
        self.documents += 1
        self.tokens += len(ids)
        while len(ids):
            if self.file is None:
                self.file = open(self.folder / f"{self.split}{len(self.shards):05d}.bin", "wb")
                if self.last is not None:  # the last target of one shard is the first input of the next
                    self.file.write(self.last.tobytes())
                self.written = int(self.last is not None)
            part, ids = np.split(ids, [self.capacity - self.written])
            self.file.write(part.tobytes())
            self.written += len(part)
            self.last = part[-1:]
            if self.written == self.capacity:
                self.end_shard()

    def end_shard(self):
        """Closes the open file after its last whole sequence; a file without one goes."""
        sequences = (self.written - 1) // self.block_size
        self.file.truncate(2 * (sequences * self.block_size + 1))
        self.file.close()
        if sequences:
            self.shards.append({"file": Path(self.file.name).name, "sequences": sequences})
            self.sequences += sequences
        else:
            os.unlink(self.file.name)
        self.file = None

    def close(self):
        """After the last document."""
        if self.file is not None:
            self.end_shard()

    @property
    def unused(self):
        """Tokens after the last whole sequence."""
        return self.tokens - (self.sequences * self.block_size + 1 if self.sequences else 0)


def pack(documents, out, tokenizer, block_size, val_fraction, seed, n_buckets=1, about=None):
    """Shuffles documents, packs them into sequences of block_size, writes shards and meta.json; returns the meta.

    documents: iterator of id lists or arrays, each without the end of text, which is added after each one.
    Any corpus is shuffled in the memory of one bucket: each document goes to the end of a bucket file drawn at random,
    then each bucket is read whole and its documents are permuted, which together is one uniform shuffle of them all.
    The first val_fraction of the documents in that order are the validation split (one whole sequence at least), so no
    document is in both. A shard holds n * block_size + 1 tokens; sequence i is tokens i * block_size to
    (i + 1) * block_size, both included: its last target is the next one's first input. Nothing is padded; the tokens
    after the last whole sequence of a split are counted as unused. Written to OUT.tmp, renamed at the end.
    """
    out, temporary = Path(out), Path(f"{out}.tmp")
    if tokenizer.n_vocab > 65536:
        raise ValueError(f"tokenizer {tokenizer.name} has {tokenizer.n_vocab} ids, shards of uint16 hold 65536 at most")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists already: delete it, or choose another --out")
    with unfinished_folder(temporary):
        rng = np.random.default_rng(seed)
        n_documents = 0
        for ids in documents:
            with open(temporary / f"bucket{rng.integers(n_buckets)}", "ab") as file:
                file.write(np.append(ids, tokenizer.eot).astype(np.uint16).tobytes())
            n_documents += 1
        if not n_documents:
            raise ValueError("no document is left after the filters: look at --input and --extensions")

        n_val = max(1, round(val_fraction * n_documents)) if val_fraction else 0
        val, train = ShardWriter(temporary, "val", block_size), ShardWriter(temporary, "train", block_size)
        for bucket in tqdm(range(n_buckets), unit=" buckets", desc="shuffle, pack", disable=n_buckets == 1):
            path = temporary / f"bucket{bucket}"
            if not path.exists():
                continue
            ids = np.fromfile(path, np.uint16)
            path.unlink()
            pieces = np.split(ids, np.flatnonzero(ids == tokenizer.eot) + 1)[:-1]
            for i in rng.permutation(len(pieces)):
                to_val = n_val and (val.documents < n_val or val.tokens <= block_size)
                (val if to_val else train).add(pieces[i])
        splits = {"train": train, "val": val}
        for split, writer in splits.items():
            writer.close()
            if not writer.shards and (split == "train" or n_val):
                raise ValueError(f"{train.tokens + val.tokens} tokens in all do not fill one sequence of {block_size} "
                                 f"for {split}: use a smaller --block_size or more text")
        name = tokenizer.name
        if name.endswith(".tiktoken"):  # the folder keeps its own copy and can be moved
            shutil.copyfile(name, temporary / Path(name).name)
            name = Path(name).name
        meta = {"tokenizer": name, "vocab_size": tokenizer.n_vocab, "eot": tokenizer.eot, "block_size": block_size,
                "dtype": "uint16", "seed": seed, "val_fraction": val_fraction, **(about or {}),
                "documents": {split: writer.documents for split, writer in splits.items()},
                "tokens": {split: writer.tokens for split, writer in splits.items()},
                "sequences": {split: writer.sequences for split, writer in splits.items()},
                "unused_tokens": {split: writer.unused for split, writer in splits.items()},
                "shards": {split: writer.shards for split, writer in splits.items()}}
        (temporary / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
        os.replace(temporary, out)
        (out / MARKER).unlink()
    return meta


# ---------------------------------------------------------------------------------------------------------------------
# Batches

MINIATURE = {"n": 16000, "block_size": 256, "val_fraction": 0.02, "seed": 0}  # made on first use


@dataclasses.dataclass(frozen=True)
class Data:
    """A folder of packed sequences, opened. Shards are memory maps: only the rows of a batch are ever read."""
    folder: Path
    meta: dict
    tokenizer: str  # for get_tokenizer
    block_size: int
    shards: dict    # split -> list of uint16 arrays
    starts: dict    # split -> number of the first sequence of each shard, and the number of all at the end


def open_data(spec):
    """A folder made by `prepare`, or "miniature:mono", "miniature:multi", "miniature:nl" -> Data.

    FileNotFoundError where there is no such folder, ValueError where its meta.json and its shards do not agree.
    """
    folder = open_miniature(spec.split(":")[1]) if str(spec).startswith("miniature:") else Path(spec)
    if not (folder / "meta.json").is_file():
        raise FileNotFoundError(f"{folder} holds no prepared data: make it with python data.py prepare --out {folder}")
    try:
        meta = json.loads((folder / "meta.json").read_text())
        block_size, tokenizer = meta["block_size"], meta["tokenizer"]
        shards, starts = {}, {}
        for split, rows in meta["shards"].items():
            shards[split] = [np.memmap(folder / row["file"], np.uint16, "r") for row in rows]
            starts[split] = np.cumsum([0] + [row["sequences"] for row in rows])
            for row, shard in zip(rows, shards[split]):
                expected = row["sequences"] * block_size + 1
                if len(shard) != expected:
                    raise ValueError(f"{row['file']} has {len(shard)} tokens, not {expected}")
    except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:
        raise ValueError(f"the data in {folder} is damaged ({error}): prepare it again") from error
    tokenizer = str(folder / tokenizer) if tokenizer.endswith(".tiktoken") else tokenizer
    return Data(folder, meta, tokenizer, block_size, shards, starts)


def open_miniature(kind):
    """Makes the miniature corpus (seconds, once) in a folder under out/ that is named after all that it depends on."""
    from miniature import corpus
    if kind not in corpus.KINDS:
        raise ValueError(f"unknown corpus miniature:{kind}: use miniature:{', miniature:'.join(corpus.KINDS)}")
    vocab = PROJECT / "miniature" / "miniature.tiktoken"
    if not vocab.is_file():
        raise FileNotFoundError(f"{vocab} is missing: it belongs to the project")
    depends = Path(corpus.__file__).read_bytes() + vocab.read_bytes() + json.dumps(MINIATURE).encode()
    folder = PROJECT / "out" / f"miniature-{kind}-{hashlib.sha256(depends).hexdigest()[:12]}"
    folder.parent.mkdir(exist_ok=True)
    with open(folder.parent / ".miniature.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes may start at once: one makes it, the others wait
        if not (folder / "meta.json").is_file():
            tokenizer = get_tokenizer("miniature")
            texts = corpus.documents(kind, MINIATURE["seed"], MINIATURE["n"])
            texts = tqdm(texts, total=MINIATURE["n"], unit=" documents", desc=f"miniature:{kind}")
            pack((tokenizer.encode(text) for text in texts), folder, tokenizer, MINIATURE["block_size"],
                 MINIATURE["val_fraction"], MINIATURE["seed"], about={"miniature": kind})
    return folder


def permute(index, n, key):
    """index (array of ints below n) -> their places in a permutation of n drawn by key (a tuple of ints), each below n.

    A Feistel network over the next even number of bits; a place that falls outside n is sent through again until it
    falls inside. So an epoch's order takes no memory: BIGPYTHON's 35 million sequences would be a table of 0.3 GB.
    """
    half = np.uint64(max(1, (int(n - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = np.random.SeedSequence(key).generate_state(12, np.uint64).reshape(6, 2)
    place = np.array(index, np.uint64)
    todo = np.arange(len(place))
    while len(todo):
        left, right = place[todo] >> half, place[todo] & mask
        for add, multiply in keys:  # six rounds; a round is a multiply-and-shift hash of one half into the other
            mixed = (right + add) * (multiply | np.uint64(1))
            mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
            left, right = right, left ^ ((mixed >> np.uint64(32)) & mask)
        place[todo] = (left << half) | right
        todo = todo[place[todo] >= n]
    return place.astype(np.int64)


def get_batch(data, split, seed, step, batch_size, process_id=0, num_processes=1):
    """Batch number `step` -> int32 (batch_size // num_processes, block_size + 1), for x = b[:, :-1], y = b[:, 1:].

    A function of its arguments and nothing else: no loader state to save. The steps read the sequences of the split in
    an order drawn anew for each epoch, each once an epoch; a batch may run over the end of an epoch, or be longer than
    one. The processes' parts, one after the other, are the batch that a single process reads.
    """
    if batch_size % num_processes or not 0 <= process_id < num_processes:
        raise ValueError(f"batch_size {batch_size} does not divide over {num_processes} processes")
    n = int(data.starts[split][-1])
    if not n:
        raise ValueError(f"{data.folder} has no {split} sequences: prepare it with --val_fraction above 0")
    local = batch_size // num_processes
    epoch, place = np.divmod(step * batch_size + process_id * local + np.arange(local), n)
    row = np.empty(local, np.int64)
    for e in np.unique(epoch):
        row[epoch == e] = permute(place[epoch == e], n, (seed, int(e)))
    batch = np.empty((local, data.block_size + 1), np.int32)
    for i, (r, shard) in enumerate(zip(row, np.searchsorted(data.starts[split], row, "right") - 1)):
        start = (r - data.starts[split][shard]) * data.block_size
        batch[i] = data.shards[split][shard][start:start + data.block_size + 1]
    return batch


# ---------------------------------------------------------------------------------------------------------------------
# Commands

def settle_input(args):
    """Checks --input and --extensions -> the set of extensions, with the dot, in lower case."""
    for folder in args.input:
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"--input {folder}: no such folder")
    extensions = {"." + e.strip().lower().lstrip(".") for e in args.extensions.split(",") if e.strip(" .")}
    if not extensions:
        raise ValueError("--extensions is empty: give at least one, such as .py")
    return extensions


def prepare(args):
    """The five steps over the folders of --input; prints what came out."""
    extensions = settle_input(args)
    if not 0 <= args.val_fraction < 1:
        raise ValueError(f"--val_fraction {args.val_fraction}: must be at least 0 and below 1")
    if args.block_size < 1 or args.workers < 1 or args.seed < 0:
        raise ValueError("--block_size and --workers must be at least 1, --seed at least 0")
    if args.language_prefix and extensions - set(LANGUAGES):
        unknown = ", ".join(sorted(extensions - set(LANGUAGES)))
        raise ValueError(f"--language_prefix: no language known for {unknown}, only for {', '.join(LANGUAGES)}")
    tokenizer = get_tokenizer(args.tokenizer)
    skip = {os.path.realpath(args.out), os.path.realpath(args.out + ".tmp")}
    sizes = [0, 0]  # a first walk, without opening a file: for the progress bar and for the number of buckets
    for path, size in walk(args.input, skip):
        if os.path.splitext(path)[1].lower() in extensions and size is not None and size <= MAX_FILE:
            sizes[0] += 1
            sizes[1] += size
    if not sizes[0]:
        raise ValueError(f"no {' or '.join(sorted(extensions))} file in {' '.join(args.input)}")

    counts = collections.Counter()
    about = {"extensions": sorted(extensions), "language_prefix": args.language_prefix, "files_seen": 0, "kept": 0,
             "dropped": {}, "unreadable_folders": 0}

    def documents():
        workers = min(args.workers, 1 + sizes[1] // 2 ** 20)     # each starts in 0.3 s, and encodes 1 MB in less
        yield from prepare_documents(args.input, extensions, args.tokenizer, workers, args.language_prefix, counts,
                                     sizes[0], skip)
        about["dropped"] = {reason: counts[reason] for reason in REASONS}
        about["files_seen"], about["unreadable_folders"] = counts["files_seen"], counts["unreadable_folders"]
        about["kept"] = counts["files_seen"] - sum(about["dropped"].values())

    with contextlib.closing(documents()) as stream:
        meta = pack(stream, args.out, tokenizer, args.block_size, args.val_fraction, args.seed,
                    1 + sizes[1] // BUCKET, about)
    dropped = ", ".join(f"{reason} {n:,}" for reason, n in meta["dropped"].items() if n)
    print(f"{meta['files_seen']:,} files, {meta['kept']:,} kept; dropped: {dropped or 'none'}")
    for split in ("train", "val"):
        print(f"{split:5} {meta['documents'][split]:,} documents, {meta['tokens'][split]:,} tokens, "
              f"{meta['sequences'][split]:,} sequences of {args.block_size}")
    print(f"written to {args.out}. Next:  python train.py --data {args.out}")


def train_bpe_command(args):
    """Learns a BPE from the files of --input that pass the filters."""
    extensions = settle_input(args)
    if not args.out.endswith(".tiktoken"):
        raise ValueError(f"--out {args.out}: the name must end in .tiktoken")
    if os.path.exists(args.out):
        raise ValueError(f"{args.out} exists already: delete it, or choose another --out")

    def texts():
        for path, size in tqdm(walk(args.input), unit=" files", desc="read"):
            if os.path.splitext(path)[1].lower() in extensions and size is not None:
                reason, _, raw = read_checked(path)
                if not reason:
                    n_texts[0] += 1
                    yield raw.decode("utf-8")

    n_texts = [0]
    ranks = train_bpe(texts(), args.vocab_size)
    if not n_texts[0]:
        raise ValueError(f"no {' or '.join(sorted(extensions))} file in {' '.join(args.input)} passes the filters")
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    write_tiktoken(args.out, ranks)
    short = "" if len(ranks) + 1 == args.vocab_size else " (no pair is left that occurs twice)"
    print(f"{len(ranks)} tokens and the end of text{short}, from {n_texts[0]:,} files, written to {args.out}")


def main(argv=None):
    parser = argparse.ArgumentParser(prog="data.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="prepare | train-bpe")
    p = commands.add_parser("prepare", allow_abbrev=False, help="folders of source files to shards of packed sequences")
    b = commands.add_parser("train-bpe", allow_abbrev=False, help="learn a byte-level BPE, digits kept single")
    for command in (p, b):
        command.add_argument("--input", nargs="+", required=True, metavar="DIR", help="folders to read, and all below")
        command.add_argument("--extensions", default=".py", help="which files, separated by commas (default .py)")
        one_line_errors(command)
    one_line_errors(parser)
    p.add_argument("--out", required=True, metavar="DIR", help="folder to make")
    p.add_argument("--tokenizer", default="codegen", help="gpt2, codegen (default), bytes, miniature, a .tiktoken file")
    p.add_argument("--block_size", type=int, default=2048, help="tokens a sequence (default 2048)")
    p.add_argument("--val_fraction", type=float, default=0.01, help="documents kept for validation (default 0.01)")
    p.add_argument("--seed", type=int, default=0, help="of the shuffle (default 0)")
    p.add_argument("--workers", type=int, default=CORES, help="processes (default one a core)")
    p.add_argument("--language_prefix", action="store_true", help="put the language's name first (BIGQUERY)")
    b.add_argument("--vocab_size", type=int, required=True, help="number of ids, end of text included")
    b.add_argument("--out", required=True, metavar="FILE.tiktoken", help="file to write")
    args = parser.parse_args(argv)
    workers = args.workers if args.command == "prepare" else 1
    print(f"data.py: CPU, {workers} process{'es' if workers != 1 else ''}", flush=True)
    prepare(args) if args.command == "prepare" else train_bpe_command(args)


if __name__ == "__main__":
    cli(main)
