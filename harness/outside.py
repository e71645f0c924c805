"""Outside: sandboxes, and what runs many programs in them, one process a program.

What a model wrote is hostile until it is isolated. It runs in a process of its own, without
network, files, environment or descriptors, and only answers messages. Whether it passes is decided
out here, in processes that only judge: what a program sends, or a test of a problem file computes,
may take for ever, and then that process is ended and replaced. README.md beside this file says what
is promised.
"""
from harness.cli import CORES
from harness.inside import SCRATCH, die_with_parent, remove, sweep
from harness.messages import Channel

import collections
import contextlib
import functools
import gc
import mmap
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from multiprocessing import get_context
from multiprocessing.connection import Pipe, wait
from pathlib import Path

from tqdm import tqdm

WARM = ("bisect", "collections", "copy", "functools", "heapq", "itertools", "math", "re", "string",
        "typing")
PATIENCE = 60                       # seconds that a sandbox may take to start or to clear up
START = 3 * PATIENCE                # until it is there, if need be at the fourth try
JUDGING = 3                         # seconds beyond a program's time that its judge may take
HAD_ITS_TIME = 0.9                  # of its time: who had so much of the processor was not starved
GONE_WAIT = 1.0                     # seconds in which a program that closed its channel may end
STARVED = 0.1                       # of its time that a program may wait for the processor


def readable_paths():
    """What a program may read: the system, this Python and its packages, four devices. Of a prefix
    only Python's own folders: a virtual environment may lie in the folder of a project, or be
    it."""
    system = [f"/usr{local}/{name}" for local in ("", "/local")
              for name in ("bin", "sbin", "lib", "lib32", "lib64", "libexec", "share")]
    system += ["/bin", "/sbin", "/lib", "/lib64", "/nix/store", "/etc/ld.so.cache",
               "/etc/alternatives", "/etc/localtime", "/dev/null", "/dev/zero",
               "/dev/random", "/dev/urandom"]
    own = [os.path.join(prefix, name) for prefix in (sys.base_prefix, sys.prefix)
           for name in ("bin", "pyvenv.cfg", "share/zoneinfo")]
    own += [os.path.join(sys.base_prefix, "lib")]
    own += [path for base in (sys.base_prefix, sys.prefix) for path in (
        sysconfig.get_path(name, vars={"base": base, "platbase": base, "installed_base": base,
                                       "installed_platbase": base})
        for name in ("stdlib", "platstdlib", "purelib", "platlib"))]
    own += [sysconfig.get_config_var("LIBDIR") or "/usr/lib", os.path.realpath(sys.executable)]
    own += [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    return [path for path in dict.fromkeys(system + own) if os.path.exists(path)]


@functools.cache
def bwrap_can(option) -> bool:
    """Whether the installed bubblewrap, found by the one rule (PATH), knows an option."""
    return option in subprocess.run(["bwrap", "--help"], capture_output=True, text=True).stdout


def bwrap_command():
    """The command line that isolates by bubblewrap, as nobody and without capabilities, also for
    root."""
    size = ["--size", str(4 * SCRATCH)] if bwrap_can("--size") else []
    command = ["bwrap", "--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534",
               "--cap-drop", "ALL", "--hostname", "sandbox", "--die-with-parent", "--new-session",
               "--as-pid-1", "--dev", "/dev", *size, "--tmpfs", "/dev/shm",
               *size, "--tmpfs", "/tmp"]
    if bwrap_can("--disable-userns"):
        command += ["--disable-userns"]
    for path in readable_paths():
        if os.path.islink(path):
            command += ["--symlink", os.readlink(path), path]
        elif not path.startswith("/dev/"):
            command += ["--ro-bind", path, path]
    # they are in memory, of any size
    return command + ["--remount-ro", "/dev", "--remount-ro", "/"]


# The project is not visible where programs run, so its files travel as text and become modules, in
# an order in which each finds those that it imports. The last is the runner, and `run` is its.
BOOTSTRAP = """
import types
sys.modules["harness"] = types.ModuleType("harness")
for name, source in files.items():
    module = sys.modules[f"harness.{name}"] = types.ModuleType(f"harness.{name}")
    exec(compile(source, name, "exec"), module.__dict__)
zygote, run = sys.modules["harness.inside"].zygote, module.run
"""


def waited(text) -> float:
    """Seconds that a process was ready to run and had no processor, from its schedstat."""
    fields = text.split()
    return int(fields[1]) / 1e9 if len(fields) == 3 else 0.0


class Worker:
    """A zygote and the socket to it; runs one program at a time. OSError where this kind of
    isolation is not possible.

    runner: the file of harness/ whose run(channel, job) runs a program. warm: modules that the
    isolated process imports once, for all programs. After a run `starved` says whether the machine,
    and not the program, was to blame for how it ended."""

    def __init__(self, isolation, runner="calls", warm=WARM):
        self.isolation, self.starved, self.stopped, self.folder = isolation, False, False, None
        here = Path(__file__).parent
        self.files = {name: (here / f"{name}.py").read_text(encoding="utf-8")
                      for name in ("messages", "filter", "inside", runner)}
        self.imports = f"import {', '.join(warm)}"
        self.schedstat, self.kills = None, []
        self.memory_ran_out()
        if os.path.exists("/proc/self/schedstat"):
            self.schedstat = os.open("/proc/self/schedstat", os.O_RDONLY)
        if isolation == "none":
            sweep(tempfile.gettempdir())
        try:
            self.start()
        except OSError:
            self.stop()
            raise

    def start(self):
        ours, theirs = socket.socketpair()
        library = sysconfig.get_path("stdlib")
        path = [p for p in sys.path if p.endswith("-packages") or p.startswith(library)]
        zygote = (f"zygote({theirs.fileno()}, {self.isolation!r}, {tempfile.gettempdir()!r}, "
                  f"{readable_paths()}, run)")
        code = "\n".join([f"import sys; sys.path[:] = {path}", self.imports,
                          f"files = {self.files}", BOOTSTRAP, zygote])
        # An environment without secrets, and a fixed hash seed: the order of a set must not change
        # from run to run.
        env = {"PATH": os.defpath, "LANG": "C.UTF-8", "LOGNAME": "nobody", "PYTHONHASHSEED": "0",
               "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
               "MKL_NUM_THREADS": "1"}
        command = bwrap_command() if self.isolation == "bwrap" else []
        self.process = subprocess.Popen(
            command + [sys.executable, "-s", "-P", "-c", code], env=env, cwd="/",
            pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True)     # Ctrl-C is for us: we end it
        theirs.close()
        self.control = Channel(ours)
        try:
            reply = self.ask()
        except (OSError, EOFError, ValueError):
            reply = {"error": "the sandbox did not start"}
        if "error" in reply:
            self.end()
            raise OSError(reply["error"])
        self.filter, self.folder = reply["filter"], reply["folder"]

    def ask(self, request=None):
        self.control.deadline = time.monotonic() + PATIENCE
        if request:
            self.control.send(request)
        return self.control.receive()

    def end(self):
        """The zygote sees that the socket is closed and ends, and with it all that is in its
        namespaces."""
        self.control.sock.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:       # a program stopped it
            self.process.kill()
            self.process.wait()
        # killed by a program, it removes nothing
        if self.folder and os.path.exists(self.folder):
            remove(self.folder)

    def waited(self) -> float:
        """Seconds that this process, which judges, was ready to run and had no processor."""
        if self.schedstat is None:
            return 0.0
        return waited(os.pread(self.schedstat, 100, 0).decode())

    def program_waited(self) -> float:
        """The same of the program, which is the zygote's first child until the zygote is asked how
        it ended; 0 for one that stepped back by itself."""
        pid = self.process.pid
        with contextlib.suppress(OSError, AttributeError, LookupError):
            for _ in range(1 if self.isolation == "none" else 2):
                pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
            if os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0) and \
                    os.sched_getaffinity(pid) == os.sched_getaffinity(0):
                return waited(Path(f"/proc/{pid}/schedstat").read_text())
        return 0.0

    def memory_ran_out(self) -> bool:
        """Whether the kernel has ended processes for that since it was last asked."""
        before, self.counted, vmstat = self.kills, time.monotonic(), Path("/proc/vmstat")
        self.kills = re.findall(r"oom_kill \d+", vmstat.read_text()) if vmstat.exists() else []
        return before != self.kills

    def restart(self):
        self.end()
        for patience in (1, 5, 25, 0):          # a machine that is out of processes for a moment
            try:
                return self.start()
            except OSError:
                if not patience:
                    raise
                time.sleep(patience)

    def stop(self):
        self.stopped = True
        if hasattr(self, "control"):
            self.end()
        if self.schedstat is not None:
            os.close(self.schedstat)
            self.schedstat = None

    def begin(self, descriptor, seconds):
        """Have a process forked. A sandbox that died while nothing ran in it is replaced."""
        try:
            socket.send_fds(self.control.sock, [b"p"], [descriptor])
            self.control.send({"seconds": seconds})
        except (OSError, EOFError):
            self.restart()
            socket.send_fds(self.control.sock, [b"p"], [descriptor])
            self.control.send({"seconds": seconds})

    def run(self, job, talk, seconds):
        """Start a program and let talk(channel, said) speak with it, noting in `said` -> (said,
        how, cpu seconds).

        how: "" when talk came to its end, else "timed out", "crashed: signal ...", "failed: ...".
        What talk returns says what is to become of the program's process then, which only who
        watches it from outside can see: another process may answer for one that crashed.

            True    it ends by itself, with code 0, in the same time
            False   it waits for the next question
            None    either"""
        said, how, ends, deadline = [], "", None, time.monotonic() + seconds
        late = self.waited()
        if time.monotonic() > self.counted + 1:
            self.memory_ran_out()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self.begin(theirs.fileno(), seconds)
            theirs.close()
            channel = Channel(ours, deadline)
            try:
                channel.send(job)
                ends = talk(channel, said)
            except TimeoutError:
                how = "timed out"
            except EOFError:
                how = "gone"
            except Exception:                   # no JSON, unknown tags, another secret
                how = "failed: what it sent is no answer"
            late = self.waited() - late
            if how == "timed out" or ends:
                late += self.program_waited()
            if ends:                            # it has nothing more to say: if it does, it fails
                ours.close()
            # seconds that it may take to end by itself
            left = GONE_WAIT if how == "gone" else 0.0
            if ends:
                left = max(0.0, deadline - time.monotonic())
            try:
                reply = self.ask({"patience": left})
            except (OSError, EOFError, ValueError):
                how, reply = SANDBOX_GONE, {"code": None, "cpu": 0.0, "memory": False, "fit": False}
        if reply["memory"]:
            how = "out of memory"
        elif how == "gone" or ends is False and reply["code"] is not None:
            how = describe_exit(reply["code"])
        elif ends and how != SANDBOX_GONE and reply["code"] != 0:
            how = "timed out" if reply["code"] is None else describe_exit(reply["code"])
        self.starved = self.to_blame(how, reply["cpu"], late, seconds)
        if not reply["fit"] and not self.stopped:
            self.restart()
        return said, how, reply["cpu"]

    def to_blame(self, how, used, late, seconds) -> bool:
        """Whether the machine is to blame for how a program ended, which had a processor for `used`
        seconds and waited for one for `late`. Three kinds of evidence count."""
        late_enough = used < HAD_ITS_TIME * seconds and late > STARVED * seconds
        no_processor = how == "timed out" and late_enough
        # No program can kill process 1 of its sandbox.
        sandbox_died = how == SANDBOX_GONE and self.isolation != "none"
        no_memory = how == "crashed: signal SIGKILL" and self.memory_ran_out()
        return no_processor or sandbox_died or no_memory


SANDBOX_GONE = "crashed: it took its sandbox down"


def describe_exit(code):
    """Why a program that was to answer is gone. code: as zygote tells it."""
    if code is None or code >= 0:
        return "failed: closed its channel" if code is None else f"failed: exited with code {code}"
    if code == -signal.SIGXCPU:
        return "timed out"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else -code
    return f"crashed: signal {name}"


def first_worker(unsafe=False, runner="calls", warm=WARM):
    """A worker isolated by namespaces, else by bwrap, else with unsafe not at all; it has run an
    empty program. ValueError with what to do where nothing works."""
    why = []
    for isolation in ("namespaces", "bwrap") if sys.platform == "linux" else ():
        try:
            if isolation == "bwrap" and not shutil.which("bwrap"):
                raise OSError("not installed")
            worker = Worker(isolation, runner, warm)
            said, how, _ = worker.run({"secret": "", "source": ""},
                                      lambda channel, said: said.append(channel.receive()), 30)
            if how or said[0].get("error"):
                worker.stop()
                raise OSError(how or said[0]["error"])
            return worker
        except OSError as error:
            why.append(f"{isolation}: {error}")
    if unsafe:
        print("warning: programs run with your rights, not isolated: limits and clean-up only",
              file=sys.stderr)
        return Worker("none", runner, warm)
    raise ValueError(f"programs cannot be isolated here ({'; '.join(why) or sys.platform}): install"
                     " bubblewrap (bwrap), or score in a container with --unsafe (README), or give"
                     " --unsafe and run them with your own rights")


# ----------------------------------------- many programs ------------------------------------------

class Judge:
    """A process that runs programs in a sandbox of its own and judges them, one after another.

    In memory that it shares with us stands until when it may take; past that nothing but a signal
    of the kernel's is sure to end it."""

    def __init__(self, live):
        self.pipe, theirs = Pipe()
        # A view writes and reads a number in one go (struct would first write zeros).
        self.clock, self.there = memoryview(mmap.mmap(-1, 8)).cast("d"), False
        # the one that it judges, and the next: it never waits
        self.items = collections.deque()
        allow(self.clock, START)
        process = get_context("fork").Process(target=live, daemon=True,
                                              args=(os.getpid(), theirs, self.clock))
        # the child touches nothing that other threads may hold
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            process.start()
        self.process = process
        theirs.close()

    def ask(self, item):
        self.items.append(item)
        self.pipe.send(item)

    def hear(self, spoken):
        """-> what it says, "ready", "verdict" or "error", or that it is "gone" or "late"; and the
        rest."""
        busy = self.items or not self.there
        if self.pipe not in spoken:
            late = busy and time.monotonic() > self.clock[0]
            return ("late", "timed out") if late else ("", None)
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            return "gone", "failed: it ended its judge"

    def end(self, at_once=False):
        """Wait for the end of one that was told to go; at_once: of one that may not listen."""
        if at_once:
            self.process.kill()
        self.process.join(5)
        self.process.kill()
        self.process.join()
        self.pipe.close()


def allow(clock, seconds):
    clock[0] = time.monotonic() + seconds


def live(parent, pipe, clock, items, sandbox, job, talk, judge, seconds):
    """The life of a judge: say that its sandbox is there, then the verdict on each item that
    comes."""
    die_with_parent(parent)
    worker = None

    def leave(*_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if worker:
            worker.stop()
        os._exit(0)

    def speak(channel, said):
        allow(clock, seconds + JUDGING)
        try:
            return talk(item, channel, said)
        finally:
            allow(clock, START)                 # the sandbox may have to be made anew

    gc.freeze()                                         # nor does our collector copy what we share
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # who started us decides when to end
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)       # Ctrl-Z: the clock of a program runs on
    signal.signal(signal.SIGTERM, leave)
    try:
        worker = sandbox()
        pipe.send(("ready", (worker.isolation, worker.filter)))
        while True:
            allow(clock, START)
            item = items[pipe.recv()]
            allow(clock, START)
            said, how, _ = worker.run(job(item), speak, seconds)
            allow(clock, JUDGING)
            pipe.send(("verdict", (judge(item, said, how), worker.starved)))
    except EOFError:
        leave()
    except Exception as error:
        pipe.send(("error", error))
        leave()


def share_out(numbers, crew, most, new_judge, give_up, update):
    """Have items judged by whoever of the first judges is free -> {number: (verdict, starved)}.

    judge.items[0] is the one that a judge is at, the next waits with it so that it need not wait
    for us. If the judge fails, only the first is given up, and the next goes back to `todo`."""
    todo, done = collections.deque(numbers), {}
    while len(done) < len(numbers):
        for judge in crew[:most]:
            while judge.there and len(judge.items) < 2 and todo:
                judge.ask(todo.popleft())
        spoken = wait([judge.pipe for judge in crew], 0.25)
        for place, judge in enumerate(crew):
            kind, what = judge.hear(spoken)
            if kind == "error":
                raise what
            if kind == "ready":
                judge.there = True
            elif kind and not judge.items:
                raise OSError("a process that judges programs cannot be kept running")
            elif kind:
                number = judge.items.popleft()
                done[number] = what if kind == "verdict" else (give_up(number, what), False)
                update()
                if kind != "verdict":
                    todo.extendleft(judge.items)
                    judge.end(at_once=True)
                    crew[place] = new_judge()
    return done


def run_programs(items, runner, job, talk, judge, timeout, workers=CORES, unsafe=False, grace=0.0):
    """Run the program of each item in isolation -> [(verdict, run again)] in order, and how they
    were isolated.

    runner: see Worker; job(item): what the process gets; talk(item, channel, said): the
    conversation, over after timeout + grace seconds, see Worker.run; judge(item, said, how): the
    verdict. All three are called in judges' own processes; one that has not come to an end soon
    after is ended, and judge(item, [], "timed out") is the verdict. A program that did not get the
    processor, or that was killed because memory ran out, is run once more, alone. So a busy machine
    costs nothing, and the verdicts do not depend on the number of workers."""
    if not items:
        return [], "none"
    arrays = any(re.search("numpy|pandas", job(item)["source"]) for item in items)
    warm = (*WARM, "numpy") if arrays else WARM
    count = min(workers, len(items))

    def new_judge(sandbox):
        return Judge(functools.partial(live, items=items, sandbox=sandbox, job=job, talk=talk,
                                       judge=judge, seconds=timeout + grace))

    def give_up(number, how):
        return judge(items[number], [], how)

    crew = [new_judge(lambda: first_worker(unsafe, runner, warm))]
    try:
        kind, what = crew[0].pipe.recv()
        if kind == "error":
            raise what
        crew[0].there, (isolation, filtered) = True, what
        another = lambda: new_judge(lambda: Worker(isolation, runner, warm))
        crew += [another() for _ in range(count - 1)]
        named = isolation
        if not filtered and isolation != "none":
            named += ", no filter of system calls"
        with tqdm(total=len(items), desc=f"programs ({named})", disable=None) as bar:
            done = share_out(range(len(items)), crew, count, another, give_up, bar.update)
            late = [number for number in sorted(done) if done[number][1]]
            if late:
                bar.set_postfix_str("once more, alone")
            more = share_out(late, crew, 1, another, give_up, lambda: None)
        results = {number: (verdict, False) for number, (verdict, _) in done.items()}
        results |= {number: (verdict, True) for number, (verdict, _) in more.items()}
        return [results[number] for number in range(len(items))], named
    except EOFError:
        raise OSError("the process that judges programs ended") from None
    finally:
        for judging in crew:
            judging.process.terminate()
        for judging in crew:
            judging.end()
