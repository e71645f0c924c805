"""The page of a run: its corpus, its training, what both benchmarks say of it, what it cost.

    python real/page.py [FOLDER]        FOLDER/results.json -> FOLDER/README.md and loss.png

render is a function of results.json alone (collect.py).
"""
import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from harness import flags  # noqa: E402
from harness.cli import cli, one_line_errors  # noqa: E402
from harness.files import read_json, replace_file  # noqa: E402

from miniature.plots import COLORS, pyplot, save  # noqa: E402
from real.collect import MODES, collect  # noqa: E402

MOST = 6            # outcomes of completions that are named
PAPER = 356_712_448, 350_000 * 2 ** 19      # parameters of 350M, tokens that it saw of NL


def percent(rate):
    return f"{100 * rate:.2f} %"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    cells = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def code(text):
    """A block of code, behind a fence that the text does not hold."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}python\n{text}\n{fence}"


def render(r):
    """results.json's content -> the page."""
    return "\n\n".join([title(r), corpus_part(r), training_part(r), humaneval_part(r), mtpb_part(r),
                        programs_part(r), cost_part(r)]) + "\n"


def title(r):
    chosen = r["chosen"]
    best = r["humaneval"]["best"]
    told = ", ".join(f"{name} {percent(rate['value'])}" for name, rate in best.items())
    multi, single = (r["mtpb"][mode] for mode in MODES)
    where = "" if r["own"] else " that lies on this machine"
    m = r["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
    return f"""# A real model on real code

A model of {chosen['params'] / 1e6:.1f} million parameters, trained on the Python{where} and
scored on the official benchmarks, each step a command of this project: `bash real/run.sh --minutes
{r['minutes']:g}`. Measured on {m['device']}, {m['cores']} cores, {m['system']}, Python
{m['python']}, {versions}.

* HumanEval{part(r)}: {told}, each at its best temperature.
  CodeGen-MONO 350M in the paper: pass@1 12.76 %.
* MTPB{part(r)}: {percent(multi['pass_rate_official'])} turn by turn and
  {percent(single['pass_rate_official'])} said at once by the official rules,
  {percent(multi['pass_rate_strict'])} and {percent(single['pass_rate_strict'])} by the strict ones.
  CodeGen-MONO 350M in the paper: 16.98 % and 5.75 %.
* Validation loss {r['val'][-1][1]:.3f} nats a token, with a tokenizer of {r['entries']:,} ids.
* CodeGen 350M has {PAPER[0] / chosen['params']:.0f} times its parameters and saw, on its first corpus
  alone, {PAPER[1] / chosen['tokens']:,.0f} times its tokens."""


def part(r):
    return f", its first {r['limit']} problems alone" if r["limit"] else ""


def corpus_part(r):
    c = r["corpus"]
    dropped = ", ".join(f"{name} {n:,}" for name, n in c["dropped"].items()
                        if n and name != "extension")
    text = f"""## The corpus

{c['documents_seen']:,} files, of which {c['kept']:,} are kept and {c['dropped']['extension']:,} are
no Python. Dropped else: {dropped or 'none'}. Documents that hold a problem or a solution of either
benchmark: {c['dropped']['benchmark']:,}. What is kept makes {c['tokens']['train']:,} tokens to
train on and {c['tokens']['val']:,} to validate with."""
    if r["own"]:
        return text
    top = [[p["name"], p["version"], p["licence"], f"{p['files']:,}", f"{p['bytes'] / 1e6:.1f}"]
           for p in r["packages"][:10]]
    kinds = [[name, n, f"{size / 1e6:.1f}"] for name, (n, size) in r["licences"].items()]
    return (f"{text} The standard library (PSF-2.0) and {r['n_packages']} packages; the largest, "
            "and all by licence, as their metadata name it:\n\n"
            + table(["package", "version", "licence", "files", "MB"], top) + "\n\n"
            + table(["licence", "packages", "MB"], kinds))


def training_part(r):
    model, chosen = r["chosen"]["model"], r["chosen"]
    sizes = [[t["model"][name] for name in ("n_layer", "n_head", "n_embd")] for t in r["trials"]]
    rows = [[f"{t['params']:,}", " / ".join(map(str, size)), f"{t['tokens_per_s']:,}",
             f"{t['tokens']:,}", f"{t['tokens'] / t['params']:.1f}",
             "chosen" if t["params"] == chosen["params"] else ""]
            for t, size in zip(r["trials"], sizes)]
    head = ["parameters", "layers / heads / width", "tokens/s", "tokens in the time left",
            "a parameter", ""]
    return f"""## The model and its training

Sizes are tried from small to large, a few steps each; the largest that still sees three tokens a
parameter in the time that is left is trained.

{table(head, rows)}

{chosen['steps']:,} steps of {chosen['tokens'] // chosen['steps']:,} tokens, context
{model['block_size']}, {chosen['tokens'] / r['corpus']['tokens']['train']:.2f} passes over the
corpus, at {r['tokens_per_s']:,} tokens/s (median). The loss starts at
{r['curve'][0][1]:.2f} and ends at {r['val'][-1][1]:.3f} on documents that were kept apart.

![loss over tokens](loss.png)"""


def humaneval_part(r):
    rows = []
    for score in r["humaneval"]["scores"]:
        groups = score["prompt_perplexity"]
        rows.append([f"{score['settings']['temperature']:g}",
                     *(percent(rate) for name, rate in score.items() if name.startswith("pass@")),
                     f"{groups['passed']['problems']} of {score['problems_scored']}",
                     perplexity(groups["passed"]), perplexity(groups["not_passed"]),
                     verdict(groups)])
    names = [name for name in score if name.startswith("pass@")]
    head = ["temperature", *names, "solved", "prompt perplexity, passed", "not passed",
            "likelier, as in the paper?"]
    return f"""## HumanEval

{score['settings']['n']} samples a problem at each temperature, top-p 0.95, every program in
isolation.

{table(head, rows)}

What became of the completions (no end: at {score['settings']['max_new_tokens']} tokens they still
went on):

{table(["temperature", "completions"], map(outcomes_row, r["outcomes"].items()))}"""


def outcomes_row(item):
    """A temperature, and of its outcomes the MOST frequent."""
    temperature, kinds = item
    told = [f"{n:,} {kind}" for kind, n in kinds.items()]
    rest = sum([*kinds.values()][MOST:])
    return temperature, ", ".join(told[:MOST] + [f"{rest:,} others"] * bool(rest))


def perplexity(group):
    if group["perplexity"] is None:
        return "none"
    error = group["standard_error"]
    return f"{group['perplexity']:.1f}" + (f" ± {error:.1f}" if error is not None else "")


def verdict(groups):
    """Whether passed prompts are likelier, by the numbers."""
    yes, no = (groups[name] for name in ("passed", "not_passed"))
    if yes["problems"] < 2 or no["problems"] < 2:
        return "too few to say"
    error = (yes["standard_error"] ** 2 + no["standard_error"] ** 2) ** 0.5
    gap = no["perplexity"] - yes["perplexity"]
    how = "yes" if gap > 2 * error else "the reverse" if gap < -2 * error else "within the error"
    return f"{how}: {gap:+.1f} ± {error:.1f}"


def mtpb_part(r):
    rows = [[MODES[mode], percent(m["pass_rate_official"]), percent(m["pass_rate_strict"]),
             sum(rate > 0 for rate in m["per_problem"]["official"].values()),
             f"{m['prompt_perplexity']:.1f}",
             ", ".join(f"{n:,} {kind}" for kind, n in sorted(m["results"].items()))]
            for mode, m in r["mtpb"].items()]
    multi = r["mtpb"]["multi"]
    head = ["", "official", "strict", "problems with a pass", "prompt perplexity", "programs"]
    return f"""## The Multi-Turn Programming Benchmark

{multi['problems_scored']} problems, {multi['programs']:,} programs in each form, temperature
{multi['settings']['temperature']:g}. The paper: turn by turn is better, and its prompts are
likelier.

{table(head, rows)}

The official rules also pass what a program printed before it crashed, and `12.7` where `12` is
right; the strict ones do not."""


def programs_part(r):
    found = r["programs"]

    def show(some):
        return "\n\n".join(f"**{p['problem']}**, {p['how']}\n\n{code(p['wrote'])}" for p in some)

    return f"""## What it wrote

{found['solved']} problems of both benchmarks have a program that passes. {len(found['passed'])} of
these programs, what the model wrote alone:

{show(found['passed']) or 'None.'}

And {len(found['nearly'])} that ran to their end and returned something wrong:

{show(found['nearly']) or 'None.'}"""


def cost_part(r):
    command = lambda stage: f"`{r['commands'][stage]}`" if stage in r["commands"] else ""
    rows = [[stage, f"{seconds / 60:.1f}", command(stage)]
            for stage, seconds in r["seconds"].items()]
    total = sum(r["seconds"].values()) / 60
    opened = "not looked at (torch and transformers are not installed)"
    if r["opened"]:
        opened = f"continues `def add(x, y):` greedily like this:\n\n{code(r['opened'].strip())}"
    return f"""## What it cost

{total:.0f} of {r['minutes']:g} minutes; of a stage that was interrupted and went on only the last
part counts. The commands, as one could have typed them:

{table(["stage", "minutes", "command"], rows)}

The model in Hugging Face's layout, opened by transformers, {opened}"""


# ---- the plot and the files ----------------------------------------------------------------------

def plot(r, path):
    """Loss over tokens, transparent and in mid-tones, for light pages and dark ones."""
    if not (plt := pyplot()):
        return
    figure, ax = plt.subplots(figsize=(8, 3.4))
    tokens = r["chosen"]["tokens"] / r["chosen"]["steps"] / 1e6
    for name, color, label in (("curve", COLORS[2], "a batch"), ("val", COLORS[1], "validation")):
        steps, losses = zip(*r[name])
        ax.plot([s * tokens for s in steps], losses, color=color, label=label,
                linewidth=1 if name == "curve" else 2)
    ax.set(xlabel="million tokens", ylabel="loss, nats a token", yscale="log")
    lowest = min(loss for name in ("curve", "val") for _, loss in r[name])
    ticks = [t for t in (1, 1.5, 2, 3, 4, 6, 8) if t > lowest * 0.9]
    ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    ax.legend()
    save(figure, path)


def write(done, out):
    """results.json, README.md and loss.png of a finished run -> the page's path."""
    results = collect(done, out)
    replace_file(out / "results.json", (json.dumps(results, indent=1) + "\n").encode())
    return write_page(out)


def write_page(folder):
    """The page and its plot from results.json alone."""
    r = read_json(folder / "results.json")
    plot(r, folder / "loss.png")
    replace_file(folder / "README.md", render(r).encode())
    return folder / "README.md"


def parser():
    """The command line."""
    p = one_line_errors(argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False))
    p.add_argument("folder", nargs="?", type=flags.folder, default=HERE,
                   help="where results.json lies (default: that of this file)")
    return p


def main():
    print(f"the page is {write_page(Path(parser().parse_args().folder))}")


if __name__ == "__main__":
    cli(main)
