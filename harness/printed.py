"""Outside: what a program printed last, from the messages that prints.py sends; the strict rules.

Everything here comes from the program's process, so a message may be anything.
"""
from harness.messages import Opaque, Series, decode
from harness.outside import run_programs

import functools
import numbers
import secrets

import numpy as np

TOLERANCE = 1e-6    # by which floats may differ, by the official rules and the strict ones
GRACE = 2           # seconds after the time limit: there an alarm inside ends the program, and its
                    # last message is still to come


def run_all(items, judge, timeout, workers, unsafe):
    """Run (program, expected value) pairs in isolation -> [(verdict, run again)], and how they were
    isolated. judge(said, how, expected) -> a verdict, see mtpb.judge."""
    # It marks the messages of prints.py, so that what a program writes into the channel by accident
    # is refused. One for all programs, because who forges a message gains no more than by a print:
    # the expected value never goes in. (HumanEval has one a call, because an answer could be
    # written in advance.)
    secret = secrets.token_hex(8)

    def job(item):
        program, _ = item
        return {"secret": secret, "source": program, "timeout": timeout}

    def verdict(item, said, how):
        _, expected = item
        return judge(said, how, expected)

    return run_programs(items, runner="prints", job=job, talk=functools.partial(listen, secret),
                        judge=verdict, timeout=timeout, workers=workers, unsafe=unsafe, grace=GRACE)


def listen(secret, item, channel, said):
    """Keep the newest message in `said` until the last one came -> True: what is left is that the
    process ends, with code 0. ValueError for what is no message of prints.py."""
    while not said or not said[-1]["end"]:
        message = channel.receive()
        if message.get("secret") != secret or not is_message(message):
            raise ValueError("not one of our messages")
        said[:] = [message]
    if said[-1]["error"] == "timed out":
        raise TimeoutError
    return True


def is_message(message) -> bool:
    short = lambda text: isinstance(text, str) and len(text) < 100
    return {"printed", "error", "end"} <= message.keys() and short(message.get("lost")) and (
        message["error"] is None or short(message["error"]))


def decode_printed(described):
    """What prints.describe sent -> a value to judge. ValueError or the like for what is not its
    work."""
    value = decode(described["value"])
    if "casts" not in described:
        return value
    printed = Opaque({name: decode(tree) for name, tree in described["casts"].items()})
    printed.value = value       # its plain form, for the strict rules
    return printed


def plain(x):
    """A value in the words of JSON where nothing is lost: numpy's, Series and tuples are lists."""
    x = getattr(x, "value", x) if isinstance(x, Opaque) else x
    x = x.array if isinstance(x, Series) else x
    x = x.tolist() if isinstance(x, (np.ndarray, np.generic)) else x
    return [plain(item) for item in x] if isinstance(x, (list, tuple)) else x


def as_text(printed) -> str:
    """The beginning of a printed value, for the results: "" for an object that has no text."""
    try:
        return str(printed.array if isinstance(printed, Series) else printed)[:200]
    except Exception:
        return ""


def ending_of(error, how) -> str:
    """Why a program did not end well, "" if it did. how: what was seen from outside; error: what
    the program's process said of it, which names the reason better, or None: it was killed before.
    """
    if error == "timed out":
        return "timed out"
    if error == "MemoryError":
        return "out of memory"
    return f"failed: {error}" if error else how


# ---- the strict rules: ours, not the paper's -----------------------------------------------------

def check_strict(printed, expected) -> bool:
    """The strict comparison: dicts and None count, floats inside containers have the tolerance too,
    and a cast counts only where it loses nothing, as a number and its text.

        right    "12" for 12    12 for "12"    (1, 2) for [1, 2]    {1: 2} for {"1": 2}
        wrong    "12.0" for 12  12.7 for 12    {1, 2} for [1, 2]    True for 1
    """
    try:
        printed = plain(printed)
        number = lambda x: isinstance(x, (int, float)) and not isinstance(x, bool)
        if isinstance(printed, str) and number(expected):
            value = type(expected)(printed)
            return str(value) == printed and same(value, expected)
        if number(printed) and isinstance(expected, str):
            return str(printed) == expected
        return same(printed, expected)
    except Exception:
        return False


def same(a, b) -> bool:
    """Equal values, lists and dicts of them; floats to 1e-6; True is no number."""
    if isinstance(a, dict) and isinstance(b, dict):     # b is from JSON, whose keys are texts
        texts = {str(k): v for k, v in a.items()}
        return len(a) == len(b) and texts.keys() == b.keys() and all(
            same(plain(texts[k]), b[k]) for k in b)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, numbers.Real) and isinstance(b, numbers.Real):
        inexact = isinstance(a, float) or isinstance(b, float)
        return bool(a == b or inexact and abs(a - b) < TOLERANCE)
    return type(a) is type(b) and a == b
