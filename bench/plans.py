"""The tables of plans in plan/README.md: each model of the paper trained and sampled on a TPU of its time and on a current one,
compiled by the TPU compiler. Nothing is run on a TPU.

    pip install libtpu && python bench/plans.py            writes bench/plans.* and bench/sampling_plans.*, json and md
    python bench/plans.py --only 350M                      these rows alone; the others stay as they are
"""
import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
# The paper's batches: 0.5M, 1M, 1M (its text says 2M for 6.1B, the released configuration 1M) and 2M tokens of 2048.
# Not fsdp over all chips of a slice: see plan/README.md. --remat is what plan/formula.py finds that fits.
PLANS = [("2.7B", "v4:4x4x4", "--dp 2 --fsdp 32 --batch_size 512"),
         ("6.1B", "v4:4x4x8", "--dp 2 --fsdp 64 --batch_size 512"),
         ("16.1B", "v4:8x8x4", "--dp 2 --fsdp 128 --batch_size 1024 --grad_accum 2"),
         ("2.7B", "v5p:4x4x2", "--dp 2 --fsdp 16 --batch_size 512"),
         ("6.1B", "v5p:4x4x4", "--dp 2 --fsdp 32 --batch_size 512"),
         ("16.1B", "v5p:4x4x8", "--dp 2 --fsdp 64 --batch_size 1024"),
         ("350M", "v4:2x2x4", "--dp 2 --fsdp 8 --batch_size 256"),
         ("350M", "v5p:2x2x2", "--dp 2 --fsdp 4 --batch_size 256"),
         ("16.1B", "v4:8x8x4", "--fsdp 64 --tp 4 --batch_size 1024")]

# One host of four chips, and as many rows as fit with a cache of the whole context, or all 200 samples of a problem.
SAMPLING = [("350M", "v4:2x2x1", "--dp 4 --num_samples 200"),
            ("2.7B", "v4:2x2x1", "--dp 4 --num_samples 68"),
            ("6.1B", "v4:2x2x1", "--dp 2 --tp 2 --num_samples 68"),
            ("16.1B", "v4:2x2x1", "--tp 4 --num_samples 40"),
            ("16.1B", "v5p:2x2x1", "--tp 4 --num_samples 100"),
            ("6.1B", "v5p:2x2x1", "--dp 4 --num_samples 200"),
            ("2.7B", "v5p:2x2x1", "--dp 4 --num_samples 200"),
            ("350M", "v5p:2x2x1", "--dp 4 --num_samples 200")]
SAMPLING = [(model, topology, f"{flags} --dtype bfloat16 --max_new_tokens 256") for model, topology, flags in SAMPLING]


def plan(script, model, topology, flags):
    """The JSON that `train.py --plan` and `sample.py --plan` end with."""
    command = f"{script} --model {model} --topology {topology} {flags} --plan"
    done = subprocess.run([sys.executable, HERE.parent / command.split()[0], *command.split()[1:]],
                          capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1]) | dict(command=f"python {command}")


def table(plans):
    """Markdown, one plan a row."""
    heads = ("model", "TPU", "chips", "dp x fsdp x tp", "tokens a step", "parts", "remat", "state + temporary GiB",
             "collectives, GB a chip sends a step", "bound", "s a step", "tokens/s",
             "FLOPs, of the model's", "predicted MFU", "days")
    rows = [heads, ["---"] * len(heads)]
    for p in plans:
        moved = {}
        for c in p["collectives"]:
            key = f"{c['kind']} {'+'.join(c['axes'])}" + " (hidden)" * c["hidden"]
            moved[key] = moved.get(key, 0) + c["moved_bytes"] / 1e9
        moved = ", ".join(f"{k} {v:.1f}" for k, v in sorted(moved.items()) if v >= 0.05)
        state, temp, hbm = (p[k] / 2 ** 30 for k in ("state_bytes_per_chip", "temp_bytes_per_chip", "hbm_bytes"))
        memory = f"{state:.2f} + {temp:.2f} of {hbm:.0f}" + ("" if p["fits"] else ": does not fit")
        mesh = " x ".join(map(str, p["mesh"].values()))
        rows.append((p["model"], p["topology"], p["chips"], mesh, f"{p['tokens_per_step']:,}", p["grad_accum"],
                     p["remat"], memory, moved, p["bound"],
                     f"{p['step_seconds']:.2f}", f"{p['tokens_per_s']:,}",
                     f"{p['program_flops_per_chip'] / p['flops_per_chip']:.3f}", f"{p['mfu']:.1%}", f"{p['days']:.1f}"))
    return "".join("| " + " | ".join(map(str, row)) + " |\n" for row in rows)


def sampling_table(plans):
    """Markdown, one plan a row."""
    heads = ("model", "TPU", "dp x tp", "rows", "weights + cache + temporary GiB",
             "all-reduces a token: times, MB a chip sends", "bound", "ms a token", "tokens/s", "HumanEval hours", "MTPB hours")
    rows = [heads, ["---"] * len(heads)]
    for p in plans:
        sent = sum(c["moved_bytes"] for c in p["collectives"]) / 1e6
        held = " + ".join(f"{p[f'{what}_bytes_per_chip'] / 2 ** 30:.2f}" for what in ("weight", "cache", "temp"))
        memory = f"{held} of {p['hbm_bytes'] / 2 ** 30:.0f}" + ("" if p["fits"] else ": does not fit")
        rows.append((p["model"], p["topology"], f"{p['mesh']['dp']} x {p['mesh']['tp']}", p["rows"], memory,
                     f"{sum(c['count'] for c in p['collectives']):.0f}, {sent:.1f}", p["bound"],
                     f"{1000 * p['step_seconds']:.2f}", f"{p['tokens_per_s']:,}",
                     f"{p['humaneval']['hours']:.1f}", f"{p['mtpb']['hours']:.1f}"))
    return "".join("| " + " | ".join(map(str, row)) + " |\n" for row in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose model, TPU and flags hold this text")
    parser.add_argument("--workers", type=int, default=2, help="compilations at a time (default 2)")
    args = parser.parse_args()
    make("plans", "train.py", PLANS, table, args)
    make("sampling_plans", "sample.py", SAMPLING, sampling_table, args)


def make(name, script, plans, table, args):
    """Write name.json and name.md, again after each plan."""
    path = HERE / f"{name}.json"
    key = lambda p: (p["model"], p["topology"], *p["mesh"].values())
    known = {key(p): p for p in json.loads(path.read_text())} if path.exists() else {}

    def one(row):
        p = plan(script, *row)
        known[key(p)] = p
        order = sorted(known.values(), key=lambda p: (p["topology"].split(":")[0], p["params"], list(p["mesh"].values())))
        path.write_text(json.dumps(order, indent=1) + "\n")
        (HERE / f"{name}.md").write_text(table(order))
        print(script, *row, f"fits {p['fits']}, {p['tokens_per_s']:,} tokens/s", flush=True)

    with ThreadPoolExecutor(args.workers) as pool:
        list(pool.map(one, [row for row in plans if args.only in " ".join(row)]))


if __name__ == "__main__":
    main()
