"""Outside: sandboxes, and what runs many programs in them, one process a program.

What a model wrote is hostile until it is isolated. It runs in a process of its own, without network, files, environment or
descriptors, and only answers messages. Whether it passes is decided out here.
"""
from harness.cli import CORES
from harness.inside import remove
from harness.messages import Channel

import functools
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

WARM = ("bisect", "collections", "copy", "functools", "heapq", "itertools", "math", "re", "string", "typing")
PATIENCE = 60                       # seconds that a sandbox may take to start or to clear up


def readable_paths():
    """What a program may read: the system, this Python and its packages, four devices."""
    system = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/nix/store", "/etc/ld.so.cache", "/etc/alternatives",
              "/etc/localtime", "/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"]
    packages = [p for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
    return [p for p in system + [sys.base_prefix, sys.prefix] + packages if os.path.exists(p)]


def bwrap_command():
    """The command line that isolates by bubblewrap."""
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1", "--dev", "/dev", "--tmpfs", "/tmp"]
    for path in readable_paths():
        if os.path.islink(path):
            command += ["--symlink", os.readlink(path), path]
        elif not path.startswith("/dev/"):
            command += ["--ro-bind", path, path]
    return command


# The project is not visible where programs run, so its files travel as text and become modules there.
BOOTSTRAP = """
import types
sys.modules["harness"] = types.ModuleType("harness")
for name, source in files.items():
    module = sys.modules[f"harness.{name}"] = types.ModuleType(f"harness.{name}")
    exec(compile(source, name, "exec"), module.__dict__)
zygote, run = sys.modules["harness.inside"].zygote, module.run
"""


class Worker:
    """A zygote and the socket to it; runs one program at a time. OSError where this kind of isolation is not possible.

    runner: the file of harness/ whose run(channel, job) runs a program. warm: modules that the isolated process imports once,
    for all programs."""

    def __init__(self, isolation, runner="calls", warm=WARM):
        self.isolation = isolation
        here = Path(__file__).parent
        self.files = {name: (here / f"{name}.py").read_text(encoding="utf-8") for name in ("messages", "inside", runner)}
        self.imports = f"import {', '.join(warm)}"
        self.stopped = False
        self.root = tempfile.mkdtemp(prefix="codegen-") if isolation != "bwrap" else None
        try:
            self.start()
        except OSError:
            self.stop()
            raise

    def start(self):
        ours, theirs = socket.socketpair()
        path = [p for p in sys.path if "packages" in p or p.startswith(sys.base_prefix)]
        zygote = f"zygote({theirs.fileno()}, {self.isolation!r}, {self.root!r}, {readable_paths()}, run)"
        code = "\n".join([f"import sys; sys.path[:] = {path}", self.imports, f"files = {self.files}", BOOTSTRAP, zygote])
        # An environment without secrets, and a fixed hash seed: the order of a set must not change from run to run.
        env = {"PATH": os.defpath, "LANG": "C.UTF-8", "LOGNAME": "nobody", "PYTHONHASHSEED": "0",
               "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            (bwrap_command() if self.isolation == "bwrap" else []) + [sys.executable, "-s", "-P", "-c", code], env=env, cwd="/",
            pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        theirs.close()
        self.control = Channel(ours)
        try:
            reply = self.ask()
        except (EOFError, TimeoutError):
            reply = {"error": "the sandbox did not start"}
        if "error" in reply:
            self.end()
            raise OSError(reply["error"])

    def ask(self, request=None):
        self.control.deadline = time.monotonic() + PATIENCE
        if request:
            self.control.send(request)
        return self.control.receive()

    def end(self):
        """The zygote sees that the socket is closed and ends, and with it all that is in its namespaces."""
        self.control.sock.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:       # a program stopped it
            self.process.kill()
            self.process.wait()

    def stop(self):
        self.stopped = True                     # a thread that still runs a program need not make a new sandbox
        self.end()
        if self.root:
            remove(self.root)

    def run(self, job, talk, seconds):
        """Start a program and let talk(channel, said) speak with it, noting in `said` -> (said, how, cpu seconds).

        how: "" when talk came to its end, else "timed out", "crashed: signal ...", "failed: ..."."""
        said, how = [], ""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            socket.send_fds(self.control.sock, [b"p"], [theirs.fileno()])
            self.control.send({"seconds": seconds})
            theirs.close()
            channel = Channel(ours, time.monotonic() + seconds)
            try:
                channel.send(job)
                talk(channel, said)
            except TimeoutError:
                how = "timed out"
            except EOFError:
                how = "gone"
            except Exception:                   # no JSON, unknown tags, another secret
                how = "failed: what it sent is no answer"
        try:
            reply = self.ask({"patience": 1.0 if how == "gone" else 0.0})
        except (OSError, EOFError, ValueError):
            how, reply = SANDBOX_GONE, {"fit": False, "cpu": 0.0}
        if how == "gone":
            how = describe_exit(reply["code"])
        if not reply["fit"] and not self.stopped:
            self.end()
            for patience in (1, 5, 25, 0):      # a machine that is out of processes or memory for a moment
                try:
                    self.start()
                    break
                except OSError:
                    if not patience:
                        raise
                    time.sleep(patience)
        return said, how, reply["cpu"]


SANDBOX_GONE = "crashed: it took its sandbox down"


def describe_exit(code):
    """Why a program that was to answer is gone. code: as zygote tells it."""
    if code is None or code >= 0:
        return "failed: closed its channel" if code is None else f"failed: exited with code {code}"
    if code == -signal.SIGXCPU:
        return "timed out"
    return f"crashed: signal {signal.Signals(-code).name if -code in set(signal.Signals) else -code}"


def first_worker(unsafe=False, runner="calls", warm=WARM):
    """A worker isolated by namespaces, else by bwrap, else with unsafe not at all; it has run an empty program. ValueError
    with what to do where nothing works."""
    why = []
    for isolation in ("namespaces", "bwrap") if sys.platform == "linux" else ():
        try:
            if isolation == "bwrap" and not shutil.which("bwrap"):
                raise OSError("not installed")
            worker = Worker(isolation, runner, warm)
            said, how, _ = worker.run({"secret": "", "source": ""}, lambda channel, said: said.append(channel.receive()), 30)
            if how or said[0].get("error"):
                worker.stop()
                raise OSError(how or said[0]["error"])
            return worker
        except OSError as error:
            why.append(f"{isolation}: {error}")
    if unsafe:
        print("warning: programs run with your rights, not isolated: limits and clean-up only", file=sys.stderr)
        return Worker("none", runner, warm)
    raise ValueError(f"programs cannot be isolated here ({'; '.join(why) or sys.platform}): install bubblewrap (bwrap), or "
                     "score in a container with --unsafe (README), or give --unsafe and run them with your own rights")


def run_programs(items, runner, job, talk, judge, timeout, workers=CORES, unsafe=False, grace=0.0):
    """Run the program of each item in isolation -> [(verdict, run again)] in order, and how they were isolated.

    runner: see Worker; job(item): what the process gets; talk(item, channel, said): the conversation, over after timeout +
    grace seconds;
    judge(item, said, how): the verdict, see Worker.run. A program that timed out without having had the processor, or
    that was killed from outside, is run once more, alone. So a busy machine costs nothing, and the verdicts do not depend
    on the number of workers."""
    if not items:
        return [], "none"
    arrays = any(re.search("numpy|pandas", job(item)["source"]) for item in items)
    warm = (*WARM, "numpy") if arrays else WARM
    crew = [first_worker(unsafe, runner, warm)]
    pool, idle = ThreadPoolExecutor(min(workers, len(items))), queue.SimpleQueue()

    def run(item):
        worker = idle.get()
        try:
            said, how, cpu = worker.run(job(item), functools.partial(talk, item), timeout + grace)
        finally:
            idle.put(worker)
        starved = how == "timed out" and cpu < 0.9 * timeout or how in ("crashed: signal SIGKILL", SANDBOX_GONE)
        return judge(item, said, how), starved

    try:
        while len(crew) < min(workers, len(items)):
            crew.append(Worker(crew[0].isolation, runner, warm))
        for worker in crew:
            idle.put(worker)
        with tqdm(total=len(items), desc=f"programs ({crew[0].isolation})", disable=None) as bar:
            results = []
            for result in pool.map(run, items):
                results.append(result)
                bar.update()
            for i, (_, starved) in enumerate(results):
                if starved:
                    bar.set_postfix_str("once more, alone")
                    results[i] = run(items[i])[0], True
        return results, crew[0].isolation
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in crew:
            worker.stop()
