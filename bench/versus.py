"""Two commands against each other in one run. Used by the vs_*.py beside it.

A machine's speed changes from minute to minute, so nothing is compared across runs: every side is a process that waits, and
they measure in turn, A B A B. What counts is the ratio of two neighbours, its median and its spread. On a GPU, whose memory
does not hold several sides, the process of a side is started for each of its turns and ended after it."""
import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from statistics import median
from types import SimpleNamespace

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
# The environments of a side. On a GPU it has the memory to itself, and what it compiles is kept for its next turn, as PyTorch
# keeps its own.
CPU = dict(JAX_PLATFORMS="cpu", GLIBC_TUNABLES="glibc.malloc.hugetlb=1")
GPU = dict(JAX_PLATFORMS="cuda", XLA_PYTHON_CLIENT_MEM_FRACTION="0.92",
           JAX_COMPILATION_CACHE_DIR=str(Path(tempfile.gettempdir()) / "codegen-bench-compiled"))
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


def serve(measure):
    """In the process of one side: a warm-up, then one figure a line that comes in."""
    measure()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(measure()), flush=True)


@contextmanager
def waiting(script, shape, side, env):
    """The process of a side, once it is warm: `script --side S --shape X`, which calls serve."""
    command = [sys.executable, script, "--side", side, "--shape", shape]
    p = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
    try:
        while (line := p.stdout.readline()) != "ready\n":
            if not line:
                raise SystemExit(f"{side} failed: see above")
        yield p
    finally:
        p.kill()
        p.wait()        # its memory is free only then


def ask(process):
    process.stdin.write("\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def versus(script, shape, sides, rounds, gpu=False):
    """{side: [its figure in each round]}."""
    env, figures = CPU | os.environ | (GPU if gpu else {}), {side: [] for side in sides}
    with ExitStack() as stack:
        start = lambda side: waiting(script, shape, side, env)
        processes = {} if gpu else {side: stack.enter_context(start(side)) for side in sides}
        for _ in range(rounds):
            for side in sides:
                if gpu:
                    with start(side) as process:
                        figures[side].append(ask(process))
                else:
                    figures[side].append(ask(processes[side]))
    return figures


def ratio(ours, theirs):
    """Median of the ratios of neighbours, and the two quartiles."""
    r = sorted(a / b for a, b in zip(ours, theirs))
    return median(r), r[len(r) // 4], r[-1 - len(r) // 4]


NO_PEERS = "ours", "ours bf16", "CTranslate2 int8", "peak", "read"


def report(subject, unit, shape, figures, more=""):
    """One row for people, and one more for each slower peer."""
    peers = sorted(figures.keys() - set(NO_PEERS), key=lambda side: -median(figures[side]))
    for peer in peers:
        m, low, high = ratio(figures["ours"], figures[peer])
        print(f"| {subject} | {shape} | {median(figures['ours']):,.1f} | {median(figures[peer]):,.1f} ({peer}) | "
              f"**{m:.2f}** ({low:.2f} to {high:.2f}) | {unit} {more if peer == peers[0] else ''}|", flush=True)


def numbers(config):
    """A tokenizer for a bench: token t is the character t."""
    return SimpleNamespace(n_vocab=config.vocab_size - 1, eot=config.vocab_size - 1, encode=lambda text: [ord(c) for c in text],
                           decode=lambda ids: "".join(map(chr, ids)))


def card():
    """The GPU's name, asked by another process, because this one would hold memory that the sides need."""
    ask = "import jax; print(jax.devices()[0].device_kind)"
    return subprocess.check_output([sys.executable, "-c", ask], text=True, env=os.environ | GPU).strip()


def machine(*packages, gpu=False):
    versions, device = ", ".join(f"{p} {metadata.version(p)}" for p in packages), card() if gpu else f"{CORES} cores"
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
