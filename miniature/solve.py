"""Let a trained model solve the held-out problems turn by turn, run what it wrote, and count.

    python miniature/solve.py --ckpt out

Each program runs in a process of its own with a time limit, in bubblewrap's sandbox (no network, read-only files) where
`bwrap` is installed. Right is a program that ends without error and whose last printed line is the expected value.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import sample  # noqa: E402
import tpu_mesh  # noqa: E402
from data import cli  # noqa: E402

SANDBOX = ("bwrap --unshare-all --die-with-parent --new-session --ro-bind / / --dev /dev --proc /proc --tmpfs /tmp "
           "--tmpfs /run --chdir /tmp --clearenv").split() + ["--ro-bind", sys.prefix, sys.prefix]      # a venv may lie in /tmp


def command() -> list:
    """How to start Python for a program: sandboxed where bwrap works on this machine."""
    python = [sys.executable, "-I", "-"]
    works = shutil.which("bwrap") and subprocess.run(SANDBOX + ["true"], capture_output=True).returncode == 0
    return (SANDBOX if works else []) + python


def printed(program: str, start: list, seconds=10) -> str:
    """The last line that a program printed, or why there is none."""
    try:
        done = subprocess.run(start, input=program, capture_output=True, text=True, timeout=seconds,
                              env={"OPENBLAS_NUM_THREADS": "1", "PATH": os.defpath})
    except subprocess.TimeoutExpired:
        return "timed out"
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["crashed"])[-1]
    return (done.stdout.splitlines() or [""])[-1]


def converse(config, params, tokenizer, problems, temperature=0.0, top_p=0.95, seed=0):
    """Programs for (problem, case) pairs: history, "# prompt", answer cut by the paper's rule, two newlines, and again."""
    pairs = [(p, i) for p in problems for i in range(len(p["inputs"]))]
    programs = []
    for start in range(0, len(pairs), 128):
        some = pairs[start:start + 128]
        chat = sample.Chat(params, config, tokenizer, len(some), temperature, top_p, seed, range(start, start + len(some)))
        chat.rewrite([sample.PREFIX] * len(some))
        longest = max(len(p["prompts"]) for p, _ in some)
        for turn in range(longest):
            # A conversation that is over says nothing more; its row goes along with an answer that is not kept.
            live = [turn < len(p["prompts"]) for p, _ in some]
            before = chat.texts
            asks = [f"# {p['prompts'][turn].format(**p['inputs'][i])}\n" if on else "#\n" for (p, i), on in zip(some, live)]
            limits = [p["max_gen_length"] if on else 1 for (p, _), on in zip(some, live)]
            chat.turn(asks, limits, sample.truncate_turn, keep_newest=True)
            chat.rewrite([after + "\n\n" if on else old for after, old, on in zip(chat.texts, before, live)])
        programs += chat.texts
    return pairs, programs


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("--ckpt", required=True, help="a checkpoint folder, or train.py's out_dir")
    p.add_argument("--cases", type=int, default=1, help="input cases of each problem, at most 5 (default 1)")
    p.add_argument("--show", type=int, default=1, help="wrong and right programs to print (default 1 of each)")
    args = p.parse_args()
    tpu_mesh.start()
    problems = [json.loads(line) for line in Path(__file__).with_name("mtpb.jsonl").read_text().splitlines()]
    problems = [q | dict(inputs=q["inputs"][:args.cases]) for q in problems]
    pairs, programs = converse(*sample.load(args.ckpt), problems)
    start = command()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        answers = list(pool.map(lambda text: printed(text, start), programs))
    right = [answer == str(q["outputs"][i]) for answer, (q, i) in zip(answers, pairs)]
    for verdict in (True, False):
        for k in [k for k, r in enumerate(right) if r == verdict][:args.show]:
            wanted = pairs[k][0]["outputs"][pairs[k][1]]
            print(f"----- a {'right' if verdict else 'wrong'} one (printed {answers[k]}, expected {wanted})")
            print(programs[k].rstrip(), end="\n\n")
    by = {}
    for (q, _), r in zip(pairs, right):
        by.setdefault(q["category"], []).append(r)
    print("by category: " + ", ".join(f"{c} {sum(r)}/{len(r)}" for c, r in sorted(by.items())))
    print(f"held-out multi-turn problems solved, greedily: {sum(right)} of {len(right)} "
          f"({100 * sum(right) / len(right):.0f} %)")


if __name__ == "__main__":
    cli(main)
