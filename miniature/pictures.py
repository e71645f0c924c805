"""The pictures of the report: dial.png, scaling.png, loss.png."""
import numpy as np

from miniature.laws import fit_law, mean_se, spread
from miniature.plots import COLORS, pyplot, save
from miniature.report import (
    NAMES,
    PAPER_HUMANEVAL,
    PAPER_MTPB,
    PAPER_SIZES,
    beyond,
)

PURPLE, ORANGE, BLUE, GREEN = COLORS


def line(ax, points, color, label, style="o-", size=5, shift=0.0, scale=100):
    """points: [(x, {seed: values of problems})], drawn with their errors where there is one. shift:
    to the right by so much, so that what is equal does not hide."""
    some = [(x, *mean_se(list(v.values()))) for x, v in points if v]
    if some:
        x, mean, se = np.array(some).T
        x = x * (1 + shift) if ax.get_xscale() == "log" else x + shift
        ax.errorbar(x, scale * mean, scale * se, fmt=style, color=color, label=label, capsize=3,
                    markersize=size)


def legend(ax, **where):
    if ax.get_legend_handles_labels()[0]:       # an unfinished run may have nothing to show
        ax.legend(**where)


def sized(ax, r, sizes):
    ax.set_xticks(sizes, [r.label(s) for s in r.sizes if r.params(s)])
    ax.minorticks_off()


def dial(plt, r, file):
    """Pass rate and perplexity over the dial, both ways to ask."""
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 3.8))
    places = range(len(r.dial))
    for mode, color, style, name in (("multi", BLUE, "o-", "turn by turn"),
                                     ("single", ORANGE, "s--", "all at once")):
        for ax, get, scale in ((axes[0], r.mtpb, 100), (axes[1], r.perplexity, 1)):
            line(ax, [(i, get(r.dial_size, f"mono@{share}", mode))
                      for i, share in zip(places, r.dial)], color, name, style, scale=scale)
    for ax in axes:
        ax.set_xticks(places, [f"{share} %" for share in r.dial])
        ax.set_xlabel("programs of the corpus with all comments at the top")
        legend(ax, loc="best")
    axes[0].set(ylabel="mini-MTPB pass rate, %", title=f"solved by MONO {r.label(r.dial_size)}")
    axes[0].set_ylim(bottom=0)
    axes[1].set(ylabel="perplexity of the prompts", title="surprised by what is asked")
    save(figure, file)


def scaling(plt, r, file):
    """Pass rates by size and corpus, beside the paper's."""
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.6))
    sizes = [r.params(s) for s in r.sizes if r.params(s)]
    rates = (lambda s, k: r.mtpb(s, k), lambda s, k: r.humaneval(s, k, 1))
    titles = ("mini-MTPB pass rate, %", "mini-HumanEval pass@1, %")
    for ax, get, title in zip(axes, rates, titles):
        ax.set_xscale("log")
        for i, (kind, name) in enumerate(NAMES.items()):
            line(ax, [(r.params(s), get(s, r.kind(kind))) for s in r.sizes if r.params(s)],
                 COLORS[i], name, size=(8, 6, 5)[i], shift=0.05 * (1 - i))
        if ax is axes[0]:
            line(ax, [(r.params(s), r.mtpb(s, r.kind("mono"), "single"))
                      for s in r.sizes if r.params(s)], BLUE, "MONO, at once", "s--")
        ax.set(xlabel="parameters", title=title)
        ax.set_ylim(bottom=-1)
        sized(ax, r, sizes)
        legend(ax, loc="best", fontsize=9)
    paper = list(PAPER_SIZES.values())
    axes[2].plot(paper, PAPER_MTPB, "o-", color=BLUE, label="MTPB")
    axes[2].plot(paper, PAPER_HUMANEVAL, "s--", color=BLUE, label="HumanEval pass@1")
    axes[2].set(xscale="log", xlabel="parameters", title="the paper, MONO, %", ylim=(0, 55))
    axes[2].set_xticks(paper, list(PAPER_SIZES))
    axes[2].minorticks_off()
    axes[2].legend(loc="upper left", fontsize=9)
    save(figure, file)


def loss(plt, r, file):
    """What each size loses beyond the entropy, with the law of all but the last; and the loss in
    training."""
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 3.8))
    if (found := beyond(r)) is not None:
        N, losses = found
        reach = np.geomspace(N[0] / 1.3, N[-1] * 3, 50)
        for E, color, style, name in ((0.0, BLUE, "-", "E given"),
                                      (None, ORANGE, "--", "E fitted")):
            if len(N) > (2 if E == 0.0 else 3):
                law = fit_law(N[:-1], losses.mean(0)[:-1], E)
                axes[0].plot(reach, law["at"](reach), style, color=color,
                             label=f"{name}, without {r.label(r.sizes[-1])}: a = {law['a']:.2f}")
        mean, se = np.array([spread(one) for one in losses.T]).T
        axes[0].errorbar(N[:-1], mean[:-1], np.nan_to_num(se[:-1]), fmt="o", color=BLUE, capsize=3)
        axes[0].errorbar(N[-1:], mean[-1:], np.nan_to_num(se[-1:]), fmt="D", color=GREEN, capsize=3,
                         label=f"{r.label(r.sizes[-1])}, measured")
        # A fitted E below the entropy lets its curve fall to nothing, which needs no room.
        axes[0].set(xscale="log", yscale="log", ylim=(mean.min() / 3, mean.max() * 2))
        sized(axes[0], r, N)
    axes[0].set(xlabel="parameters", ylabel="nats a token", title="loss beyond the entropy, MONO")
    legend(axes[0], loc="best", fontsize=9)
    for s, color in zip(r.sizes, COLORS):
        curves = r.by_seed("train", s, r.kind("mono"), of=lambda one: np.array(one["curve"]).T)
        for i, (steps, _, val) in enumerate(curves.values()):
            axes[1].plot(steps, val, color=color, linewidth=1, label=None if i else r.label(s))
    axes[1].set(xlabel="steps on MONO", title="validation loss, every seed", yscale="log")
    plain_ticks(axes[1])
    plain_ticks(axes[0])
    legend(axes[1], loc="upper right")
    save(figure, file)


def plain_ticks(ax):
    """Numbers that one reads: 0.2, not 2 · 10^-1."""
    low, high = ax.get_ylim()
    steps = (1, 1.5, 2, 3, 5, 7)
    ticks = [t for e in range(-4, 2) for m in steps if low <= (t := m * 10.0 ** e) <= high]
    if ax.get_yscale() == "log" and ticks:
        ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
        ax.yaxis.minorticks_off()


def plots(r, folder):
    """Draw all three into a folder; none, and one line on stderr, where matplotlib is missing."""
    if not (plt := pyplot()):
        return
    dial(plt, r, folder / "dial.png")
    scaling(plt, r, folder / "scaling.png")
    loss(plt, r, folder / "loss.png")
