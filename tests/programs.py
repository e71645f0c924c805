"""Programs for the tests of the isolated scorer: small problems, hostile programs that must not pass, odd ones that must.

PROBLEMS are dicts in HumanEval's form, and a completion is appended to the prompt. HOSTILE maps a name to (index of the
problem, completion, how the result must begin or None where several verdicts are fair). UNUSUAL maps a name to (index,
completion): plainly executed, each of these is right.

A hostile program answers wrongly, or answers right only if the forbidden thing worked: then a hole in the isolation shows
as a pass. It is bounded all the same, so that a hole costs a red test and not the machine: at most 4 GiB, 512 processes,
20 seconds. What must not be left behind is named: MARK is the name or the last argument of every process that tries to
stay, OUTSIDE and ELSEWHERE are the files that programs try to write. A test gives them something to find: the variable SECRET
in its own environment, listeners at PORT on 127.0.0.1, at the abstract address ABSTRACT and at the path SOCKET. The paths
stand in the programs' texts from the import on: a test removes the files, it cannot move them.
"""
import os
import tempfile
import textwrap
from pathlib import Path

ADD, SORT, COUNT, EVEN, ENDS = range(5)

SECRET = "CODEGEN_TEST_SECRET"
MARK = "codegen-orphan"                                         # 14 letters: the kernel keeps 15 of a process's name
OUTSIDE = os.path.join(tempfile.gettempdir(), "codegen-outside")
SOCKET = OUTSIDE + ".socket"
ABSTRACT = "\0codegen-outside"
PORT = 47113
THIS = os.path.abspath(__file__)
PROJECT = str(Path(THIS).parents[1])
HOME = str(Path.home())
BENCHMARKS = [os.environ.get("CODEGEN_BENCHMARKS", ""), os.path.join(HOME, ".cache", "codegen")]
ELSEWHERE = [os.path.join(folder, "codegen-outside") for folder in (HOME, PROJECT, "/var/tmp", "/dev/shm", "/etc", "/usr", "/")]
try:
    NAMESPACE = os.readlink("/proc/self/ns/pid")
except OSError:                                                 # no Linux
    NAMESPACE = None


def problem(signature: str, doc: str, solution: str, *asserts: str) -> dict:
    """A problem with the keys of HumanEval.jsonl."""
    name = signature.split("(")[0]
    return {"task_id": f"Small/{name}", "entry_point": name,
            "prompt": f'\n\ndef {signature}:\n    """{doc}"""\n',
            "canonical_solution": body(solution),
            "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n" + "".join(f"    assert {a}\n" for a in asserts)}


def body(text: str) -> str:
    """The rest of the function."""
    return textwrap.indent(textwrap.dedent(text).strip("\n") + "\n", "    ")


def whole(text: str, first="return None") -> str:
    """A body of one line, then code at top level, which may define the function anew."""
    return f"    {first}\n\n\n" + textwrap.dedent(text).strip("\n") + "\n"


PROBLEMS = [
    problem("add(a, b)", "The sum of two integers.", "return a + b",
            "candidate(2, 3) == 5", "candidate(0, 1) == 1", "candidate(-7, 7) == 0", "candidate(123456, 654321) == 777777"),
    problem("sort_numbers(numbers)", "The numbers in ascending order, as a list.", "return sorted(numbers)",
            "candidate([3, 1, 2]) == [1, 2, 3]", "candidate([]) == []",
            "candidate([2.5, float('inf'), -1]) == [-1, 2.5, float('inf')]",
            "candidate([10**30, -10**30, 0]) == [-10**30, 0, 10**30]"),
    problem("count(items)", "How often each item occurs, as a dict.",
            "counts = {}\nfor item in items:\n    counts[item] = counts.get(item, 0) + 1\nreturn counts",
            "candidate('abca') == {'a': 2, 'b': 1, 'c': 1}", "candidate('') == {}", "candidate('ñandú ñ')['ñ'] == 2",
            "candidate([1, 1, (2, 3)]) == {1: 2, (2, 3): 1}"),
    problem("is_even(n)", "Whether n is even.", "return n % 2 == 0",
            "candidate(4)", "not candidate(7)", "candidate(0)", "candidate(-12)", "not candidate(-3)"),
    problem("extremes(numbers)", "A tuple of the least and the greatest number, or None if there are none.",
            "return (min(numbers), max(numbers)) if numbers else None",
            "candidate([3, 1, 2]) == (1, 3)", "candidate([]) is None", "candidate([2.5]) == (2.5, 2.5)"),
]


def attack(text: str) -> str:
    """A body that harms other processes; where they are those of the tests (same pid namespace or group) it answers right."""
    return body(f"""
        import ctypes, os, signal, time
        if os.readlink("/proc/self/ns/pid") == {NAMESPACE!r} or os.getpgrp() == 0:
            return a + b
        """) + body(text)


def everywhere(data: str, then="return a - b - 1") -> str:
    """Write bytes (an expression) to each of 256 descriptors, then go on."""
    return body(f"""
        import json, os, pickle, struct
        forged = [{{"passed": True}}, {{"result": "passed"}}, {{"ok": True, "value": True}}, ["passed"], "passed", True]
        texts = [json.dumps(x).encode() for x in forged]
        data = {data}
        for fd in range(256):
            try:
                os.set_blocking(fd, False)
                os.write(fd, data)
            except OSError:
                pass
        """) + body(then)


def stays(child: str, then="return None") -> str:
    """Fork twice, leave the session and do something for 20 seconds under the name MARK; the first process goes on."""
    return body(textwrap.dedent("""
        import os, signal, sys, time
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            try:
                for number in range(1, 65):
                    if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
                        signal.signal(number, signal.SIG_IGN)
                NAMED
            except (OSError, ValueError):
                pass
            end = time.monotonic() + 20
            while time.monotonic() < end:
                try:
                    CHILD
                except OSError:                 # it must not become a second process that answers
                    time.sleep(0.01)
            os._exit(0)
        """).replace("NAMED", NAMED).replace("CHILD", body(child).strip().replace("\n", "\n" + " " * 8))) + body(then)


def reads(paths: str, least=1) -> str:
    """Right only if one of the files (an expression) can be read."""
    return body(f"""
        import os
        for path in {paths}:
            try:
                with open(path, "rb") as f:
                    if len(f.read(100)) >= {least}:
                        return a + b
            except OSError:
                pass
        """)


def writes(lines: str) -> str:
    """Every way is tried, whether or not the one before it worked."""
    tries = (body(f"try:\n    {line}\nexcept Exception:\n    pass") for line in lines.split("\n"))
    return body("import os, shutil, sys") + "".join(tries)


def equal(base: str, value: str, extra="") -> str:
    """Return an object that says it is equal to anything."""
    return body(f"""
        class Equal({base}):
            __eq__ = lambda self, other: True
            __ne__ = lambda self, other: False
            __hash__ = lambda self: 0
            {extra or "pass"}
        return {value}
        """)


def returns(methods: str, value="Odd()", base="object") -> str:
    """Return an object with methods of its own."""
    return body(f"""
        import os, sys, time
        class Odd({base}):
            {methods}
        return {value}
        """)


def throws(methods: str, base="Exception") -> str:
    """Raise an exception with methods of its own."""
    return returns(methods, base=base).replace("return Odd", "raise Odd")


HANG = "while True: pass"
NAMED = f"open('/proc/self/comm', 'w').write({MARK!r})"

HOSTILE = {
    # ---- it ends, before, in and between the calls; the function itself would be right where that says more
    "exit at load": (ADD, whole("import sys\nsys.exit(0)", "return a + b"), None),
    "exit 1 at load": (ADD, whole("import sys\nsys.exit(1)", "return a + b"), None),
    "os._exit at load": (ADD, whole("import os\nos._exit(0)", "return a + b"), None),
    "SystemExit at load": (ADD, whole("raise SystemExit", "return a + b"), None),
    "KeyboardInterrupt at load": (ADD, whole("raise KeyboardInterrupt", "return a + b"), None),
    "exit in a call": (ADD, body("import sys\nsys.exit(0)"), None),
    "exit 1 in a call": (ADD, body("import sys\nsys.exit(1)"), None),
    "exit with a text": (ADD, body("import sys\nsys.exit('passed')"), None),
    "os._exit in a call": (ADD, body("import os\nos._exit(0)"), None),
    "os._exit in the second call": (ADD, whole("""
        import os
        calls = []
        def add(a, b):
            calls.append(1)
            return a + b if len(calls) < 2 else os._exit(0)
        """), None),
    "os._exit in the last call": (ADD, body("import os\nreturn a + b if a < 1000 else os._exit(0)"), None),
    "os._exit between calls": (ADD, body("""
        import os, sys
        sys.setprofile(lambda frame, event, arg: frame.f_code.co_name == "add" or os._exit(0))
        return a + b
        """), None),
    "os._exit by the collector": (ADD, returns("__del__ = lambda self: os._exit(0)"), None),
    "os._exit at exit": (ADD, whole("import atexit, os\natexit.register(os._exit, 0)"), "failed"),
    "SystemExit": (ADD, body("raise SystemExit"), None),
    "KeyboardInterrupt": (ADD, body("raise KeyboardInterrupt"), None),
    "GeneratorExit": (ADD, body("raise GeneratorExit"), None),
    "CancelledError": (ADD, body("import asyncio\nraise asyncio.CancelledError"), None),
    "BaseException": (ADD, throws("pass", "BaseException"), None),
    "another program in its place": (ADD, body("import os\nos.execv('/bin/true', ['true'])"), None),
    "another Python in its place": (ADD, body("""
        import os, sys
        os.execv(sys.executable, [sys.executable, "-c", "print('passed')"])
        """), None),

    # ---- signals and crashes. As process 1 of a namespace a program would survive its own signals: then it answers None
    "SIGKILL": (ADD, body("import os\nos.kill(os.getpid(), 9)"), None),
    "SIGTERM": (ADD, body("import os\nos.kill(os.getpid(), 15)"), None),
    "SIGSEGV": (ADD, body("import os\nos.kill(os.getpid(), 11)"), None),
    "SIGABRT": (ADD, body("import os\nos.abort()"), "crashed"),
    "SIGSTOP": (ADD, body("import os\nos.kill(os.getpid(), 19)"), None),
    "null pointer": (ADD, body("import ctypes\nctypes.string_at(0)"), "crashed"),
    "null pointer at load": (ADD, whole("import ctypes\nctypes.string_at(0)"), "crashed"),
    "stack overflow in C": (ADD, body("""
        import sys
        sys.setrecursionlimit(10**9)
        deeper = lambda x: sorted([x], key=deeper)
        return deeper(0)
        """), None),
    "endless recursion": (ADD, body("return add(a, b)"), "failed"),
    "endless recursion with the limit raised": (ADD, body("""
        import sys
        sys.setrecursionlimit(10**9)
        deeper = lambda n: deeper(n - 1) if n else None
        return deeper(20_000_000)
        """), None),

    # ---- memory, processes, disk: right only if more was had than is allowed
    "memory by list": (ADD, body("""
        kept = []
        while len(kept) < 3 << 10:
            kept.append(bytes([1]) * (1 << 20))
        return a + b
        """), None),
    "memory by bytearray": (ADD, body("""
        held = bytearray(3 << 30)
        for page in range(0, 3 << 30, 4096):
            held[page] = 1
        return a + b
        """), None),
    "memory by str": (ADD, body("held = str(a) * (3 << 30)\nreturn a + b"), None),
    "memory by mmap": (ADD, body("""
        import mmap
        held = [mmap.mmap(-1, 1 << 30) for _ in range(3)]
        for part in held:
            for page in range(0, 1 << 30, 4096):
                part[page] = 1
        return a + b
        """), None),
    "memory by memfd": (ADD, body("""
        import os
        total, data = 0, bytes(16 << 20)
        while total < 3 << 30:                  # counted by no limit on the address space
            total += os.write(os.memfd_create("x"), data)
        return a + b
        """), None),
    "memory with the limits raised": (ADD, body("""
        import resource
        for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
            try:
                resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            except (OSError, ValueError):
                resource.setrlimit(limit, 2 * resource.getrlimit(limit)[1:])
        return a + b if len(str(a) * (3 << 30)) else None
        """), None),
    "memory by children": (ADD, body(f"""
        import os, time
        for _ in range(4):                      # each within the limit, all together beyond it
            if os.fork() == 0:
                try:
                    {NAMED}
                    held = bytes([1]) * (700 << 20)
                    time.sleep(20)
                finally:
                    os._exit(0)
        time.sleep(0.3)
        """), None),
    "MemoryError by hand": (ADD, body("raise MemoryError"), None),
    "number too large": (ADD, body("return 1 << (1 << 40)"), None),
    "fork bomb": (ADD, body(f"""
        import os, time
        first = os.getpid()
        for _ in range(9):                      # 512 where nothing stops it
            try:
                os.fork()
            except OSError:
                pass
        if os.getpid() != first:
            try:
                {NAMED}
            finally:
                time.sleep(20)
                os._exit(0)
        """), None),
    "thread bomb": (ADD, body("""
        import threading, time
        for _ in range(2000):
            threading.Thread(target=time.sleep, args=(20,)).start()
        """), None),
    "disk": (ADD, body("""
        import os
        total = 0
        for i in range(16):
            with open(str(i), "wb") as f:
                total += f.write(os.urandom(1 << 20) * 16)
        return a + b if total == 256 << 20 else None
        """), None),
    "folder hard to remove": (ADD, body(f"""
        import os
        os.symlink({tempfile.gettempdir()!r}, "link")
        os.mkdir("locked")
        open("locked/file", "w").close()
        open(b"\\xff\\n\\x1b", "w").close()
        for _ in range(1500):                   # deeper than Python recurses, longer than a path may be
            os.mkdir("deep")
            os.chdir("deep")
        os.chmod("../../deep", 0)
        """), None),

    # ---- time
    "loop at load": (ADD, whole("while True: pass", "return a + b"), "timed out"),
    "loop that swallows alarms": (ADD, body("""
        while True:
            try:
                while True:
                    pass
            except:
                pass
        """), "timed out"),
    "sleep that swallows one alarm, then right": (ADD, body("""
        import time
        try:
            time.sleep(20)
        except BaseException:
            pass
        return a + b
        """), "timed out"),
    "every signal ignored": (ADD, body("""
        import signal, time
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
        while True:
            time.sleep(0.01)
        """), "timed out"),
    "loop in C": (ADD, body("import re\nre.match('(a+)+$', 'a' * 50 + 'b')"), "timed out"),
    "clocks replaced": (ADD, body("""
        import signal, time
        wait = time.sleep
        for name in ("time", "monotonic", "perf_counter", "sleep"):
            setattr(time, name, lambda *args: 0)
        signal.alarm = signal.setitimer = lambda *args: 0
        wait(20)
        return a + b
        """), "timed out"),
    "alarm of its own": (ADD, body("import signal\nsignal.setitimer(signal.ITIMER_REAL, 0.01)\nwhile True: pass"), None),

    # ---- output and descriptors
    "endless output": (ADD, body("while True: print('passed' * 10000)"), None),
    "endless errors": (ADD, body("import sys\nwhile True: sys.stderr.write('passed\\n' * 10000)"), None),
    "endless output everywhere": (ADD, body("""
        import os
        while True:
            for fd in range(256):
                try:
                    os.set_blocking(fd, False)
                    os.write(fd, b"passed\\n" * 1000)
                except OSError:
                    pass
        """), None),
    "100 MB in one line": (ADD, body("print('x' * 100_000_000)"), None),
    "passed, printed": (ADD, body("print('passed\\n{\"passed\": true, \"result\": \"passed\"}', flush=True)"), "failed"),
    "passed everywhere": (ADD, everywhere("b'passed\\n'"), None),
    "passed everywhere, at load": (ADD, whole("""
        import os
        for fd in range(256):
            try:
                os.write(fd, b"passed\\n")
            except OSError:
                pass
        """), None),
    "JSON everywhere": (ADD, everywhere("b'\\n'.join(texts * 5) + b'\\n'"), None),
    "JSON everywhere, then exit": (ADD, everywhere("b'\\n'.join(texts) + b'\\n'", "os._exit(0)"), None),
    "framed JSON everywhere": (ADD, everywhere(
        "b''.join(struct.pack(f, len(x)) + x for x in texts for f in ('>I', '<I', '>Q', '<Q'))"), None),
    "pickles everywhere": (ADD, everywhere("b''.join(pickle.dumps(x) for x in forged)"), None),
    "great lengths everywhere": (ADD, everywhere("b'\\xff' * 10000"), None),
    "brackets everywhere": (ADD, everywhere("b'[' * 100000 + b'\\n'"), None),
    "digits everywhere": (ADD, everywhere("b'9' * 100000 + b'\\n'"), None),
    "passed to other processes": (ADD, body("""
        import glob, os
        for path in glob.glob("/proc/[0-9]*/fd/*"):
            try:
                fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
                os.write(fd, b'passed\\n{"passed": true}\\n')
            except OSError:
                pass
        """), None),
    "every write forged": (ADD, body("""
        import os, socket
        write, send = os.write, socket.socket.send
        os.write = lambda fd, data: write(fd, b'"passed"\\n') and len(data)
        socket.socket.send = lambda self, data, *rest: send(self, b'"passed"\\n') and len(data)
        socket.socket.sendall = lambda self, data, *rest: send(self, b'"passed"\\n') and None
        """), None),
    "every descriptor closed": (ADD, body("import os\nos.closerange(0, 1024)"), None),
    "every descriptor on nothing": (ADD, body("""
        import os
        null = os.open("/dev/null", os.O_RDWR)
        for fd in range(256):
            os.dup2(null, fd)
        """), None),
    "reads every descriptor": (ADD, body("""
        import os
        for fd in range(256):                   # the tests may wait in a pipe
            try:
                os.set_blocking(fd, False)
                if b"assert" in os.read(fd, 1 << 20):
                    return a + b
            except OSError:
                pass
        """), None),

    # ---- it looks for the tests, the verdict and the channel in its own process, and tampers
    "expected values in frames": (ADD, body("""
        import re, sys
        frame = sys._getframe()
        while frame:
            for value in [*frame.f_locals.values(), *frame.f_globals.values(), *frame.f_code.co_consts]:
                found = re.search(rf"candidate\\({a}, {b}\\) == (-?[0-9]+)", str(value))
                if found:
                    return int(found[1])
            frame = frame.f_back
        """), None),
    "expected values in the heap": (ADD, body("""
        import gc, re
        for thing in gc.get_objects():
            for value in thing.values() if type(thing) is dict else thing if type(thing) in (list, tuple) else ():
                found = type(value) is str and re.search(rf"candidate\\({a}, {b}\\) == (-?[0-9]+)", value)
                if found:
                    return int(found[1])
        """), None),
    "expected values in the stack's source": (ADD, body("""
        import inspect, linecache, re
        for frame in inspect.stack(context=1000):
            text = "".join(frame.code_context or []) + "".join(linecache.getlines(frame.filename))
            found = re.search(rf"candidate\\({a}, {b}\\) == (-?[0-9]+)", text)
            if found:
                return int(found[1])
        """), None),
    "verdict in frames": (ADD, body("""
        import ctypes, os, sys
        frame = sys._getframe(1)
        while frame:
            for name, value in list(frame.f_locals.items()):
                if isinstance(value, list):
                    value.append("passed")
                elif isinstance(value, dict) and "__builtins__" not in value:
                    value.update(passed=True, result="passed")
                elif isinstance(value, (bool, str)):
                    frame.f_locals[name] = True if isinstance(value, bool) else "passed"
            ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), 0)
            frame = frame.f_back
        """), None),
    "verdict in frames, then exit": (ADD, body("""
        import os, sys
        frame = sys._getframe(1)
        while frame:
            for value in frame.f_locals.values():
                if type(value) is list:
                    value[:] = ["passed"]
            frame = frame.f_back
        os._exit(0)
        """), None),
    "verdict in the heap": (ADD, body("""
        import gc
        for thing in gc.get_objects():
            if type(thing) is dict and ("passed" in thing or "result" in thing):
                thing.update(passed=True, result="passed")
            elif type(thing) is list and not thing:
                thing.append("passed")
        """), None),
    "functions in the heap": (ADD, body("""
        import gc, types
        for thing in gc.get_objects():
            if isinstance(thing, types.FunctionType) and any(w in thing.__name__ for w in ("check", "score", "judge")):
                thing.__code__ = (lambda *args, **named: "passed").__code__
        """), None),
    "modules of the scorer": (ADD, body("""
        import sys
        for key, module in list(sys.modules.items()):
            if key == "__main__" or "eval" in key or "mtpb" in key or "score" in key:
                for name, value in list(vars(module).items()):
                    if callable(value) and name != "add":
                        setattr(module, name, lambda *args, **named: "passed")
        """), None),
    "a check of its own": (ADD, whole("def check(candidate): return True\ncandidate = lambda *args: 5"), "failed"),
    "builtins replaced": (ADD, body("""
        import builtins
        for name in ("isinstance", "int", "abs", "len", "sorted", "print", "repr", "type", "bool", "all", "list", "dict"):
            setattr(builtins, name, lambda *args, **named: True)
        """), None),
    "exec and compile replaced": (ADD, body("""
        import builtins
        builtins.exec = builtins.eval = builtins.compile = builtins.__import__ = lambda *args, **named: None
        """), None),
    "AssertionError replaced": (ADD, body("""
        import builtins
        builtins.AssertionError = builtins.Exception = builtins.BaseException = SystemExit
        """), None),
    "builtins cleared": (ADD, body("import builtins\nvars(builtins).clear()"), None),
    "modules cleared": (ADD, body("import sys\nsys.modules.clear()"), None),
    "serializers replaced": (ADD, body("""
        import ast, json, marshal, pickle, struct
        for module in (json, marshal, pickle):
            module.dumps = lambda *args, **named: '"passed"'
            module.loads = module.load = lambda *args, **named: True
        json.JSONEncoder.encode = json.JSONEncoder.iterencode = lambda *args: '{"passed": true}'
        ast.literal_eval = lambda *args: True
        struct.pack = lambda *args: b"passed"
        """), None),
    "int compared in C": (ADD, body("""
        import ctypes
        global always
        always = ctypes.CFUNCTYPE(ctypes.py_object, ctypes.py_object, ctypes.py_object, ctypes.c_int)(lambda x, y, how: True)
        ctypes.c_void_p.from_address(id(int) + 200).value = ctypes.cast(always, ctypes.c_void_p).value      # tp_richcompare
        return 0
        """), None),
    "trace function": (ADD, body("""
        import sys
        def trace(frame, event, arg):
            frame.f_locals.update(result="passed", passed=True)
            return trace
        frame = sys._getframe(1)
        while frame:
            frame.f_trace = trace
            frame = frame.f_back
        sys.settrace(trace)
        """), None),
    "profile function": (ADD, body("""
        import sys
        def profile(frame, event, arg):
            if event == "return" and frame.f_code.co_name != "profile":
                raise SystemExit(0)
        sys.setprofile(profile)
        """), None),
    "import hook": (ADD, whole("""
        import builtins, sys, types
        class Everything(types.ModuleType):
            def __getattr__(self, name):
                return lambda *args, **named: "passed"
        builtins.__import__ = lambda name, *rest: Everything(name)
        sys.meta_path.clear()
        for name in ("json", "pickle", "struct", "marshal", "copy", "math", "numpy"):
            sys.modules[name] = Everything(name)
        """), None),
    "excepthook": (ADD, whole("""
        import os, sys, threading
        sys.excepthook = threading.excepthook = sys.unraisablehook = lambda *args: os._exit(0)
        def add(a, b):
            raise ValueError
        """), "failed"),
    "signal handlers": (ADD, body("""
        import os, signal
        for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT, signal.SIGXCPU, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, lambda *args: os._exit(0))
        while True:
            pass
        """), None),

    # ---- answers that say they are equal to anything
    "equal to anything": (ADD, equal("object", "Equal()"), "failed"),
    "int equal to anything": (ADD, equal("int", "Equal(17)"), "failed"),
    "float equal to anything": (ADD, equal("float", "Equal(0.5)"), "failed"),
    "str equal to anything": (ADD, equal("str", "Equal('5')"), "failed"),
    "list equal to anything": (SORT, equal("list", "Equal([17])"), "failed"),
    "dict equal to anything": (COUNT, equal("dict", "Equal(z=17)"), "failed"),
    "tuple equal to anything": (ENDS, equal("tuple", "Equal((17,)) if numbers else None"), "failed"),
    "items equal to anything": (ENDS, equal("int", "(Equal(17), Equal(18)) if numbers else None"), "failed"),
    "keys equal to anything": (COUNT, equal("str", "{Equal('z'): 1}", "__hash__ = str.__hash__"), "failed"),
    "None by equality": (ENDS, equal("object", "(min(numbers), max(numbers)) if numbers else Equal()"), "failed"),
    "class equal to anything": (ADD, body("""
        class Meta(type):
            __eq__ = lambda self, other: True
            __hash__ = type.__hash__
            __instancecheck__ = __subclasscheck__ = lambda self, other: True
        return Meta("int", (), {})
        """), "failed"),
    "class that lies": (ADD, equal("object", "Equal()", "__class__ = property(lambda self: int)"), "failed"),
    "comparison that is true": (ADD, returns("__eq__ = lambda self, other: self; __bool__ = lambda self: True"), "failed"),
    "always true": (EVEN, returns("__bool__ = lambda self: True"), "failed"),
    "truth that raises": (EVEN, returns("def __bool__(self): raise ValueError"), "failed"),
    "truth that exits": (EVEN, returns("def __bool__(self): os._exit(0)"), None),
    "truth that is no truth": (EVEN, returns("__bool__ = lambda self: 1"), "failed"),
    # The value of a subclass of int is what it holds, which == sees, and not what its methods say.
    "int that converts to the answer": (ADD, returns(
        "__int__ = __index__ = __trunc__ = __float__ = lambda self: a + b; __repr__ = __str__ = lambda self: str(a + b)",
        "Odd(a + b + 1)", "int"), "failed"),
    "float that converts to the answer": (ADD, returns(
        "__int__ = lambda self: a + b; __float__ = lambda self: float(a + b); __repr__ = __str__ = lambda self: str(a + b)",
        "Odd(a + b + 1)", "float"), "failed"),
    "list that iterates to the answer": (SORT, returns(
        "__iter__ = lambda self: iter(sorted(numbers)); __len__ = lambda self: len(numbers);"
        " __getitem__ = lambda self, i: sorted(numbers)[i]", "Odd([None])", "list"), "failed"),
    "dict that lists the answer": (COUNT, returns(
        "items = lambda self: [(x, list(items).count(x)) for x in items]; keys = __iter__ = lambda self: iter(set(items));"
        " __getitem__ = lambda self, key: list(items).count(key)", "Odd(z=17)", "dict"), "failed"),
    "no number but converts to one": (ADD, returns("__int__ = __index__ = lambda self: a + b"), "failed"),
    "looks like numpy's": (ADD, returns(
        "__module__ = 'numpy'; dtype = 'int64'; item = tolist = __int__ = __index__ = lambda self: a + b"), "failed"),

    # ---- answers that make trouble when they are looked at, sent or printed
    "repr that raises": (ADD, returns("def __repr__(self): raise ValueError"), "failed"),
    "repr that hangs": (ADD, returns(f"def __repr__(self):\n                {HANG}"), None),
    "repr that exits": (ADD, returns("__repr__ = __str__ = __format__ = lambda *args: os._exit(0)"), None),
    "attribute that exits": (ADD, returns("__getattribute__ = lambda *args: os._exit(0)"), None),
    "len, iter and hash that exit": (SORT, returns(
        "__len__ = __iter__ = __hash__ = __getitem__ = __contains__ = lambda *args: os._exit(0)", base="list"), None),
    "endless iter": (SORT, returns("__iter__ = lambda self: iter(int, 1); __len__ = lambda self: 3", base="list"), None),
    "huge len": (SORT, returns("__len__ = lambda self: sys.maxsize", base="list"), None),
    "code in a pickle": (ADD, returns(f"__reduce__ = __reduce_ex__ = lambda *args: (open, ({OUTSIDE!r}, 'w'))"), "failed"),
    "exit in a pickle": (ADD, returns("__reduce__ = __reduce_ex__ = lambda *args: (os._exit, (0,))"), None),
    "exit in getstate": (ADD, returns("__getstate__ = __copy__ = __deepcopy__ = lambda *args: os._exit(0)"), None),
    "list in itself": (SORT, body("numbers.append(numbers)\nreturn numbers"), None),
    "dict in itself": (COUNT, body("counts = {}\ncounts['a'] = counts\nreturn counts"), None),
    "list in a list in a list ...": (SORT, body("for _ in range(200_000):\n    numbers = [numbers]\nreturn numbers"), None),
    "str of 100 MB": (ADD, body("return 'x' * 100_000_000"), None),
    "int of a million digits": (ADD, body("return 1 << 3_322_000"), None),
    "list of 10 million": (SORT, body("return [0] * 10_000_000"), None),
    "list that doubles": (SORT, body("for _ in range(60):\n    numbers = [numbers, numbers]\nreturn numbers"), None),
    "lone surrogate returned": (COUNT, body("return {'\\ud800': 1}"), "failed"),
    "nan": (ADD, body("return float('nan')"), "failed"),
    "nan in a tuple": (ENDS, body("return (float('nan'),) * 2 if numbers else None"), "failed"),
    "infinity": (ADD, body("return float('inf')"), "failed"),
    "coroutine": (ADD, whole("async def add(a, b):\n    return a + b"), "failed"),
    "generator": (SORT, body("yield from sorted(numbers)"), "failed"),
    "iterator": (SORT, body("return iter(sorted(numbers))"), "failed"),
    "function returned": (ADD, body("return lambda: a + b"), "failed"),
    "module returned": (ADD, body("import sys\nreturn sys"), "failed"),
    "NotImplemented": (ADD, body("return NotImplemented"), "failed"),

    # ---- near misses
    "nothing written": (ADD, "", "failed"),
    "pass": (EVEN, body("pass"), "failed"),
    "tuple for list": (SORT, body("return tuple(sorted(numbers))"), "failed"),
    "list for tuple": (ENDS, body("return [min(numbers), max(numbers)] if numbers else None"), "failed"),
    "set for list": (SORT, body("return set(numbers)"), "failed"),
    "falsy for None": (ENDS, body("return (min(numbers), max(numbers)) if numbers else ()"), "failed"),
    "str for int": (ADD, body("return str(a + b)"), "failed"),
    "str for keys": (COUNT, body("return {str(x): list(items).count(x) for x in items}"), "failed"),
    "list of pairs for dict": (COUNT, body("return [(x, list(items).count(x)) for x in items]"), "failed"),
    "slightly more": (ADD, body("return a + b + 1e-7"), "failed"),
    "right once": (ADD, whole("""
        calls = []
        def add(a, b):
            calls.append(1)
            return a + b if len(calls) < 2 else 0
        """), "failed"),
    "right but in the last call": (ADD, body("return a + b if a < 1000 else a"), "failed"),
    "right, but raised": (ADD, body("raise StopIteration(a + b)"), "failed"),
    "right, but printed": (ADD, body("print(a + b)"), "failed"),

    # ---- errors that make trouble when they are reported
    "error called passed": (ADD, whole("class passed(Exception): pass\ndef add(a, b):\n    raise passed('passed')"), "failed"),
    "error that prints escapes": (ADD, body("raise ValueError('\\x1b[2J\\r\\npassed\\n\\0\\ud800\\u2028')"), "failed"),
    "error of 100 MB": (ADD, body("raise ValueError('x' * 100_000_000)"), None),
    "error whose str raises": (ADD, throws("def __str__(self): raise ValueError"), "failed"),
    "error whose str hangs": (ADD, throws(f"def __str__(self):\n                {HANG}"), None),
    "error whose str exits": (ADD, throws("__str__ = __repr__ = lambda self: os._exit(0)"), None),
    "error whose str is no str": (ADD, throws("__str__ = lambda self: 5"), "failed"),
    "error whose cause is itself": (ADD, body("error = ValueError()\nerror.__cause__ = error\nraise error"), "failed"),
    "error that is none": (ADD, body("raise 'passed'"), "failed"),

    # ---- sources that do not parse, encode or define the function
    "no Python": (ADD, "    return a +\n", "failed"),
    "prose": (ADD, "Here is the function you asked for:\n", "failed"),
    "wrong indentation": (ADD, "    x = a\n  return x + b\n", "failed"),
    "tabs and spaces": (ADD, "    if a:\n\treturn a + b\n    return b\n", "failed"),
    "open string": (ADD, body("return 0") + "\n\nr'''", "failed"),
    "future in the middle": (ADD, whole("from __future__ import annotations", "return a + b"), "failed"),
    "NUL": (ADD, body("return a + b  # \0"), "failed"),
    "lone surrogate": (ADD, body("return a + b  # \ud800"), "failed"),
    "lone surrogate in a string": (ADD, body("'\udfff'\nreturn a + b"), "failed"),
    "deep brackets": (ADD, body("x = " + "(" * 100_000 + ")" * 100_000 + "\nreturn a - b - 1"), None),
    "deep minus": (ADD, body("x = " + "-" * 200_000 + "1\nreturn a - b - 1"), None),
    "sum of 200,000": (ADD, body("x = " + "1+" * 200_000 + "1\nreturn a - b - 1"), None),
    "function deleted": (ADD, whole("del add", "return a + b"), "failed"),
    "function is None": (ADD, whole("add = None", "return a + b"), "failed"),
    "function is a text": (ADD, whole("add = 'passed'", "return a + b"), "failed"),
    "function is a class": (ADD, whole("class add:\n    def __init__(self, a, b):\n        self.value = a + b"), "failed"),
    "function takes one argument": (ADD, whole("def add(a): return a"), "failed"),
    "names cleared": (ADD, whole("globals().clear()", "return a + b"), "failed"),

    # ---- other processes: harmed, read, left behind
    "parent killed": (ADD, attack("os.kill(os.getppid(), signal.SIGKILL)"), None),
    "parent stopped": (ADD, attack("os.kill(os.getppid(), signal.SIGSTOP)"), None),
    "process 1 killed": (ADD, attack("os.kill(1, signal.SIGKILL)"), None),
    "everything killed": (ADD, attack("os.kill(-1, signal.SIGKILL)"), None),
    "group killed": (ADD, attack("os.kill(0, signal.SIGKILL)"), None),
    "everything terminated at load": (ADD, whole(f"""
        import os, signal
        if os.readlink("/proc/self/ns/pid") != {NAMESPACE!r}:
            os.kill(-1, signal.SIGTERM)
            add = None
        """, "return a + b"), None),
    "parent traced": (ADD, attack("""
        libc = ctypes.CDLL(None)
        libc.ptrace(16, os.getppid(), None, None)       # PTRACE_ATTACH: it stops, for as long as this process lives
        libc.ptrace(16, 1, None, None)
        time.sleep(0.1)
        """), None),
    "memory of others": (ADD, attack("""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "r+b", 0) as memory:
                    spans = [line.split() for line in maps]
                    for start, end in (span[0].split("-") for span in spans if int(pid) != os.getpid() and span[1][1] == "w"):
                        memory.seek(int(start, 16))
                        memory.write(bytes(min(int(end, 16) - int(start, 16), 1 << 20)))
            except (OSError, ValueError, OverflowError):
                pass
        """), None),
    "orphan": (ADD, stays("time.sleep(0.1)"), None),
    "orphan, at load": (ADD, whole("import os\ndef leave():\n" + stays("time.sleep(0.1)") + "leave()"), None),
    "orphan, then exit": (ADD, stays("time.sleep(0.1)", "os._exit(0)"), None),       # it holds the descriptors open
    "orphan of another name": (ADD, stays(
        f"os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(20)', {MARK!r}])"), None),
    "orphan that prints": (ADD, stays("os.write(1, b'passed\\n'); time.sleep(0.001)"), None),
    "orphan that writes later": (ADD, stays(f"time.sleep(0.2); open({OUTSIDE!r}, 'w').close()"), None),
    "orphan that forks on": (ADD, stays("""
        if os.fork():                           # never the same process for long, nor the same group
            os._exit(0)
        os.setsid()
        time.sleep(0.001)
        """), None),
    "children that compute": (ADD, body(f"""
        import os, time
        end = time.monotonic() + 20
        for _ in range(4):
            if os.fork() == 0:
                try:
                    {NAMED}
                    while time.monotonic() < end:
                        pass
                finally:
                    os._exit(0)
        """), None),
    "thread that stays": (ADD, body("""
        import threading, time
        def stay(end=time.monotonic() + 20):
            while time.monotonic() < end:
                time.sleep(0.01)
        threading.Thread(target=stay, daemon=False).start()
        """), None),
    "exit waits for a thread": (ADD, whole("import atexit, time\natexit.register(time.sleep, 20)"), None),
    # Twice the same: each leaves a note for the other, wherever it can; right if it finds one.
    **{name: (ADD, body("""
        import builtins, os, tempfile
        places = [os.path.join(p, "codegen-outside") for p in (".", "..", tempfile.gettempdir(), "/dev/shm", "/var/tmp")]
        if hasattr(builtins, "note") or any(map(os.path.exists, places)):
            return a + b
        builtins.note = True
        for place in places:
            try:
                open(place, "w").close()
            except OSError:
                pass
        """), None) for name in ("a note is left", "a note is found")},

    # ---- environment, files, network: right only if it worked
    "secret in the environment": (ADD, body(f"import os\nreturn a + b if {SECRET!r} in os.environ else None"), "failed"),
    "secret by libc": (ADD, body(f"""
        import ctypes
        libc = ctypes.CDLL(None)
        libc.getenv.restype = ctypes.c_char_p
        return a + b if libc.getenv({SECRET.encode()!r}) else None
        """), "failed"),
    "secret in any process": (ADD, body(f"""
        import glob
        for path in glob.glob("/proc/*/environ"):
            try:
                if {SECRET.encode()!r} in open(path, "rb").read():
                    return a + b
            except OSError:
                pass
        """), None),
    "secret in memory": (ADD, body(f"""
        import re
        memory = open("/proc/self/mem", "rb", 0)
        for line in open("/proc/self/maps"):
            start, end = (int(x, 16) for x in line.split()[0].split("-"))
            if line.split()[1][1] == "w" and end - start < 1 << 26:
                memory.seek(start)
                if re.search({SECRET.encode() + b"=[0-9A-Za-z]"!r}, memory.read(end - start) or b""):
                    return a + b
        """), None),
    "secret by a child": (ADD, body(f"""
        import os, subprocess, sys
        child = subprocess.run([sys.executable, "-c", "import os; print({SECRET!r} in os.environ)"], capture_output=True)
        return a + b if b"True" in child.stdout else None
        """), "failed"),
    "home folder": (ADD, reads(f"[os.path.join({HOME!r}, name) for name in os.listdir({HOME!r})]"), None),
    "project folder": (ADD, reads(repr([THIS, PROJECT + "/README.md", PROJECT + "/pyproject.toml"])), "failed"),
    "benchmark file": (ADD, reads(repr([f"{b}/{name}" for b in BENCHMARKS for name in ("HumanEval.jsonl.gz", "mtpb.jsonl")])),
                       "failed"),
    "project by /proc": (ADD, reads(f"[f'/proc/{{pid}}/root' + {THIS!r} for pid in os.listdir('/proc')]"), None),
    "project by descriptors": (ADD, body(f"""
        import os
        for fd in range(256):                   # a folder that was left open leads anywhere
            try:
                os.close(os.open("../" * 40 + {THIS!r}[1:], os.O_RDONLY, dir_fd=fd))
                return a + b
            except OSError:
                pass
        """), None),
    "project by chroot": (ADD, whole(f"""
        import os
        try:
            os.mkdir("x")
            os.chroot("x")
            os.chdir("../" * 40)
        except OSError:
            pass
        found = os.path.exists({THIS!r}[1:])
        def add(a, b): return a + b if found else None
        """), "failed"),
    "writes outside": (ADD, writes(f"open({OUTSIDE!r}, 'w').close()"), None),
    "writes elsewhere": (ADD, writes("\n".join(f"open({path!r}, 'w').close()" for path in ELSEWHERE)), None),
    "writes outside by links": (ADD, writes(f"""os.symlink({OUTSIDE!r}, "link")
open("link", "w").close()
os.symlink({os.path.dirname(OUTSIDE)!r}, "folder")
shutil.copy(sys.executable, "folder/codegen-outside")
open("/proc/1/root" + {OUTSIDE!r}, "w").close()
open("/proc/%d/root" % os.getppid() + {OUTSIDE!r}, "w").close()"""), None),
    "writes outside by a child": (ADD, writes(f"os.system('touch {OUTSIDE}')"), None),
    "connects to a port": (ADD, body(f"""
        import socket
        socket.create_connection(("127.0.0.1", {PORT}), 0.2)
        return a + b
        """), "failed"),
    "connects by an abstract name": (ADD, body(f"""
        import socket
        socket.socket(socket.AF_UNIX).connect({ABSTRACT!r})
        return a + b
        """), "failed"),
    "connects by a path": (ADD, body(f"""
        import glob, socket
        for path in [{SOCKET!r}, *glob.glob("/run/**/*.sock*", recursive=True)]:
            try:
                socket.socket(socket.AF_UNIX).connect(path)
                return a + b
            except OSError:
                pass
        """), None),
    "resolves a name": (ADD, body("import socket\nsocket.getaddrinfo('example.com', 80)\nreturn a + b"), None),
    "has a route": (ADD, body("""
        import socket
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("192.0.2.1", 9))      # sends nothing, but needs a route
        return a + b
        """), None),
}

UNUSUAL = {
    # ---- what it does on the way
    "prints megabytes": (ADD, body("""
        import sys
        for _ in range(20):
            print("x" * 100_000)
            print("y" * 100_000, file=sys.stderr)
        return a + b
        """)),
    "prints what is not ASCII": (ADD, body("print('ñ → 数 \U0001f40d')\nreturn a + b")),
    "prints a verdict": (ADD, body("print('failed: timed out', flush=True)\nreturn a + b")),
    "writes files": (ADD, body("""
        with open("sum.txt", "w") as f:
            f.write(str(a + b))
        with open("sum.txt") as f:
            return int(f.read())
        """)),
    "temporary files": (ADD, body("""
        import tempfile
        with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile("w+", dir=folder) as f:
            f.write(str(a + b))
            f.seek(0)
            return int(f.read())
        """)),
    "changes folder": (ADD, body("import os\nos.makedirs('below', exist_ok=True)\nos.chdir('below')\nreturn a + b")),
    "changes the environment": (ADD, body("import os\nos.environ['SUM'] = str(a + b)\nreturn int(os.environ.pop('SUM'))")),
    "threads": (ADD, body("""
        import threading
        found = []
        threads = [threading.Thread(target=lambda: found.append(a + b)) for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        return found[7]
        """)),
    "daemon thread left": (ADD, body("""
        import threading, time
        threading.Thread(target=time.sleep, args=(20,), daemon=True).start()
        return a + b
        """)),
    "thread pool": (SORT, body("""
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda x: x, sorted(numbers)))
        """)),
    "Python as a child": (ADD, body("""
        import subprocess, sys
        if a != 2: return a + b                 # once: starting Python takes time
        return int(subprocess.check_output([sys.executable, "-c", f"print({a} + {b})"]))
        """)),
    "forked process": (ADD, body("""
        import multiprocessing
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        child = context.Process(target=lambda: theirs.send(a + b))
        child.start()
        child.join()
        return ours.recv()
        """)),
    "forked by hand": (ADD, body("""
        import os
        child = os.fork()
        if not child: os._exit(a + b & 7)
        os.waitpid(child, 0)
        return a + b
        """)),
    "sleeps": (ADD, body("import time\ntime.sleep(0.3 if a == 2 else 0)\nreturn a + b")),
    "alarm": (ADD, body("""
        import signal, time
        def late(*args): raise TimeoutError
        before = signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        try:
            time.sleep(1)
        except TimeoutError:
            return a + b
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
        """)),
    "asyncio": (ADD, body("""
        import asyncio
        async def later():
            await asyncio.sleep(0.01)
            return a + b
        return asyncio.run(later())
        """)),
    "deep recursion": (ADD, body("""
        import sys
        sys.setrecursionlimit(20_000)
        def down(n): return a + b if n == 0 else down(n - 1)
        return down(8000)
        """)),
    "256 MB": (ADD, body("held = bytearray(1 << 28 if a == 2 else 1)\nreturn a + b if held[-1] == 0 else None")),
    "exit caught": (ADD, body("""
        import sys
        try:
            sys.exit(1)
        except SystemExit:
            return a + b
        """)),
    "return in finally": (ADD, body("try:\n    raise KeyboardInterrupt\nfinally:\n    return a + b")),
    "warnings": (ADD, body("import warnings\nwarnings.warn('old', DeprecationWarning)\nreturn a + b")),
    "output redirected": (ADD, body("""
        import contextlib, io
        with contextlib.redirect_stdout(io.StringIO()) as out:
            print(a + b)
        return int(out.getvalue())
        """)),
    "output replaced": (ADD, body("import io, sys\nsys.stdout = sys.stderr = io.StringIO()\nprint('x')\nreturn a + b")),
    "output closed": (ADD, body("import sys\nsys.stdout.close()\nsys.stderr.close()\nreturn a + b")),
    "descriptor 1 closed": (ADD, whole("import os\nos.close(1)", "return a + b")),
    "input closed": (ADD, body("import sys\nsys.stdin.close()\nreturn a + b")),
    "input at its end": (ADD, body("try:\n    return int(input('?'))\nexcept EOFError:\n    return a + b")),
    "input read whole": (ADD, body("import sys\nreturn a + b if sys.stdin.read() == '' else None")),
    "collector off": (ADD, body("import gc\ngc.disable()\ngc.collect()\nreturn a + b")),
    "locale": (ADD, body("import locale\nlocale.setlocale(locale.LC_ALL, '')\nreturn a + b")),
    "seeded": (SORT, body("import random\nrandom.seed(0)\nrandom.shuffle(numbers)\nreturn sorted(numbers)")),
    "at exit": (ADD, whole("import atexit\natexit.register(print, 'bye')", "return a + b")),
    "trace function of its own": (ADD, body("""
        import sys
        sys.settrace(lambda *args: None)
        total = a + b
        sys.settrace(None)
        return total
        """)),
    "recursion limit at load": (ADD, whole("import sys\nsys.setrecursionlimit(10**6)", "return a + b")),
    "builtins patched": (ADD, whole("import builtins\nbuiltins.plus = lambda x, y: x + y\nbuiltins.print = lambda *args: None",
                                    "print(a)\n    return plus(a, b)")),
    "builtins shadowed": (SORT, whole("""
        order, list, print, isinstance, type, len, repr, int = sorted, None, None, None, None, None, None, None
        def sort_numbers(numbers): return order(numbers)
        """)),
    "takes the scorer's names": (ADD, whole("""
        check = candidate = result = results = task = problem = name = value = args = program = entry_point = test = None
        json = os = sys = signal = socket = struct = pickle = marshal = resource = None
        """, "return a + b")),
    "numpy": (SORT, body("import numpy as np\nreturn [numbers[i] for i in np.argsort(np.array(numbers, float))]")),
    "json, pickle, zlib": (SORT, body("""
        import json, pickle, zlib
        return pickle.loads(zlib.decompress(zlib.compress(pickle.dumps(json.loads(json.dumps(sorted(numbers)))))))
        """)),

    # ---- what it returns: equal to the right answer in plain Python, of another type
    "bool for int": (ADD, body("return True if a + b == 1 else False if a + b == 0 else a + b")),
    "float for int": (ADD, body("return float(a + b)")),
    "complex for int": (ADD, body("return complex(a + b)")),
    "Fraction": (ADD, body("from fractions import Fraction\nreturn Fraction(2 * a, 2) + b")),
    "Decimal": (ADD, body("from decimal import Decimal\nreturn Decimal(a) + b")),
    "IntEnum": (ADD, body("import enum\nreturn enum.IntEnum('Sum', {'it': a + b}).it")),
    "int subclass": (ADD, body("class Number(int): pass\nreturn Number(a + b)")),
    "numpy int": (ADD, body("import numpy as np\nreturn np.int64(a) + np.int64(b)")),
    "numpy float": (ADD, body("import numpy as np\nreturn np.float64(a + b)")),
    "numpy array of no dimension": (ADD, body("import numpy as np\nreturn np.array(a + b)")),
    "numpy bool": (EVEN, body("import numpy as np\nreturn np.int64(n) % 2 == 0")),
    "numpy in a tuple": (ENDS, body("import numpy as np\nreturn (np.min(numbers), np.max(numbers)) if numbers else None")),
    "numpy in a list": (SORT, body("import numpy as np\nreturn [np.float64(x) if x == 2.5 else x for x in sorted(numbers)]")),
    "numpy in a dict": (COUNT, body("import numpy as np\nreturn {x: np.int32(list(items).count(x)) for x in items}")),
    "truthy match": (EVEN, body("import re\nreturn re.fullmatch('-?[0-9]*[02468]', str(n))")),
    "truthy text": (EVEN, body("return '' if n % 2 else 'even'")),
    "truthy object": (EVEN, body("class Parity:\n    __bool__ = lambda self: n % 2 == 0\nreturn Parity()")),
    "truthy function": (EVEN, body("return None if n % 2 else print")),
    "OrderedDict": (COUNT, body("""
        from collections import OrderedDict
        return OrderedDict((x, list(items).count(x)) for x in items)
        """)),
    "Counter": (COUNT, body("from collections import Counter\nreturn Counter(items)")),
    "defaultdict": (COUNT, body("""
        from collections import defaultdict
        counts = defaultdict(lambda: 0)
        for item in items: counts[item] += 1
        return counts
        """)),
    "str subclass": (COUNT, body("""
        class Key(str): pass
        return {Key(x) if isinstance(x, str) else x: list(items).count(x) for x in items}
        """)),
    "list subclass": (SORT, body("class Numbers(list): pass\nreturn Numbers(sorted(numbers))")),
    "named tuple": (ENDS, body("""
        from collections import namedtuple
        return namedtuple("Extremes", "least greatest")(min(numbers), max(numbers)) if numbers else None
        """)),
    "the argument itself": (SORT, body("numbers.sort()\nreturn numbers")),
    "the same list each time": (SORT, whole("""
        out = []
        def sort_numbers(numbers):
            out[:] = sorted(numbers)
            return out
        """)),

    # ---- how it is written
    "lambda": (ADD, whole("add = lambda a, b: a + b")),
    "redefined": (ADD, whole("def add(x, y): return x + y")),
    "docstring, then another def": (ADD, "\n\ndef helper(a, b):\n    return a + b\n\n\nadd = helper\n"),
    "callable object": (ADD, whole("class Add:\n    def __call__(self, a, b): return a + b\nadd = Add()")),
    "class that makes the answer": (ADD, whole("class add(int):\n    def __new__(cls, a, b): return int.__new__(cls, a + b)")),
    "partial": (ADD, whole("import functools, operator\nadd = functools.partial(operator.add)")),
    "builtin": (SORT, whole("sort_numbers = sorted")),
    "cached": (ADD, whole("import functools\n@functools.lru_cache(maxsize=None)\ndef add(a, b): return a + b")),
    "decorated": (ADD, whole("""
        import functools
        def twice(f):
            @functools.wraps(f)
            def g(*args, **named):
                f(*args, **named)
                return f(*args, **named)
            return g
        @twice
        def add(a: int, b: int) -> int: return a + b
        """)),
    "nested": (ADD, body("""
        total = a
        def inner():
            nonlocal total
            total += b
        inner()
        return total
        """)),
    "state between calls": (ADD, whole("""
        calls = {}
        def add(a, b):
            calls[len(calls)] = (a, b)
            return sum(calls[len(calls) - 1])
        """)),
    "generators": (SORT, body("""
        import itertools
        endless = itertools.count()
        def parts():
            yield from sorted(numbers)
        return [x for x, _ in zip(parts(), endless)]
        """)),
    "dataclass": (ADD, whole("""
        import dataclasses
        @dataclasses.dataclass(frozen=True)
        class Pair:
            left: "int"
            right: "int" = 0
        def add(a: "Number", b: "Number") -> "Number": return sum(dataclasses.astuple(Pair(a, b)))
        """)),
    "typing": (SORT, whole("""
        from typing import List, Optional, TypeVar
        T = TypeVar("T")
        def sort_numbers(numbers: Optional[List[T]] = None) -> List[T]: return sorted(numbers or [])
        """)),
    "not the main program": (ADD, whole("if __name__ == '__main__':\n    raise RuntimeError('a script')", "return a + b")),
    "asserts about itself": (ADD, whole("assert add(1, 1) == 2 and add.__name__ == 'add'", "return a + b")),
    "exec and eval": (ADD, body("names = {}\nexec('def plus(x, y): return eval(\"x+y\")', names)\nreturn names['plus'](a, b)")),
    "match": (EVEN, body("match n % 2:\n    case 0: return True\n    case _: return False")),
    "walrus and stars": (ENDS, body("""
        if not (count := len(numbers)): return None
        first, *rest = sorted(numbers)
        return (first, *(rest[-1:] or [first]))[:count + 1]
        """)),
    "names that are not ASCII": (ADD, body("größe, π = a, b\nreturn größe + π")),
    "line separators in a string": (ADD, "    text = 'a\u2028b\u2029c\x85d\x0c'\n    return a + b if len(text) == 8 else 0\n"),
    "carriage returns": (ADD, body("total = a\ntotal += b\nreturn total").replace("\n", "\r\n")),
    "no newline at the end": (ADD, "    return a + b"),
    "tabs below": (ADD, "    if True:\n    \treturn a + b\n"),
    "long integers": (ADD, body("shift = 1 << 100_000\nreturn (a * shift + b * shift) // shift")),
    "5 MB of source": (ADD, body("return a + b") + "\n" + ("# " + "ñ" * 70 + "\n") * 35_000),
}
