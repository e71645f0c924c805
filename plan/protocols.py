"""How much there is to sample in the paper's two benchmarks, and the hours that it takes.

Neither the paper nor its code says how long the answers were, so each has all the tokens that it
may have: the hours are those of a model that never ends a text by itself.
"""
import math
from typing import NamedTuple


class Protocol(NamedTuple):
    """One benchmark as the paper ran it. What its file holds was counted with CodeGen's tokenizer;
    a test counts again."""
    problems: int
    samples: int        # of a problem
    passes: int         # over all of it: temperatures
    room: int           # tokens of cache that a row needs
    reads: int          # pieces of PIECE tokens in which the prompts of all problems are read
    makes: int          # tokens that the answers to all problems may have, together
    joins: bool         # whether short lists of samples share a batch (humaneval.py does that)
    assumes: str


PIECE = 256             # tokens of a prompt that a TPU reads at a time, sample.piece()


def humaneval(max_new_tokens: int) -> Protocol:
    """164 problems x 200 samples x 3 temperatures. The longest prompt has 428 tokens."""
    return Protocol(164, 200, 3, 428 + max_new_tokens, 178, 164 * max_new_tokens, True,
                    f"{max_new_tokens} tokens a sample (--max_new_tokens)")


def mtpb() -> Protocol:
    """115 problems x 5 cases x 40 samples. Its 514 turns may have 162 tokens each on average, and a
    conversation 723; with its prompts it ends in a cache of 1,024."""
    return Protocol(115, 5 * 40, 1, 1024, 515, 83_200, False,
                    "all max_gen_length tokens a turn (162 on average), a cache of 1,024")


def batches(protocol: Protocol, rows: int) -> float:
    """How many batches of `rows` texts each problem takes. The last one of a problem is filled up:
    64 rows make 200 samples in 4 batches."""
    if protocol.joins and rows > protocol.samples:
        return 1 / (rows // protocol.samples)
    return math.ceil(protocol.samples / rows)


def hours(protocol: Protocol, rows: int, token: float, piece: float) -> float:
    """token, piece: seconds that `rows` texts take together for one token, for a piece of prompt."""
    one = protocol.reads * piece + protocol.makes * token
    return protocol.passes * batches(protocol, rows) * one / 3600
