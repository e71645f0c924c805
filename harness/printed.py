"""Outside: what a program printed last, from the messages that prints.py sends.

Everything here comes from the program's process, so a message may be anything.
"""
from harness.messages import Opaque, Series, decode

import numpy as np


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
    return {"printed", "end"} <= message.keys() and short(message.get("lost")) and (
        message.get("error") is None or short(message["error"]))


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
