"""Laws of MTPB: histories byte for byte, every branch of both comparisons, verdicts of programs that crash, hang or cheat."""
from harness.files import find_benchmark
from harness.prints import print_last

import json
from collections import Counter

import numpy as np
import pytest

import mtpb
from mtpb import check_equivalence, check_strict, decode_printed, fill, judge, judge_all, read_problems

try:
    PROBLEMS = read_problems(find_benchmark("mtpb.jsonl"))
except ValueError as absent:        # these laws are about that very file
    pytest.skip(str(absent), allow_module_level=True)
BY_ID = {p["id"]: p for p in PROBLEMS}


# ---- the file and the histories

def test_the_official_file():
    assert len(PROBLEMS) == 115 and sum(len(p["cases"]) for p in PROBLEMS) == 575
    assert Counter(len(p["prompts"]) for p in PROBLEMS) == {3: 16, 4: 56, 5: 27, 6: 9, 7: 4, 8: 2, 9: 1}
    assert [p["id"] for p in PROBLEMS if "max_gen_length" not in p] == [str(i) for i in range(39, 46)]
    assert all(isinstance(text, str) for p in PROBLEMS for case in range(5) for text in fill(p, case))


class Scripted:
    """A chat that answers from a list and keeps the histories, as sample.Chat does."""
    def __init__(self, rows, answers):
        self.texts, self.answers, self.dropped, self.limits = [""] * rows, iter(answers), [0] * rows, []

    def turn(self, texts, limit, stop, keep_newest):
        answer = next(self.answers)
        self.limits.append(limit)
        self.texts = [old + new + answer for old, new in zip(self.texts, texts)]
        return [(answer, "stop")] * len(texts)


@pytest.mark.parametrize("name", ["9", "17"])       # doubled braces; a prompt of several lines
def test_a_history_is_that_of_the_official_sampler_byte_for_byte(name):
    problem = BY_ID[name]
    answers = [f"x = {i}\n" for i in range(len(problem["prompts"]))]
    chat = Scripted(1, answers)
    (pieces,), dropped = mtpb.converse(problem, [(2, 0)], "multi", chat, None)
    # The official rule, said again: prefix; "# ", the template filled by str.format, newline; completion; two newlines.
    expected = "# Import libraries.\n\nimport numpy as np\n\n"
    for i, (template, answer) in enumerate(zip(problem["prompts"], answers)):
        expected += "# " + template.format_map(problem["inputs"][2]) + "\n"
        assert chat.limits[i] == problem.get("max_gen_length", 256)
        expected += answer + "\n\n"
    assert "".join(pieces) == expected
    assert chat.texts[0] + "\n\n" == expected           # what the model saw is what is kept


def test_single_turn_says_all_prompts_at_once_and_may_answer_at_the_length_of_all():
    problem = BY_ID["17"]
    chat = Scripted(2, ["print(1)"])
    (pieces, other), _ = mtpb.converse(problem, [(0, 0), (1, 0)], "single", chat, None)
    assert "".join(pieces) == mtpb.PREFIX + "".join(f"# {t}\n" for t in fill(problem, 0)) + "print(1)\n\n"
    assert pieces != other and chat.limits == [problem["max_gen_length"] * len(problem["prompts"])]


def test_prompt_spans_are_what_the_user_said():
    pieces = [mtpb.PREFIX, "# a\n", "x = 1\n\n", "# bé\n", "y\n\n"]
    text = "".join(pieces)
    assert [text[a:b] for a, b in mtpb.prompt_spans(pieces)] == ["# a\n", "# bé\n"]


# ---- sampling with a real model

@pytest.fixture(scope="module")
def model():
    import jax

    import sample
    from data import get_tokenizer
    from model import Config, init_params
    config = Config(n_layer=1, n_head=2, n_embd=16, rotary_dim=4, block_size=128, vocab_size=512)
    params, tokenizer = init_params(jax.random.key(0), config), get_tokenizer("miniature")
    chats = []

    def new_chat(ids):
        chats.append(sample.Chat(params, config, tokenizer, len(ids), 0.8, 0.95, 0, ids))
        return chats[-1]
    return new_chat, lambda texts, spans=None: sample.prompt_logprob(params, config, tokenizer, texts, spans), chats, tokenizer


SMALL = [{"id": str(i), "prompts": ["Set x to {A}.", "Add 1 to x.", "Print x."], "inputs": [{"A": 3}, {"A": 5}],
          "outputs": [4, 6], "cases": [({"A": 3}, 4), ({"A": 5}, 6)], "max_gen_length": 6} for i in range(2)]


def test_generate_resumes_and_a_later_turn_costs_its_new_tokens(model, tmp_path):
    new_chat, logprob, chats, tokenizer = model
    path, settings = tmp_path / "s.jsonl", {"mode": "multi", "n": 2}
    mtpb.generate(SMALL, path, settings, new_chat, logprob, ())
    whole = path.read_text()
    records = [json.loads(line) for line in whole.splitlines()]
    assert [(r["id"], r["input"]["A"], r["gold_output"]) for r in records[:4]] == [("0", 3, 4)] * 2 + [("0", 5, 6)] * 2
    assert all(r["completions"] == "".join(r["prompts_completions"]) for r in records)
    assert [("prompt_logprob" in r) for r in records] == [True, False] * 4
    # Every token went through the model once, give or take the one whose logits start a turn and what BPE joins anew.
    tokens = sum(len(tokenizer.encode(text)) for text in chats[0].texts)
    assert chats[0].tokens_run <= tokens + 3 * 3 * len(chats[0].texts)
    for cut in (30, len(whole) - 1):
        path.write_text(whole[:cut])
        mtpb.generate(SMALL, path, settings, new_chat, logprob, ())
        assert sorted(path.read_text().splitlines()) == sorted(whole.splitlines())
    with pytest.raises(ValueError, match=r"other settings \(mode\)"):
        mtpb.generate(SMALL, path, settings | {"mode": "single"}, new_chat, logprob, ())


def test_a_history_that_outgrows_the_context_keeps_its_newest_tokens_and_says_so(model, tmp_path, capsys):
    new_chat, logprob, *_ = model
    long = SMALL[0] | {"prompts": [f"Set x to {{A}}. {'word ' * 60}"] * 2 + ["Print x."]}
    mtpb.generate([long], tmp_path / "s.jsonl", {"mode": "multi", "n": 1}, new_chat, logprob, ())
    assert "outgrew the context" in "".join(capsys.readouterr())


# ---- the official print rewriting

@pytest.mark.parametrize("source, rewritten", [
    ("x = 3", "x = print(3)"), ("f(2)", "print(f(2))"), ("print(5)", None), ("print_result(5)", None),
    ("x += 2", "x += print(2)"),
    ("for i in a:\n    i", None), ("def f():\n    return 1", None), ("import os", None), ("x = (", None), ("", None),
    ("a, *b = [1, 2]", "a, *b = print([1, 2])"), ("x.print(1)", "print(x.print(1))"),
    ("print(1) if x else None", "print(print(1) if x else None)"), ("if x:\n    print(1)", None),
    ("x: int = 3", "x: int = print(3)"), ("return 5", "return print(5)"), ("assert x", None)])
def test_print_last(source, rewritten):
    assert print_last(source) == (source if rewritten is None else rewritten)


# ---- the comparisons

OFFICIAL = [    # printed, expected, verdict of the official scorer
    ("12", 12, True), (12.7, 12, True), (True, 1, True), ("1_000", 1000, True), ("x", 1, False), (None, 1, False),
    ([1], 1, False),
    (12, "12", True), ([1, 2], "[1, 2]", True), ("'a'", "a", False), (True, "True", True),
    ("1.5", 1.5, True), (1.5 + 9e-7, 1.5, True), (1.5 + 2e-6, 1.5, False), (1, 1.0, True), (float("nan"), float("nan"), False),
    ("True", True, True), (1, True, False), (np.bool_(True), True, True), ("False", False, True), ("true", True, False),
    ({1, 3}, [1, 3], True), (range(3), [0, 1, 2], True), ("ab", ["a", "b"], True), ({1: 2}, [1], True), ((1, 2), [1, 2], True),
    ([(1, 2), (3, 4)], [[1, 2], [3, 4]], True), ([[1, (2, 3)]], [[1, [2, 3]]], False), ([0.1 + 0.2], [0.3], False),
    ([1.0], [1], True), ([True], [1], True), ("[1, 2]", [1, 2], False), ([2, 1], [1, 2], False),
    (np.array([1, 2]), [1, 2], True), (np.array([[1, 2]]), [[1, 2]], True), ([np.array([1, 2])], [[1, 2]], False),
    (np.int64(3), 3, True), (np.uint8(3), 3, True), (np.float32(0.5), 0.5, True), (np.float16(0.5), 0.5, True),
    (np.array(5), 5, True), (np.int8(3), 3, True), (np.int64(3), "3", True),
    ([np.int64(1), 2], [1, 2], True), (mtpb.Series(np.array([1, 2])), [1, 2], True), (mtpb.Series(np.array([])), 5, True),
    (mtpb.Series(np.array([1.0, 2.0])), [1, 3], False),
    ({1: 2}, {1: 2}, False), (None, None, False), ("None", None, False), (3 + 0j, 3, False), (b"12", 12, True)]


@pytest.mark.parametrize("printed, expected, verdict", OFFICIAL)
def test_the_official_comparison(printed, expected, verdict):
    assert check_equivalence(printed, expected) is verdict


STRICT = [
    ("12", 12, True), ("12.0", 12, False), (12.7, 12, False), (True, 1, False), (1, True, False), ("True", True, False),
    (12, "12", True), ([1, 2], "[1, 2]", False), ("1.5", 1.5, True), (1.5 + 9e-7, 1.5, True), (1, 1.0, True), (1.0, 1, True),
    ({1, 3}, [1, 3], False), ("ab", ["a", "b"], False), ((1, 2), [1, 2], True), ([[1, (2, 3)]], [[1, [2, 3]]], True),
    ([0.1 + 0.2], [0.3], True), (np.array([1, 2]), [1, 2], True), ([np.array([1, 2])], [[1, 2]], True), (np.int64(3), 3, True),
    ({1: 2.0000001}, {"1": 2}, True), ({1: 3}, {"1": 2}, False), ({1: 2, 3: 4}, {"1": 2}, False), (None, None, True),
    ({1: 3, "1": 2}, {"1": 2}, False), (None, 0, False), ([None], [None], True), ([True], [1], False), ("a", "b", False)]


@pytest.mark.parametrize("printed, expected, verdict", STRICT)
def test_the_strict_comparison(printed, expected, verdict):
    assert check_strict(printed, expected) is verdict


# ---- programs

PROGRAMS = [    # program, expected, official, strict, how its result begins
    ("print(5)", 5, True, True, "passed"), ("x = 2\nx + 3", 5, True, True, "passed"), ("x = 5", 5, True, True, "passed"),
    ("print(4)", 5, False, False, "failed: wrong value"), ("print('ans', 5)", 5, False, False, "failed: wrong value"),
    ("print(5, 6)", 5, True, True, "passed"), ("print()", 5, False, False, "failed"),
    ("for i in range(6):\n    print(i)", 5, True, True, ""),
    ("def main():\n    print(5)\nmain()", 5, False, False, "failed"), ("", 5, False, False, "failed: nothing printed"),
    ("print(5)\n1 / 0", 5, True, False, "failed: ZeroDivisionError"), ("print(5", 5, False, False, "failed: SyntaxError"),
    ("print(5)\nwhile True:\n    pass", 5, True, False, "timed out"), ("while True:\n    pass", 5, False, False, "timed out"),
    ("while True:\n    try:\n        while True: pass\n    except: pass", 5, False, False, "timed out"),
    ("print(5)\nwhile True:\n    try:\n        while True: pass\n    except: pass", 5, True, False, "timed out"),
    ("print(5)\nimport sys\nsys.exit(0)", 5, True, True, ""),
    ("print(5)\nraise SystemExit(3)", 5, True, False, "failed: SystemExit"),
    ("import os\nos._exit(0)", 5, False, False, "failed: exited with code 0"),
    ("print(5)\nimport os\nos.kill(os.getpid(), 9)", 5, True, False, "crashed: signal SIGKILL"),
    ("x = [1]\nprint(x)\nx.append(2)\nimport math", [1, 2], True, True, ""),
    ("print(5, bad=1)", 5, True, False, "failed: TypeError"),
    ("class A:\n    __eq__ = lambda s, o: True\nprint(A())", 5, False, False, "failed"),
    ("class A(list):\n    __eq__ = lambda s, o: True\nprint(A([1]))", [2], False, False, "failed"),
    ("class A:\n    def __int__(self): return 5\nprint(A())", 5, True, False, ""),
    ("class A:\n    def __str__(self): raise SystemExit\nprint(A())", "a", False, False, "failed"),
    ("import itertools\nprint(itertools.count())", [0], False, False, "failed"),
    ("print(iter([1, 2]))", [1, 2], True, False, ""),
    ("import numpy as np\nprint(np.arange(3))", [0, 1, 2], True, True, "passed"),
    ("import sys\nprint(5)\nsys.stdout.close()\nx = 1\nimport os", 5, False, True, "failed: it closed"),
    ("print('\\ud800')", "\ud800", True, True, ""),
    ("import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'\\x00\\x00\\x00\\x02{}')\n    except OSError: pass\nprint(5)",
     5, False, False, "failed"),
    ("print(10 ** 5000)", "x", False, False, "failed"), ("print('x' * 10 ** 7)", "x", False, False, "failed"),
    ("x = []\nx.append(x)\nprint(x)", [1], False, False, "failed"), ("while True: print(5)", 5, True, False, "timed out"),
    ("print('word ' * 230_000)\nprint(5)", 5, True, True, "passed"),
    ("print('ñ' * 200_000)\nprint(5)", 5, True, True, "passed"),
    ("from concurrent.futures import ThreadPoolExecutor as T\nimport numpy as np\nwith T(8) as t:\n"
     "    list(t.map(print, [np.arange(900) + 10**9] * 40))\nprint(5)", 5, True, True, "passed"),
    ("import numpy as np\nprint(np.matrix([[1, 2]]))", [[1, 2]], False, True, ""),
    ("import numpy as np\nprint(np.matrix([[5]]))", [5], True, False, ""),
    ("from collections import namedtuple\nP = namedtuple('P', 'x y')\nprint([P(1, 2)])", [[1, 2]], False, True, ""),
    ("class T(tuple): pass\nprint([T((1, 2))])", "[(1, 2)]", True, False, ""),
    ("x = [0] * 10 ** 9", 5, False, False, "out of memory"),
    ("import sys\nprint('jax' in sys.modules)", False, True, True, "passed"),
    ("import os\nif os.fork() == 0:\n    print([4] * 9000)\nelse:\n    os.wait()\n    print(5)\nimport os",
     5, True, True, "passed")]


def test_programs_get_the_verdict_of_the_official_scorer_and_of_the_strict_rules():
    ran, _ = judge_all([(program, expected) for program, expected, *_ in PROGRAMS], timeout=1.5, workers=4)
    wrong = []
    for (program, _, official, strict, result), (got, _) in zip(PROGRAMS, ran):
        ending = got["ended"] or got["result"]
        if (got["passed"], got["passed_strict"]) != (official, strict) or not ending.startswith(result):
            wrong.append((program, got))
    assert wrong == []


def test_a_forged_message_is_no_verdict():
    for last in ({"printed": {}}, {"printed": {"value": ["set", 1]}}, {"printed": {"value": 1, "casts": {"int": "5"}}},
                 {"printed": {"value": ["object", {"str": 5}]}}, {"printed": 5}):
        got = judge([last | {"error": "", "end": True}], "", 5)
        assert not got["passed"] and not got["passed_strict"]
    with pytest.raises(ValueError):
        decode_printed({"value": 1, "casts": {"int": "5"}})


# ---- the report

def test_score_gives_both_rates_and_names_what_is_wrong_with_the_data(tmp_path, capsys):
    def record(name, case, program, logprob=None):
        given, gold = BY_ID[name]["cases"][case]
        return {"id": name, "input": given, "gold_output": gold, "completions": program, "prompt_logprob": logprob}
    gold = lambda name, case: f"print({BY_ID[name]['cases'][case][1]!r})"
    records = [record("89", c, gold("89", c)) for c in range(5)]                                    # a dict
    endings = ["\n1 / 0", "", "", "", "\nprint()"]
    records += [record("2", c, gold("2", c) + endings[c], [-20.0, 10]) for c in range(5)]
    records += [record("10", c, gold("10", c)) for c in range(5)]
    path = tmp_path / "s.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    report = mtpb.score(PROBLEMS, [path])
    out = capsys.readouterr().out
    assert report["per_problem"]["official"] == {"2": 0.8, "10": 1.0, "89": 0.0}
    assert report["per_problem"]["strict"] == {"2": pytest.approx(0.6), "10": 1.0, "89": 1.0}
    assert report["pass_rate"] == pytest.approx(0.6) and report["prompt_perplexity"] == pytest.approx(np.exp(2))
    assert report["by_difficulty"]["hard"]["problems"] == 1 and report["by_difficulty"]["easy"]["problems"] == 2
    assert any("problem 89" in line for line in report["known"]) and any("problem 10" in line for line in report["known"])
    assert "not the score of the whole set" in out and json.loads(out.splitlines()[-1])["programs"] == 15
    results = [json.loads(line) for line in (tmp_path / "s_results.jsonl").read_text().splitlines()]
    assert [r["passed"] for r in results] == [False] * 5 + [True] * 4 + [False] + [True] * 5


@pytest.mark.parametrize("change, words", [
    ({"id": "999"}, "no problem"), ({"completions": 3}, "completions"), ({"input": {"zz": 1}}, "no case"),
    ({"gold_output": "other"}, "gold_output"), ({"prompt_logprob": 3}, "prompt_logprob")])
def test_bad_records_are_one_line(change, words, tmp_path):
    given, gold = BY_ID["2"]["cases"][0]
    path = tmp_path / "s.jsonl"
    path.write_text(json.dumps({"id": "2", "input": given, "gold_output": gold, "completions": "print(1)"} | change) + "\n")
    with pytest.raises(ValueError, match=f"line 1: .*{words}"):
        mtpb.score(PROBLEMS, [path])


# ---- problem files of one's own

OWN = {
    "id": 1,
    "category": "c",
    "prompts": ['Assign {x} to "n".', 'Print "n".'],
    "inputs": [{"x": 3}],
    "outputs": [3],
}


def write_lines(path, records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


@pytest.mark.parametrize(
    "change, words",
    [
        ({"prompts": ["{}"]}, r"empty \{\}"),
        ({"prompts": ["{0}"]}, "no plain name"),
        ({"prompts": ["{y}"]}, "no input y"),
        ({"prompts": ["{x.__class__}"]}, "no plain name"),
        ({"prompts": ["{x[0]}"]}, "no plain name"),
        ({"prompts": ["{x"]}, "does not fill"),
        ({"prompts": ["{x:>9999999999}"]}, "no small number"),
        ({"prompts": ["{x:{x}}"]}, "no small number"),
        ({"prompts": ["{x:q}"]}, "does not fill"),
        ({"prompts": ["x}"]}, "does not fill"),
        ({"prompts": [3]}, r"prompts\[0\] must be a text"),
        ({"prompts": []}, "not be empty"),
        ({"prompts": None}, "prompts must be there"),
        ({"inputs": [3]}, r"inputs\[0\] must be an object"),
        ({"inputs": {}}, "inputs must be a list"),
        ({"outputs": 3}, "outputs must be a list"),
        ({"max_gen_length": None}, "whole number"),
        ({"max_gen_length": 0}, "whole number"),
        ({"max_gen_length": 10**9}, "whole number"),
        ({"max_gen_length": True}, "whole number"),
        ({"category": 3}, "category must be a text"),
        ({"id": None}, "id must be"),
        ({"id": [1]}, "id must be"),
        ({"id": True}, "id must be"),
    ],
)
def test_a_fault_of_a_problem_file_names_line_and_problem(change, words, tmp_path):
    path = write_lines(tmp_path / "own.jsonl", [OWN | {"id": 0}, OWN | {"id": "two"} | change])
    with pytest.raises(ValueError, match=f"own.jsonl, line 2, problem .*: .*{words}") as caught:
        read_problems(path)
    assert len(str(caught.value)) < 400


def test_samples_of_neighbours_share_no_draws_and_a_problem_of_too_many_cases_is_refused(tmp_path):
    last = mtpb.sample_id(3, mtpb.MOST_CASES - 1, mtpb.samples.MOST_SAMPLES - 1)
    assert last + 1 == mtpb.sample_id(4, 0, 0)
    for cases in mtpb.MOST_CASES, mtpb.MOST_CASES + 1:
        many = OWN | {"inputs": [{"x": x} for x in range(cases)], "outputs": list(range(cases))}
        path = write_lines(tmp_path / "own.jsonl", [many])
        if cases == mtpb.MOST_CASES:
            assert len(read_problems(path)[0]["cases"]) == cases
    with pytest.raises(ValueError, match="line 1, problem 1: it has 101 cases, 100 is the most"):
        read_problems(path)


def test_templates_that_fill_are_no_fault(tmp_path):
    path = write_lines(
        tmp_path / "own.jsonl", [OWN | {"prompts": ["{x:.2f} {{}} {x!r:>5}", "{{x}}"]}]
    )
    assert fill(read_problems(path)[0], 0) == ["3.00 {}     3", "{x}"]


def test_true_is_not_1_and_a_score_of_another_file_is_not_called_mtpb(tmp_path, capsys):
    source = write_lines(
        tmp_path / "own.jsonl",
        [OWN | {"inputs": [{"x": x} for x in (1, True, "1", 1.0)], "outputs": [1, True, "1", 1.0]}],
    )
    path = write_lines(
        tmp_path / "s.jsonl",
        [
            {"id": "1", "input": {"x": x}, "gold_output": x, "completions": "print(1)"}
            for x in (True, 1.0, 1, "1")
        ],
    )
    report = mtpb.score(read_problems(source), [path], source=source, results=tmp_path / "r.jsonl")
    cases = [json.loads(line)["case"] for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert cases == [2, 4, 1, 3] and not (tmp_path / "s_results.jsonl").exists()
    assert (
        report["benchmark"] == str(source) and report["official"] is False and report["known"] == []
    )
    assert f"{source} is not the official MTPB" in capsys.readouterr().out


def test_problem_14_is_known_never_to_pass_officially():
    assert any(
        line.startswith("problem 14:") and "never passes" in line for line in mtpb.notes({"14"})
    )


def test_earlier_results_outlive_a_score_that_does_not_end(tmp_path, monkeypatch):
    given, gold = BY_ID["2"]["cases"][0]
    path = write_lines(
        tmp_path / "s.jsonl",
        [{"id": "2", "input": given, "gold_output": gold, "completions": "print(1)"}],
    )
    (tmp_path / "s_results.jsonl").write_text("earlier\n")
    before = sorted(p.name for p in tmp_path.iterdir())

    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(mtpb, "judge_all", stopped)
    with pytest.raises(KeyboardInterrupt):
        mtpb.score(PROBLEMS, [path])
    with pytest.raises(ValueError, match="would overwrite"):
        mtpb.score(PROBLEMS, [path], results=path)
    assert (tmp_path / "s_results.jsonl").read_text() == "earlier\n" and sorted(
        p.name for p in tmp_path.iterdir()
    ) == before
