"""Inside: run a program and say what it printed last (MTPB). Travels whole to the isolated process.

The program can reach these functions there, and gains nothing: the expected value is never there, so a forged message says
no more than a print.
"""
from harness.messages import MESSAGE, encode

import contextlib
import itertools
import json
import signal
import sys
import time


def print_last(source: str) -> str:
    """The official rewrite: unless the last top-level statement calls a name that begins with print, its value is
    wrapped in a print. `x = v` becomes `x = print(v)`. Where that fails the program stays as it is."""
    import ast
    try:
        tree = ast.parse(source)
        last = tree.body[-1]
        called = getattr(getattr(last, "value", None), "func", None)
        if isinstance(called, ast.Name) and called.id.startswith("print"):
            return source
        last.value = ast.Call(func=ast.Name(id="print", ctx=ast.Load()), args=[last.value], keywords=[])
        return ast.unparse(ast.fix_missing_locations(tree))
    except Exception:       # for, if, def have no value; deep trees and what does not parse at all
        return source


def describe(x, casts=()):
    """What the judge needs to know of a printed value: its plain form, and for what is not plain what the casts named
    make of it. A cast runs the object's own code and list may use up an iterator, so that comes at the very end."""
    try:
        said = {"value": encode(x, look=False)}
    except Exception:       # too large, too deep
        said = {"value": ["object", {}]}
    np = sys.modules.get("numpy")
    exact = x is None or type(x) in (bool, int, float, str, list, tuple)
    exact = exact or np is not None and (type(x) is np.ndarray or isinstance(x, np.generic))
    odd = type(x) is list and x and isinstance(x[0], tuple) and type(x[0]) is not tuple     # not "relaxed", unlike tuples
    tree = said["value"] if isinstance(said["value"], list) else [None]
    if exact and not odd and tree[0] != "object" or tree[0] == "series":
        return said
    said["casts"] = {}
    for cast in casts:
        try:
            made = cast(itertools.islice(iter(x), 10_001) if cast is list else x)
            if cast is not list or len(made) <= 10_000:
                said["casts"][cast.__name__] = encode(made, look=False)
        except BaseException:       # SystemExit too: this is the program's code
            pass
    return said


def run(channel, job):
    """Run a program and send what it printed last, as it happens and again at the end: {"printed": described value or
    null, "error": null while it runs, "" or what ended it}. The last message counts.

    As in the official scorer the program has a global print that notes its arguments before it prints, a list that
    is changed after its print is judged as it is at the end, and the time limit is an exception in the program."""
    import builtins
    import io
    import threading
    turn = threading.Lock()             # threads may print
    last, count, sent, late = None, 0, 0.0, False

    class Sink(io.StringIO):            # takes any character, keeps none
        def write(self, text):
            return len(text)

    def tell(error, casts=(str,), end=False):
        message = {"secret": job["secret"], "printed": describe(last[0], casts) if last else None, "error": error, "end": end}
        if len(json.dumps(message)) > MESSAGE:
            message["printed"] = {"value": ["object", {}]}      # too large to judge, but the next print may not be
        with turn:
            channel.send(message)

    def noting_print(*args, **kwargs):
        nonlocal last, count, sent
        last, count = args, count + 1
        # A program that dies or hangs has said this much. A loop of a million prints is sampled in time.
        if count <= 100 or time.monotonic() > sent + 0.1:
            with contextlib.suppress(ValueError):
                tell(None)
            sent = time.monotonic()
        return builtins.print(*args, **kwargs)

    def alarm(*_):
        nonlocal late
        late = True
        raise TimeoutError("timed out")

    noting_print.__name__ = noting_print.__qualname__ = "print"
    signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, job.get("timeout", 0))
    error = ""
    try:
        with contextlib.redirect_stdout(Sink()):
            exec(print_last(job["source"]), {"__name__": "__main__", "builtins": builtins, "print": noting_print})
    except SystemExit as stop:
        error = "" if stop.code in (None, 0) else "SystemExit"
    except BaseException as caught:     # its text is the program's code: the type alone is safe to ask for
        error = type(caught).__name__
    signal.setitimer(signal.ITIMER_REAL, 0)
    error = "timed out" if late else error
    tell(error)
    tell(error, (str, int, float))
    tell(error, (str, int, float, list), end=True)      # may hang on an endless iterator: then the one before counts
