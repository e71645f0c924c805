"""Inside: define a program, then run its tests beside it. Travels whole to the isolated process.

For tests that need more than plain values: exceptions by type, changes in place, callbacks,
classes, generators, names of the program. This is the weaker way, and reports say how many problems
were judged so: the program shares the process with its judge, and may hand objects to the tests that
equal everything. What is done against forgers:

* A pass is an answer that echoes a secret. It comes after the program has been defined, and is sent
  back only when the tests have returned: leaving the process early, by whatever door, is no pass.
* Program and tests run in threads that begin in C, not in a function of ours. So no frame that they
  can walk to knows the secret, and nothing that they can call says "passed".
* The thread that holds the secret calls nothing that the program could have changed.
* A program that leaves a thread or a process running before its tests gets no secret.
"""
import _thread
import builtins
import gc
import json
import os
import sys
import time
import types
from queue import SimpleQueue

STACK = 64 << 20            # bytes for a thread: as deep a recursion as in the main thread
WATCHERS = ((gc, "get_objects"), (gc, "get_referrers"), (gc, "get_referents"),
            (sys, "_current_frames"), (sys, "_setprofileallthreads"), (sys, "_settraceallthreads"))

# What the two threads run; `say` tells of a failure and knows no secret.
DEFINE = compile("""
try:
    exec(compile(source, "solution", "exec"), names)
except BaseException as error:
    say(error)
    raise
""", "define", "exec")
TEST = compile("""
try:
    exec(test, names)
    names["check"](names[entry_point])
except BaseException as error:
    say(error)
    raise
""", "test", "exec")


def frame(message) -> bytes:
    """A message as a Channel sends it."""
    data = json.dumps(message).encode()
    return len(data).to_bytes(4, "big") + data


def hide():
    """Take away what shows other threads' frames, or our objects."""
    for owner, name in WATCHERS:
        if hasattr(owner, name):
            delattr(owner, name)
    for name in [name for name in sys.modules if name.split(".")[0] == "harness"]:
        del sys.modules[name]


def prepare(job, say):
    """Two jobs for threads, and two waits: for the program's definition, and for the return of its
    tests."""
    # A module of its own, as in calls.py.
    module = sys.modules["solution"] = types.ModuleType("solution")
    module.__builtins__ = builtins

    # DEFINE and TEST have builtins of their own, because the program may change everybody's.
    own = lambda **names: names | {"names": module.__dict__, "say": say, "__builtins__": {
        "exec": exec, "compile": compile, "BaseException": BaseException}}
    jobs = [(DEFINE, own(source=job["source"])),
            (TEST, own(test=compile(job.get("test", ""), "tests", "exec"),
                       entry_point=job.get("entry_point")))]
    returned = [SimpleQueue(), SimpleQueue()]
    # exec returns None, which put takes; where exec raises, put is never called. All of this is C,
    # so the first Python frame of the thread is DEFINE or TEST.
    works = [(map(queue.put, map(exec, [code], [names])),)
             for queue, (code, names) in zip(returned, jobs)]
    return works, [queue.get for queue in returned]


def run(channel, job):
    """Define the program and say so, read the secret, run the tests, send the secret back.

    job: source, test, entry_point, secret "". What is sent back is {"secret": the secret}, or
    {"error": text}. Then this function waits to be ended, because its return would end the process
    while the other side still reads."""
    fd = channel.sock.fileno()
    channel.sock.settimeout(None)
    # References of our own: from here on nothing is looked up that the program may have changed.
    start, do, threads, sleep = _thread.start_new_thread, any, _thread._count, time.sleep
    children, no_child, no_wait = os.waitpid, ChildProcessError, os.WNOHANG
    read, write, text, kind, stack = os.read, os.write, str, type, _thread.stack_size
    defined = frame({"secret": job["secret"], "value": None})
    left = frame({"error": "it left a thread or a process running"})

    def say(error):
        why = kind(error).__name__
        try:
            why += ": " + text(error)[:200]
        except BaseException:       # its own __str__
            pass
        write(fd, frame({"error": why}))

    (define, test), (defined_now, returned) = prepare(job, say)
    hide()
    stack(STACK)
    start(do, define)
    stack(0)                        # the program's own threads are as everywhere
    defined_now()
    tries = 100                     # the thread itself takes a moment to end
    while threads() and tries:
        sleep(0.001)
        tries -= 1
    alone = False
    try:
        children(-1, no_wait)
    except no_child:
        alone = not threads()
    if not alone:
        write(fd, left)
        defined_now()
    write(fd, defined)
    secret = read(fd, 4096)
    stack(STACK)
    start(do, test)
    stack(0)
    returned()
    write(fd, secret)
    returned()
