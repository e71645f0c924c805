"""The miniature: corpora that are deterministic, runnable and free of the held-out problems; a report that is its data."""
import contextlib
import io
import json
import math
import re
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "miniature"))
import corpus  # noqa: E402
import problems  # noqa: E402
import report  # noqa: E402
import run  # noqa: E402

from data import get_batch, get_tokenizer, open_data  # noqa: E402
from miniature.closing import LINES, show_conversation  # noqa: E402
from miniature.open import MINIATURE, make  # noqa: E402

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
    """All that the models are trained on: kind -> [(text, operation names)]."""
    return {kind: list(corpus.documents_with_ops(kind, MINIATURE["seed"], MINIATURE["n"])) for kind in corpus.KINDS}


def test_same_seed_same_corpus(whole):
    for kind in corpus.KINDS:
        assert list(corpus.documents_with_ops(kind, MINIATURE["seed"], 300)) == whole[kind][:300]
        assert list(corpus.documents_with_ops(kind, 99, 300)) != whole[kind][:300]


def test_no_problem_occurs_in_any_corpus(whole):
    """Not by the generator's rule but by looking: no problem's operations are a run of any document's operations, and
    neither does its text stand anywhere."""
    code = {op[0]: op[3] for op in corpus.OPERATIONS}      # two operations may have one code: sort numbers, sort words
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
    # and yet each single operation of a problem is taught
    taught = {n for _, names in whole["mono"] for n in names}
    assert {n for p in MTPB + HUMANEVAL for n in p["name"].split()} <= taught


def test_what_a_document_says_is_what_its_list_of_operations_says(whole):
    """The test above trusts the lists: the code of each listed operation stands in the text, in this order."""
    for text, names in whole["mono"][:2000]:
        place = 0
        for name in names:
            code = re.escape(corpus.CODE[name].replace("{{", "{").replace("}}", "}"))
            found = re.compile(code.replace(r"\{v\}", r"\w+").replace(r"\{k\}", r"\d")).search(text, place)
            assert found, (name, text)
            place = found.end()


def test_forty_operations_in_three_wordings_each(whole):
    text = "\n".join(t for t, _ in whole["mono"])
    assert len(corpus.OPERATIONS) >= 40
    for name, _, _, _, *asks in corpus.OPERATIONS:
        assert len(asks) >= 3, name
        for ask in asks:      # the whole wording occurs, with some variable and number and where the result goes
            words = re.escape(ask).replace(r"\{v\}", r"\w+").replace(r"\{k\}", r"\d")
            assert re.search(words + r"( and |\ as )", text), (name, ask)


def test_forms_of_mono(whole):
    """Turn by turn, functions with docstrings, and a few per cent with the whole specification first."""
    texts = [t.removeprefix(corpus.PREFIX) for t, _ in whole["mono"]]
    comments = lambda t: [line.startswith("#") for line in t.splitlines()]
    assert {sum(comments(t)) for t in texts if not t.startswith("def ")} == {2, 3, 4, 5, 6}
    single = [t for t in texts if sum(comments(t)) > 2 and comments(t) == sorted(comments(t), reverse=True)]
    assert 0.01 < len(single) / len(texts) < 0.08
    functions = [t for t in texts if re.match(r'def \w+\(\w+\):\n    """', t)]
    assert 0.2 < len(functions) / len(texts) < 0.4


def test_apart_is_mono_with_the_comments_moved(whole):
    moved = 0
    for (mono, names), (apart, same_names) in zip(whole["mono"], whole["apart"]):
        assert names == same_names and sorted(mono.splitlines()) == sorted(apart.splitlines())
        lines = [line.startswith("#") for line in apart.removeprefix(corpus.PREFIX).splitlines()]
        assert lines == sorted(lines, reverse=True)
        moved += mono != apart
    assert moved > 0.6 * len(whole["mono"])


def test_nl_is_mostly_english_and_multi_has_six_languages(whole):
    code = sum("=" in t or "def " in t for t, _ in whole["nl"])
    assert 0.04 < code / len(whole["nl"]) < 0.1
    languages = [t.split("\n")[0] for t, _ in whole["multi"]]
    assert set(languages) == {"Python", *corpus.LANGUAGES} and len(set(languages)) == 6
    assert min(languages.count(language) for language in set(languages)) > 0.08 * len(languages)


def test_programs_run(whole):
    python = [t for t, _ in whole["mono"][:300] + whole["apart"][:100]]
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
        assert p["prompts"][0].count("{A}") == 1
        for i in p["inputs"]:
            for prompt in p["prompts"]:
                prompt.format(**i)


def test_humaneval_is_well_formed():
    """The solution passes its check, and a body that gives its argument back does not: 50 of 50 and 0 of 50."""
    assert len(HUMANEVAL) == 50
    for p in HUMANEVAL:
        assert p["test"].count("assert candidate(") == 5
        argument = p["prompt"].split(")")[0].split("(")[1]
        for body, right in ((p["canonical_solution"], True), (f"\n    return {argument}\n", False)):
            scope = {}
            exec(p["prompt"] + body + "\n" + p["test"], scope)
            with contextlib.nullcontext() if right else pytest.raises(AssertionError):
                scope["check"](scope[p["entry_point"]])


def test_the_files_are_what_the_generator_makes():
    assert MTPB == json.loads(json.dumps(problems.mtpb())) and HUMANEVAL == json.loads(json.dumps(problems.humaneval()))


def test_one_tokenizer_fits_all_corpora(whole):
    tok = get_tokenizer("miniature")
    assert tok.n_vocab == 1024
    for kind, most in (("nl", 60), ("multi", 110), ("mono", 110), ("apart", 110)):
        sizes = [len(tok.encode(t)) for t, _ in whole[kind][:500]]
        assert sum(sizes) / len(sizes) < most
    longest = max(len(tok.encode("".join(f"# {q}\n" for q in p["prompts"]).format(**i))) for p in MTPB for i in p["inputs"])
    assert longest < 130        # a single-turn conversation fits the context of 256 with its answer


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


def results_of(rows, sizes=("0.1M", "0.3M")):
    return [dict(job="settings", machine="", **run.QUICK | dict(sizes=list(sizes))), *rows]


def test_verdicts_follow_the_figures(tmp_path):
    """A clear difference holds, its opposite does not, one inside two standard errors is called that."""
    assert report.verdict([("a", 0.2, 0.05), ("b", 0.3, 0.1)]) == "**holds**"
    assert report.verdict([("a", 0.2, 0.05), ("b", -0.3, 0.1), ("c", 0.1, 0.1)]) == (
        "**holds in part**: holds for a; the opposite for b; within the error for c")
    assert report.verdict([("a", 0.1, 0.1), ("b", -0.1, 0.1), ("c", 0, 0)]) == (
        "**undecided**: within the error for a, b, c")
    assert report.verdict([("a", -0.2, 0.05)]) == "**does not hold at this scale**: the opposite for a"
    assert report.verdict([]) == report.NOT_MEASURED
    rates = {"0.1M": [8, 9, 7, 9], "0.3M": [1, 2, 0, 1]}       # the larger one is worse
    rows = [dict(job=f"mtpb {s} mono multi", seconds=1, problems={str(i): [n, 10, -1.0, 1] for i, n in enumerate(counts)},
                 conversations={}) for s, counts in rates.items()]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in results_of(rows)))
    r = report.Results(tmp_path / "results.jsonl")
    verdicts = {claim: (said, holds) for claim, _, said, holds in report.claims(r)}
    assert verdicts["mini-MTPB: a larger model solves more"] == (
        "0.1M → 0.3M: -72.5 ± 2.5", "**does not hold at this scale**: the opposite for 0.1M → 0.3M")
    assert report.not_monotone(r) == ["mini-MTPB: MONO 0.3M (10.0 %) is below MONO 0.1M (82.5 %)"]
    # and nothing is made up
    assert verdicts["mini-HumanEval: MULTI beats NL"] == (report.NOT_MEASURED,) * 2


def test_a_power_law_is_found_again():
    compute = np.logspace(9, 12, 20)
    a, b, _, _ = report.power_law(np.r_[compute, 1e10], np.r_[7 * compute ** -0.2, 99.0])      # one far above the frontier
    assert np.isclose(a, 7) and np.isclose(b, 0.2)


def test_the_line_of_a_power_law_bounds_the_losses():
    """Noise and bends of all kinds: no point lies below it, and one lies on it."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        compute = np.exp(rng.uniform(20, 30, 40))
        loss = np.exp(rng.normal(0, 0.3, 40)) * compute ** -rng.uniform(0, 0.3) + rng.uniform(0, 1)
        a, b, x, y = report.power_law(compute, loss)
        assert (np.log(loss) - np.log(a) + b * np.log(compute) > -1e-9).all()
        assert np.isclose(min(y / (a * x ** -b)), 1)


def test_every_break_of_the_order_is_told(tmp_path):
    """In pass@100 as well as in pass@1, and one within the error is called that."""
    passed = {"0.1M": [100, 1, 1, 1], "0.3M": [100, 100, 0, 1]}
    rows = [dict(job=f"humaneval {s} mono 0.8",
                 problems={str(i): [n, 100, -1.0, 1] for i, n in enumerate(counts)})
            for s, counts in passed.items()]
    file = tmp_path / "results.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in results_of(rows)))
    assert report.not_monotone(report.Results(file)) == [
        "mini-HumanEval pass@100: MONO 0.3M (75.0 %) is below MONO 0.1M (100.0 %), "
        "within the error"]


COMMITTED = ROOT / "miniature" / "results.jsonl"


@pytest.mark.skipif(not COMMITTED.exists(), reason="no full run is committed")
def test_a_quick_report_tells_what_a_quick_run_did(tmp_path):
    """Made of the part of the full results that it would have measured."""
    first, *rows = [json.loads(line) for line in COMMITTED.read_text().splitlines()]
    limits = {"mtpb": run.QUICK["mtpb_limit"], "humaneval": run.QUICK["humaneval_limit"]}
    kept = [first | run.QUICK]
    for row in rows:
        what, size, *_ = row["job"].split()
        if size in run.QUICK["sizes"] and what in ("train", *limits):
            if what in limits:
                row["problems"] = dict(list(row["problems"].items())[:limits[what]])
            kept.append(row)
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    page = report.text(report.Results(tmp_path / "results.jsonl"))
    above, _, below = page.partition("## Run it")
    assert "two sizes" in above and not re.search("four sizes|1.1M|steps, samples|monotone", above)
    told = [int(n) for n in re.findall(r"^\| .*\((\d+) problems\)", above, re.M)]
    assert len(told) == 8 and sum(told[:3]) == sum(told[3:]) == run.QUICK["mtpb_limit"]
    assert "20 problems of 5 cases" in above and "The first 10 functions" in above
    assert not re.search(r"(?<!mini-)(HumanEval|MTPB)\b(?!-)", above.split("| --- |")[0])


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


@pytest.mark.skipif(not COMMITTED.exists(), reason="no full run is committed")
def test_the_committed_report_is_its_results():
    r = report.Results(COMMITTED)
    assert (ROOT / "miniature" / "README.md").read_text() == report.text(r)


@pytest.mark.skipif(not COMMITTED.exists(), reason="no full run is committed")
def test_the_tables_recomputed_from_the_results_another_way():
    """Table 1 and 3 with plain Python: exact combinatorics for pass@k, no code of the report."""
    lines = [json.loads(line) for line in COMMITTED.read_text().splitlines()]
    page = (ROOT / "miniature" / "README.md").read_text()
    rows = {row.split(" | ")[0].strip("| "): row.strip("| \n").split(" | ")[1:] for row in page.splitlines() if row[:1] == "|"}
    jobs, sizes = {line["job"]: line for line in lines[1:]}, lines[0]["sizes"]
    shown = lambda values: f"{100 * statistics.fmean(values):.1f} ± {100 * statistics.stdev(values) / len(values) ** 0.5:.1f}"
    checked = 0
    for kind, name in (("nl", "NL"), ("multi", "MULTI"), ("mono", "MONO")):
        for s, cell in zip(sizes, rows[name]):
            if line := jobs.get(f"mtpb {s} {kind} multi"):
                assert cell == shown([passed / n for passed, n, *_ in line["problems"].values()])
                checked += 1
        for s, row in zip(sizes, [row for row in rows if re.fullmatch(name + r" [\d.]+M", row)]):
            for k, cell in zip((1, 10, 100), rows[row]):
                found = []
                for t, n in lines[0]["humaneval_n"].items():
                    if n >= k and (line := jobs.get(f"humaneval {s} {kind} {t}")):
                        found.append(([1 - math.comb(n - c, k) / math.comb(n, k) for c, n, *_ in line["problems"].values()], t))
                if found:
                    values, t = max(found, key=lambda f: statistics.fmean(f[0]))
                    assert cell == f"{shown(values)} (t {t})"
                    checked += 1
    assert checked > 20
