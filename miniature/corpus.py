"""The miniature corpus: small Python programs, a comment and then the code that does it, turn by turn, made by seed.

    python miniature/corpus.py --out FILE.jsonl --n 1000      look at some programs
    python miniature/corpus.py --benchmark                    rewrite miniature/mtpb.jsonl, the held-out problems

A program assigns a value, works on it with one to four operations, each on the result of one before, and prints the last.
Which operations follow one another is what the held-out problems test: `held_out` sets a tenth of all sequences of two or
more operations aside, by a hash of their names. No program of the corpus contains one of those sequences; all problems of
the benchmark are such sequences. Wording, variable names and values vary in both.
"""
import argparse
import json
import random
import sys
import zlib
from pathlib import Path

PREFIX = "# Import libraries.\n\nimport numpy as np\n\n"      # each history of the paper's benchmark begins with it

WORDS = ("apple banana cherry grape lemon mango melon olive peach pear plum red blue green black white cat dog bird fish "
         "horse tree river stone cloud rain snow wind fire light").split()

NAMES = {   # what a variable of each type may be called
    "nums": "nums values numbers data items scores arr xs".split(), "words": "words names tags fruits labels parts".split(),
    "text": "text s phrase line message title".split(), "int": "n x k count number total".split(),
    "dict": "d table stock ages prices".split(),
}


def make_value(kind, rng):
    """A value of one of the five types, small enough to be copied token by token."""
    if kind == "nums":
        return [rng.randint(0, 20) for _ in range(rng.randint(3, 6))]
    if kind == "words":
        return rng.sample(WORDS, rng.randint(2, 4))
    if kind == "text":
        return " ".join(rng.sample(WORDS, rng.randint(1, 3)))
    if kind == "int":
        return rng.randint(2, 40)
    return {w: rng.randint(1, 20) for w in rng.sample(WORDS, rng.randint(2, 3))}


# Name, category, type in -> type out, code, and three or more ways to ask for it. {v} is the variable, {k} a number 1 to 5.
OPERATIONS = [line.split(" | ") for line in """
sort | array | nums nums | sorted({v}) | Sort "{v}" in ascending order | Put "{v}" in increasing order | Arrange "{v}" from smallest to largest
sort_down | array | nums nums | sorted({v}, reverse=True) | Sort "{v}" in descending order | Put "{v}" in decreasing order | Arrange "{v}" from largest to smallest
reverse | array | nums nums | {v}[::-1] | Reverse "{v}" | Turn "{v}" around | Take "{v}" in reverse order
double | array | nums nums | [2 * i for i in {v}] | Double each element of "{v}" | Multiply every number in "{v}" by two | Take twice each value of "{v}"
add_k | array | nums nums | [i + {k} for i in {v}] | Add {k} to each element of "{v}" | Increase every number in "{v}" by {k} | Raise each value of "{v}" by {k}
times_k | array | nums nums | [i * {k} for i in {v}] | Multiply each element of "{v}" by {k} | Scale every number in "{v}" by {k} | Take {k} times each value of "{v}"
squares | array | nums nums | [i ** 2 for i in {v}] | Square each element of "{v}" | Compute the squares of the numbers in "{v}" | Raise every value of "{v}" to the power of two
evens | array | nums nums | [i for i in {v} if i % 2 == 0] | Keep only the even numbers of "{v}" | Select the even elements of "{v}" | Filter "{v}" to its even values
odds | array | nums nums | [i for i in {v} if i % 2 == 1] | Keep only the odd numbers of "{v}" | Select the odd elements of "{v}" | Filter "{v}" to its odd values
above_k | array | nums nums | [i for i in {v} if i > {k}] | Keep the numbers of "{v}" greater than {k} | Select the elements of "{v}" above {k} | Filter "{v}" to values larger than {k}
first_k | array | nums nums | {v}[:{k}] | Take the first {k} elements of "{v}" | Keep the first {k} numbers of "{v}" | Select the leading {k} values of "{v}"
last_k | array | nums nums | {v}[-{k}:] | Take the last {k} elements of "{v}" | Keep the last {k} numbers of "{v}" | Select the final {k} values of "{v}"
drop_first | array | nums nums | {v}[1:] | Remove the first element of "{v}" | Drop the first number of "{v}" | Leave out the first value of "{v}"
unique | array | nums nums | sorted(set({v})) | Sort the distinct elements of "{v}" | Remove duplicates from "{v}" and sort | Take the unique values of "{v}" in order
append_k | array | nums nums | {v} + [{k}] | Append {k} to "{v}" | Put {k} at the end of "{v}" | Extend "{v}" with {k}
sum | math | nums int | sum({v}) | Compute the sum of "{v}" | Add up all numbers in "{v}" | Find the total of "{v}"
max | math | nums int | max({v} + [0]) | Find the largest element of "{v}", at least 0 | Compute the maximum of "{v}" and 0 | Get the biggest number in "{v}" or 0
length | array | nums int | len({v}) | Count the elements of "{v}" | Find the length of "{v}" | Get how many numbers "{v}" has
count_even | algorithm | nums int | sum(i % 2 == 0 for i in {v}) | Count the even numbers in "{v}" | Find how many elements of "{v}" are even | Get the number of even values in "{v}"
count_above | algorithm | nums int | sum(i > {k} for i in {v}) | Count the numbers of "{v}" above {k} | Find how many elements of "{v}" are greater than {k} | Get the number of values in "{v}" larger than {k}
sum_squares | math | nums int | sum(i ** 2 for i in {v}) | Compute the sum of the squares of "{v}" | Add up the squared numbers in "{v}" | Find the total of the squares of "{v}"
running | algorithm | nums nums | [sum({v}[:i + 1]) for i in range(len({v}))] | Compute the running sums of "{v}" | Find the cumulative sums of "{v}" | Take the prefix sums of "{v}"
differences | algorithm | nums nums | [b - a for a, b in zip({v}, {v}[1:])] | Compute the differences of neighbours in "{v}" | Find the steps between consecutive elements of "{v}" | Subtract each number of "{v}" from the next
every_second | algorithm | nums nums | {v}[::2] | Take every second element of "{v}" | Keep every other number of "{v}" | Select the values of "{v}" at even positions
to_strings | array | nums words | [str(i) for i in {v}] | Convert each element of "{v}" to a string | Turn the numbers in "{v}" into strings | Make strings of the values of "{v}"
plus_k | math | int int | {v} + {k} | Add {k} to "{v}" | Increase "{v}" by {k} | Compute "{v}" plus {k}
minus_k | math | int int | {v} - {k} | Subtract {k} from "{v}" | Decrease "{v}" by {k} | Compute "{v}" minus {k}
mul_k | math | int int | {v} * {k} | Multiply "{v}" by {k} | Compute {k} times "{v}" | Take the product of "{v}" and {k}
square | math | int int | {v} ** 2 | Square "{v}" | Compute the square of "{v}" | Raise "{v}" to the power of two
mod_k | math | int int | {v} % {k} | Compute the remainder of "{v}" divided by {k} | Take "{v}" modulo {k} | Find what is left of "{v}" after dividing by {k}
half | math | int int | {v} // 2 | Halve "{v}", rounding down | Divide "{v}" by two without remainder | Compute the integer half of "{v}"
digits | algorithm | int nums | [int(c) for c in str(abs({v}))] | List the digits of "{v}" | Split "{v}" into its digits | Get the decimal digits of "{v}"
upto | algorithm | int nums | list(range(1, {v} % 10 + 1)) | List the numbers from 1 to "{v}" modulo 10 | Count from 1 to the last digit of "{v}" | Make the range from 1 to "{v}" modulo 10
is_even | math | int bool | {v} % 2 == 0 | Check whether "{v}" is even | Test if "{v}" is an even number | Find out if "{v}" divides by two
upper | string | text text | {v}.upper() | Convert "{v}" to uppercase | Make "{v}" upper case | Turn all letters of "{v}" into capitals
title | string | text text | {v}.title() | Capitalize each word of "{v}" | Convert "{v}" to title case | Make every word in "{v}" start with a capital
reverse_text | string | text text | {v}[::-1] | Reverse the string "{v}" | Spell "{v}" backwards | Write the letters of "{v}" in reverse order
repeat_k | string | text text | {v} * {k} | Repeat "{v}" {k} times | Write "{v}" {k} times in a row | Concatenate {k} copies of "{v}"
exclaim | string | text text | {v} + "!" | Add an exclamation mark to "{v}" | Append "!" to "{v}" | Put an exclamation mark after "{v}"
head_k | string | text text | {v}[:{k}] | Take the first {k} characters of "{v}" | Keep the first {k} letters of "{v}" | Cut "{v}" to {k} characters
no_spaces | string | text text | {v}.replace(" ", "") | Remove the spaces from "{v}" | Delete all blanks in "{v}" | Strip every space out of "{v}"
dashes | string | text text | {v}.replace(" ", "-") | Replace the spaces in "{v}" with dashes | Put dashes for the blanks in "{v}" | Change every space of "{v}" to a dash
split | string | text words | {v}.split() | Split "{v}" into words | Break "{v}" at its spaces | Get the list of words in "{v}"
text_length | string | text int | len({v}) | Count the characters of "{v}" | Find the length of the string "{v}" | Get how many characters "{v}" has
vowels | algorithm | text int | sum(c in "aeiou" for c in {v}.lower()) | Count the vowels in "{v}" | Find how many vowels "{v}" has | Get the number of vowels of "{v}"
join | string | words text | " ".join({v}) | Join "{v}" with spaces | Combine the strings in "{v}" into one text | Put the words of "{v}" together with blanks
sort_words | array | words words | sorted({v}) | Sort the words in "{v}" alphabetically | Put the strings of "{v}" in alphabetical order | Arrange "{v}" from A to Z
lengths | array | words nums | [len(w) for w in {v}] | Compute the lengths of the words in "{v}" | Find how long each string in "{v}" is | Get the length of every word of "{v}"
reverse_words | array | words words | {v}[::-1] | Reverse the order of the words in "{v}" | Turn the list of strings "{v}" around | Take the words of "{v}" from last to first
count_words | array | words int | len({v}) | Count the words in "{v}" | Find the number of strings in "{v}" | Get how many words "{v}" has
index_words | dict | words dict | {{w: len(w) for w in {v}}} | Map each word of "{v}" to its length | Make a dictionary from the words in "{v}" to their lengths | Build a dict of word lengths from "{v}"
keys | dict | dict words | list({v}.keys()) | List the keys of "{v}" | Get all keys of the dictionary "{v}" | Collect the keys of "{v}"
dict_values | dict | dict nums | list({v}.values()) | List the values of "{v}" | Get all values of the dictionary "{v}" | Collect the values of the dict "{v}"
dict_size | dict | dict int | len({v}) | Count the entries of "{v}" | Find the size of the dictionary "{v}" | Get how many keys "{v}" has
best_key | dict | dict text | max({v}, key={v}.get) | Find the key of "{v}" with the largest value | Get the key with the highest value in "{v}" | Take the key of "{v}" whose value is the maximum
sort_keys | dict | dict words | sorted({v}) | Sort the keys of "{v}" | List the keys of "{v}" in alphabetical order | Put the keys of the dict "{v}" in order
""".strip().splitlines()]

ASSIGN = {
    "nums": ['Assign the list {x} to a variable named "{o}"', 'Create a list "{o}" with the numbers {x}', 'Let "{o}" be the list {x}'],
    "words": ['Assign the list {x} to a variable named "{o}"', 'Create a list "{o}" of the strings {x}', 'Let "{o}" be the list {x}'],
    "text": ['Assign the string {x} to a variable named "{o}"', 'Create a string "{o}" with the text {x}', 'Let "{o}" be the string {x}'],
    "int": ['Assign the number {x} to a variable named "{o}"', 'Create an integer "{o}" equal to {x}', 'Let "{o}" be {x}'],
    "dict": ['Assign the dictionary {x} to a variable named "{o}"', 'Create a dict "{o}" with the entries {x}', 'Let "{o}" be the dictionary {x}'],
}
INTO = [' and assign it to "{o}"', ' and store the result in "{o}"', ' as "{o}"']
PRINT = ['Print "{v}"', 'Print the value of "{v}"', 'Show "{v}"', 'Print the variable {v}']
BY_TYPE = {t: [op for op in OPERATIONS if op[2].split()[0] == t] for t in NAMES}


CODE = {name: code for name, _, _, code, *_ in OPERATIONS}


def held_out(operations) -> bool:
    """Whether this sequence of operations belongs to the benchmark and never to the corpus.

    The hash is over their code: sorting a list and sorting the words of a list are two operations and one expression.
    """
    return len(operations) >= 2 and zlib.crc32("\n".join(CODE[o] for o in operations).encode()) % 10 == 0


def contains_held_out(operations) -> bool:
    """Whether any run of the sequence is held out: a problem must not occur inside a longer program either."""
    n = len(operations)
    return any(held_out(operations[i:j]) for i in range(n) for j in range(i + 2, n + 1))


def walk(rng, length):
    """Operations that fit one another: a start type, then each one takes what the one before gives."""
    while True:
        kind = start = rng.choice(list(NAMES))
        ops = []
        while len(ops) < length and kind in BY_TYPE:
            ops.append(rng.choice(BY_TYPE[kind]))
            kind = ops[-1][2].split()[1]
        if len(ops) == length:
            return start, ops


def fresh(kind, used, rng):
    """A variable name for a type that is not in use yet."""
    pool = [n for n in NAMES.get(kind, NAMES["int"]) if n not in used] or [f"result{len(used)}"]
    used.append(rng.choice(pool))
    return used[-1]


def program(start, ops, rng, value="", function_share=0.12):
    """Turns [(prompt, code), ...] for a sequence. value: text that stands for the first value (a {A} of a problem)."""
    used = []
    v = fresh(start, used, rng)
    x = value or json.dumps(make_value(start, rng))
    turns = [(rng.choice(ASSIGN[start]).replace("{x}", x).replace("{o}", v) + ".", f"{v} = {x}")]
    for name, _, types, code, *asks in ops:
        k = str(rng.randint(2, 5))
        fill = lambda s, k=k, **names: s.format(k=k, **names)
        into, out = types.split()
        if rng.random() < function_share:
            f, arg = f"{rng.choice(['get', 'make', 'find'])}_{name.removesuffix('_k')}", NAMES[into][-1]
            what = fill(rng.choice(asks), v=arg).replace('"', "")
            turns.append((f'Write a function "{f}" that takes "{arg}": {what[0].lower()}{what[1:]}.',
                          f'def {f}({arg}):\n    """{what}."""\n    return {fill(code, v=arg)}'))
            o = fresh(out, used, rng)
            turns.append((rng.choice([f'Call "{f}" on "{v}"', f'Apply "{f}" to "{v}"', f'Use "{f}" with "{v}"'])
                          + rng.choice(INTO).format(o=o) + ".", f"{o} = {f}({v})"))
        else:
            o = fresh(out, used, rng)
            turns.append((fill(rng.choice(asks), v=v) + rng.choice(INTO).format(o=o) + ".", f"{o} = {fill(code, v=v)}"))
        v = o
    turns.append((rng.choice(PRINT).format(v=v) + ".", f"print({v})"))
    return turns


def render(turns, rng):
    """The text of a program: mostly comment and code in turn, sometimes all comments first (the single-turn form)."""
    prefix = PREFIX if rng.random() < 0.7 else ""
    if rng.random() < 0.1:
        return prefix + "".join(f"# {p}\n" for p, _ in turns) + "\n".join(c for _, c in turns) + "\n"
    return prefix + "\n\n".join(f"# {p}\n{c}" for p, c in turns) + "\n"


def documents_with_ops(kind, seed, n):
    """(document, its operation names), n of them. kind: "mono"."""
    if kind != "mono":
        raise ValueError(f"the miniature corpus {kind!r} is not made yet: use miniature:mono")
    rng = random.Random(f"{kind}-{seed}")
    while n:
        start, ops = walk(rng, rng.choice([0, 1, 1, 2, 2, 2, 3, 3, 4]))
        names = [op[0] for op in ops]
        if contains_held_out(names):
            continue
        turns = program(start, ops, rng)
        if not ops and rng.random() < 0.5:
            turns = turns[:1]
        if len(turns) <= 6:
            n -= 1
            yield render(turns, rng), names


def documents(kind, seed, n):
    """n documents of a corpus, the same for the same seed."""
    return (text for text, _ in documents_with_ops(kind, seed, n))


def benchmark(n=100, seed=1234):
    """n held-out problems in the format of the paper's mtpb.jsonl; golds come from running the reference code."""
    rng = random.Random(seed)
    wanted = {c: n // 5 for c in ("string", "array", "math", "dict", "algorithm")}
    problems, seen = [], set()
    while sum(wanted.values()):
        start, ops = walk(rng, rng.choice([2, 2, 3, 3, 4]))
        names = tuple(op[0] for op in ops)
        category = ops[-1][1] if start != "dict" else "dict"
        if not held_out(names) or names in seen or not wanted.get(category) or ops[-1][2].split()[1] == "dict":
            continue
        turns = program(start, ops, rng, "{A}", function_share=0)
        prompts = [p.replace("{A}", "\0").replace("{", "{{").replace("}", "}}").replace("\0", "{A}") for p, _ in turns]
        inputs, outputs, steps = [], [], []
        while len(inputs) < 5:
            value = make_value(start, rng)
            shown = json.dumps(value)
            scope = {}
            exec("\n".join(c for _, c in turns[:-1]).replace("{A}", shown), scope)   # our own code, not a model's
            values = [scope[code.split(" = ")[0]] for _, code in turns[:-1]]
            if shown not in [i["A"] for i in inputs]:
                inputs.append({"A": shown})
                outputs.append(values[-1])
                steps.append(values)
        if len({json.dumps(o) for o in outputs}) < (2 if isinstance(outputs[0], bool) else 4):
            continue
        if any(o in ([], "") for o in outputs) or any(values[-1] == values[0] for values in steps):
            continue
        if any(before == after for before, after in zip(zip(*steps), list(zip(*steps))[1:])):
            continue    # an operation that changes nothing in any case could as well be left out
        wanted[category] -= 1
        seen.add(names)
        problems.append(dict(prompts=prompts, inputs=inputs, outputs=outputs, max_gen_length=64, category=category,
                             name=" ".join(names), description=f"{start}, then {', '.join(names)}.", id=str(len(problems) + 1)))
    return problems


def write(path, rows):
    """One JSON value a line, under another name until it is whole."""
    temp = path.with_name(path.name + ".tmp")
    temp.write_text("".join(json.dumps(row) + "\n" for row in rows))
    temp.rename(path)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("--kind", default="mono", choices=["mono"], help="which corpus (default mono)")
    p.add_argument("--seed", type=int, default=0, help="of the programs (default 0)")
    p.add_argument("--n", type=int, default=20, help="how many documents (default 20)")
    p.add_argument("--out", help="write them here, one JSON string a line, instead of printing them")
    p.add_argument("--benchmark", action="store_true", help="rewrite mtpb.jsonl beside this file")
    args = p.parse_args()
    if args.benchmark:
        path = Path(__file__).with_name("mtpb.jsonl")
        write(path, benchmark())
        print(f"wrote {path}")
    elif args.out:
        write(Path(args.out), documents(args.kind, args.seed, args.n))
    else:
        sys.stdout.write("\n-----\n".join(documents(args.kind, args.seed, args.n)))


if __name__ == "__main__":
    main()
