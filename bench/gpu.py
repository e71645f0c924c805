"""The paper's models on one GPU: whether the attention kernel is right, what training takes, what sampling reaches.

    JAX_PLATFORMS=cuda python bench/gpu.py

Each figure comes from a process of its own, random weights and bfloat16."""
import argparse
import dataclasses
import json
import math
import subprocess
import sys
import time
from statistics import median

from versus import ROOT, numbers

#          preset, sequences at a time, whether a layer runs again in the backward pass
TRAIN = [("350M", 8, False), ("350M", 16, False), ("350M", 8, True), ("1B", 8, True), ("2.7B", 4, True)]
#          preset, rows
SAMPLE = [("350M", 1), ("350M", 8), ("350M", 64), ("2.7B", 1), ("2.7B", 64), ("6.1B", 1), ("6.1B", 16), ("16.1B", 1)]
NEW = 128       # tokens sampled
LIMIT = 120     # seconds of one job


def attention(preset):
    """The output and three gradients in bfloat16: their relative error against float32, and milliseconds of both passes,
    for the kernel and for all scores at once."""
    from fast.attention import kernel_for

    import jax
    import jax.numpy as jnp

    import model
    config = model.CONFIGS[preset]
    shape = (2, config.n_head, config.block_size, config.head_dim)
    q, k, v, g = (jax.random.normal(key, shape, jnp.bfloat16) for key in jax.random.split(jax.random.key(0), 4))

    def run(form):
        @jax.jit
        def both(q, k, v, g):
            out, pull = jax.vjp(form, q, k, v)
            return out, *pull(g.astype(out.dtype))
        return both

    def seconds(f):
        times = []
        for _ in range(9):
            start = time.perf_counter()
            jax.block_until_ready(f(q, k, v, g))
            times.append(time.perf_counter() - start)
        return median(times)

    def reference(q, k, v):     # all scores at once: plain_attention's chunks take long to compile for a GPU
        return model.attend(q, [(k, v)], jnp.tri(q.shape[2], dtype=bool))

    with jax.default_matmul_precision("highest"):
        want = run(reference)(*(x.astype(jnp.float32) for x in (q, k, v, g)))
    error = lambda got: [float(jnp.linalg.norm(a.astype(jnp.float32) - b) / jnp.linalg.norm(b)) for a, b in zip(got, want)]
    forms = {"kernel": model.attention, "all scores at once": reference}
    return {n: dict(error=error(run(f)(q, k, v, g)), ms=1e3 * seconds(run(f))) for n, f in forms.items()} | \
        dict(name=getattr(kernel_for(jax.default_backend(), q), "__name__", None))


def trained(preset, batch, remat):
    """Tokens a second, the share of the card's peak, peak memory."""
    from fast.peak import peak_flops

    import jax
    import numpy as np

    import train
    from model import CONFIGS, flops_per_token
    from tpu_mesh import make_mesh
    config = dataclasses.replace(CONFIGS[preset], dtype="bfloat16")
    mesh = make_mesh()
    step = train.make_train_step(config, train.Hyper(batch_size=batch, remat=remat), mesh)
    state = train.init_state(0, config, mesh)
    tokens = jax.device_put(np.random.default_rng(0).integers(0, config.vocab_size, (batch, config.block_size + 1), np.int32))
    times = []
    for _ in range(6):
        start = time.perf_counter()
        state, metrics = step(state, tokens)
        loss = float(metrics["loss"])
        times.append(time.perf_counter() - start)
    rate = batch * config.block_size / median(times[2:])
    return dict(tokens_per_s=round(rate), mfu=rate * flops_per_token(config) / (peak_flops(mesh) or math.inf), loss=loss,
                peak_gb=(jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 1e9)


def sampled(preset, rows, layout="unstacked"):
    """Tokens a second of all rows, and GB/s of weights: a token of all rows reads each of them once."""
    import jax
    import numpy as np

    import model
    import sample
    config = dataclasses.replace(model.CONFIGS[preset], dtype="bfloat16")
    params = {}
    for i, (name, (shape, _, std)) in enumerate(model.param_table(config).items()):
        make = jax.jit(lambda key: (std or 0) * jax.random.normal(key, shape, "bfloat16" if std else "float32"))   # noqa: B023
        params[name] = make(jax.random.key(i))
    if layout == "unstacked":
        params = model.unstack(params)

    prompt, times = "".join(map(chr, np.random.default_rng(0).integers(1, 500, 16))), []
    for _ in range(4):
        start = time.perf_counter()
        texts = sample.generate(params, config, numbers(config), [prompt] * rows, NEW, temperature=0.8, top_p=0.95)
        times.append(time.perf_counter() - start)
    rate = sum(len(text) for text, _ in texts) / median(times[1:])
    weights = 2 * (model.num_params(config) - config.vocab_size * config.n_embd)
    return dict(tokens_per_s=round(rate, 1), gb_per_s=weights * rate / rows / 1e9, first_s=round(times[0], 1))


def measure(*job):
    """One job in a process of its own, or what it died of."""
    try:
        run = subprocess.run([sys.executable, __file__, "--job", json.dumps(job)], capture_output=True, text=True, cwd=ROOT,
                             timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return f"not done after {LIMIT} s"
    return json.loads(run.stdout.splitlines()[-1]) if run.returncode == 0 else (run.stderr.strip().splitlines() or ["?"])[-1]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--job", help=argparse.SUPPRESS)
    p.add_argument("--jobs", help="these alone, a JSON list of [function, arguments ...]")
    args = p.parse_args()
    if args.job:
        name, *rest = json.loads(args.job)
        return print(json.dumps(dict(attention=attention, trained=trained, sampled=sampled)[name](*rest)))
    jobs = json.loads(args.jobs) if args.jobs else [
        *(("attention", preset) for preset in ("350M", "2.7B", "6.1B")), *(("trained", *t) for t in TRAIN),
        *(("sampled", *s) for s in SAMPLE)]
    for job in jobs:
        print(*job, "->", json.dumps(measure(*job)), flush=True)


if __name__ == "__main__":
    main()
