"""How a training step grows: seconds and memory against layers, width, context and batch, beside the formula.

    python bench/scaling.py

One size is changed at a time. The formula for time is model.flops_per_token times tokens; memory is what XLA plans for the
step, beside 16 bytes a parameter for weights, gradients and Adam's two moments. All is given as a multiple of the first row."""
import argparse
import time
from dataclasses import replace
from statistics import median

import jax
import numpy as np
import versus  # noqa: F401 (puts the scripts on the path)

import train
from model import Config, flops_per_token, num_params
from plan.compiler import lower_step
from tpu_mesh import make_mesh

BASE, BATCH = Config(n_layer=2, n_head=4, n_embd=128, rotary_dim=16, block_size=128, vocab_size=512), 8
ROWS = {"base": {}, "layers x 2": dict(n_layer=4), "layers x 4": dict(n_layer=8), "width x 2": dict(n_embd=256),
        "width x 4": dict(n_embd=512), "context x 2": dict(block_size=256), "context x 4": dict(block_size=512),
        "batch x 2": dict(batch=16), "batch x 4": dict(batch=32)}


def step_of(changes):
    """-> (a step to time, FLOPs, bytes planned by XLA, bytes by the formula)."""
    from fast.micro import micro_batches  # once versus has put it on the path
    batch = changes.get("batch", BATCH)
    config = replace(BASE, **{k: v for k, v in changes.items() if k != "batch"})
    hyper = train.Hyper(batch_size=batch, grad_accum=micro_batches(config, batch))
    memory = lower_step(config, hyper, make_mesh()).compile().memory_analysis()
    step, state = train.make_train_step(config, hyper, make_mesh()), train.init_state(0, config, make_mesh())
    tokens = jax.device_put(np.zeros((batch, config.block_size + 1), np.int32))

    def run():
        nonlocal state
        start = time.perf_counter()
        state, metrics = step(state, tokens)
        float(metrics["loss"])
        return time.perf_counter() - start
    run()
    return (run, flops_per_token(config) * batch * config.block_size,
            memory.argument_size_in_bytes + memory.temp_size_in_bytes, 16 * num_params(config))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=9, help="steps of each row, in turn (default 9)")
    args = p.parse_args()
    steps = {name: step_of(changes) for name, changes in ROWS.items()}
    times = {name: [] for name in steps}
    for _ in range(args.rounds):
        for name, (run, *_) in steps.items():
            times[name].append(run())
    print("| | ms a step | x | FLOPs x | GFLOP/s | memory MB | x | parameters' part MB |\n|---|---|---|---|---|---|---|---|")
    _, flops0, memory0, _ = steps["base"]
    for name, (_, flops, memory, ours) in steps.items():
        t = median(times[name])
        growth = median(a / b for a, b in zip(times[name], times["base"]))
        print(f"| {name} | {1000 * t:.0f} | {growth:.2f} | {flops / flops0:.2f} | {flops / t / 1e9:.0f} | {memory / 1e6:.0f} | "
              f"{memory / memory0:.2f} | {ours / 1e6:.0f} |")


if __name__ == "__main__":
    main()
