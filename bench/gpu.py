"""The paper's models on one GPU, all in one call: training and sampling, ours and the peers, each beside the other, and what
is reached of the prediction that a plan makes.

    python bench/gpu.py                 on a GPU, at most --minutes; what counts most comes first
    python bench/gpu.py --tiny          the same jobs with a toy model, on a CPU: whether the script itself works

Each job is a process of its own, so that one has the card's memory to itself, with random weights and bfloat16. A line each
as it ends, then two tables and a line of JSON."""
import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
import time
from statistics import median

import vs_nanogpt
import vs_transformers
from versus import CPU, GPU, ROOT, card, numbers

from plan.card import H100, LAYER, NONE, predicted

#       function, its arguments
JOBS = [("trained", "350M", 8, NONE), ("compiled", "350M, 8 sequences"),
        ("trained", "350M", 16, NONE), ("compiled", "350M, 16 sequences"),
        ("trained", "2.7B", 8, LAYER),
        ("sampled", "350M", 1, 8, 64), ("transformers", "350M", 1, 8, 64),
        ("sampled", "6.1B", 1, 16), ("sampled", "16.1B", 1, 8),
        ("eager", "350M, 8 sequences"), ("eager", "350M, 16 sequences"),
        ("attention", "350M"), ("attention", "2.7B"), ("attention", "6.1B")]
TINY = [("trained", "toy", 16, NONE), ("compiled", "toy"), ("trained", "toy", 16, LAYER), ("sampled", "toy", 1, 8),
        ("transformers", "toy", 1, 8), ("eager", "toy"), ("attention", "toy")]
NEW = 128       # tokens sampled
LIMIT = 150     # seconds of one job


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
    """Tokens a second as vs_nanogpt.py times them, shares of the card's peak and of the prediction, peak memory."""
    from fast.peak import peak_flops

    import jax
    import numpy as np

    import train
    from model import CONFIGS, flops_per_token
    from tpu_mesh import make_mesh
    config, mesh = dataclasses.replace(CONFIGS[preset], dtype="bfloat16"), make_mesh()
    hyper = train.Hyper(batch_size=batch, remat=remat)
    step, state = train.make_train_step(config, hyper, mesh), train.init_state(0, config, mesh)
    tokens = jax.device_put(np.random.default_rng(0).integers(0, config.vocab_size, (batch, config.block_size + 1), np.int32))
    rates = []
    for _ in range(4):
        start = time.perf_counter()
        for _ in range(vs_nanogpt.STEPS):
            state, metrics = step(state, tokens)
        loss = float(metrics["loss"])
        rates.append(vs_nanogpt.STEPS * batch * config.block_size / (time.perf_counter() - start))
    rate = median(rates[1:])
    reached = rate / predicted(config, hyper) if mesh.devices.flat[0].device_kind.startswith(H100.kind) else None
    return dict(tokens_per_s=round(rate), mfu=rate * flops_per_token(config) / (peak_flops(mesh) or math.inf),
                of_prediction=reached, loss=loss, peak_gb=peak_gb())


def peak_gb():
    import jax
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 1e9


def trained_by_torch(shape, compiled):
    """The same of vs_nanogpt.py's GPT in PyTorch."""
    measure = vs_nanogpt.torch_gpt(shape, compiled)
    measure()
    return dict(tokens_per_s=round(median(measure() for _ in range(3))))


def sampled(preset, *row_counts):
    """rows -> tokens a second of all of them, and GB/s of weights: a token of all rows reads each of them once."""
    import jax
    import numpy as np

    import model
    import sample
    config = dataclasses.replace(model.CONFIGS[preset], dtype="bfloat16")
    params = {}
    for i, (name, (shape, _, std)) in enumerate(model.param_table(config).items()):
        one = shape[1:] if name in model.LAYER else shape           # all layers alike: random numbers take room to make
        dtype = "bfloat16" if std else "float32"
        make = jax.jit(lambda key: jax.numpy.broadcast_to((std or 0) * jax.random.normal(key, one, dtype), shape))  # noqa: B023
        params[name] = make(jax.random.key(i))
    params = model.unstack(params)

    prompt, found = "".join(map(chr, np.random.default_rng(0).integers(1, 500, vs_transformers.PROMPT))), {}
    for rows in row_counts:
        rates = []
        for _ in range(4):
            start = time.perf_counter()
            texts = sample.generate(params, config, numbers(config), [prompt] * rows, NEW, temperature=0.8, top_p=0.95)
            rates.append(sum(len(text) for text, _ in texts) / (time.perf_counter() - start))
        rate = median(rates[1:])
        weights = 2 * (model.num_params(config) - config.vocab_size * config.n_embd)
        found[rows] = dict(tokens_per_s=round(rate, 1), gb_per_s=round(weights * rate / rows / 1e9, 1))
    return found | dict(peak_gb=peak_gb())


def sampled_by_transformers(preset, *row_counts):
    """rows -> tokens a second of transformers' CodeGen of the same sizes."""
    import torch
    from transformers import CodeGenConfig, CodeGenForCausalLM

    from hf.config import config_json
    from model import CONFIGS
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        net = CodeGenForCausalLM(CodeGenConfig(**config_json(CONFIGS[preset]))).to(torch.bfloat16).eval()
    found = {}
    for rows in row_counts:
        measure = vs_transformers.transformers_generate(net, rows, NEW)
        measure()
        found[rows] = dict(tokens_per_s=round(median(measure() for _ in range(2)), 1))
    return found


DO = dict(attention=attention, trained=trained, compiled=lambda shape: trained_by_torch(shape, True),
          eager=lambda shape: trained_by_torch(shape, False), sampled=sampled, transformers=sampled_by_transformers)


def in_a_process(job, env, seconds):
    """What a job finds, or in a word what it died of."""
    try:
        run = subprocess.run([sys.executable, __file__, "--job", json.dumps(job)], capture_output=True, text=True, cwd=ROOT,
                             env=env, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"not done after {seconds:.0f} s"
    if run.returncode == 0:
        return json.loads(run.stdout.splitlines()[-1])
    return next((line for line in reversed(run.stderr.splitlines()) if "Error" in line), f"exit code {run.returncode}")[:300]


def tables(found):
    """Ours beside the peers, in Markdown. found: [(job, result)]."""
    rates = {}
    for (name, subject, *_), result in found:
        if name in ("compiled", "eager"):
            rates[subject, name] = result["tokens_per_s"]
        elif name in ("sampled", "transformers"):
            rates |= {(subject, rows, name): r["tokens_per_s"] for rows, r in result.items() if isinstance(r, dict)}
    share = lambda rate, peer: f"{peer:,} | **{rate / peer:.2f}**" if peer else "- | -"
    yield "| train | tokens/s | MFU | of the prediction | GB | torch.compile | ratio | PyTorch | ratio |\n" + "|---" * 9 + "|"
    for (name, preset, *more), r in found:
        if name == "trained":
            batch, remat = more
            shape = preset if preset == "toy" else f"{preset}, {batch} sequences"
            peers = [rates.get((shape, peer)) if remat == NONE else None for peer in ("compiled", "eager")]
            yield f"| {shape}{f', remat {remat}' if remat != NONE else ''} | {r['tokens_per_s']:,} | {r['mfu']:.1%} | " \
                  f"{f'{part:.0%}' if (part := r['of_prediction']) else '-'} | {r['peak_gb']:.1f} | " \
                  + " | ".join(share(r["tokens_per_s"], peer) for peer in peers) + " |"
    yield "\n| sample | rows | tokens/s | transformers | ratio |\n|---|---|---|---|---|"
    for (name, preset, *_), result in found:
        for rows, r in result.items() if name == "sampled" else ():
            if isinstance(r, dict):
                peer = rates.get((preset, rows, "transformers"))
                yield f"| {preset} | {rows} | {r['tokens_per_s']:,} | {share(r['tokens_per_s'], peer)} |"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--job", help=argparse.SUPPRESS)
    p.add_argument("--only", default="", help="jobs whose name or arguments hold this text")
    p.add_argument("--tiny", action="store_true", help="a toy model on the CPU")
    p.add_argument("--minutes", type=float, default=9.5, help="of all jobs together (default 9.5)")
    args = p.parse_args()
    if args.job:
        name, *rest = json.loads(args.job)
        return print(json.dumps(DO[name](*rest)))
    env, end, done = os.environ | (CPU if args.tiny else GPU), time.monotonic() + 60 * args.minutes, []
    print("tiny, on the CPU" if args.tiny else card(), flush=True)
    for job in TINY if args.tiny else JOBS:
        if args.only in " ".join(map(str, job)):
            start, left = time.monotonic(), end - time.monotonic()
            result = in_a_process(job, env, min(LIMIT, left)) if left > 5 else "no time left"
            done.append((job, result))
            print(f"{time.monotonic() - start:4.0f} s", *job, "->", json.dumps(result), flush=True)
    print("", *tables([(job, result) for job, result in done if isinstance(result, dict)]), sep="\n")
    print(json.dumps([dict(job=job, result=result) for job, result in done]))


if __name__ == "__main__":
    main()
