"""What the commands of both benchmarks share: flags, the first line, files, hosts, `run`."""
from harness import flags, hosts, parts
from harness.cli import call_script, one_line_errors, pass_flags, pasted
from harness.files import check_apart, check_writable, find_benchmark, is_official
from harness.outside import first_worker
from harness.samples import MOST_SAMPLES, results_path

import argparse
import contextlib
import fcntl
import json
import platform
from pathlib import Path

import numpy as np

# ---- the two parsers -----------------------------------------------------------------------------

def humaneval_parser(description, timeout, temperatures, n, max_new_tokens):
    """The parser of humaneval.py; the others: defaults of its flags, the paper's."""
    parser, commands = commands_of(description, {
        "generate": "sample completions", "score": "run and judge them",
        "selftest": "judge known solutions", "run": "generate and score at several temperatures",
    }, "samples/humaneval.jsonl", timeout)
    temperature, listed = flags.number(0, 100), ",".join(map(str, temperatures))
    for name, kind, default in (("generate", temperature, temperatures[0]),
                                ("run", flags.listed(temperature), list(temperatures))):
        c = commands[name]
        c.add_argument("--n", type=flags.whole(1, MOST_SAMPLES), default=n,
                       help=f"samples a problem (default {n}, the paper's)")
        c.add_argument("--temperature", type=kind, default=default,
                       help=f"0 is greedy (default {temperatures[0]}; run: {listed})")
        c.add_argument("--max_new_tokens", type=flags.whole(1, 10 ** 6), default=max_new_tokens,
                       help=f"tokens a completion at most (default {max_new_tokens})")
    for name in ("score", "run"):
        commands[name].add_argument(
            "--k", type=flags.listed(flags.whole(1, MOST_SAMPLES)),
            help="the k of pass@k (default: of 1,10,100 what the samples allow)")
    commands["score"].add_argument("--bigcode", action="store_true", help="the samples are "
                                   "bigcode-evaluation-harness's generations.json")
    return parser


def mtpb_parser(description, timeout, temperature, n):
    """The parser of mtpb.py; the others: defaults of its flags, the paper's."""
    parser, commands = commands_of(description, {
        "generate": "sample programs", "score": "run and judge them", "run": "generate and score",
    }, "samples/mtpb.jsonl", timeout)
    for c in (commands["generate"], commands["run"]):
        c.add_argument("--mode", choices=("multi", "single"), default="multi",
                       help="turn by turn, or all prompts at once")
        c.add_argument("--n", type=flags.whole(1, MOST_SAMPLES), default=n,
                       help=f"samples a case (default {n}, the paper's)")
        c.add_argument("--temperature", type=flags.number(0, 100), default=temperature,
                       help=f"0 is greedy (default {temperature})")
    for c in (commands["score"], commands["run"]):
        c.add_argument("--rules", choices=("official", "strict"), default="official",
                       help="whose verdicts to report")
    return parser


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


# ---- what every command begins with --------------------------------------------------------------

def begin(parser, official):
    """Read the flags -> (args, the problem file, the same where it is not an official one, else
    None). official: the name of the official one.

    Prints the first line where no JAX prints it."""
    args = parser.parse_args()
    if args.command in ("score", "selftest"):
        workers = f"{args.workers} worker{'s' * (args.workers > 1)}"
        print(f"# platform {platform.system()} · {workers} · "
              f"python {platform.python_version()} · numpy {np.__version__}", flush=True)
    path = Path(args.problems) if args.problems else find_benchmark(official)
    return args, path, None if is_official(path) else path


def limits_of(args) -> dict:
    """The flags that say how programs are run."""
    return {"timeout": args.timeout, "workers": args.workers, "unsafe": args.unsafe}


def results_file(wanted, samples, source) -> str:
    """Where the verdicts on sample files go: where it is `wanted`, else beside the first.
    ValueError, before hours of work, where it cannot be written or is an input. source: the problem
    file where it is not the official one."""
    path = str(wanted or results_path(parts.whole_of(samples[0])))
    inputs = [file for name in samples for file in (name, *parts.files_of(name))]
    check_writable(path, *with_settings(inputs), *[source] * bool(source))
    return path


def with_settings(files):
    """Sample files, and the files beside them that hold their settings."""
    return [*files, *(f"{file}.json" for file in files)]


# ---- generate and run ----------------------------------------------------------------------------

SAMPLING = ("ckpt", "mode", "n", "top_p", "seed", "limit", "batch_size", "max_new_tokens",
            "dp", "tp", "dtype", "num_processes", "process_id")
SCORING = ("rules", "timeout", "workers")


def take_part(args) -> tuple:
    """On one process of several: args.out becomes the file of its part, and its devices are those
    of its host alone -> the names of the flags that mark its samples, none for a process alone.

    Before JAX is imported."""
    process, processes = hosts.my_part(args.num_processes, args.process_id)
    args.part, args.whole = [process, processes], args.out
    if args.num_processes or processes > 1:
        hosts.keep_to_own_chips()
    if processes == 1:
        return ()
    args.out = parts.name_of(args.out, process, processes)
    return parts.MARKS


def tell_next(script, args, problems):
    """Say what generate has done, and the next command. args: after take_part."""
    process, processes = args.part
    ours = len(parts.share(range(problems), args.part))
    all_parts = f" (of {problems}), when all {processes} processes are done"
    print(f"{ours} problems are in {args.out}{all_parts * (processes > 1)}; "
          f"next: python {script} score {pasted(args.whole)}")


def files_by_temperature(args):
    """-> [(sample file, temperature, results or None)] of `humaneval.py run`, each temperature with
    files of its own. ValueError for a k that --n is too small for."""
    if args.k and max(args.k) > args.n:
        raise ValueError(f"pass@{max(args.k)} needs at least {max(args.k)} samples a problem: "
                         "raise --n, or lower --k")
    at = lambda file, t: f"{file.removesuffix('.jsonl')}_t{t:g}.jsonl"
    return [(at(args.out, t), t, at(args.results, t) if args.results else None)
            for t in args.temperature]


def run(script, args, path, files, key, counts):
    """generate and score, each in a process of its own: the one that starts programs never holds
    JAX. -> the reports of `score`, or None where other processes are still to sample.

    files: [(sample file, temperature, results or None)]; key, counts: see parts.lacking. Of several
    processes each samples its part of every file, and who then finds all parts scores them."""
    first_worker(args.unsafe).stop()    # no isolation here? Better to hear it before sampling
    process, processes = hosts.my_part(args.num_processes, args.process_id)
    for out, _, results in files:
        names = [out, *(parts.name_of(out, i, processes) for i in range(processes))]
        check = check_writable if results else check_apart      # that of samples/ may yet be made
        check(results or results_path(out), *with_settings(names), path)
    if processes > 1:
        args.num_processes, args.process_id = processes, process

    def generate(out, temperature):
        call_script(script, "generate", f"--out={out}", f"--temperature={temperature}",
                    f"--problems={path}", *pass_flags(args, SAMPLING))

    def score(out, results):
        ks = ",".join(map(str, getattr(args, "k", None) or ()))
        more = [f"--k={ks}"] * bool(ks) + ["--unsafe"] * args.unsafe
        more += [f"--results={results}"] * bool(results)
        return json.loads(call_script(script, "score", f"--problems={path}", *more,
                                      *pass_flags(args, SCORING), "--", out))

    reports = []
    if processes == 1:
        for out, temperature, results in files:
            generate(out, temperature)
            reports.append(score(out, results))
        return reports
    for out, temperature, _ in files:
        generate(out, temperature)
    with sole_scorer(parts.name_of(files[0][0], 0, processes)) as ours:
        waiting = [text for out, *_ in files
                   if (text := parts.waiting_for(out, processes, key, counts))]
        if ours and not waiting:
            return [score(out, results) for out, _, results in files]
    print(waiting[0] if waiting else "another process is scoring all parts")
    then = " && ".join(f"python {Path(script).name} score {pasted(out)}" for out, *_ in files)
    print(f"process {process} of {processes} has done its part. When all have, next: {then}")
    return None


@contextlib.contextmanager
def sole_scorer(sample_file):
    """Whether this process is the only one that scores, of those that find all parts at once."""
    try:
        lock = open(f"{sample_file}.json", "r+b")
    except OSError:                     # the first part is not here yet
        yield False
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:                 # a file system without locks: scored twice is scored
            pass
        yield True
