"""The two ways of judging a problem like HumanEval's: by calls from outside, or beside the program.

The second is weaker, and only for files of one's own, whose tests may need more than plain values.
A way is OUTSIDE, INSIDE (by its tests beside the program, checks.py), or a text: why the problem
cannot be judged.
"""
from harness.messages import decode, encode
from harness.outside import run_programs
from harness.problems import EMPTY, fault_of, helpers_of, known_solution, program_of
from harness.reports import title_of

import functools
import json
import secrets
import time
from collections import Counter

OUTSIDE, INSIDE = "outside", "inside"

# ---- by calls ------------------------------------------------------------------------------------

class CandidateError(Exception):
    """What the candidate raised, seen from the tests."""


def job_by_calls(item):
    """What the isolated process gets: it defines the program, then answers calls of it. item:
    (problem, sample)."""
    problem, sample = item
    return {"secret": "", "source": program_of(problem, sample),
            "entry_point": problem["entry_point"]}


def await_definition(channel):
    """The first answer: the program is defined, or CandidateError."""
    defined = channel.receive()
    if defined.get("secret") != "" or "error" in defined:
        raise CandidateError(str(defined.get("error", "no answer"))[:300])


def call(channel, request):
    """One call of the candidate, in the isolated process -> its plain value. CandidateError is what
    it raised; any other error means that the program meddled with the channel.

    A call has a secret of its own. The program can read it, but not before it is called: no answer
    can have been written in advance."""
    secret = secrets.token_hex(8)
    channel.send(request | {"secret": secret})
    reply = channel.receive()
    exactly_one = ("error" in reply) != ("value" in reply)
    if reply.get("secret") != secret or not exactly_one:
        raise ValueError("not the answer to this call")     # Worker.run makes a failure of it
    if "error" in reply:
        raise CandidateError(str(reply["error"])[:300])
    return decode(reply["value"])


def candidate_of(channel):
    """-> (the candidate that the tests get, a function whose calls the isolated process answers; a
    list, of what goes wrong between the processes during a call)."""
    channel_errors = []

    def candidate(*args, **kwargs):
        # Outside the try, because an argument that cannot be sent is the tests' fault.
        request = {"args": encode(list(args)), "kwargs": encode(kwargs)}
        try:
            return call(channel, request)
        except CandidateError:              # the program's own: the tests may expect it
            raise
        except Exception as error:
            channel_errors.append(error)    # noted, too, because the tests may catch it
            raise
    return candidate, channel_errors


def names_of_tests(problem, candidate):
    """The names that the tests see: those of the prompt and its known solution (the problem file's,
    never a model's), because some prompts define helpers, with the candidate in the solution's
    place; then `check`."""
    names = {"__name__": "tests"}
    exec(compile_tests(helpers_of(problem), problem["test"]), names)
    names[problem["entry_point"]] = candidate
    return names


@functools.lru_cache(maxsize=1000)      # one for all samples of a problem
def compile_tests(program, test):
    return compile(f"{program}\n{test}\n", "tests", "exec")


# ---- beside the program --------------------------------------------------------------------------

def job_beside(item):
    """What the isolated process gets where the tests run there too. item: (problem, sample)."""
    problem, _ = item
    return job_by_calls(item) | {"test": problem["test"]}


def run_beside(item, channel, said):
    """Note "passed" or why not, with the tests in the isolated process, beside the program. What
    counts is a secret: it goes in once the program is defined, and comes back once the tests
    returned."""
    reply = channel.receive()
    if "error" not in reply:
        secret = secrets.token_hex(16)
        channel.send({"secret": secret})
        reply = channel.receive()
        if reply == {"secret": secret}:
            said.append("passed")
            return False                    # the program must be there still
    error = str(reply.get("error", "no answer"))[:300]
    known = {"AssertionError": "failed: wrong answer", "MemoryError": "out of memory"}
    said.append(known.get(error.split(":")[0], f"failed: {error}"))


# ---- which way -----------------------------------------------------------------------------------

def find_ways(problems, check):
    """How each problem of a file of one's own can be judged -> {task_id: way}.
    check(items, inside=task_ids) judges as humaneval.check_all.

    Outside where its known solution passes so (or none is known); inside where it passes only so,
    or where only so the tests see what a solution does to its arguments."""
    way_of = dict.fromkeys(problems, OUTSIDE)
    known = [(p, known_solution(p)) for p in problems.values() if known_solution(p) is not None]
    outside = check(known)
    failed = [(item, v["result"]) for item, v in zip(known, outside) if not v["passed"]]
    beside = check([item for item, _ in failed], inside=problems)
    for ((p, _), result), v in zip(failed, beside):
        why = f"its own solution fails, outside ({result}) and beside its tests ({v['result']})"
        way_of[p["task_id"]] = INSIDE if v["passed"] else why
    passed = [item for item, v in zip(known, outside) if v["passed"]]
    spoilt = [(p, careless_solution(p)) for p, _ in passed]
    beside = check([*spoilt, *passed], inside=problems)
    for (p, _), bad, good in zip(passed, beside, beside[len(spoilt):]):
        if good["passed"] and not bad["passed"]:
            way_of[p["task_id"]] = INSIDE
    return way_of


CARELESS = """
def careless(function):
    def spoil(*args, **kwargs):
        from copy import deepcopy
        result = function(*deepcopy(args), **deepcopy(kwargs))
        for x in (*args, *kwargs.values()):
            if isinstance(x, (list, dict, set)):
                if type(x) is type(result) and x == result:
                    return x
                x.clear()
        return result
    return spoil
NAME = careless(NAME)
"""


def careless_solution(problem):
    """The known solution, but it returns an argument itself where that equals the result, and
    empties other arguments. Tests that look at arguments after a call see it only beside the
    program."""
    wrapper = CARELESS.replace("NAME", problem["entry_point"])
    return {"solution": f"{helpers_of(problem)}\n{wrapper}"}


def is_judged(way) -> bool:
    return way in (OUTSIDE, INSIDE)


def inside_of(way_of) -> set:
    """The task_ids of the problems whose tests run beside the program."""
    return {task for task, way in way_of.items() if way == INSIDE}


def choose(records, problems, check, source):
    """-> (the records that can be judged, the task_ids whose tests run beside the program, what the
    report says of it). source: the problem file where it is not the official one; an official
    one's problems are all judged outside."""
    if not source:
        return records, set(), {}
    way_of = find_ways(problems, check)
    told = tell_ways(way_of, records, problems, source)
    judged = [r for r in records if is_judged(way_of[r["task_id"]])]
    return judged, inside_of(way_of), {"judging": told}


def judge_each(items, inside, run_tests, timeout, workers, unsafe):
    """Judge (problem, sample) pairs, each by the way of its problem -> the results of
    humaneval.check_all, in order. inside: the task_ids of INSIDE; run_tests: see humaneval."""
    for p in {id(p): p for p, _ in items}.values():
        if wrong := fault_of(p):
            raise ValueError(f"{p['task_id']}: {wrong}")

    def result_of(item, said, how):     # how: why the conversation broke off, "" if it did not,
        return how or said[-1]          # and then `said` holds what its end was

    def judge(some, runner, job, talk):     # runner: the file that runs in isolation
        ran, isolation = run_programs(some, runner=runner, job=job, talk=talk, judge=result_of,
                                      timeout=timeout, workers=workers, unsafe=unsafe)
        return iter([{"task_id": p["task_id"], "passed": result == "passed", "result": result,
                      "again": again, "isolation": isolation}
                     for (p, _), (result, again) in zip(some, ran)])

    is_inside = [p["task_id"] in inside for p, _ in items]
    outer = [item for item, there in zip(items, is_inside) if not there]
    inner = [item for item, there in zip(items, is_inside) if there]
    outer = judge(outer, "calls", job_by_calls, run_tests)
    inner = judge(inner, "checks", job_beside, run_beside)
    return [next(inner if there else outer) for there in is_inside]


def tell_ways(way_of, records, problems, source):
    """Say how a problem file that is not the official one is judged -> the same for the report."""
    samples, kinds = Counter(r["task_id"] for r in records), Counter(way_of.values())
    not_judged = {t: way for t, way in way_of.items() if not is_judged(way)}
    unknown = sum(known_solution(p) is None for p in problems.values())
    print(f"{source} is not the official HumanEval: of its {len(way_of)} problems {kinds[OUTSIDE]} "
          f"are judged outside, {kinds[INSIDE]} by tests beside the program, which is weaker, "
          f"{len(not_judged)} not at all")
    if unknown:
        print(f"{unknown} have no known solution: that they can be judged outside is not known")
    for task, why in not_judged.items():
        print(f"not judged: {task}: {why}; samples that count nowhere: {samples[task]}")
    return {"outside": kinds[OUTSIDE], "inside": kinds[INSIDE], "without_known_solution": unknown,
            "not_judged": not_judged}


def selftest(problems, check, source):
    """Known solutions must pass and empty bodies must not, on this machine, before a score means
    anything. check: humaneval.check_all; source: see `choose`."""
    if any(known_solution(p) is None for p in problems.values()):
        raise ValueError("the self-test needs a canonical_solution, a text, in each problem")
    begun = time.perf_counter()
    _, inside, _ = choose([], problems, check, source)
    passes = {}
    kinds = {"canonical solutions": known_solution, "empty bodies": lambda problem: EMPTY}
    for name, sample in kinds.items():
        items = [(p, sample(p)) for p in problems.values()]
        passes[name] = sum(v["passed"] for v in check(items, inside=inside))
        print(f"{name}: {passes[name]}/{len(problems)} pass")
    right = passes == {"canonical solutions": len(problems), "empty bodies": 0}
    print(json.dumps(title_of("humaneval", source) | {
        "selftest": "passed" if right else "failed", "problems": len(problems), "figures": passes,
        "seconds": round(time.perf_counter() - begun, 2)}))
    if not right:
        raise ValueError("the self-test failed: no score of this machine means anything")
