"""Documents that hold a problem of HumanEval or MTPB, found by the text that they share with it.

White space and "#" do not count: a prompt is the same when it is indented, wrapped, or a comment.
A document holds a problem where 64 characters of both agree: GPT-3's rule (appendix C: 13 words in
a row), because a word of the benchmarks is 4.9 such characters long. A passage of 48 to 63, some
ten words, counts where all of it is there; a shorter one (`return x + y`) is anybody's.
"""
from harness.files import find_benchmark, read_lines

import functools
import os
import re

from corpora.text import read_pieces

import numpy as np

ENOUGH = 64         # characters in a row that a document and a passage share
LEAST = 48          # of a passage that is looked for at all

# Each document is cut into blocks of 24, and each block looked up among the blocks that begin
# anywhere in a passage: of 47 characters in a row at least one block is a part.
BLOCK = 24
ODD = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)
BITS = 22           # of a block's hash: 4 million of them, of which the passages' are marked


def bare(text):
    """str -> its bytes without white space and "#"."""
    return text.encode("utf-8", "surrogatepass").translate(None, b" \t\n\r\v\f#")


def passages():
    """The texts that no document may hold, from the official files: of HumanEval prompts, solutions
    and signatures with solutions; of MTPB prompts alone and one after the other, cut where a case
    puts its value."""
    texts = []
    for _, problem in read_lines(find_benchmark("HumanEval.jsonl.gz")):
        prompt, solution = problem["prompt"], problem["canonical_solution"]
        signature = re.findall(r"^def .*\n", prompt, re.MULTILINE)[-1]
        texts += [prompt, solution, signature + solution]
    for _, problem in read_lines(find_benchmark("mtpb.jsonl")):
        for text in [*problem["prompts"], "".join(problem["prompts"])]:
            texts += re.split(r"\{\w+\}", text)
    return sorted({text for text in map(bare, texts) if len(text) >= LEAST})


class Benchmarks:
    """The passages, ready to be looked for. They alone travel to a worker, which makes its own."""

    def __init__(self, passages):
        self.passages = passages
        self.blocks = {}        # block -> [(passage, offset)]
        for passage in passages:
            for offset in range(len(passage) - BLOCK + 1):
                block = passage[offset:offset + BLOCK]
                self.blocks.setdefault(block, []).append((passage, offset))
        self.marked = np.zeros(2 ** BITS, bool)
        self.marked[hashes(b"".join(self.blocks))] = True

    def __reduce__(self):
        return Benchmarks, (self.passages,)

    def held_in(self, file):
        """Whether a binary file holds one. One piece of it is in memory at a time."""
        file.seek(0)
        end = b""       # of the piece before, because a passage may go on from there
        for _, text in read_pieces(file):
            text = end + bare(text)
            if self.held(text):
                return True
            end = text[-ENOUGH:]
        return False

    def held(self, text):
        """The same of a bare text."""
        for i in np.flatnonzero(self.marked[hashes(text)]) * BLOCK:
            for passage, offset in self.blocks.get(text[i:i + BLOCK], ()):
                if shared(text, i, passage, offset) >= min(len(passage), ENOUGH):
                    return True
        return False


def hashes(text):
    """bytes -> the hash of each whole block, below 2 ** BITS."""
    words = np.frombuffer(text, np.uint64, len(text) // BLOCK * 3).reshape(-1, 3)
    mixed = words * ODD
    return (mixed[:, 0] ^ mixed[:, 1] ^ mixed[:, 2]) >> np.uint64(64 - BITS)


def shared(text, i, passage, offset):
    """How many characters agree in a row around text[i] and passage[offset], ENOUGH each way."""
    after = os.path.commonprefix([text[i:i + ENOUGH], passage[offset:offset + ENOUGH]])
    before = os.path.commonprefix([text[max(0, i - ENOUGH):i][::-1],
                                   passage[max(0, offset - ENOUGH):offset][::-1]])
    return len(before) + len(after)


# ---- as a filter ---------------------------------------------------------------------------------

def excluding_benchmarks(inspect):
    """`inspect`, and what passes it must not hold a benchmark's problem."""
    return functools.partial(inspect_both, inspect, Benchmarks(passages()))


def inspect_both(inspect, benchmarks, file):
    """What `inspect` says of a binary file; "benchmark" for one that passes it and holds one."""
    verdict = inspect(file)
    if verdict[0] is None and benchmarks.held_in(file):
        return "benchmark", None, []
    return verdict
