"""Reports of both benchmarks: the frame of the JSON line, and what is printed for people."""
from harness.samples import as_json

import json
import platform
from collections import Counter

import numpy as np

# ---- the frame -----------------------------------------------------------------------------------

def title_of(benchmark, source) -> dict:
    """How every report begins. source: the problem file where it is not the official one."""
    return {"benchmark": str(source) if source else benchmark, "official": not source}


def framed(benchmark, source, figures, settings) -> dict:
    """The whole report of samples. settings: the samples', None where they are not known."""
    return title_of(benchmark, source) | figures | {
        "python": platform.python_version(), "numpy": np.__version__,
        "checkpoint": (settings or {}).get("checkpoint"), "settings": settings}


def conclude(report, write, *verdicts):
    """Write the verdicts, write(*verdicts), and print the report as the last line: also where the
    disk is full, because both are hours of work."""
    try:
        write(*verdicts)
    finally:
        print(json.dumps(report))


def tell_if_near_zero(rate):
    if rate < 0.01:
        print("that is near zero: this model does not solve these problems")


# ---- HumanEval -----------------------------------------------------------------------------------

def choose_ks(ks, usual, records):
    """The k of pass@k that these samples allow: `ks`, those asked for, or else of the usual ones.
    ValueError for one that was asked for and is too large."""
    fewest = min(Counter(r["task_id"] for r in records).values())
    if ks and max(ks) > fewest:
        raise ValueError(f"pass@{max(ks)} needs at least {max(ks)} samples a problem and one has "
                         f"{fewest}: sample more, or lower --k")
    return [k for k in ks or usual if k <= fewest]


def tell_humaneval(figures, rates, solved):
    """Print the figures of humaneval.summarise for people. rates: {"pass@k": value}; solved: how
    many problems have a sample that passes."""
    scored, total = figures["problems_scored"], figures["problems"]
    endings = ", ".join(f"{n} {ending}" for ending, n in sorted(figures["results"].items()))
    print(f"{figures['programs']} programs: {endings} ({figures['run_again']} run again alone)")
    print(f"problems with a right sample: {solved} of {scored}")
    part = f" of these {scored} problems, not of the whole set of {total}" * (scored != total)
    for name, rate in rates.items():
        print(f"{name}{part}: {100 * rate:.2f} %")
    for name, group in (figures["prompt_perplexity"] or {}).items():
        if group["problems"]:
            error = group["standard_error"]
            print(f"prompt perplexity, {name.replace('_', ' ')} ({group['problems']}): "
                  f"{group['perplexity']:.2f}" + (f" +- {error:.2f}" if error is not None else ""))
    tell_if_near_zero(max(rates.values(), default=1))


# ---- MTPB ----------------------------------------------------------------------------------------

def endings(verdicts, field) -> dict:
    """{"passed" or why not, in a word: number of programs}. A program that passed officially alone
    failed by how it ended, or only by its value."""
    counts = Counter()
    for v in verdicts:
        why = v["result"] if v["result"] != "passed" else v["ended"] or "failed"
        counts["passed" if v[field] else why.split(":")[0]] += 1
    return dict(counts)


def cases_missing(scored, records) -> int:
    """How many cases of the problems scored have no sample. Cases with the same input are one
    (problem 10 has such)."""
    inputs = {(p["id"], as_json(given)) for p in scored for given, _ in p["cases"]}
    return len(inputs) - len({(r["id"], r["case"]) for r in records})


def tell_mtpb(report, source):
    """Print the report of mtpb.score for people. source: see there."""
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
    tell_if_near_zero(report["pass_rate"])
