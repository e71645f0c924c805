"""The page of the miniature, recomputed from results.jsonl another way: plain Python, no code of report.py or laws.py. Of a run
that never was, always; and of the committed one, where one is."""
import json
import math
import re
from pathlib import Path
from statistics import fmean, stdev, variance

import pytest
from test_instrument import COMMITTED, made_results

from miniature import report, run
from model import Config, num_params

CORPORA = {"NL": "nl", "MULTI": "multi", "MONO": "mono"}


class Page:
    """The tables of a page, and the jobs that they come from."""

    def __init__(self, lines, text):
        self.settings, self.jobs, self.text = lines[0], {line["job"]: line for line in lines[1:]}, text
        self.tables = [[row.strip("| ").split(" | ") for row in found.splitlines()]
                       for found in re.findall(r"(?:^\|.*\n)+", text, re.M)]

    def rows(self, title):
        """{first cell: other cells} of the table whose head begins with a title."""
        table = next(t for t in self.tables if t[0][0].startswith(title) or title in t[0])
        return {row[0]: row[1:] for row in table[2:]}

    def column(self, job, of):
        """(seeds x problems) of a job's values; job has an S where the seed stands."""
        return [[of(*p) for p in self.jobs[job.replace("S", f"s{s}")]["problems"].values()] for s in self.settings["seeds"]]

    def mtpb(self, size, kind, mode="multi"):
        return self.column(f"mtpb {size} {kind} S {mode}", lambda passed, n, *_: passed / n)

    def perplexity(self, size, kind, mode):
        return self.column(f"mtpb {size} {kind} S {mode}", lambda passed, n, logp, tokens: math.exp(-logp / tokens))

    def pass_at(self, size, kind, k):
        """1 - the chance that k of the samples are all wrong; of the first seed alone where not all have k samples."""
        chance = lambda c, n, *_: 1 - math.comb(n - c, k) / math.comb(n, k)
        temperature = next(t for t, n in self.settings["humaneval_n"].items() if n >= k)
        if temperature in self.settings["humaneval_all"]:
            return self.column(f"humaneval {size} {kind} S {temperature}", chance)
        line = self.jobs[f"humaneval {size} {kind} s{self.settings['seeds'][0]} {temperature}"]
        return [[chance(*p) for p in line["problems"].values()]]

    def beyond(self, size, kind, steps=""):
        return [self.jobs[f"loss {size} {kind} s{s}{steps}"]["rate"]["beyond"] for s in self.settings["seeds"]]


def told(x):
    """Mean and standard error of seeds x problems: analysis of variance in two directions, by sums of squares."""
    S, P = len(x), len(x[0])
    cells, mean = [v for row in x for v in row], fmean(v for row in x for v in row)
    of_problems = S * sum((fmean(column) - mean) ** 2 for column in zip(*x))
    if S == 1:
        return mean, math.sqrt(variance(cells) / P)
    of_seeds = P * sum((fmean(row) - mean) ** 2 for row in x)
    rest = (sum((v - mean) ** 2 for v in cells) - of_problems - of_seeds) / (S - 1) / (P - 1)
    problem, seed = of_problems / (P - 1), of_seeds / (S - 1)
    return mean, math.sqrt(max(problem + seed - rest, problem, seed) / S / P)


def minus(a, b):
    return [[p - q for p, q in zip(*rows)] for rows in zip(a, b)]


def close(cell, mean, error, places):
    """A cell shows a mean and an error, to its last place."""
    said = [float(n) for n in re.findall(r"[-+]?\d+\.\d+", cell)]
    return said == pytest.approx([mean, error], abs=0.51 * 10.0 ** -places)


@pytest.fixture(scope="module", params=["made", "committed"])
def page(request, tmp_path_factory):
    if request.param == "committed":
        if not COMMITTED.exists():
            pytest.skip("no full run is committed")
        return Page([json.loads(line) for line in COMMITTED.read_text().splitlines()],
                    COMMITTED.with_name("README.md").read_text())
    lines, file = made_results(), tmp_path_factory.mktemp("made") / "results.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Page(lines, report.text(report.Results(file)))


def test_every_job_of_the_run_is_there(page):
    """And those of the committed run are the plan's that stands in run.py."""
    plan = {key: value for key, value in page.settings.items() if key not in ("job", "machine")}
    assert plan == run.FULL and sorted(page.jobs) == sorted(job.name for job in run.all_jobs(plan, Path("out")))
    assert "not measured" not in page.text.lower() and "**A quick run**" not in page.text


def test_the_dial(page):
    rows, size, places = page.rows("all comments at the top"), page.settings["dial_size"], page.settings["dial"]
    for i, kind in enumerate(f"mono@{share}" for share in places):
        multi, single = page.mtpb(size, kind), page.mtpb(size, kind, "single")
        for name, x in (("pass rate %, multi-turn", multi), ("pass rate %, single-turn", single),
                        ("difference, points", minus(multi, single))):
            assert close(rows[name][i], *(100 * v for v in told(x)), 1), (name, kind)
        for mode in ("multi", "single"):
            assert close(rows[f"prompt perplexity, {mode}-turn"][i], *told(page.perplexity(size, kind, mode)), 2)
        losses = page.beyond(size, kind)
        assert close(rows["loss beyond the entropy"][i], fmean(losses), stdev(losses) / math.sqrt(len(losses)), 4)
    first, half = (told(minus(page.mtpb(size, kind), page.mtpb(size, kind, "single")))[0] for kind in ("mono@0", "mono@50"))
    stays = re.search(r"everything first, (-?\d+) ± \d+ % stay at 50 %", page.text)
    assert stays is None or abs(int(stays[1]) - 100 * half / first) < 0.51


def test_sizes_and_corpora(page):
    share, mtpb, humaneval = page.settings["share"], page.rows("pass rate %, multi-turn"), page.rows("pass@1 %")
    models, asked = page.rows("preset"), page.rows("MONO, asked in two ways")
    for i, size in enumerate(page.settings["sizes"]):
        line = models[f"`{size}`"]
        config = page.jobs[f"train {size} mono@{share} s0"]["model"]
        assert line[0] == f"{num_params(Config(**config)):,}"
        for place, (name, corpus) in enumerate(CORPORA.items(), 2):
            kind = f"{corpus}@{share}"
            assert close(mtpb[name][i], *(100 * v for v in told(page.mtpb(size, kind))), 1)
            assert close(humaneval[name][i], *(100 * v for v in told(page.pass_at(size, kind, 1))), 1)
            last = fmean(page.jobs[f"train {size} {kind} s{s}"]["curve"][-1][2] for s in page.settings["seeds"])
            assert abs(float(line[place]) - last) < 0.00051
        for mode in ("single", "multi"):
            assert close(asked[f"pass rate %, {mode}-turn"][i], *(100 * v for v in told(page.mtpb(size, kind, mode))), 1)
            assert close(asked[f"prompt perplexity, {mode}-turn"][i], *told(page.perplexity(size, kind, mode)), 2)
        for k in (10, 100):
            assert close(humaneval[f"MONO, pass@{k}"][i], *(100 * v for v in told(page.pass_at(size, kind, k))), 1)


def test_passed_and_not_passed(page):
    share, rows = page.settings["share"], page.rows("problems passed")
    for size, cells in zip(page.settings["sizes"], rows.values()):
        job = f"humaneval {size} mono@{share} S {page.settings['humaneval_all'][0]}"
        passed = [any(column) for column in zip(*page.column(job, lambda c, *_: c))]
        of = [fmean(column) for column in zip(*page.column(job, lambda c, n, logp, tokens: math.exp(-logp / tokens)))]
        for yes, count, cell in ((True, *cells[:2]), (False, *cells[2:])):
            group = [p for p, was in zip(of, passed) if was == yes]
            assert int(count) == len(group)
            assert len(group) < 2 or close(cell, fmean(group), stdev(group) / math.sqrt(len(group)), 2)


def test_difficulty(page):
    kind, rows = f"mono@{page.settings['share']}", page.rows("single-turn → multi-turn, %")
    both = {(s, mode): page.mtpb(s, kind, mode) for s in page.settings["sizes"] for mode in ("single", "multi")}
    rates = [round(fmean(column), 9) for column in zip(*(row for (_, mode), x in both.items() if mode == "multi" for row in x))]
    ranges = {"easy": (0.7, 2), "medium": (0.3, 0.7), "hard": (-1, 0.3)}
    for row, cells in rows.items():
        low, high = ranges[row.split()[0]]
        which = [i for i, rate in enumerate(rates) if (low < rate if low == 0.7 else low <= rate) and
                 (rate <= high if high == 0.7 else rate < high)]
        assert row.endswith(f"({len(which)} problems)")
        for s, cell in zip(page.settings["sizes"], cells):
            if which:
                means = [100 * fmean(x[i] for x in both[s, mode] for i in which) for mode in ("single", "multi")]
                assert [float(side.split(" ± ")[0]) for side in cell.split(" → ")] == pytest.approx(means, abs=0.051)


def best_law(N, loss, free):
    """The exponent by trying 3,000 of them; the rest of E + c N^-a by the normal equations -> what it says of any size."""
    def of(a):
        x = [n ** -a for n in N]
        if not free:
            c, E = sum(u * v for u, v in zip(x, loss)) / sum(u * u for u in x), 0
        else:
            c = sum((u - fmean(x)) * (v - fmean(loss)) for u, v in zip(x, loss)) / sum((u - fmean(x)) ** 2 for u in x)
            E = fmean(loss) - c * fmean(x)
        return sum((E + c * u - v) ** 2 for u, v in zip(x, loss)), lambda n: E + c * n ** -a
    return min((of(i / 1000) for i in range(20, 3001)), key=lambda found: found[0])[1]


def test_the_law_and_its_prediction(page):
    kind, table, sizes = f"mono@{page.settings['share']}", page.rows("N0"), page.settings["sizes"]
    N = [num_params(Config(**page.jobs[f"train {s} {kind} s0"]["model"])) for s in sizes]
    losses = list(zip(*(page.beyond(s, kind) for s in sizes)))        # seeds x sizes
    H = page.jobs[f"loss {sizes[0]} {kind} s0"]["rate"]["entropy"]
    for row, free in (("E given", False), ("E fitted", True)):
        said = [best_law(N[:-1], one[:-1], free)(N[-1]) for one in losses]
        cells = table[row]
        assert float(cells[4].split(" ± ")[0]) == pytest.approx(H + fmean(said), abs=0.0004)
        assert float(cells[5].split(" ± ")[0]) == pytest.approx(H + fmean(one[-1] for one in losses), abs=0.00006)
        whole = best_law(N, [fmean(column) for column in zip(*losses)], free)
        assert float(cells[6]) == pytest.approx(H + whole(3 * N[-1]), abs=0.0004)


def rule(said):
    """The verdict on seeds x problems of differences that ought to be above zero."""
    counts = []
    for x in said:
        (mean, error), signs = told(x), {(fmean(row) > 0) - (fmean(row) < 0) for row in x}
        counts.append((mean > 0) - (mean < 0) if abs(mean) > 2 * error and len(signs) == 1 else 0)
    return ("**holds**" if min(counts) > 0 else "**holds in part**" if max(counts) > 0 else
            "**does not hold at this scale**" if min(counts) < 0 else "**undecided**")


def test_verdicts(page):
    claims, sizes, size = page.rows("claim"), page.settings["sizes"], page.settings["dial_size"]
    kinds = [f"{corpus}@{page.settings['share']}" for corpus in CORPORA.values()]
    both = page.mtpb, lambda size, kind: page.pass_at(size, kind, 1)
    larger = [minus(get(b, kinds[2]), get(a, kinds[2])) for get in both for a, b in zip(sizes, sizes[1:])]
    later = [minus(get(s, b), get(s, a)) for get in both for a, b in zip(kinds, kinds[1:]) for s in sizes]
    asked = [minus(page.perplexity(s, kinds[2], "single"), page.perplexity(s, kinds[2], "multi")) for s in sizes]
    half = minus(page.mtpb(size, "mono@50"), page.mtpb(size, "mono@50", "single"))
    ends = minus(page.mtpb(size, "mono@0"), page.mtpb(size, "mono@100"))
    verdicts = [cells[-1].split(": ")[0] for cells in claims.values()]
    wanted = [rule(said) for said in ([half], larger, later, asked, [ends])]
    assert verdicts[:4] + verdicts[5:] == wanted and len(verdicts) == 6
    measured, spread, said, error = (float(n) for n in re.findall(r"\d\.\d{4}", list(claims.values())[4][1]))
    off = abs(measured - said) - 2 * math.hypot(spread, error)
    assert abs(off) < 0.0002 or verdicts[4] == ("**holds**" if off < 0 else "**does not hold at this scale**")
