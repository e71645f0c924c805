"""Train a CodeGen: the paper's optimizer and schedule, one sharded step, one loop.

    python train.py                                            the toy model on the miniature corpus, no download
    python train.py --init_from resume                         go on where it stopped
    python train.py --init_from out --data miniature:mono --out_dir out-mono     weights only, as from NL to MULTI to MONO
    python train.py --model 350M --data DIR --dp 2 --fsdp 4    a folder made by data.py, on 8 chips
    python train.py --model 16.1B --topology v4:8x8x4 --fsdp 64 --tp 4 --plan    what it takes on a TPU that is not here
"""
from harness.cli import cli, one_line_errors

import argparse
import dataclasses
import importlib.util
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

import model
import tpu_mesh
from data import get_batch, get_tokenizer, open_data
from model import CONFIGS, Config, flops_per_token, init_params, loss_fn, num_params, param_table
from tpu_mesh import DATA, vary, varying

# What each preset is trained with when no flag says otherwise. The large ones are those of jaxformer's
# configurations for the Pile: tokens a step, steps, lr_max -> lr_end, warm-up and cosine steps. 16.1B has no released one.
#           tokens     steps    lr_max   lr_end  warmup  anneal
RECIPES = {
    "0.1M":  (4096,      800,   6e-3,    3e-4,     50,     750),
    "0.3M":  (4096,      800,   5e-3,    3e-4,     50,     750),
    "toy":   (4096,      800,   4e-3,    2e-4,     50,     750),
    "3M":    (4096,      800,   3e-3,    1e-4,     50,     750),
    "350M":  (2 ** 19, 350000,  3.0e-4,  3.0e-5, 3000,  300000),
    "1B":    (2 ** 19, 350000,  2.0e-4,  2.0e-5, 3000,  300000),
    "2.7B":  (2 ** 20, 350000,  1.6e-4,  1.6e-5, 3000,  300000),
    "6.1B":  (2 ** 20, 350000,  1.2e-4,  1.2e-5, 3000,  300000),
    "16.1B": (2 ** 21, 350000,  0.9e-4,  0.9e-5, 3000,  300000),
    "finetune": (2 ** 16, 1000, 1.0e-5,  1.0e-6,  100,     900),    # imported weights: as the released fine-tuning example
}


# ------------------------------------------- schedule and optimizer ----------------------------------------------

def learning_rate(step, lr_max, lr_end, warmup_steps, anneal_steps):
    """Linear warm-up, then a cosine over `anneal_steps`, then flat (jaxformer: create_lr_schedule_gpt3_fn).

        lr = lr_max * step / warmup                                            step <= warmup
        lr = lr_max - (lr_max - lr_end) * (1 - cos(pi * x)) / 2                 x = (step - warmup) / anneal, at most 1

    Steps count from 0, so that the very first update has rate 0, as in the released trainer.
    """
    x = jnp.clip((step - warmup_steps) / max(1, anneal_steps), 0, 1)
    cosine = lr_max - (lr_max - lr_end) * (1 - jnp.cos(jnp.pi * x)) / 2
    return jnp.where(step <= warmup_steps, lr_max * jnp.clip(step / max(1, warmup_steps), 0, 1), cosine)


def adamw(params, grads, m, v, step, lr, decay, b1=0.9, b2=0.999, eps=1e-8):
    """Adam with decoupled weight decay (paper, section 2.3). All trees: name -> array; decay: name -> rate.

        m <- b1 m + (1 - b1) g          v <- b2 v + (1 - b2) g^2
        p <- p - lr ( (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) + decay p )
    """
    t = (step + 1).astype(jnp.float32)
    new = {}, {}, {}
    for n, g in grads.items():
        new[1][n] = b1 * m[n] + (1 - b1) * g
        new[2][n] = b2 * v[n] + (1 - b2) * g * g
        update = (new[1][n] / (1 - b1 ** t)) / (jnp.sqrt(new[2][n] / (1 - b2 ** t)) + eps)
        new[0][n] = params[n] - lr * (update + decay[n] * params[n])
    return new


# ------------------------------------------------- the train step ------------------------------------------------

def sum_grads(params, tokens, loss):
    """Sum of the gradients of loss(params, micro) over tokens (A, b, T+1), A micro-batches one after another.

    Made for params that already vary over the data axes: each rank adds up its own, with no reduction in the loop.
    """
    grad = jax.value_and_grad(loss, has_aux=True)
    if len(tokens) == 1:
        return grad(params, tokens[0])

    def body(total, micro):
        return jax.tree.map(jnp.add, total, grad(params, micro)), None

    zeros = jax.tree.map(lambda x: vary(jnp.zeros(x.shape, x.dtype), varying(x)), jax.eval_shape(grad, params, tokens[0]))
    return lax.scan(body, zeros, tokens)[0]


def train_step(state, tokens, *, config, hyper, n_tokens, dp=(), fsdp=(), tp=()):
    """One update. state: dict(params, m, v, step), tokens: (B, T+1) of this data rank -> (state, metrics).

    The same function is the single-device step (axes ()) and the body of shard_map.
    """
    specs = {n: spec for n, (_, spec, _) in param_table(config).items()}
    params, m, v, step = state["params"], state["m"], state["v"], state["step"]
    data = tuple(a for a in (dp, fsdp) if a)

    # Said once, out here: the parameters may differ from data rank to data rank. So the gradients stay local through
    # the layers and the micro-batches, and are added over dp in one place, below, as shards.
    local = {n: vary(p, data) for n, p in params.items()}
    micro = tokens.reshape(hyper.grad_accum, -1, tokens.shape[-1])                       # (A, b, T+1)
    loss = partial(loss_fn, config=config, n_tokens=n_tokens, z_loss=hyper.z_loss, tp=tp, fsdp=fsdp, remat=hyper.remat)
    (total, nll), grads = sum_grads(local, micro, loss)

    # A matrix comes back from its gather already added up over fsdp; a vector is whole on every rank and is not.
    grads = {n: lax.psum(g, tuple(a for a in data if a in varying(g) and a not in specs[n])) for n, g in grads.items()}
    total, nll = lax.psum(total, data), lax.psum(nll, data)

    # Global norm over all shards: each array is added over just those axes on which its shards lie.
    norm = jnp.sqrt(sum(lax.psum(jnp.sum(g * g), tuple(sorted(varying(g)))) for g in grads.values()))
    scale = jnp.minimum(1.0, hyper.grad_clip / (norm + 1e-12))
    lr = learning_rate(step, hyper.lr_max, hyper.lr_end, hyper.warmup_steps, hyper.anneal_steps)
    decay = {n: hyper.weight_decay if init else 0.0 for n, (_, _, init) in param_table(config).items()}
    params, m, v = adamw(params, {n: g * scale for n, g in grads.items()}, m, v, step, lr, decay)
    return (dict(params=params, m=m, v=v, step=step + 1),
            dict(loss=nll, total_loss=total, grad_norm=norm, lr=lr))


def state_specs(config):
    specs = {n: spec for n, (_, spec, _) in param_table(config).items()}
    return dict(params=specs, m=specs, v=specs, step=P())


def make_train_step(config, hyper, mesh):
    """The compiled step on a mesh: (state, tokens (B, T+1)) -> (state, metrics). The old state is given up."""
    n_tokens = hyper.batch_size * config.block_size
    step = partial(train_step, config=config, hyper=hyper, n_tokens=n_tokens, dp="dp", fsdp="fsdp", tp="tp")
    specs = state_specs(config)
    sharded = jax.shard_map(step, mesh=mesh, in_specs=(specs, P(DATA)), out_specs=(specs, P()))
    return jax.jit(sharded, donate_argnums=0, compiler_options=tpu_mesh.compiler_options(mesh))


def make_eval_loss(config, mesh):
    """(params, tokens (B, T+1)) -> mean cross-entropy of the batch."""
    def eval_loss(params, tokens):
        ranks = mesh.shape["dp"] * mesh.shape["fsdp"]
        n_tokens = ranks * tokens.shape[0] * (tokens.shape[1] - 1)
        params = {n: vary(p, DATA) for n, p in params.items()}
        _, nll = loss_fn(params, tokens, config, n_tokens, 0.0, "tp", "fsdp")
        return lax.psum(nll, DATA)
    specs = state_specs(config)["params"]
    return jax.jit(jax.shard_map(eval_loss, mesh=mesh, in_specs=(specs, P(DATA)), out_specs=P()))


def state_shardings(config, mesh):
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), state_specs(config), is_leaf=lambda x: isinstance(x, P))


def fresh_state(key, config):
    params = init_params(key, config)
    zeros = {n: jnp.zeros_like(p) for n, p in params.items()}
    return dict(params=params, m=zeros, v=dict(zeros), step=jnp.int32(0))


def init_state(seed: int, config, mesh):
    """Fresh weights and zero moments, made in place on the mesh: no host ever holds a whole large matrix."""
    init = jax.jit(partial(fresh_state, config=config), out_shardings=state_shardings(config, mesh))
    return init(jax.random.key(seed))


def lower_step(config, hyper, mesh):
    """The step of a mesh, ready to compile, from shapes alone: no weight is made, the mesh may be one that is not here."""
    state = jax.eval_shape(partial(fresh_state, config=config), jax.random.key(0))
    state = jax.tree.map(lambda a, to: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=to), state,
                         state_shardings(config, mesh))
    tokens = jax.ShapeDtypeStruct((hyper.batch_size, config.block_size + 1), jnp.int32, sharding=NamedSharding(mesh, P(DATA)))
    return make_train_step(config, hyper, mesh).lower(state, tokens)


# ------------------------------------------------ plans for a TPU ------------------------------------------------

def estimate(config, hyper, dp, fsdp, tp):
    """What a step takes on one device by counting alone: (state bytes, temporary bytes, HBM bytes, [Collective]).

    A layer's matrices have 12 D^2 weights. Activations that a layer writes and reads, bf16, in units of (B, T, D):
    about 8 that are whole on each tp rank and 20 that are split, forward; all again under remat; twice that backward."""
    c, remat, A = config, hyper.remat, hyper.grad_accum
    width = jnp.dtype(c.dtype).itemsize
    b = hyper.batch_size // (dp * fsdp * A)                               # sequences of one device at a time
    x = b * c.block_size * c.n_embd                                       # elements of (b, T, D)
    layer, ends = 12 * c.n_embd ** 2 / tp, 2 * c.n_embd * c.vocab_size / tp     # gathered weights of a tp rank
    shard = num_params(c) / (fsdp * tp)
    logits = 4 * b * c.block_size * c.vocab_size / tp
    touched = width * x * (8 + 20 / tp)
    temp = shard * (4 + width + 4 * (A > 1)) + 2 * width * layer + 4 * layer + 2.5 * logits + 2 * touched \
        + c.n_layer * (width * x if remat else touched)
    hbm = shard * 4 * 8 + A * (c.n_layer * (layer * (2 + remat) * 2 * width + layer * 8 + touched * (3 + remat)) + 6 * logits)
    passes = 1 + remat
    moves = [tpu_mesh.Collective("all-gather", ("fsdp",), A * (4 * c.n_layer * passes + 2),
                                 A * (width * passes * layer * c.n_layer + 3 * ends) / fsdp, True),
             tpu_mesh.Collective("reduce-scatter", ("fsdp",), A * (4 * c.n_layer + 2),
                                 A * 4 * (layer * c.n_layer + ends), False),
             tpu_mesh.Collective("all-reduce", ("tp",), A * 2 * (c.n_layer + 1),
                                 A * 2 * (c.n_layer + 1) * width * x, False),
             tpu_mesh.Collective("all-reduce", ("dp",), 1, 4 * shard, False)]
    sizes = dict(dp=dp, fsdp=fsdp, tp=tp)
    return 12 * shard, temp, hbm, [m for m in moves if sizes[m.axes[0]] > 1]


def make_plan(config, hyper, topology, dp, fsdp, tp, budget, compiled=True):
    """One plan as a dict, the JSON of --plan: compiled for that TPU, or counted by formula. budget: tokens of the run."""
    chip, sides = tpu_mesh.parse_topology(topology)
    chips, tokens = math.prod(sides), hyper.batch_size * config.block_size
    if dp * fsdp * tp != chips:
        raise ValueError(f"--dp {dp} --fsdp {fsdp} --tp {tp} is a mesh of {dp * fsdp * tp} and {topology} has {chips} chips")
    tpu_mesh.check_divides(config, hyper.batch_size, hyper.grad_accum, dp, fsdp, tp)
    state, temp, hbm, moves = estimate(config, hyper, dp, fsdp, tp)
    error = ""
    mesh = tpu_mesh.topology_mesh(topology, dp, fsdp, tp) if compiled else None
    if mesh:
        try:
            program, text = tpu_mesh.compile_with_text(lower_step(config, hyper, mesh))
            memory = program.memory_analysis()
            state = memory.argument_size_in_bytes
            temp = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
            hbm, moves = tpu_mesh.read_program(text, mesh.shape)
        except jax.errors.JaxRuntimeError as e:
            if "RESOURCE_EXHAUSTED" not in str(e):
                raise
            used = re.search(r"Used ([\d.]+[KMGT]) of ([\d.]+[KMGT]) hbm", str(e))
            error = f"the compiler needs {used[1]} of {used[2]}" if used else "the compiler runs out of memory"
    flops = tokens / chips * model.hardware_flops_per_token(config, hyper.remat)
    line = tpu_mesh.roofline(chip, tpu_mesh.places(sides, dp, fsdp, tp), sides, flops, hbm, moves)
    rate, sizes = tokens / line["step"], dict(dp=dp, fsdp=fsdp, tp=tp)
    model_flops = tokens * flops_per_token(config)
    return dict(
        fits=not error and state + temp < chip.hbm, why=error, compiled=bool(mesh), topology=topology, chips=chips,
        mesh=sizes, batch_size=hyper.batch_size, grad_accum=hyper.grad_accum, remat=hyper.remat,
        tokens_per_step=tokens, dtype=config.dtype, params=num_params(config), state_bytes_per_chip=round(state),
        temp_bytes_per_chip=round(temp), hbm_bytes=chip.hbm, flops_per_step=model_flops,
        flops_per_chip=model_flops / chips, hbm_traffic_bytes=round(hbm), collectives=[
            m._asdict() | dict(moved_bytes=round(m.moved(math.prod(sizes[a] for a in m.axes)))) for m in moves],
        seconds={k: line[k] for k in ("compute", "hbm", "hidden", "waiting")}, step_seconds=line["step"],
        bound=line["bound"], mfu=model_flops / chips / chip.flops / line["step"], tokens_per_s=round(rate),
        days=budget / rate / 86400, jax=jax.__version__)


def better_plans(config, hyper, topology, budget, batch_sizes):
    """Plans for all sensible meshes and micro-batches that fit by formula, the fastest first."""
    chip, sides = tpu_mesh.parse_topology(topology)
    chips, found = math.prod(sides), []
    for tp, batch, accum in itertools.product((1, 2, 4, 8), batch_sizes, (1, 2, 4, 8, 16, 32)):
        for fsdp in (chips // tp // d for d in (1, 2, 4, 8, 16, 32, 64) if chips % (tp * d) == 0):
            trial = dataclasses.replace(hyper, batch_size=batch, grad_accum=accum)
            try:
                plan = make_plan(config, trial, topology, chips // tp // fsdp, fsdp, tp, budget, compiled=False)
            except ValueError:      # something does not divide
                continue
            if plan["state_bytes_per_chip"] + plan["temp_bytes_per_chip"] < 0.9 * chip.hbm:
                found.append(plan)
    return sorted(found, key=lambda p: -p["mfu"])


def flags_of(plan):
    return " ".join(f"--{k} {n}" for k, n in plan["mesh"].items()) + \
        f" --batch_size {plan['batch_size']} --grad_accum {plan['grad_accum']}"


def show_plan(p):
    """A plan for people."""
    gib = lambda n: f"{n / 2 ** 30:.2f} GiB"
    left = p["hbm_bytes"] - p["state_bytes_per_chip"] - p["temp_bytes_per_chip"]
    print(f"{p['topology']}, {p['chips']} chips, " + ("compiled by the TPU compiler" if p["compiled"] else "by formula alone"))
    print(f"  {flags_of(p)}: {p['tokens_per_step']:,} tokens a step, {p['params']:,} parameters, {p['dtype']}")
    print(f"  a chip holds  parameters and optimizer {gib(p['state_bytes_per_chip'])} · activations and temporary "
          f"{gib(p['temp_bytes_per_chip'])} · left {gib(left)} of {gib(p['hbm_bytes'])}")
    print(f"  model FLOPs   {p['flops_per_step']:.3g} a step · {p['flops_per_chip']:.3g} a chip")
    for c in p["collectives"]:
        print(f"  {c['kind']:<18} over {'+'.join(c['axes']):<8} {c['count']:>5} a step, {c['moved_bytes'] / 1e9:8.3f} GB sent "
              "by a chip" + (" while it computes" if c["hidden"] else ""))
    s = p["seconds"]
    print(f"  seconds       compute {s['compute']:.3f} · HBM {s['hbm']:.3f} · interconnect {s['hidden']:.3f} while computing, "
          f"{s['waiting']:.3f} waiting · a step {p['step_seconds']:.3f}, bound by {p['bound']}")
    print(f"  predicted     {p['tokens_per_s']:,} tokens/s · MFU {p['mfu']:.1%} · {p['days']:.1f} days for the paper's tokens")


def plan_main(args):
    """--plan: compile the real step for a TPU that is not here and say what it takes. The last line is JSON."""
    args.model = args.model or "toy"
    jax.config.update("jax_platforms", "cpu")       # the compiler is all that is needed of a TPU
    config, hyper, _ = settle(args, platform="tpu")
    tokens, steps, *_ = RECIPES[args.model]
    budget, topology = tokens * steps, args.topology
    if importlib.util.find_spec("libtpu") is None:
        print("libtpu is not installed, so nothing is compiled and this is by formula alone: pip install libtpu")
    if args.search:
        sizes = [hyper.batch_size] if args.batch_size else [hyper.batch_size // 2, hyper.batch_size, 2 * hyper.batch_size]
        plans = better_plans(config, hyper, topology, budget, sizes)
        for p in plans[:12]:
            print(f"  by formula  MFU {p['mfu']:.1%}  {p['step_seconds']:7.2f} s a step, bound by {p['bound']:<12} "
                  f"{(p['state_bytes_per_chip'] + p['temp_bytes_per_chip']) / 2 ** 30:6.1f} GiB a chip  {flags_of(p)}")
        best = compile_best(config, hyper, plans, budget)
        if best is None:
            raise ValueError(f"no mesh of {topology} holds this model by formula: take a larger slice")
    else:
        best = make_plan(config, hyper, topology, args.dp, args.fsdp, args.tp, budget)
        show_plan(best)
        if not best["fits"]:
            other = compile_best(config, hyper, better_plans(config, hyper, topology, budget, [hyper.batch_size]), budget)
            need = best["why"] or f"{(best['state_bytes_per_chip'] + best['temp_bytes_per_chip']) / 2 ** 30:.1f} GiB a chip"
            print(f"does not fit: {need}, " + (f"try {flags_of(other)}" if other else "and no mesh of it holds this model: "
                                               "try a larger slice"))
    print(json.dumps(best | dict(model=args.model)))


def compile_best(config, hyper, plans, budget, tries=3):
    """The fastest of the first few plans that the compiler says fit."""
    done = []
    for p in plans[:tries]:
        trial = dataclasses.replace(hyper, batch_size=p["batch_size"], grad_accum=p["grad_accum"])
        done.append(make_plan(config, trial, p["topology"], **p["mesh"], budget=budget))
        show_plan(done[-1])
    return max((p for p in done if p["fits"]), key=lambda p: p["mfu"], default=None)


# ------------------------------------------------- checkpoints ---------------------------------------------------

def flatten(state) -> dict:
    """The state as one flat dict of arrays, "params/wte", "m/wte", ..., as checkpoints hold it."""
    return {f"{part}/{n}": a for part in ("params", "m", "v") for n, a in state[part].items()}


def restore(folder, config, mesh, parts):
    """Read parts ("params", "m", "v") of a checkpoint onto a mesh -> {part: {name: array}}."""
    to = tpu_mesh.shardings(param_table(config), mesh)
    wanted = {f"{part}/{n}": jax.ShapeDtypeStruct(shape, jnp.float32, sharding=to[n])
              for part in parts for n, (shape, _, _) in param_table(config).items()}
    flat = tpu_mesh.load_checkpoint(folder, wanted)
    return {part: {n: flat[f"{part}/{n}"] for n in to} for part in parts}


# ---------------------------------------------------- the loop ---------------------------------------------------

@dataclasses.dataclass(frozen=True)
class Hyper:
    """What the compiled step depends on, beside the model's Config."""
    batch_size: int = 16
    grad_accum: int = 1
    lr_max: float = 1e-3
    lr_end: float = 1e-4
    warmup_steps: int = 100
    anneal_steps: int = 1000
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    z_loss: float = 1e-4
    remat: bool = False


def parse_args(argv=None):
    p = one_line_errors(argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False))
    p.add_argument("--model", choices=CONFIGS, help="preset (default toy, or what the checkpoint was trained as)")
    for f in dataclasses.fields(Config):
        p.add_argument(f"--{f.name}", type=f.type, help=f"model size: overrides the preset's {f.name}")
    p.add_argument("--data", default="miniature:mono", help="miniature:nl|multi|mono, or a folder made by data.py prepare")
    p.add_argument("--out_dir", default="out", help="checkpoints and metrics.jsonl go here (default out)")
    p.add_argument("--init_from", default="scratch", help="scratch, resume, or a checkpoint or Hugging Face folder: its "
                   "weights alone are taken")
    p.add_argument("--steps", type=int, help="train up to this step (default: the preset's)")
    for f in dataclasses.fields(Hyper):
        if f.name != "remat":
            p.add_argument(f"--{f.name}", type=f.type, help="default: the preset's" if f.name in
                           ("batch_size", "lr_max", "lr_end", "warmup_steps", "anneal_steps") else f"default {f.default}"
                           + ", on a CPU as many as keep a layer in the cache" * (f.name == "grad_accum"))
    p.add_argument("--remat", action=argparse.BooleanOptionalAction,
                   help="recompute each layer in the backward pass (default: from n_embd 1024 on)")
    for axis, what in (("dp", "copies of the model"), ("fsdp", "chips that share the parameters"),
                       ("tp", "chips that share heads and feed-forward")):
        p.add_argument(f"--{axis}", type=int, default=1, help=f"mesh: {what} (default 1)")
    p.add_argument("--plan", action="store_true", help="train nothing: compile the step for --topology, say what it takes")
    p.add_argument("--topology", default="", help="with --plan: a TPU and the sides of its slice, like v4:8x8x4 or v5p:4x4x8")
    p.add_argument("--search", action="store_true", help="with --plan: try meshes and batch sizes, rank them")
    p.add_argument("--coordinator", default="", help="host:port of process 0 (several hosts; not needed on a TPU pod)")
    p.add_argument("--num_processes", type=int, default=0, help="how many processes there are, with --coordinator")
    p.add_argument("--process_id", type=int, default=-1, help="which one this is, with --coordinator")
    p.add_argument("--eval_every", type=int, default=100, help="validation loss every so many steps (default 100)")
    p.add_argument("--save_every", type=int, default=200, help="a checkpoint every so many steps (default 200)")
    p.add_argument("--keep", type=int, default=2, help="checkpoints kept (default 2)")
    p.add_argument("--no-benchmark", action="store_true", help="skip the held-out problems after a run on the miniature corpus")
    p.add_argument("--seed", type=int, default=0, help="of the weights and of the order of the data (default 0)")
    return p.parse_args(argv)


def settle(args, platform, data=None, meta=None):
    """Flags over preset (or over the checkpoint's model) -> (Config, Hyper, steps)."""
    config = Config(**meta["model"]) if meta else CONFIGS[args.model]
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(Config) if getattr(args, f.name) is not None}
    if not meta and platform != "cpu":      # where bf16 products are 2 to 16 times faster, they are the default
        given.setdefault("dtype", "bfloat16")
    config = dataclasses.replace(config, **given)
    if data:
        config = fit_to_data(args, config, given, data, meta)
    tokens, steps, *schedule = RECIPES[args.model]
    hyper = Hyper(max(1, tokens // config.block_size), *[Hyper.grad_accum], *schedule, remat=config.n_embd >= 1024)
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(Hyper) if getattr(args, f.name) is not None}
    if platform == "cpu" and "grad_accum" not in given:
        ranks = max(1, args.dp * args.fsdp)
        given["grad_accum"] = micro_batches(config, max(1, given.get("batch_size", hyper.batch_size) // ranks))
    steps = steps if args.steps is None else args.steps
    if args.steps is not None and args.anneal_steps is None:      # a shorter run still anneals to its end
        given["anneal_steps"] = max(1, steps - given.get("warmup_steps", hyper.warmup_steps))
    return config, dataclasses.replace(hyper, **given), steps


MICRO = 1024     # tokens of a micro-batch on a CPU


def micro_batches(config, batch):
    """How often a CPU had better split the `batch` sequences of a step: then its cache holds what a layer writes. The same
    sums in another order, 1.6 times faster (2 cores, toy). With fewer tokens, weights and gradients are read too often."""
    size = max(1, MICRO // config.block_size)
    return next((batch // b for b in range(size, 0, -1) if batch % b == 0), 1)


def fit_to_data(args, config, given, data, meta):
    """The Config with the vocabulary and context of the data. Raises ValueError where they contradict what was asked."""
    need = get_tokenizer(data.tokenizer).n_vocab
    if config.vocab_size < need:
        if meta or "vocab_size" in given:
            raise ValueError(f"vocab_size {config.vocab_size} is smaller than the {need} entries of tokenizer "
                             f"{data.tokenizer}: the data was made for another model")
        config = dataclasses.replace(config, vocab_size=-(-need // 1024) * 1024)
    if data.block_size != config.block_size:
        if "block_size" in given or args.model not in ("0.1M", "0.3M", "toy", "3M", "finetune"):
            raise ValueError(f"block_size {config.block_size}, but the data is packed to {data.block_size}: "
                             f"add --block_size {data.block_size}, or prepare it with --block_size {config.block_size}")
        config = dataclasses.replace(config, block_size=data.block_size)
    return config


AGREE = 10     # steps after which several processes ask each other whether one of them is to stop


def stop_on_signal() -> list:
    """Ctrl-C, or the SIGTERM of a machine that is taken away: the list fills, and the loop saves and leaves after its step.
    A second one ends the run at once."""
    asked = []

    def ask(number, frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    return asked


def main():
    args = parse_args()
    if args.plan:
        return plan_main(args)
    tpu_mesh.start(args.coordinator, args.num_processes, args.process_id)
    lead = jax.process_index() == 0
    out = Path(args.out_dir)
    source, meta = None, None
    if args.init_from == "scratch" and tpu_mesh.checkpoints(out):
        raise ValueError(f"{out} already holds a run: add --init_from resume to go on with it, or another --out_dir")
    if args.init_from != "scratch":
        source = tpu_mesh.find_checkpoint(out if args.init_from == "resume" else args.init_from)
        meta = model.read_meta(source)
        if args.init_from == "resume" and not meta.get("step"):
            raise ValueError(f"{source} holds weights alone: use --init_from {out} with another --out_dir")
    args.model = args.model or (meta or {}).get("recipe", "toy")
    data = open_data(args.data)
    if meta and get_tokenizer(meta["tokenizer"]).vocab != get_tokenizer(data.tokenizer).vocab:
        raise ValueError(f"{source} was trained with tokenizer {meta['tokenizer']}, {args.data} was made with {data.tokenizer}")
    config, hyper, steps = settle(args, jax.default_backend(), data, meta)
    tokenizer_files = [data.tokenizer] if data.tokenizer.endswith(".tiktoken") else []
    tokenizer = Path(data.tokenizer).name if tokenizer_files else data.tokenizer

    mesh = tpu_mesh.make_mesh(args.dp, args.fsdp, args.tp)
    tpu_mesh.check_divides(config, hyper.batch_size, hyper.grad_accum, args.dp, args.fsdp, args.tp)
    n_params, tokens_per_step = num_params(config), hyper.batch_size * config.block_size
    part, parts = tpu_mesh.batch_rows(mesh)
    peak = tpu_mesh.peak_flops(mesh)
    say = print if lead else lambda *a, **k: None
    say(f"model {args.model}: {n_params:,} parameters · mesh dp {args.dp} x fsdp {args.fsdp} x tp {args.tp} · "
        f"{hyper.batch_size} x {config.block_size} = {tokens_per_step:,} tokens a step · {steps} steps · data {args.data}")

    first = 0
    if args.init_from == "resume":
        first = meta["step"]
        if meta["seed"] != args.seed or meta["data"] != args.data:
            raise ValueError(f"{source} was run with --seed {meta['seed']} --data {meta['data']}: resume with the same")
        state = restore(source, config, mesh, ("params", "m", "v")) | dict(step=jax.device_put(
            jnp.int32(first), NamedSharding(mesh, P())))
    else:
        state = init_state(args.seed, config, mesh)
        if source:
            state["params"] = model.load_params(source, config, mesh)
    if source:
        say(f"from {source}" + (f", step {first}" if first else ", weights alone"))

    step_fn, eval_fn = make_train_step(config, hyper, mesh), make_eval_loss(config, mesh)
    if lead:
        out.mkdir(parents=True, exist_ok=True)
        metrics_file = out / "metrics.jsonl"
        kept = [l for l in metrics_file.read_text().splitlines() if json.loads(l)["step"] <= first] \
            if first and metrics_file.exists() else []
        metrics_file.write_text("".join(l + "\n" for l in kept))

    has_val = data.meta["sequences"]["val"] > 0

    def batch(split, step):
        return tpu_mesh.place_batch(get_batch(data, split, args.seed, step, hyper.batch_size, part, parts), mesh)

    def evaluate():
        return float(np.mean([float(eval_fn(state["params"], batch("val", i))) for i in range(4)]))

    def finish_save():
        """Wait for the write of the last checkpoint. If it failed the run ends here, in one line."""
        nonlocal saved
        saved()
        saved = lambda: None

    def save(step):
        nonlocal saved
        finish_save()
        meta = dict(model=dataclasses.asdict(config), tokenizer=tokenizer, data=args.data, seed=args.seed, recipe=args.model,
                    hyper=dataclasses.asdict(hyper))
        saved = tpu_mesh.begin_save(out, step, flatten(state), meta, args.keep, tokenizer_files)

    clock = time.perf_counter()

    def report(step, metrics):
        """Fetch the metrics of a step that is already done and write them down. A NaN ends the run."""
        nonlocal clock
        row = {k: float(metrics[k]) for k in ("loss", "lr", "grad_norm")}     # waits for the step
        seconds, clock = time.perf_counter() - clock, time.perf_counter()
        if not math.isfinite(row["loss"] + row["grad_norm"]):
            bar.close()
            raise SystemExit(f"step {step}: loss {row['loss']}, gradient norm {row['grad_norm']}: stopped. The newest "
                             f"checkpoint in {out} is from before; try a lower --lr_max or more --warmup_steps")
        rate = tokens_per_step / seconds
        mfu = rate * flops_per_token(config) / peak if peak else None
        row = dict(step=step) | row | dict(tokens_per_s=round(rate), mfu=mfu)
        if "val_loss" in metrics:
            row["val_loss"] = metrics["val_loss"]
        if lead:
            with open(metrics_file, "a") as f:
                f.write(json.dumps(row) + "\n")
        bar.set_postfix_str(f"loss {row['loss']:.3f} · {rate:,.0f} tokens/s")
        bar.update()

    # The metrics of step n are read while step n + 1 runs, so the device never waits for the host.
    pending, val = None, None
    saved = lambda: None
    asked = stop_on_signal()
    bar = tqdm(total=steps, initial=first, unit="step", disable=not lead, dynamic_ncols=True, smoothing=0.05)
    for step in range(first, steps):
        state, metrics = step_fn(state, batch("train", step))
        done = step + 1
        if pending:
            report(*pending)
        if has_val and (done % args.eval_every == 0 or done == steps):
            val = metrics["val_loss"] = evaluate()
            bar.write(f"step {done:>6}  loss {float(metrics['loss']):.3f}  val_loss {val:.3f}  "
                      f"norm {float(metrics['grad_norm']):.2f}")
        pending = (done, metrics)
        # Of several processes perhaps one alone has the signal: they agree on it now and then, and leave together.
        stop = 0
        if jax.process_count() == 1 or done % AGREE == 0:
            stop = tpu_mesh.agree(asked[0] if asked else 0)
            if jax.process_count() > 1:      # and a checkpoint gets its name once all have written their parts
                finish_save()
        if done % args.save_every == 0 or done == steps or stop:
            report(*pending)        # before saving: a state that turned into NaN is never saved
            pending = None
            save(done)
        if stop and done < steps:
            finish_save()
            bar.close()
            say(f"stopped after step {done}, saved. The same command with --init_from resume goes on")
            raise SystemExit(128 + stop)
    finish_save()
    bar.close()
    if first >= steps:
        say(f"{source} is already at step {first}: raise --steps to train on")
    if lead and val is not None and data.meta.get("miniature") == "mono" and not args.no_benchmark:
        finish(out, val)


def finish(out, val, limit=20):
    """After a run on the miniature corpus: what it can do on held-out problems, greedily, and what to try next."""
    print(f"final val_loss {val:.3f}; now held-out problems of miniature/mtpb.jsonl, turn by turn", flush=True)
    here, samples = Path(__file__).parent, out / "mtpb.jsonl"
    samples.unlink(missing_ok=True)         # an earlier run's are not this model's
    # A process of its own: what runs model-written code never shares a process with the trainer.
    command = [sys.executable, here / "mtpb.py", "run", "--problems", here / "miniature" / "mtpb.jsonl", "--ckpt", out,
               "--out", samples, "--n", "1", "--temperature", "0", "--limit", str(limit)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if run.returncode == 0:
        report = json.loads(run.stdout.splitlines()[-1])
        print("by category: " + ", ".join(f"{c} {100 * g['pass_rate']:.0f} %" for c, g in report["by_category"].items()))
        print(f"held-out multi-turn problems, greedily: {100 * report['pass_rate']:.0f} % of {report['programs']} programs "
              f"pass ({report['problems_scored']} problems, each with several inputs)")
    print(f"next:  python sample.py --ckpt {out}")


def end_together(main):
    """When one of several processes is gone, the others' collectives fail: say so in one line and leave at once."""
    try:
        main()
    except jax.errors.JaxRuntimeError as e:
        if jax.process_count() == 1:
            raise
        print(f"\ntrain.py: error: process {jax.process_index()} stops: another process has ended or cannot be reached "
              f"({str(e).splitlines()[0][:200]}). Start all of them again with --init_from resume", file=sys.stderr, flush=True)
        os._exit(3)     # an orderly exit would wait for the dead process


if __name__ == "__main__":
    tpu_mesh.huge_pages()
    cli(partial(end_together, main))
