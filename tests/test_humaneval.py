"""Laws of HumanEval: nothing hostile passes or stays, nothing right fails, pass@k is exact, resuming loses nothing."""
from harness import files, outside
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
from humaneval import check_all, check_correctness, estimate_pass_at_k

ROOT = Path(__file__).parents[1]
OFFICIAL = files.find_benchmark("HumanEval.jsonl.gz")


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


def test_a_timeout_without_the_processor_is_run_again_alone_and_a_busy_loop_is_not(monkeypatch):
    seconds, run = [], outside.Worker.run

    def spy(*args):
        result = run(*args)
        seconds.append(result[2])
        return result
    monkeypatch.setattr(outside.Worker, "run", spy)
    bodies = ["    while True: pass\n", "    import time\n    time.sleep(9)\n"]
    loop, sleep = check_all([(programs.PROBLEMS[0], body) for body in bodies], timeout=1, workers=1)
    assert sleep["result"] == loop["result"] == "timed out" and sleep["again"]
    assert loop["again"] == (seconds[1] < 0.9)      # on a busy machine the loop may be starved too; [0] is an empty program


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
    problems = humaneval.read_problems(OFFICIAL)
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
        humaneval.score(humaneval.read_problems(OFFICIAL), path)
    assert not (tmp_path / "s_results.jsonl").exists()


def test_generations_of_the_bigcode_harness_are_read_with_their_prompts_stripped_or_not(tmp_path):
    problems = humaneval.read_problems(OFFICIAL)
    first, second = list(problems.values())[:2]
    path = tmp_path / "generations.json"
    path.write_text(json.dumps([[first["prompt"] + first["canonical_solution"], first["prompt"].strip() + "\n    return 0\n"],
                                [second["prompt"].strip() + "\n" + second["canonical_solution"]]]))
    verdicts = check_all([(problems[r["task_id"]], r["completion"]) for r in humaneval.read_generations(path, problems)])
    assert [(v["task_id"], v["passed"]) for v in verdicts] == [(first["task_id"], True), (first["task_id"], False),
                                                               (second["task_id"], True)]
    for wrong in ("{}", "[[1]]", json.dumps([["x = 1"]]), json.dumps([[]] * 165)):
        path.write_text(wrong)
        with pytest.raises(ValueError, match="generations.json"):
            humaneval.read_generations(path, problems)


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
    problems = humaneval.read_problems(OFFICIAL)
    humaneval.generate(problems, tmp_path / "s.jsonl", {"n": 1, "max_new_tokens": 8}, Chat,
                       lambda texts: [(-1.0, 1)] * len(texts), None, batch_size=41)
    assert seen == [p["prompt"] for p in problems.values()]
