"""The command line of sample.py: its flags, a prompt from standard input, stop texts.

Without JAX, because --help and a wrong flag need not wait for it.
"""
from harness import flags, transcript
from harness.cli import one_line_errors
from harness.files import check_writable

import argparse
import os
import re
import sys
from pathlib import Path

DEFAULTS = dict(max_new_tokens=128, temperature=0.2, top_p=0.95, seed=0, num_samples=1)


def parser(description):
    """The parser of `python sample.py`."""
    raw = argparse.RawDescriptionHelpFormatter
    p = one_line_errors(argparse.ArgumentParser(description=description, formatter_class=raw,
                                                allow_abbrev=False))
    p.add_argument("--ckpt", type=flags.text,
                   help="a checkpoint folder, train.py's out_dir, or a Hugging Face folder")
    p.add_argument("--prompt", type=flags.text, help="continue this text, - for that on standard "
                   "input; without it the multi-turn session starts")
    p.add_argument("--prompt_file", type=flags.file, help="continue the text of this file")
    p.add_argument("--continue", dest="continued", action="store_true",
                   help="open the last session with this model, with its settings (the newest "
                        f"{transcript.KEPT} of a model are kept)")
    p.add_argument("--num_samples", type=flags.whole(1, 10 ** 6),
                   help="samples of the prompt (default 1)")
    p.add_argument("--max_new_tokens", type=flags.whole(1, 10 ** 6),
                   help="tokens to sample at most (default 128)")
    p.add_argument("--temperature", type=flags.number(0, 100),
                   help="0 is greedy (default 0.2)")
    p.add_argument("--top_p", type=flags.number(0, 1),
                   help="nucleus: probability mass kept, 0 is greedy (default 0.95)")
    p.add_argument("--stop", type=flags.text, action="append", default=[],
                   help="end at this text, in which \\n is a new line; may be given several times")
    p.add_argument("--seed", type=flags.seed, help="of the draws (default 0)")
    flags.mesh_flags(p)
    p.add_argument("--unsafe", action="store_true",
                   help="let the session's /run use your rights where nothing can isolate it")
    p.add_argument("--mp_num", type=flags.whole(1, 1024),
                   help="of a Hugging Face folder: blocks of its fused qkv_proj (default 4; a "
                        "CodeGen2 may have 8, and is asked for)")
    trace_flags(p)
    p.add_argument("--plan", action="store_true",
                   help="sample nothing: say what decoding --model takes on a TPU")
    p.add_argument("--model", type=flags.text,
                   help="with --plan: a preset of model.py (default 350M)")
    p.add_argument("--topology", type=flags.text, help="with --plan: a TPU, like v5p:1x1x1; one "
                   "chip decodes (default v4:1x1x1)")
    return p


def trace_flags(p):
    """A page that shows a model think: runs/trace.py."""
    p.add_argument("--trace", type=flags.new_file,
                   help="write a web page that shows each token's probability, what else it could "
                        "have been, and how well the prompts were understood")
    p.add_argument("--samples", type=flags.sample_file,
                   help="with --trace: sample nothing, show what mtpb.py or humaneval.py sampled "
                        "into this file")
    p.add_argument("--problems", type=flags.file,
                   help="with --samples of humaneval.py: its problem file (default: the official "
                        "one)")
    p.add_argument("--limit", type=flags.whole(1, 10 ** 5), default=40,
                   help="with --trace: so many texts at most, of --samples the first of each case "
                        "before all second ones (default 40)")


OF_SAMPLES = "temperature", "top_p"     # the settings of a sample file that --samples shows
PAGE = b"<!doctype html>\n<!-- a trace page of sample.py -->"      # how runs/trace.html begins


def parse_args(description, argv=None):
    """The flags, of sys.argv by default, and `opened`: the transcript that --continue found, (file,
    record), else None. Each command but a plan needs a model: --ckpt."""
    p = parser(description)
    args = p.parse_args(argv)
    if not (args.ckpt or args.plan or args.model or args.topology):
        p.error("the following arguments are required: --ckpt")
    prompts = [name for name in ("prompt", "prompt_file", "continued") if getattr(args, name)]
    if len(prompts) > 1:
        p.error("give one of --prompt, --prompt_file and --continue")
    try:
        check_trace(args)
    except (ValueError, OSError) as error:
        p.error(str(error))
    say_unheeded(args)
    args.opened = None
    if args.continued:
        try:
            args.opened = transcript.newest(args.ckpt)
        except (ValueError, OSError, RuntimeError) as error:
            p.error(f"--continue: {error}")
    before = args.opened[1]["settings"] if args.opened else {}
    for name, default in DEFAULTS.items():
        if getattr(args, name) is None and not (args.samples and name in OF_SAMPLES):
            setattr(args, name, before.get(name, default))
    return args


def say_unheeded(args):
    """A line on standard error for flags that change nothing in this command."""
    if args.plan or args.model or args.topology:
        what, names = "--plan samples nothing", ("prompt_file", "continue", "stop", "seed")
    elif args.samples:
        what = "--samples shows what is in a file"
        names = "num_samples", "max_new_tokens", "stop", "seed"
    elif not (args.prompt or args.prompt_file):
        what = "the session makes one answer a turn (/n 5 makes five) and ends it by its own rule"
        names = "num_samples", "stop"
    else:
        return
    values = vars(args) | {"continue": args.continued}
    missing = lambda value: value is None or value is False or value == []        # 0 is a seed
    unheeded = [f"--{name}" for name in names if not missing(values[name])]
    if unheeded:
        print(f"# {what}: not heeded: {', '.join(unheeded)}", file=sys.stderr)


def remark(args, config, tokens):
    """Lines on standard error of what may surprise in the samples of a prompt of so many tokens."""
    room = config.block_size - tokens
    for line in surprises(args, args.num_samples, room, f"the prompt's {tokens}"):
        print(f"# {line}", file=sys.stderr)


def surprises(args, n, room, behind) -> list:
    """What may surprise in n samples of a prompt, behind which the context has room for so many
    tokens."""
    lines, asked = [], vars(args).get("max_new_tokens", 0)
    if n > 1 and (args.temperature == 0 or args.top_p == 0):
        lines.append(f"greedy: all {n} samples are the same")
    if 0 < room < asked:
        lines.append(f"behind {behind} tokens the context has room for {room} of --max_new_tokens "
                     f"{asked}")
    return lines


def check_trace(args):
    """ValueError for flags of a page that do not fit, and for a FILE that it must not replace."""
    if args.samples and (not args.trace or args.prompt or args.prompt_file or args.continued):
        raise ValueError("--samples shows what is in a file: give it with --trace FILE.html, and "
                         "without a prompt or --continue")
    if args.problems and not args.samples:
        raise ValueError("--problems is for --samples FILE")
    if args.trace and args.plan:
        raise ValueError("--plan samples nothing: leave out --trace")
    if args.trace:
        if os.path.isfile(args.trace) and os.path.getsize(args.trace):
            with open(args.trace, "rb") as file:
                if file.read(len(PAGE)) != PAGE:
                    raise ValueError(f"{args.trace} is there and is no trace page: give --trace "
                                     "another name")
        check_writable(args.trace, what="the page", flag="--trace")


def read_prompt(args):
    """What is to be continued, UTF-8; None for the session. ValueError where it is no text."""
    if args.prompt != "-" and not args.prompt_file:
        return args.prompt
    where = args.prompt_file or "--prompt -"
    try:
        raw = sys.stdin.buffer.read() if args.prompt else Path(where).read_bytes()
        prompt = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: what comes in is no UTF-8 text ({error})") from None
    if not prompt:
        raise ValueError(f"{where}: nothing came in, give at least one character")
    return prompt


def unescape(text: str) -> str:
    """Read \\n, \\r, \\t, \\\\, \\x41 and \\u3002; every other character stands for itself."""
    return re.sub(r"\\([nrt\\]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4})",
                  lambda found: found[0].encode().decode("unicode_escape"), text)
