"""Train a CodeGen: the paper's optimizer and schedule, one sharded step, one loop.

    python train.py                                            the toy model on the miniature corpus, no download
    python train.py --init_from resume                         go on where it stopped
    python train.py --init_from out --data miniature:mono --out_dir out-mono     weights only, as from NL to MULTI to MONO
    python train.py --model 350M --data DIR --dp 2 --fsdp 4    a folder made by data.py, on 8 chips
    python train.py --model 16.1B --topology v4:8x8x4 --fsdp 64 --tp 4 --plan    what it takes on a TPU that is not here
"""
import argparse
import dataclasses
import json
import math
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from fast.compiler import compiler_options
from fast.pages import huge_pages
from harness.cli import cli, one_line_errors, stop_on_signal
from harness.files import check
from harness.flags import new_folder, number, text, whole
from harness.folder import METRICS, checkpoints, take_run
from harness.hosts import agree, end_together, join, say, together

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

import model
import tpu_mesh
from data import get_sequences, get_tokenizer, open_data
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
    scale = jnp.minimum(1.0, hyper.grad_clip / (norm + 1e-12)) if hyper.grad_clip else 1.0
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
    def step(state, tokens):
        n_tokens = hyper.batch_size * (tokens.shape[-1] - 1)
        return train_step(state, tokens, config=config, hyper=hyper, n_tokens=n_tokens,
                          dp="dp", fsdp="fsdp", tp="tp")

    specs = state_specs(config)
    sharded = jax.shard_map(step, mesh=mesh, in_specs=(specs, P(DATA)), out_specs=(specs, P()))
    return jax.jit(sharded, donate_argnums=0, compiler_options=compiler_options(mesh))


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


# ------------------------------------------------- checkpoints ---------------------------------------------------

def flatten(state) -> dict:
    """The state as one flat dict of arrays, "params/wte", "m/wte", ..., as checkpoints hold it."""
    return {f"{part}/{n}": a for part in ("params", "m", "v") for n, a in state[part].items()}


def restore(folder, config, mesh, parts):
    """Read parts ("params", "m", "v") of a checkpoint onto a mesh -> {part: {name: array}}."""
    to = tpu_mesh.shardings(param_table(config), mesh)
    wanted = {f"{part}/{n}": jax.ShapeDtypeStruct(shape, jnp.float32, sharding=to[n])
              for part in parts for n, (shape, _, _) in param_table(config).items()}
    flat = tpu_mesh.load_arrays(folder, wanted)
    return {part: {n: flat[f"{part}/{n}"] for n in to} for part in parts}


# -------------------------------------------- the run ---------------------------------------------

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


MOST = 10 ** 8 - 1          # steps: a checkpoint's name has eight digits
COUNT = whole(1, 2 ** 20)   # of chips, heads, sequences: more is a slip of the keyboard
FLAGS = {                   # of Config and Hyper: what reads the value
    **dict.fromkeys(("n_layer", "n_head", "n_embd", "block_size"), COUNT),
    **dict.fromkeys(("batch_size", "grad_accum"), COUNT),
    "rotary_dim": whole(0, 2 ** 20), "vocab_size": whole(1, 2 ** 24),
    **dict.fromkeys(("warmup_steps", "anneal_steps"), whole(0, MOST)),
    **dict.fromkeys(("lr_max", "lr_end", "weight_decay", "grad_clip", "z_loss"), number(0))}
HELP = dict(
    batch_size="sequences a step (default: the preset's)",
    grad_accum="parts of a batch, one after another (default 1, on a CPU as many as keep a layer "
               "in the cache)",
    lr_max="the rate after the warm-up (default: the preset's)",
    lr_end="the rate after annealing (default: the preset's)",
    warmup_steps="steps of linear warm-up, 0: none (default: the preset's, a tenth of a shorter "
                 "run)",
    anneal_steps="steps from lr_max to lr_end, 0: at once (default: the preset's, or to the end of "
                 "--steps)",
    weight_decay="of matrices, 0: none (default 0.1)",
    grad_clip="gradients of a larger norm are scaled down to it, 0: never (default 1)",
    z_loss="weight of the squared log normalizer, 0: none (default 1e-4)")


def parser():
    p = one_line_errors(argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="With --init_from resume the checkpoint's own settings are the defaults."))
    p.add_argument("--model", choices=CONFIGS,
                   help="preset (default toy, or what the checkpoint was trained as)")
    for f in dataclasses.fields(Config):
        if f.name != "dtype":
            p.add_argument(f"--{f.name}", type=FLAGS[f.name],
                           help=f"model size: overrides the preset's {f.name}")
    p.add_argument("--dtype", choices=("float32", "bfloat16"),
                   help="of matrix products (default bfloat16, on a CPU float32)")
    p.add_argument("--data", type=text,
                   help="miniature:nl|multi|mono, or a folder made by data.py prepare (default "
                        "miniature:mono)")
    p.add_argument("--out_dir", default="out", type=new_folder,
                   help="checkpoints and metrics.jsonl go here (default out)")
    p.add_argument("--init_from", default="scratch", type=text,
                   help="scratch, resume, or a checkpoint or Hugging Face folder: its weights alone "
                        "are taken")
    p.add_argument("--mp_num", type=whole(1, 1024),
                   help="of a Hugging Face folder: blocks of its fused qkv_proj (default 4; a "
                        "CodeGen2 may have 8, and is asked for)")
    p.add_argument("--steps", type=whole(1, MOST),
                   help="train up to this step (default: the preset's, or the resumed run's own)")
    for f in dataclasses.fields(Hyper):
        if f.name != "remat":
            p.add_argument(f"--{f.name}", type=FLAGS[f.name], help=HELP[f.name])
    p.add_argument("--remat", action=argparse.BooleanOptionalAction,
                   help="recompute each layer in the backward pass (default: from n_embd 1024 on)")
    for axis, what in (("dp", "copies of the model"), ("fsdp", "chips that share the parameters"),
                       ("tp", "chips that share heads and feed-forward")):
        p.add_argument(f"--{axis}", type=COUNT, default=1, help=f"mesh: {what} (default 1)")
    p.add_argument("--plan", action="store_true",
                   help="train nothing: compile the step for --topology, say what it takes")
    p.add_argument("--topology", type=text,
                   help="with --plan: a TPU and the sides of its slice, like v4:8x8x4 or v5p:4x4x8")
    p.add_argument("--search", action="store_true", help="with --plan: try meshes and batch sizes, rank them")
    p.add_argument("--coordinator", type=text, help="HOST:PORT of process 0, for several processes "
                   "(Cloud TPU, GKE, SLURM and MPI are found without)")
    p.add_argument("--num_processes", type=whole(1, 2 ** 16),
                   help="how many processes there are, with --coordinator; 1 looks for no others")
    p.add_argument("--process_id", type=whole(0, 2 ** 16), help="which one this is, with "
                                                                "--coordinator")
    p.add_argument("--eval_every", type=whole(0, MOST), default=100,
                   help="validation loss every so many steps and at the end, 0: never (default "
                        "100)")
    p.add_argument("--save_every", type=whole(0, MOST), default=200,
                   help="a checkpoint every so many steps and at the end, 0: at the end alone "
                        "(default 200)")
    p.add_argument("--keep", type=whole(1, MOST), default=2, help="checkpoints kept (default 2)")
    p.add_argument("--no-benchmark", action="store_true",
                   help="skip the held-out problems after a run on the miniature corpus")
    p.add_argument("--seed", type=whole(0, 2 ** 32 - 1), help="of the weights and of the order of "
                                                              "the data (default 0)")
    return p


def parse_args(argv=None):
    return parser().parse_args(argv)


# ------------------------------------ what the run starts from ------------------------------------

def open_source(args):
    """What --init_from names -> (folder, its config.json), or (None, None); --model, --data and
    --seed get their defaults from it. ValueError where it cannot be started from, or a flag asks
    for what it is not."""
    out, resume = Path(args.out_dir), args.init_from == "resume"
    if (out / "config.json").exists():
        raise ValueError(f"--out_dir {out} is a model's own folder: choose another, or the one "
                         "above it")
    if not resume and checkpoints(out):
        raise ValueError(f"{out} already holds a run: add --init_from resume to go on with it, or "
                         "another --out_dir")
    source, meta = None, {}
    if args.init_from != "scratch":
        source = tpu_mesh.find_checkpoint(out if resume else args.init_from)
        meta = model.read_meta(source)
        if resume:
            check_run(source, meta)
        check(meta, {"recipe?": set(RECIPES)}, f"checkpoint {source}: in config.json ")
        check_model(args, source, meta)
    args.model = args.model or meta.get("recipe") or "toy"
    args.data = args.data or (meta["data"] if resume else "miniature:mono")
    own_seed = meta["seed"] if resume else 0
    args.seed = own_seed if args.seed is None else args.seed
    if resume and args.seed != own_seed:
        raise ValueError(f"{source} was run with --seed {own_seed}: resume with the same, or take "
                         "its weights alone by "
                         f"--init_from {out} and another --out_dir")
    return source, meta or None


RUN = {"data": str, "seed": (0, 2 ** 63 - 1), "recipe": set(RECIPES), "hyper": {
           **{name + "?": (0, 2 ** 40) for name in ("grad_accum", "warmup_steps", "anneal_steps")},
           **{name + "?": float for name in ("lr_max", "lr_end", "weight_decay")},
           **{name + "?": float for name in ("grad_clip", "z_loss")},
           "batch_size": (1, 2 ** 40), "remat?": bool},
       "steps?": (1, MOST), "sequences?": (0, 2 ** 60), "data_digest?": str,
       "mesh?": {str: (1, 2 ** 20)}}


def check_run(source, meta):
    """ValueError unless a checkpoint holds what a run needs to go on."""
    if not meta.get("step"):
        raise ValueError(f"{source} holds weights alone: use --init_from {source.parent} with "
                         "another --out_dir")
    check(meta, RUN, f"checkpoint {source}: in config.json ")
    unknown = sorted(set(meta["hyper"]) - {f.name for f in dataclasses.fields(Hyper)})
    if unknown:
        raise ValueError(f"checkpoint {source} is of another version: its hyper has {unknown[0]}")


def hyper_of(meta) -> Hyper:
    """What a run was made with; earlier versions wrote less, and had the rest by default."""
    return Hyper(**{name: value for name, value in meta["hyper"].items() if value is not None})


def check_model(args, source, meta):
    """ValueError where a flag asks for another model than the checkpoint holds."""
    sizes = ("n_layer", "n_head", "n_embd", "rotary_dim")
    preset = dataclasses.asdict(CONFIGS[args.model]) if args.model else {}
    if any(preset.get(size, meta["model"][size]) != meta["model"][size] for size in sizes):
        raise ValueError(f"--model {args.model} is of another size than {source}: leave it out")
    if args.init_from == "resume" and args.model and args.model != meta["recipe"]:
        raise ValueError(f"{source} was trained as {meta['recipe']}, not as --model {args.model}: "
                         "leave it out")
    for size in (*sizes, "block_size", "vocab_size"):
        asked = getattr(args, size)
        if asked is not None and asked != meta["model"][size]:
            raise ValueError(f"--{size} {asked}: {source} has {size} {meta['model'][size]}, which "
                             "stays: leave it out")


def check_data(args, source, meta, data):
    """ValueError where the data does not fit what the run starts from -> a line to say, or an empty
    one."""
    resume, same = args.init_from == "resume", data.digest
    if resume and meta.get("data_digest") != same:
        moved = Path(meta["data"]).resolve() != Path(args.data).resolve()
        if "data_digest" in meta or moved:          # earlier versions kept the name alone
            raise ValueError(f"{source} was run with --data {meta['data']}, and --data {args.data} "
                             "holds other data: "
                             "resume with the same, or take its weights alone by --init_from "
                             f"{args.out_dir} and "
                             "another --out_dir")
    old, new = get_tokenizer(meta["tokenizer"]), get_tokenizer(data.tokenizer)
    if old.identity == new.identity:
        return ""
    if (old.name, new.name) == ("gpt2", "codegen") and not resume:
        return (f"tokenizer gpt2 -> codegen: its ids from {old.n_vocab} on start from rows that "
                "were never trained")
    raise ValueError(f"{source} was trained with tokenizer {meta['tokenizer']}, {args.data} was "
                     "made with "
                     f"{data.tokenizer}")


# -------------------------------------------- settings --------------------------------------------

def flags_given(args, kind) -> dict:
    """The fields of a dataclass for which there was a flag."""
    values = {f.name: getattr(args, f.name) for f in dataclasses.fields(kind)}
    return {name: value for name, value in values.items() if value is not None}


def settle(args, platform, data=None, meta=None):
    """Flags over what a resumed run was made with, else over the preset -> (Config, Hyper,
    steps)."""
    resume = bool(meta) and args.init_from == "resume"
    config = Config(**meta["model"]) if meta else CONFIGS[args.model]
    given, ours = flags_given(args, Config), flags_given(args, Hyper)
    if platform != "cpu" and not resume:    # there bf16 products are 2 to 16 times faster
        given.setdefault("dtype", "bfloat16")
    config = dataclasses.replace(config, **given)
    if data:
        config = fit_to_data(args, config, given, data, meta)
    if resume:
        hyper = dataclasses.replace(hyper_of(meta), **ours)
        steps = args.steps or meta.get("steps") or RECIPES[args.model][1]
        ranks = args.dp * args.fsdp
        if args.grad_accum is None:         # on another mesh as much of it as divides
            parts = range(hyper.grad_accum, 1, -1)
            fits = (n for n in parts if hyper.batch_size % (ranks * n) == 0)
            hyper = dataclasses.replace(hyper, grad_accum=next(fits, 1))
        return config, hyper, steps
    return config, *settle_schedule(args, platform, config, ours, data)


def settle_schedule(args, platform, config, given, data):
    """The Hyper and the steps of a new run."""
    tokens, steps, lr_max, lr_end, warmup, anneal = RECIPES[args.model]
    length = data.block_size if data else config.block_size
    if args.steps is not None:              # a shorter run still warms up, and anneals to its end
        steps = args.steps
        if warmup >= steps:
            warmup = steps // 10
        anneal = max(1, steps - given.get("warmup_steps", warmup))
    hyper = Hyper(max(1, tokens // length), Hyper.grad_accum, lr_max, lr_end, warmup, anneal,
                  remat=config.n_embd >= 1024)
    hyper = dataclasses.replace(hyper, **given)
    if platform == "cpu" and "grad_accum" not in given:
        rows = max(1, hyper.batch_size // (args.dp * args.fsdp))
        hyper = dataclasses.replace(
            hyper, grad_accum=micro_batches(dataclasses.replace(config, block_size=length), rows))
    return hyper, steps


MICRO = 1024     # tokens of a micro-batch on a CPU


def micro_batches(config, batch):
    """How often a CPU had better split the `batch` sequences of a step: then its cache holds what a layer writes. The same
    sums in another order, 1.6 times faster (2 cores, toy). With fewer tokens, weights and gradients are read too often."""
    size = max(1, MICRO // config.block_size)
    return next((batch // b for b in range(size, 0, -1) if batch % b == 0), 1)


def fit_to_data(args, config, given, data, meta):
    """The Config with the vocabulary and context of the data. A model that is there keeps both:
    shorter sequences train it as it is. Raises ValueError where they contradict what was asked."""
    need = get_tokenizer(data.tokenizer).n_vocab
    if config.vocab_size < need:
        if meta or "vocab_size" in given:
            raise ValueError(f"vocab_size {config.vocab_size} is smaller than the {need} entries of tokenizer "
                             f"{data.tokenizer}: the data was made for another model")
        config = dataclasses.replace(config, vocab_size=-(-need // 1024) * 1024)
    if meta and data.block_size > config.block_size:
        raise ValueError(f"the data is packed to {data.block_size} tokens and the model's context "
                         "is "
                         f"{config.block_size}: prepare it with --block_size {config.block_size}")
    if data.block_size != config.block_size and not meta:
        if "block_size" in given or args.model not in ("0.1M", "0.3M", "toy", "3M", "finetune"):
            raise ValueError(f"block_size {config.block_size}, but the data is packed to {data.block_size}: "
                             f"add --block_size {data.block_size}, or prepare it with --block_size {config.block_size}")
        config = dataclasses.replace(config, block_size=data.block_size)
    return config


WHAT_CHANGES = dict(
    batch_size="sequences a step; the data goes on where it was", grad_accum="the order of sums",
    lr_max="the rate", lr_end="the rate", warmup_steps="the rate", anneal_steps="the rate",
    weight_decay="how matrices shrink", grad_clip="which gradients are scaled down",
    z_loss="the loss that is minimized",
    remat="memory and time", dtype="the precision of products", mesh="the order of sums",
    steps="where it ends; annealing stays as it was")


def mesh_of(args) -> dict:
    return {axis: getattr(args, axis) for axis in ("dp", "fsdp", "tp")}


def settings(args, config, hyper, steps):
    """All that a resumed run should share with the run before it, by name."""
    return dataclasses.asdict(hyper) | dict(dtype=config.dtype, steps=steps, mesh=mesh_of(args))


def remarks(args, config, hyper, steps, meta):
    """Lines to say: what a resumed run does otherwise; a warm-up that was scaled or never ends."""
    now = settings(args, config, hyper, steps)
    if args.init_from == "resume":
        before = now | dataclasses.asdict(hyper_of(meta))
        before |= {name: meta[name] for name in ("steps", "mesh") if meta.get(name)}
        before["dtype"] = meta["model"].get("dtype", Config.dtype)
        return [f"otherwise than before: {name} {show(before[name])} -> {show(now[name])} "
                f"({WHAT_CHANGES[name]})" for name in now if now[name] != before[name]]
    planned = RECIPES[args.model][4]
    if args.warmup_steps is None and hyper.warmup_steps != planned:
        return [f"warm-up: {hyper.warmup_steps} of {steps} steps, because the preset's {planned} "
                "are more than all"]
    if hyper.warmup_steps >= steps:
        return [f"the rate never reaches lr_max: --warmup_steps {hyper.warmup_steps} are no fewer "
                f"than all {steps} steps"]
    return []


def show(value):
    return " x ".join(f"{k} {n}" for k, n in value.items()) if isinstance(value, dict) else value


# -------------------------------------------- the loop --------------------------------------------

AGREE = 10     # steps after which several processes ask each other whether one of them is to stop


class Run:
    """A run under way: its state on the mesh, its place in the data, and its folder. The methods
    stand in the order in which a step calls them."""

    def __init__(self, args, config, hyper, steps, data, mesh, source, meta):
        """Take the folder, place the state: fresh, a checkpoint's, or fresh with its weights."""
        self.args, self.config, self.hyper, self.steps, self.data = args, config, hyper, steps, data
        self.out, self.lead = Path(args.out_dir), jax.process_index() == 0
        self.mesh, self.peak = mesh, tpu_mesh.peak_flops(mesh)
        resume = args.init_from == "resume"
        self.first = self.done = meta["step"] if resume else 0
        self.place = 0                              # sequences of the training data that were read
        if resume:                                  # earlier versions never changed the batch size
            at = meta.get("sequences")
            self.place = self.done * meta["hyper"]["batch_size"] if at is None else at
        before = source if resume else None
        self.lock = together(lambda: take_run(self.out, self.first, before))
        self.state = self.load(source, resume)
        self.step_fn = make_train_step(config, hyper, mesh)
        self.eval_fn = make_eval_loss(config, mesh)
        self.part, self.parts = tpu_mesh.batch_rows(self.mesh)
        self.pending, self.val, self.wait_for_save = None, None, lambda: None
        self.clock = time.perf_counter()
        self.bar = tqdm(total=steps, initial=self.first, unit="step", disable=not self.lead,
                        dynamic_ncols=True, smoothing=0.05)

    def load(self, source, resume):
        if resume:
            step = jax.device_put(jnp.int32(self.first), NamedSharding(self.mesh, P()))
            return restore(source, self.config, self.mesh, ("params", "m", "v")) | dict(step=step)
        state = init_state(self.args.seed, self.config, self.mesh)
        if source:
            state["params"] = model.load_params(source, self.config, self.mesh,
                                                mp_num=self.args.mp_num)
        return state

    def batch(self, split, first):
        """The sequences of a batch, placed on the mesh."""
        rows = get_sequences(self.data, split, self.args.seed, first, self.hyper.batch_size,
                             self.part, self.parts)
        return tpu_mesh.place_batch(rows, self.mesh)

    def step(self):
        """Start a step, and read the metrics of the one before while it runs: the device never
        waits for the host."""
        self.state, metrics = self.step_fn(self.state, self.batch("train", self.place))
        self.done, self.place = self.done + 1, self.place + self.hyper.batch_size
        self.read_metrics()
        self.pending = (self.done, metrics)

    def read_metrics(self):
        """Wait for the metrics of the last step, and write them down. A NaN ends the run."""
        if not self.pending:
            return
        (step, metrics), self.pending = self.pending, None
        row = {k: float(metrics[k]) for k in ("loss", "lr", "grad_norm")}
        now, length = time.perf_counter(), self.data.block_size
        rate, self.clock = self.hyper.batch_size * length / (now - self.clock), now
        if not math.isfinite(row["loss"] + row["grad_norm"]):
            self.bar.close()
            why = f"step {step}: loss {row['loss']}, gradient norm {row['grad_norm']}: stopped. " \
                  f"The newest checkpoint in {self.out} is from before; try a lower --lr_max or " \
                  "more --warmup_steps"
            raise SystemExit(why if self.lead else 1)
        flops = flops_per_token(dataclasses.replace(self.config, block_size=length))
        mfu = rate * flops / self.peak if self.peak else None
        row = dict(step=step) | row | dict(tokens_per_s=round(rate), mfu=mfu)
        if "val_loss" in metrics:
            row["val_loss"] = metrics["val_loss"]
        if self.lead:
            with open(self.out / METRICS, "a") as f:
                f.write(json.dumps(row) + "\n")
        self.bar.set_postfix_str(f"loss {row['loss']:.3f} · {rate:,.0f} tokens/s")
        self.bar.update()

    def is_due(self, every):
        return self.done == self.steps or every and self.done % every == 0

    def evaluate(self):
        """The mean loss of four batches of the validation split, which no training step reads."""
        size, metrics = self.hyper.batch_size, self.pending[1]
        params, batches = self.state["params"], (self.batch("val", i * size) for i in range(4))
        self.val = float(np.mean([float(self.eval_fn(params, batch)) for batch in batches]))
        metrics["val_loss"] = self.val
        if self.lead:
            loss, norm = float(metrics["loss"]), float(metrics["grad_norm"])
            self.bar.write(f"step {self.done:>6}  loss {loss:.3f}  val_loss {self.val:.3f}  "
                           f"norm {norm:.2f}")

    def signal_of(self, asked):
        """The signal that asked one of the processes to stop, or 0; they agree now and then."""
        if jax.process_count() > 1 and self.done % AGREE:
            return 0
        stop = agree(asked[0] if asked else 0)
        if jax.process_count() > 1:         # a checkpoint gets its name once all have written
            self.finish_save()
        return stop

    def save(self):
        """Begin to write a checkpoint; a state that turned into NaN is never saved."""
        self.read_metrics()
        self.finish_save()
        args, custom = self.args, self.data.tokenizer.endswith(".tiktoken")
        tokenizer = Path(self.data.tokenizer).name if custom else self.data.tokenizer
        meta = dict(model=dataclasses.asdict(self.config), tokenizer=tokenizer, recipe=args.model,
                    data=args.data, data_digest=self.data.digest, seed=args.seed,
                    steps=self.steps, sequences=self.place, mesh=mesh_of(args),
                    hyper=dataclasses.asdict(self.hyper))
        self.wait_for_save = tpu_mesh.begin_save(
            self.out, self.done, flatten(self.state), meta, args.keep,
            [self.data.tokenizer] if custom else [])

    def finish_save(self):
        """Wait until the last checkpoint is written. If that failed the run ends, in one line."""
        wait, self.wait_for_save = self.wait_for_save, lambda: None
        wait()

    def leave(self, stop):
        """The end before the end, by a signal."""
        self.finish_save()
        self.bar.close()
        if self.done < self.steps:
            say(f"stopped after step {self.done}, saved. The same command with --init_from resume "
                "goes on")
        else:
            say(f"all {self.steps} steps are done and saved")
        raise SystemExit(128 + stop)


def train(run):
    """Batch, step, read what came out, evaluate, save, leave."""
    asked, args = stop_on_signal(), run.args
    while run.done < run.steps:
        run.step()
        if run.data.meta["sequences"]["val"] and args.eval_every and run.is_due(args.eval_every):
            run.evaluate()
        stop = run.signal_of(asked)
        if run.is_due(args.save_every) or stop:
            run.save()
        if stop:
            run.leave(stop)
    run.finish_save()
    run.bar.close()


def main():
    args = parse_args()
    if args.plan or args.topology or args.search:
        from plan.training import main as plan_main
        return plan_main(args)
    join(args.coordinator, args.num_processes, args.process_id)
    tpu_mesh.find_devices()
    source, meta = open_source(args)
    data = open_data(args.data)
    note = check_data(args, source, meta, data) if meta else ""
    config, hyper, steps = settle(args, jax.default_backend(), data, meta)
    mesh = tpu_mesh.make_mesh(args.dp, args.fsdp, args.tp)
    tpu_mesh.check_divides(config, hyper.batch_size, hyper.grad_accum, args.dp, args.fsdp, args.tp)
    rows, length = hyper.batch_size, data.block_size
    say(f"model {args.model}: {num_params(config):,} parameters · mesh {show(mesh_of(args))} · "
        f"{rows} x {length} = {rows * length:,} tokens a step · {steps} steps · data {args.data}")
    if source:
        resumed = args.init_from == "resume"
        say(f"from {source}, " + (f"step {meta['step']}" if resumed else "weights alone"))
    say(*filter(None, [note, *remarks(args, config, hyper, steps, meta)]))
    run = Run(args, config, hyper, steps, data, mesh, source, meta)
    train(run)
    if run.first >= steps:
        say(f"{source} is already at step {run.first}: raise --steps to train on")
    elif run.lead and data.meta.get("miniature") == "mono" and not args.no_benchmark:
        finish(run.out, run.val)


def finish(out, val, limit=20):
    """After a run on the miniature corpus: what it can do on held-out problems, greedily, and what to try next."""
    for kind in (signal.SIGINT, signal.SIGTERM):    # all is saved: it ends this and the benchmark
        signal.signal(kind, lambda kind, frame: sys.exit(128 + kind))
    loss = "" if val is None else f"final val_loss {val:.3f}; "
    print(loss + "now held-out problems of miniature/mtpb.jsonl, turn by turn", flush=True)
    here, samples = Path(__file__).parent, out / "mtpb.jsonl"
    samples.unlink(missing_ok=True)         # an earlier run's are not this model's
    # A process of its own: what runs model-written code never shares a process with the trainer.
    command = [sys.executable, here / "mtpb.py", "run", "--problems", here / "miniature" / "mtpb.jsonl", "--ckpt", out,
               "--out", samples, "--n", "1", "--temperature", "0", "--limit", str(limit)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        try:
            shown, _ = run.communicate()
        except BaseException:
            run.terminate()
            raise
    if run.returncode == 0:
        report = json.loads(shown.splitlines()[-1])
        print("by category: " + ", ".join(f"{c} {100 * g['pass_rate']:.0f} %" for c, g in report["by_category"].items()))
        print(f"held-out multi-turn problems, greedily: {100 * report['pass_rate']:.0f} % of {report['programs']} programs "
              f"pass ({report['problems_scored']} problems, each with several inputs)")
    print(f"next:  python sample.py --ckpt {out}")


if __name__ == "__main__":
    huge_pages()
    cli(partial(end_together, main))
