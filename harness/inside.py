"""Inside: a program, its limits and its walls.

A warm parent, the zygote, has imported what programs import most, and numpy where one of them does. It forks a process for
each program and, when told to, kills whatever that process left. Isolated by the kernel it is process 1 of its own
namespaces. This file travels whole to the isolated process (see outside.Worker). It imports little, since a fork copies the
page tables of every library.
"""
from harness.messages import Channel

import contextlib
import ctypes
import gc
import math
import os
import resource
import signal
import socket
import struct
import tempfile
import time

MEMORY = 2 << 30            # bytes of address space for each process of a program
SCRATCH = 16 << 20          # bytes of one file that it may write; four times that in all
PROCESSES = 64              # processes and threads that it may have

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
