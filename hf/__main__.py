"""Released weights, in and out.

    python -m hf import --hf DIR --out CKPT      a Hugging Face CodeGen folder -> a checkpoint
    python -m hf export --ckpt CKPT --hf DIR     a checkpoint -> a folder that transformers opens
"""
from harness.cli import cli, one_line_errors
from harness.devices import find_devices
from harness.flags import folder, new_folder, text, whole
from harness.folder import checkpoints, find_checkpoint

import argparse
from pathlib import Path

from corpora.tokenizer import same_tokenizer

import tpu_mesh
from data import get_tokenizer
from hf.config import MP_NUM
from hf.weights import export_hf, load_hf
from model import Config, load_params, num_params, read_meta


def parser(prog="python -m hf"):
    p = argparse.ArgumentParser(prog=prog, description=__doc__, allow_abbrev=False,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = one_line_errors(p).add_subparsers(dest="command", required=True,
                                                 metavar="import | export")

    def command(name, what):
        return one_line_errors(commands.add_parser(name, allow_abbrev=False, help=what))

    i = command("import", "a Hugging Face CodeGen folder -> a checkpoint")
    i.add_argument("--hf", required=True, metavar="DIR", type=folder,
                   help="the Hugging Face folder")
    i.add_argument("--out", required=True, metavar="DIR", type=new_folder,
                   help="checkpoint folder to make")
    i.add_argument("--tokenizer", type=text, help="gpt2 (the NL models), codegen (MULTI, MONO), or "
                   "a .tiktoken file (default: what the folder's files say)")
    i.add_argument("--mp_num", type=whole(1, 1024), help="blocks of the fused qkv_proj (default 4; "
                   "a CodeGen2 may have 8, and is asked for). Shapes do not tell: with a wrong one "
                   "the model writes nonsense")
    e = command("export", "a checkpoint -> a folder that transformers opens")
    e.add_argument("--ckpt", required=True, metavar="DIR", type=folder,
                   help="a checkpoint folder, or train.py's out_dir")
    e.add_argument("--hf", required=True, metavar="DIR", type=new_folder, help="the folder to make")
    e.add_argument("--mp_num", type=whole(1, 1024), default=MP_NUM, help="blocks of the fused "
                   "qkv_proj to write (default 4, which is what transformers reads)")
    return p


def main(prog="python -m hf"):
    args = parser(prog).parse_args()
    find_devices()
    {"import": import_folder, "export": export_checkpoint}[args.command](args)


def import_folder(args):
    source = Path(args.hf)
    if checkpoints(args.out):
        raise ValueError(f"{args.out} already holds checkpoints: choose another --out")
    meta = read_meta(source, args.tokenizer)
    config, tokenizer = Config(**meta["model"]), get_tokenizer(meta["tokenizer"])
    params = {f"params/{n}": w for n, w in load_hf(source, config, mp_num=args.mp_num).items()}
    files = [tokenizer.name] if tokenizer.name.endswith(".tiktoken") else []
    meta["tokenizer"] = Path(tokenizer.name).name if files else tokenizer.name
    say(config, tokenizer, source, tpu_mesh.save_checkpoint(args.out, 0, params, meta, files=files))


def export_checkpoint(args):
    source = find_checkpoint(args.ckpt)
    meta = read_meta(source)
    config, tokenizer = Config(**meta["model"]), get_tokenizer(meta["tokenizer"])
    same_tokenizer(tokenizer, meta.get("tokenizer_digest"), source)
    export_hf(load_params(source, config), config, args.hf, tokenizer, args.mp_num)
    say(config, tokenizer, source, args.hf)


def say(config, tokenizer, source, out):
    print(f"{num_params(config):,} parameters, tokenizer {Path(tokenizer.name).name}, "
          f"from {source} to {out}")


if __name__ == "__main__":
    cli(main)
