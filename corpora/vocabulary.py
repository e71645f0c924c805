"""Vocabularies: .tiktoken files, and GPT-2's own."""
from harness.files import replace_file

import base64
import hashlib
from pathlib import Path

from tiktoken_ext.openai_public import r50k_base

GPT2_URL = "https://openaipublic.blob.core.windows.net/encodings/r50k_base.tiktoken"


def gpt2_arguments():
    """What tiktoken.Encoding makes GPT-2's BPE of, from tiktoken's cache, or downloaded into it
    once (0.8 MB)."""
    try:
        return r50k_base()
    except Exception as error:  # requests' own, a checksum that differs, a cache without access
        file = hashlib.sha1(GPT2_URL.encode()).hexdigest()
        raise ValueError(f"GPT-2's vocabulary cannot be loaded ({type(error).__name__}): download "
                         f"{GPT2_URL}, save it as DIR/{file} and set TIKTOKEN_CACHE_DIR=DIR"
                         ) from error


def read_tiktoken(path):
    """A .tiktoken file (one token a line: base64, space, rank) -> dict bytes -> rank, by rank."""
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise ValueError(f"cannot read the tokenizer {path}: {error.strerror}") from error
    try:
        pairs = [line.split() for line in lines if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    except ValueError as error:
        raise ValueError(f"{path} is not a .tiktoken file (lines of base64, space, rank): "
                         f"{error}") from error
    counts_up = list(ranks.values()) == list(range(len(pairs)))
    if not counts_up or any(bytes([i]) not in ranks for i in range(256)):
        raise ValueError(f"{path} is damaged: ranks must count up from 0 and all 256 single bytes "
                         "must be there")
    return ranks


def write_tiktoken(path, ranks):
    """dict bytes -> rank -> .tiktoken file, written under another name and renamed."""
    rows = sorted(ranks.items(), key=lambda item: item[1])
    lines = [base64.b64encode(token) + b" %d\n" % rank for token, rank in rows]
    replace_file(path, b"".join(lines))
