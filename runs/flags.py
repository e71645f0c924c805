"""The flags of train.py, each with the type that reads its value and a line of help."""
from harness.cli import one_line_errors
from harness.flags import new_folder, number, text, whole
from harness.folder import STEPS

import argparse

from fast.remat import REMAT

from model import CONFIGS

COUNT = whole(1, 2 ** 20)   # of chips, heads, sequences: more is a slip of the keyboard
SIZES = dict(               # of model.Config
    n_layer=COUNT, n_head=COUNT, n_embd=COUNT, rotary_dim=whole(0, 2 ** 20), block_size=COUNT,
    vocab_size=whole(1, 2 ** 24))
HYPER = dict(               # of train.Hyper
    batch_size=(COUNT, "sequences a step (default: the preset's)"),
    grad_accum=(COUNT, "parts of a batch, one after another (default 1, on a CPU as many as keep "
                       "a layer in the cache)"),
    lr_max=(number(0), "the rate after the warm-up (default: the preset's)"),
    lr_end=(number(0), "the rate after annealing (default: the preset's)"),
    warmup_steps=(whole(0, STEPS), "steps of linear warm-up, 0: none (default: the preset's, a "
                                   "tenth of a shorter run)"),
    anneal_steps=(whole(0, STEPS), "steps from lr_max to lr_end, 0: at once (default: the "
                                   "preset's, or to the end of --steps)"),
    weight_decay=(number(0), "of matrices, 0: none (default 0.1)"),
    grad_clip=(number(0), "gradients of a larger norm are scaled down to it, 0: never (default 1)"),
    z_loss=(number(0), "weight of the squared log normalizer, 0: none (default 1e-4)"))


def parser(description):
    """The parser of `python train.py`."""
    p = one_line_errors(argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="With --init_from resume the checkpoint's own settings are the defaults."))
    model_flags(p)
    source_flags(p)
    for name, (kind, meaning) in HYPER.items():
        p.add_argument(f"--{name}", type=kind, help=meaning)
    p.add_argument("--remat", choices=REMAT, nargs="?", const="layer",
                   help="what the backward pass computes again: nothing, all but the products, or "
                        "each layer (default: the least that fits on a TPU; elsewhere layer from "
                        "n_embd 1024 on, none below it)")
    p.add_argument("--no-remat", dest="remat", action="store_const", const="none",
                   help="the same as --remat none")
    machine_flags(p)
    loop_flags(p)
    return p


def model_flags(p):
    p.add_argument("--model", choices=CONFIGS,
                   help="preset (default toy, or what the checkpoint was trained as)")
    for name, kind in SIZES.items():
        p.add_argument(f"--{name}", type=kind, help=f"model size: overrides the preset's {name}")
    p.add_argument("--dtype", choices=("float32", "bfloat16"),
                   help="of matrix products (default bfloat16, on a CPU float32)")


def source_flags(p):
    p.add_argument("--data", type=text,
                   help="miniature:nl|multi|mono, or a folder made by data.py prepare (default "
                        "miniature:mono)")
    p.add_argument("--out_dir", default="out", type=new_folder,
                   help="checkpoints and metrics.jsonl go here (default out)")
    p.add_argument("--init_from", default="scratch", type=text,
                   help="scratch, resume, or a checkpoint or Hugging Face folder: its weights "
                        "alone are taken")
    p.add_argument("--mp_num", type=whole(1, 1024),
                   help="of a Hugging Face folder: blocks of its fused qkv_proj (default 4; a "
                        "CodeGen2 may have 8, and is asked for)")
    p.add_argument("--steps", type=whole(1, STEPS),
                   help="train up to this step (default: the preset's, or the resumed run's own)")


def machine_flags(p):
    for axis, what in (("dp", "copies of the model"), ("fsdp", "chips that share the parameters"),
                       ("tp", "chips that share heads and feed-forward")):
        p.add_argument(f"--{axis}", type=COUNT, default=1, help=f"mesh: {what} (default 1)")
    p.add_argument("--plan", action="store_true",
                   help="train nothing: compile the step for --topology, say what it takes")
    p.add_argument("--topology", type=text,
                   help="with --plan: a TPU and the sides of its slice, like v4:8x8x4 or v5p:4x4x8")
    p.add_argument("--search", action="store_true",
                   help="with --plan: try meshes and batch sizes, rank them")
    p.add_argument("--coordinator", type=text,
                   help="HOST:PORT of process 0, for several processes (Cloud TPU, GKE, SLURM and "
                        "MPI are found without)")
    p.add_argument("--num_processes", type=whole(1, 2 ** 16),
                   help="how many processes there are, with --coordinator; 1 looks for no others")
    p.add_argument("--process_id", type=whole(0, 2 ** 16),
                   help="which one this is, with --coordinator")


def loop_flags(p):
    p.add_argument("--eval_every", type=whole(0, STEPS), default=100,
                   help="validation loss every so many steps and at the end, 0: never (default "
                        "100)")
    p.add_argument("--save_every", type=whole(0, STEPS), default=200,
                   help="a checkpoint every so many steps and at the end, 0: at the end alone "
                        "(default 200)")
    p.add_argument("--keep", type=whole(1, STEPS), default=2, help="checkpoints kept (default 2)")
    p.add_argument("--no-benchmark", action="store_true",
                   help="skip the held-out problems after a run on the miniature corpus")
    p.add_argument("--seed", type=whole(0, 2 ** 32 - 1),
                   help="of the weights and of the order of the data (default 0)")
