"""The report of a run of the miniature: tables, plots, and a verdict beside each claim, all computed from results.jsonl.

    python miniature/report.py [FOLDER]      FOLDER/results.jsonl -> FOLDER/README.md and FOLDER/*.png (default: this folder)

Error bars are one standard error over the problems of the benchmark. A difference counts when it is more than two standard
errors of the differences problem by problem. The plots need matplotlib; without it the tables are written all the same.
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from harness import flags  # noqa: E402
from harness.cli import cli, one_line_errors  # noqa: E402
from harness.files import check, read_lines  # noqa: E402

from humaneval import estimate_pass_at_k  # noqa: E402
from miniature.plots import COLORS, GREY, pyplot, save  # noqa: E402
from model import Config, flops_per_token, num_params  # noqa: E402

CORPORA = {"nl": "NL", "multi": "MULTI", "mono": "MONO"}
PLACES = {"mono": "comments beside their code", "apart": "comments moved"}
TOKENS = 2048       # a step (run.py)
LEVELS = ("easy", "medium", "hard")
NOT_MEASURED = "not measured"
# CodeGen-MONO in the paper, as far as confirmed: parameters in millions, HumanEval pass@1 and MTPB pass rate in %.
PAPER_SIZES = {"350M": 357, "2.7B": 2780, "6.1B": 7060, "16.1B": 16030}
PAPER_HUMANEVAL, PAPER_MTPB = (12.76, 23.70, 26.13, 29.28), (16.98, 38.72, 43.52, 47.34)


class Results:
    """results.jsonl, opened: what was measured, problem by problem. None stands for what was not."""

    def __init__(self, path):
        lines = [line for _, line in read_lines(path)]
        for line in lines:
            check(line, {"job": str}, f"{path} is damaged: of a line ")
        if not lines or lines[0].get("job") != "settings":
            raise ValueError(f"{path} does not begin with a run's settings: make it with "
                             "bash miniature/run.sh")
        self.settings, self.jobs = lines[0], {line["job"]: line for line in lines[1:]}
        self.sizes = self.settings["sizes"]

    def params(self, size):
        line = next((v for k, v in self.jobs.items() if k.startswith(f"train {size} ")), None)
        return num_params(Config(**line["model"])) if line else None

    def label(self, size):
        n = self.params(size)
        return f"{n / 1e6:.2g}M" if n else size

    def curve(self, size, kind):
        """(steps, training loss, validation loss) of one stage."""
        line = self.jobs.get(f"train {size} {kind}")
        return np.array(line["curve"]).T if line else None

    def flops(self, size, kind, steps):
        line = self.jobs[f"train {size} {kind}"]
        return steps * line["tokens_per_step"] * flops_per_token(Config(**line["model"]))

    def problems(self, job):
        """(4, problems): programs that pass, programs, sum of log p of the prompts, tokens of the prompts."""
        line = self.jobs.get(job)
        return np.array(list(line["problems"].values())).T if line else None

    def mtpb(self, size, kind, mode="multi"):
        """The pass rate of each problem, (problems,)."""
        return self.rates(f"mtpb {size} {kind} {mode}")

    def rates(self, job):
        p = self.problems(job)
        return None if p is None else p[0] / p[1]

    def mtpb_perplexity(self, size, mode):
        """The perplexity of each problem's prompts under MONO, (problems,): exp(-1/m sum log p), m tokens."""
        p = self.problems(f"mtpb {size} mono {mode}")
        return None if p is None else np.exp(-p[2] / p[3])

    def humaneval(self, size, kind, k):
        """pass@k of each problem at the temperature where its mean is best -> ((problems,), temperature)."""
        found = []
        for temperature, n in self.settings["humaneval_n"].items():
            p = self.problems(f"humaneval {size} {kind} {temperature}")
            if p is not None and n >= k:
                found.append((np.array([estimate_pass_at_k(int(n), int(c), k) for c, n in p[:2].T]), temperature))
        return max(found, key=lambda f: f[0].mean()) if found else (None, None)

    def humaneval_perplexity(self, size):
        """(perplexity of each prompt under MONO, whether any sample of the problem passed), at the first temperature."""
        p = self.problems(f"humaneval {size} mono {list(self.settings['humaneval_n'])[0]}")
        return (None, None) if p is None else (np.exp(-p[2] / p[3]), p[0] > 0)

    def difficulty(self):
        """Level of each problem by its pass rate averaged over the sizes of MONO and both modes: hard under 30 %, easy
        over 70 %, as in the paper; so neither mode nor size has the say."""
        rates = [r for s in self.sizes for m in ("multi", "single") if (r := self.mtpb(s, "mono", m)) is not None]
        if not rates:
            return None
        return np.array(["hard" if x < 0.3 else "easy" if x > 0.7 else "medium" for x in np.mean(rates, 0)])


    def gain(self, size):
        """Level -> multi-turn minus single-turn pass rate of its problems under MONO."""
        multi, single, levels = self.mtpb(size, "mono", "multi"), self.mtpb(size, "mono", "single"), self.difficulty()
        return {level: (multi - single)[levels == level] if multi is not None and single is not None else np.array([])
                for level in LEVELS}


# ------------------------------------------------------ figures -----------------------------------------------

def mean_se(values):
    """Mean and its standard error over problems."""
    values = np.asarray(values, float)
    return values.mean(), values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan


def percent(values):
    """Rates of problems -> "62.5 ± 4.1"."""
    if values is None or not len(values):
        return NOT_MEASURED
    mean, se = mean_se(values)
    return f"{100 * mean:.1f} ± {100 * se:.1f}"


def plain(values):
    if values is None or not len(values):
        return "-" if values is not None else NOT_MEASURED
    mean, se = mean_se(values)
    return f"{mean:.2f}" + (f" ± {se:.2f}" if np.isfinite(se) else "")


def differences(comparisons):
    """[(where, higher, lower)], values problem by problem -> [(where, mean difference, its error)] of what is there."""
    return [(where, *mean_se(higher - lower)) for where, higher, lower in comparisons
            if higher is not None and lower is not None]


def verdict(said):
    """Does "higher is higher" hold? said: [(where, difference, error)]. What lies within the error
    says neither yes nor no."""
    groups = {"holds for": [w for w, d, e in said if d > 2 * e], "the opposite for": [w for w, d, e in said if d < -2 * e]}
    groups["within the error for"] = [w for w, _, _ in said if w not in sum(groups.values(), [])]
    holds = groups["holds for"]
    if len(holds) == len(said):
        return "**holds**" if said else NOT_MEASURED
    parts = "; ".join(f"{text} {', '.join(some)}" for text, some in groups.items() if some)
    if holds:
        return f"**holds in part**: {parts}"
    opposite = groups["the opposite for"]
    return f"**{'does not hold at this scale' if opposite else 'undecided'}**: {parts}"


def in_words(said, scale=100):
    """[(where, difference, error)] -> text; rates in percentage points."""
    d = 1 if scale == 100 else 2
    return "; ".join(f"{where}: {scale * mean:+.{d}f} ± {scale * se:.{d}f}" for where, mean, se in said) or NOT_MEASURED


def power_law(compute, loss):
    """L = a C^-b, which no point lies below -> (a, b, C of the frontier, L there).

    Its slope is fitted to the frontier, at each compute the best loss that any model had by then;
    then it is moved down."""
    order = np.argsort(compute)
    compute, loss = np.asarray(compute)[order], np.asarray(loss)[order]
    best = loss <= np.minimum.accumulate(loss)
    x, y = np.log(compute[best]), np.log(loss[best])
    slope, _ = np.polyfit(x, y, 1)
    return np.exp(np.min(y - slope * x)), -slope, compute[best], loss[best]


def frontier(r):
    """Compute and validation loss of all sizes on MONO, from the end of the warm-up on."""
    points = [(r.flops(s, "mono", step), val) for s in r.sizes if r.curve(s, "mono") is not None
              for step, _, val in r.curve(s, "mono").T if step >= 50]
    return np.array(points).T if points else None


# ------------------------------------------------------- tables -----------------------------------------------

def table(head, rows):
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [head, ["---"] * len(head), *rows])


def models_table(r):
    rows = []
    for s in r.sizes:
        if r.params(s) is None:
            continue
        c = next(v["model"] for k, v in r.jobs.items() if k.startswith(f"train {s} "))
        cells = [f"{curve[2, -1]:.3f} ({curve[0, -1]:.0f})" if (curve := r.curve(s, kind)) is not None else NOT_MEASURED
                 for kind in (*CORPORA, "apart")]
        rows.append([f"`{s}`", f"{r.params(s):,}", f"{c['n_layer']} / {c['n_head']} / {c['n_embd']}", *cells])
    return table(["preset", "parameters", "layers / heads / width", *CORPORA.values(), "apart"], rows)


def humaneval_table(r):
    rows = []
    for kind, name in CORPORA.items():
        for s in r.sizes:
            cells = [percent(v) + (f" (t {t})" if t else "") for v, t in (r.humaneval(s, kind, k) for k in (1, 10, 100))]
            rows.append([f"{name} {r.label(s)}", *cells])
    return table(["model", "pass@1 %", "pass@10 %", "pass@100 %"], rows)


def perplexity_table(r):
    rows = []
    for s in r.sizes:
        ppl, passed = r.humaneval_perplexity(s)
        rows.append([r.label(s), *([NOT_MEASURED] * 4 if ppl is None else
                                   [passed.sum(), plain(ppl[passed]), (~passed).sum(), plain(ppl[~passed])])])
    return table(["MONO of", "problems passed", "their perplexity", "not passed", "their perplexity"], rows)


def mtpb_table(r):
    rows = [[name, *[percent(r.mtpb(s, kind)) for s in r.sizes]] for kind, name in CORPORA.items()]
    return table(["pass rate %, multi-turn", *map(r.label, r.sizes)], rows)


def turns_table(r):
    rows = [[f"pass rate %, {mode}-turn", *[percent(r.mtpb(s, "mono", mode)) for s in r.sizes]] for mode in ("single", "multi")]
    rows += [[f"prompt perplexity, {mode}-turn", *[plain(r.mtpb_perplexity(s, mode)) for s in r.sizes]]
             for mode in ("single", "multi")]
    return table(["MONO of", *map(r.label, r.sizes)], rows)


def difficulty_table(r):
    levels, rows = r.difficulty(), []
    for level in LEVELS:
        cells = []
        for s in r.sizes:
            multi, single = r.mtpb(s, "mono", "multi"), r.mtpb(s, "mono", "single")
            ok = multi is not None and single is not None and (levels == level).any()
            cells.append(f"{percent(single[levels == level])} → {percent(multi[levels == level])}" if ok else "-")
        rows.append([f"{level} ({0 if levels is None else (levels == level).sum()} problems)", *cells])
    return table(["single-turn → multi-turn, %", *map(r.label, r.sizes)], rows)


def value_table(r):
    """By what the first prompt gives: the description of a problem begins with the type of its value."""
    problems = [json.loads(line) for line in (HERE / "mtpb.jsonl").read_text().splitlines()]
    problems = problems[:r.settings["mtpb_limit"]]      # those that were run
    kinds = {"int": "a number", "nums": "a list of numbers", "text": "a text of words", "words": "a list of words",
             "dict": "a dictionary from words to numbers"}
    rates_of = lambda rates: percent(rates) if len(rates) else "-"
    rows = []
    for kind, name in kinds.items():
        which = np.array([p["description"].startswith(kind + ",") for p in problems])
        rates = [r.mtpb(s, "mono") for s in r.sizes]
        cells = [NOT_MEASURED if rate is None else rates_of(rate[which]) for rate in rates]
        rows.append([f"{name} ({which.sum()} problems)", *cells])
    return table(["the first prompt gives", *map(r.label, r.sizes)], rows)


def apart_table(r):
    rows = [[f"{name}, {mode}-turn", *[percent(r.mtpb(s, kind, mode)) for s in r.sizes]]
            for mode in ("multi", "single") for kind, name in PLACES.items()]
    return table(["pass rate %", *map(r.label, r.sizes)], rows)


def claims(r):
    """(claim, what the paper measured, what was measured here, verdict): every word of the last two is computed.

    The paper's figures are those that could be confirmed from released files or by a second source; others are left out.
    """
    pass1 = lambda size, kind: r.humaneval(size, kind, 1)[0]
    larger = lambda get: [(f"{r.label(a)} → {r.label(b)}", get(b, "mono"), get(a, "mono"))
                          for a, b in zip(r.sizes, r.sizes[1:])]
    better = lambda get, high, low: [(r.label(s), get(s, high), get(s, low)) for s in r.sizes]
    family = lambda rates: f"MONO 350M to 16.1B: {', '.join(f'{x:.2f}' for x in rates)} %"
    rows = []

    def row(claim, paper, said, scale=100, holds=None):
        rows.append([claim, paper, in_words(said, scale), holds or verdict(said)])

    row("mini-HumanEval: a larger model solves more (pass@1)", family(PAPER_HUMANEVAL),
        differences(larger(pass1)))
    row("mini-HumanEval: MULTI beats NL", "16.1B: 18.3 against 14.2 %",
        differences(better(pass1, "multi", "nl")))
    row("mini-HumanEval: MONO beats MULTI", "16.1B: 29.28 against 18.3 %",
        differences(better(pass1, "mono", "multi")))
    said = []
    for s in r.sizes:       # two groups of different problems: their errors add up
        ppl, passed = r.humaneval_perplexity(s)
        if ppl is not None and 1 < passed.sum() < len(passed) - 1:
            (a, sa), (b, sb) = mean_se(ppl[~passed]), mean_se(ppl[passed])
            said.append((r.label(s), a - b, np.hypot(sa, sb)))
    row("Problems that are passed have prompts of lower perplexity (not passed minus passed)", "lower for every size", said, 1)
    row("mini-MTPB: a larger model solves more", family(PAPER_MTPB), differences(larger(r.mtpb)))
    row("mini-MTPB: MULTI beats NL", "no confirmed figure",
        differences(better(r.mtpb, "multi", "nl")))
    row("mini-MTPB: MONO beats MULTI", "no confirmed figure",
        differences(better(r.mtpb, "mono", "multi")))
    row("Said turn by turn a problem is solved more often than said at once",
        "350M: 16.98 against 5.75 %; 16.1B: 47.34 against 38.74 %",
        differences((r.label(s), r.mtpb(s, "mono", "multi"), r.mtpb(s, "mono", "single")) for s in r.sizes))
    row("Said turn by turn the prompts have a lower perplexity (single minus multi)", "16.1B: 10.25 against 8.05",
        differences((r.label(s), r.mtpb_perplexity(s, "single"), r.mtpb_perplexity(s, "multi")) for s in r.sizes), 1)
    gains = r.gain(r.sizes[-1])
    said = [(level, *mean_se(g)) for level, g in gains.items() if len(g) > 1]
    easy = next((g for g in said if g[0] == "easy"), None)
    less = [(f"{level} minus easy", mean - easy[1], np.hypot(se, easy[2]))
            for level, mean, se in said if easy and level != "easy"]
    row(f"Turns help least where problems are easy (multi minus single, {r.label(r.sizes[-1])})",
        "no gain on easy problems for the larger models", said,
        holds=verdict(less) if easy else f"{NOT_MEASURED}: no problem was easy")
    row("The conjecture: comments beside their code are what teaches multi-turn synthesis (beside minus moved, multi-turn)",
        "not tested", differences(better(r.mtpb, "mono", "apart")))
    return rows


def not_monotone(r):
    """Where the order of sizes or corpora is broken, and whether within the difference's error."""
    found = []
    measured = {f"mini-HumanEval pass@{k}": lambda s, kind, k=k: r.humaneval(s, kind, k)[0]
                for k in (1, 10, 100)} | {"mini-MTPB": r.mtpb}
    pairs = [((a, k), (b, k)) for k in CORPORA for a, b in zip(r.sizes, r.sizes[1:])]
    pairs += [((s, a), (s, b)) for s in r.sizes for a, b in (("nl", "multi"), ("multi", "mono"))]
    name = lambda x, rates: f"{CORPORA[x[1]]} {r.label(x[0])} ({100 * rates.mean():.1f} %)"
    for what, get in measured.items():
        for low, high in pairs:
            a, b = get(*low), get(*high)
            if a is None or b is None or b.mean() >= a.mean():
                continue
            mean, se = mean_se(a - b)
            within = "" if mean > 2 * se else ", within the error"
            found.append(f"{what}: {name(high, b)} is below {name(low, a)}{within}")
    return found


# -------------------------------------------------------- plots -----------------------------------------------

def plots(r, folder):
    """scaling.png, turns.png, loss.png. Transparent, in mid-tones: they are read on light pages and on dark ones."""
    if not (plt := pyplot()):
        return
    grey, colors = GREY, COLORS
    x = {s: r.params(s) for s in r.sizes if r.params(s)}

    def lines(ax, get, color, label, style="o-", size=5):
        some = [(x[s], *mean_se(v)) for s in x if (v := get(s)) is not None]
        if some:
            n, mean, se = np.array(some).T
            ax.errorbar(n, 100 * mean, 100 * se, fmt=style, color=color, label=label, capsize=3, markersize=size)

    def by_size(ax, title):
        ax.set(xscale="log", xlabel="parameters", title=title, ylim=(-3, 103))
        ax.set_xticks(list(x.values()), [r.label(s) for s in x])
        ax.minorticks_off()

    def legend(ax, **where):
        if ax.get_legend_handles_labels()[0]:       # an unfinished run may have nothing to show
            ax.legend(**where)

    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.6))
    for (kind, name), color, size in zip(CORPORA.items(), colors, (9, 6, 5)):       # what lies on one another is still seen
        lines(axes[0], lambda s, k=kind: r.humaneval(s, k, 1)[0], color, name, size=size)
        lines(axes[1], lambda s, k=kind: r.mtpb(s, k), color, name, size=size)
    by_size(axes[0], "mini-HumanEval")
    axes[0].set_ylabel("pass@1, %")
    by_size(axes[1], "mini-MTPB, multi-turn")
    axes[1].set_ylabel("pass rate, %")
    for ax in axes[:2]:
        legend(ax, loc="best")
    paper = list(PAPER_SIZES.values())
    axes[2].plot(paper, PAPER_HUMANEVAL, "o-", color=colors[2], label="HumanEval pass@1")
    axes[2].plot(paper, PAPER_MTPB, "s--", color=colors[2], label="MTPB")
    axes[2].set(xscale="log", xlabel="parameters", title="the paper, MONO", ylim=(-3, 103), ylabel="%")
    axes[2].set_xticks(paper, list(PAPER_SIZES))
    axes[2].minorticks_off()
    axes[2].legend(loc="upper left")
    save(figure, folder / "scaling.png")

    figure, axes = plt.subplots(1, 2, figsize=(10.5, 3.8))
    for (kind, name), color in zip(PLACES.items(), colors[2:0:-1]):
        for mode, style in (("multi", "o-"), ("single", "s--")):
            lines(axes[0], lambda s, k=kind, m=mode: r.mtpb(s, k, m), color, f"{name}, {mode}-turn", style)
    by_size(axes[0], "two corpora, two ways to ask")
    axes[0].set(ylabel="mini-MTPB pass rate, %", yticks=range(0, 101, 20))
    legend(axes[0], loc="best", fontsize=8.5)
    for i, (level, color) in enumerate(zip(LEVELS, (colors[3], colors[0], colors[1]))):
        some = [(j, *mean_se(g)) for j, s in enumerate(x) if len(g := r.gain(s)[level]) > 1]
        if some:
            j, mean, se = np.array(some).T
            axes[1].bar(j + 0.27 * (i - 1), 100 * mean, 0.25, yerr=100 * se, color=color, ecolor=grey, capsize=2, label=level)
    axes[1].axhline(0, color=grey, linewidth=0.8)
    axes[1].set(title="multi-turn minus single-turn, MONO", ylabel="pass rate, percentage points", xlabel="parameters")
    axes[1].set_xticks(range(len(x)), [r.label(s) for s in x])
    axes[1].grid(axis="x", visible=False)
    axes[1].margins(y=0.1)
    legend(axes[1], loc="upper left", fontsize=8.5)
    save(figure, folder / "turns.png")

    figure, axes = plt.subplots(1, 2, figsize=(10.5, 3.8))
    starts = np.cumsum([0, *[r.settings["steps"][kind] for kind in CORPORA]])
    for s, color in zip(r.sizes, colors):
        for kind, start in zip(CORPORA, starts):
            if (curve := r.curve(s, kind)) is not None:
                axes[0].plot(start + curve[0], curve[2], color=color, label=r.label(s) if kind == "nl" else None)
        if (curve := r.curve(s, "mono")) is not None:
            axes[1].plot(r.flops(s, "mono", curve[0]), curve[2], color=color, label=r.label(s))
    for name, start in zip(CORPORA.values(), starts):
        axes[0].axvline(start, color=grey, linewidth=0.8, linestyle=":")
        axes[0].text(start + 8, 0.97, name, transform=axes[0].get_xaxis_transform(), va="top")
    axes[0].set(title="three corpora, one after the other", xlabel="steps", yscale="log",
                ylabel="validation loss, nats a token")
    axes[0].set_ylim(top=1.25 * axes[0].get_ylim()[1])
    legend(axes[0], loc="upper right")
    if (found := frontier(r)) is not None and len(r.sizes) > 1:
        a, b, compute, _ = power_law(*found)
        line = np.array([compute.min(), compute.max()])
        axes[1].plot(line, a * line ** -b, "--", color=grey, label=rf"$L \propto C^{{-{b:.2f}}}$")
    axes[1].set(title="loss against compute, MONO", xscale="log", yscale="log", xlabel="training compute, FLOPs",
                ylabel="validation loss, nats a token")
    legend(axes[1], loc="upper right")
    for ax in axes:
        ticks = [t for t in (0.2, 0.3, 0.4, 0.5, 0.7, 1, 1.5, 2, 3, 5) if ax.get_ylim()[0] <= t <= ax.get_ylim()[1]]
        ax.set_yticks(ticks, ticks)
        ax.yaxis.minorticks_off()
    save(figure, folder / "loss.png")


# ------------------------------------------------------- the text ---------------------------------------------

def conversations(r):
    line = r.jobs.get(f"mtpb {r.sizes[-1]} mono multi")
    if not line:
        return NOT_MEASURED
    titles = {"right": "Right", "wrong value": "Wrong: it runs, and prints something else", "error": "Wrong: it fails"}
    return "\n\n".join(f"**{titles[kind]}** (problem {c['id']}, {c['result']}; expected `{c['expected']}`, got "
                       f"`{c['printed']}`)\n\n```python\n{c['program'].rstrip()}\n```"
                       for kind, c in line["conversations"].items())


def not_measured(r):
    """Names of the jobs that a finished run has and this one lacks."""
    names = [f"train {s} {k}" for s in r.sizes for k in (*CORPORA, "apart")]
    names += [f"mtpb {s} {k} multi" for s in r.sizes for k in (*CORPORA, "apart")]
    names += [f"mtpb {s} {k} single" for s in r.sizes for k in PLACES]
    names += [f"humaneval {s} {k} {t}" for s in r.sizes for k in CORPORA for t in r.settings["humaneval_n"]]
    return [n for n in names if n not in r.jobs]


def text(r):
    """The report as Markdown."""
    s, top = r.settings, r.label(r.sizes[-1])
    minutes = sum(line.get("cpu_seconds", 0) for line in r.jobs.values()) / 60
    count = lambda what: len(next((line["problems"] for job, line in r.jobs.items() if job.startswith(what)), []))
    first_t, first_n = list(s["humaneval_n"].items())[0]
    samples = ", ".join(f"{n} at temperature {t}" for t, n in s["humaneval_n"].items())
    mtpb_top, humaneval_top = percent(r.mtpb(r.sizes[-1], "mono")), percent(r.humaneval(r.sizes[-1], "mono", 1)[0])
    broken, missing = "; ".join(not_monotone(r)), ", ".join(not_measured(r))
    looked = ("The order of sizes and of corpora, in mini-HumanEval's pass@1, pass@10 and pass@100 "
              "and in mini-MTPB's pass rate")
    order = f"{looked}, is broken here: {broken}." if broken else f"{looked}, is broken nowhere."
    n_sizes = {1: "one size", 2: "two sizes", 3: "three sizes", 4: "four sizes"}[len(r.sizes)]
    law = NOT_MEASURED
    if (found := frontier(r)) is not None and len(r.sizes) > 1:
        a, b, *_ = power_law(*found)
        law = f"L = {a:.3g} · C^-{b:.3f}: ten times the compute leaves {100 * 10 ** -b:.0f} % of the loss"
    early, first = "", r.jobs.get(f"early train {r.sizes[-1]} mono")
    if first:       # a largest model that was trained on, since at the others' number of steps it was not done
        rates = r.rates(f"early mtpb {r.sizes[-1]} mono multi")
        step, _, loss = first["curve"][-1]
        early = (f"MONO {top} was resumed: after {step} steps its loss was {loss:.3f} and its pass "
                 f"rate on mini-MTPB {percent(rates)} %; "
                 "it is the one size that did not see the same tokens as the others. ")
    quick = (f"> **A quick run** (`--quick`): {n_sizes} and fewer problems and samples. It shows "
             "that all works; the figures to read are those of the full run.\n\n")
    quick = quick if s["quick"] else ""
    gap = f"\n**Not measured**, since the run was not finished: {missing}.\n" if missing else ""
    flag = " --quick" if s["quick"] else ""
    claim_head = ["claim", "the paper measured", "the miniature measured (differences, in points)", "verdict"]
    return f"""# The paper in miniature

{quick}Four claims make the CodeGen paper: code models get better with size and with data that is
more and more code; saying a program turn by turn is better than saying it at once; and this needs
no special training, only comments beside code. Here a family of {n_sizes} small enough for a laptop
repeats every experiment, from nothing: `bash miniature/run.sh{flag}` generates the corpora, trains,
samples, runs what was written, and writes this page. Each figure, each plot and each verdict is
computed by `report.py` from `results.jsonl`; ± is one standard error over the problems, and a
difference counts when it is more than two standard errors, problem by problem. One training run
each: the spread between seeds is not in the error bars.

![pass rates by size and corpus](scaling.png)

mini-HumanEval and mini-MTPB are generated problems in the form of the two benchmarks, and far
easier: their figures compare only with one another. MONO {top} solves {mtpb_top} % of mini-MTPB
(multi-turn, temperature 0.2) and {humaneval_top} % of mini-HumanEval (pass@1), all of them
combinations of operations that no corpus contains.
{gap}
## Claims

{table(claim_head, claims(r))}

{order}

## The models and their corpora

{models_table(r)}

Loss on held-out documents of the same corpus, in nats a token (and steps of {TOKENS:,} tokens). NL comes first, then MULTI
from NL's weights, then MONO from MULTI's. "apart" is MONO with the comments moved, also from MULTI.
`python miniature/corpus.py --kind nl` (or `multi`, `mono`, `apart`) shows documents. {early}All jobs together took
{minutes:.0f} minutes of CPU time ({s["machine"]}); where a job was interrupted, what came before is not counted.

## mini-HumanEval by size and corpus (as the paper's Table 1)

{humaneval_table(r)}

The first {count("humaneval")} functions; samples of each: {samples}; top-p 0.95. As in the paper, each k has the
temperature that is best for it (t).

## Prompt perplexity of passed and not passed problems (as Table 2)

{perplexity_table(r)}

A problem is passed when any of its {first_n} samples at temperature {first_t} is.

## mini-MTPB by size and corpus (as Table 3)

{mtpb_table(r)}

{count("mtpb")} problems of 5 cases, samples a case: {s["mtpb_n"]}; temperature 0.2, top-p 0.95, judged by the official rules.

## Multi-turn against single-turn (as Table 4)

{turns_table(r)}

![turns](turns.png)

## By difficulty

{difficulty_table(r)}

A problem is hard when MONO's pass rate, averaged over the sizes and both ways to ask, is under 30 %, easy when it is over 70 %.

The first answer has to copy a value out of the first prompt, and a wrong copy spoils all that follows. So it matters what is
copied (MONO, multi-turn, pass rate in %):

{value_table(r)}

## Do comments have to stand beside their code?

{apart_table(r)}

Both corpora hold the same lines of the same documents. In the second one every document has its comments first and its code
after; docstrings stay where they are. The single-turn rows are the control: if moving the comments broke no more than the
form, a model would do well when it is asked in the form that it was taught.

## Loss and compute

![loss](loss.png)

A scaling law says that a model's loss falls along a straight line when loss and compute are both drawn on logarithmic axes.
One model follows the line until it is too small for more compute to help; from there on a larger one has to take over. The
dashed line has the slope of the best losses in the right plot, and lies as high as it can without
one of them below it: {law} (C in FLOPs of the MONO stage).

## Three conversations

With MONO {top}, chosen by rule: the first that is right, the first that prints something else, the first that fails.

{conversations(r)}

## Run it

```
pip install -r requirements.txt matplotlib
bash miniature/run.sh --quick     # two sizes, report in out-quick/
bash miniature/run.sh             # four sizes, report in miniature/
```

An interrupted run goes on where it was. `python miniature/report.py` draws this page again from `results.jsonl`.
"""


def parser():
    """The command line."""
    p = one_line_errors(argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    p.add_argument("folder", nargs="?", type=flags.folder, default=str(HERE),
                   help="where results.jsonl lies and the report goes (default: this folder)")
    return p


def main():
    folder = Path(parser().parse_args().folder)
    if not (folder / "results.jsonl").is_file():
        raise FileNotFoundError(f"{folder} holds no results.jsonl: make it with bash miniature/run.sh")
    r = Results(folder / "results.jsonl")
    plots(r, folder)
    (folder / "README.md").write_text(text(r))


if __name__ == "__main__":
    cli(main)
