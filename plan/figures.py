"""One plan: every figure of a step on a mesh, counted by formula or read from the compiled step."""
from harness.devices import check_divides

import math
import re

import jax

from model import flops_per_token, num_params
from plan.chips import parse_topology
from plan.compiler import compile_with_text, lower_step, topology_mesh
from plan.formula import estimate, hardware_flops_per_token
from plan.program import UNIT, count_program
from plan.roofline import places, roofline

MOST_TOKENS = 2 ** 31       # of a step: a thousand times the paper's largest


def make_plan(config, hyper, topology, dp, fsdp, tp, budget, compiled=True):
    """One plan as a dict, the JSON of --plan: compiled for that TPU, or counted by formula.

    budget: tokens of the run. ValueError for a mesh that is not the slice, or does not divide."""
    chip, sides = parse_topology(topology)
    chips, tokens = math.prod(sides), hyper.batch_size * config.block_size
    if dp * fsdp * tp != chips:
        raise ValueError(f"--dp {dp} --fsdp {fsdp} --tp {tp} is a mesh of {dp * fsdp * tp} "
                         f"and {topology} has {chips} chips")
    if tokens > MOST_TOKENS:
        raise ValueError(f"--batch_size {hyper.batch_size} makes a step of {tokens:,} tokens: "
                         f"at most {MOST_TOKENS:,} are planned")
    check_divides(config, hyper.batch_size, hyper.grad_accum, dp, fsdp, tp)
    state, temp, hbm, moves = estimate(config, hyper, dp, fsdp, tp)
    flops, busy = (tokens / chips * hardware_flops_per_token(config, hyper.remat, unit)
                   for unit in (1, UNIT))
    by_formula = flops
    why, mesh = "", topology_mesh(topology, dp, fsdp, tp) if compiled else None
    if mesh:
        try:
            state, temp, hbm, moves, flops, busy = measure(config, hyper, mesh)
        except jax.errors.JaxRuntimeError as e:
            why = out_of_memory(e)
    line = roofline(chip, places(chip, sides, dp, fsdp, tp), sides, busy, hbm, moves)
    rate, sizes = tokens / line["step"], dict(dp=dp, fsdp=fsdp, tp=tp)
    model_flops = tokens * flops_per_token(config)
    sent = lambda m: round(m.moved(math.prod(sizes[a] for a in m.axes)))
    return dict(
        fits=not why and state + temp < chip.hbm, why=why, compiled=bool(mesh), topology=topology,
        chips=chips, mesh=sizes, batch_size=hyper.batch_size, grad_accum=hyper.grad_accum,
        remat=hyper.remat, tokens_per_step=tokens, dtype=config.dtype, params=num_params(config),
        state_bytes_per_chip=round(state), temp_bytes_per_chip=round(temp), hbm_bytes=chip.hbm,
        flops_per_step=model_flops, flops_per_chip=model_flops / chips,
        program_flops_per_chip=round(flops), program_flops_by_formula=round(by_formula),
        busy_flops_per_chip=round(busy), hbm_traffic_bytes=round(hbm),
        collectives=[m._asdict() | dict(moved_bytes=sent(m)) for m in moves],
        seconds={k: line[k] for k in ("compute", "hbm", "hidden", "waiting")},
        step_seconds=line["step"], bound=line["bound"],
        mfu=model_flops / chips / chip.flops / line["step"], tokens_per_s=round(rate),
        days=budget / rate / 86400, jax=jax.__version__)


def measure(config, hyper, mesh):
    """What the compiled step takes on one chip, as plan.formula.estimate says it, and the FLOPs
    that it multiplies: by shapes, and as the matrix unit is busy with them."""
    program, text = compile_with_text(lower_step(config, hyper, mesh))
    memory = program.memory_analysis()
    temp = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    run = count_program(text, mesh.shape)
    return (memory.argument_size_in_bytes, temp, run.traffic, run.collectives(), run.flops,
            run.busy)


def out_of_memory(error) -> str:
    """How much memory the compiler found missing. ValueError for anything else that it says."""
    if "RESOURCE_EXHAUSTED" not in str(error):
        raise ValueError(f"the TPU compiler refuses this program: {str(error)[:300]}") from None
    used = re.search(r"(?:Used|temporaries \()\s*([\d.]+[KMGT])\)? (?:of|exceeds available HBM \()"
                     r"\s*([\d.]+[KMGT])", str(error))
    if used:
        return f"the compiler needs {used[1]} of {used[2]}"
    return "the compiler runs out of memory"


def used_bytes(plan):
    return plan["state_bytes_per_chip"] + plan["temp_bytes_per_chip"]
