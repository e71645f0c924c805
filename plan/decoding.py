"""`python sample.py --plan`: what decoding takes on one chip, by formula."""
import json

import jax

from model import CONFIGS, init_cache, num_params
from plan.chips import parse_topology
from plan.show import gib


def main(args):
    """A token reads every weight (float32, as `load` holds them) and the keys and values of its
    row, and multiplies each weight twice; the slower of the two bounds it. Last line: JSON."""
    if not args.plan:
        raise ValueError("--model and --topology say what decoding would take on a TPU: "
                         "add --plan, or leave them out and sample from --ckpt")
    if args.ckpt or args.prompt:
        raise ValueError("--plan samples nothing and reads no checkpoint: "
                         "leave out --ckpt and --prompt, and name a preset with --model")
    model, topology = args.model or "350M", args.topology or "v4:1x1x1"
    if model not in CONFIGS:
        raise ValueError(f"--model {model} is no preset: use one of {', '.join(CONFIGS)}")
    chip, _ = parse_topology(topology)
    config, rows = CONFIGS[model], args.num_samples
    weights = 4 * num_params(config)
    cache = jax.eval_shape(lambda: init_cache(config, rows))
    cache = sum(a.size * a.dtype.itemsize for a in cache.values())
    memory = (weights + cache) / chip.hbm_rate
    compute = 2 * num_params(config) * rows / chip.flops
    row = dict(fits=weights + cache < chip.hbm, model=model, topology=topology, rows=rows,
               context=config.block_size, weight_bytes=weights, cache_bytes=cache,
               hbm_bytes=chip.hbm, step_seconds=max(memory, compute),
               bound="HBM" if memory > compute else "compute",
               tokens_per_s=round(rows / max(memory, compute)))
    print(f"{model} on one chip of {topology}: weights {gib(weights)}, cache of {rows} x "
          f"{config.block_size} tokens {gib(cache)}, of {chip.hbm / 2 ** 30:.0f} GiB")
    print(f"at most {row['tokens_per_s']:,} tokens/s: {1000 * memory:.2f} ms a token to read "
          f"memory, {1000 * compute:.3f} to compute")
    if not row["fits"]:
        print("does not fit: weights and cache are more than the chip holds; "
              "try fewer --num_samples, a larger chip or a smaller model")
    print(json.dumps(row))
