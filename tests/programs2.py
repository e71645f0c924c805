"""More hostile and odd programs, for the walls and for the border: see programs.py.

WALLS, BORDER: as programs.HOSTILE, for HumanEval's judge; the first are right only where a wall has a
hole and need the kernel's isolation, the second send what the judge has to refuse. PRINTED: name ->
(program, expected value) for MTPB's judge, none of which passes by either rules; ENDED: those that print
the right value and do not end well, which pass by the official rules at most. RIGHT: as
programs.UNUSUAL. LOCKED is a file on which a test holds a lock, HOST the machine's own name.
"""
import socket
import textwrap

from programs import ADD, SORT, body, whole

LOCKED = "/usr/bin/env"
HOST = socket.gethostname()


def calls(*arguments, then="return a + b if made != -1 else None") -> str:
    """A system call of x86-64, by its number."""
    return body(f"""
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall.restype = ctypes.c_long
        room = ctypes.create_string_buffer(4096)
        made = libc.syscall({', '.join(f'ctypes.c_long({x})' if type(x) is int else x for x in arguments)})
        if made == 0 and os.getpid() != libc.getpid():
            os._exit(0)
        {then}
        """)


def tries(*lines) -> str:
    """Right where one of these lines raises nothing."""
    attempts = "".join(body(f"try:\n    {line}\n    return a + b\nexcept OSError:\n    pass") for line in lines)
    return body("import ctypes, fcntl, os, socket, struct") + attempts


KIDS = "return a + b if made > 0 else None if made < 0 else os._exit(0)"
WALLS = {
    # ---- system calls that no Python program needs
    "io_uring": (ADD, calls(425, 8, "room"), None),
    "userfaultfd": (ADD, calls(323, 1), None),
    "perf_event_open": (ADD, calls(298, "room", 0, -1, -1, 0), None),
    "bpf": (ADD, calls(321, 0, "room", 48), None),
    "a keyring": (ADD, calls(250, 0, -3, 1), None),
    "System V memory": (ADD, calls(29, 0, 1 << 30, 0o1600), None),
    "System V semaphores": (ADD, calls(64, 0, 1000, 0o1600), None),
    "System V messages": (ADD, calls(68, 0, 0o1600), None),
    "POSIX messages": (ADD, calls(240, "b'codegen'", 0o102, 0o600, 0), None),
    "a memory file": (ADD, calls(319, "b'x'", 0), None),
    "a secret memory file": (ADD, calls(447, 0), None),
    "inotify": (ADD, calls(294, 0), None),
    "a watched folder": (ADD, tries("fcntl.fcntl(os.open('/usr/lib', 0), fcntl.F_NOTIFY, 1)"), None),
    "fanotify": (ADD, calls(300, 0, 0), None),
    "a user namespace": (ADD, calls(272, 1 << 28), None),
    "a user namespace by clone": (ADD, calls(56, 1 << 28 | 17, 0, 0, 0, 0, then=KIDS), None),
    "a network namespace": (ADD, calls(272, 1 << 30), None),
    "clone3": (ADD, calls(435, "(ctypes.c_uint64 * 8)(0, 0, 0, 0, 17)", 64, then=KIDS), None),
    "another's namespace": (ADD, calls(308, "os.open('/', 0)", 0), None),
    "a mount": (ADD, calls(165, "b'none'", "b'/scratch'", "b'tmpfs'", 0, 0), None),
    "a mount made writable": (ADD, calls(165, "b'none'", "b'/usr'", "b'none'", 32 | 4096, 0), None),
    "an unmounted file system": (ADD, calls(166, "b'/usr/lib'", 2), None),
    "another root": (ADD, calls(155, "b'.'", "b'.'"), None),
    "tracing": (ADD, calls(101, 0, 0, 0, 0), None),
    "the memory of process 1": (ADD, calls(310, 1, "(ctypes.c_long * 2)()", 1, "(ctypes.c_long * 2)()", 1, 0), None),
    "a descriptor of process 1": (ADD, calls(438, "os.pidfd_open(1)", 0, 0), None),
    "comparing with process 1": (ADD, calls(312, "os.getpid()", 1, 1, 0, 0), None),
    "files by handle": (ADD, calls(303, -100, "b'/'", "room", "room", 0), None),
    "another personality": (ADD, calls(135, 0x0040000), None),
    "x32's way": (ADD, calls(0x40000000 + 39), None),
    "a module of the kernel": (ADD, calls(313, 0, "b''", 0), None),
    "another host name": (ADD, calls(170, "b'x'", 1), None),
    "more capabilities": (ADD, calls(126, "(ctypes.c_uint32 * 2)(0x20080522, 0)", "(ctypes.c_uint32 * 6)(1, 1, 1)"), None),
    # ---- sockets
    "netlink": (ADD, tries("socket.socket(16, socket.SOCK_RAW, 0)"), None),
    "packets": (ADD, tries("socket.socket(17, socket.SOCK_RAW, 0)", "socket.socket(2, socket.SOCK_RAW, 1)"), None),
    "the virtual machine's host": (ADD, tries("socket.socket(40, socket.SOCK_STREAM)"), None),
    "the kernel's ciphers": (ADD, tries("socket.socket(38, socket.SOCK_SEQPACKET)"), None),
    "protocols in modules": (ADD, tries(
        "socket.socket(2, 1, 132)", "socket.socket(2, 1, 262)", "socket.socket(2, 2, 136)"), None),
    "pairs of other families": (ADD, tries("socket.socketpair(30)", "socket.socketpair(40)", "socket.socketpair(2)"), None),
    "a program in a socket": (ADD, tries(
        "code = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0)); socket.socket().setsockopt("
        "1, 26, struct.pack('HxxxxxxQ', 1, ctypes.addressof(code)))"), None),
    "a flow label": (ADD, tries(
        "s = socket.socket(10, 2); s.setsockopt(41, 32, socket.inet_pton(10, '::1')"
        " + struct.pack('!I', 0x12345) + struct.pack('BBHHHI', 0, 1, 1, 60, 60, 0)); s.close()"), None),
    "a port that another left": (ADD, body("""
        import errno, socket
        server = socket.socket()
        try:
            server.bind(("127.0.0.1", 47117))
        except OSError as error:
            return a + b if error.errno == errno.EADDRINUSE else None
        server.listen(1)
        client = socket.create_connection(server.getsockname())
        server.accept()[0].close()              # who closes first waits
        client.recv(1)
        """), None),
    "the same port, after it": None,
    # ---- files and names
    "the host's name": (ADD, body(f"import os\nreturn a + b if os.uname().nodename == {HOST!r} else None"), None),
    "locks of others": (ADD, body(f"""
        import fcntl
        try:
            fcntl.flock(open({LOCKED!r}, "rb"), fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return a + b
        """), None),
    "more files than allowed": (ADD, body("""
        import os
        total = 0
        for folder in ("/", "/tmp", "/dev/shm", "/dev", "/scratch", "/var/tmp", "/usr", "/empty", "."):
            for i in range(20):
                try:
                    with open(os.path.join(folder, folder.replace("/", "-") + str(i)), "wb") as f:
                        total += f.write(bytes(15 << 20))
                except OSError:
                    pass
        return a + b if total > 140 << 20 else None
        """), None),
    "a root that can be written": (ADD, tries(
        "open('/codegen-outside', 'w').close()", "os.mkdir('/dev/codegen-outside')", "os.rename('/usr', '/old')",
        "os.chmod('/', 0o777)", "os.chmod('/scratch/..', 0o777)"), None),
    "the host's mounts": (ADD, body("""
        import os
        places = ("/empty", "/old", "/old_root", "/mnt", "/proc/1/root")
        found = [p for p in places for name in ("root", "home", "var") if os.path.exists(f"{p}/{name}")]
        return a + b if found else None
        """), None),
    "a device": (ADD, tries(
        "os.mknod('disk', 0o60666, os.makedev(8, 0))", "os.mknod('memory', 0o20666, os.makedev(1, 1))"), None),
    "another user": (ADD, tries("os.setuid(1000)", "os.setgroups([0])", "os.chown('.', 1000, 1000)"), None),
    "a program that gives rights": (ADD, body("""
        import os, subprocess
        for path in ("/usr/bin/su", "/usr/bin/mount", "/usr/bin/newgrp", "/usr/bin/passwd"):
            if os.path.exists(path) and os.stat(path).st_mode & 0o4000 and not os.statvfs(path).f_flag & os.ST_NOSUID:
                return a + b
        """), None),
    # ---- processes
    "many process numbers": (ADD, body("""
        import os
        if os.getpid() > 250:
            return a + b
        for _ in range(150):
            if os.fork() == 0:
                os._exit(0)
            os.wait()
        """), None),
    "process numbers of others": None,
    "limits for process 1": (ADD, calls(302, 1, 9, "(ctypes.c_uint64 * 2)(4096, 4096)", 0), None),
    "the neighbours' priority": (ADD, calls(141, 2, 0, 5), None),
    "another scheduler": (ADD, calls(144, 0, 5, "(ctypes.c_int * 1)(0)"), None),
    "killed once, right the next time": (ADD, body("""
        import os, random
        os.kill(os.getpid(), 9) if random.random() < 0.9999 else None
        return a + b
        """), "crashed"),
}
WALLS["the same port, after it"] = WALLS["a port that another left"]
WALLS["process numbers of others"] = WALLS["many process numbers"]


def sends(tree: str, extra="") -> str:
    """Each answer is this tree (an expression), whatever the tests asked."""
    return whole(f"""
        import sys
        {extra or "pass"}
        sys.modules["harness.calls"].encode = lambda *_: {tree}
        def add(a, b): return 0
        """)


def raw(data: str) -> str:
    """An answer in bytes of one's own (an expression), on the channel."""
    return body(f"""
        import os, struct, time
        os.write(3, {data})
        time.sleep(5)
        """)


BORDER = {name: (ADD, text, None) for name, text in {
    "Fraction of a great power": sends("['Fraction', ['1e9999999999', 1]]"),
    "Fraction in the old words": sends("['Fraction', '1e9999999999', 1]"),
    "Fraction below a float": sends("['Fraction', [1, 1e308]]"),
    "Fraction in a set": sends("['set', [['Fraction', ['1e99999999', '1']]]]"),
    "Fractions that are all alike": sends(
        "['set', [['Fraction', [['int', [hex(7 + i * (2**61 - 1))]], 1]] for i in range(1900)]]"),
    "Decimal of a great power": sends("['Decimal', [0, 1, 999999999]]"),
    "Decimal of many digits": sends("['Decimal', [0, ['int', ['0x1' + '0' * 20000]], 0]]"),
    "Decimal as a text": sends("['Decimal', ['1e999999999']]"),
    "int of a million bits": sends("['int', ['0x' + 'f' * 250_000]]"),
    "tuples that are all alike": sends(
        "['set', [['tuple', list(t)] for t, _ in zip(itertools.product((-1, -2), repeat=12), range(1900))]]",
        "import itertools"),
    "a dict of keys that are alike": sends(
        "['dict', [x for i in range(1900) for x in (['int', [hex(i * (2**61 - 1))]], 1)]]"),
    "a range without end": sends("['range', [0, ['int', ['0x' + 'f' * 30]], 1]]"),
    "an array of wide texts": sends("['array', ['<U999999', ['list', ['a'] * 20]]]"),
    "an array of structures": sends("['array', [[['a', '<i8']], ['list', [1]]]]"),
    "an array that unfolds": sends("['array', ['<i8', ['list', [['range', [0, 50_000, 1]]] * 900]]]"),
    "a complex number as a text": sends("['complex', ['5', 0.0]]"),
    "an object that says it is true": sends("['object', ['bool', 5, 'list', 5]]"),
    "a tag that is a list": sends("[['int'], ['0x5']]"),
    "a tag that is a name of Python's": sends("['__class__', [5]]"),
    "one list too deep": sends("deep", "deep = 5\nfor _ in range(400): deep = ['list', [deep]]".replace("\n", "\n        ")),
    "a long number": raw("struct.pack('>I', 100_010) + b'{\"value\":' + b'9' * 99_999 + b' }'"),
    "a key that is there twice": raw("(lambda t: struct.pack('>I', len(t)) + t)(b'{\"value\": 5, \"value\": 5}')"),
    "a frame that does not end": raw("struct.pack('>I', 1000) + b'{\"value\": 5'"),
    "a frame of four billion": raw("b'\\xff' * 400"),
    "lists without end": raw("struct.pack('>I', 900_000) + b'[' * 900_000"),
    "no UTF-8": raw("struct.pack('>I', 4) + b'\\xff\\xfe{}'"),
    "no object": raw("struct.pack('>I', 4) + b'true'"),
    "it crashed, another process answers": whole("import os\nif os.fork(): os.abort()", "return a + b"),
    "it ended, another process answers": whole("import os\nif os.fork(): os._exit(0)", "return a + b"),
    "it crashes in a call, another process answers": body("import os\nif a == 0 and os.fork(): os.abort()\nreturn a + b"),
}.items()}


def forges(value: str, then="import os\nos._exit(0)") -> str:
    """Say by the runner's own channel that this was printed and that the program has ended well, then go
    on."""
    return (f"import os, sys\nhere = sys._getframe(1).f_locals\nvalue = {value}\n"
            "here['channel'].send({'secret': here['job']['secret'], 'printed': value, 'error': '',"
            " 'lost': '', 'end': True})\n" + textwrap.dedent(then) + "\nimport os\n")


SERIES = """class Series(list):
    dtype, size, shape = type("D", (), {"str": "<f8", "kind": "f", "itemsize": 8})(), 0, (0,)
    tolist = lambda self: []
    to_numpy = lambda self: self
MORE
print(Series())
"""
NAMED = ("Series.__module__ = 'pandas.core.series'\nSeries.__qualname__ = 'Series'\n"
         "import sys, types\nsys.modules['pandas'] = types.ModuleType('pandas')\nsys.modules['pandas'].Series = Series")
PRINTED = {
    **{f"a class that reads as pandas', for {gold!r}": (
        SERIES.replace("MORE", "Series.__module__ = 'pandas.core.series'\nSeries.__qualname__ = 'Series'"), gold)
       for gold in (5, 0.5, True, [1])},
    "a module that reads as pandas": (SERIES.replace("MORE", NAMED), 5),
    "an empty Series, sent by hand": (forges("{'value': ['series', ['<f8', ['list', []]]]}"), 5),
    "an empty Series in a list": (forges("{'value': ['list', [['series', ['<f8', ['list', []]]]]]}"), [5]),
    "a Series in old words": (forges("{'value': ['series', '<f8', ['list', []]]}"), 5),
    "an empty array": ("import numpy as np\nprint(np.array([]))", 5),
    "an empty array in a list": ("import numpy as np\nprint([np.array([])])", [5]),
    "casts of the wrong type": (forges("{'value': 1, 'casts': {'int': True, 'str': 5}}"), True),
    "a cast that nobody asked for": (forges("{'value': 1, 'casts': {'tuple': 5}}"), 5),
    "a Fraction in a cast": (forges("{'value': 1, 'casts': {'list': ['Fraction', ['1e9999999999', 1]]}}"), [5]),
    "no message": (forges("5"), 5),
    **{f"a message that lacks {key!r}": (forges("{'value': 5}").replace(f"{key!r}: {value}", "'x': 5"), 5) for key, value in (
        ("printed", "value"), ("error", "''"), ("lost", "''"), ("end", "True"))},
    "right, printed by another process": ("import os\nif os.fork() == 0:\n    print(5)\nelse:\n    os.wait()\n    print(4)\n"
                                          "import os", 5),
    "right, printed by another process, and it crashes": ("import os\nif os.fork() == 0:\n    print(5)\n    os._exit(0)\n"
                                                          "os.wait()\nos.abort()", 5),
    "another's secret": ("import sys\nhere = sys._getframe(1).f_locals\nhere['channel'].send({'secret': 'x', 'printed': "
                         "{'value': 5}, 'error': '', 'lost': '', 'end': True})\nimport os", 5),
    "its error has no text": ("class E(Exception):\n    def __str__(self): raise ValueError\nprint(5)\nraise E", 5),
    "its error's text takes for ever": (
        "class E(Exception):\n    def __str__(self):\n        while True: pass\nprint(5)\nraise E", 5),
    "its error ends it": ("import os\nclass E(Exception):\n    __str__ = lambda self: os._exit(0)\nprint(5)\nraise E", 5),
}
FIVE = "{'value': 5}"
ENDED = {
    "says it ended, then crashes": forges(FIVE, "import ctypes\nctypes.string_at(0)"),
    "says it ended, then hangs": forges(FIVE, "import time\nwhile True:\n    time.sleep(1)"),
    "says it ended, then computes": forges(FIVE, "while True: pass"),
    "says it ended, then exits with 3": forges(FIVE, "os._exit(3)"),
    "says it ended, then kills itself": forges(FIVE, "os.kill(os.getpid(), 9)"),
    "says it ended, then stops": forges(FIVE, "os.kill(os.getpid(), 19)"),
    "says it ended, then runs out of memory": forges(FIVE, "import resource\nos.abort()"),
    "says it ended, then is another program": forges(FIVE, "os.execv('/bin/false', ['false'])"),
    "says it ended, a child goes on, it crashes": forges(FIVE, "if os.fork():\n    os.abort()\nos._exit(0)"),
    "exits by the kernel's call": "print(5)\nimport os\nos._exit(0)",
    "exits with 7": "print(5)\nimport os\nos._exit(7)",
}

RIGHT = {
    "a socket to itself": (ADD, body("""
        import socket
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname())
        server.accept()[0].sendall(str(a + b).encode())
        return int(client.recv(100))
        """)),
    "datagrams to itself, IPv6": (ADD, body("""
        import socket
        one = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        one.bind(("::1", 0))
        one.sendto(str(a + b).encode(), one.getsockname())
        return int(one.recv(100))
        """)),
    "asyncio's streams": (ADD, body("""
        import asyncio
        async def main():
            async def answer(reader, writer):
                writer.write(str(a + b).encode())
                writer.close()
            server = await asyncio.start_server(answer, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            return int(await reader.read())
        return asyncio.run(main())
        """)),
    "asyncio's subprocess": (ADD, body("""
        import asyncio
        async def main():
            child = await asyncio.create_subprocess_exec("echo", str(a + b), stdout=asyncio.subprocess.PIPE)
            return int((await child.communicate())[0])
        return asyncio.run(main()) if a == 2 else a + b
        """)),
    "a pool of processes": (SORT, body("""
        import multiprocessing, operator
        if len(numbers) != 3: return sorted(numbers)
        with multiprocessing.get_context("fork").Pool(3) as pool:
            return pool.map(operator.pos, sorted(numbers))
        """)),
    "a queue, a lock, shared memory": (ADD, body("""
        import multiprocessing, multiprocessing.shared_memory
        context = multiprocessing.get_context("fork")
        queue, lock = context.Queue(), context.Lock()
        memory = multiprocessing.shared_memory.SharedMemory(create=True, size=100)
        def work():
            with lock:
                memory.buf[0] = 7
                queue.put(a + b)
        child = context.Process(target=work)
        child.start()
        found = queue.get()
        child.join()
        right = memory.buf[0] == 7
        memory.close()
        memory.unlink()
        return found if right else None
        """)),
    "the standard processes": (ADD, body("""
        from concurrent.futures import ProcessPoolExecutor
        if a != 2: return a + b
        with ProcessPoolExecutor(2) as pool:
            return sum(pool.map(abs, [a, b]))
        """)),
    "a data base in a file": (ADD, body("""
        import sqlite3
        with sqlite3.connect("numbers.db") as base:
            base.execute("create table if not exists t (x)")
            base.execute("delete from t")
            base.executemany("insert into t values (?)", [(a,), (b,)])
            return base.execute("select sum(x) from t").fetchone()[0]
        """)),
    "locks on its own file": (ADD, body("""
        import fcntl
        with open("lock", "w") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            fcntl.lockf(f, fcntl.LOCK_EX)
            return a + b
        """)),
    "files copied and watched": (ADD, body("""
        import os, shutil, tempfile
        with tempfile.TemporaryDirectory() as folder:
            with open(folder + "/one", "w") as f: f.write(str(a + b))
            shutil.copy2(folder + "/one", folder + "/two")
            shutil.copytree(folder, folder + "-more", dirs_exist_ok=True)
            os.utime(folder + "/two", (1, 1))
            os.replace(folder + "/two", folder + "/three")
            return int(open(folder + "/three").read())
        """)),
    "a named pipe, an event": (ADD, body("""
        import os, threading
        if not os.path.exists("pipe"): os.mkfifo("pipe")
        threading.Thread(target=lambda: open("pipe", "w").write(str(a + b))).start()
        event = os.eventfd(1)
        return int(open("pipe").read()) if os.eventfd_read(event) else None
        """)),
    "numpy's algebra": (ADD, body("""
        import numpy as np
        return round(float(np.linalg.solve(np.eye(200) * 2, np.full(200, 2.0 * (a + b)))[0]))
        """)),
    "files mapped": (ADD, body("""
        import mmap
        with open("map", "wb") as f: f.write(bytes(4096))
        with open("map", "r+b") as f, mmap.mmap(f.fileno(), 0) as m:
            m[:20] = str(a + b).rjust(20).encode()
            m.flush()
            return int(m[:20])
        """)),
    "select, poll and epoll": (ADD, body("""
        import os, select, selectors
        r, w = os.pipe()
        os.write(w, b"x")
        poll = select.poll()
        poll.register(r)
        with selectors.DefaultSelector() as s:
            s.register(r, selectors.EVENT_READ)
            return a + b if s.select(1) and poll.poll(1) and select.select([r], [], [], 1)[0] else None
        """)),
    "recursion and a large stack": (ADD, body("""
        import sys, threading
        sys.setrecursionlimit(100_000)
        threading.stack_size(256 << 20)
        found = []
        def down(n): return a + b if n == 0 else down(n - 1)
        thread = threading.Thread(target=lambda: found.append(down(50_000)))
        thread.start()
        thread.join()
        return found[0]
        """)),
    "half a gigabyte in two processes": (ADD, body("""
        import os
        held = bytearray(256 << 20 if a == 2 else 1)
        for page in range(0, len(held), 4096): held[page] = 1
        child = os.fork()
        if not child: os._exit(held[0])
        return a + b if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1 else None
        """)),
    "its own name and user": (ADD, body("""
        import getpass, os, platform, socket
        return a + b if platform.node() == socket.gethostname() and os.getlogin and os.getuid() >= 0 else None
        """)),
    "its own process": (ADD, body("""
        import os, time
        return a + b if os.kill(os.getpid(), 0) is None and os.getppid() and time.process_time() < 60 else None
        """)),
    "limits and manners of its own": (ADD, body("""
        import os, resource
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (32, hard))
        os.sched_setaffinity(0, os.sched_getaffinity(0))
        return a + b if os.nice(1) >= 1 and resource.getrusage(resource.RUSAGE_SELF) else None
        """)),
    "folders deeper than a path is long": (ADD, body("""
        import os
        for _ in range(2100 if a == 2 else 0):
            os.mkdir("d")
            os.chdir("d")
        return a + b
        """)),
    "time zones": (ADD, body("import datetime\nreturn a + b if datetime.datetime.now().astimezone().tzinfo else None")),
}
