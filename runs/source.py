"""What a run starts from: nothing, its own last checkpoint, or the weights of another model.

    --init_from   scratch           fresh weights
                  resume            the newest checkpoint of --out_dir: the same run goes on
                  a folder          a checkpoint's or Hugging Face's weights alone: a new run

A resumed run is the same run, so here every flag that would make it another one is refused.
"""
from harness.files import check
from harness.folder import STEPS, checkpoints, find_checkpoint

import dataclasses
from pathlib import Path

from corpora.tokenizer import same_tokenizer
from fast.remat import REMAT

import model
from data import get_tokenizer
from model import CONFIGS
from runs.settings import mesh_of
from train import RECIPES, Hyper

# What a resumed run needs in its config.json (see harness.files.check); earlier versions wrote
# less.
RUN = {
    "data": str,
    "seed": (0, 2 ** 63 - 1),
    "recipe": set(RECIPES),
    "hyper": {
        "batch_size": (1, 2 ** 40),
        **{name + "?": (0, 2 ** 40) for name in ("grad_accum", "warmup_steps", "anneal_steps")},
        **{name + "?": float for name in ("lr_max", "lr_end", "weight_decay")},
        **{name + "?": float for name in ("grad_clip", "z_loss")},
        "remat?": set(REMAT),
    },
    "steps?": (1, STEPS),
    "sequences?": (0, 2 ** 60),
    "data_digest?": str,
    "mesh?": {str: (1, 2 ** 20)},
}
ANOTHER = "take its weights alone by --init_from {} and another --out_dir"


def open_source(args):
    """What --init_from names -> (folder, its config.json), or (None, None); --model, --data and
    --seed get their defaults from it. ValueError where it cannot be started from, or a flag asks
    for what it is not."""
    out, resume = Path(args.out_dir), args.init_from == "resume"
    check_out_dir(out, resume)
    if args.mp_num is not None and args.init_from in ("scratch", "resume"):
        raise ValueError("--mp_num is of a Hugging Face folder: name one by --init_from, or leave "
                         "it out")
    source, meta = None, {}
    if args.init_from != "scratch":
        source = find_checkpoint(out if resume else args.init_from)
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
        raise ValueError(f"{source} was run with --seed {own_seed}: resume with the same, or "
                         + ANOTHER.format(out))
    return source, meta or None


def check_out_dir(out, resume):
    """ValueError where --out_dir holds what a new run would overwrite."""
    if (out / "config.json").exists():
        raise ValueError(f"--out_dir {out} is a model's own folder: choose another, or the one "
                         "above it")
    if not resume and checkpoints(out):
        raise ValueError(f"{out} already holds a run: add --init_from resume to go on with it, or "
                         "another --out_dir")


def check_run(source, meta):
    """ValueError unless a checkpoint holds what a run needs to go on."""
    if not meta.get("step"):
        raise ValueError(f"{source} holds weights alone: use --init_from {source.parent} with "
                         "another --out_dir")
    hyper = meta.get("hyper")
    if isinstance(hyper, dict) and isinstance(hyper.get("remat"), bool):    # of earlier versions
        hyper["remat"] = "layer" if hyper["remat"] else "none"
    check(meta, RUN, f"checkpoint {source}: in config.json ")
    unknown = sorted(set(meta["hyper"]) - {f.name for f in dataclasses.fields(Hyper)})
    if unknown:
        raise ValueError(f"checkpoint {source} is of another version: its hyper has {unknown[0]}")


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
    resume = args.init_from == "resume"
    if resume and meta.get("data_digest") != data.digest:
        moved = Path(meta["data"]).resolve() != Path(args.data).resolve()
        if "data_digest" in meta or moved:          # earlier versions kept the name alone
            raise ValueError(f"{source} was run with --data {meta['data']}, and --data {args.data} "
                             "holds other data: resume with the same, or "
                             + ANOTHER.format(args.out_dir))
    new = get_tokenizer(data.tokenizer)
    old = same_tokenizer(get_tokenizer(meta["tokenizer"]), meta.get("tokenizer_digest"), source)
    if old.identity == new.identity:
        return ""
    if (old.name, new.name) == ("gpt2", "codegen") and not resume:
        return (f"tokenizer gpt2 -> codegen: its ids from {old.n_vocab} on start from rows that "
                "were never trained")
    raise ValueError(f"{source} was trained with tokenizer {meta['tokenizer']}, {args.data} was "
                     f"made with {data.tokenizer}")


def place_of(meta):
    """Where a resumed run goes on -> (step, sequences of the training data that it has read)."""
    step, sequences = meta["step"], meta.get("sequences")
    if sequences is None:                   # earlier versions never changed the batch size
        sequences = step * meta["hyper"]["batch_size"]
    return step, sequences


def record_of(args, config, hyper, steps, data):
    """What the config.json of each checkpoint says of its run, beside the step and the place in the
    data (see RUN) -> (dict, files to copy beside it)."""
    tokenizer, files = data.tokenizer, []
    if tokenizer.endswith(".tiktoken"):         # one of its own
        tokenizer, files = Path(tokenizer).name, [tokenizer]
    return dict(
        model=dataclasses.asdict(config), tokenizer=tokenizer,
        tokenizer_digest=data.meta.get("tokenizer_digest"), recipe=args.model, data=args.data,
        data_digest=data.digest, seed=args.seed, steps=steps, mesh=mesh_of(args),
        hyper=dataclasses.asdict(hyper)), files
