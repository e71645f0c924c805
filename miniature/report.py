"""The report of a run of the miniature: tables, plots, and a verdict beside each claim, all
computed from results.jsonl.

    python miniature/report.py [FOLDER]      FOLDER/results.jsonl -> FOLDER/README.md and
                                             FOLDER/*.png (default: this folder)

laws.py says how error bars, verdicts and scaling laws come about, pictures.py draws: that
needs matplotlib; without it the tables are written all the same.
"""
import argparse
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from harness import flags  # noqa: E402
from harness.cli import cli, one_line_errors  # noqa: E402
from harness.files import check, read_lines  # noqa: E402

from humaneval import estimate_pass_at_k  # noqa: E402
from miniature.laws import (  # noqa: E402
    HOLDS,
    NOT_MEASURED,
    OPPOSITE,
    difference,
    fit_law,
    fit_law_of_data,
    mean_se,
    predictions,
    spread,
    verdict,
)
from miniature.run import TOKENS, all_jobs, short_steps  # noqa: E402
from model import Config, num_params  # noqa: E402

NAMES = {"nl": "NL", "multi": "MULTI", "mono": "MONO"}
LEVELS = ("easy", "medium", "hard")
# CodeGen-MONO in the paper, as far as confirmed: parameters in millions, HumanEval pass@1 and MTPB
# pass rate in %.
PAPER_SIZES = {"350M": 357, "2.7B": 2780, "6.1B": 7060, "16.1B": 16030}
PAPER_HUMANEVAL = (12.76, 23.70, 26.13, 29.28)
PAPER_MTPB = (16.98, 38.72, 43.52, 47.34)


class Results:
    """results.jsonl, opened. What was measured comes as {seed: (problems,)}; {}: it was not."""

    def __init__(self, path):
        lines = [line for _, line in read_lines(path)]
        for line in lines:
            check(line, {"job": str}, f"{path} is damaged: of a line ")
        if not lines or lines[0].get("job") != "settings":
            raise ValueError(f"{path} does not begin with a run's settings: make it with "
                             "bash miniature/run.sh")
        if "dial" not in lines[0]:
            raise ValueError(f"{path} comes from an earlier plan without seeds: make it anew with "
                             "bash miniature/run.sh")
        self.settings, self.jobs = lines[0], {line["job"]: line for line in lines[1:]}
        self.sizes, self.seeds = self.settings["sizes"], self.settings["seeds"]
        self.dial, self.dial_size = self.settings["dial"], self.settings["dial_size"]
        self.half = min(self.dial, key=lambda share: abs(share - 50))   # both forms equally common

    def kind(self, name):
        return f"{name}@{self.settings['share']}"

    def config(self, size):
        found = (v for k, v in self.jobs.items() if k.startswith(f"train {size} "))
        line = next(found, None)
        return Config(**line["model"]) if line else None

    def params(self, size):
        config = self.config(size)
        return num_params(config) if config else None

    def label(self, size):
        n = self.params(size)
        return f"{n / 1e6:.2g}M" if n else size

    def by_seed(self, what, size, kind, how="", of=None):
        """{seed: of(job's line)} of the jobs that were done."""
        names = {s: " ".join(filter(None, [what, size, kind, f"s{s}", how])) for s in self.seeds}
        return {s: of(self.jobs[name]) for s, name in names.items() if name in self.jobs}

    def mtpb(self, size, kind, mode="multi"):
        """The pass rate of each problem."""
        return self.by_seed("mtpb", size, kind, mode, rates_of)

    def perplexity(self, size, kind, mode):
        """The perplexity of each problem's prompts: exp(-1/m sum log p), m tokens."""
        return self.by_seed("mtpb", size, kind, mode, perplexities_of)

    def humaneval(self, size, kind, k):
        """pass@k of each problem at the lowest temperature with so many samples."""
        for temperature, n in self.settings["humaneval_n"].items():
            if n >= k and (found := self.by_seed(
                    "humaneval", size, kind, temperature, lambda line: np.array(
                        [estimate_pass_at_k(n, c, k) for c, n, *_ in line["problems"].values()]))):
                return found
        return {}

    def loss(self, size, kind, steps=0):
        """{seed: what entropy.py told of a model}."""
        how = f"{steps} steps" if steps else ""
        return self.by_seed("loss", size, kind, how, lambda line: line["rate"])

    def difficulty(self):
        """Level of each problem by its pass rate under MONO turn by turn, averaged over sizes and
        seeds: hard under 30 %, easy over 70 %, as in the paper."""
        rates = [rate for s in self.sizes for rate in self.mtpb(s, self.kind("mono")).values()]
        if not rates:
            return None
        level = lambda x: "hard" if x < 0.3 else "easy" if x > 0.7 else "medium"
        return np.array([level(x) for x in np.mean(rates, 0).round(9)])     # 0.7, not 0.70...01


def columns(line):
    """(4, problems): programs that pass, programs, sum of log p of the prompts, their tokens."""
    return np.array(list(line["problems"].values())).T


def rates_of(line):
    passed, programs, *_ = columns(line)
    return passed / programs


def perplexities_of(line):
    _, _, logp, tokens = columns(line)
    return np.exp(-logp / tokens)


# ------------------------------------------------- what is told ----------------------------------

def percent(values):
    """{seed: rates of problems} -> "62.5 ± 4.1"."""
    if not values:
        return NOT_MEASURED
    mean, se = mean_se(list(values.values()))
    return f"{100 * mean:.1f} ± {100 * se:.1f}"


def plain(values):
    if not values:
        return NOT_MEASURED
    mean, se = mean_se(list(values.values()))
    return f"{mean:.2f}" + (f" ± {se:.2f}" if np.isfinite(se) else "")


def in_words(said, scale=100):
    """[(where, difference, error, agree)] -> text; rates in percentage points."""
    d = 1 if scale == 100 else 2
    return "; ".join(f"{where}: {scale * mean:+.{d}f} ± {scale * se:.{d}f}"
                     for where, mean, se, _ in said) or NOT_MEASURED


def in_ranges(groups):
    """{what: [(where, difference, error, agree)]} -> from the least difference to the largest, in
    percentage points, and the largest error."""
    told = []
    for name, said in groups.items():
        if said:
            d, e = 100 * np.array([[mean, se] for _, mean, se, _ in said]).T
            told.append(f"{name}: {min(d):+.1f} to {max(d):+.1f} (± {max(e):.1f} at most)")
    return "; ".join(told) or NOT_MEASURED


def there(*said):
    return [s for s in said if s]


def dial_differences(r, get, shares):
    """Multi-turn minus single-turn of a measure, at positions of the dial."""
    size = r.dial_size
    return there(*(difference(f"{share} %", get(size, f"mono@{share}", "multi"),
                              get(size, f"mono@{share}", "single")) for share in shares))


def beyond(r):
    """The sizes with their losses beyond the entropy -> (parameters (n,), seeds x n), or None."""
    found = [r.loss(s, r.kind("mono")) for s in r.sizes]
    seeds = [s for s in r.seeds if all(s in f for f in found)]
    if len(r.sizes) < 3 or not seeds:
        return None
    return (np.array([r.params(s) for s in r.sizes], float),
            np.array([[f[s]["beyond"] for f in found] for s in seeds]))


def entropy(r):
    """(entropy, its error) of MONO, nats a token; it is the same for every model."""
    rates = [rate for s in r.sizes for rate in r.loss(s, r.kind("mono")).values()]
    return (rates[0]["entropy"], rates[0]["entropy_error"]) if rates else (None, None)


# ------------------------------------------------- claims ----------------------------------------

def claims(r):
    """(claim, what the paper measured, what was measured here, what could have been, verdict):
    every word of what was measured, and every verdict, is computed.

    The paper's figures are those that could be confirmed from released files or by a second source;
    others are left out."""
    mono, rows = r.kind("mono"), []
    measures = {"MTPB": r.mtpb, "HumanEval": lambda s, kind: r.humaneval(s, kind, 1)}
    stages = ("mono", "multi"), ("multi", "nl")

    def row(claim, paper, failed, said, words):
        rows.append([claim, paper, words, failed, verdict(said)])

    half = dial_differences(r, r.mtpb, [r.half])
    row("Said turn by turn a problem is solved more often than said at once, and not only because "
        f"the corpus is so ({r.label(r.dial_size)}, {r.half} % with all comments at the top)",
        "350M: 16.98 against 5.75 %; 16.1B: 47.34 against 38.74 %",
        "where the corpus holds both forms equally often, as many are solved either way", half,
        in_words(half))
    steps = {f"{name}, a step in size": there(
        *(difference(f"{name} {r.label(a)} → {r.label(b)}", get(b, mono), get(a, mono))
          for a, b in zip(r.sizes, r.sizes[1:]))) for name, get in measures.items()}
    row("A larger model solves more",
        f"MONO 350M to 16.1B: HumanEval {listed(PAPER_HUMANEVAL)}, MTPB {listed(PAPER_MTPB)} %",
        "a step in size that solves fewer, or no more", sum(steps.values(), []), in_ranges(steps))
    later = {f"{name} {NAMES[a]} - {NAMES[b]}": there(
        *(difference(f"{name} {NAMES[a]} - {NAMES[b]} {r.label(s)}", get(s, r.kind(a)),
                     get(s, r.kind(b))) for s in r.sizes))
        for name, get in measures.items() for a, b in stages}
    row("Going on with data that is more and more code helps: MONO beats MULTI, MULTI beats NL",
        "HumanEval, 16.1B: 29.28, 18.3, 14.2 %",
        "a stage of training after which a size solves fewer, or no more",
        sum(later.values(), []), in_ranges(later))
    asked = there(*(difference(r.label(s), r.perplexity(s, mono, "single"),
                               r.perplexity(s, mono, "multi")) for s in r.sizes))
    row("Said turn by turn the prompts have a lower perplexity (single minus multi)",
        "16.1B: 10.25 against 8.05", "a size that finds the prompts at once less surprising", asked,
        in_words(asked, 1))
    rows.append(law_claim(r))
    first, last = f"mono@{r.dial[0]}", f"mono@{r.dial[-1]}"
    ends = there(difference(f"multi-turn {r.label(r.dial_size)}", r.mtpb(r.dial_size, first),
                            r.mtpb(r.dial_size, last)))
    row("Comments beside their code are what teaches multi-turn synthesis "
        f"({r.dial[0]} % minus {r.dial[-1]} % of the programs with all comments at the top)",
        "a conjecture, not tested", "without any comment beside its code it is learned as well",
        ends, in_words(ends))
    return rows


def listed(rates):
    return ", ".join(f"{x:.2f}" for x in rates)


def law_claim(r):
    """The row of the scaling law: does the law of the smaller sizes say the last one's loss?"""
    claim = "Loss falls with size as a power law towards the entropy: the last size is foretold"
    paper = "cites the laws, fits none"
    failed = "the last size lies off the line by more than two errors"
    found = beyond(r)
    if found is None or len(r.sizes) < 4:
        return [claim, paper, NOT_MEASURED, failed, NOT_MEASURED]
    N, losses = found
    (said, error, _), (measured, spread_) = predictions(N, losses, 0), spread(losses[:, -1])
    holds = abs(measured - said) <= 2 * np.hypot(error, spread_)
    words = (f"beyond the entropy {r.label(r.sizes[-1])} has {measured:.4f} ± {spread_:.4f} nats a "
             f"token, foretold {said:.4f} ± {error:.4f}")
    return [claim, paper, words, failed, HOLDS if holds else OPPOSITE]


# What a verdict means for the paper, claim by claim: where it holds, where it is the opposite, and
# where neither can be said, or not for all.
MEANING = (
    ("The turns' advantage is more than a habit of the corpus.",
     "The turns' advantage is a habit of the corpus: where both forms are equally common, all at "
     "once is better. What the paper measured may tell how GitHub writes.",
     "Where both forms are equally common, the two ways to ask cannot be told apart. What the paper "
     "measured may tell how GitHub writes."),
    ("Size helps at every step, far below the paper's smallest model too.",
     "Where two sizes can be told apart the larger solves fewer: the paper's gain does not show.",
     "Not every step in size brings a gain that chance could not explain."),
    ("Every stage helps at every size. As in the paper a later stage is more training too, so "
     "part of the gain may be the steps and not the data.",
     "Where two stages can be told apart the later solves fewer: the paper's gain does not show.",
     "Not every stage brings every size a gain that chance could not explain. As in the paper a "
     "later stage is more training too."),
    ("What is asked turn by turn surprises a model less at every size: the paper's explanation of "
     "the advantage is possible.",
     "What is asked turn by turn surprises a model more: the paper's explanation of the advantage "
     "fails.",
     "Not at every size does it surprise a model less to be asked turn by turn."),
    ("With its floor known, the law of the smaller sizes foretold the next within two errors: what "
     "the paper takes from others is not refuted here.",
     "The law of the smaller sizes missed the next, although its floor is known. All sizes saw "
     "equally many tokens; the laws that the paper cites ask for more where the model is larger.",
     ""),
    ("The paper's conjecture stands a test that it did not have: with the comments taken away from "
     "their code, and nothing else changed, a model loses what it could do turn by turn.",
     "The paper's conjecture fails: without comments beside their code turns are learned better.",
     "The paper's conjecture is left undecided."))


def meanings(r):
    """A sentence for each claim, chosen by its verdict."""
    lines = []
    for (*_, found), (yes, no, undecided) in zip(claims(r), MEANING):
        said = {HOLDS: yes, NOT_MEASURED: "Not measured."}.get(
            found, no if found.startswith(OPPOSITE) else undecided)
        lines.append(f"{len(lines) + 1}. {said}")
    return "\n".join(lines)


def dial_words(r):
    """How the lead of the turns changes over the dial."""
    places = dict.fromkeys((r.dial[0], r.half, r.dial[-1]))
    leads = {share: dial_differences(r, r.mtpb, [share]) for share in places}
    if not all(leads.values()):
        return f"The lead of the turns over the dial: {NOT_MEASURED}."
    told = ", ".join(f"{100 * d:+.1f} ± {100 * e:.1f} points at {share} %"
                     for share, [(_, d, e, _)] in leads.items())
    if verdict(leads[r.dial[0]]) != HOLDS:
        return f"The turns lead by {told}."
    [(_, first, first_error, _)], [(_, half, error, _)] = leads[r.dial[0]], leads[r.half]
    stays = half / first
    error = np.hypot(error, stays * first_error) / first
    rest = "; the rest is what the corpus holds" if 0 < stays < 1 else ""
    return (f"The turns lead by {told}. So of the lead that they have where no program says "
            f"everything first, {100 * stays:.0f} ± {100 * error:.0f} % stay at {r.half} %{rest}.")


# ------------------------------------------------- tables ----------------------------------------

def table(head, rows):
    return "\n".join("| " + " | ".join(map(str, row)) + " |"
                     for row in [head, ["---"] * len(head), *rows])


def dial_table(r):
    size, rows = r.dial_size, []
    for mode in ("multi", "single"):
        rows.append([f"pass rate %, {mode}-turn",
                     *(percent(r.mtpb(size, f"mono@{s}", mode)) for s in r.dial)])
    rows.append(["difference, points",
                 *(in_words(dial_differences(r, r.mtpb, [s])).split(": ")[-1] for s in r.dial)])
    for mode in ("multi", "single"):
        rows.append([f"prompt perplexity, {mode}-turn",
                     *(plain(r.perplexity(size, f"mono@{s}", mode)) for s in r.dial)])
    rows.append(["loss beyond the entropy", *(of_seeds(r.loss(size, f"mono@{s}")) for s in r.dial)])
    return table(["all comments at the top", *(f"{s} %" for s in r.dial)], rows)


def of_seeds(losses):
    if not losses:
        return NOT_MEASURED
    mean, se = spread([rate["beyond"] for rate in losses.values()])
    return f"{mean:.4f}" + (f" ± {se:.4f}" if np.isfinite(se) else "")


def models_table(r):
    rows = []
    for s in r.sizes:
        if (c := r.config(s)) is None:
            continue
        last = [r.by_seed("train", s, r.kind(k), of=lambda line: line["curve"][-1][2])
                for k in NAMES]
        cells = [f"{spread(list(v.values()))[0]:.3f}" if v else NOT_MEASURED for v in last]
        rows.append([f"`{s}`", f"{r.params(s):,}", f"{c.n_layer} / {c.n_head} / {c.n_embd}", *cells,
                     of_seeds(r.loss(s, r.kind("mono")))])
    return table(["preset", "parameters", "layers / heads / width", *NAMES.values(),
                  "MONO beyond the entropy"], rows)


def humaneval_table(r):
    """pass@1 by corpus and size, and pass@10 and pass@100 of MONO."""
    rows = [[name, *(percent(r.humaneval(s, r.kind(k), 1)) for s in r.sizes)]
            for k, name in NAMES.items()]
    rows += [[f"MONO, pass@{k}", *(percent(r.humaneval(s, r.kind("mono"), k)) for s in r.sizes)]
             for k in (10, 100)]
    return table(["pass@1 %", *map(r.label, r.sizes)], rows)


def passed_table(r):
    """Prompt perplexities of the problems that any sample of any seed passed, and of the others."""
    rows = []
    for s in r.sizes:
        lines = r.by_seed("humaneval", s, r.kind("mono"), r.settings["humaneval_all"][0],
                          lambda line: (rates_of(line), perplexities_of(line)))
        if lines:
            rates, perplexities = np.mean(list(lines.values()), 0)
            groups = (perplexities[rates > 0], perplexities[rates == 0])
            rows.append([r.label(s), *(cell for group in groups for cell in (
                len(group), plain({0: group}) if len(group) else "-"))])
    return table(["MONO of", "problems passed", "their perplexity", "not passed",
                  "their perplexity"], rows)


def mtpb_table(r):
    rows = [[name, *(percent(r.mtpb(s, r.kind(k))) for s in r.sizes)] for k, name in NAMES.items()]
    return table(["pass rate %, multi-turn", *map(r.label, r.sizes)], rows)


def modes_table(r):
    """Both ways to ask, by size."""
    kind = r.kind("mono")
    rows = [[f"{name}, {mode}-turn", *(cell(get(s, kind, mode)) for s in r.sizes)]
            for name, get, cell in (("pass rate %", r.mtpb, percent),
                                    ("prompt perplexity", r.perplexity, plain))
            for mode in ("single", "multi")]
    return table(["MONO, asked in two ways", *map(r.label, r.sizes)], rows)


def difficulty_table(r):
    levels, rows = r.difficulty(), []
    for level in LEVELS:
        cells = []
        for s in r.sizes:
            both = [r.mtpb(s, r.kind("mono"), mode) for mode in ("single", "multi")]
            some = levels is not None and (levels == level).any()
            cells.append(" → ".join(percent({k: v[levels == level] for k, v in x.items()})
                                    for x in both) if some and all(both) else "-")
        count = 0 if levels is None else (levels == level).sum()
        rows.append([f"{level} ({count} problems)", *cells])
    return table(["single-turn → multi-turn, %", *map(r.label, r.sizes)], rows)


def difficulty_words(r):
    """What turns gain at each level, with the largest size."""
    said = there(*(gained(r, r.sizes[-1], level) for level in LEVELS))
    return (f"Turns gain, with MONO {r.label(r.sizes[-1])}, in points: {in_words(said)}. The paper: "
            "no gain on easy problems for its larger models.")


def gained(r, size, level):
    """(level, multi-turn minus single-turn pass rate of its problems, error, agree), or None."""
    levels = r.difficulty()
    if levels is None or (levels == level).sum() < 2:
        return None
    of = lambda mode: {s: x[levels == level] for s, x in r.mtpb(size, r.kind("mono"), mode).items()}
    return difference(level, of("multi"), of("single"))


def law_table(r):
    """The law with the entropy given and with it fitted; of the sizes but the last, and of all."""
    found = beyond(r)
    if found is None:
        return NOT_MEASURED
    (N, losses), (H, _), rows = found, entropy(r), []
    for E, given in ((0.0, "given"), (None, "fitted")):
        enough = len(N) - 1 >= (2 if given == "given" else 3)
        mean, error, law = predictions(N, losses, E) if enough else (np.nan, np.nan, None)
        whole = fit_law(N, losses.mean(0), E)
        rows.append([f"E {given}", f"{H + whole['E']:.3f}", f"{whole['N0']:.3g}",
                     f"{whole['a']:.2f}", f"{law['a']:.2f}" if law else "-",
                     f"{H + mean:.4f} ± {error:.4f}" if law else "-",
                     of_sizes(H + losses[:, -1]), f"{H + whole['at'](3 * N[-1]):.4f}"])
    last = r.label(r.sizes[-1])
    return table(["", "E", "N0", "a, all sizes", f"a, without {last}", f"foretold for {last}",
                  f"measured for {last}", f"foretold for {3 * N[-1] / 1e6:.2g}M"], rows)


def of_sizes(losses):
    mean, se = spread(losses)
    return f"{mean:.4f} ± {se:.4f}"


def law_of_data(r):
    """L(N, D) in words."""
    points = []
    for s in r.sizes:
        for steps in (0, *short_steps(r.settings)):
            for rate in r.loss(s, r.kind("mono"), steps).values():
                D = (steps or r.settings["steps"]["mono"]) * TOKENS
                points.append((r.params(s), D, rate["beyond"]))
    if len({(n, d) for n, d, _ in points}) < 6 or len({d for _, d, _ in points}) < 3:
        return f"L(N, D): {NOT_MEASURED}."
    N, D, loss = np.array(points).T
    law = fit_law_of_data(N, D, loss, 0)
    off = np.sqrt(np.mean((law["at"](N, D) - loss) ** 2))
    return (f"With fewer steps as well, L(N, D) = E + ({law['N0']:.3g} / N)^{law['a']:.2f} + "
            f"({law['D0']:.3g} / D)^{law['b']:.2f}, E given, D tokens of MONO; the {len(loss)} "
            f"models lie off it by {off:.4f} nats a token (root mean square).")


def not_monotone(r):
    """Where the order of sizes or corpora is broken, and whether within the difference's error."""
    found = []
    measured = {"mini-HumanEval pass@1": lambda s, kind: r.humaneval(s, kind, 1),
                "mini-MTPB": r.mtpb}
    pairs = [((a, k), (b, k)) for k in NAMES for a, b in zip(r.sizes, r.sizes[1:])]
    pairs += [((s, a), (s, b)) for s in r.sizes for a, b in (("nl", "multi"), ("multi", "mono"))]
    name = lambda x, rates: (f"{NAMES[x[1]]} {r.label(x[0])} "
                             f"({100 * mean_se(list(rates.values()))[0]:.1f} %)")
    for what, get in measured.items():
        for low, high in pairs:
            a, b = (get(size, r.kind(kind)) for size, kind in (low, high))
            found_ = difference("", a, b)
            if found_ and found_[1] > 0:
                within = "" if "holds" in verdict([found_]) else ", within the error"
                found.append(f"{what}: {name(high, b)} is below {name(low, a)}{within}")
    return found


# ------------------------------------------------- the text --------------------------------------

def conversations(r):
    line = r.jobs.get(f"mtpb {r.sizes[-1]} {r.kind('mono')} s{r.seeds[0]} multi")
    if not line:
        return NOT_MEASURED
    titles = {"right": "Right", "wrong value": "Wrong: it runs, and prints something else",
              "error": "Wrong: it fails"}
    return "\n\n".join(
        f"**{titles[kind]}** (problem {c['id']}, {c['result']}; expected `{c['expected']}`, got "
        f"`{c['printed']}`)\n\n```python\n{c['program'].rstrip()}\n```"
        for kind, c in line["conversations"].items())


def not_measured(r):
    """Names of the jobs that a finished run has and this one lacks."""
    return [job.name for job in all_jobs(r.settings, HERE) if job.name not in r.jobs]


def count(n, word):
    return f"{ {1: 'one', 2: 'two', 3: 'three', 4: 'four', 5: 'five'}.get(n, n)} {word}" + (
        "s" if n != 1 else "")


def text(r):
    """The report as Markdown."""
    s, top, size = r.settings, r.label(r.sizes[-1]), r.label(r.dial_size)
    minutes = sum(line.get("cpu_seconds", 0) for line in r.jobs.values()) / 60
    problems = lambda what: len(next((line["problems"] for job, line in r.jobs.items()
                                      if job.startswith(what + " ")), []))
    broken, missing = "; ".join(not_monotone(r)), ", ".join(not_measured(r))
    order = ("The order of sizes and of corpora, in mini-HumanEval's pass@1 and in mini-MTPB's "
             "pass rate, is broken " + (f"here: {broken}." if broken else "nowhere."))
    quick = (f"> **A quick run** (`--quick`): {count(len(r.sizes), 'size')} and fewer seeds, "
             "problems and samples. It shows that all works; the figures to read are those of the "
             "full run.\n\n") if s["quick"] else ""
    gap = f"\n**Not measured**, since the run was not finished: {missing}.\n" if missing else ""
    flag, (H, H_error) = " --quick" if s["quick"] else "", entropy(r)
    H = f"{H:.3f} ± {H_error:.3f} nats a token" if H else NOT_MEASURED
    samples = ", ".join(f"{n} at temperature {t}" for t, n in s["humaneval_n"].items())
    claim_head = ["claim", "the paper measured", "the miniature measured (rates in points)",
                  "could have failed", "verdict"]
    return f"""# The paper in miniature

{quick}The CodeGen paper says: code models get better with size, and with data that is more and more
code; saying a program turn by turn is better than saying it at once; and this needs no special
training, only comments beside code. {count(len(r.sizes), "size").capitalize()} small enough for a
laptop, each trained {count(len(r.seeds), "time")} with other seeds, put that to the test.
`bash miniature/run.sh{flag}` generates the corpora, trains, samples, runs what was written, and
writes this page: every figure, plot, verdict and what follows from it is computed by `report.py`
from `results.jsonl`.

The corpora are made by a program. So two things can be done here that nobody can do with GitHub: a
dial sets how many programs say everything first, all else equal; and the entropy of the corpus is
known, below which no model's loss can lie.

± is one standard error. It holds both the seeds and the problems: it is estimated from the table of
seeds by problems, as the spread that other seeds and other problems would show. A difference counts
when it is more than two standard errors and has the same sign with every seed; a claim holds when
all its differences count.
{gap}
## How much of the turns' advantage is in the corpus?

![pass rates and perplexity over the dial](dial.png)

Of the programs of MONO a share has all comments at the top and the code below. The lines are the
same at every position of the dial, in another order, and their code follows from their comments; so
the entropy, {H}, is all but the same. MONO {size}:

{dial_table(r)}

{dial_words(r)}

## Claims

{table(claim_head, claims(r))}

What it means for the paper, claim by claim:

{meanings(r)}

{order}

## Sizes and corpora

![pass rates by size and corpus](scaling.png)

mini-MTPB ({problems("mtpb")} problems of 5 cases; samples of each case: {s["mtpb_n"]}; temperature
0.2, top-p 0.95, judged by the official rules) and mini-HumanEval ({problems("humaneval")}
functions; samples of each: {samples}, those at the higher temperature of MONO with one seed) are
generated: combinations of operations that no corpus contains. Their figures compare only with one
another.

## The models and their corpora

{models_table(r)}

Loss on blocks of held-out documents of the same corpus, in nats a token, the mean of the seeds, and
of MONO what whole documents cost beyond their entropy. NL comes first ({s["steps"]["nl"]} steps of
{TOKENS:,} tokens), then MULTI from NL's weights ({s["steps"]["multi"]}), then MONO from MULTI's
({s["steps"]["mono"]}); {s["share"]} % of the programs say everything first. `python
miniature/corpus.py --kind {r.kind("nl")}` (or multi, mono) shows documents. All jobs together took
{minutes:.0f} minutes of CPU time ({s["machine"]}); where a job was interrupted, what came before is
not counted.

## mini-HumanEval by size and corpus (as the paper's Table 1)

{humaneval_table(r)}

## Prompt perplexity of passed and not passed problems (as Table 2)

{passed_table(r)}

Problems of mini-HumanEval; passed is one that any sample of any seed at the lowest temperature
passes. The paper: those that are passed have prompts of lower perplexity.

## mini-MTPB by size and corpus (as Table 3)

{mtpb_table(r)}

## Multi-turn against single-turn (as Table 4)

{modes_table(r)}

A prompt's perplexity is that of its words, given all that stands before them: turn by turn the
model's own code, too. The "#" before them does not count (`asked.py` says why).

## By difficulty

{difficulty_table(r)}

A problem is hard when MONO's pass rate turn by turn, averaged over sizes and seeds, is under 30 %,
easy when it is over 70 %. {difficulty_words(r)}

## A law with a known floor

![loss beyond the entropy](loss.png)

A document's probability under the program that made it is known, and so is E, the loss that no
model can go below on documents seen from their beginning: {H}.
What a model loses beyond it is measured document by document. L(N) = E + (N0 / N)^a, N parameters,
all sizes with equally many tokens, by least squares, with E given and with E fitted; what the law
of the smaller sizes says of {top} stands beside what was measured:

{law_table(r)}

{law_of_data(r)}

## Three conversations

With MONO {top}, chosen by rule: the first that is right, the first that prints something else, the
first that fails.

{conversations(r)}

## Run it

```
pip install -r requirements.txt matplotlib
bash miniature/run.sh
```

With `--quick` behind it there are two sizes and the report goes to `out-quick/`. An interrupted run
goes on where it was. `python miniature/report.py` draws this page again.
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
        raise FileNotFoundError(f"{folder} holds no results.jsonl: make it with "
                                "bash miniature/run.sh")
    r = Results(folder / "results.jsonl")
    from miniature.pictures import plots  # which imports this file
    plots(r, folder)
    (folder / "README.md").write_text(text(r))


if __name__ == "__main__":
    cli(main)
