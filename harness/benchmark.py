"""What the commands of both benchmarks share: flags, the first line, files."""
from harness import flags
from harness.cli import one_line_errors
from harness.files import check_writable, find_benchmark, is_official
from harness.samples import results_path

import argparse
import platform
import signal
import sys
from pathlib import Path

import numpy as np


def commands_of(description, names, out, timeout):
    """A parser and those of its commands, which have the flags of both benchmarks -> (parser,
    {name: parser}). names: {name: what it does}; out, timeout: see flags.benchmark_flags."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    found = one_line_errors(parser).add_subparsers(dest="command", required=True)
    for name, what in names.items():
        command = found.add_parser(name, help=what, description=what, allow_abbrev=False)
        flags.benchmark_flags(one_line_errors(command), name, out, timeout)
    return parser, found.choices


def begin(args):
    """The first line that is printed where no JAX prints it, and an end that clears up when the
    process is asked to go."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if args.command in ("score", "selftest"):
        workers = f"{args.workers} worker{'s' * (args.workers > 1)}"
        print(f"# platform {platform.system()} · {workers} · "
              f"python {platform.python_version()} · numpy {np.__version__}", flush=True)


def problem_file(args, official):
    """-> (the problem file, the same where it is not an official one, else None)."""
    path = Path(args.problems) if args.problems else find_benchmark(official)
    return path, None if is_official(path) else path


def results_file(wanted, samples, source) -> str:
    """Where the verdicts on sample files go: where it is `wanted`, else beside the first.
    ValueError, before hours of work, where it cannot be written or is an input. source: the problem
    file where it is not the official one."""
    path = str(wanted or results_path(samples[0]))
    check_writable(path, *samples, *[source] * bool(source))
    return path
