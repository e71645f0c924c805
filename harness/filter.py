"""Inside: the system calls that a program may make; every other one answers ENOSYS.

A filter that the kernel runs before each call (seccomp). What is not in the table is refused
because a Python program does not need it and because that is where holes are found: mounts and
namespaces, tracing, keyrings, io_uring (it opens what `socket` is refused), userfaultfd, bpf,
perf_event_open, inotify and fanotify (neighbours are watched with them), message queues, semaphores
and shared memory of System V, memfd_create (memory that no limit counts), clone3 (a filter cannot
look at its flags; the C library then takes clone).
"""
import ctypes
import functools
import os
import struct

libc = ctypes.CDLL(None, use_errno=True)

# name, number on x86-64, number on aarch64
TABLE = """
# Files, as the mounts allow. Extended attributes are read by shutil.copy.
read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68,
preadv 295 69, pwritev 296 70, preadv2 327 286, pwritev2 328 287, open 2 -, openat 257 56,
creat 85 -, close 3 57, close_range 436 436, dup 32 23, dup2 33 -, dup3 292 24,
flock 73 32, lseek 8 62, stat 4 -, fstat 5 80, lstat 6 -, newfstatat 262 79, statx 332 291,
statfs 137 43, fstatfs 138 44, access 21 -, faccessat 269 48, faccessat2 439 439,
readlink 89 -, readlinkat 267 78, getdents 78 -, getdents64 217 61, getcwd 79 17,
chdir 80 49, fchdir 81 50, mkdir 83 -, mkdirat 258 34, rmdir 84 -, unlink 87 -,
unlinkat 263 35, rename 82 -, renameat 264 38, renameat2 316 276, link 86 -, linkat 265 37,
symlink 88 -, symlinkat 266 36, mknod 133 -, mknodat 259 33, chmod 90 -, fchmod 91 52,
fchmodat 268 53, chown 92 -, fchown 93 55, lchown 94 -, fchownat 260 54, umask 95 166,
utime 132 -, utimes 235 -, futimesat 261 -, utimensat 280 88, truncate 76 45,
ftruncate 77 46, fallocate 285 47, fsync 74 82, fdatasync 75 83, sendfile 40 71,
copy_file_range 326 285, splice 275 76, fadvise64 221 223, getxattr 191 8, lgetxattr 192 9,
fgetxattr 193 10, listxattr 194 11, llistxattr 195 12, flistxattr 196 13,
# Memory of one's own, which the limit on the address space counts.
mmap 9 222, munmap 11 215, mremap 25 216, mprotect 10 226, brk 12 214, madvise 28 233,
msync 26 227, mincore 27 232, mlock 149 228, munlock 150 229, membarrier 324 283,
# Processes and threads, in the namespace and under the limit on their number.
fork 57 -, vfork 58 -, execve 59 221, execveat 322 281, exit 60 93, exit_group 231 94,
wait4 61 260, waitid 247 95, getpid 39 172, getppid 110 173, gettid 186 178,
getpgid 121 155, getpgrp 111 -, setpgid 109 154, getsid 124 156, setsid 112 157,
set_tid_address 218 96, set_robust_list 273 99, get_robust_list 274 100, rseq 334 293,
futex 202 98, futex_waitv 449 449, sched_yield 24 124, sched_getaffinity 204 123,
sched_getparam 143 121, sched_getscheduler 145 120,
sched_get_priority_max 146 125, sched_get_priority_min 147 126,
getpriority 140 141, getcpu 309 168, prctl 157 167, arch_prctl 158 -,
pidfd_open 434 434,
# Signals, to whom the namespace lets them reach.
kill 62 129, tkill 200 130, tgkill 234 131, rt_sigaction 13 134, rt_sigprocmask 14 135,
rt_sigreturn 15 139, rt_sigpending 127 136, rt_sigtimedwait 128 137,
rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240, rt_sigsuspend 130 133,
sigaltstack 131 132, pause 34 -, restart_syscall 219 128, pidfd_send_signal 424 424,
signalfd 282 -, signalfd4 289 74,
# Who and where one is; limits, which can only be lowered.
getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177, getresuid 118 148,
getresgid 120 150, getgroups 115 158, capget 125 90, uname 63 160, sysinfo 99 179,
getrlimit 97 163, setrlimit 160 164, getrusage 98 165, times 100 153,
getrandom 318 278,
# Clocks and timers.
clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115, nanosleep 35 101,
gettimeofday 96 169, time 201 -, alarm 37 -, getitimer 36 102, setitimer 38 103,
timer_create 222 107, timer_settime 223 110, timer_gettime 224 108,
timer_getoverrun 225 109, timer_delete 226 111, timerfd_create 283 85,
timerfd_settime 286 86, timerfd_gettime 287 87,
# Waiting for descriptors (asyncio, subprocess, multiprocessing).
select 23 -, pselect6 270 72, poll 7 -, ppoll 271 73, epoll_create 213 -,
epoll_create1 291 20, epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22,
epoll_pwait2 441 441, eventfd 284 -, eventfd2 290 19, pipe 22 -, pipe2 293 59,
# Sockets to oneself: which kinds can be made, the conditions below say.
bind 49 200, connect 42 203, listen 50 201, accept 43 202, accept4 288 242,
getsockname 51 204, getpeername 52 205, sendto 44 206, recvfrom 45 207, sendmsg 46 211,
recvmsg 47 212, sendmmsg 307 269, recvmmsg 299 243, shutdown 48 210, getsockopt 55 209,
"""
# What the zygote still does, in the processes that it forks, and a program then can no longer.
ZYGOTE = "unshare 272 97, mount 165 40, setresuid 117 147, setresgid 119 149, capset 126 91"

AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
ANY, TCP, UDP = 0, 6, 17                # the kernel would load modules for other protocols
SOL_SOCKET, IPPROTO_IPV6 = 1, 41
FILTERS = (26, 50, 51, 52)              # SOL_SOCKET's: programs for the kernel to run
FLOW_LABELS = (32,)                     # IPPROTO_IPV6's: neighbours would see them
WATCHES = (1024, 1026)                  # F_SETLEASE, F_NOTIFY: what others do with a file
TERMINAL = (0x5401, 0x5413)             # isatty, the window's size
DESCRIPTOR = (0x541B, 0x5421, 0x5450, 0x5451)       # FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
# SIOCSIFFLAGS, the zygote's: a program lacks the right to it
DEVICE = (0x8914,)
NEW_NAMESPACES = 0x7E020000             # bits of clone's flags

# machine -> column of the table, the kernel's name for it
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
LOAD, EQUAL, AT_LEAST, MORE, BITS, RETURN = 0x20, 0x15, 0x35, 0x25, 0x45, 0x06
ALLOW, REFUSE = (RETURN, 0, 0, 0x7FFF0000), (RETURN, 0, 0, 0x50000 | 38)     # 38: ENOSYS


def when(values, then):
    """Instructions: where the value last loaded is one of these, `then`, else on after it."""
    last = len(values) - 1
    skip = [0] * last + [len(then)]
    return [(EQUAL, last - i, skip[i], value) for i, value in enumerate(values)] + then


def argument(i):
    return [(LOAD, 0, 0, 16 + 8 * i)]           # the low half: the kernel takes no more of these


# What may be called with some arguments only: name -> numbers as in the table, instructions.
CHECKED = {
    "socket": (41, 198, argument(0) + when(
        (AF_UNIX, AF_INET, AF_INET6), argument(2) + when((ANY, TCP, UDP), [ALLOW])) + [REFUSE]),
    "socketpair": (53, 199, argument(0) + when((AF_UNIX,), [ALLOW]) + [REFUSE]),
    "setsockopt": (54, 208, argument(1)
                   + when((SOL_SOCKET,), argument(2) + when(FILTERS, [REFUSE]) + [ALLOW])
                   + when((IPPROTO_IPV6,), argument(2) + when(FLOW_LABELS, [REFUSE])) + [ALLOW]),
    "ioctl": (16, 29, argument(1) + when(TERMINAL + DESCRIPTOR + DEVICE, [ALLOW]) + [REFUSE]),
    "fcntl": (72, 25, argument(1) + when(WATCHES, [REFUSE]) + [ALLOW]),
    # Of oneself only: the zygote may be of the same user.
    "prlimit64": (302, 261, argument(0) + when((0,), [ALLOW]) + [REFUSE]),
    "sched_setaffinity": (203, 122, argument(0) + when((0,), [ALLOW]) + [REFUSE]),
    "setpriority": (141, 140, argument(0) + when((0,), argument(1) + when((0,), [ALLOW]))
                    + [REFUSE]),
    "clone": (56, 220, argument(0) + [(BITS, 0, 1, NEW_NAMESPACES), REFUSE, ALLOW]),
}


def numbers(table, column):
    """The numbers of a table's calls on one machine, in order."""
    lines = [line for line in table.splitlines() if not line.startswith("#")]
    calls = [entry.split() for entry in "".join(lines).split(",") if entry]
    return sorted(int(call[1 + column]) for call in calls if call[1 + column] != "-")


def zygote_filter(machine):
    """The whole filter, as instructions. KeyError for a machine that is not in MACHINES."""
    column, name = MACHINES[machine]
    lines = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, name), REFUSE]      # no calls in another machine's way
    lines += [(LOAD, 0, 0, 0)]                                  # the number
    rows = []                                                   # of neighbours: [first, last]
    for number in sorted(numbers(TABLE, column) + numbers(ZYGOTE, column)):
        if rows and number == rows[-1][1] + 1:
            rows[-1][1] = number
        else:
            rows.append([number, number])
    for first, last in rows:                                    # x32's numbers are in no row
        lines += [(AT_LEAST, 0, 2, first), (MORE, 1, 0, last), ALLOW]
    for *number, judged in CHECKED.values():
        lines += when((number[column],), judged)
    return lines + [REFUSE]


def program_filter(machine):
    """What a program has on top, which is short because the kernel takes it in for every
    program."""
    return [(LOAD, 0, 0, 0)] + when(numbers(ZYGOTE, MACHINES[machine][0]), [REFUSE]) + [ALLOW]


@functools.cache
def compiled(make):
    """A filter for this machine as the kernel takes it; None where there is no table."""
    machine = os.uname().machine
    if machine not in MACHINES or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    lines = make(machine)
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in lines))
    given = (ctypes.c_uint64 * 2)(len(lines), ctypes.addressof(code))
    return ctypes.byref(given), code            # the second because the first only points to it


def forbid_calls(make):
    """Only what this filter allows from here on, in this process and all that it starts -> whether
    there is one for this machine. OSError where the kernel takes no filter."""
    ready = compiled(make)
    if ready and libc.prctl(22, 2, ready[0], 0, 0):             # PR_SET_SECCOMP, a filter
        raise OSError(ctypes.get_errno(), "the kernel takes no filter of system calls")
    return ready is not None
