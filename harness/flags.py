"""What argparse calls for the text of a flag: the value, or an error that names the flag.

Every flag of every command has one of these, `choices`, or takes no value; tests/test_flags.py walks over the parsers and
holds that.
"""
from harness import parts
from harness.cli import CORES
from harness.files import stream_of

import argparse
import math
import os
from pathlib import Path


def whole(low, high=2 ** 31 - 1):
    """A whole number from low to high."""
    def whole_number(text):
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text[:50]!r} is no whole number") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text[:50]} must lie between {low} and {high}")
        return value
    return whole_number


seed = whole(0, 2 ** 32 - 1)        # what a key of JAX takes without 64-bit integers


def number(low, high=1e9):
    """A finite number from low to high."""
    def real_number(text):
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text[:50]!r} is no number") from None
        if not (math.isfinite(value) and low <= value <= high):
            raise argparse.ArgumentTypeError(f"{text[:50]} must lie between {low:g} and {high:g}")
        return value
    return real_number


def listed(kind):
    """Values separated by commas, each as `kind` reads it."""
    def list_of_values(text):
        return [kind(part) for part in text.split(",")]
    return list_of_values


def text(value):
    """Any text but an empty one."""
    if not value or "\0" in value:
        raise argparse.ArgumentTypeError("is empty: give at least one character")
    return value


def file(value):
    """A file that is there."""
    if os.path.isdir(text(value)):
        raise argparse.ArgumentTypeError(f"{value} is a folder, a file is expected")
    if not os.path.exists(value):
        raise argparse.ArgumentTypeError(f"{value}: no such file")
    return value


def sample_file(value):
    """A file that is there, or the name of a run whose parts are."""
    return value if parts.files_of(text(value)) != [value] else file(value)


def folder(value):
    """A folder that is there."""
    if not os.path.exists(text(value)):
        raise argparse.ArgumentTypeError(f"{value}: no such folder")
    if not os.path.isdir(value):
        raise argparse.ArgumentTypeError(f"{value} is a file, a folder is expected")
    return value


def new_file(value):
    """A file to write: no folder stands at its name, and no file where a folder of its path should be.

    Nor a pipe, whose reader one would wait for, a socket or a device, but for our own streams and /dev/null."""
    if os.path.isdir(text(value)) or value.endswith(os.sep):
        raise argparse.ArgumentTypeError(f"{value} is a folder, the name of a file is expected")
    there, stream = os.path.exists(value), stream_of(value) is not None
    if stream and not there:
        raise argparse.ArgumentTypeError(f"{value} is not open")
    if there and not (stream or os.path.isfile(value) or value == os.devnull):
        raise argparse.ArgumentTypeError(f"{value} is a pipe, a socket or a device, the name of a file is expected")
    return below_folders(value)


def new_folder(value):
    """A folder to make or to fill: no file stands at its name or in its path."""
    if os.path.exists(text(value)) and not os.path.isdir(value):
        raise argparse.ArgumentTypeError(f"{value} is a file, a folder is expected")
    return below_folders(value)


def below_folders(value):
    if not value.strip():
        raise argparse.ArgumentTypeError("is blank: give a name")
    for above in Path(value).parents:
        if os.path.exists(above) and not os.path.isdir(above):
            raise argparse.ArgumentTypeError(f"{value}: {above} is a file, not a folder")
    return value


def mesh_flags(parser):
    """Over which devices a model that is sampled from lies, and in what numbers."""
    parser.add_argument("--dp", type=whole(1), default=1,
                        help="copies of the model, each with its part of the texts (default 1)")
    parser.add_argument("--tp", type=whole(1), default=1,
                        help="devices that share a copy's heads and vocabulary (default 1)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"],
                        help="of the weights (default: the checkpoint's; bfloat16 is half the memory)")


def benchmark_flags(parser, command, out, timeout):
    """The flags that generate, score, selftest and run of both benchmarks share. out: the sample
    file, timeout: seconds a program, where none is given."""
    parser.add_argument("--problems", type=file,
                        help="a file in the benchmark's format (default: the official one)")
    if command in ("generate", "run"):
        parser.add_argument("--ckpt", type=folder, default="out",
                            help="a checkpoint folder, or train.py's out_dir (default out)")
        parser.add_argument("--out", type=new_file, default=out,
                            help=f"the sample file; an unfinished one is resumed (default {out})")
        parser.add_argument("--top_p", type=number(0, 1), default=0.95,
                            help="nucleus: probability mass kept (default 0.95; 0 is greedy)")
        parser.add_argument("--seed", type=whole(0), default=0, help="of the draws (default 0)")
        parser.add_argument("--limit", type=whole(1), help="the first LIMIT problems only")
        parser.add_argument("--batch_size", type=whole(1, 10 ** 5), default=64,
                            help="texts sampled together (default 64)")
        parser.add_argument("--num_processes", type=whole(1, 99_999),
                            help="share the problems out to so many processes; each writes a part "
                                 "of --out (default: what the cluster says)")
        parser.add_argument("--process_id", type=whole(0, 99_998),
                            help="the number of this process, from 0")
        mesh_flags(parser)
    if command != "generate":
        parser.add_argument("--timeout", type=number(0.1, 1e5), default=timeout,
                            help=f"seconds a program (default {timeout:g})")
        parser.add_argument("--workers", type=whole(1, 1000), default=CORES,
                            help="programs run at once (default: the cores)")
        parser.add_argument("--unsafe", action="store_true",
                            help="run programs even where they cannot be isolated")
    if command == "score":
        parser.add_argument("samples", nargs="+", type=sample_file,
                            help="sample files; the name of a divided run stands for its parts")
    if command in ("score", "run"):
        parser.add_argument("--results", type=new_file,
                            help="where the verdicts go (default: beside the samples)")
