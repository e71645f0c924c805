"""Text to batches: tokenizers, the paper's five steps of data preparation (section 2.1), and batches as a function of the step.

    python data.py prepare --input DIR ... --out DIR            filter, deduplicate, tokenize, shuffle, pack
    python data.py train-bpe --input DIR --vocab_size N --out FILE.tiktoken

Only numpy and tiktoken are imported, never jax: the worker processes of `prepare` start in a blink.
"""
import argparse
import base64
import collections
import concurrent.futures
import dataclasses
import fcntl
import hashlib
import heapq
import json
import multiprocessing
import os
import re
import shutil
import signal
import stat
import sys
import threading
from pathlib import Path

import numpy as np
import tiktoken
from tqdm import tqdm

PROJECT = Path(__file__).resolve().parent


def cli(main):
    """Runs a script's main(). Bad input (ValueError, OSError) ends as one line on stderr and exit code 2, Ctrl-C as 130."""
    try:
        main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone (`... | head`); nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (ValueError, OSError) as error:
        print(f"{Path(sys.argv[0]).name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def one_line_errors(parser):
    """Makes an argparse parser report a bad flag in one line, without the usage text, still with exit code 2."""
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: error: {message} (--help lists the flags)\n")
    return parser


# ---------------------------------------------------------------------------------------------------------------------
# Tokenizers

GPT2_URL = "https://openaipublic.blob.core.windows.net/encodings/r50k_base.tiktoken"
END_OF_TEXT = b"<|endoftext|>"  # how the separator shows when it is decoded; this text in a file is ordinary text

# CodeGen adds 38 whitespace runs to GPT-2's 50,257 entries: 31 down to 2 spaces are ids 50257 to 50286, 9 down to 2 tabs
# are 50287 to 50294. tiktoken tries special tokens in no fixed order, so it would not always take the longest run:
# the text is split by WHITESPACE_RUN, whose greedy {2,31} does. 32 spaces are 31 and one that is left to the BPE.
RUNS = [b" " * n for n in range(31, 1, -1)] + [b"\t" * n for n in range(9, 1, -1)]
# A lone surrogate is no valid UTF-8, hence nothing that tiktoken can encode: it goes in as its three bytes.
SURROGATE = re.compile("([\ud800-\udfff])")
WHITESPACE_RUN = re.compile("( {2,31}|\t{2,9}|[\ud800-\udfff])")
# BPE takes time n log n or n^2 in the length of one word, and a regex with lookahead backtracks over it: cut the endless ones.
ENDLESS = re.compile(r"(\S{4000}|\s{4000})")

# How the text is cut before the merges of every .tiktoken file: a digit alone; a line break with the blank lines and the
# indentation that follow it (one token a Python line start); letters, then the rest, each with the space before. "Letter"
# is every character but the ASCII non-letters, so that Python's re (trainer) and Rust's regex (tiktoken) cut alike.
PATTERN = (r"[0-9]|[\r\n][ \t\r\n]*| ?[^\x00-@\[-`{-\x7f]+| ?[!-/:-@\[-`{-~\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+|[ \t]+")


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Byte-level tokenizer with decode(encode(s)) == s for every str s. Made by `get_tokenizer`."""
    name: str
    vocab: list              # the bytes of each id; the last but for CodeGen's runs is the end of text
    eot: int                 # id that ends each document; encode() never returns it
    bpe: object = None       # tiktoken.Encoding, or None for plain bytes
    split: object = SURROGATE
    fixed: dict = dataclasses.field(default_factory=dict)  # text -> id of the whitespace runs

    @property
    def n_vocab(self):
        """Number of ids in use, end of text included (the model pads this: 51,200 rows for CodeGen)."""
        return len(self.vocab)

    def encode(self, text):
        """str -> list of ids. Nothing in the text is special: "<|endoftext|>" in a source file is 13 characters."""
        if self.bpe is None:
            return list(text.encode("utf-8", "surrogatepass"))
        ids = []
        for i, part in enumerate(self.split.split(text)):  # odd places: what `split` caught
            if i % 2 and part in self.fixed:
                ids.append(self.fixed[part])
            elif i % 2:
                ids += [self.bpe.encode_single_token(bytes([b])) for b in part.encode("utf-8", "surrogatepass")]
            elif part:
                for piece in ENDLESS.split(part) if len(part) > 4000 else [part]:
                    ids += self.bpe.encode_ordinary(piece)
        return ids

    def decode_bytes(self, ids):
        """ids -> bytes, for callers that stream: a character may be spread over tokens. ValueError for an unknown id."""
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
        bpe = gpt2_encoding()
        vocab = [bpe.decode_single_token_bytes(i) for i in range(50257)]
        if name == "gpt2":
            return Tokenizer(name, vocab, 50256, bpe)
        fixed = {run.decode(): 50257 + i for i, run in enumerate(RUNS)}
        return Tokenizer(name, vocab + RUNS, 50256, bpe, WHITESPACE_RUN, fixed)
    path = PROJECT / "miniature" / "miniature.tiktoken" if name == "miniature" else Path(name)
    if path.suffix != ".tiktoken":
        raise ValueError(f"unknown tokenizer {name!r}: use gpt2, codegen, bytes, miniature or a .tiktoken file")
    ranks = read_tiktoken(path)
    bpe = tiktoken.Encoding(name, pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    return Tokenizer(name, list(ranks) + [END_OF_TEXT], len(ranks), bpe)


def gpt2_encoding():
    """GPT-2's BPE from tiktoken's cache, or downloaded into it once (0.8 MB)."""
    try:
        return tiktoken.get_encoding("r50k_base")
    except Exception as error:  # requests' own errors, a checksum that differs, a cache folder that cannot be written
        file = hashlib.sha1(GPT2_URL.encode()).hexdigest()
        raise ValueError(f"GPT-2's vocabulary cannot be loaded ({type(error).__name__}): download {GPT2_URL}, save it as "
                         f"DIR/{file} and set TIKTOKEN_CACHE_DIR=DIR") from error


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


def train_bpe(texts, vocab_size):
    """Byte-pair encoding learned from an iterable of str -> dict bytes -> rank, at most vocab_size - 1 entries.

    The id after the last rank is the end of text, so vocab_size is what the model sees. Fewer entries come back when the
    text has no pair left that occurs twice. Sennrich et al. 2016, on bytes, inside the pieces that PATTERN cuts.
    """
    if not 257 <= vocab_size <= 65536:
        raise ValueError(f"vocab_size {vocab_size}: must be 257 (256 bytes and the end of text) to 65536 (uint16 shards)")
    counts = collections.Counter()
    for text in texts:
        counts.update(re.findall(PATTERN, text))
    words = [list(word.encode("utf-8", "surrogatepass")) for word in counts]
    weights = list(counts.values())

    # Each merge touches only the words that hold its pair: `where` finds them, pair_count is kept up to date, and the heap
    # gets a new entry whenever a count changes. An entry that disagrees with pair_count is stale and skipped.
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
        for w in where.pop(pair):
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
