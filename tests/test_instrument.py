"""The miniature as an instrument: probabilities that add up, error bars and laws that find what was put in, a report that is
its data."""
import itertools
import json
import math
import random
import statistics
from pathlib import Path

import numpy as np
import pytest

from miniature import corpus, draws, entropy, laws, report, run

ROOT = Path(__file__).parents[1]


# ------------------------------------------------- probabilities ------------------------------------------------

def greeting(draw):
    """A generator small enough to write all its texts down; "ab" comes about in two ways."""
    if draw.chance(0.25):
        draw.write("ab")
    else:
        for one in draw.sample("abc", 2):
            draw.write(one)
    if draw.choice((0, 1), (1, 3)):
        draw.write("!")


def everything(make):
    """{text: probability} of a small generator, all ways of a text added up."""
    found = {}
    for text, logp in draws.derivations(make):
        found[text] = found.get(text, 0) + math.exp(logp)
    return found


def test_a_text_weighs_what_all_ways_to_it_weigh():
    p = everything(greeting)
    pairs = {a + b + mark: (1 / 8 + (a + b == "ab") / 4) * (3 / 4 if mark else 1 / 4)
             for a, b in itertools.permutations("abc", 2) for mark in ("", "!")}
    assert p == pytest.approx(pairs)
    for text in p:
        logp, ways = draws.weigh(greeting, text)
        assert math.exp(logp) == pytest.approx(p[text]) and ways == (2 if text.startswith("ab") else 1)
    assert draws.weigh(greeting, "aa") == (-math.inf, 0)


def drawn(make, n, seed=0):
    rng = random.Random(seed)
    for _ in range(n):
        draw = draws.Draw(rng)
        make(draw)
        yield draw


def test_texts_are_drawn_as_often_as_they_weigh():
    p, n = everything(greeting), 20_000
    texts = [draw.text for draw in drawn(greeting, n)]
    for text in p:
        assert abs(texts.count(text) / n - p[text]) < 5 * math.sqrt(p[text] / n)


@pytest.fixture
def tiny(monkeypatch):
    """The real generator with so few words that all its documents can be written down -> its function."""
    monkeypatch.setattr(corpus, "value", lambda draw, kind, level: draw.write(draw.choice(('"cat"', '"dog cat"'), (1, 2))))
    monkeypatch.setattr(corpus, "NAMES", dict(nums=["xs"], words=["tags"], text=["s"], int=["n"], dict=["d"]))
    monkeypatch.setattr(corpus, "STARTS", {"text": 1})
    monkeypatch.setattr(corpus, "ASSIGN", {"text": ['Let "{o}" be the string {x}']})
    monkeypatch.setattr(corpus, "INTO", [' as "{o}"'])
    monkeypatch.setattr(corpus, "PRINT", ['Print "{v}"', 'Show "{v}"'])
    some = [op._replace(asks=op.asks[:2]) for op in corpus.OPERATIONS if op.name in ("upper", "repeat_k", "spaced")]
    level = corpus.Level(tuple(some), (1, 2), (0, 1), (1,), 4, range(2), range(2, 4), 1)
    return lambda draw: corpus.mono(draw, level, share=30)


def test_all_documents_of_a_tiny_miniature_weigh_one_together(tiny):
    """The real generator, exhausted: probabilities add up to 1, each text has one way, and the mean of -log p of drawn
    documents is the entropy within its error."""
    ways = list(draws.derivations(tiny))
    p = {text: math.exp(logp) for text, logp in ways}
    assert 1000 < len(p) == len(ways) and sum(p.values()) == pytest.approx(1)
    exact = -sum(q * math.log(q) for q in p.values())
    nats = [-draw.logp for draw in drawn(tiny, 3000)]
    assert abs(statistics.fmean(nats) - exact) < 4 * statistics.stdev(nats) / math.sqrt(len(nats))
    for draw in drawn(tiny, 20, seed=1):
        assert math.log(p[draw.text]) == pytest.approx(draw.logp)


@pytest.mark.parametrize("kind", ["mono", "mono@0", "mono@50"])
def test_a_document_of_the_miniature_has_one_way(kind):
    """So -logp of a draw is -log p of its text, and the entropy is exact."""
    for draw, _ in corpus.draws(kind, 7, 8):
        assert draws.weigh(corpus.writer_of(kind), draw.text) == (pytest.approx(draw.logp), 1)


def words(draw):
    """Documents of letters that tell on one another: what is cut off a block is missed."""
    first = draw.write(draw.choice("ab", (3, 1)))
    draw.write(draw.choice("cd", (9, 1)) if first == "a" else draw.choice("cd", (1, 4)))
    if draw.chance(0.3):
        draw.write(first)


def test_the_bounds_of_packed_blocks_hold_the_best_loss():
    """All windows of three tokens of a stream of tiny documents, written down with their probabilities: the entropy of the
    last two given the first lies between the bounds, which meet as blocks grow."""
    p, size = {text + ".": q for text, q in everything(words).items()}, 2
    mean = sum(q * len(t) for t, q in p.items())
    windows = {}

    def go_on(window, q):
        if len(window) > size:
            windows[window[:size + 1]] = windows.get(window[:size + 1], 0) + q
        else:
            for text, r in p.items():
                go_on(window + text, q * r)

    for text, q in p.items():
        for place in range(len(text)):
            go_on(text[place:], q / mean)
    assert sum(windows.values()) == pytest.approx(1)
    first = {}
    for window, q in windows.items():
        first[window[0]] = first.get(window[0], 0) + q
    best = -sum(q * math.log(q / first[w[0]]) for w, q in windows.items()) / size

    found = list(drawn(words, 4000))
    nats = np.array([-draw.logp for draw in found])
    through = [np.append(entropy.through_tokens(draw, [1] * len(draw.text)), -draw.logp) for draw in found]
    tokens = [np.array([ord(c) for c in draw.text + "."]) for draw in found]
    low, high = entropy.packed(nats, through, tokens, size)
    assert low < best < high
    exact = -sum(q * math.log(q) for q in p.values()) / mean
    assert low == pytest.approx(exact, rel=0.03)
    low, high = entropy.packed(nats, through, tokens, 10 ** 6)
    assert high - low < 1e-5


def test_nats_are_known_up_to_each_token():
    for draw, _ in corpus.draws("mono@12", 3, 20):
        through = entropy.through_tokens(draw, [1] * len(draw.text))
        assert (np.diff(through) >= 0).all() and through[-1] == pytest.approx(-draw.logp) and through[0] > 0


# ------------------------------------------------- error bars and laws ------------------------------------------

def test_error_bars_hold_seeds_and_problems():
    """Rates made of a seed's part, a problem's part and the rest: the error told is the spread that the means of many such
    experiments have. The problems' error alone would be half of it here."""
    rng, S, P = np.random.default_rng(0), 3, 50
    made = [0.5 + 0.1 * rng.normal(size=(S, 1)) + 0.3 * rng.normal(size=P) + 0.2 * rng.normal(size=(S, P)) for _ in range(1500)]
    found = np.array([laws.mean_se(x) for x in made])
    assert np.sqrt((found[:, 1] ** 2).mean()) == pytest.approx(found[:, 0].std(), rel=0.1)
    problems_alone = [laws.mean_se(x.mean(0))[1] for x in made]
    assert np.mean(problems_alone) < 0.7 * found[:, 0].std()


def test_verdicts_follow_the_figures():
    """A clear difference holds, its opposite does not; one inside two errors, or whose seeds disagree, says neither."""
    yes, no, small = ("a", 0.2, 0.05, True), ("b", -0.3, 0.1, True), ("c", 0.1, 0.1, True)
    assert laws.verdict([yes, ("b", 0.3, 0.1, True)]) == "**holds**"
    assert laws.verdict([yes, no, small]) == (
        "**holds in part**: holds for a; the opposite for b; within the error for c")
    assert laws.verdict([yes] * 5 + [no]).startswith("**holds in part**: holds for 5 of 6; the opposite for b")
    assert laws.verdict([small, ("d", 0.4, 0.1, False)]) == "**undecided**: within the error for c, d"
    assert laws.verdict([no]) == "**does not hold at this scale**: the opposite for b"
    assert laws.verdict([]) == laws.NOT_MEASURED


def test_a_law_is_found_again():
    N = np.array([1.5e5, 4e5, 1e6, 3e6])
    loss = 0.32 + (5e4 / N) ** 0.8
    for E in (None, 0.32):
        law = laws.fit_law(N, loss, E)
        assert law["E"] == pytest.approx(0.32, abs=1e-4) and law["a"] == pytest.approx(0.8, abs=1e-3)
        assert law["N0"] == pytest.approx(5e4, rel=1e-2) and law["at"](1e7) == pytest.approx(0.32 + (5e-3) ** 0.8, abs=1e-4)
    mean, error, _ = laws.predictions(N, [loss - 0.32 - 0.01, loss - 0.32 + 0.01], 0)
    assert abs(mean - (loss[-1] - 0.32)) < 0.01 and 0 < error < 0.02


def test_a_law_in_size_and_data_is_found_again():
    N, D = (x.ravel() for x in np.meshgrid([1.5e5, 4e5, 1e6], [4e5, 9e5, 1.8e6]))
    law = laws.fit_law_of_data(N, D, 0.3 + (4e4 / N) ** 0.7 + (3e4 / D) ** 0.5)
    assert [law["E"], law["a"], law["b"]] == pytest.approx([0.3, 0.7, 0.5], abs=1e-2)


# ------------------------------------------------- the report ---------------------------------------------------

DIAL = {0: (0.75, 0.05), 3: (0.7, 0.3), 12: (0.68, 0.45), 50: (0.6, 0.55), 100: (0.1, 0.6)}
REACHED = {"0.1M": 0.15, "0.3M": 0.4, "toy": 0.65, "3M": 0.85}
SHAPES = {"0.1M": (2, 2, 48, 12), "0.3M": (2, 4, 96, 12), "toy": (4, 4, 128, 16), "3M": (6, 6, 192, 16)}


def config_of(size):
    names = ("n_layer", "n_head", "n_embd", "rotary_dim")
    return dict(zip(names, SHAPES[size])) | dict(block_size=256, vocab_size=1024, dtype="float32")


def made_results(plan=run.FULL, seed=0):
    """The lines of a run that never was: pass rates near DIAL and REACHED, losses on a law."""
    rng, lines = np.random.default_rng(seed), [dict(job="settings", machine="2 cores", **plan)]
    hard = rng.normal(size=100)

    def problems(rate, n, count, ids):
        chance = np.clip(rate + 0.3 * hard[:count] * min(rate, 1 - rate) + 0.02 * rng.normal(), 0, 1)
        return {i: [int(rng.binomial(n, p)), n, -40 - 40 * (1 - rate), 80] for i, p in zip(ids, chance)}

    for job in run.all_jobs(plan, ROOT):
        what, size, kind, _, *how = job.name.split()
        name, share = kind.split("@")
        part = {"nl": 0.0, "multi": 0.15, "mono": 1}[name]
        multi, single = DIAL[int(share)] if name == "mono" else (0.68, 0.0)
        rate = part * REACHED[size] * (single if how == ["single"] else multi) / 0.68
        line, n_steps = dict(job=job.name, seconds=9, cpu_seconds=9), int(how[0]) if how[-1:] == ["steps"] else 900
        if what == "train":
            curve = [[step, 1.0, 0.4 + 8 / SHAPES[size][2] + 20 / (step + 20)] for step in range(50, n_steps + 1, 50)]
            line |= dict(model=config_of(size), tokens_per_step=2048, curve=curve)
        elif what == "loss":
            N = report.num_params(report.Config(**config_of(size)))
            beyond = (2e4 / N) ** 0.6 + (2e4 / n_steps / 2048) ** 0.7 - (2e4 / 900 / 2048) ** 0.7 + 0.002 * rng.normal()
            line["rate"] = dict(entropy=0.327, entropy_error=0.003, loss=0.327 + beyond, beyond=beyond, beyond_error=0.001)
        elif what == "mtpb":
            ids = [str(i) for i in range(1, plan["mtpb_limit"] + 1)]
            told = dict(program="print(1)\n", expected=1, printed="1", result="passed", id="1")
            line |= dict(problems=problems(rate, 5, len(ids), ids), conversations=dict(right=told))
        else:
            ids = [f"Miniature/{i}" for i in range(plan["humaneval_limit"])]
            line |= dict(problems=problems(rate, plan["humaneval_n"][how[0]], len(ids), ids))
        lines.append(line)
    return lines


def written(folder, lines):
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return report.Results(folder / "results.jsonl")


def test_the_report_says_what_the_results_say(tmp_path):
    """Results whose truth is known: the dial's row, the verdicts, the law and its prediction come out."""
    r = written(tmp_path, made_results())
    page, found = report.text(r), {row[0][:24]: row for row in report.claims(r)}
    assert len(found) == 6 and all(row[3] for row in found.values())
    assert report.not_measured(r) == [] and report.NOT_MEASURED not in page
    ablation = next(row for claim, row in found.items() if claim.startswith("Comments"))
    assert ablation[4] == "**holds**"
    law = next(row for claim, row in found.items() if claim.startswith("Loss falls"))
    assert law[4] == "**holds**" and "foretold" in law[2]
    N, losses = report.beyond(r)
    assert laws.fit_law(N, losses.mean(0), 0)["a"] == pytest.approx(0.6, abs=0.05)
    assert "E given" in report.law_table(r) and "root mean square" in report.law_of_data(r)
    assert "cannot be told apart" in page and "% stay at 50 %" in page      # claim 1, and the dial in a sentence
    wanted = np.array([report.rates_of(r.jobs[f"mtpb toy mono@50 s{s} multi"]) for s in r.seeds])
    shown = next(line for line in page.splitlines() if line.startswith("| pass rate %, multi-turn | ")).split(" | ")[4]
    assert shown.startswith(f"{100 * wanted.mean():.1f} ± ")


def test_a_law_that_is_broken_is_called_that(tmp_path):
    lines = made_results()
    for line in lines:
        if line["job"].startswith("loss 3M"):
            line["rate"]["beyond"] *= 2
    r = written(tmp_path, lines)
    assert report.law_claim(r)[4] == laws.OPPOSITE and "5. The law of the smaller sizes missed" in report.text(r)


def test_what_was_not_measured_is_said_and_not_made_up(tmp_path):
    """Results without one job, and with none: the page is written all the same."""
    lines = made_results()
    for kept in ([line for line in lines if line["job"] != "mtpb toy mono@50 s1 single"], lines[:1]):
        r = written(tmp_path, kept)
        page = report.text(r)
        assert "**Not measured**, since the run was not finished" in page and "mtpb toy mono@50 s1 single" in page
    assert all(row[2].startswith(report.NOT_MEASURED) and report.NOT_MEASURED in row[4] for row in report.claims(r))


def test_a_quick_report_is_a_report(tmp_path):
    page = report.text(written(tmp_path, made_results(run.QUICK)))
    assert "two sizes" in page and "**A quick run**" in page and "30 problems of 5 cases" in page


def test_every_break_of_the_order_is_told(tmp_path):
    lines = made_results()
    for line in lines:
        if line["job"].startswith("mtpb 3M mono@12") and line["job"].endswith("multi"):
            line["problems"] = {i: [0, *rest] for i, (_, *rest) in line["problems"].items()}
    found = report.not_monotone(written(tmp_path, lines))
    assert any(f.startswith("mini-MTPB: MONO 3.1M (0.0 %) is below MONO 1.1M") and "within" not in f for f in found)


def test_results_of_an_earlier_plan_are_told_in_one_line(tmp_path):
    (tmp_path / "results.jsonl").write_text('{"job": "settings", "sizes": ["0.1M"]}\n')
    with pytest.raises(ValueError, match="an earlier plan"):
        report.Results(tmp_path / "results.jsonl")


def test_the_plans_fit_their_time():
    """By the costs that run.py writes down, on two cores."""
    assert run.cost_of(run.FULL) < 80 and run.cost_of(run.QUICK) < 8


COMMITTED = ROOT / "miniature" / "results.jsonl"


@pytest.mark.skipif(not COMMITTED.exists(), reason="no full run is committed")
def test_the_committed_report_is_its_results():
    assert (ROOT / "miniature" / "README.md").read_text() == report.text(report.Results(COMMITTED))
