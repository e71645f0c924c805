"""`python train.py ... --plan`: what a step takes on the mesh of the flags, or on the best."""
import json

import jax

import train
from plan.compiler import NO_COMPILER, has_compiler
from plan.figures import make_plan, used_bytes
from plan.search import better_plans, compile_best
from plan.show import flags_of, gib, show_plan
from runs.settings import choose_settings


def main(args):
    """Compile the real step for a TPU that is not here, say what it takes. Last line: JSON."""
    check_flags(args)
    args.model = args.model or "toy"
    jax.config.update("jax_platforms", "cpu")       # the compiler is all that is needed of a TPU
    config, hyper, _ = choose_settings(args, platform="tpu")
    tokens, steps, *_ = train.RECIPES[args.model]
    budget = tokens * steps
    if not has_compiler():
        print(NO_COMPILER)
    if args.search:
        best = search(config, hyper, args, budget)
    else:
        best = make_plan(config, hyper, args.topology, args.dp, args.fsdp, args.tp, budget)
        show_plan(best)
        if not best["fits"]:
            say_what_fits(config, hyper, best, budget, args.remat)
    print(json.dumps(best | dict(model=args.model)))


def check_flags(args):
    """Refuse what a plan or a search would not heed: its figures would be of something else."""
    if not args.plan:
        raise ValueError("--topology and --search say what a step would take on a TPU: add --plan, "
                         "or leave them out to train")
    if not args.topology:
        raise ValueError("--plan needs --topology: a TPU and the sides of its slice, like v4:8x8x4")
    if args.init_from not in (None, "scratch"):
        raise ValueError(f"--plan is for a preset, not for --init_from {args.init_from}: "
                         "give --model and the sizes that differ from it")
    mesh = [f"--{n}" for n in ("dp", "fsdp", "tp") if getattr(args, n) not in (None, 1)]
    if args.search and (mesh or args.grad_accum is not None):
        given = ", ".join(mesh + ["--grad_accum"] * (args.grad_accum is not None))
        raise ValueError(f"--search tries meshes and micro-batches of its own: leave out {given}, "
                         "or leave out --search")


def search(config, hyper, args, budget):
    """Show the best plans by formula, and return the best that the compiler says fits."""
    sizes = [hyper.batch_size]
    if not args.batch_size:
        sizes = [hyper.batch_size // 2, hyper.batch_size, 2 * hyper.batch_size]
    plans = better_plans(config, hyper, args.topology, budget, sizes, args.remat)
    for p in plans[:12]:
        print(f"  by formula  MFU {p['mfu']:.1%}  {p['step_seconds']:7.2f} s a step, bound by "
              f"{p['bound']:<12} {gib(used_bytes(p)):>10} a chip  {flags_of(p)}")
    best = compile_best(config, hyper, plans, budget)
    if best is None:
        why = "the compiler finds that none of the best fits" if plans else \
            "by formula none fits, or none divides the sizes of the model and the batch"
        raise ValueError(f"no mesh of {args.topology} holds this model: {why}; "
                         "take a larger slice, or another --batch_size")
    return best


def say_what_fits(config, hyper, plan, budget, remat):
    """One line on a plan that does not fit, with flags that do."""
    plans = better_plans(config, hyper, plan["topology"], budget, [hyper.batch_size], remat)
    other = compile_best(config, hyper, plans, budget)
    need = plan["why"] or f"{gib(used_bytes(plan))} a chip"
    print(f"does not fit: {need}, " + (f"try {flags_of(other)}" if other else
                                       "and no mesh of it holds this model: try a larger slice"))
