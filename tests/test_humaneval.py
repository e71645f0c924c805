"""Laws of HumanEval: nothing hostile passes or stays, nothing right fails, pass@k is exact, resuming loses nothing."""
from harness import files, outside, samples, ways
from harness.messages import decode, encode

import fcntl
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from math import comb
from pathlib import Path

import programs
import pytest

import humaneval
import mtpb
from humaneval import check_all, check_correctness, estimate_pass_at_k

ROOT = Path(__file__).parents[1]


def official_problems():
    return humaneval.read_problems(files.find_benchmark("HumanEval.jsonl.gz"))


def run(script, *args, env=None):
    return subprocess.run([sys.executable, ROOT / script, *map(str, args)], capture_output=True, text=True, cwd=ROOT,
                          env=os.environ | (env or {}))


def write_lines(path, records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


# ---- isolation

@pytest.fixture(scope="module", autouse=True)
def temporary(tmp_path_factory):
    """A temporary folder of these tests alone: what lies in it afterwards was left by them."""
    folder = str(tmp_path_factory.mktemp("temporary"))
    before = os.environ.get("TMPDIR"), tempfile.tempdir
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    yield
    tempfile.tempdir = before[1]
    os.environ.pop("TMPDIR") if before[0] is None else os.environ.update(TMPDIR=before[0])


@pytest.fixture(scope="module")
def tempting():
    """What hostile programs look for: a secret in the environment, listeners on every kind of address."""
    os.environ[programs.SECRET] = "s3cret"
    listeners = [socket.socket(), socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)]
    listeners[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for listener, address in zip(listeners, (("127.0.0.1", programs.PORT), programs.ABSTRACT, programs.SOCKET)):
        listener.bind(address)
        listener.listen(64)
    yield
    del os.environ[programs.SECRET]
    for listener in listeners:
        listener.close()
    os.unlink(programs.SOCKET)


def left_behind():
    """Processes and files that a program could have left."""
    running = subprocess.run(["ps", "-eo", "pid,comm,args"], capture_output=True, text=True).stdout.splitlines()
    files = [p for p in (programs.OUTSIDE, *programs.ELSEWHERE) if os.path.lexists(p)]
    folders = [str(p) for p in Path(tempfile.gettempdir()).glob("codegen-*")]
    return [line for line in running if programs.MARK in line] + files + folders


def wrong_verdicts(chosen, results):
    """{name: result} where a hostile program passed, or failed for another reason than its own."""
    return {name: r["result"] for (name, (_, _, want)), r in zip(chosen.items(), results)
            if r["passed"] or want and not r["result"].startswith(want)}


def test_no_hostile_program_passes_and_nothing_stays(tempting):
    items = [(programs.PROBLEMS[i], completion) for i, completion, _ in programs.HOSTILE.values()]
    assert wrong_verdicts(programs.HOSTILE, check_all(items, timeout=0.8, workers=4)) == {}
    assert left_behind() == []
    assert check_correctness(programs.PROBLEMS[0], "    return a + b\n")["passed"]


def test_unusual_programs_pass():
    items = [(programs.PROBLEMS[i], completion) for i, completion in programs.UNUSUAL.values()]
    results = check_all(items, timeout=10, workers=3)
    assert {name: r["result"] for name, r in zip(programs.UNUSUAL, results) if not r["passed"]} == {}


@pytest.mark.parametrize("isolation", ["bwrap", "none"])
def test_the_other_ways_of_isolation_give_the_same_verdicts(isolation, monkeypatch, tempting):
    """A sample of programs under bubblewrap; and with --unsafe those that need no kernel to be caught."""
    try:
        outside.Worker(isolation).stop()
    except OSError as error:
        pytest.skip(f"{isolation} does not work on this machine: {error}")
    monkeypatch.setattr(outside, "first_worker", lambda unsafe, runner, warm: outside.Worker(isolation, runner, warm))
    names = list(programs.HOSTILE)
    needs_kernel = ("kill", "fork", "open(", "socket", "subprocess", "chroot", "environ", "ctypes", "ptrace", "memory")
    some = {n: programs.HOSTILE[n] for n in (names[::16] if isolation == "bwrap" else [
        n for n in names if programs.HOSTILE[n][2] == "failed" and not any(w in programs.HOSTILE[n][1] for w in needs_kernel)])}
    items = [(programs.PROBLEMS[i], completion) for i, completion, _ in some.values()]
    assert wrong_verdicts(some, check_all(items, timeout=2, workers=4)) == {}
    items = [(programs.PROBLEMS[i], completion) for i, completion in list(programs.UNUSUAL.values())[::8]]
    assert all(r["passed"] for r in check_all(items, timeout=10, workers=3))
    assert left_behind() == []


def test_a_program_may_import_numpy_without_naming_it():
    """The sandbox has imported it only where a program names it."""
    body = '    import importlib\n    return importlib.import_module("num" + "py").int64(a + b)\n'
    assert check_correctness(programs.PROBLEMS[0], body, timeout=10)["passed"]


def test_verdicts_do_not_depend_on_workers_or_order():
    chosen = [(i, c) for i, c, _ in list(programs.HOSTILE.values())[:12]] + list(programs.UNUSUAL.values())[:12]
    items = [(programs.PROBLEMS[i], c) for i, c in chosen]
    results = [[r["result"] for r in check_all(items[::step], timeout=2, workers=w)][::step] for step, w in ((1, 1), (-1, 4))]
    assert results[0] == results[1]


def test_without_isolation_scoring_refuses_in_one_line(monkeypatch):
    def impossible(isolation, runner="", warm=()):
        raise OSError("not here")
    monkeypatch.setattr(outside, "Worker", impossible)
    with pytest.raises(ValueError, match="cannot be isolated here .*--unsafe"):
        check_correctness(programs.PROBLEMS[0], "    return a + b\n")


def test_scoring_never_imports_jax():
    code = "import humaneval, mtpb, sys; assert not {'jax', 'jaxlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


KEYS = """import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def add(a, b):
    found = [libc.syscall(248, b"user", b"codegen-note", b"5", 1, ring) for ring in (-3, -4, -5)]
    import socket
    try:
        found.append(socket.socket(40, socket.SOCK_STREAM).fileno())       # AF_VSOCK
    except OSError:
        found.append(-1)
    return a + b if max(found) >= 0 else None
"""
STOPPER = "    import os, signal\n    os.kill(os.getppid(), signal.SIGSTOP)\n    return None\n"


def test_keyrings_and_sockets_that_namespaces_do_not_divide_are_refused():
    if os.uname().machine != "x86_64":
        pytest.skip("the numbers of the system calls are x86_64's")
    assert not check_correctness(programs.PROBLEMS[0], "    pass\n" + KEYS)["passed"]


def test_a_program_that_stops_its_parent_stops_only_itself(monkeypatch):
    """Without isolation it can; the scorer goes on with a new one."""
    monkeypatch.setattr(outside, "first_worker", lambda unsafe, runner, warm: outside.Worker("none", runner, warm))
    monkeypatch.setattr(outside, "PATIENCE", 3)
    items = [(programs.PROBLEMS[0], STOPPER), (programs.PROBLEMS[0], "    return a + b\n")]
    assert [r["passed"] for r in check_all(items, timeout=1, workers=1)] == [False, True]


def test_a_killed_scorer_leaves_nothing(tmp_path):
    sleeper = {"task_id": "HumanEval/0", "completion": "    import time; time.sleep(60)\n"}
    path = write_lines(tmp_path / "s.jsonl", [sleeper] * 2)
    for flags, number in (([], signal.SIGTERM), (["--unsafe"], signal.SIGINT)):
        scorer = subprocess.Popen([sys.executable, ROOT / "humaneval.py", "score", path, "--timeout", "60", *flags], cwd=ROOT,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        scorer.stdout.readline()                # it has begun
        time.sleep(3)
        scorer.send_signal(number)
        assert scorer.wait(60) == 128 + number
    assert left_behind() == []


# ---- plain values

def test_plain_values_cross_unchanged_and_objects_stay_behind():
    import numpy as np
    for x in (None, True, 3, -2 ** 70, 1.5, float("inf"), "ñ\ud800", [1, [2]], (1, "a"), {1: (2,)}, {3}, frozenset("a"),
              b"\xff", range(2, 9, 3), 1 + 2j, Fraction(1, 3), np.float32(1.5), {"a": 1}.keys()):
        y = decode(json.loads(json.dumps(encode(x))))
        assert y == x and type(y) is type(x)
    assert (decode(encode(np.arange(6).reshape(2, 3))) == np.arange(6).reshape(2, 3)).all()

    class Equal(list):
        __eq__ = lambda self, other: True
    assert decode(encode(Equal([1]))) == [1] and decode(encode(Equal([1]))) != [2]
    assert decode(encode(object())) != object()


@pytest.mark.parametrize("tree", [
    ["no such tag", 1], ["range", ["0x0", "0xfffffffffffff", "0x1"]], ["Decimal", "1e999999999"], ["int", "0x" + "f" * 30_000],
    ["set", list(range(3_000))], ["array", "<U100000", ["list", ["a"] * 500]], ["array", "|V8", 1], ["object", {"int": "x"}],
    ["array", "<U1500", ["list", [["range", ["0x0", "0xc350", "0x1"]]]]], ["array", "<U0", ["list", ["a" * 2000] * 3]],
    ["Fraction", 1, 0], ["list"], ["dict", [[["list", []], 1]]]])
def test_hostile_trees_are_refused(tree):
    with pytest.raises((ValueError, TypeError, IndexError, ArithmeticError)):
        decode(tree)


# ---- pass@k and scoring

def test_pass_at_k_is_the_probability_of_a_pass_among_k():
    for n, c in itertools.product(range(1, 9), range(9)):
        for k in range(1, n + 1):
            if c <= n:
                assert estimate_pass_at_k(n, c, k) == pytest.approx(float(1 - Fraction(comb(n - c, k), comb(n, k))))
    with pytest.raises(ValueError, match="needs at least 5 samples"):
        estimate_pass_at_k(4, 1, 5)


def test_selftest_passes_on_the_official_file():
    done = run("humaneval.py", "selftest")
    assert "canonical solutions: 164/164 pass" in done.stdout and "empty bodies: 0/164 pass" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1])["selftest"] == "passed" and done.returncode == 0


def test_score_reports_writes_results_and_says_what_is_missing(tmp_path):
    problems = official_problems()
    solve = lambda t: problems[t]["canonical_solution"]
    records = [{"task_id": t, "completion": c, **({"prompt_logprob": [-10.0 * (i + 1), 10]} if j == 0 else {})}
               for i, t in enumerate(["HumanEval/0", "HumanEval/1", "HumanEval/2"])
               for j, c in enumerate([solve(t) if i < 2 else "    pass\n", "    return 0\n"])]
    path = write_lines(tmp_path / "s.jsonl", records)
    done = run("humaneval.py", "score", path, "--k", "1,2")
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["pass@1 of 3 problems"] == pytest.approx(1 / 3) and report["pass@2 of 3 problems"] == pytest.approx(2 / 3)
    assert "not of the whole set of 164" in done.stdout
    assert report["prompt_perplexity"]["passed"]["perplexity"] == pytest.approx((2.718281828 + 7.389056099) / 2)
    assert report["prompt_perplexity"]["not_passed"] == {"problems": 1, "perplexity": pytest.approx(20.0855369),
                                                         "standard_error": None}
    results = [json.loads(line) for line in (tmp_path / "s_results.jsonl").read_text().splitlines()]
    assert [r["passed"] for r in results] == [True, False, True, False, False, False]
    assert [(r["task_id"], r["completion"]) for r in results] == [(r["task_id"], r["completion"]) for r in records]


@pytest.mark.parametrize("line, words", [
    ('{"task_id": "HumanEval/0", "completion": "x"', "line 2: no JSON"), ("[]", "line 2: a JSON object"),
    ('{"task_id": "HumanEval/999", "completion": ""}', "line 2: there is no problem"),
    ('{"task_id": [1], "completion": ""}', "line 2: there is no problem"), ('{"task_id": "HumanEval/0"}', "line 2: completion"),
    ('{"task_id": "HumanEval/0", "completion": "", "prompt_logprob": [-1e6, 1]}', "line 2: prompt_logprob")])
def test_bad_sample_files_are_one_line(line, words, tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_text('{"task_id": "HumanEval/0", "completion": "    pass"}\n' + line + "\n")
    with pytest.raises(ValueError, match=words):
        humaneval.score(official_problems(), [path])
    assert not (tmp_path / "s_results.jsonl").exists()


def test_generations_of_the_bigcode_harness_are_read_with_their_prompts_stripped_or_not(tmp_path):
    problems = official_problems()
    first, second = list(problems.values())[:2]
    path = tmp_path / "generations.json"
    path.write_text(json.dumps([[first["prompt"] + first["canonical_solution"], first["prompt"].strip() + "\n    return 0\n"],
                                [second["prompt"].strip() + "\n" + second["canonical_solution"]]]))
    verdicts = check_all([(problems[r["task_id"]], r["completion"]) for r in samples.read_generations(path, problems)])
    assert [(v["task_id"], v["passed"]) for v in verdicts] == [(first["task_id"], True), (first["task_id"], False),
                                                               (second["task_id"], True)]
    for wrong in ("{}", "[[1]]", json.dumps([["x = 1"]]), json.dumps([[]] * 165)):
        path.write_text(wrong)
        with pytest.raises(ValueError, match="generations.json"):
            samples.read_generations(path, problems)


def test_bad_flags_exit_with_2_and_one_line(tmp_path):
    path = write_lines(tmp_path / "s.jsonl", [{"task_id": "HumanEval/0", "completion": "    pass"}])
    for args in (["score", path, "--k", "5"], ["score", path, "--workers", "0"], ["score", path, "--k", "x"],
                 ["score", tmp_path / "none.jsonl"], ["generate", "--limits", "3"], ["run", "--n", "4", "--k", "10"]):
        done = run("humaneval.py", *args)
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, (args, done.stderr)


def test_a_benchmark_that_cannot_be_fetched_or_differs_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CODEGEN_BENCHMARKS", raising=False)

    def offline(url, timeout):
        raise OSError("no network")
    monkeypatch.setattr(files.urllib.request, "urlopen", offline)
    with pytest.raises(ValueError, match="cannot be downloaded .* save https://.*HumanEval.jsonl.gz"):
        files.find_benchmark("HumanEval.jsonl.gz")
    monkeypatch.setattr(files.urllib.request, "urlopen", lambda url, timeout: open(__file__, "rb"))
    with pytest.raises(ValueError, match="not the official file"):
        files.find_benchmark("HumanEval.jsonl.gz")
    assert not list(tmp_path.rglob("*.gz*"))


# ---- sampling

@pytest.fixture(scope="module")
def model():
    """(Chat maker, prompt_logprob) of a tiny random model."""
    import jax

    import sample
    from data import get_tokenizer
    from model import Config, init_params
    config = Config(n_layer=1, n_head=2, n_embd=16, rotary_dim=4, block_size=256, vocab_size=512)
    params, tokenizer = init_params(jax.random.key(0), config), get_tokenizer("bytes")
    return (lambda ids: sample.Chats(params, config, tokenizer, len(ids), 0.8, 0.95, 0, ids),
            lambda texts, spans=None: sample.prompt_logprob(params, config, tokenizer, texts, spans))


PROBLEMS = {p["task_id"]: p for p in programs.PROBLEMS}
SETTINGS = {"n": 3, "max_new_tokens": 8}


def test_resuming_gives_the_file_of_a_run_that_was_never_stopped(model, tmp_path):
    paths = [tmp_path / f"{i}.jsonl" for i in range(3)]
    for path, batch_size in zip(paths, (6, 2, 6)):
        humaneval.generate(PROBLEMS, path, SETTINGS, *model, (), batch_size)
    whole = paths[0].read_text()
    assert paths[1].read_text() == whole                    # not a matter of the batch
    records = [json.loads(line) for line in whole.splitlines()]
    assert [r["task_id"] for r in records] == [t for t in PROBLEMS for _ in range(3)]
    assert [("prompt_logprob" in r) for r in records] == [True, False, False] * len(PROBLEMS)
    assert len({r["completion"] for r in records}) > 3      # samples differ
    for cut in (40, len(whole) - 1):    # killed in the middle of a line, or of a problem
        paths[2].write_text(whole[:cut])
        humaneval.generate(PROBLEMS, paths[2], SETTINGS, *model, (), 6)
        assert sorted(paths[2].read_text().splitlines()) == sorted(whole.splitlines())
    humaneval.generate(dict(list(PROBLEMS.items())[:1]), paths[2], SETTINGS, *model, (), 6)      # fewer wanted: nothing is lost
    with open(f"{paths[2]}.json") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="being written by another process"):
            humaneval.generate(PROBLEMS, paths[2], SETTINGS, *model, (), 6)
    with pytest.raises(ValueError, match=r"made with other settings \(n\)"):
        humaneval.generate(PROBLEMS, paths[2], SETTINGS | {"n": 4}, *model, ())
    assert sorted(paths[2].read_text().splitlines()) == sorted(whole.splitlines())


def test_the_prompt_goes_in_untouched(tmp_path):
    seen = []

    class Chat:
        def __init__(self, ids):
            self.dropped = [0] * len(ids)

        def reserve(self, *args):
            pass

        def turn(self, texts, *args, **kwargs):
            seen.extend(texts)
            return [("    return 1\n", "stop")] * len(texts)
    problems = official_problems()
    humaneval.generate(problems, tmp_path / "s.jsonl", {"n": 1, "max_new_tokens": 8}, Chat,
                       lambda texts: [(-1.0, 1)] * len(texts), None, batch_size=41)
    assert seen == [p["prompt"] for p in problems.values()]


# ---- problem files of one's own

# Tests that need more than plain values: (prompt, right, wrong, the body of check).
KINDS = {
    "exception": (
        "def half(n):\n",
        "    if n % 2: raise ValueError\n    return n // 2\n",
        "    return n // 2\n",
        "    try: candidate(3)\n    except ValueError: return\n    assert False\n",
    ),
    "assertion": (
        "def half(n):\n",
        "    assert n % 2 == 0\n",
        "    return n\n",
        "    try: candidate(3)\n    except AssertionError: return\n    raise ValueError\n",
    ),
    "in place": (
        "def turn(xs):\n",
        "    xs.reverse()\n",
        "    return xs[::-1]\n",
        "    xs = [1, 2]\n    candidate(xs)\n    assert xs == [2, 1]\n",
    ),
    "unchanged": (
        "def turned(xs):\n",
        "    return xs[::-1]\n",
        "    xs.reverse()\n    return xs\n",
        "    xs = [1, 2]\n    assert candidate(xs) == [2, 1]\n    assert xs == [1, 2]\n",
    ),
    "a copy": (
        "def copied(xs):\n",
        "    return xs[:]\n",
        "    return xs\n",
        "    xs = [1, 2]\n    assert candidate(xs) == [1, 2]\n    assert candidate(xs) is not xs\n",
    ),
    "callback": (
        "def twice(g, x):\n",
        "    return g(g(x))\n",
        "    return g(x)\n",
        "    assert candidate(lambda n: n * 3, 2) == 18\n",
    ),
    "closure": (
        "def add(n):\n",
        "    return lambda m: n + m\n",
        "    return lambda m: n - m\n",
        "    assert candidate(2)(3) == 5\n",
    ),
    "class": (
        "class Box:\n",
        "    def __init__(self): self.x = 1\n",
        "    x = 2\n",
        "    assert candidate().x == 1\n",
    ),
    "generator": (
        "def evens(n):\n",
        "    yield from range(0, n, 2)\n",
        "    yield 0\n",
        "    g = candidate(4)\n    assert [next(g), next(g)] == [0, 2]\n",
    ),
    "names": (
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef flip(p):\n",
        "    return P(p.y, p.x)\n",
        "    return p\n",
        "    assert candidate(P(1, 2)).x == 2\n",
    ),
    "dataclass": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef up(p):\n",
        "    return P(p.x + 1)\n",
        "    return P(1)\n",
        "    assert candidate(P(1)) == P(2)\n",
    ),
    "global": (
        "calls = 0\ndef tick():\n",
        "    global calls\n    calls += 1\n",
        "    calls = 1\n",
        "    candidate()\n    assert calls == 1\n",
    ),
    "output": (
        "def hello():\n",
        "    print('hello')\n",
        "    return 'hello'\n",
        "    import contextlib, io\n    out = io.StringIO()\n"
        "    with contextlib.redirect_stdout(out): candidate()\n"
        "    assert out.getvalue() == 'hello\\n'\n",
    ),
    "large": (
        "def double(xs):\n",
        "    return [2 * x for x in xs]\n",
        "    return xs\n",
        "    assert candidate(list(range(100_000)))[-1] == 199_998\n",
    ),
    "recursion": (
        "def deep(f, n):\n",
        "    return f() if n == 0 else deep(f, n - 1)\n",
        "    return None\n",
        "    import sys\n    sys.setrecursionlimit(30_000)\n"
        "    assert candidate(lambda: 5, 20_000) == 5\n",
    ),
}
PLAIN = ("def up(x):\n", "    return x + 1\n", "    return x\n", "    assert candidate(1) == 2\n")


def own(kinds):
    """Problems in HumanEval's form from a table like KINDS."""
    return {
        f"T/{name}": {
            "task_id": f"T/{name}",
            "prompt": prompt,
            "canonical_solution": right,
            "entry_point": prompt.split("def ")[-1].split("class ")[-1].split("(")[0].rstrip(":\n"),
            "test": f"def check(candidate):\n{body}",
        }
        for name, (prompt, right, _, body) in kinds.items()
    }


def test_tests_that_need_more_than_values_run_beside_the_program(tmp_path, capsys):
    kinds = KINDS | {"plain": PLAIN}
    problems, path = own(kinds), tmp_path / "s.jsonl"
    write_lines(
        path,
        [
            {"task_id": f"T/{name}", "completion": c}
            for name, (_, right, wrong, _) in kinds.items()
            for c in (right, wrong)
        ],
    )
    report = humaneval.score(problems, [path], source=tmp_path / "own.jsonl")
    results = [json.loads(line) for line in (tmp_path / "s_results.jsonl").read_text().splitlines()]
    assert [(r["task_id"], r["passed"]) for r in results] == [
        (t, p) for t in problems for p in (True, False)
    ]
    assert report["judging"] == {
        "outside": 1,
        "inside": len(KINDS),
        "without_known_solution": 0,
        "not_judged": {},
    }
    assert f"{len(KINDS)} by tests beside the program, which is weaker" in capsys.readouterr().out


FORGE = "import json, os, sys\n"
FORGERS = {  # bodies of a function whose tests run beside it
    "leaves": "    os._exit(0)\n",
    "exits": "    sys.exit(0)\n",
    "raises": "    raise BaseException\n",
    "kills": "    os.kill(os.getpid(), 9)\n",
    "hangs": "    while True: pass\n",
    "ends its thread": "    import _thread\n    _thread.exit()\n",
    "new exec": "    return 0\nimport builtins\n"
    "builtins.exec = builtins.compile = lambda *a: None\n"
    "def check(candidate): pass\n",
    "new check": "    return 0\ndef check(candidate): pass\n",
    "new any": "    return 0\nimport builtins\n"
    "builtins.any = builtins.map = lambda *a: iter([None])\n",
    "calls it passed": "    for fd in range(3, 64):\n"
    '        try: os.write(fd, b\'\\0\\0\\0\\x11{"secret": "abcd"}\')\n'
    "        except OSError: pass\n    os._exit(0)\n",
    "walks its frames": """
    frame = sys._getframe()
    while frame:
        for name, value in [*frame.f_locals.items(), *frame.f_globals.items()]:
            if type(value) is bytes and b"secret" in value:
                for fd in range(3, 64):
                    try: os.write(fd, value)
                    except OSError: pass
            if isinstance(value, list): value += [None, "passed"]
            if name in ("say", "put", "returned"):
                try: value(None)
                except Exception: pass
        frame = frame.f_back
    return 0
""",
    "reads the secret first": """    return 0
def listen():
    for fd in range(3, 64):
        try: os.write(fd, os.read(fd, 4096))
        except OSError: pass
import threading
threading.Thread(target=listen, daemon=True).start()
""",
    "a child reads the secret": """    return 0
if os.fork() == 0:
    for fd in range(3, 64):
        try: os.write(fd, os.read(fd, 4096))
        except OSError: pass
    os._exit(0)
""",
    "looks for the judge": """    return 0
for name, module in list(sys.modules.items()):
    if name.startswith("harness"):
        module.run = module.frame = None
        os._exit(0)
json.dumps = os.write = os.read = lambda *a: b""
""",
}


def test_no_forger_passes_beside_its_tests():
    problem = {
        "task_id": "T/f",
        "prompt": FORGE + "def f():\n",
        "entry_point": "f",
        "test": "def check(candidate):\n    assert candidate() == 1\n",
    }
    items = [(problem, body) for body in FORGERS.values()] + [(problem, "    return 1\n")]
    results = check_all(items, timeout=1, workers=4, inside={"T/f"})
    assert {n: r["result"] for n, r in zip(FORGERS, results) if r["passed"]} == {}
    assert results[-1]["passed"] and left_behind() == []


def test_a_problem_that_cannot_be_judged_is_named_and_counts_nowhere(tmp_path, capsys):
    problems = own({"plain": PLAIN, "broken": PLAIN[:1] + ("    return x\n",) + PLAIN[2:]})
    problems["T/unknown"] = problems["T/plain"] | {"task_id": "T/unknown"}
    del problems["T/unknown"]["canonical_solution"]
    path = write_lines(
        tmp_path / "s.jsonl", [{"task_id": t, "completion": PLAIN[1]} for t in problems]
    )
    report = humaneval.score(problems, [path], source=tmp_path / "own.jsonl")
    out = capsys.readouterr().out
    assert report["pass@1 of 2 problems"] == 1 and list(report["judging"]["not_judged"]) == [
        "T/broken"
    ]
    assert report["judging"]["without_known_solution"] == 1
    assert out.index("not judged: T/broken: its own solution fails") < out.index("pass@1")
    results = [
        json.loads(line)["passed"]
        for line in (tmp_path / "s_results.jsonl").read_text().splitlines()
    ]
    assert results == [True, None, True]
    write_lines(path, [{"task_id": "T/broken", "completion": PLAIN[1]}])
    with pytest.raises(ValueError, match="none of the problems"):
        humaneval.score(problems, [path], source=tmp_path / "own.jsonl")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"test": "def test(candidate): pass\n"}, "does not define check"),
        ({"test": "def check(c): pass\ncheck(up)\n"}, "calls check"),
        ({"test": "import nowhere_module\ndef check(c): pass\n"}, "imports nowhere_module"),
        ({"test": "def check(c:\n"}, "no Python"),
        ({"test": "def check(c):\n    from nowhere_module.x import y\n"}, "imports nowhere_module"),
        ({"test": "\0"}, "no Python"),
        ({"prompt": "def up(x:\n"}, "no Python"),
        ({"entry_point": "down"}, "does not define down"),
        ({"test": None}, "test must be"),
        ({"test": 3}, "test must be a text"),
        ({"canonical_solution": 3}, "canonical_solution must be a text"),
        ({"prompt": None}, "prompt must be there"),
        ({"entry_point": ["up"]}, "entry_point must be a text"),
        ({"base_input": 3}, "base_input must be a list"),
        ({"base_input": [1]}, r"base_input\[0\] must be a list"),
        ({"base_input": [[1]], "atol": "x"}, "atol must be a finite number"),
        ({"test": "(" * 10_000}, "no Python"),
        ({"task_id": "Mbpp/2", "base_input": [[1, 2]]}, "not those of this problem"),
    ],
)
def test_a_fault_of_a_problem_file_names_line_and_problem_before_anything_runs(
    change, words, tmp_path, monkeypatch
):
    good = own({"plain": PLAIN})["T/plain"]
    path = write_lines(tmp_path / "own.jsonl", [good | {"task_id": "T/first"}, good | change])
    name = change.get("task_id", "T/plain")
    with pytest.raises(ValueError, match=f"own.jsonl, line 2, {name}: .*{words}"):
        humaneval.read_problems(path)
    monkeypatch.setitem(sys.modules, "sample", None)  # a model would be loaded by it
    args = humaneval.parser().parse_args(
        ["generate", "--ckpt", str(tmp_path), "--problems", str(path)]
    )
    with pytest.raises(ValueError, match="line 2"):
        humaneval.generate_command(args, path)


def test_imports_that_are_tried_and_names_from_anywhere_are_no_fault(tmp_path):
    problem = own({"plain": PLAIN})["T/plain"] | {
        "test": "try:\n    import nowhere_module\nexcept ImportError: pass\n"
        "check = lambda c: c(1)\nif __name__ == 'x': check(up)\n"
    }
    assert humaneval.read_problems(write_lines(tmp_path / "p.jsonl", [problem]))


EVALPLUS = [  # problems as EvalPlus publishes them, right samples, wrong samples
    (
        {
            "task_id": "HumanEval/0",
            "prompt": "def root(x):\n",
            "entry_point": "root",
            "canonical_solution": "    return x ** 0.5\n",
            "base_input": [[4.0]],
            "plus_input": [[9.0], [2.0]],
            "atol": 0,
            "contract": "",
        },
        ["    return x ** 0.5\n", "    return x ** 0.5 + 1e-8\n"],
        [
            "    return 2.0\n",
            "    return x / 2\n",
            "    return x ** .5 + 1e-3\n",
            "    return [x ** 0.5]\n",
        ],
    ),
    (
        {
            "task_id": "HumanEval/32",
            "prompt": "def find_zero(xs):\n",
            "entry_point": "find_zero",
            "canonical_solution": "    return -xs[0] / xs[1]\n",
            "base_input": [[[1, 2]]],
            "plus_input": [[[3, 1]]],
            "atol": 0.0001,
        },
        ["    return -xs[0] / xs[1] + 1e-6\n"],
        ["    return -0.5\n", "    return None\n", "    return complex(-xs[0] / xs[1])\n"],
    ),
    (
        {
            "task_id": "T/halves",
            "prompt": "def halves(xs):\n",
            "entry_point": "halves",
            "canonical_solution": "    return [x / 2 for x in xs]\n",
            "base_input": [[[1]], [[5]]],
            "plus_input": [],
            "atol": 0,
        },
        ["    return [x / 2 + 1e-8 for x in xs]\n"],
        ["    return [[]]\n", "    return [[x / 2 + 1e-8] for x in xs]\n"],
    ),
    (
        {
            "task_id": "Mbpp/2",
            "prompt": '"""\nShared elements.\n"""\n',
            "entry_point": "similar_elements",
            "assertion": "assert True",
            "canonical_solution": "\ndef similar_elements(a, b):\n    return tuple(set(a) & set(b))\n",
            "base_input": [[[1, 2, 3], [3, 2]]],
            "plus_input": [[[], []]],
            "atol": 0,
        },
        [
            "def similar_elements(a, b):\n    assert type(a) is tuple\n    return [x for x in b if x in a]\n"
        ],
        ["def similar_elements(a, b):\n    return a\n"],
    ),
    (
        {
            "task_id": "T/yields",
            "prompt": "class Holder:\n",
            "entry_point": "Holder",
            "canonical_solution": "    def __init__(self, x): self.x = x\n"
            "    def __eq__(self, other): return self.x == other.x\n",
            "base_input": [[1]],
            "plus_input": [],
            "atol": 0,
        },
        [
            "    def __init__(self, y): self.x = y\n    def __eq__(self, other): return self.x == other.x\n"
        ],
        [
            "    def __init__(self, y): self.x = 2\n    def __eq__(self, other): return self.x == other.x\n"
        ],
    ),
]


def test_evalplus_problems_and_solutions(tmp_path):
    problems = humaneval.read_problems(
        write_lines(tmp_path / "plus.jsonl", [p for p, *_ in EVALPLUS])
    )
    records, wanted = [], []
    for p, right, wrong in EVALPLUS:
        for text in right + wrong:
            records += [
                {"task_id": p["task_id"], "completion": text},
                {"task_id": p["task_id"], "solution": p["prompt"] + text},
            ]
            wanted += [text in right] * 2
    path = write_lines(tmp_path / "s.jsonl", records)
    report = humaneval.score(problems, [path], source=tmp_path / "plus.jsonl")
    results = [
        json.loads(line)["passed"]
        for line in (tmp_path / "s_results.jsonl").read_text().splitlines()
    ]
    assert results == wanted and report["judging"]["inside"] == 1
    assert ways.selftest(problems, check_all, tmp_path / "plus.jsonl") is None


def test_a_known_solution_may_be_a_whole_program(tmp_path):
    problem = own({"plain": PLAIN})["T/plain"]
    problem["solution"] = problem["prompt"] + problem.pop("canonical_solution")
    problems = humaneval.read_problems(write_lines(tmp_path / "own.jsonl", [problem]))
    assert ways.find_ways(problems, check_all) == {"T/plain": "outside"}


def test_a_score_of_another_file_is_not_called_humaneval(tmp_path, capsys):
    path = write_lines(
        tmp_path / "s.jsonl", [{"task_id": "Miniature/0", "completion": "    pass\n"}]
    )
    source = ROOT / "miniature" / "humaneval.jsonl"
    report = humaneval.score(humaneval.read_problems(source), [path], source=source)
    assert report["benchmark"] == str(source) and report["official"] is False
    assert f"{source} is not the official HumanEval" in capsys.readouterr().out
    path = write_lines(
        tmp_path / "s.jsonl", [{"task_id": "HumanEval/0", "completion": "    pass\n"}]
    )
    report = humaneval.score(official_problems(), [path])
    assert (
        report["benchmark"] == "humaneval"
        and report["official"] is True
        and "judging" not in report
    )


# ---- earlier results


def test_earlier_results_outlive_every_score_that_does_not_end(tmp_path, monkeypatch):
    problems, results = official_problems(), tmp_path / "s_results.jsonl"
    path = write_lines(
        tmp_path / "s.jsonl", [{"task_id": "HumanEval/0", "completion": "    pass\n"}]
    )
    results.write_text("earlier\n")
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(ValueError):
        humaneval.score(problems, [path], [5])

    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(humaneval, "check_all", stopped)
        humaneval.score(problems, [path])
    write_lines(path, [{"task_id": "HumanEval/0"}])
    with pytest.raises(ValueError):
        humaneval.score(problems, [path])
    assert (
        results.read_text() == "earlier\n" and sorted(p.name for p in tmp_path.iterdir()) == before
    )


@pytest.mark.parametrize("script", [humaneval, mtpb])
def test_a_report_is_printed_also_where_its_results_cannot_be_written(
    script, tmp_path, monkeypatch, capsys
):
    """A disk that is full at the end of hours of work takes none of the figures away."""
    if script is humaneval:
        problems, record = official_problems(), {"task_id": "HumanEval/0", "completion": "    pass\n"}
    else:
        problems = mtpb.read_problems(files.find_benchmark("mtpb.jsonl"))
        given, gold = problems[0]["cases"][0]
        record = {"id": problems[0]["id"], "input": given, "completions": "print(1)"}
    path = write_lines(tmp_path / "s.jsonl", [record])

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left .*s_results.jsonl"):
        script.score(problems, [path], workers=1)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["programs"] == 1
    assert os.listdir(tmp_path) == ["s.jsonl"]


def test_results_go_where_they_are_wanted_and_never_over_their_input(tmp_path):
    path = write_lines(
        tmp_path / "s.jsonl", [{"task_id": "HumanEval/0", "completion": "    pass\n"}]
    )
    done = run("humaneval.py", "score", path, "--results", tmp_path / "elsewhere.jsonl")
    assert (
        json.loads((tmp_path / "elsewhere.jsonl").read_text())["passed"] is False
        and not (tmp_path / "s_results.jsonl").exists()
    )
    assert json.loads(done.stdout.splitlines()[-1])["results_file"] == str(
        tmp_path / "elsewhere.jsonl"
    )
    for bad in (path, tmp_path / "no folder" / "x", tmp_path / "s.jsonl" / "x", tmp_path):
        done = run("humaneval.py", "score", path, "--results", bad)
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert json.loads(path.read_text())["completion"] == "    pass\n"
