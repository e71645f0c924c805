"""A folder of packed sequences: its shard files, its meta.json, its validation split.

    train00000.bin, train00001.bin, ..., val00000.bin     uint16 tokens, n * block_size + 1 a file
    meta.json                                             tokenizer, counts, a row for each shard

Sequence i of a shard is its tokens i * block_size to (i + 1) * block_size, both included: its last
target is the next one's first input.
"""
from harness.files import read_json, replace_file

import dataclasses
import hashlib
import json
import os
import shutil
import zlib
from pathlib import Path

from corpora.text import PIECE

import numpy as np

SHARD = 2 ** 27       # tokens a shard file: 256 MB

SHARDS = [{"file": str, "sequences": (1, 2 ** 40)}]
META = {
    "tokenizer": str,
    "tokenizer_digest?": str,
    "vocab_size": (1, 65536),
    "eot": (0, 65535),
    "dtype?": {"uint16"},
    "block_size": (1, 2 ** 31 - 1),
    "sequences": {"train": (1, 2 ** 60), "val": (0, 2 ** 60)},
    "shards": {"train": SHARDS, "val": SHARDS},
}


# ---- writing -------------------------------------------------------------------------------------

class ShardWriter:
    """The token stream of one split, cut into shard files that each hold whole sequences and one
    token more."""

    def __init__(self, folder, split, block_size):
        self.folder, self.split, self.block_size = folder, split, block_size
        self.capacity = max(1, SHARD // block_size) * block_size + 1
        self.documents = self.tokens = self.sequences = 0
        self.shards = []        # rows of meta.json
        self.file = None        # the open shard, of which `written` tokens are there
        self.written = 0
        self.last = None        # the stream's last token, an array of one

    def add(self, ids):
        """Appends one document."""
        self.documents += 1
        self.tokens += len(ids)
        while len(ids):
            if self.file is None:
                self.begin_shard()
            part, ids = np.split(ids, [self.capacity - self.written])
            self.file.write(part.tobytes())
            self.written += len(part)
            self.last = part[-1:]
            if self.written == self.capacity:
                self.end_shard()

    def begin_shard(self):
        """Opens the next file. The last target of one shard is the first input of the next."""
        self.file = open(self.folder / f"{self.split}{len(self.shards):05d}.bin", "wb")
        if self.last is not None:
            self.file.write(self.last.tobytes())
        self.written = int(self.last is not None)

    def end_shard(self):
        """Closes the open file after its last whole sequence; a file without one goes."""
        sequences = (self.written - 1) // self.block_size
        self.file.truncate(2 * (sequences * self.block_size + 1))
        self.file.close()
        if sequences:
            name = Path(self.file.name).name
            crc32 = checksum(self.file.name)
            self.shards.append({"file": name, "sequences": sequences, "crc32": crc32})
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


def own_tokenizer(folder, name):
    """The tokenizer's name for meta.json. Of a .tiktoken file the folder keeps a copy, because it
    may be moved."""
    if not name.endswith(".tiktoken"):
        return name
    shutil.copyfile(name, folder / Path(name).name)
    return Path(name).name


def checksum(path):
    """The CRC-32 of a file, read in blocks."""
    crc32 = 0
    with open(path, "rb") as file:
        while block := file.read(2 ** 20):
            crc32 = zlib.crc32(block, crc32)
    return crc32


def check_fits(tokenizer):
    """ValueError where its ids do not fit the shards' uint16."""
    if tokenizer.n_vocab > 65536:
        raise ValueError(f"tokenizer {tokenizer.name} has {tokenizer.n_vocab} ids, shards of "
                         "uint16 hold 65536 at most")


def write_meta(folder, tokenizer, writers, n_documents, **more):
    """Writes meta.json, with `more` entries -> what it says. writers: {split: ShardWriter}."""
    meta = {"tokenizer": own_tokenizer(folder, tokenizer.name),
            "tokenizer_digest": tokenizer.identity, "vocab_size": tokenizer.n_vocab,
            "eot": tokenizer.eot, "block_size": writers["train"].block_size, "dtype": "uint16",
            **more, **totals(writers, n_documents)}
    replace_file(folder / "meta.json", (json.dumps(meta, indent=1) + "\n").encode())
    return meta


def totals(writers, n_documents):
    """{split: ShardWriter} -> what meta.json says of their documents, tokens and shards."""
    of_splits = lambda value: {split: value(writer) for split, writer in writers.items()}
    parts = sum(writer.documents for writer in writers.values())
    return {
        "documents": of_splits(lambda w: w.documents),
        "cut_documents": parts - n_documents,
        "tokens": of_splits(lambda w: w.tokens),
        "sequences": of_splits(lambda w: w.sequences),
        "unused_tokens": of_splits(lambda w: w.unused),
        "shards": of_splits(lambda w: w.shards),
    }


def print_totals(meta):
    """The part of meta.json that a user wants to see."""
    if large := meta["large_files"]:
        print(f"larger than {PIECE:,} characters: {large:,} of them, read as "
              f"{meta['documents_of_large_files']:,} documents")
    for split in ("train", "val"):
        documents, tokens, sequences = (
            meta[what][split] for what in ("documents", "tokens", "sequences"))
        print(f"{split:5} {documents:,} documents, {tokens:,} tokens, {sequences:,} sequences of "
              f"{meta['block_size']}")
    if meta["cut_documents"]:
        print("one document is cut: its first part is validation text, the rest is training text")


# ---- what is kept for validation -----------------------------------------------------------------

def divided(documents, val_fraction, n_documents, n_tokens, block_size):
    """Yields ("val", document) for the first val_fraction of the documents, at least a sequence of
    block_size, then ("train", document); n_tokens: of all documents.

    ValueError where there is no document, or too few tokens for a sequence of each split.
    Training text is served first: validation takes whole documents as long as it gets at most twice
    its share of the tokens, and leaves training at least half of its own, and a sequence. A
    document that would go beyond is cut where the share is reached: so one alone trains, too.
    """
    if not n_documents:
        raise ValueError("no document is left after the filters: look at --input and --extensions")
    least = block_size + 1
    if n_tokens < (2 * least if val_fraction else least):
        also = " and one for validation" if val_fraction else ""
        instead = "--val_fraction 0, " if n_tokens >= least else ""
        raise ValueError(f"{n_tokens} tokens in all do not fill one sequence of {block_size} for "
                         f"training{also}: use {instead}a smaller --block_size or more text")
    wanted = max(1, round(val_fraction * n_documents))
    share = min(max(least, round(val_fraction * n_tokens)), n_tokens - least)
    most = min(2 * share, (share + n_tokens) // 2, n_tokens - least)
    taken, tokens, open_ = 0, 0, val_fraction > 0
    for document in documents:
        open_ = open_ and (taken < wanted or tokens < least)
        if open_ and tokens + len(document) > most:
            cut = max(0, share - tokens)
            if cut:
                yield "val", document[:cut]
            document, open_ = document[cut:], False
        yield "val" if open_ else "train", document
        taken, tokens = taken + 1, tokens + len(document)


# ---- opening -------------------------------------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class Data:
    """A folder of packed sequences, opened. Shards are memory maps: only the rows of a batch are
    ever read."""
    folder: Path
    meta: dict
    tokenizer: str  # for get_tokenizer
    block_size: int
    shards: dict    # split -> list of uint16 arrays
    starts: dict    # split -> number of each shard's first sequence, and of all at the end

    def sequences(self, split):
        """How many sequences the split has. ValueError where it has none."""
        if not self.starts[split][-1]:
            raise ValueError(f"{self.folder} has no {split} sequences: prepare it with "
                             "--val_fraction above 0")
        return int(self.starts[split][-1])

    def read(self, split, rows):
        """Those sequences of the split, rows an array of n numbers -> int32 (n, block_size + 1).
        ValueError for a token id outside the vocabulary: such data is damaged."""
        starts = self.starts[split]
        # Where the shards start at sequences 0 and 1000 and end at 2000, row 1500 lies in shard 1.
        shard_of = np.searchsorted(starts, rows, "right") - 1
        batch = np.empty((len(rows), self.block_size + 1), np.int32)
        for i, (row, shard) in enumerate(zip(rows, shard_of)):
            token = (row - starts[shard]) * self.block_size      # the sequence's first in its shard
            batch[i] = self.shards[split][shard][token:token + self.block_size + 1]
        if batch.max() >= self.meta["vocab_size"]:
            raise ValueError(f"the data in {self.folder} is damaged ({split} holds the token id "
                             f"{batch.max()} of {self.meta['vocab_size']}): prepare it again")
        return batch

    @property
    def digest(self):
        """A digest of what meta.json says, the shards' checksums with it: what the data is,
        wherever it lies."""
        return hashlib.sha256(json.dumps(self.meta, sort_keys=True).encode()).hexdigest()


def open_folder(folder):
    """A folder made by `prepare` -> Data. FileNotFoundError where there is none, ValueError where
    its meta.json is damaged or does not agree with its shards."""
    folder = Path(folder)
    if not (folder / "meta.json").is_file():
        raise FileNotFoundError(f"{folder} holds no prepared data: make it with "
                                f"python data.py prepare --out {folder}")
    try:
        meta = read_json(folder / "meta.json", META)
        block_size, tokenizer = meta["block_size"], meta["tokenizer"]
        shards, starts = {}, {}
        for split in ("train", "val"):
            rows = meta["shards"][split]
            shards[split] = [open_shard(folder, row, block_size) for row in rows]
            starts[split] = np.cumsum([0] + [row["sequences"] for row in rows])
            if starts[split][-1] != meta["sequences"][split]:
                raise ValueError(f"the {split} shards do not hold all of its sequences")
        if tokenizer.endswith(".tiktoken"):
            tokenizer = str(file_inside(folder, tokenizer))
        if meta["eot"] >= meta["vocab_size"]:
            raise ValueError("eot is outside the vocabulary")
    except (ValueError, OSError) as error:
        raise ValueError(f"the data in {folder} is damaged ({error}): prepare it again") from error
    return Data(folder, meta, tokenizer, block_size, shards, starts)


def open_shard(folder, row, block_size):
    """A row of meta.json -> the uint16 tokens of its file, a memory map."""
    shard = np.memmap(file_inside(folder, row["file"]), np.uint16, "r")
    expected = row["sequences"] * block_size + 1
    if len(shard) != expected:
        raise ValueError(f"{row['file']} has {len(shard)} tokens, not {expected}")
    return shard


def file_inside(folder, name):
    """A file in the folder itself; ValueError for a name that leads out of it, or to no file."""
    if os.path.basename(name) != name or not (folder / name).is_file():
        raise ValueError(f"{name[:100]!r} is no file in the folder")
    return folder / name
