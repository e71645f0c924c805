"""A byte-level tokenizer: what text becomes ids and back by, whatever its vocabulary is.

CodeGen's and GPT-2's are made in data.py, plain bytes and those of .tiktoken files here.
"""
from harness.cli import PROJECT

import dataclasses
import hashlib
import json
import re
import sys
from pathlib import Path

from corpora.vocabulary import read_tiktoken

import tiktoken

END_OF_TEXT = b"<|endoftext|>"  # how the separator is shown; this text in a file is ordinary text

# How text is cut before the merges of any .tiktoken file, ours or another's. A letter is what is
# not \x00-@, [-` or {-\x7f: so A-Z, a-z and all beyond ASCII, because regex libraries (tiktoken's,
# the trainer's) differ in their tables of Unicode.
PATTERN = "|".join([
    r"[0-9]",                       # a digit alone
    # a line break alone: a prompt ends with one, and what follows is indented or not
    r"\r\n|[\r\n]",
    r" ?[^\x00-@\[-`{-\x7f]+",      # letters, with the space before them
    # punctuation and control characters, likewise
    r" ?[!-/:-@\[-`{-~\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+",
    r"[ \t]+",                      # an indentation, blanks inside a line
])

# A guard: tiktoken's time for one word grows up to with the square of its length, and a regex may
# backtrack over it. So `encode` cuts a text with an endless word or gap behind every 4000
# characters of it and encodes the parts one by one. The group makes re.split keep what it cuts at.
ENDLESS = re.compile(r"(\S{4000}|\s{4000})")

# A lone surrogate is no valid UTF-8, hence nothing that tiktoken encodes: it goes in as 3 bytes.
SURROGATE = re.compile("([\ud800-\udfff])")


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Byte-level tokenizer with decode(encode(s)) == s for every str s. Made by `get_tokenizer` of
    data.py."""
    name: str
    vocab: list = dataclasses.field(repr=False)  # the bytes of each id, end of text included
    eot: int                 # id that ends each document; encode() never returns it
    bpe: object = None       # tiktoken.Encoding, or None for plain bytes
    endless: object = ENDLESS       # re.Pattern: where the guard cuts
    runs: dict = dataclasses.field(default_factory=dict)    # text -> id of the runs of white space
    pattern: str = ""        # how the text is cut before the merges

    @property
    def identity(self):
        """A digest of vocabulary and cutting: tokenizers that share it give the same ids, whatever
        their names."""
        parts = [self.pattern, sorted(self.runs), self.eot, [token.hex() for token in self.vocab]]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def n_vocab(self):
        """Number of ids in use, end of text included (the model pads this: 51,200 for CodeGen)."""
        return len(self.vocab)

    def encode(self, text):
        """str -> list of ids. Nothing in the text is special: "<|endoftext|>" in a source file is
        13 characters. A lone surrogate, half a character of a damaged file, becomes 3 bytes."""
        if self.bpe is None:
            return list(text.encode("utf-8", "surrogatepass"))
        ids = []
        for i, part in enumerate(SURROGATE.split(text)):
            if i % 2:       # odd parts: a surrogate
                for byte in part.encode("utf-8", "surrogatepass"):
                    ids.append(self.bpe.encode_single_token(bytes([byte])))
            else:
                for piece in self.endless.split(part) if may_be_endless(part) else [part]:
                    ids += self.bpe.encode_ordinary(piece)
        return ids

    def decode_bytes(self, ids):
        """ids -> bytes, for streaming: a character may be spread over tokens. ValueError for an
        unknown id."""
        for i in ids:
            if not 0 <= i < len(self.vocab):
                raise ValueError(f"token id {i} is outside the tokenizer {self.name} "
                                 f"(0 to {len(self.vocab) - 1})")
        return b"".join(self.vocab[i] for i in ids)

    def decode(self, ids):
        """ids -> str. Bytes that are no text (a sampled half of a character) become U+FFFD."""
        raw = self.decode_bytes(ids)
        try:
            return raw.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return raw.decode("utf-8", "replace")


def same_tokenizer(tokenizer, digest, folder):
    """The tokenizer, after a look whether it is still the one whose ids the folder's data or model
    is made of.

    digest: the `identity` that the folder has kept; earlier versions kept none, which is said where
    the name leaves it open. ValueError where this tokenizer gives other ids."""
    if digest not in (None, tokenizer.identity):
        raise ValueError(f"{folder} was made with another version of tokenizer {tokenizer.name}, "
                         "whose ids mean other text: use the version of the project that wrote it, "
                         "or make it anew")
    if digest is None and tokenizer.pattern == PATTERN:
        print(f"# {folder} does not say which version of its tokenizer it was made with: if the "
              "text is nonsense, make it anew", file=sys.stderr)
    return tokenizer


def may_be_endless(text):
    """Whether a block of 2000 characters of the text does not hold two words: one does not wherever
    4000 characters are one word or one gap."""
    blocks = (text[first:first + 2000] for first in range(0, len(text) - 1999, 2000))
    return not all(len(block.split(None, 1)) == 2 for block in blocks)


def other_tokenizer(name):
    """"bytes", "miniature" or the path of a .tiktoken file -> Tokenizer. ValueError for another
    name and for a file that is damaged."""
    if name == "bytes":
        return Tokenizer(name, [bytes([i]) for i in range(256)] + [END_OF_TEXT], 256)
    path = PROJECT / "miniature" / "miniature.tiktoken" if name == "miniature" else Path(name)
    if path.suffix != ".tiktoken":
        raise ValueError(f"unknown tokenizer {name!r}: use gpt2, codegen, bytes, miniature or a "
                         ".tiktoken file")
    ranks = read_tiktoken(path)
    bpe = tiktoken.Encoding(name, pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    return Tokenizer(name, list(ranks) + [END_OF_TEXT], len(ranks), bpe, pattern=PATTERN)
