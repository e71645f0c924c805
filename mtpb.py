"""The Multi-Turn Programming Benchmark (paper, section 4): say a program turn by turn, run it, compare what it printed.

    python mtpb.py generate --ckpt out --out samples.jsonl [--mode multi|single --n 40 --limit 5]
    python mtpb.py score samples.jsonl [--rules official|strict]
    python mtpb.py run --ckpt out                               both

A problem has 3 to 9 prompts and 5 cases, which fill the prompts' templates. The paper samples 40
programs a case. A program passes when the first argument of its last print is the expected value; the
pass rate is the share that passes. By the official rules that holds however the program ended, also by
a crash after that print; by the strict ones it must have ended well.
"""
import argparse
import importlib.util
import json
import math
import numbers
import platform
import secrets
from collections import Counter, defaultdict
from pathlib import Path

from harness import flags
from harness.cli import CORES, call_script, cli, one_line_errors, pass_flags
from harness.files import (
    append_records,
    check,
    check_writable,
    find_benchmark,
    is_official,
    read_lines,
    replace_file,
    results_path,
    resume,
    settings_of,
)
from harness.messages import Opaque, Series, decode
from harness.outside import first_worker, run_programs
from harness.problems import unfillable

import numpy as np
from tqdm import tqdm

import humaneval

PREFIX = "# Import libraries.\n\nimport numpy as np\n\n"       # how every history begins
MAX_GEN_LENGTH = 256        # tokens a turn where the problem names none (problems 39 to 45)
TIMEOUT = 20                # seconds a program, the official limit

# Known faults of the official file. They are listed with every score and never mended: the paper has them in its
# figures too. (problem, cases or "", what is wrong)
DEFECTS = [
    ("1", "", "the same problem as 26"), ("10", "2 and 5", "the same input"), ("57", "6", "an output without an input"),
    ("9", "3", "wrong gold: Mike, right is John"), ("31", "1", "wrong gold: 17, right is 16"),
    ("55", "3", "wrong gold: True"), ("56", "4", "wrong gold: 8, right is 6"), ("94", "2", "wrong gold: 55"),
    ("87", "1", "wrong gold: 100 is not above the limit"), ("46", "", "wrong gold: one sum for every split"),
    ("89", "", "gold is a dict, which the official rules never pass"),
    ("41", "2 and 5", "gold is None, which the official rules never pass"),
    ("14", "", "never passes officially: the official guard keeps scikit-learn from loading"),
    ("23", "1 to 4", "random results, compared exactly"), ("77", "3", "gold 39.57 is rounded, right is 39.5727..."),
    ("39", "3 and 4", "right only with split()"), ("43", "2 and 3", "counts letters only, unsaid"),
    ("44", "", "means pairs that do not overlap, unsaid"), ("45", "3", "gold contradicts the prompt"),
    ("91", "4 and 5", "wants text, unsaid"), ("55", "", "asks for return, no print"), ("62", "", "asks for return, no print"),
]
NEEDS = {"pandas": ("6", "38", "46"), "sklearn": ("14", "46")}
CSV = ("38", "46")          # read ./datasets/*.csv, which was never distributed


# ------------------------------------------------------ problems -------------------------------------------------

def read_problems(path):
    """Problems in file order: prompts, inputs, outputs, category, id, perhaps max_gen_length.
    ValueError names the line, the problem and what is wrong, as a template that does not fill."""
    problems, seen = [], set()
    for line, p in read_lines(path):
        where = f"{path}, line {line}, problem {str(p.get('id'))[:50]}: "
        if type(p.get("id")) not in (str, int):
            raise ValueError(f"{where}id must be a text or a whole number")
        check(p, {"prompts": [str], "inputs": [dict], "outputs": list, "category?": str}, where)
        if "max_gen_length" in p:
            check(p["max_gen_length"], (1, 10 ** 6), f"{where}max_gen_length: ")
        if not (p["prompts"] and p["inputs"] and p["outputs"]):
            raise ValueError(f"{where}prompts, inputs and outputs must not be empty")
        p["id"], p["category"] = str(p["id"]), p.get("category") or "none"
        if p["id"] in seen:
            raise ValueError(f"{where}it is there twice")
        seen.add(p["id"])
        # One problem has an output too many; as in the official sampler the shorter list counts.
        p["cases"] = list(zip(p["inputs"], p["outputs"]))
        for case, (given, _) in enumerate(p["cases"], 1):
            for turn, prompt in enumerate(p["prompts"], 1):
                if wrong := unfillable(prompt, given):
                    raise ValueError(f"{where}prompt {turn}, inputs of case {case}: {wrong}")
        problems.append(p)
    if not problems:
        raise ValueError(f"{path} holds no problem")
    return problems


def fill(problem, case):
    """The prompts of one case. str.format, not replace: five problems hold doubled braces."""
    return [p.format(**problem["inputs"][case]) for p in problem["prompts"]]


# ------------------------------------------------------ sampling -------------------------------------------------

def asks(problem, case, mode):
    """What is said in each turn: "# prompt\\n", turn by turn, or in single mode all of them at once."""
    comments = [f"# {prompt}\n" for prompt in fill(problem, case)]
    return comments if mode == "multi" else ["".join(comments)]


def history(said, answers):
    """The pieces of a program: prefix, then for each turn what was said and its answer with two newlines."""
    pieces = [PREFIX]
    for ask, answer in zip(said, answers):
        pieces += [ask, answer + "\n\n"]
    return pieces


def converse(problem, rows, mode, chat, stop):
    """Hold the conversations rows = [(case, sample), ...] of one problem, all rows together, turn by turn.

    -> the pieces of each row's program, and the most tokens that any history had to drop. The answers are cut by the
    released truncation rule in both modes (what the paper did in single-turn mode was not released); a single answer
    may have the tokens of all the turns.
    """
    said = [asks(problem, case, mode) for case, _ in rows]
    limit = problem.get("max_gen_length", MAX_GEN_LENGTH) * (len(problem["prompts"]) if mode == "single" else 1)
    answers, dropped, before = [[] for _ in rows], 0, PREFIX
    for turn in range(len(said[0])):
        done = chat.turn([before + s[turn] for s in said], limit, stop=stop, keep_newest=True)
        for row, (text, _) in zip(answers, done):
            row.append(text)
        dropped, before = max(dropped, *chat.dropped), "\n\n"
    return [history(s, a) for s, a in zip(said, answers)], dropped


def prompt_spans(pieces):
    """The (start, end) characters of a program that the user said: every second piece after the prefix."""
    ends = np.cumsum([len(p) for p in pieces]).tolist()
    return [(ends[i - 1], ends[i]) for i in range(1, len(pieces), 2)]


def generate(problems, path, settings, new_chat, logprob, stop, batch_size=64):
    """Sample every problem that the file lacks and append its records, in the official sampler's form.

    settings: dict with mode, n and what else makes a sample what it is (see resume).
    new_chat(sample_ids) -> a sample.Chats; logprob(texts, spans) as sample.prompt_logprob. The first
    record of a case also holds prompt_logprob: [sum of log p, tokens] of its prompts, given the code
    of this first sample between them.
    """
    mode, n = settings["mode"], settings["n"]
    with resume(path, settings, "id", {p["id"]: n * len(p["cases"]) for p in problems}) as done:
        for index, p in enumerate(tqdm(problems, "problems", disable=None)):
            if p["id"] in done:
                continue
            rows = [(case, j) for case in range(len(p["cases"])) for j in range(n)]
            size = min(batch_size, len(rows))
            programs, records = write_programs(index, p, rows, mode, new_chat, stop, size), []
            for (case, _), pieces in zip(rows, programs):
                given, gold = p["cases"][case]
                records.append({"id": p["id"], "input": given, "gold_output": gold,
                                "completions": "".join(pieces), "prompts_completions": pieces})
            first = range(0, len(rows), n)
            likelihoods = logprob(["".join(programs[i]) for i in first],
                                  spans=[prompt_spans(programs[i]) for i in first])
            for i, likelihood in zip(first, likelihoods):
                records[i]["prompt_logprob"] = list(likelihood)
            append_records(path, records)


def write_programs(index, problem, rows, mode, new_chat, stop, size):
    """Hold the conversations of rows [(case, sample)] of the problem number `index`, `size` of them
    together -> the pieces of each program."""
    programs, most = [], 0
    for start in range(0, len(rows), size):
        some = rows[start:start + size]
        full = some + some[-1:] * (size - len(some))               # one shape, so one compilation
        # The draws of a program depend on its problem, case and number, not on its batch or on n.
        chat = new_chat([(index * 100 + case) * 10_000 + j for case, j in full])
        pieces, dropped = converse(problem, full, mode, chat, stop)
        programs, most = programs + pieces[:len(some)], max(most, dropped)
    if most:
        tqdm.write(f"problem {problem['id']}: a history outgrew the context; "
                   f"up to {most} of its oldest tokens were not seen")
    return programs


# ------------------------------------------------ outside: the verdicts ------------------------------------------

def decode_printed(described):
    """What `describe` sent -> a value to judge. Raises ValueError or the like for a message that is not its work."""
    value = decode(described["value"])
    if "casts" not in described:
        return value
    printed = Opaque({name: decode(tree) for name, tree in described["casts"].items()})
    printed.value = value       # its plain form, for the strict rules
    return printed


def check_equivalence(printed, expected) -> bool:
    """The official comparison (the paper's "relaxed" equality) with all its leniencies; where that raises, False.

    A different type is cast to the expected one: "12" and 12.7 are 12, a set is a list, a text is a list of its
    characters. Floats may differ by 1e-6, but not inside a list. A dict or None is never right.
    """
    try:
        kind = type(printed)
        if isinstance(printed, Series):
            return bool(np.allclose(printed.array, np.array(expected)))     # broadcasts, and rtol 1e-5
        if kind is list and printed and type(printed[0]) is tuple:
            printed = [list(item) for item in printed]
        elif kind in (np.uint8, np.int16, np.int32, np.int64, np.float16, np.float32, np.float64, np.bool_):
            printed = printed.item()
        elif kind is np.ndarray:
            printed = printed.tolist()
        if type(expected) is bool and type(printed) is not bool:
            return str(printed) == str(expected)                            # bool("False") would be True
        if type(printed) is not type(expected):
            printed = type(expected)(printed)
        if type(expected) is float:
            return abs(printed - expected) < 1e-6
        return type(expected) in (str, int, bool, list, tuple, set) and bool(printed == expected)
    except Exception:       # int("x"), a list of arrays has no truth value, ...
        return False


def plain(x):
    """A value in the words of JSON where nothing is lost: numpy scalars, arrays, Series and tuples."""
    x = getattr(x, "value", x) if isinstance(x, Opaque) else x
    x = x.array if isinstance(x, Series) else x
    x = x.tolist() if isinstance(x, (np.ndarray, np.generic)) else x
    return [plain(item) for item in x] if isinstance(x, (list, tuple)) else x


def same(a, b) -> bool:
    """Equal values, lists and dicts of them; floats to 1e-6; True is no number. JSON has only texts as keys."""
    if isinstance(a, dict) and isinstance(b, dict):
        a = {str(k): v for k, v in a.items()}
        return a.keys() == b.keys() and all(same(plain(a[k]), b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, numbers.Real) and isinstance(b, numbers.Real):
        return bool(a == b or (isinstance(a, float) or isinstance(b, float)) and abs(a - b) < 1e-6)
    return type(a) is type(b) and a == b


def check_strict(printed, expected) -> bool:
    """The strict comparison: dicts and None count, floats inside containers have the tolerance too, and a cast counts
    only where it loses nothing: a number and its text, a tuple or an array and a list."""
    try:
        printed = plain(printed)
        number = lambda x: isinstance(x, (int, float)) and not isinstance(x, bool)
        if isinstance(printed, str) and number(expected):
            value = type(expected)(printed)
            return str(value) == printed and same(value, expected)
        if number(printed) and isinstance(expected, str):
            return str(printed) == expected
        return same(printed, expected)
    except Exception:
        return False


def judge(said, how, expected):
    """One run -> dict: passed and passed_strict, the verdicts; result, "passed" or why not, by the
    official rules; ended, "" or why the program did not end well; printed, as text. said, how: see
    harness.outside.Worker.run.

    The official rules look at the value alone: printed right, then crashed or hung, passes. Strict
    wants a clean end, which is what was seen from outside: a program can say of itself what it likes."""
    last = said[-1] if said else {"printed": None, "error": None}
    error, lost, nothing = last["error"], last.get("lost", ""), last["printed"] is None
    ended = "timed out" if error == "timed out" else "out of memory" if error == "MemoryError" else \
        f"failed: {error}" if error else how
    try:
        printed = None if nothing else decode_printed(last["printed"])
    except Exception:       # the program got hold of the channel
        return {"passed": False, "passed_strict": False, "result": "failed: an unreadable value",
                "ended": ended, "printed": ""}
    official = not nothing and not lost and check_equivalence(printed, expected)
    strict = not nothing and not ended and check_strict(printed, expected)
    why = ended or f"failed: {lost or ('nothing printed' if nothing else 'wrong value')}"
    return {"passed": official, "passed_strict": strict, "result": "passed" if official else why,
            "ended": ended, "printed": "" if nothing else as_text(printed)}


def as_text(printed) -> str:
    """The beginning of a printed value, for the results: "" for an object that has no text."""
    try:
        return str(printed.array if isinstance(printed, Series) else printed)[:200]
    except Exception:
        return ""


def judge_all(items, timeout=TIMEOUT, workers=CORES, unsafe=False):
    """Run (program, expected value) pairs in isolation -> [(judge's dict, run again)], and how they
    were isolated."""
    def talk(item, channel, said):
        while not said or not said[-1]["end"]:
            message = channel.receive()
            error, lost = message.get("error"), message.get("lost")
            if message.get("secret") != secret or not {"printed", "end"} <= message.keys() or not (
                    error is None or isinstance(error, str) and len(error) < 100) or not (
                    isinstance(lost, str) and len(lost) < 100):
                raise ValueError("not one of our messages")
            said[:] = [message]
        if said[-1]["error"] == "timed out":
            raise TimeoutError
        return True             # what is left is that it ends, with code 0

    secret = secrets.token_hex(8)
    return run_programs(
        items, "prints", lambda item: {"secret": secret, "source": item[0], "timeout": timeout}, talk,
        lambda item, said, how: judge(said, how, item[1]), timeout, workers, unsafe, grace=2)


# ------------------------------------------------------- score ---------------------------------------------------

def read_samples(paths, problems):
    """Records of sample files, with the expected value from the problems. ValueError names the file and the line."""
    by_id, records = {p["id"]: p for p in problems}, []
    text = lambda x: json.dumps(x, sort_keys=True)      # where 1, True and "1" differ
    for path in paths:
        for number, r in read_lines(path):
            where = f"{path}, line {number}"
            problem = by_id.get(str(r.get("id")))
            if problem is None:
                raise ValueError(f"{where}: there is no problem with the id {r.get('id')!r}")
            if not isinstance(r.get("completions"), str):
                raise ValueError(f"{where}: completions must be there and be a text")
            given = text(r.get("input"))
            case = next((i for i, (g, _) in enumerate(problem["cases"]) if text(g) == given), None)
            if case is None:
                raise ValueError(f"{where}: problem {problem['id']} has no case with this input")
            gold = problem["cases"][case][1]
            if "gold_output" in r and text(r["gold_output"]) != text(gold):
                raise ValueError(f"{where}: gold_output is not that of problem {problem['id']}, case {case + 1}")
            logprob = r.get("prompt_logprob")
            humaneval.perplexity_of(logprob, where)
            records.append({"id": problem["id"], "case": case, "gold": gold, "program": r["completions"],
                            "logprob": logprob})
    if not records:
        raise ValueError(f"{', '.join(map(str, paths))}: there is no sample to score")
    return records


def mean(values):
    """The mean, and None of nothing: a figure that is not there is never 0."""
    values = list(values)
    return sum(values) / len(values) if values else None


def summarise(problems, records, verdicts, rules):
    """Pass rates, all of them means over problems as in the paper. verdicts: judge's dicts, one a record."""
    key = {"official": "passed", "strict": "passed_strict"}
    of, sums, reasons = defaultdict(list), defaultdict(lambda: [0.0, 0]), Counter()
    for r, v in zip(records, verdicts):
        of[r["id"]].append(v)
        failed = v["result"] if v["result"] != "passed" else v["ended"] or "failed"
        reasons["passed" if v[key[rules]] else failed.split(":")[0]] += 1
        if r["logprob"]:
            sums[r["id"]] = [a + b for a, b in zip(sums[r["id"]], r["logprob"])]
    scored = [p for p in problems if p["id"] in of]
    rate = {name: {p["id"]: mean(v[field] for v in of[p["id"]]) for p in scored} for name, field in key.items()}
    ours = rate[rules]
    level = lambda x: "hard" if x < 0.3 else "easy" if x > 0.7 else "medium"

    def by(group):
        groups = defaultdict(list)
        for p in scored:
            groups[group(p)].append(ours[p["id"]])
        return {k: {"problems": len(v), "pass_rate": mean(v)} for k, v in sorted(groups.items())}
    return {
        "rules": rules, "pass_rate": mean(ours.values()),
        "pass_rate_official": mean(rate["official"].values()), "pass_rate_strict": mean(rate["strict"].values()),
        "problems_scored": len(scored), "problems": len(problems), "programs": len(records), "results": dict(reasons),
        "cases_missing": sum(len(p["cases"]) for p in scored) - len({(r["id"], r["case"]) for r in records}
                                                                    ) - sum(doubles(p) for p in scored),
        "by_category": by(lambda p: p["category"]), "by_turns": by(lambda p: len(p["prompts"])),
        "by_difficulty": by(lambda p: level(ours[p["id"]])), "per_problem": rate,
        "prompt_perplexity": mean(math.exp(-total / n) for total, n in sums.values() if n),
    }


def doubles(problem):
    """How many cases of a problem repeat the input of an earlier one (problem 10 has one)."""
    inputs = [json.dumps(given, sort_keys=True) for given, _ in problem["cases"]]
    return len(inputs) - len(set(inputs))


def notes(scored_ids):
    """What is known to be wrong with the official data or missing on this machine, for the problems scored: lines."""
    lines = [f"problem {i}{', case ' + cases if cases else ''}: {what}" for i, cases, what in DEFECTS if i in scored_ids]
    for module, ids in NEEDS.items():
        ids = [i for i in ids if i in scored_ids]
        if ids and importlib.util.find_spec(module) is None:
            lines.append(f"{module} is not installed: problems {', '.join(ids)} cannot pass, whatever the model wrote")
    ids = [i for i in CSV if i in scored_ids]
    if ids:
        lines.append(f"the CSV files of problems {', '.join(ids)} were never distributed: they cannot pass")
    return lines


def score(problems, paths, rules="official", timeout=TIMEOUT, workers=CORES, unsafe=False,
          settings=None, source=None, results=None):
    """Run every sample, write FILE_results.jsonl beside the first file, print the report -> its
    figures as a dict.

    source: the problem file where it is not the official one. results: another place for the
    results; earlier ones stay until the new ones are complete."""
    records = read_samples(paths, problems)
    results = str(results or results_path(paths[0]))
    check_writable(results, *paths, *[source] * bool(source))
    items = [(r["program"], r["gold"]) for r in records]
    ran, isolation = judge_all(items, timeout, workers, unsafe)
    verdicts = [verdict for verdict, _ in ran]
    replace_file(results, "".join(json.dumps({"id": r["id"], "case": r["case"] + 1} | v) + "\n"
                                  for r, v in zip(records, verdicts)).encode())
    report = {"benchmark": str(source) if source else "mtpb", "official": not source}
    report |= summarise(problems, records, verdicts, rules)
    report |= {
        "timeout": timeout, "known": [] if source else notes(set(report["per_problem"][rules])),
        "results_file": results, "samples": [str(p) for p in paths], "workers": workers,
        "run_again": sum(again for _, again in ran), "isolation": isolation,
        "python": platform.python_version(), "numpy": np.__version__,
        "checkpoint": (settings or {}).get("checkpoint"), "settings": settings}
    tell(report, source)
    print(json.dumps(report))
    return report


def tell(report, source):
    """Print the figures of a report for people. source: see score."""
    percent = lambda rate: f"{100 * rate:6.2f} %"
    groups = ("category", "by_category"), ("turns", "by_turns"), ("difficulty", "by_difficulty")
    for title, key in groups:
        for name, group in report[key].items():
            rate = percent(group["pass_rate"])
            print(f"{title:10} {name!s:14} {rate}   {group['problems']} problems")
    print("difficulty: hard is a pass rate under 30 %, easy over 70 %, of this file's own samples")
    rates = report["per_problem"]
    for i in rates["official"]:
        both = (f"{name} {percent(rates[name][i])}" for name in ("official", "strict"))
        print(f"problem {i:>4}   " + "   ".join(both))
    for line in report["known"]:
        print(f"known: {line}")
    if report["prompt_perplexity"] is not None:
        print(f"perplexity of the prompts: {report['prompt_perplexity']:.3f}")
    if report["cases_missing"]:
        print(f"{report['cases_missing']} cases of these problems have no sample")
    if source:
        print(f"{source} is not the official MTPB")
    k, total = report["problems_scored"], report["problems"]
    print(f"{k} of {total} problems, {report['programs']} programs: pass rate "
          f"{100 * report['pass_rate_official']:.2f} % by the official rules, "
          f"{100 * report['pass_rate_strict']:.2f} % by the strict ones"
          + ("" if k == total else
             f"; not the score of the whole set, {total - k} problems have no sample"))
    if report["pass_rate"] < 0.01:
        print("that is near zero: this model does not solve these problems")


# ----------------------------------------------------- commands --------------------------------------------------

def parser():
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=raw, allow_abbrev=False)
    one_line_errors(p)
    commands = p.add_subparsers(dest="command", required=True)
    for name, what in (("generate", "sample programs"), ("score", "run and judge them"),
                       ("run", "generate and score")):
        c = commands.add_parser(name, help=what, description=what, allow_abbrev=False)
        flags.benchmark_flags(one_line_errors(c), name, "samples/mtpb.jsonl", TIMEOUT)
        if name != "score":
            c.add_argument("--mode", choices=("multi", "single"), default="multi",
                           help="turn by turn, or all prompts at once")
            c.add_argument("--n", type=flags.whole(1, 10_000), default=40,
                           help="samples a case (default 40, the paper's)")
            c.add_argument("--temperature", type=flags.number(0, 100), default=0.2,
                           help="0 is greedy (default 0.2)")
        if name != "generate":
            c.add_argument("--rules", choices=("official", "strict"), default="official",
                           help="whose verdicts to report")
        if name == "score":
            c.add_argument("samples", nargs="+", type=flags.file,
                           help="sample files, in the official sampler's form")
    return p


def generate_command(args, path):
    problems = read_problems(path)[:args.limit]
    import sample  # here because of JAX: a fault of the problem file need not wait for it
    settings, new_chat, logprob = humaneval.load_model(args, ("mode", "n", "temperature", "top_p", "seed", "ckpt"), path)
    settings["stop"] = "truncate_turn"
    generate(problems, args.out, settings, new_chat, logprob, sample.truncate_turn, args.batch_size)
    print(f"{len(problems)} problems are in {args.out}; next: python mtpb.py score {args.out}")


def run_command(args, path):
    """generate, then score, each in a process of its own: the one that starts programs never holds JAX."""
    first_worker(args.unsafe).stop()      # no isolation here? Better to hear it before hours of sampling
    pick = lambda *names: [f"--problems={path}", *pass_flags(args, names)]
    call_script(__file__, "generate", *pick("ckpt", "out", "mode", "n", "temperature", "top_p", "seed", "limit",
                                                      "batch_size"))
    call_script(__file__, "score", *pick("rules", "timeout", "workers", "results"),
                *["--unsafe"] * args.unsafe, "--", args.out)


def main():
    args = parser().parse_args()
    humaneval.start(args)
    path = Path(args.problems) if args.problems else find_benchmark("mtpb.jsonl")
    if args.command == "generate":
        generate_command(args, path)
    elif args.command == "run":
        run_command(args, path)
    else:
        source = None if is_official(path) else path
        score(read_problems(path), args.samples, args.rules, args.timeout, args.workers,
              args.unsafe, settings_of(args.samples[0]), source, args.results)


if __name__ == "__main__":
    cli(main)
