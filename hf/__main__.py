"""Released weights, in and out.

    python -m hf import --hf DIR --out CKPT      a Hugging Face CodeGen folder -> a checkpoint
    python -m hf export --ckpt CKPT --hf DIR     a checkpoint -> a folder that transformers opens
"""
import argparse
from pathlib import Path

from harness.cli import cli, one_line_errors

import tpu_mesh
from data import get_tokenizer
from hf.layout import MP_NUM
from hf.weights import export_hf, read_hf
from model import Config, load_params, num_params, read_meta


def parser(prog="python -m hf"):
    p = argparse.ArgumentParser(prog=prog, description=__doc__, allow_abbrev=False,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = p.add_subparsers(dest="command", required=True, metavar="import | export")
    i = commands.add_parser("import", allow_abbrev=False, help="a Hugging Face CodeGen folder -> a checkpoint")
    e = commands.add_parser("export", allow_abbrev=False, help="a checkpoint -> a folder that transformers opens")
    i.add_argument("--out", required=True, metavar="DIR", help="checkpoint folder to make")
    i.add_argument("--tokenizer", help="gpt2 (the NL models), codegen (MULTI, MONO); "
                   "default: what the folder's files say")
    e.add_argument("--ckpt", required=True, metavar="DIR", help="a checkpoint folder, or train.py's out_dir")
    for command in map(one_line_errors, (p, i, e)):
        if command is not p:
            command.add_argument("--hf", required=True, metavar="DIR", help="the Hugging Face folder")
            command.add_argument("--mp_num", type=int, default=MP_NUM, help="blocks of the fused qkv_proj (default 4; "
                                 "8 in jaxformer's copy). Shapes do not tell: with a wrong one the model writes nonsense")
    return p


def main(prog="python -m hf"):
    args = parser(prog).parse_args()
    tpu_mesh.start()
    source = Path(args.hf) if args.command == "import" else tpu_mesh.find_checkpoint(args.ckpt)
    meta = read_meta(source, getattr(args, "tokenizer", None))
    config, tokenizer = Config(**meta["model"]), get_tokenizer(meta["tokenizer"])
    if args.command == "import":
        if tpu_mesh.checkpoints(args.out):
            raise ValueError(f"{args.out} already holds checkpoints: choose another --out")
        params = {f"params/{n}": w for n, w in read_hf(source, config, mp_num=args.mp_num).items()}
        files = [tokenizer.name] if tokenizer.name.endswith(".tiktoken") else []
        meta["tokenizer"] = Path(tokenizer.name).name if files else tokenizer.name
        out = tpu_mesh.save_checkpoint(args.out, 0, params, meta, files=files)
    else:
        out = args.hf
        export_hf(load_params(source, config), config, out, tokenizer, args.mp_num)
    print(f"{num_params(config):,} parameters, tokenizer {Path(tokenizer.name).name}, from {source} to {out}")


if __name__ == "__main__":
    cli(main)
