"""The Multi-Turn Programming Benchmark (paper, section 4): say a program turn by turn, run it,
compare what it printed.

    python mtpb.py generate --ckpt out --out samples.jsonl [--mode multi|single --n 40 --limit 5]
    python mtpb.py score samples.jsonl [--rules official|strict]
    python mtpb.py run --ckpt out                               both

A problem has 3 to 9 prompts and 5 cases, which fill the prompts' templates. The paper samples 40
programs a case. A program passes when the first argument of its last print is the expected value.
Where its last statement calls no name that begins with print, the value of that statement, if it
has one, is printed, too (the official scorer's rewrite, print_last in harness/prints.py). The pass
rate is the share that passes.

By the official rules the value alone counts, also of a program that then crashed. The strict rules,
which are ours and not the paper's, want a clean end too and forgive fewer casts: see
harness/printed.py.
"""
from harness import benchmark, parts, reports, samples
from harness.cli import CORES, cli
from harness.defects import notes
from harness.messages import Series
from harness.printed import TOLERANCE, as_text, check_strict, decode_printed, ending_of, run_all
from harness.problems import MOST_CASES, PREFIX, read_mtpb

import math
from collections import Counter, defaultdict
from functools import partial

import numpy as np
from tqdm import tqdm

MAX_GEN_LENGTH = 256        # tokens a turn where the problem names none (problems 39 to 45)
TIMEOUT = 20                # seconds a program, the official limit
OFFICIAL_SCALARS = (np.uint8, np.int16, np.int32, np.int64, np.float16, np.float32, np.float64,
                    np.bool_)       # the official scorer's list: other scalars stay numpy's


# ---- problems and templates ----------------------------------------------------------------------

def read_problems(path):
    """MTPB's file, or one in its form -> [problem], in file order.

        id                "17"
        category          "string"; "none" where the file has none
        prompts           3 to 9 templates    ['Assign {x} to "n".', 'Add 1 to "n".', 'Print "n".']
        inputs            5 dicts             [{"x": 3}, {"x": 5}, ...]
        outputs           5 values            [4, 6, ...]
        cases             both, at most 100   [({"x": 3}, 4), ({"x": 5}, 6), ...]
        max_gen_length    tokens that an answer may have; MAX_GEN_LENGTH where it is not there

    ValueError names the line, the problem and what is wrong: a template that does not fill, ..."""
    return read_mtpb(path)


def fill(problem, case):
    """The prompts of one case. str.format, not replace: five problems hold doubled braces."""
    given, _ = problem["cases"][case]
    return [p.format(**given) for p in problem["prompts"]]


# ---- conversations -------------------------------------------------------------------------------

def asks(problem, case, mode):
    """What is asked in each turn: ["# p0\\n", "# p1\\n", ...], in single mode all in one turn:
    ["# p0\\n# p1\\n..."]."""
    comments = [f"# {prompt}\n" for prompt in fill(problem, case)]
    return comments if mode == "multi" else ["".join(comments)]


def history(asked, answers):
    """The pieces of a program: PREFIX, then for each turn what was asked and its answer with two
    newlines."""
    pieces = [PREFIX]
    for ask, answer in zip(asked, answers):
        pieces += [ask, answer + "\n\n"]
    return pieces


def converse(problem, rows, mode, chat, stop):
    """Hold the conversations rows = [(case, sample), ...] of one problem, all rows together, turn
    by turn -> the pieces of each row's program, and the most tokens that any history had to drop.

        turn 0   the chat gets  PREFIX "# p0\\n"      and answers  a0
        turn 1                  "\\n\\n" "# p1\\n"                 a1      (it remembers the rest)
        the program             PREFIX "# p0\\n" a0 "\\n\\n" "# p1\\n" a1 "\\n\\n"

    stop: the released truncation rule in both modes (what the paper did in single-turn mode was not
    released). A single answer may have the tokens of all the turns.
    """
    asked = [asks(problem, case, mode) for case, _ in rows]         # [row][turn]
    answers = [[] for _ in rows]                                    # [row][turn], so far
    limit = problem.get("max_gen_length", MAX_GEN_LENGTH)
    if mode == "single":
        limit *= len(problem["prompts"])
    most_dropped = 0
    for turn in range(len(asked[0])):
        before = "\n\n" if turn else PREFIX     # what stands between the history and what is asked
        texts = [before + row[turn] for row in asked]
        found = chat.turn(texts, limit, stop=stop, keep_newest=True)    # [(answer, why it ended)]
        for row, (answer, _) in zip(answers, found):
            row.append(answer)
        most_dropped = max(most_dropped, *chat.dropped)
    return [history(*row) for row in zip(asked, answers)], most_dropped


def prompt_spans(pieces):
    """Where the prompts stand in a program -> [(start, end)], in characters.

    pieces: [PREFIX, ask, answer, ask, answer, ...], so the asks are pieces 1, 3, 5; each starts
    where the piece before it ends."""
    ends = np.cumsum([len(p) for p in pieces]).tolist()
    return [(ends[i - 1], ends[i]) for i in range(1, len(pieces), 2)]


def generate(problems, path, settings, new_chat, logprob, stop, batch_size=64):
    """Sample every problem that the file `path` lacks and append its records.

    settings: dict with mode, n and what else makes a sample what it is (see samples.resume).
    new_chat, logprob: as of humaneval.generate. A record is the official sampler's (see
    harness/samples.py), whose gold_output is the expected value. The first of each case also holds
    prompt_logprob: [sum of log p, tokens] of its prompts, given its own code between them.
    """
    mode, n = settings["mode"], settings["n"]
    ours = parts.share(list(enumerate(problems)), settings.get("part"))
    wanted = programs_of([p for _, p in ours], n)
    with samples.resume(path, settings, "id", wanted) as done:      # ids that the file holds whole
        for index, p in tqdm(ours, "problems", disable=None):
            if p["id"] in done:
                continue
            rows = [(case, j) for case in range(len(p["cases"])) for j in range(n)]
            size = min(batch_size, len(rows))
            programs = write_programs(index, p, rows, mode, new_chat, stop, size)
            records = []
            for (case, _), pieces in zip(rows, programs):
                given, expected = p["cases"][case]
                records.append({"id": p["id"], "input": given, "gold_output": expected,
                                "completions": "".join(pieces), "prompts_completions": pieces})
            firsts = range(0, len(rows), n)     # rows go case by case: the first sample of each
            texts = ["".join(programs[i]) for i in firsts]
            spans = [prompt_spans(programs[i]) for i in firsts]
            for i, likelihood in zip(firsts, logprob(texts, spans=spans)):
                records[i]["prompt_logprob"] = list(likelihood)
            samples.append_records(path, records)


def programs_of(problems, n) -> dict:
    """{id: number of programs} with n samples a case."""
    return {p["id"]: n * len(p["cases"]) for p in problems}


def sample_id(index, case, j) -> int:
    """The number of a sample among all. Its draws depend on this and the seed alone: neither on its
    batch nor on n. The two limits are checked, so no two samples share a number."""
    return (index * MOST_CASES + case) * samples.MOST_SAMPLES + j


def write_programs(index, problem, rows, mode, new_chat, stop, size):
    """Hold the conversations of rows [(case, sample)] of the problem number `index`, `size` of them
    together -> the pieces of each program."""
    programs, most = [], 0
    for batch, wanted in samples.batches(rows, size):
        chat = new_chat([sample_id(index, case, j) for case, j in batch])
        pieces, dropped = converse(problem, batch, mode, chat, stop)
        programs += pieces[:wanted]
        most = max(most, dropped)
    if most:
        tqdm.write(f"problem {problem['id']}: a history outgrew the context; "
                   f"up to {most} of its oldest tokens were not seen")
    return programs


# ---- verdicts ------------------------------------------------------------------------------------

def check_equivalence(printed, expected) -> bool:
    """The official comparison (the paper's "relaxed" equality) with all its leniencies. The rules
    in order: 2 and 4 change what was printed, and the next ones go on with that; the others decide.
    Where one raises, False.

        1  a pandas Series       numpy.allclose, which broadcasts and has rtol 1e-5
        2  a list of tuples      becomes a list of lists; the first item tells
           numpy's               becomes Python's, for OFFICIAL_SCALARS and arrays
        3  a bool is expected    and something else printed: texts are compared, because
                                 bool("False") is True
        4  another type          is cast to the expected one: "12" and 12.7 are 12, a set is a list,
                                 "ab" is ["a", "b"]
        5  a float               may differ by 1e-6, but not inside a list
        6  else                  equal; a dict or None is never right
    """
    try:
        kind = type(printed)
        if isinstance(printed, Series):                                     # 1
            return bool(np.allclose(printed.array, np.array(expected)))
        if kind is list and printed and type(printed[0]) is tuple:          # 2
            printed = [list(item) for item in printed]
        elif kind in OFFICIAL_SCALARS:                                      # 2
            printed = printed.item()
        elif kind is np.ndarray:                                            # 2
            printed = printed.tolist()
        if type(expected) is bool and type(printed) is not bool:            # 3
            return str(printed) == str(expected)
        if type(printed) is not type(expected):                             # 4
            printed = type(expected)(printed)
        if type(expected) is float:                                         # 5
            return abs(printed - expected) < TOLERANCE
        return type(expected) in (str, int, bool, list, tuple, set) and bool(printed == expected)
    except Exception:       # int("x"), a list of arrays has no truth value, ...
        return False


def judge(said, how, expected):
    """One run -> dict: passed and passed_strict, the verdicts; result, "passed" or why not, by the
    official rules; ended, "" or why the program did not end well; printed, as text.

        printed             end             passed     passed_strict
        right               clean           yes        yes
        right               crash, hang     yes        no
        right but "lost"    clean           no         yes
        wrong, nothing      any             no         no

    What is right check_equivalence and check_strict say, each for its column. "lost" is why the
    official scorer would not have got hold of the value, as after sys.stdout.close(). An end is
    clean when it is so seen from outside (`how` is "") and the program tells of no error itself:
    what it says can make its end worse, never better.

    said: at most one message, {"printed", "error", "lost", "end"} of harness/prints.py; how: "" or
    how the program ended badly. Both come from Worker.run in harness/outside.py.
    """
    message = said[-1] if said else {"printed": None, "error": None}
    lost, bad_end = message.get("lost", ""), ending_of(message["error"], how)
    why_not = lambda value: bad_end or f"failed: {lost or value}"
    verdict = {"passed": False, "passed_strict": False, "result": why_not("nothing printed"),
               "ended": bad_end, "printed": ""}
    if message["printed"] is None:
        return verdict
    try:
        printed = decode_printed(message["printed"])
    except Exception:       # the program got hold of the channel
        return verdict | {"result": "failed: an unreadable value"}
    passed = not lost and check_equivalence(printed, expected)
    passed_strict = not bad_end and check_strict(printed, expected)
    return verdict | {"passed": passed, "passed_strict": passed_strict,
                      "result": "passed" if passed else why_not("wrong value"),
                      "printed": as_text(printed)}


def judge_all(items, timeout=TIMEOUT, workers=CORES, unsafe=False):
    """Run (program, expected value) pairs in isolation -> [(judge's dict, run again)], and how they
    were isolated."""
    return run_all(items, judge, timeout, workers, unsafe)


# ---- pass rate and perplexity (Table 4) ----------------------------------------------------------

VERDICT = {"official": "passed", "strict": "passed_strict"}     # rules -> the field of judge's dict


def mean(values):
    """The mean, and None of nothing: a figure that is not there is never 0."""
    values = list(values)
    return sum(values) / len(values) if values else None


def pass_rates(records, verdicts, field) -> dict:
    """{id: the share of a problem's programs that pass}, in the order of the records."""
    passes = defaultdict(list)
    for r, v in zip(records, verdicts):
        passes[r["id"]].append(v[field])
    return {name: mean(values) for name, values in passes.items()}


def prompt_perplexity(records):
    """exp(-sum of log p / tokens) of a problem, the prompts of all its cases taken together; then
    the mean over problems. None without likelihoods."""
    totals, tokens = Counter(), Counter()
    for r in records:
        if r["logprob"]:
            total, count = r["logprob"]
            totals[r["id"]] += total
            tokens[r["id"]] += count
    return mean(math.exp(-totals[name] / tokens[name]) for name in totals)


def difficulty(rate) -> str:
    """How hard a problem is, in the paper's bounds, by the pass rate of the samples judged."""
    if rate < 0.3:
        return "hard"
    return "easy" if rate > 0.7 else "medium"


def grouped(problems, rates, group_of):
    """-> {group: {"problems": how many, "pass_rate": the mean of theirs}}. rates: {id: rate}."""
    groups = defaultdict(list)
    for p in problems:
        groups[group_of(p)].append(rates[p["id"]])
    return {group: {"problems": len(values), "pass_rate": mean(values)}
            for group, values in sorted(groups.items())}


def summarise(problems, records, verdicts, rules):
    """Pass rates, all of them means over problems as in the paper. verdicts: judge's dicts, one a
    record; rules: "official" or "strict", those that `pass_rate` and the groups go by."""
    with_samples = {r["id"] for r in records}
    scored = [p for p in problems if p["id"] in with_samples]
    rates = {}      # rates["official"]["17"]: the share of problem 17's programs that pass so
    for name, field in VERDICT.items():
        rate_of = pass_rates(records, verdicts, field)
        rates[name] = {p["id"]: rate_of[p["id"]] for p in scored}       # in the problems' order
    chosen = rates[rules]                                               # {id: rate}
    by = partial(grouped, scored, chosen)
    return {
        "rules": rules, "pass_rate": mean(chosen.values()),
        "pass_rate_official": mean(rates["official"].values()),
        "pass_rate_strict": mean(rates["strict"].values()),
        "problems_scored": len(scored), "problems": len(problems), "programs": len(records),
        "results": reports.endings(verdicts, VERDICT[rules]),
        "cases_missing": reports.cases_missing(scored, records),
        "by_category": by(lambda p: p["category"]), "by_turns": by(lambda p: len(p["prompts"])),
        "by_difficulty": by(lambda p: difficulty(chosen[p["id"]])), "per_problem": rates,
        "prompt_perplexity": prompt_perplexity(records),
    }


# ---- the report ----------------------------------------------------------------------------------

def score(problems, paths, rules="official", timeout=TIMEOUT, workers=CORES, unsafe=False,
          source=None, results=None):
    """Run every sample, write FILE_results.jsonl beside the first file, print the report -> its
    figures as a dict.

    source: the problem file where it is not the official one. results: another place for the
    results; earlier ones stay until the new ones are complete."""
    records, settings = parts.gather(
        paths, lambda path: samples.read_conversations(path, problems), "id",
        lambda settings: programs_of(problems, settings["n"]))
    results = benchmark.results_file(results, paths, source)
    items = [(r["program"], r["gold"]) for r in records]
    ran, isolation = judge_all(items, timeout, workers, unsafe)
    verdicts = [verdict for verdict, _ in ran]
    # known: faults of the official file's problems, in the paper's figures, too
    figures = summarise(problems, records, verdicts, rules) | {
        "timeout": timeout, "known": [] if source else notes({r["id"] for r in records}),
        "results_file": results, "samples": [str(p) for p in paths], "workers": workers,
        "run_again": sum(again for _, again in ran), "isolation": isolation}
    report = reports.framed("mtpb", source, figures, settings)
    reports.tell_mtpb(report, source)
    reports.conclude(report, samples.write_case_results, results, records, verdicts)
    return report


# ---- the command ---------------------------------------------------------------------------------

def parser():
    """The parser of `python mtpb.py`, with the paper's settings as defaults."""
    return benchmark.mtpb_parser(__doc__, TIMEOUT, temperature=0.2, n=40)


def generate_command(args, path):
    problems = read_problems(path)[:args.limit]
    marks = benchmark.take_part(args)       # ("part", "limit") of a divided run
    from runs.sampling import load_model  # it imports JAX, which must wait for take_part
    names = "mode", "n", "temperature", "top_p", "seed", "ckpt", *marks
    settings, *model = load_model(args, names, path, "truncate_turn")
    generate(problems, args.out, settings, *model, args.batch_size)
    benchmark.tell_next("mtpb.py", args, len(problems))


def run_command(args, path):
    counts = programs_of(read_problems(path)[:args.limit], args.n)
    files = [(args.out, args.temperature, args.results)]
    benchmark.run(__file__, args, path, files, "id", counts)


def main():
    args, path, source = benchmark.begin(parser(), "mtpb.jsonl")
    if args.command == "generate":
        generate_command(args, path)
    elif args.command == "run":
        run_command(args, path)
    else:
        score(read_problems(path), args.samples, args.rules, source=source, results=args.results,
              **benchmark.limits_of(args))


if __name__ == "__main__":
    cli(main)
