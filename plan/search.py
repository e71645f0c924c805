"""Which mesh, batch and micro-batch: all sensible ones by formula, the best by the compiler."""
import dataclasses
import itertools
import math

from plan.chips import parse_topology
from plan.figures import make_plan, used_bytes
from plan.formula import fastest_that_fits
from plan.show import show_plan


def better_plans(config, hyper, topology, budget, batch_sizes, remat=None):
    """Plans for all sensible meshes and micro-batches that fit by formula, the fastest first.
    remat: the one that was asked for, or else for each the fastest that fits."""
    chip, sides = parse_topology(topology)
    chips, found = math.prod(sides), []
    for tp, batch, accum in itertools.product((1, 2, 4, 8), batch_sizes, (1, 2, 4, 8, 16, 32)):
        for fsdp in (chips // tp // d for d in (1, 2, 4, 8, 16, 32, 64) if chips % (tp * d) == 0):
            mesh = dict(dp=chips // tp // fsdp, fsdp=fsdp, tp=tp)
            trial = dataclasses.replace(hyper, batch_size=batch, grad_accum=accum)
            fits = remat or fastest_that_fits(config, trial, **mesh, memory=chip.hbm)
            trial = dataclasses.replace(trial, remat=fits)
            try:
                plan = make_plan(config, trial, topology, **mesh, budget=budget, compiled=False)
            except ValueError:      # something does not divide
                continue
            if used_bytes(plan) < 0.9 * chip.hbm:
                found.append(plan)
    return sorted(found, key=lambda p: -p["mfu"])


def compile_best(config, hyper, plans, budget, tries=3):
    """The fastest of the first few plans that the compiler says fit, or None."""
    done = []
    for p in plans[:tries]:
        own = {name: p[name] for name in ("batch_size", "grad_accum", "remat")}
        trial = dataclasses.replace(hyper, **own)
        done.append(make_plan(config, trial, p["topology"], **p["mesh"], budget=budget))
        show_plan(done[-1])
    return max((p for p in done if p["fits"]), key=lambda p: p["mfu"], default=None)
