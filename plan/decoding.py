"""`python sample.py --plan`: what sampling takes on a TPU that is not here, and the hours of the
paper's benchmarks."""
import dataclasses
import itertools
import json
import math

import jax

from model import CONFIGS
from plan.chips import HOST, SLICES, parse_topology
from plan.compiler import NO_COMPILER, has_compiler
from plan.sampling import make_plan, used_bytes
from plan.show import gib, show_sent


def main(args):
    """Compile prefill and decode for the mesh of the flags, say what they take. Last line: JSON."""
    config, topology = check_flags(args)
    jax.config.update("jax_platforms", "cpu")       # the compiler is all that is needed of a TPU
    if not has_compiler():
        print(NO_COMPILER)
    plan = make_plan(config, topology, args.dp, args.tp, args.num_samples, args.max_new_tokens)
    show(plan)
    if not plan["fits"]:
        other = what_fits(config, plan, args.max_new_tokens)
        need = plan["why"] or f"{gib(used_bytes(plan))} a chip"
        print(f"does not fit: {need}, " + (f"try {flags_of(other)}" if other else
                                           "and nothing near it does: try a smaller --model"))
        plan |= dict(instead=other and flags_of(other))
    print(json.dumps(plan | dict(model=args.model or "350M")))


def check_flags(args):
    """(Config, topology). ValueError for what a plan would not heed."""
    if not args.plan:
        raise ValueError("--model and --topology say what decoding would take on a TPU: "
                         "add --plan, or leave them out and sample from --ckpt")
    if args.ckpt or args.prompt:
        raise ValueError("--plan samples nothing and reads no checkpoint: "
                         "leave out --ckpt and --prompt, and name a preset with --model")
    model = args.model or "350M"
    if model not in CONFIGS:
        raise ValueError(f"--model {model} is no preset: use one of {', '.join(CONFIGS)}")
    return dataclasses.replace(CONFIGS[model], dtype=args.dtype or "float32"), \
        args.topology or "v4:1x1x1"


# ---- what fits instead ---------------------------------------------------------------------------

def what_fits(config, plan, max_new_tokens, tries=3):
    """The first plan that fits: the same on more chips of a copy, in bfloat16, with fewer rows, on
    a larger slice. By formula, and of the first few what the compiler says; None if there is none.
    """
    chip, sides = parse_topology(plan["topology"])
    larger = [f"{plan['topology'].partition(':')[0]}:{s}" for s in SLICES[chip.dims]]
    larger = [t for t in larger if chips_of(t) > plan["chips"]]
    halves = [max(1, plan["rows"] >> i) for i in range(plan["rows"].bit_length())]
    tps = [n for n in (1, 2, 4, 8) if n <= HOST[chip.dims]]
    tps.sort(key=lambda n: n != plan["mesh"]["tp"])         # the one that was asked for first
    dtypes = dict.fromkeys((config.dtype, "bfloat16"))
    for topology, rows, dtype, tp in itertools.product([plan["topology"], *larger], halves, dtypes,
                                                       tps):
        trial = dataclasses.replace(config, dtype=dtype)
        asked = trial, topology, chips_of(topology) // tp, tp, rows, max_new_tokens
        try:
            other = make_plan(*asked, compiled=False)
        except ValueError:      # something does not divide
            continue
        if used_bytes(other) > 0.95 * chip.hbm or not tries:
            continue
        other, tries = make_plan(*asked), tries - 1
        if other["fits"]:
            return other
    return None


def chips_of(topology) -> int:
    return math.prod(parse_topology(topology)[1])


# ---- for people ----------------------------------------------------------------------------------

def flags_of(p):
    return (f"--topology {p['topology']} --dp {p['mesh']['dp']} --tp {p['mesh']['tp']} "
            f"--dtype {p['dtype']} --num_samples {p['rows']}")


def show(p):
    """A plan for people."""
    how = "compiled by the TPU compiler" if p["compiled"] else \
        "by formula, because the compiler refuses" if p["why"] else "by formula alone"
    ms = lambda name: f"{1000 * p['seconds'][name]:.3f}"
    print(f"{p['topology']}, {p['chips']} chips, {how}")
    print(f"  {flags_of(p)}: {p['params']:,} parameters, a context of {p['context']:,}")
    print(f"  a chip holds  weights {gib(p['weight_bytes_per_chip'])} · "
          f"cache {gib(p['cache_bytes_per_chip'])} · temporary {gib(p['temp_bytes_per_chip'])} · "
          f"left {gib(p['hbm_bytes'] - used_bytes(p))} of {gib(p['hbm_bytes'])}")
    for c in p["collectives"]:
        show_sent(c, "token", "MB", 1e6)
    print(f"  milliseconds  HBM {ms('hbm')} · compute {ms('compute')} · interconnect "
          f"{ms('waiting')} waiting · a token {1000 * p['step_seconds']:.3f}, "
          f"bound by {p['bound']}")
    read = p["prefill"]
    print(f"  predicted     {p['tokens_per_s']:,} tokens/s · prompts "
          f"{read['tokens'] / read['seconds']:,.0f} tokens/s, bound by {read['bound']}")
    for name, size in (("humaneval", "164 problems x 200 samples x 3 temperatures"),
                       ("mtpb", "115 problems x 5 cases x 40 samples")):
        h = p[name]
        print(f"  {name:<13} {size}: {h['hours']:.1f} hours"
              + ("" if h["fits"] else ", but does not fit") + f"; assumed {h['assumes']}")
