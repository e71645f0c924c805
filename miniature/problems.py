"""The two held-out benchmarks of the miniature, in the formats of the official files: humaneval.jsonl and mtpb.jsonl.

    python miniature/problems.py      rewrite both files beside this one

Every problem is a sequence of operations that no document of any corpus contains (`corpus.held_out`). Expected values come
from running the reference code on drawn inputs.
"""
import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.files import replace_file  # noqa: E402

from corpus import function, held_out, make_value, program, walk  # noqa: E402

CATEGORIES = ("string", "array", "math", "dict", "algorithm")


def sequences(rng, lengths, seen):
    """Held-out sequences of operations without end -> (start type, operations, names, category), none that is in seen."""
    while True:
        start, ops = walk(rng, rng.choice(lengths))
        names = tuple(op[0] for op in ops)
        if held_out(names) and names not in seen and ops[-1][2].split()[1] != "dict":
            yield start, ops, names, ops[-1][1] if start != "dict" else "dict"


def telling(steps):
    """Whether cases tell right code from wrong. steps: for each case the value after each operation, start included."""
    outputs = [values[-1] for values in steps]
    if len({json.dumps(o) for o in outputs}) < (2 if isinstance(outputs[0], bool) else 4):
        return False
    if any(o in ([], "") for o in outputs) or any(values[-1] == values[0] for values in steps):
        return False
    # An operation that changes nothing in any case could as well be left out.
    return not any(before == after for before, after in zip(zip(*steps), list(zip(*steps))[1:]))


def cases(start, run, rng, n=5):
    """n different inputs and what run(value) -> list of values, one after each step, makes of them."""
    values, steps = [], []
    while len(values) < n:
        value = make_value(start, rng)
        if value not in values:
            values.append(value)
            steps.append(run(value))
    return values, steps


def mtpb(n=100, seed=1234):
    """n problems as in the paper's mtpb.jsonl: a turn for the value, one for each operation, one that prints."""
    rng, problems, seen, wanted = random.Random(seed), [], set(), dict.fromkeys(CATEGORIES, n // 5)
    for start, ops, names, category in sequences(rng, [2, 2, 3, 3, 4], seen):
        if not wanted[category]:
            continue
        turns = program(start, ops, rng, "{A}", function_share=0)
        prompts = [p.replace("{A}", "\0").replace("{", "{{").replace("}", "}}").replace("\0", "{A}") for p, _ in turns]

        def run(value, turns=turns):
            scope = {}
            exec("\n".join(c for _, c in turns[:-1]).replace("{A}", json.dumps(value)), scope)      # our own code
            return [scope[code.split(" = ")[0]] for _, code in turns[:-1]]

        values, steps = cases(start, run, rng)
        if not telling(steps):
            continue
        wanted[category] -= 1
        seen.add(names)
        problems.append(dict(prompts=prompts, inputs=[{"A": json.dumps(v)} for v in values], outputs=[s[-1] for s in steps],
                             max_gen_length=48, category=category, name=" ".join(names),
                             description=f"{start}, then {', '.join(names)}.", id=str(len(problems) + 1)))
        if not any(wanted.values()):
            return problems


def humaneval(n=50, seed=4321):
    """n problems as in HumanEval.jsonl: a signature and a docstring, a solution, and a check of five calls.

    A prompt ends with its docstring and without the line break of the official ones: see corpus.function.
    """
    rng, problems, wanted = random.Random(seed), [], dict.fromkeys(CATEGORIES, n // 5)
    seen = {tuple(p["name"].split()) for p in mtpb()}
    for start, ops, names, category in sequences(rng, [2, 2, 3], seen):
        if not wanted[category]:
            continue
        prompt, solution = function(start, ops, rng)
        entry_point = prompt[4:prompt.index("(")]
        arg, body = prompt[len(f"def {entry_point}("):prompt.index(")")], solution.strip().splitlines()

        def run(value, arg=arg, body=body):
            steps, scope = [value], {arg: value}
            for line in body:
                exec(line.strip().replace("return ", "result = "), scope)       # our own code
                steps.append(scope["result"])
            return steps

        values, steps = cases(start, run, rng)
        if not telling(steps):
            continue
        wanted[category] -= 1
        seen.add(names)
        calls = [f"    assert candidate({v!r}) == {s[-1]!r}\n" for v, s in zip(values, steps)]
        problems.append(dict(task_id=f"Miniature/{len(problems)}", prompt=prompt, entry_point=entry_point,
                             canonical_solution=solution, test="def check(candidate):\n" + "".join(calls),
                             category=category, name=" ".join(names)))
        if not any(wanted.values()):
            return problems


if __name__ == "__main__":
    for make in (humaneval, mtpb):
        path = Path(__file__).with_name(f"{make.__name__}.jsonl")
        replace_file(path, "".join(json.dumps(row) + "\n" for row in make()).encode())
        print(f"wrote {path}")
