"""Learning a byte-pair encoding, by the `tokenizers` library (pip install tokenizers)."""
from harness.cli import signals_end_at_once
from harness.files import check_folder

import os
import re
from pathlib import Path

from corpora.files import TextFiles
from corpora.text import read_piece
from corpora.tokenizer import PATTERN
from corpora.visits import inspect_document
from corpora.vocabulary import write_tiktoken

from tqdm import tqdm

BLOCK = 2 ** 16     # characters: the library holds 256 texts at once, so that long ones are cut


def learn_bpe(texts, vocab_size):
    """Byte-pair encoding learned from an iterable of str -> dict bytes -> rank, at most
    vocab_size - 1 entries: the 256 bytes in their order, then what was merged, in its order.

    The id after the last rank is the end of text, so vocab_size is what the model sees. Fewer
    entries come back when the text has no pair left that occurs twice. Sennrich et al. 2016, on
    bytes, inside the pieces that PATTERN cuts; the most frequent pair first, of several the one
    with the lowest ids. ValueError where the library is missing.
    """
    if not 257 <= vocab_size <= 65536:
        raise ValueError(f"vocab_size {vocab_size}: must be 257 (256 bytes, end of text) to 65536 "
                         "(uint16 shards)")
    try:
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    except ImportError:
        raise ValueError("learning a BPE needs the tokenizers library: pip install tokenizers"
                         ) from None
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1, min_frequency=2, show_progress=False,
        initial_alphabet=[chr(byte) for byte in range(256)])
    bpe.train_from_iterator((as_bytes(block) for text in texts for block in blocks(text)), trainer)
    ranks = {token.encode("latin-1"): rank for token, rank in bpe.get_vocab().items()}
    return dict(sorted(ranks.items(), key=lambda item: item[1]))


def as_bytes(text):
    """A text whose characters are the bytes of the UTF-8 of the given one, because the library sees
    characters. PATTERN cuts both alike, because it takes all beyond ASCII for letters."""
    return text.encode("utf-8", "surrogatepass").decode("latin-1")


def blocks(text):
    """Yields the text in parts of BLOCK characters or a little more. Each begins with a line break
    after a word, where PATTERN cuts, too."""
    begin = 0
    for end in re.finditer(r"(?<=[^ \t\r\n])[\r\n]", text):
        if end.start() - begin >= BLOCK:
            yield text[begin:end.start()]
            begin = end.start()
    yield text[begin:]


# ---- the command ---------------------------------------------------------------------------------

def write_bpe(args, inspect):
    """Learns a BPE from the files of args.input that pass the filters (`inspect`), writes it to
    args.out."""
    files = TextFiles.of(args)
    if not args.out.endswith(".tiktoken"):
        raise ValueError(f"--out {args.out}: the name must end in .tiktoken")
    if os.path.lexists(args.out):
        raise ValueError(f"{args.out} exists already: delete it, or choose another --out")
    check_folder(Path(args.out).parent)
    with signals_end_at_once():     # because the library hears no Ctrl-C; nothing is written yet
        ranks = learn_bpe(texts_of(files, inspect), args.vocab_size)
    if not files.kept:
        raise ValueError(f"no {files.wanted} passes the filters ({files.words()})")
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    write_tiktoken(args.out, ranks)
    print(f"{files.seen:,} documents, {files.words()}")
    short = "" if len(ranks) + 1 == args.vocab_size else " (no pair is left that occurs twice)"
    print(f"{len(ranks)} tokens and the end of text{short}, from {files.kept:,} documents, "
          f"written to {args.out}")


def texts_of(files, inspect):
    """Yields the text of the documents that pass the filters, piece by piece."""
    n_bytes, _ = files.measured()
    with tqdm(total=n_bytes, unit="B", unit_scale=True, desc="read") as bar:
        for document in files.documents(bar):
            reason, _, pieces = inspect_document(inspect, document)
            if reason:
                files.count[reason] += 1
            for piece in pieces:
                yield read_piece(document, *piece) or ""
