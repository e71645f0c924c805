"""Laws of the sandbox, in every kind of isolation that this machine allows, for root and for others: no wall has a hole,
nothing right is lost, what crosses the border costs little and gives nothing, what ends leaves nothing."""
from harness import filter as calls
from harness import inside, outside, printed
from harness.messages import TABLE, Channel, decode, encode

import fcntl
import importlib.util
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import numpy as np
import programs
import programs2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import humaneval
import mtpb

ROOT = Path(__file__).parents[1]
USER = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]      # with no right over the machine
WITHOUT = {"bwrap": {"locks of others", "process numbers of others"},
           "none": set(programs2.WALLS)}


def verdicts(isolation):
    """What is wrong in this kind of isolation -> {name: result}."""
    outside.first_worker = lambda unsafe, runner, warm: outside.Worker(isolation, runner, warm)
    wrong = {}
    hostile = programs2.WALLS | programs2.BORDER
    hostile = {n: p for n, p in hostile.items() if n not in WITHOUT.get(isolation, ())
               and (os.uname().machine == "x86_64" or "libc.syscall" not in p[1])}
    results = humaneval.check_all([(programs.PROBLEMS[i], text) for i, text, _ in hostile.values()], 1.5, 1)
    wrong |= {n: r["result"] for (n, (_, _, want)), r in zip(hostile.items(), results)
              if r["passed"] or want and not r["result"].startswith(want) or r["result"].startswith("failed: it ended")}
    right = programs2.RIGHT
    results = humaneval.check_all([(programs.PROBLEMS[i], text) for i, text in right.values()], 20, 2)
    wrong |= {n: r["result"] for n, r in zip(right, results) if not r["passed"]}
    printed = programs2.PRINTED | {n: (text, 5) for n, text in programs2.ENDED.items()}
    ran, _ = mtpb.judge_all([(text, gold) for text, gold in printed.values()], 1.5, 2)
    wrong |= {n: got for (n, (got, _)) in zip(printed, ran)
              if got["passed_strict"] or got["passed"] and n not in programs2.ENDED}
    return wrong


@pytest.fixture
def locked():
    with open(programs2.LOCKED, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize("user", ["ourselves", "another user"])
@pytest.mark.parametrize("isolation", ["namespaces", "bwrap", "none"])
def test_no_wall_has_a_hole_and_nothing_right_is_lost(isolation, user, locked):
    code = (f"import json, sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]; import test_harness;"
            f" print(json.dumps(test_harness.verdicts({isolation!r})))")
    command = [sys.executable, "-c", code]
    if user == "another user":
        if os.getuid() or isolation == "none" or subprocess.run([*USER, "true"], capture_output=True).returncode:
            pytest.skip("only root can be another user here")
        command = USER + command
    try:
        outside.Worker(isolation).stop()
    except OSError as error:
        pytest.skip(f"{isolation} does not work on this machine: {error}")
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {}


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A temporary folder of one test alone: what lies in it afterwards was left."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def worker(isolation, **kinds):
    try:
        return outside.Worker(isolation, **kinds)
    except OSError as error:
        pytest.skip(f"{isolation} does not work on this machine: {error}")


ADD = programs.PROBLEMS[programs.ADD]
RIGHT = "    return a + b\n"


def add_once(worker, body=RIGHT, seconds=5):
    """-> what a worker makes of add(2, 3) with this body."""
    def talk(channel, said):
        channel.receive()
        channel.send({"args": encode([2, 3]), "kwargs": encode({}), "secret": "x"})
        said.append(channel.receive())
    job = {"secret": "", "source": ADD["prompt"] + body, "entry_point": "add"}
    return worker.run(job, talk, seconds)


# ---- the filter of system calls

def answer(lines, machine_name, number, arguments=()):
    """What the kernel's machine makes of a system call: the value of the return that it comes to."""
    words = {0: number, 4: machine_name} | {16 + 8 * i: x for i, x in enumerate(arguments)}
    at, value = 0, 0
    while True:
        code, yes, no, k = lines[at]
        if code == calls.RETURN:
            return k
        if code == calls.LOAD:
            value = words.get(k, 0)
            at += 1
            continue
        holds = {calls.EQUAL: value == k, calls.AT_LEAST: value >= k, calls.MORE: value > k,
                 calls.BITS: value & k}[code]
        at += 1 + (yes if holds else no)


@pytest.mark.parametrize("machine", calls.MACHINES)
def test_the_filter_allows_what_is_in_its_table_and_nothing_else(machine):
    column, name = calls.MACHINES[machine]
    own, table = calls.numbers(calls.ZYGOTE, column), calls.numbers(calls.TABLE, column)
    checked = {row[column] for row in calls.CHECKED.values()}
    assert len({*own, *table, *checked}) == len(own) + len(table) + len(checked)
    first, second = calls.zygote_filter(machine), calls.program_filter(machine)
    allow = calls.ALLOW[3]
    for number in [*range(600), 1 << 30, (1 << 30) + 39, (1 << 32) - 1]:
        if number in checked:
            continue
        assert (answer(first, name, number) == allow) == (number in table or number in own)
        assert (answer(second, name, number) == allow) == (number not in own)
        assert answer(first, name ^ 1, number) != allow
    with_arguments = [("socket", (1, 1, 0), True), ("socket", (10, 2, 17), True), ("socket", (16, 3, 0), False),
                      ("socket", (2, 1, 132), False), ("socketpair", (1, 1, 0), True),
                      ("socketpair", (2, 1, 0), False), ("setsockopt", (0, 1, 2), True),
                      ("setsockopt", (0, 1, 26), False), ("setsockopt", (0, 41, 32), False),
                      ("setsockopt", (0, 6, 1), True), ("fcntl", (0, 1026), False),
                      ("fcntl", (0, 1024), False), ("fcntl", (0, 1), True),
                      ("ioctl", (0, 0x5401), True), ("ioctl", (0, 0x5412), False),
                      ("prlimit64", (0, 1), True), ("prlimit64", (1, 1), False),
                      ("setpriority", (0, 0, 1), True), ("setpriority", (2, 0, 1), False),
                      ("clone", (17,), True), ("clone", (17 | 1 << 28,), False)]
    for call, arguments, right in with_arguments:
        row = calls.CHECKED[call]
        assert (answer(first, name, row[column], arguments) == allow) == right, (call, arguments)


# ---- who a program is, and what is left of it

def test_for_root_a_program_is_nobody_of_the_host():
    sandbox = worker("namespaces")
    if os.getuid():
        pytest.skip("only root can hand out users")
    owners = []

    def look(channel, said):
        channel.receive()
        children = lambda pid: Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        pids = [sandbox.process.pid]
        while children(pids[-1]):
            pids += children(pids[-1])[:1]
        owners.append(os.stat(f"/proc/{pids[-1]}").st_uid)
    sandbox.run({"secret": "", "source": "", "entry_point": ""}, look, 5)
    sandbox.stop()
    assert owners[0] >= inside.UNUSED


def test_bubblewrap_gives_up_every_right_also_for_root():
    command = outside.bwrap_command() if outside.shutil.which("bwrap") else pytest.skip("no bwrap")
    text = " ".join(command)
    assert "--cap-drop ALL" in text and "--unshare-user --uid 65534 --gid 65534" in text
    assert text.endswith("--remount-ro /dev --remount-ro /")
    assert text.count("--size") == text.count("--tmpfs") == 2 or not outside.bwrap_can("--size")


def test_a_project_that_is_its_own_virtual_environment_is_not_seen(tmp_path, monkeypatch):
    for name in ("bin", "lib/python3/site-packages", "secret"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "main.py").write_text("")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    shown = outside.readable_paths()
    assert str(tmp_path) not in shown and str(tmp_path / "bin") in shown
    assert not any(path in shown for path in ("/", "/usr", str(Path.home()), str(ROOT), "/etc", "/proc"))


def test_children_that_use_too_much_memory_together_are_ended():
    sandbox = worker("namespaces")
    body = programs.body("""
        import os, time
        for _ in range(6):
            if os.fork() == 0:
                held = bytes([1]) * (440 << 20)
                time.sleep(20)
                os._exit(0)
        time.sleep(20)
        """)
    said, how, _ = add_once(sandbox, body, 20)
    sandbox.stop()
    assert how == "out of memory" and not said


@pytest.mark.parametrize("isolation", ["namespaces", "bwrap", "none"])
def test_a_sandbox_that_died_while_nothing_ran_is_replaced(isolation, temporary):
    sandbox = worker(isolation)
    for _ in range(2):
        assert add_once(sandbox)[0] == [{"secret": "x", "value": 5}]
        os.kill(sandbox.process.pid, signal.SIGKILL)
        sandbox.control.sock.settimeout(10)
        assert sandbox.control.sock.recv(1) == b""
    assert add_once(sandbox)[0] == [{"secret": "x", "value": 5}]
    sandbox.stop()
    assert list(temporary.glob("codegen-*")) == []


def alive(mark):
    """Processes of this machine whose environment or command line has a word in it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            texts = [(folder / name).read_bytes() for name in ("cmdline", "environ")]
            if any(mark.encode() in text for text in texts) and int(folder.name) != os.getpid():
                found.append(folder.name)
        except OSError:
            pass
    return found


@pytest.mark.parametrize("flags", [[], ["--unsafe"]])
@pytest.mark.parametrize("moment", [0.3, 0.5, 0.8, 2.5])
def test_a_scorer_killed_at_any_moment_leaves_no_process_and_no_folder(flags, moment, temporary, tmp_path_factory):
    samples = tmp_path_factory.mktemp("samples") / "s.jsonl"
    sleeper = {"task_id": "HumanEval/0", "completion": "    import time; time.sleep(60)\n"}
    samples.write_text(2 * (json.dumps(sleeper) + "\n"))
    mark = f"codegen-scorer-{random.getrandbits(60)}"
    bare = "" if not flags else "outside.first_worker = lambda unsafe, *kind: outside.Worker('none', *kind); "
    code = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['humaneval.py', 'score', {str(samples)!r},"
            f" '--timeout', '60', *{flags}]; from harness import outside; {bare}import humaneval; humaneval.main()")
    scorer = subprocess.Popen([sys.executable, "-c", code, mark], cwd=ROOT, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, env=os.environ | {"TMPDIR": str(temporary), "MARK": mark})
    time.sleep(moment)
    scorer.kill()
    scorer.wait()
    end = time.monotonic() + 10             # it takes less than a second where the machine has nothing else to do
    left = lambda: alive(mark) + alive(str(temporary)) + list(temporary.glob("codegen-*"))
    while left() and time.monotonic() < end:
        time.sleep(0.05)
    assert left() == []


def test_a_command_does_not_outlive_the_one_that_runs_it(tmp_path):
    mark = f"codegen-command-{random.getrandbits(60)}"
    (tmp_path / "sleeper.py").write_text("import time\nprint('there', flush=True)\ntime.sleep(60)\n")
    code = f"from harness.cli import call_script; call_script({str(tmp_path / 'sleeper.py')!r}, {mark!r})"
    outer = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert outer.stdout.readline() == b"there\n"
    outer.kill()
    outer.wait()
    end = time.monotonic() + 10
    while alive(mark) and time.monotonic() < end:
        time.sleep(0.05)
    assert alive(mark) == []


def test_folders_of_killed_runs_are_swept_and_those_of_others_stay(temporary):
    for name in ("codegen-mine", "codegen-running", "codegen-strangers", "other"):
        (temporary / name).mkdir()
    for name in ("codegen-mine", "codegen-running", "other"):
        (temporary / name / ".lock").touch()
    (temporary / "codegen-link").symlink_to(temporary / "other")
    for name in ("codegen-emptied", "codegen-just-made", "codegen-full"):
        (temporary / name).mkdir()
    (temporary / "codegen-full" / "file").touch()
    for name in ("codegen-emptied", "codegen-full"):
        os.utime(temporary / name, (1, 1))
    with open(temporary / "codegen-running" / ".lock") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        inside.sweep(str(temporary))
    assert sorted(p.name for p in temporary.iterdir()) == [
        "codegen-full", "codegen-just-made", "codegen-link", "codegen-running", "codegen-strangers", "other"]


def test_a_folder_is_removed_however_deep_and_unreadable_it_is_and_nothing_beyond_it(tmp_path):
    (tmp_path / "kept").touch()
    scratch, here = tmp_path / "scratch", os.getcwd()
    scratch.mkdir()
    os.chdir(scratch)
    os.symlink(tmp_path, "link")
    for _ in range(2100):
        os.mkdir("d")
        (Path("d") / "file").touch()
        os.chdir("d")
    os.chdir(scratch)
    os.chmod("d/d", 0)
    os.chmod("d", 0o500)
    os.chdir(here)
    inside.remove(str(scratch))
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


# ---- judging

@pytest.mark.parametrize("isolation", ["namespaces", "bwrap", "none"])
@pytest.mark.parametrize("runner", ["calls", "prints"])
def test_a_program_that_others_kept_from_the_processor_is_not_to_blame(isolation, runner):
    """Also where it ends by itself when its time is over. Seven others want the same processor."""
    processors, busy = os.sched_getaffinity(0), "while True: pass"
    os.sched_setaffinity(0, {min(processors)})
    others = [subprocess.Popen([sys.executable, "-c", busy]) for _ in range(7)]
    try:
        sandbox = worker(isolation, runner=runner)
        job = {"secret": "", "source": busy, "timeout": 0.5}
        _, how, _ = sandbox.run(job, lambda *of: printed.listen("", None, *of), 0.7)
        sandbox.stop()
        assert how == "timed out" and sandbox.starved
    finally:
        os.sched_setaffinity(0, processors)
        for other in others:
            other.kill()
            other.wait()


def test_tests_that_never_end_or_that_end_their_judge_fail_alone():
    def problem(test):
        return ADD | {"test": f"def check(candidate):\n    {test}\n"}
    tests = ["while True: pass", "10 ** 10 ** 10", "import os; os._exit(0)", "import os; os.kill(os.getpid(), 9)",
             "assert candidate(2, 3) == 5", "raise SystemExit"]
    results = humaneval.check_all([(problem(test), RIGHT) for test in tests], timeout=1, workers=2)
    assert [r["passed"] for r in results] == [False] * 4 + [True, False]
    assert [r["result"] for r in results[:2]] == ["timed out"] * 2


def test_ctrl_z_stops_no_judge_because_the_clock_of_its_program_runs_on():
    stops = "    import os, signal\n    os.kill(os.getpid(), signal.SIGTSTP)\n    assert candidate(2, 3) == 5\n"
    problem = ADD | {"test": f"def check(candidate):\n{stops}"}
    assert humaneval.check_correctness(problem, RIGHT, timeout=10)["passed"]


def test_only_what_the_machine_did_to_a_program_is_run_again(monkeypatch):
    bodies = ["import time; time.sleep(9)", "import os; os.kill(os.getpid(), 9)", "import os; os._exit(0)", "while True: pass"]
    items = [(ADD, f"    {body}\n") for body in bodies]
    monkeypatch.setattr(outside.Worker, "waited", lambda self: 0.0)
    monkeypatch.setattr(outside.Worker, "program_waited", lambda self: 0.0)
    asleep, killed, left, _ = humaneval.check_all(items, timeout=0.5, workers=1)
    assert not (asleep["again"] or killed["again"] or left["again"])
    counts = iter(range(1000))
    monkeypatch.setattr(outside.Worker, "waited", lambda self: float(next(counts)))     # its judge had no processor
    asleep, killed, left, _ = humaneval.check_all(items, timeout=0.5, workers=1)
    assert asleep["again"] and not killed["again"] and not left["again"]


# ---- the border

def test_every_row_of_the_table_comes_back_as_it_went():
    from collections import UserDict, UserList
    from decimal import Decimal
    from fractions import Fraction
    values = [5, 2 ** 90, [1], (1,), {1}, frozenset("a"), {1: 2}, {1: 2}.keys(), range(3), b"a", bytearray(b"a"), 1j,
              np.arange(3), np.int8(3), Decimal("1.50"), Decimal("-Infinity"), Decimal("0E-30"), Fraction(1, 3),
              UserList([1]), UserDict({1: 2})]
    tags = set()
    for x in values:
        tree = json.loads(json.dumps(encode(x)))
        tags |= {tree[0]} if isinstance(tree, list) else set()
        same = np.array_equal if isinstance(x, np.ndarray) else lambda a, b: a == b
        assert same(decode(tree), x) and (type(decode(tree)) is type(x) or "User" in type(x).__name__)
    assert {row.tag for row in TABLE} - tags == {"series", "object"}


def test_a_series_counts_only_where_pandas_is_installed(monkeypatch):
    tree = ["series", ["<f8", ["list", []]]]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pandas"):
        decode(tree)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert mtpb.check_equivalence(decode(tree), 5)          # as the official scorer, given a real one


def test_the_arrays_of_a_message_cost_little_together():
    texts = ["array", ["<U2500", ["list", ["x"] * 1600]]]
    assert decode(texts).nbytes == 16_000_000
    with pytest.raises(ValueError, match="too large"):
        decode(["list", [texts] * 3])


SMALL = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from([
    "1e9999999999", "0x" + "f" * 30_000, "<U99999", "<f8", "|V8", "F", "\ud800", 10 ** 40, -1, -2, float("nan"), 1e308]))
TREES = st.recursive(SMALL, lambda inner: st.one_of(
    st.tuples(st.sampled_from([row.tag for row in TABLE] + ["none"]), st.lists(inner, max_size=6)).map(list),
    st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=3)), max_leaves=30)
FUZZ = settings(max_examples=int(os.environ.get("CODEGEN_FUZZ", 150)), deadline=None, database=None)


def look_at(value):
    """What the judges do with a value that has come in: for them it must be cheap, or refused."""
    for expected in (5, 0.5, True, "5", [5], {"a": 5}, None):
        mtpb.check_equivalence(value, expected)
        mtpb.check_strict(value, expected)
        for compare in (lambda a, b: a == b, lambda a, b: b in a, lambda a, b: abs(a - b) < 1e-6, lambda a, b: sorted(a)):
            try:
                compare(value, expected)
            except Exception:
                pass


@FUZZ
@given(TREES, st.sampled_from(["", "list", "set", "tuple", "dict"]), st.integers(0, 3),
       st.randoms(use_true_random=False))
def test_whatever_tree_arrives_is_small_or_refused(tree, many, break_it, chance):
    """There is no deadline here: what takes for ever would be seen."""
    if many and len(json.dumps(tree)) < 1000:
        tree = [many, [tree, 0] * 700]
    text = json.dumps({"value": tree})
    for _ in range(break_it):
        at = chance.randrange(len(text))
        text = chance.choice([text[:at] + text[at + 1:], text[:at] + text[at:] * 2, text[:at] + "[" * 5000 + text[at:],
                              text[:at] + chance.choice('[]{}",:0e-') + text[at:], text.replace("1", "9" * 5000, 1)])[:100_000]
    arrived = io.BytesIO(len(text).to_bytes(4, "big") + text.encode())
    try:
        value = decode(Channel(types.SimpleNamespace(recv=arrived.read)).receive()["value"])
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, EOFError):
        return
    look_at(value)
