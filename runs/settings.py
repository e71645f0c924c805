"""With which settings a run trains: the preset's, over them the checkpoint's, over both the flags'.

                      the sizes and dtype          rates, batch and steps
    a new run         preset, data, flags          preset (RECIPES), flags
    --init_from DIR   checkpoint, flags            preset (RECIPES), flags
    resume            checkpoint, flags            checkpoint, flags: and what differs is said
"""
import dataclasses

from corpora.tokenizer import same_tokenizer
from fast.micro import micro_batches

import jax

from data import get_tokenizer
from model import CONFIGS, Config
from plan.chips import parse_topology
from plan.formula import fastest_that_fits
from train import RECIPES, Hyper

REMAT_FROM = 1024       # n_embd from which each layer is computed again, but for a TPU
ROWS = 1024             # a vocabulary that the data asks for is rounded up to a multiple of it
PAPER_CONTEXT = 2048    # the large presets keep it, the small ones take the data's


def choose_settings(args, platform, data=None, meta=None):
    """-> (Config, Hyper, steps). args: with --model, --seed and --data filled in; meta: config.json
    of what it starts from; platform: cpu, gpu or tpu. ValueError where they contradict each other.
    """
    resume = bool(meta) and args.init_from == "resume"
    config = choose_config(args, platform, data, meta, resume)
    if resume:
        return config, *go_on(args, meta)
    return config, *begin_anew(args, platform, config, data)


def choose_config(args, platform, data, meta, resume):
    """The model: preset, then checkpoint, then flags."""
    config = CONFIGS[args.model] if not meta else Config(**meta["model"])
    given = flags_given(args, Config)
    if platform != "cpu" and not resume:    # there bf16 products are 2 to 16 times faster
        given.setdefault("dtype", "bfloat16")
    config = dataclasses.replace(config, **given)
    return fit_to_data(args, config, given, data, meta) if data else config


def go_on(args, meta):
    """The Hyper and steps of a resumed run: checkpoint, then flags."""
    hyper = dataclasses.replace(hyper_of(meta), **flags_given(args, Hyper))
    steps = args.steps or meta.get("steps") or RECIPES[args.model][1]
    if args.grad_accum is None:             # on another mesh as much of it as divides
        ranks, parts = args.dp * args.fsdp, range(hyper.grad_accum, 1, -1)
        fits = (n for n in parts if hyper.batch_size % (ranks * n) == 0)
        hyper = dataclasses.replace(hyper, grad_accum=next(fits, 1))
    return hyper, steps


def begin_anew(args, platform, config, data):
    """The Hyper and steps of a new run: preset, then flags, and what follows from both."""
    tokens, steps, lr_max, lr_end, warmup, anneal = RECIPES[args.model]
    given = flags_given(args, Hyper)
    length = data.block_size if data else config.block_size
    if args.steps is not None:              # a shorter run still warms up, and anneals to its end
        steps = args.steps
        if warmup >= steps:
            warmup = steps // 10
        anneal = max(1, steps - given.get("warmup_steps", warmup))
    hyper = Hyper(
        batch_size=max(1, tokens // length), lr_max=lr_max, lr_end=lr_end, warmup_steps=warmup,
        anneal_steps=anneal)
    hyper = dataclasses.replace(hyper, **given)
    if "remat" not in given:
        hyper = dataclasses.replace(hyper, remat=default_remat(args, platform, config, hyper))
    if platform == "cpu" and "grad_accum" not in given:
        rows = max(1, hyper.batch_size // (args.dp * args.fsdp))
        parts = micro_batches(dataclasses.replace(config, block_size=length), rows)
        hyper = dataclasses.replace(hyper, grad_accum=parts)
    return hyper, steps


def default_remat(args, platform, config, hyper):
    """The least computed again that fits, by plan/formula.py, whose bytes are those of a TPU's
    program; for a CPU or GPU by the size of the model alone."""
    if platform != "tpu":
        return "layer" if config.n_embd >= REMAT_FROM else "none"
    if args.topology:
        memory = parse_topology(args.topology)[0].hbm
    else:
        memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 0)
    return fastest_that_fits(config, hyper, args.dp, args.fsdp, args.tp, memory)


def flags_given(args, kind) -> dict:
    """The fields of a dataclass for which there was a flag."""
    values = {f.name: getattr(args, f.name) for f in dataclasses.fields(kind)}
    return {name: value for name, value in values.items() if value is not None}


def hyper_of(meta) -> Hyper:
    """What a run was made with; earlier versions wrote less, and had the rest by default."""
    return Hyper(**{name: value for name, value in meta["hyper"].items() if value is not None})


def fit_to_data(args, config, given, data, meta):
    """The Config with the vocabulary and context of the data. A model that is there keeps both:
    shorter sequences train it as it is. Raises ValueError where they contradict what was asked."""
    digest = data.meta.get("tokenizer_digest")
    need = same_tokenizer(get_tokenizer(data.tokenizer), digest, data.folder).n_vocab
    length = data.block_size
    if config.vocab_size < need:
        if meta or "vocab_size" in given:
            raise ValueError(f"vocab_size {config.vocab_size} is smaller than the {need} entries "
                             f"of tokenizer {data.tokenizer}: the data was made for another model")
        config = dataclasses.replace(config, vocab_size=-(-need // ROWS) * ROWS)
    if meta and length > config.block_size:
        raise ValueError(f"the data is packed to {length} tokens and the model's context is "
                         f"{config.block_size}: prepare it with --block_size {config.block_size}")
    if length != config.block_size and not meta:
        if "block_size" in given or CONFIGS[args.model].block_size == PAPER_CONTEXT:
            raise ValueError(
                f"block_size {config.block_size}, but the data is packed to {length}: add "
                f"--block_size {length}, or prepare it with --block_size {config.block_size}")
        config = dataclasses.replace(config, block_size=length)
    return config


# ---- remarks -------------------------------------------------------------------------------------

WHAT_CHANGES = dict(
    batch_size="sequences a step; the data goes on where it was",
    grad_accum="the order of sums",
    lr_max="the rate",
    lr_end="the rate",
    warmup_steps="the rate",
    anneal_steps="the rate",
    weight_decay="how matrices shrink",
    grad_clip="which gradients are scaled down",
    z_loss="the loss that is minimized",
    remat="memory and time",
    dtype="the precision of products",
    mesh="the order of sums",
    steps="where it ends; annealing stays as it was",
)


def remarks(args, config, hyper, steps, meta):
    """Lines to say: what a resumed run does otherwise; a warm-up that was scaled or never ends."""
    if args.init_from == "resume":
        return differences(args, config, hyper, steps, meta)
    planned = RECIPES[args.model][4]
    if args.warmup_steps is None and hyper.warmup_steps != planned:
        return [f"warm-up: {hyper.warmup_steps} of {steps} steps, because the preset's {planned} "
                "are more than all"]
    if hyper.warmup_steps >= steps:
        return [f"the rate never reaches lr_max: --warmup_steps {hyper.warmup_steps} are no fewer "
                f"than all {steps} steps"]
    return []


def differences(args, config, hyper, steps, meta):
    """One line for each setting in which a resumed run is not the run before it."""
    now = dataclasses.asdict(hyper) | dict(dtype=config.dtype, steps=steps, mesh=mesh_of(args))
    before = now | dataclasses.asdict(hyper_of(meta))
    before |= {name: meta[name] for name in ("steps", "mesh") if meta.get(name)}
    before["dtype"] = meta["model"].get("dtype", Config.dtype)
    return [f"otherwise than before: {name} {show(before[name])} -> {show(now[name])} "
            f"({WHAT_CHANGES[name]})" for name in now if now[name] != before[name]]


def mesh_of(args) -> dict:
    return {axis: getattr(args, axis) for axis in ("dp", "fsdp", "tp")}


def show(value):
    """A mesh as "dp 2 x fsdp 4 x tp 1", anything else as it is."""
    return " x ".join(f"{k} {n}" for k, n in value.items()) if isinstance(value, dict) else value
