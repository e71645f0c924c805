"""Kill a training run with -9 at random moments, again and again, and see what it loses.

    python bench/kills.py --kills 50        prints one line a kill, then JSON

A run that saves every 5 steps may lose, at each kill, the steps since its last save and those of a save that was being
written; whatever checkpoint is there must load. At the end the losses must be those of a run that was never killed.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
EVERY = 5
STEP = "step_" + "[0-9]" * 8      # a checkpoint; with another ending it is being written or deleted


def start(out, steps, cache):
    flags = f"--model 0.1M --batch_size 4 --steps {steps} --anneal_steps 40 --warmup_steps 2 --save_every {EVERY} " \
            f"--eval_every 100000 --no-benchmark --out_dir {out}"
    if any(out.glob(f"{STEP}/config.json")):
        flags += " --init_from resume"
    env = os.environ | dict(JAX_COMPILATION_CACHE_DIR=cache, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
                            JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1")
    return subprocess.Popen([sys.executable, ROOT / "train.py", *flags.split()], stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True, env=env)


def rows(out):
    """{step: loss} of the metrics so far; a line that the kill cut short does not count."""
    found = {}
    for line in (out / "metrics.jsonl").read_text().splitlines() if (out / "metrics.jsonl").exists() else []:
        try:
            row = json.loads(line)
            found[row["step"]] = row["loss"]
        except ValueError:
            pass
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how often (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    args = parser.parse_args()
    random.seed(args.seed)
    work = Path(tempfile.mkdtemp())
    out, lost = work / "killed", []
    for i in range(args.kills):
        p, at = start(out, 10 ** 6, work / "cache"), max(rows(out), default=0)
        while p.poll() is None and max(rows(out), default=0) <= at:       # until it has made a step of its own
            time.sleep(0.02)
        time.sleep(random.random())
        p.kill()
        errors = p.communicate()[1]
        saved = max((int(f.parent.name[5:]) for f in out.glob(f"{STEP}/config.json")), default=0)
        lost.append(max(rows(out), default=0) - saved)
        print(f"kill {i + 1}: at step {max(rows(out), default=0)}, saved {saved}, lost {lost[-1]}", flush=True)
        assert "Traceback" not in errors and "damaged" not in errors, errors
        half = [p for p in out.glob(STEP) if not (p / "config.json").exists()]
        assert not half, f"deleted by half, under a checkpoint's name: {half}"
    steps = max(rows(out)) + EVERY
    for folder in (out, work / "straight"):
        p = start(folder, steps, work / "cache")
        errors = p.communicate()[1]         # wait() would leave the progress bar's pipe full, and the run standing
        assert p.returncode == 0, errors
    same = rows(out) == rows(work / "straight")
    print(json.dumps(dict(kills=args.kills, save_every=EVERY, most_lost=max(lost), steps=steps, same_as_never_killed=same)))
    sys.exit(0 if same and max(lost) < 2 * EVERY else 1)


if __name__ == "__main__":
    main()
