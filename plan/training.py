"""`python train.py ... --plan`: what one step takes on the mesh that the flags name, or on the best that is found."""
import json

import jax

import train
from plan.compiler import has_compiler
from plan.figures import make_plan, used_bytes
from plan.search import better_plans, compile_best
from plan.show import flags_of, show_plan


def main(args):
    """--plan: compile the real step for a TPU that is not here and say what it takes. The last line is JSON."""
    args.model = args.model or "toy"
    jax.config.update("jax_platforms", "cpu")       # the compiler is all that is needed of a TPU
    config, hyper, _ = train.settle(args, platform="tpu")
    tokens, steps, *_ = train.RECIPES[args.model]
    budget, topology = tokens * steps, args.topology
    if not has_compiler():
        print("libtpu is not installed, so nothing is compiled and this is by formula alone: pip install libtpu")
    if args.search:
        sizes = [hyper.batch_size]
        if not args.batch_size:
            sizes = [hyper.batch_size // 2, hyper.batch_size, 2 * hyper.batch_size]
        plans = better_plans(config, hyper, topology, budget, sizes)
        for p in plans[:12]:
            print(f"  by formula  MFU {p['mfu']:.1%}  {p['step_seconds']:7.2f} s a step, bound by {p['bound']:<12} "
                  f"{used_bytes(p) / 2 ** 30:6.1f} GiB a chip  {flags_of(p)}")
        best = compile_best(config, hyper, plans, budget)
        if best is None:
            raise ValueError(f"no mesh of {topology} holds this model by formula: take a larger slice")
    else:
        best = make_plan(config, hyper, topology, args.dp, args.fsdp, args.tp, budget)
        show_plan(best)
        if not best["fits"]:
            plans = better_plans(config, hyper, topology, budget, [hyper.batch_size])
            other = compile_best(config, hyper, plans, budget)
            need = best["why"] or f"{used_bytes(best) / 2 ** 30:.1f} GiB a chip"
            print(f"does not fit: {need}, " + (f"try {flags_of(other)}" if other else
                                               "and no mesh of it holds this model: try a larger slice"))
    print(json.dumps(best | dict(model=args.model)))
