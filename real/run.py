"""From the Python that lies on a machine to both official benchmarks, by the project's commands.

    python real/run.py --minutes 120        the standard library and all installed packages
    python real/run.py --input SRC DOCS     folders of your own

Eight stages: a tokenizer, the corpus, a model that the time left is enough for, training,
HumanEval, MTPB turn by turn and at once, the export; then the page (README.md, loss.png and
results.json in --out). Each is one command in a process of its own. A finished stage is a line of
stages.jsonl, so the same command goes on where an interrupted one was. Needs tokenizers; matplotlib
for the plot; safetensors, torch and transformers to look at the export.
"""
import argparse
import functools
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from harness import flags  # noqa: E402
from harness.cli import call_script, cli, one_line_errors, unheard  # noqa: E402
from harness.files import check, find_benchmark, read_lines, replace_file  # noqa: E402
from harness.folder import checkpoints, take_folder  # noqa: E402
from harness.inside import die_with_parent  # noqa: E402

from real import corpus, page  # noqa: E402

# By platform: entries of the tokenizer, tokens of a sequence and of a step, texts sampled together.
# A small vocabulary leaves the work of a small model to its layers; a GPU has to be filled. Where
# steps are few, smaller ones learn more of the same tokens: of 1.2 million, 4.2M parameters reached
# a loss of 3.71 by 4,096 tokens a step (rate 2e-3) and of 3.84 by 8,192 (3e-3).
SHAPES = {"cpu": (4096, 512, 4096, 64), "gpu": (16384, 1024, 131072, 512),
          "tpu": (16384, 1024, 131072, 512)}
# Layers, heads, width, and the rate after warm-up, from small to large.
LADDER = [(4, 4, 128, 3e-3), (6, 4, 192, 2e-3), (6, 4, 256, 2e-3), (8, 6, 384, 1.5e-3),
          (12, 8, 512, 1e-3), (12, 12, 768, 6e-4), (20, 16, 1024, 3e-4)]
# Tokens a parameter that a rung must be able to see. The loss for a given amount of work is least
# near 20 (Hoffmann et al. 2022), and not much more where a model is larger and sees less.
ENOUGH = 3
TRIAL = 20              # steps that a rung's speed is measured in; the first half is left out
EVALUATION = 0.25       # share of the minutes that is kept for sampling and scoring
HUMANEVAL_N, MTPB_N, TEMPERATURES = 40, 4, (0.2, 0.8)


class Work:
    """A folder of stages: which are done, what they found, what they took."""

    def __init__(self, out):
        self.out, self.file = out, out / "stages.jsonl"
        self.done = {}
        if self.file.exists():
            whole = self.file.read_bytes().rpartition(b"\n")
            replace_file(self.file, whole[0] + whole[1])        # less a line that was not finished
            for number, line in read_lines(self.file):
                check(line, {"stage": str, "seconds?": float}, f"{self.file}, line {number}: ")
                self.done[line["stage"]] = line

    def seconds(self):
        """Of all finished stages."""
        return sum(line["seconds"] for line in self.done.values())

    def stage(self, name, do):
        """What the stage found, as a dict: from the file, or by do() now."""
        if name not in self.done:
            if self.done:
                minutes = self.done["begin"]["minutes"]
                left = minutes - self.seconds() / 60
                print(f"\n== {name} ({len(self.done)} of {len(STAGES)}), {left:.0f} of {minutes:g} "
                      "minutes left", flush=True)
            begin = time.time()
            line = dict(stage=name, **do(self), seconds=round(time.time() - begin, 1))
            with open(self.file, "a") as file:
                file.write(json.dumps(line) + "\n")
            self.done[name] = line
        return self.done[name]


def call(script, *command):
    """Run one of the project's commands and show it -> (the command as one types it, its last
    line)."""
    command = [str(word) for word in command]
    shown = shlex.join(["python", script, *command])
    print(f"$ {shown}", flush=True)
    return shown, call_script(ROOT / script, *command)


def ask(code, *arguments):
    """Run a few lines of Python in a process of their own, because who starts programs, as we do,
    holds no JAX -> the finished process, with what it printed."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    # It is deaf to Ctrl-C; we are not, and it ends with us.
    bound = functools.partial(die_with_parent, os.getpid())
    with unheard():
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, errors="replace",
                                   preexec_fn=bound)
    with process:
        try:
            shown = process.communicate()
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, *shown)


# ---- the stages ----------------------------------------------------------------------------------

def begin(args):
    """What the run is made of: the settings, and where the Python lies."""
    folders = args.input or corpus.folders()
    found = ask("import jax; d = jax.devices()[0]; print(d.platform, d.device_kind, sep='|')")
    platform, kind = found.stdout.split("\n")[-2].split("|") if found.stdout else ("cpu", "CPU")
    packages = [] if args.input else corpus.packages()
    return dict(minutes=args.minutes or 120, limit=args.limit, own=bool(args.input),
                platform=platform, device=kind, folders=[str(f) for f in folders],
                packages=packages[:20], n_packages=len(packages), licences=corpus.by_licence(packages))


def learn_tokenizer(work):
    """From the first folder: 30 MB are plenty for so few entries."""
    entries = shape_of(work)[0]
    file = work.out / "real.tiktoken"
    file.unlink(missing_ok=True)
    command, _ = call("data.py", "train-bpe", "--input", work.done["begin"]["folders"][0],
                      "--exclude", "site-packages", "--vocab_size", entries, "--out", file)
    return dict(command=command, entries=entries)


def prepare(work):
    """The five steps, without what holds a problem of either benchmark."""
    folder = work.out / "data"
    shutil.rmtree(folder, ignore_errors=True)
    # Packages that lie inside the standard library belong to an interpreter that is not this one.
    command, _ = call("data.py", "prepare", "--input", *work.done["begin"]["folders"],
                      "--out", folder, "--tokenizer", work.out / "real.tiktoken",
                      "--block_size", shape_of(work)[1], "--exclude_benchmarks",
                      "--exclude", "site-packages")
    return dict(command=command, meta=json.loads((folder / "meta.json").read_text()))


def choose(work):
    """The largest rung of the ladder that sees enough tokens in the minutes that are left, by the
    speed that it is measured at here."""
    left = work.done["begin"]["minutes"] * 60 * (1 - EVALUATION) - work.seconds()
    trials, chosen, begin = [], None, time.time()
    for rung in LADDER:
        trial = try_out(work, rung)
        time_left = max(10, left - (time.time() - begin))
        trial["steps"] = max(1, int(time_left * trial["tokens_per_s"] / shape_of(work)[2]))
        trial["tokens"] = trial["steps"] * shape_of(work)[2]
        trials.append(trial)
        print(f"{trial['params']:,} parameters: {trial['tokens_per_s']:,} tokens/s, "
              f"{trial['tokens'] / trial['params']:.1f} tokens a parameter", flush=True)
        if chosen and trial["tokens"] < ENOUGH * trial["params"]:
            break
        chosen = trial
    return dict(trials=trials, chosen=chosen)


def try_out(work, rung):
    """The speed of one rung."""
    out = work.out / "trial"
    shutil.rmtree(out, ignore_errors=True)
    call("train.py", *flags_of(work, rung, TRIAL), "--out_dir", out, "--eval_every", 0)
    steps = [json.loads(line)["tokens_per_s"] for line in open(out / "metrics.jsonl")]
    meta = json.loads(next(out.glob("step_*/config.json")).read_text())
    shutil.rmtree(out)
    timed = sorted(steps[TRIAL // 2:])      # what runs beside it can only slow a step down
    return dict(rung=rung, model=meta["model"], params=count(meta["model"]),
                tokens_per_s=timed[-len(timed) // 4])


def count(model):
    """How many parameters a model has; model: the sizes that a checkpoint names."""
    code = ("import json, sys; from model import Config, num_params; "
            "print(num_params(Config(**json.loads(sys.argv[1]))))")
    return int(ask(code, json.dumps(model)).stdout)


def flags_of(work, rung, steps):
    """train.py's flags for one rung."""
    layers, heads, width, rate = rung
    _, length, tokens, _ = shape_of(work)
    return ["--data", work.out / "data", "--n_layer", layers, "--n_head", heads, "--n_embd", width,
            "--rotary_dim", 16, "--batch_size", tokens // length, "--steps", steps,
            "--lr_max", rate, "--lr_end", rate / 20, "--warmup_steps", min(200, steps // 10)]


def train(work):
    """The steps that `choose` found room for."""
    out, chosen = work.out / "model", work.done["choose"]["chosen"]
    shown = flags_of(work, chosen["rung"], chosen["steps"])
    begun = checkpoints(out)        # a first one that was not finished is none
    if not begun:
        shutil.rmtree(out, ignore_errors=True)
    every = max(20, chosen["steps"] // 60)
    command, _ = call("train.py", *shown, "--out_dir", out, "--eval_every", every, "--save_every",
                      3 * every, "--keep", 1, "--init_from", "resume" if begun else "scratch")
    rows = [json.loads(line) for line in open(out / "metrics.jsonl")]
    speeds = sorted(row["tokens_per_s"] for row in rows)
    return dict(command=command.replace("resume", "scratch"), tokens_per_s=speeds[len(speeds) // 2],
                curve=thin(losses(rows, "loss"), 200), val=thin(losses(rows, "val_loss"), 60))


def losses(rows, name):
    """[[step, loss]] of the rows of metrics.jsonl that have it."""
    return [[row["step"], round(row[name], 4)] for row in rows if name in row]


def thin(rows, most):
    """At most so many rows, evenly, the last one included."""
    every = -(-len(rows) // most)
    return rows[::-1][::every][::-1]


def humaneval(work):
    """All 164 problems at both temperatures."""
    return benchmark(work, "humaneval.py", "humaneval.jsonl", "--n", HUMANEVAL_N, "--temperature",
                     ",".join(map(str, TEMPERATURES)))


def mtpb(work, mode):
    """All 115 problems, five inputs each, in one of the two forms."""
    return benchmark(work, "mtpb.py", f"mtpb-{mode}.jsonl", "--n", MTPB_N, "--mode", mode)


def benchmark(work, script, name, *more):
    if limit := work.done["begin"]["limit"]:
        more += "--limit", limit
    command, report = call(script, "run", "--ckpt", work.out / "model", "--out", work.out / name,
                           "--batch_size", shape_of(work)[3], *more)
    return dict(command=command, report=json.loads(report))


def export(work):
    """Hugging Face's layout, read back by transformers where that is installed."""
    folder = work.out / "hf"
    shutil.rmtree(folder, ignore_errors=True)
    command, _ = call("model.py", "export", "--ckpt", work.out / "model", "--hf", folder)
    return dict(command=command, opened=open_export(folder))


def open_export(folder):
    """What transformers writes behind a prompt, greedily; None where it is not installed."""
    code = ("import sys; from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
            "t, m = T.from_pretrained(sys.argv[1]), M.from_pretrained(sys.argv[1]); "
            "i = t('def add(x, y):\\n', return_tensors='pt'); "
            "print(t.decode(m.generate(**i, max_new_tokens=24, do_sample=False)[0]))")
    found = ask(code, folder.resolve())
    if found.returncode:
        print(f"not opened in transformers: {(found.stderr.split(chr(10)) or [''])[-2]}")
        return None
    return found.stdout


def shape_of(work):
    return SHAPES[work.done["begin"]["platform"]]


STAGES = {"tokenizer": learn_tokenizer, "corpus": prepare, "choose": choose, "train": train,
          "humaneval": humaneval, "mtpb multi": lambda work: mtpb(work, "multi"),
          "mtpb single": lambda work: mtpb(work, "single"), "export": export}


# ---- the command ---------------------------------------------------------------------------------

def parser():
    """The command line."""
    p = one_line_errors(argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False))
    p.add_argument("--minutes", type=flags.number(1, 10 ** 5),
                   help="for all stages together (default 120; on a GPU say 12)")
    p.add_argument("--input", nargs="+", type=flags.folder, metavar="DIR",
                   help="folders of source files (default: the standard library, all packages)")
    p.add_argument("--out", type=flags.new_folder, default="out-real", metavar="DIR",
                   help="folder of the work and its page (default out-real)")
    p.add_argument("--limit", type=flags.whole(1),
                   help="the first LIMIT problems of each benchmark only")
    return p


def main():
    args = parser().parse_args()
    for name in ("HumanEval.jsonl.gz", "mtpb.jsonl"):       # now, not after the training
        find_benchmark(name)
    out = Path(args.out)
    if out.is_dir() and not (out / "stages.jsonl").exists() and {*os.listdir(out)} - {".lock"}:
        raise ValueError(f"{out} holds other files, which a run could replace: choose another "
                         "--out")
    with take_folder(out):
        go_on(args, out)


def go_on(args, out):
    """The stages that are not done, then the page."""
    work = Work(out)
    held = work.stage("begin", lambda work: begin(args))
    for name, now in dict(minutes=args.minutes, folders=args.input, limit=args.limit).items():
        if now not in (None, held[name]):
            raise ValueError(f"{out} holds a run with other {name} ({held[name]}): leave its flags "
                             "out to go on with it, or choose another --out")
    for name, do in STAGES.items():
        work.stage(name, do)
    print(f"\nthe page is {page.write(work.done, out)}")


if __name__ == "__main__":
    cli(main)
