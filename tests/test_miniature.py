"""The miniature: corpora that are deterministic, runnable and free of the held-out problems; a report that is its data."""
import contextlib
import io
import json
import re
import sys
from pathlib import Path

import pytest

from data import get_batch, get_tokenizer, open_data
from miniature import asked, corpus, problems, report, run
from miniature.closing import LINES, show_conversation
from miniature.open import MINIATURE, make

ROOT = Path(__file__).parents[1]

MTPB = [json.loads(line) for line in (ROOT / "miniature" / "mtpb.jsonl").read_text().splitlines()]
HUMANEVAL = [json.loads(line) for line in (ROOT / "miniature" / "humaneval.jsonl").read_text().splitlines()]


def test_a_corpus_that_is_made_anew_can_be_trained_on(tmp_path, monkeypatch):
    """A clone has no out/ yet; here there may be one, and `open_miniature` would make nothing."""
    monkeypatch.setitem(MINIATURE, "n", 60)
    make("mono", tmp_path / "new")
    data = open_data(str(tmp_path / "new"))
    assert data.meta["miniature"] == "mono"
    assert get_batch(data, "train", 0, 0, 2).shape == (2, MINIATURE["block_size"] + 1)


@pytest.fixture(scope="module")
def whole():
    """What the models are trained on: kind -> [(text, operation names)]. Of the instrument's NL and MULTI a part."""
    sizes = dict.fromkeys(("nl", "multi", "mono", "mono@12"), MINIATURE["n"]) | {"nl@12": 3000, "multi@12": 3000}
    return {kind: [(draw.text, names) for draw, names in corpus.draws(kind, MINIATURE["seed"], n)]
            for kind, n in sizes.items()}


def test_same_seed_same_corpus(whole):
    for kind in whole:
        assert list(corpus.documents(kind, MINIATURE["seed"], 200)) == [text for text, _ in whole[kind][:200]]
        assert list(corpus.documents(kind, 99, 200)) != [text for text, _ in whole[kind][:200]]


def test_no_problem_occurs_in_any_corpus(whole):
    """Not by the generator's rule but by looking: no problem's operations are a run of any document's operations, and
    neither does its text stand anywhere."""
    code = corpus.CODE      # two operations may have one code: sort numbers, sort words
    wanted = {tuple(code[n] for n in p["name"].split()) for p in MTPB + HUMANEVAL}
    assert len({p["name"] for p in MTPB + HUMANEVAL}) == len(MTPB + HUMANEVAL) and all(len(w) >= 2 for w in wanted)
    prompts, solutions = [p["prompt"].splitlines()[1] for p in HUMANEVAL], [p["canonical_solution"] for p in HUMANEVAL]
    for documents in whole.values():
        for _, names in documents:
            codes = [code[n] for n in names]
            for i in range(len(codes)):
                for j in range(i + 2, len(codes) + 1):
                    assert tuple(codes[i:j]) not in wanted
        text = "\n".join(t for t, _ in documents)
        assert not [s for s in prompts + solutions if s in text]
    # and yet each single operation of a problem is taught, of a first problem to a first model
    for kind, some in (("mono@12", MTPB + HUMANEVAL), ("mono", MTPB[:20] + HUMANEVAL[:20])):
        assert {n for p in some for n in p["name"].split()} <= {n for _, names in whole[kind] for n in names}


def test_what_a_document_says_is_what_its_list_of_operations_says(whole):
    """The test above trusts the lists: the code of each listed operation stands in the text, in this order."""
    for text, names in whole["mono"][:2000] + whole["mono@12"][:2000]:
        place = 0
        for name in names:
            code = re.escape(corpus.CODE[name].format(v="VARIABLE", w="VARIABLE", k="NUMBER"))
            code = code.replace("VARIABLE", r"\w+").replace("NUMBER", r"\d")
            found = re.compile(code).search(text, place)
            assert found, (name, text)
            place = found.end()


@pytest.mark.parametrize("kind, operations, least", [("mono", corpus.BASIC, 50), ("mono@12", corpus.OPERATIONS, 120)])
def test_operations_in_three_wordings_each(whole, kind, operations, least):
    text = "\n".join(t for t, _ in whole[kind])
    assert len(operations) >= least
    for op in operations:
        assert len(set(op.asks)) == 3, op.name
        for ask in op.asks:      # the whole wording occurs, with some variables and number and where the result goes
            words = re.escape(ask).replace(r"\{v\}", r"\w+").replace(r"\{w\}", r"\w+").replace(r"\{k\}", r"\d")
            assert re.search(words + r"( and |\ as )", text), (op.name, ask)


def comments_of(text):
    return [line.startswith("#") for line in text.removeprefix(corpus.PREFIX).splitlines()]


def test_forms_of_mono(whole):
    """Turn by turn, functions with docstrings, and some with the whole specification first."""
    for kind, most, share in (("mono", 6, 6), ("mono@12", 7, 12)):
        texts = [t for t, _ in whole[kind]]
        programs = [t for t in texts if not t.startswith("def ")]
        assert {sum(comments_of(t)) for t in programs} == set(range(2, most + 1))
        first = [t for t in programs if comments_of(t) == sorted(comments_of(t), reverse=True)]
        assert abs(len(first) / len(programs) - share / 100) < 0.01
        assert 0.2 < 1 - len(programs) / len(texts) < 0.4
        assert all(re.match(r'def \w+\(\w+\):\n    """', t) for t in texts if t.startswith("def "))


def test_the_dial_moves_lines_and_nothing_else():
    """Document by document the same lines at all positions; at 0 and 100 none and all of the programs say all first."""
    corpora = {share: list(corpus.documents(f"mono@{share}", 0, 400)) for share in (0, 3, 12, 50, 100)}
    moved = dict.fromkeys(corpora, 0)
    for texts in zip(*corpora.values()):
        assert len({tuple(sorted(t.splitlines())) for t in texts}) == 1
        for share, text in zip(corpora, texts):
            moved[share] += text != texts[0]
            assert text in (texts[0], texts[-1])
    programs = sum(not text.startswith("def ") for text in corpora[0])
    assert moved[0] == 0 < moved[3] < moved[12] < moved[50] < moved[100] == programs
    assert all(comments_of(t) == sorted(comments_of(t), reverse=True) for t in corpora[100])


def test_nl_is_mostly_english_and_multi_has_six_languages(whole):
    code = sum("=" in t or "def " in t for t, _ in whole["nl"])
    assert 0.25 < code / len(whole["nl"]) < 0.35
    languages = [t.split("\n")[0] for t, _ in whole["multi"]]
    assert set(languages) == {"Python", *corpus.LANGUAGES} and len(set(languages)) == 6
    assert min(languages.count(language) for language in set(languages)) > 0.08 * len(languages)


def test_the_words_of_prompts_are_counted_without_their_mark():
    pieces = ["import numpy\n\n", "# a # b\n", "# no prompt\n", "# c\n# d\n", "x"]
    text = "".join(pieces)
    assert [text[i:j] for i, j in asked.words_of(pieces)] == [" a # b\n", " c\n", " d\n"]


def test_programs_run(whole):
    python = [t for t, _ in whole["mono"][:200] + whole["mono@12"][:400]]
    python += list(corpus.documents("mono@100", 1, 100))
    python += [t.removeprefix("Python\n") for t, _ in whole["multi"][:300] if t.startswith("Python\n")]
    for text in python:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(text, {"__name__": "__main__"})     # our own generator's code
        assert out.getvalue() or "print" not in text


def test_mtpb_is_well_formed():
    assert len(MTPB) == 100
    assert {p["category"] for p in MTPB} == {"string", "array", "math", "dict", "algorithm"}
    for p in MTPB:
        assert len(p["prompts"]) >= 3 and len(p["inputs"]) == len(p["outputs"]) == 5 and p["max_gen_length"]
        assert len({json.dumps(i) for i in p["inputs"]}) == 5
        for name in p["inputs"][0]:
            assert "".join(p["prompts"]).count(f"{{{name}}}") == 1
        for i in p["inputs"]:
            for prompt in p["prompts"]:
                prompt.format(**i)


def test_humaneval_is_well_formed():
    """The solution passes its check, and a body that gives its argument back does not: 100 of 100 and 0 of 100."""
    assert len(HUMANEVAL) == 100
    for p in HUMANEVAL:
        assert p["test"].count("assert candidate(") == 5 and p["prompt"].endswith('."""\n')
        argument = p["prompt"].split(")")[0].split("(")[1]
        for body, right in ((p["canonical_solution"], True), (f"    return {argument}\n", False)):
            scope = {}
            exec(p["prompt"] + body + "\n" + p["test"], scope)
            with contextlib.nullcontext() if right else pytest.raises(AssertionError):
                scope["check"](scope[p["entry_point"]])


def test_the_files_are_what_the_generator_makes():
    assert MTPB == json.loads(json.dumps(problems.mtpb())) and HUMANEVAL == json.loads(json.dumps(problems.humaneval()))


def test_one_tokenizer_fits_all_corpora(whole):
    tok = get_tokenizer("miniature")
    assert tok.n_vocab == 1024
    for kind, most in (("nl", 80), ("multi", 115), ("mono", 125), ("mono@12", 150)):
        sizes = [len(tok.encode(t)) for t, _ in whole[kind][:500]]
        assert sum(sizes) / len(sizes) < most
    longest = max(len(tok.encode("".join(f"# {q}\n" for q in p["prompts"]).format(**i))) for p in MTPB for i in p["inputs"])
    assert longest < 140        # a single-turn conversation fits the context of 256 with its answer


def judged(tmp_path, *programs):
    """A sample file and its results: programs of (text, printed, result)."""
    files = tmp_path / "mtpb.jsonl", tmp_path / "mtpb_results.jsonl"
    said = [{"id": str(i), "completions": corpus.PREFIX + text, "gold_output": [1, 2]}
            for i, (text, _, _) in enumerate(programs)]
    verdicts = [{"passed": result == "passed", "result": result, "printed": printed} for _, printed, result in programs]
    for file, lines in zip(files, (said, verdicts)):
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return files


def test_training_ends_with_a_conversation_that_passed(tmp_path, capsys):
    wrong = "# Ask.\nx = 1\n\n", "1", "failed: wrong value"
    right = ('# Ask "x".\nx = 2\n\n# Print.\nprint(x)\n\n', "[1, 2]", "passed")
    show_conversation(*judged(tmp_path, wrong, right, right))
    first, *program, last = capsys.readouterr().out.splitlines()
    assert "problem 1 (passed)" in first and str(tmp_path / "mtpb.jsonl") in first
    assert program == ['    # Ask "x".', "    x = 2", "    # Print.", "    print(x)"]
    assert last == "printed [1, 2], expected [1, 2]"


def test_where_none_passed_it_says_so_and_shows_one(tmp_path, capsys):
    """A long program is cut, and what could command the terminal is not printed."""
    failed = "# Ask.\n" + "x = 1\n" * LINES, "", "failed: \x1b[2J"
    show_conversation(*judged(tmp_path, failed))
    shown = capsys.readouterr().out
    assert "problem 0 (none passed, and this one failed" in shown and "\x1b" not in shown
    assert "\n    ... and 1 lines more\nprinted nothing, expected [1, 2]\n" in shown
    show_conversation(*judged(tmp_path, failed, ("# Ask.\nx", "3\x1b[2J", "failed: wrong value")))
    shown = capsys.readouterr().out
    assert "problem 1 (none passed, and this one failed: wrong value)" in shown and "\x1b" not in shown


# ------------------------------------------------ pipeline and report -------------------------------------------

def small_job(name, needs, code, out):
    return run.Job(name, 1, needs, [lambda: [sys.executable, "-c", code]], lambda: {"problems": {"1": [1, 2, -3.0, 4]}})


def test_jobs_run_once_in_order_and_a_failed_one_can_be_taken_up(tmp_path):
    """What a job needs is done before it starts; what results.jsonl holds is not done again; a failure says where to look."""
    (tmp_path / "results.jsonl").write_text('{"job": "settings"}\n')
    add = lambda name: f"open({str(tmp_path / 'order')!r}, 'a').write({name!r})"
    jobs = [small_job("c", ["a", "b"], add("c"), tmp_path), small_job("a", [], add("a"), tmp_path),
            small_job("b", ["a"], f"import os; os.path.exists({str(tmp_path / 'ready')!r}) or exit(3); {add('b')}", tmp_path)]
    with pytest.raises(RuntimeError, match=r"b failed \(exit code 3\): see .*b\.log"):
        run.run_all(jobs, tmp_path)
    (tmp_path / "ready").touch()
    run.run_all(jobs, tmp_path)
    run.run_all(jobs, tmp_path)
    assert (tmp_path / "order").read_text() == "abc"
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["job"] for line in lines] == ["settings", "a", "b", "c"] and lines[1]["problems"] == {"1": [1, 2, -3.0, 4]}


@pytest.mark.parametrize("plan", [run.FULL, run.QUICK])
def test_a_plan_is_whole(plan, tmp_path):
    """Every job can start at some time, and the jobs are those that the report looks for."""
    jobs = {job.name: job for job in run.all_jobs(plan, tmp_path)}
    assert all(set(job.needs) <= set(jobs) for job in jobs.values())
    (tmp_path / "results.jsonl").write_text(json.dumps(dict(job="settings", machine="", **plan)) + "\n")
    assert sorted(report.not_measured(report.Results(tmp_path / "results.jsonl"))) == sorted(jobs)


def test_samples_and_verdicts_become_counts():
    samples = [{"id": "7", "completions": f"p{i}", "gold_output": 1} | ({"prompt_logprob": [-2.5, 3]} if i in (0, 2) else {})
               for i in range(4)]
    verdicts = [{"passed": i == 2, "result": "passed" if i == 2 else "failed: wrong value" if i else "timed out", "printed": ""}
                for i in range(4)]
    assert run.by_problem(samples, verdicts) == {"7": [1, 4, -5.0, 6]}
    chosen = run.conversations(samples, verdicts)
    assert {kind: c["program"] for kind, c in chosen.items()} == {"right": "p2", "wrong value": "p1", "error": "p0"}
    with pytest.raises(ValueError):
        run.by_problem(samples, verdicts[:3])       # never a verdict for another sample


def test_a_torn_line_of_results_is_cut_off_and_a_damaged_one_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "run_all", lambda jobs, out: None)
    done = run.subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(run.subprocess, "run", lambda *a, **k: done)
    monkeypatch.setattr(sys, "argv", ["run.py", "--quick"])
    results = tmp_path / "out-quick" / "results.jsonl"
    run.main()
    whole = results.read_text()
    for torn in ('{"job": "train', whole[:40]):
        results.write_text(whole + torn if torn != whole[:40] else torn)
        run.main()
        assert results.read_text() == whole
    results.write_text(whole + "{\n")
    with pytest.raises(ValueError, match="results.jsonl, line 2"):
        run.main()
