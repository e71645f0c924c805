"""Two commands against each other in one run. Used by the vs_*.py beside it.

A machine's speed changes from minute to minute, so nothing is compared across runs: every side is a process that waits, and
they measure in turn, A B A B. What counts is the ratio of two neighbours, its median and its spread."""
import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from statistics import median
from types import SimpleNamespace

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def flags(doc, rounds, gpu=False):
    """The parser of a vs_*.py: its rounds, and what `versus` gives to the process of a side."""
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=rounds, help=f"measurements of each side (default {rounds})")
    if gpu:
        p.add_argument("--gpu", action="store_true", help="both sides on one GPU, in bfloat16, at sizes for one")
    p.add_argument("--side", help=argparse.SUPPRESS)
    p.add_argument("--shape", help=argparse.SUPPRESS)
    return p


def on_gpu():
    """For --gpu, before JAX is imported: all processes on the GPU, and JAX leaves memory that it does not use to the peer."""
    os.environ.update(JAX_PLATFORMS="cuda", XLA_PYTHON_CLIENT_PREALLOCATE="false")


def serve(measure):
    """In the process of one side: a warm-up, then one figure a line that comes in."""
    measure()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(measure()), flush=True)


def versus(script, shape, sides, rounds):
    """{side: [its figure in each round]}. Runs `script --side S --shape X`, which calls serve, for every side."""
    env = dict(JAX_PLATFORMS="cpu", GLIBC_TUNABLES="glibc.malloc.hugetlb=1") | os.environ
    processes, figures = {}, {side: [] for side in sides}
    try:
        for side in sides:
            processes[side] = subprocess.Popen([sys.executable, script, "--side", side, "--shape", shape], text=True,
                                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
            while (line := processes[side].stdout.readline()) != "ready\n":
                if not line:
                    raise SystemExit(f"{side} failed: see above")
        for _ in range(rounds):
            for side, p in processes.items():
                p.stdin.write("\n")
                p.stdin.flush()
                figures[side].append(json.loads(p.stdout.readline()))
    finally:
        for p in processes.values():
            p.kill()
    return figures


def ratio(ours, theirs):
    """Median of the ratios of neighbours, and the two quartiles."""
    r = sorted(a / b for a, b in zip(ours, theirs))
    return median(r), r[len(r) // 4], r[-1 - len(r) // 4]


def best_peer(figures):
    return max((s for s in figures if s not in ("ours", "ours bf16", "peak", "read")), key=lambda s: median(figures[s]))


def report(subject, unit, shape, figures, more=""):
    """One row for people."""
    peer = best_peer(figures)
    m, low, high = ratio(figures["ours"], figures[peer])
    print(f"| {subject} | {shape} | {median(figures['ours']):,.1f} | {median(figures[peer]):,.1f} ({peer}) | "
          f"**{m:.2f}** ({low:.2f} to {high:.2f}) | {unit} {more}|", flush=True)


def numbers(config):
    """A tokenizer for a bench: token t is the character t."""
    return SimpleNamespace(n_vocab=config.vocab_size - 1, eot=config.vocab_size - 1, encode=lambda text: [ord(c) for c in text],
                           decode=lambda ids: "".join(map(chr, ids)))


def machine(*packages):
    versions, device = ", ".join(f"{p} {metadata.version(p)}" for p in packages), f"{CORES} cores"
    if os.environ.get("JAX_PLATFORMS") == "cuda":
        import jax
        device = jax.devices()[0].device_kind
    print(f"{datetime.date.today()} · {device} · {platform.system()} {platform.machine()} · Python "
          f"{platform.python_version()} · {versions}")
    print("| | shape | ours | peer | ratio, quartiles | unit |\n|---|---|---|---|---|---|", flush=True)


def matrix_peak():
    """GFLOP/s of one large product, the fastest of a few: float32 on a CPU, bfloat16 on a GPU."""
    import time

    import jax
    import jax.numpy as jnp
    n, dtype = (2048, jnp.float32) if jax.default_backend() == "cpu" else (8192, jnp.bfloat16)
    a, product = jax.random.normal(jax.random.key(0), (n, n), dtype), jax.jit(jnp.matmul)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        product(a, a).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * n ** 3 / min(times) / 1e9
