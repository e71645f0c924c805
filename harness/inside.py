"""Inside: a program, its limits and its walls.

A warm parent, the zygote, has imported what programs import most, and numpy where one of them does.
It forks a process for each program, watches it from where the program cannot reach, says how it
ended and kills whatever it left. Isolated by the kernel it is process 1 of its own namespaces. This
file travels whole to the isolated process (see outside.Worker). It imports little, since a fork
copies the page tables of every library.
"""
from harness.filter import compiled, forbid_calls, program_filter, zygote_filter
from harness.messages import Channel

import contextlib
import ctypes
import fcntl
import gc
import math
import os
import resource
import select
import signal
import socket
import struct
import tempfile
import time

MEMORY = 2 << 30            # bytes of address space for a process, of memory for all of a program
SCRATCH = 16 << 20          # bytes of one file that it may write; four times that in all
PROCESSES = 64              # processes and threads that it may have
JUST_MADE = 60              # seconds in which who makes a folder locks it
WATCH = 0.05                # seconds between two looks at how much memory they use together
FIRST_PID = 100             # every program finds itself with the number after this one
UNUSED = 1_879_048_192      # the first of the host's user numbers that nobody hands out

libc = ctypes.CDLL(None, use_errno=True)
# From <linux/sched.h>, <linux/mount.h>, <linux/prctl.h>, <linux/sockios.h>.
NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 1 << 17, 1 << 25, 1 << 26, 1 << 27
NEWUSER, NEWPID, NEWNET = 1 << 28, 1 << 29, 1 << 30
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 4096, 16384, 1 << 18, 2
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, ATTR_RDONLY_NOSUID = 442, -100, 0x8000, 1 | 2
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP = 1, 4, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
NO_CAPABILITIES = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
SIOCSIFFLAGS, IFF_UP = 0x8914, 1


def kernel(call, *args):
    """A C library call that answers 0, or OSError (also where the C library has no such call)."""
    if not hasattr(libc, call):
        raise OSError(f"{call}: not on this system")
    if getattr(libc, call)(*[a.encode() if isinstance(a, str) else a for a in args]):
        raise OSError(ctypes.get_errno(), f"{call}: {os.strerror(ctypes.get_errno())}")


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def die_with_parent(parent=None):
    """The kernel kills this process when the one that started it is gone, however that ended.
    parent: its number, where we could not see otherwise that it has gone already."""
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent not in (None, os.getppid()):
        os._exit(1)


# ------------------------------------------- the walls --------------------------------------------

def new_user(uid, gid):
    """Be root of a new user namespace: over nothing but what is made in there. Where we are root,
    programs get a user of their own, 1 in there, which on the host is a number that nobody has.

        in there   0   is   uid on the host                 1   is   UNUSED + ...   (only for root)

    Another process, which stays outside, writes this map: who has just come in has no right to.
    It waits for a byte in the pipe, which says that we are in."""
    pid, (theirs, ours) = os.getpid(), os.pipe()
    writer = os.fork()
    if writer == 0:
        code = 1
        try:
            os.close(ours)
            if os.read(theirs, 1):
                others = "" if uid else f"\n1 {UNUSED + pid % (1 << 22)} 1"
                if uid:
                    write(f"/proc/{pid}/setgroups", "deny")
                write(f"/proc/{pid}/uid_map", f"0 {uid} 1" + others)
                write(f"/proc/{pid}/gid_map", f"0 {gid} 1" + others)
                code = 0
        finally:
            os._exit(code)
    os.close(theirs)
    try:
        kernel("unshare", NEWUSER)
        os.write(ours, b"x")
    finally:
        os.close(ours)
        code = os.waitpid(writer, 0)[1]
    if code:
        raise OSError("the kernel does not map users for us")


def loopback_up():
    """A new network namespace holds one device, and that is off: on with it, so that a program can
    speak to itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


def show(source, target, empty, mounted):
    """Let a path of the host be seen. A folder by an overlay where the kernel can: then locks and
    watches on its files are not those of the host's, nor those of another sandbox."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(source):                  # /bin -> usr/bin
        os.symlink(os.readlink(source), target)
    elif os.path.isdir(source):
        os.mkdir(target)
        odd = set(source) & set(":,\\") or any(m.startswith(source + "/") for m in mounted)
        try:
            if odd:
                raise OSError("an overlay would not show what is mounted in there")
            kernel("mount", "overlay", target, "overlay", MS_RDONLY, f"lowerdir={source}:{empty}")
        except OSError:
            kernel("mount", source, target, None, MS_BIND | MS_REC, None)
    elif source.startswith("/dev/"):
        write(target, "")
        kernel("mount", source, target, None, MS_BIND, None)
    else:
        with open(source, "rb") as old, open(target, "wb") as new:
            new.write(old.read())


def enter_namespaces(readable):
    """Return as process 1 of new namespaces whose root shows the readable paths, read-only, and
    nothing else: no home, no project, no network, no other process. OSError where the kernel does
    not allow it. -> a descriptor of /proc for these processes, or None."""
    with open("/proc/self/mountinfo") as lines:
        mounted = [line.split()[4] for line in lines]
    new_user(os.getuid(), os.getgid())
    die_with_parent()
    kernel("unshare", NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS | NEWCGROUP)
    pid = os.fork()                             # only a child is in the new process namespace
    if pid:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 255)
    die_with_parent()
    socket.sethostname("sandbox")
    loopback_up()
    kernel("mount", None, "/", None, MS_REC | MS_PRIVATE, None)
    proc = None
    with contextlib.suppress(OSError):          # a container that hides parts of its own /proc
        kernel("mount", "proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, None)
        proc = os.open("/proc", os.O_RDONLY)
    # The new root is mounted over /proc: that folder is everywhere, and nobody reads from it now
    # (of the processes' own one we hold a descriptor).
    root = "/proc"
    kernel("mount", "tmpfs", root, "tmpfs", MS_NOSUID, "mode=755,size=16m,nr_inodes=4096")
    os.mkdir(root + "/scratch")
    os.mkdir(root + "/empty")
    for source in readable:
        if not os.path.lexists(root + source):
            show(source, root + source, root + "/empty", mounted)
    for place in ("/tmp", "/dev/shm"):          # /tmp is there when Python lives in it
        if not os.path.lexists(root + place):
            os.symlink("/scratch", root + place)
    attributes = (ctypes.c_uint64 * 4)(ATTR_RDONLY_NOSUID, 0, 0, 0)
    kernel("syscall", MOUNT_SETATTR, AT_FDCWD, root, AT_RECURSIVE, ctypes.byref(attributes), 32)
    # The roots change places; then the old one, with all that is mounted in it, is detached: gone,
    # not only out of sight.
    os.chdir(root)
    if os.uname().machine not in PIVOT_ROOT:
        raise OSError("pivot_root: its number is not known on this machine")
    kernel("syscall", PIVOT_ROOT[os.uname().machine], ".", "empty")
    kernel("umount2", "/empty", MNT_DETACH)
    os.chdir("/")
    # What process 1 can do by itself from here on, no program that it starts can get back.
    capability = 0
    while libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    return proc


def confine(isolation, scratch, seconds, own_user):
    """The last steps before the program: its scratch folder, its limits, and no right that could
    undo them."""
    if isolation == "namespaces":
        kernel("unshare", NEWNS)                # so the mount below is gone with the process
        kernel("mount", "tmpfs", scratch, "tmpfs", MS_NOSUID | MS_NODEV,
               f"mode=1777,size={4 * SCRATCH},nr_inodes=4096")
    os.chdir(scratch)
    os.environ["HOME"] = os.environ["TMPDIR"] = tempfile.tempdir = scratch
    # opened anew: its flags must not outlive the program
    nothing = os.open("/dev/null", os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nothing, descriptor)
    os.close(nothing)
    os.setsid()
    limits = {"CPU": math.ceil(seconds) + 2, "AS": MEMORY, "FSIZE": SCRATCH, "CORE": 0,
              "NOFILE": 64}
    if isolation != "none":                     # elsewhere it would count all that the user runs
        limits |= {"NPROC": PROCESSES, "MEMLOCK": 1 << 16, "MSGQUEUE": 0}
    for name, limit in limits.items():
        # macOS knows names and refuses some values
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    if own_user:
        os.setresgid(1, 1, 1)
        os.setresuid(1, 1, 1)
        # who changes the user is else hidden from the zygote
        libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    if isolation != "none":
        kernel("capset", *NO_CAPABILITIES)
        forbid_calls(program_filter)


# --------------------------------------- watching a program ---------------------------------------

def tell(proc, path):
    """The text of a file of /proc; "" where it cannot be read."""
    if proc is not None:
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY, dir_fd=proc)
            try:
                return os.read(descriptor, 1 << 16).decode()
            finally:
                os.close(descriptor)
    return ""


def too_much(proc) -> bool:
    """Whether the processes of a program use more memory together than one of them may."""
    if proc is None:
        return False
    page = os.sysconf("SC_PAGE_SIZE")
    pids = [name for name in os.listdir(proc) if name.isdigit() and name != "1"]
    resident = 0                                # what forks share is counted once for each
    for pid in pids:
        fields = tell(proc, f"{pid}/statm").split()
        resident += int(fields[1]) * page if fields else 0      # none: it has just ended
    if len(pids) < 2 or resident <= MEMORY:
        return False
    shares = 0                                  # counted once in all: slower, so asked only now
    for pid in pids:
        lines = tell(proc, f"{pid}/smaps_rollup").splitlines()[1:]
        shares += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return shares > MEMORY


def follow(control, isolation, proc, pid):
    """Watch a program until the scorer asks how it ended -> (exit code or None, processor seconds,
    whether its memory was too much)."""
    asked, look, too_large = None, time.monotonic() + WATCH, False
    while True:
        if asked is None:
            if select.select([control.sock], [], [], WATCH)[0]:
                asked = time.monotonic() + control.receive()["patience"]
        else:
            ended, status, usage = os.wait4(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status), sum(usage[:2]), too_large
            if time.monotonic() >= asked:
                return None, 0.0, too_large
            time.sleep(0.0005)
        if isolation == "namespaces" and time.monotonic() > look:
            look = time.monotonic() + WATCH
            if not too_large and too_much(proc):
                too_large = True
                os.kill(-1, signal.SIGKILL)


def kill_all(isolation, pid):
    """Kill what the program left running and wait for it all -> its processor time, in seconds."""
    used = 0.0
    while True:
        found = [-1]            # to process 1 all else in its namespace, and no fork slips through
        if isolation == "none":                 # its group, and the orphans that came to us
            found = [-pid, pid]
            children = f"/proc/self/task/{os.getpid()}/children"
            with contextlib.suppress(OSError), open(children) as numbers:
                found += map(int, numbers.read().split())
        for number in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(number, signal.SIGKILL)
        try:
            used += sum(os.wait4(-1, 0)[2][:2])
        except ChildProcessError:
            return used


def vitals():
    """What a program of the same user could do to its zygote from afar."""
    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    limits = [resource.getrlimit(getattr(resource, name)) for name in names]
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    return limits, os.getpriority(os.PRIO_PROCESS, 0), affinity


def fresh_network(proc):
    """A new network namespace, where a program has sent something in the one that we are in: what
    it left there (closed connections, counters) the next one could see. A new one always would cost
    1 ms a program."""
    devices = tell(proc, "self/net/dev").splitlines()[2:]
    if proc is None or any(int(device.split()[10]) for device in devices):
        kernel("unshare", NEWNET)
        loopback_up()


# ---------------------------------------- folders outside -----------------------------------------

def new_folder(inside):
    """A folder for scratch folders, where programs are not isolated -> its path and a lock on it
    that says that we are there."""
    folder = tempfile.mkdtemp(prefix="codegen-", dir=inside)
    try:
        lock = os.open(folder + "/.lock", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:             # a full disk
        os.rmdir(folder)
        raise
    return folder, lock


def sweep(inside):
    """Remove the folders of earlier runs that were killed. Ours is what has a lock that nobody
    holds, or is empty and not just made: one that was killed as it made or removed it."""
    for name in os.listdir(inside):
        folder = os.path.join(inside, name)
        if not name.startswith("codegen-") or os.path.islink(folder):
            continue
        with contextlib.suppress(OSError):
            if time.time() - os.stat(folder).st_mtime > JUST_MADE and not os.listdir(folder):
                os.rmdir(folder)
            lock = os.open(folder + "/.lock", os.O_RDWR | os.O_NOFOLLOW)
            try:
                if os.fstat(lock).st_uid == os.getuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    remove(folder)
            finally:
                os.close(lock)


def remove(folder):
    """Remove a scratch folder, also what the program made unreadable in it. A folder in there moves
    up into this one before it is looked into, because a program may nest them deeper than Python
    recurses and than a path may be long. Its lock goes last: until then `sweep` knows it."""
    folders, lock = [folder], folder + "/.lock"
    for path in folders:                        # it grows
        with contextlib.suppress(OSError):
            os.chmod(path, 0o700)
            for entry in list(os.scandir(path)):
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        os.chmod(entry.path, 0o700)     # else it cannot be moved
                        folders.append(f"{folder}/{os.urandom(8).hex()}")
                        os.rename(entry.path, folders[-1])
                    elif entry.path != lock:
                        os.remove(entry.path)
    for path in reversed(folders):
        with contextlib.suppress(OSError):
            if path == folder and os.path.lexists(lock):
                os.remove(lock)
            os.rmdir(path)


# ------------------------------------------- the zygote -------------------------------------------

def prepare(isolation, readable):
    """Go behind the walls -> whether programs have a user of their own there, /proc or
    None, and whether there is a filter of system calls."""
    # process 1 gets no signal that it does not ask for
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    # where memory runs out, a program goes first
    if os.path.exists("/proc/self/oom_score_adj"):
        write("/proc/self/oom_score_adj", "1000")
    own_user, proc = False, None
    if isolation == "namespaces":
        own_user = os.getuid() == 0
        proc = enter_namespaces(readable)
        if own_user:
            os.setgroups([])
    elif isolation == "none":
        if hasattr(libc, "prctl"):
            libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        proc = os.open("/proc", os.O_RDONLY) if os.path.isdir("/proc/self") else None
    filtered = False
    if isolation != "none":
        kernel("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        filtered = forbid_calls(zygote_filter)
        compiled(program_filter)
    return own_user, proc, filtered


def zygote(control_fd, isolation, inside, readable, run):
    """Fork a process for each program, which is to run(channel, job).

        over the control socket, once           -> {"filter", "folder"}, or {"error"}
        for each program     {"seconds": s}  <-    with the descriptor of the program's channel
                             {"patience": p} <-    how did it end? Wait p seconds, then kill all
                                                -> {"code", "cpu", "memory", "fit"}

    code: the exit code, negative for a signal, null when it had to be killed; cpu: seconds; memory:
    whether it was ended for it; fit: whether another can follow. inside: the folder for a scratch
    folder outside."""
    sock = socket.socket(fileno=control_fd)
    control, folder = Channel(sock), None
    try:
        if isolation == "none":
            folder, lock = new_folder(inside)
        own_user, proc, filtered = prepare(isolation, readable)
    except Exception as error:
        control.send({"error": str(error)})
        return
    try:
        control.send({"filter": filtered, "folder": folder})
        last_pid = None
        if isolation == "namespaces" and proc is not None:
            with contextlib.suppress(OSError):
                last_pid = os.open("sys/kernel/ns_last_pid", os.O_WRONLY, dir_fd=proc)
        # Both set something up when they are first used: here once, not in every fork.
        compile("", "", "exec"), libc.capset
        # A child's collector passes our objects over: touching them would copy their pages.
        gc.freeze()
        healthy, fit = vitals(), True
        while fit:
            _, fds, _, _ = socket.recv_fds(sock, 1, 1)
            if not fds:
                return
            seconds = control.receive()["seconds"]
            scratch = "/scratch" if isolation == "namespaces" else tempfile.mkdtemp(dir=folder)
            if last_pid is not None:            # numbers that say nothing about who was before
                os.pwrite(last_pid, str(FIRST_PID).encode(), 0)
            pid = os.fork()
            if pid == 0:
                start_program(isolation, fds[0], scratch, seconds, own_user, run)
            os.close(fds[0])
            used = 0.0
            try:
                code, used, too_large = follow(control, isolation, proc, pid)
            finally:                            # also when the scorer is gone
                used += kill_all(isolation, pid)
                if isolation == "none":         # elsewhere it is gone with the program or us
                    remove(scratch)
            if isolation == "namespaces":
                fresh_network(proc)
            # Under bwrap the next one could find what this one left in memory: there each gets one.
            fit = isolation != "bwrap" and vitals() == healthy
            control.send({"code": code, "cpu": used, "memory": too_large, "fit": fit})
    except EOFError:
        pass
    finally:
        if folder:
            remove(folder)


def start_program(isolation, descriptor, scratch, seconds, own_user, run):
    """The life of a program's process, from the fork to its end."""
    code = 1
    try:
        os.dup2(descriptor, 3)
        os.closerange(4, 1024)
        confine(isolation, scratch, seconds, own_user)
        channel = Channel(socket.socket(fileno=3))
        run(channel, channel.receive(1 << 30))
        code = 0
    finally:
        os._exit(code)
