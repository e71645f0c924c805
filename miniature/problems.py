"""The two held-out benchmarks of the miniature, in the formats of the official files:
humaneval.jsonl and mtpb.jsonl.

    python miniature/problems.py      rewrite both files beside this one

Every problem is a sequence of operations that no document of any corpus contains
(`corpus.held_out`). The first fifth of each file is for a first model (`corpus.FIRST`); the others,
of the instrument, are longer, and some give several values. Expected values come from running the
reference code on drawn inputs.
"""
import json
import random
import re
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.files import replace_file  # noqa: E402

from miniature.corpus import (  # noqa: E402
    FIRST,
    INSTRUMENT,
    function,
    held_out,
    make_value,
    program,
)
from miniature.draws import Draw  # noqa: E402
from miniature.operations import OPERATIONS  # noqa: E402

CATEGORIES = ("string", "array", "math", "dict", "algorithm")
OF = {op.name: op for op in OPERATIONS}
GIVEN = ("{A}", "{B}", "{C}")

# What is asked: level and share of the problems. The corpora have shorter and longer ones; six
# turns are what a context of 256 holds with all their answers.
MTPB = [(FIRST._replace(values=(1,), lengths=(2, 2, 3)), 0.2),
        (INSTRUMENT._replace(values=(1, 1, 2, 3), lengths=(2, 2, 3, 4, 4), turns=6), 0.8)]
HUMANEVAL = [(FIRST._replace(functions=(2, 2, 3)), 0.2),
             (INSTRUMENT._replace(functions=(2, 2, 3, 4)), 0.8)]


def told_apart(outputs):
    """Whether the outputs of the cases tell right code from wrong: different ones, none empty."""
    different = len({json.dumps(o) for o in outputs})
    return different >= (2 if isinstance(outputs[0], bool) else 4) and not any(
        o in ([], "", {}) for o in outputs)


def all_matter(codes, scopes):
    """Whether each assignment of a program is read by a later one, and none gives in every case
    what it has read, so that it could as well be left out. scopes: the values, case by case."""
    names = [code.split(" = ")[0] for code in codes]
    reads = [[n for n in names[:i] if re.search(rf"\b{n}\b", code.split(" = ", 1)[1])]
             for i, code in enumerate(codes)]
    idle = any(all(s[o] == s[n] for s in scopes) for o, read in zip(names, reads) for n in read)
    return not idle and set(sum(reads, [])) == set(names[:-1])


def drawn_inputs(kinds, level, rng, n=5):
    """n different inputs -> [[value of each kind], ...]."""
    found = []
    while len(found) < n:
        values = [make_value(Draw(rng), kind, level) for kind in kinds]
        if values not in found:
            found.append(values)
    return found


def balanced(n, levels, make, seen):
    """n problems, a fifth of them of each category. make(level) -> (names, category, problem) or
    None; seen: names that are taken."""
    problems = []
    for level, share in levels:
        wanted = Counter(dict.fromkeys(CATEGORIES, round(n * share) // len(CATEGORIES)))
        while wanted.total():
            made = make(level)
            if made and made[0] not in seen and wanted[made[1]]:
                names, category, problem = made
                seen.add(names)
                wanted[category] -= 1
                problems.append(problem | dict(category=category, name=" ".join(names)))
    return problems


def category_of(names, kinds):
    """That of the last operation, and dict where one is given. A problem that ends in a dict is
    none."""
    last = OF[names[-1]]
    return None if last.out == "dict" else "dict" if "dict" in kinds else last.category


def mtpb(n=100, seed=1234):
    """n problems as in the paper's mtpb.jsonl: a turn for each value and each operation, one that
    prints."""
    rng = random.Random(seed)

    def make(level):
        p = program(Draw(rng), level, free=True, functions=0, given=GIVEN)
        if not held_out(p.done):
            return None
        codes = [code for _, code in p.turns[:-1]]
        kinds = list(p.scope.values())[:-len(p.done)]
        category = category_of(p.done, kinds)
        if not category:
            return None
        inputs, scopes = drawn_inputs(kinds, level, rng), []
        for values in inputs:
            code = "\n".join(codes)
            for given, value in zip(GIVEN, values):
                code = code.replace(given, json.dumps(value))
            scopes.append({})
            exec(code, scopes[-1])                          # our own code, not a model's
        outputs = [scope[list(p.scope)[-1]] for scope in scopes]
        if not told_apart(outputs) or not all_matter(codes, scopes):
            return None
        return p.done, category, dict(
            prompts=[comment for comment, _ in p.turns], outputs=outputs, max_gen_length=48,
            inputs=[{g[1]: json.dumps(v) for g, v in zip(GIVEN, values)} for values in inputs],
            description=f"{' and '.join(kinds)}, then {', '.join(p.done)}.")

    problems = balanced(n, MTPB, make, set())
    return [p | dict(id=str(i)) for i, p in enumerate(problems, 1)]


def humaneval(n=100, seed=4321):
    """n problems as in HumanEval.jsonl: a signature and a docstring, a solution, and a check of
    five calls."""
    rng = random.Random(seed)

    def make(level):
        draw = Draw(rng)
        kind, ops = function(draw, level, free=True)
        names = tuple(op.name for op in ops)
        category = held_out(names) and category_of(names, [kind])
        if not category:
            return None
        head = '."""\n'
        end = draw.text.index(head) + len(head)
        prompt, solution = draw.text[:end], draw.text[end:]
        entry_point, arg = re.match(r"def (\w+)\((\w+)\)", prompt).groups()
        values = [value for value, in drawn_inputs([kind], level, rng)]
        steps = [stepwise(value, solution, arg) for value in values]
        outputs = [s[-1] for s in steps]
        idle = any(before == after for before, after in zip(zip(*steps), list(zip(*steps))[1:]))
        if idle or outputs == values or not told_apart(outputs):
            return None
        calls = [f"    assert candidate({v!r}) == {o!r}\n" for v, o in zip(values, outputs)]
        return names, category, dict(prompt=prompt, entry_point=entry_point,
                                     canonical_solution=solution,
                                     test="def check(candidate):\n" + "".join(calls))

    problems = balanced(n, HUMANEVAL, make, {tuple(p["name"].split()) for p in mtpb()})
    return [dict(task_id=f"Miniature/{i}") | p for i, p in enumerate(problems)]


def stepwise(value, solution, arg):
    """The values that a solution goes through, its argument first."""
    steps, scope = [value], {arg: value}
    for line in solution.strip().splitlines():
        exec(line.strip().replace("return ", "result = "), scope)       # our own code
        steps.append(scope["result"])
    return steps


if __name__ == "__main__":
    for make in (humaneval, mtpb):
        path = Path(__file__).with_name(f"{make.__name__}.jsonl")
        replace_file(path, "".join(json.dumps(row) + "\n" for row in make()).encode())
        print(f"wrote {path}")
