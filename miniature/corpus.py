"""The miniature corpora, made by seed: the paper's three (section 2.1) at the size of a laptop, and one for an ablation.

    nl       plain English about lists, words and numbers, and a few per cent of Python in it, as in THEPILE
    multi    small programs in the six languages of BIGQUERY, its name on a first line
    mono     Python alone, as BIGPYTHON: a comment and the code that does it, turn by turn; functions with docstrings;
             a few programs whose comments all stand at the top, so that a whole specification at once is not foreign
    apart    the documents of mono, line for line the same, with the comments of each moved to its top

    python miniature/corpus.py --kind multi --n 5      look at some documents
    python miniature/corpus.py --tokenizer             learn miniature.tiktoken anew, one for all corpora

A program assigns a value, works on it with one to four operations, each on the result of one before, and prints the last.
Which operations follow one another is what the held-out problems (problems.py) test: `held_out` sets a tenth of all
sequences of two or more operations aside, by a hash of their code. No document of any corpus contains one of those
sequences, all problems are such sequences. Wording, variable names and values vary in both.
"""
import argparse
import json
import random
import sys
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import flags  # noqa: E402
from harness.cli import cli, one_line_errors  # noqa: E402

KINDS = ("nl", "multi", "mono", "apart")
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
        return rng.sample(range(10), rng.randint(3, 5))
    if kind == "words":
        return rng.sample(WORDS, rng.randint(2, 3))
    if kind == "text":
        return " ".join(rng.sample(WORDS, rng.randint(1, 3)))
    if kind == "int":
        return rng.randint(2, 40)
    return {w: rng.randint(1, 9) for w in rng.sample(WORDS, rng.randint(2, 3))}


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
    """Whether this sequence of operations belongs to the benchmarks and never to a corpus.

    The hash is over their code: sorting a list and sorting the words of a list are two operations and one expression.
    """
    return len(operations) >= 2 and zlib.crc32("\n".join(CODE[o] for o in operations).encode()) % 10 == 0


def contains_held_out(operations) -> bool:
    """Whether any run of the sequence is held out: a problem must not occur inside a longer program either."""
    n = len(operations)
    return any(held_out(operations[i:j]) for i in range(n) for j in range(i + 2, n + 1))


def walk(rng, length, by_type=BY_TYPE):
    """Operations that fit one another: a start type, then each one takes what the one before gives."""
    while True:
        kind = start = rng.choice(list(by_type))
        ops = []
        while len(ops) < length and kind in by_type:
            ops.append(rng.choice(by_type[kind]))
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
    prompt, x = assign(start, v, rng, value)
    turns = [(prompt, f"{v} = {x}")]
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


def assign(kind, o, rng, value=""):
    """The turn that gives a variable o its value. value: text that stands for it (a {A} of a problem)."""
    x = value or json.dumps(make_value(kind, rng))
    return rng.choice(ASSIGN[kind]).replace("{x}", x).replace("{o}", o) + ".", x


COPIED = ["nums", "int"] + 2 * ["words", "text", "dict"]     # words, of several tokens each, are the hardest to copy


def assignments(rng, kinds):
    """Some values, one after the other, and no operation -> [(prompt, type, variable, value), ...].

    Copying a value out of a comment is what a small model learns last; here is more of it."""
    used, turns = [], []
    for _ in range(rng.randint(2, 4)):
        kind = rng.choice(kinds)
        o = fresh(kind, used, rng)
        prompt, x = assign(kind, o, rng)
        turns.append((prompt, kind, o, x))
    return turns


def render(turns, rng, apart=False):
    """The text of a program: mostly comment and code in turn, sometimes all comments first (the single-turn form)."""
    prefix = PREFIX if rng.random() < 0.7 else ""
    if rng.random() < 0.06:
        return prefix + "".join(f"# {p}\n" for p, _ in turns) + "\n".join(c for _, c in turns) + "\n"
    # An answer is cut where the next comment begins and the benchmark adds two line breaks: after one turn there may be four.
    gap = lambda: "\n" * rng.choice([2, 2, 4])
    text = "".join(f"{gap() if i else ''}# {p}\n{c}" for i, (p, c) in enumerate(turns)) + "\n"
    return prefix + (comments_first(text) if apart else text)


def comments_first(text):
    """The same lines in the same order, but all comments before all else."""
    return "".join(sorted(text.splitlines(keepends=True), key=lambda line: not line.startswith("#")))


def lower(sentence):
    return sentence[0].lower() + sentence[1:]


def function(start, ops, rng):
    """(head, body) of a function that does the operations one after the other, in HumanEval's form.

    The head ends with the docstring and without a line break: a break and the indentation after it are one token.
    """
    name = f"{rng.choice(['get', 'make', 'find', 'compute', 'build'])}_{rng.choice(['result', 'value', 'answer', 'output'])}"
    arg = v = rng.choice(NAMES[start])
    asks, lines = [], []
    for i, (_, _, _, code, *wordings) in enumerate(ops):
        k = str(rng.randint(2, 5))
        ask = rng.choice(wordings).format(v=v if i == 0 else "the result", k=k).replace('"', "")
        asks.append(ask if i == 0 else lower(ask))
        lines.append(("return " if i == len(ops) - 1 else "result = ") + code.format(v=v, k=k))
        v = "result"
    return f'def {name}({arg}):\n    """{", then ".join(asks)}."""', "".join(f"\n    {line}" for line in lines) + "\n"


def mono(rng, apart=False):
    """One document of Python -> (text, names of its operations, in order), or None where a sequence is held out."""
    form, ops = rng.random(), []
    if form < 0.25:
        text = render([(prompt, f"{o} = {x}") for prompt, _, o, x in assignments(rng, COPIED)], rng, apart)
    elif form < 0.53:
        start, ops = walk(rng, rng.choice([1, 1, 2, 2, 2, 3]))
        head, body = function(start, ops, rng)
        name = head[4:head.index("(")]
        x = json.dumps(make_value(start, rng))
        call = f"\n\n# Print {name} of {x}.\nprint({name}({x}))\n" if rng.random() < 0.5 else ""
        text = comments_first(head + body + call) if apart else head + body + call
    else:
        start, ops = walk(rng, rng.choice([0, 1, 1, 2, 2, 2, 3, 3, 4]))
        turns = program(start, ops, rng)
        if len(turns) > 6:
            return None
        text = render(turns, rng, apart)
    names = [op[0] for op in ops]
    return None if contains_held_out(names) else (text, names)


# ------------------------------------------------------ multi ---------------------------------------------------

# What the operations are in three languages, where they are one expression; "-" where they are not. {v} and {k} as above.
FOREIGN = {name: dict(zip(("JavaScript", "Java", "Go"), row)) for name, *row in (line.split(" ~ ") for line in """
sort ~ [...{v}].sort((a, b) => a - b) ~ {v}.stream().sorted().toList() ~ -
reverse ~ [...{v}].reverse() ~ - ~ -
double ~ {v}.map(i => 2 * i) ~ {v}.stream().map(i -> 2 * i).toList() ~ -
add_k ~ {v}.map(i => i + {k}) ~ {v}.stream().map(i -> i + {k}).toList() ~ -
times_k ~ {v}.map(i => i * {k}) ~ {v}.stream().map(i -> i * {k}).toList() ~ -
squares ~ {v}.map(i => i ** 2) ~ {v}.stream().map(i -> i * i).toList() ~ -
evens ~ {v}.filter(i => i % 2 == 0) ~ {v}.stream().filter(i -> i % 2 == 0).toList() ~ -
odds ~ {v}.filter(i => i % 2 == 1) ~ {v}.stream().filter(i -> i % 2 == 1).toList() ~ -
above_k ~ {v}.filter(i => i > {k}) ~ {v}.stream().filter(i -> i > {k}).toList() ~ -
first_k ~ {v}.slice(0, {k}) ~ {v}.stream().limit({k}).toList() ~ -
drop_first ~ {v}.slice(1) ~ {v}.stream().skip(1).toList() ~ {v}[1:]
append_k ~ [...{v}, {k}] ~ - ~ append({v}, {k})
sum ~ {v}.reduce((a, b) => a + b, 0) ~ {v}.stream().mapToInt(i -> i).sum() ~ -
length ~ {v}.length ~ {v}.size() ~ len({v})
to_strings ~ {v}.map(String) ~ {v}.stream().map(String::valueOf).toList() ~ -
upper ~ {v}.toUpperCase() ~ {v}.toUpperCase() ~ strings.ToUpper({v})
repeat_k ~ {v}.repeat({k}) ~ {v}.repeat({k}) ~ strings.Repeat({v}, {k})
exclaim ~ {v} + "!" ~ {v} + "!" ~ {v} + "!"
no_spaces ~ {v}.replaceAll(" ", "") ~ {v}.replace(" ", "") ~ strings.ReplaceAll({v}, " ", "")
dashes ~ {v}.replaceAll(" ", "-") ~ {v}.replace(" ", "-") ~ strings.ReplaceAll({v}, " ", "-")
split ~ {v}.split(" ") ~ List.of({v}.split(" ")) ~ strings.Fields({v})
text_length ~ {v}.length ~ {v}.length() ~ len({v})
join ~ {v}.join(" ") ~ String.join(" ", {v}) ~ strings.Join({v}, " ")
sort_words ~ [...{v}].sort() ~ {v}.stream().sorted().toList() ~ -
lengths ~ {v}.map(w => w.length) ~ {v}.stream().map(w -> w.length()).toList() ~ -
count_words ~ {v}.length ~ {v}.size() ~ len({v})
""".strip().splitlines())}
for same in ("plus_k", "minus_k", "mul_k", "mod_k", "half", "square"):      # arithmetic reads alike in all of them
    FOREIGN[same] = dict.fromkeys(("JavaScript", "Java", "Go", "C", "C++"),
                                  {"half": "{v} / 2", "square": "{v} * {v}"}.get(same, CODE[same]))
FOREIGN["half"] = FOREIGN["half"] | {"JavaScript": "Math.floor({v} / 2)"}

# Language: how a list is written, how a variable of each type is declared, how a value is printed.
LANGUAGES = {
    "JavaScript": ("[{}]", dict.fromkeys(NAMES, "let {o} = {e};"), "console.log({v});"),
    "Java": ("List.of({})", {"nums": "List<Integer> {o} = {e};", "words": "List<String> {o} = {e};",
                             "text": "String {o} = {e};", "int": "int {o} = {e};"}, "System.out.println({v});"),
    "Go": ("[]{t}{{{}}}", dict.fromkeys(NAMES, "{o} := {e}"), "fmt.Println({v})"),
    "C": ("", {"int": "int {o} = {e};"}, 'printf("%d\\n", {v});'),
    "C++": ("", {"int": "int {o} = {e};"}, "std::cout << {v} << std::endl;"),
}
BY_LANGUAGE = {language: {t: ops for t in ("nums", "words", "text", "int")
                          if (ops := [op for op in BY_TYPE[t] if FOREIGN.get(op[0], {}).get(language, "-") != "-"])}
               for language in LANGUAGES}


def multi(rng):
    """One document of one of six languages -> (text, operations), or None where a sequence is held out."""
    language = rng.choice(["Python", "Python", *LANGUAGES, "JavaScript", "Java"])
    if language == "Python":
        made = mono(rng)
        return made and ("Python\n" + made[0], made[1])
    literal, declare, show = LANGUAGES[language]
    written = lambda kind, x: x if kind in ("text", "int") else literal.format(x[1:-1], t="int" if kind == "nums" else "string")
    if rng.random() < 0.25:
        turns = [(prompt, declare[kind].format(o=o, e=written(kind, x)))
                 for prompt, kind, o, x in assignments(rng, list(BY_LANGUAGE[language]))]
        return language + "\n" + "\n\n".join(f"// {p}\n{c}" for p, c in turns) + "\n", []
    start, ops = walk(rng, rng.choice([1, 1, 2, 2, 3]), BY_LANGUAGE[language])
    names = [op[0] for op in ops]
    if contains_held_out(names):
        return None
    used = []
    v = fresh(start, used, rng)
    prompt, x = assign(start, v, rng)
    turns = [(prompt, declare[start].format(o=v, e=written(start, x)))]
    for name, _, types, _, *asks in ops:
        out, k = types.split()[1], str(rng.randint(2, 5))
        o = fresh(out, used, rng)
        turns.append((rng.choice(asks).format(v=v, k=k) + rng.choice(INTO).format(o=o) + ".",
                      declare[out].format(o=o, e=FOREIGN[name][language].format(v=v, k=k))))
        v = o
    turns.append((rng.choice(PRINT).format(v=v) + ".", show.format(v=v)))
    return language + "\n" + "\n\n".join(f"// {p}\n{c}" for p, c in turns) + "\n", names


# ------------------------------------------------------- nl -----------------------------------------------------

NOUN = {"nums": "the list", "words": "the list", "text": "the phrase", "int": "the number", "dict": "the table"}
PEOPLE = "Mia Tom Anna Ben Lea Max Eva Paul Ida Leo".split()
ADJECTIVES = "small old red quiet bright tall young cold happy green".split()
ANIMALS = "cat dog bird fish horse".split()
VERBS = "saw found followed liked left watched passed remembered".split()
PLACES = "near the river|under the tree|behind the house|in the rain|by the fire|on the hill|at night|in the morning".split("|")


def spoken(value):
    """A value as a sentence says it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        value = [f"{k} {n}" for k, n in value.items()]
    if isinstance(value, list):
        some = [str(i) for i in value]
        return ", ".join(some[:-1]) + " and " + some[-1] if len(some) > 1 else some[0] if some else "nothing"
    return str(value)


def english(ask, kind, k):
    """A wording of an operation as English says it."""
    for noun in ("dictionary", "dict", "string", "list of strings"):
        ask = ask.replace(f'the {noun} "{{v}}"', '"{v}"')
    return lower(ask.format(v=NOUN[kind], k=k).replace('"', ""))


def nl(rng):
    """One document of plain English, or of Python for 7 in 100 (the paper's share of code in THEPILE is 7.6 %)."""
    form, (who, other) = rng.random(), rng.sample(PEOPLE, 2)
    if form < 0.07:
        return mono(rng)
    if form < 0.2:          # somebody repeats what was said
        said = " ".join(rng.sample(WORDS + ANIMALS + ADJECTIVES, rng.randint(4, 10)))
        return f'{who} says "{said}" and {other} says "{said}" too.\n', []
    if form < 0.3:          # about nothing much
        noun = lambda: f"the {rng.choice(ADJECTIVES)} {rng.choice(ANIMALS + WORDS)}"
        some = [f"{noun()} {rng.choice(VERBS)} {noun()} {rng.choice(PLACES)}" for _ in range(rng.randint(3, 6))]
        return " ".join(s[0].upper() + s[1:] + "." for s in some) + "\n", []
    if form < 0.5:          # what an operation is, in other words
        op = rng.choice(OPERATIONS)
        kind = op[2].split()[0]
        k = rng.randint(2, 5)
        first, second, third = [english(a, kind, k) for a in rng.sample(op[4:7], 3)]
        return f"To {first} is to {second}. In other words, {third}.\n", [op[0]]
    start, ops = walk(rng, rng.choice([1, 1, 2, 2, 3]))     # somebody does it, and what comes out
    names = [op[0] for op in ops]
    if contains_held_out(names):
        return None
    value = make_value(start, rng)
    text = [f"{who} has {NOUN[start].replace('the', 'a')} called {rng.choice(NAMES[start])}: {spoken(value)}."]
    if rng.random() < 0.7:
        text.append(f"{other} has the same: {spoken(value)}.")
    for _, _, types, code, *asks in ops:
        k = rng.randint(2, 5)
        what = english(rng.choice(asks), types.split()[0], k)
        value = eval(code.format(v="v", k=k), {"v": value})     # our own code, not a model's
        text.append(f"{rng.choice(['Now', 'Then', 'Next'])} {who} wants to {what}. This gives {spoken(value)}.")
    return " ".join(text) + "\n", names


# --------------------------------------------------- the corpora ------------------------------------------------

def documents_with_ops(kind, seed, n):
    """(document, names of its operations in order), n of them, the same for the same seed. kind: one of KINDS."""
    if kind not in KINDS:
        raise ValueError(f"unknown corpus {kind!r}: use one of {', '.join(KINDS)}")
    make = {"nl": nl, "multi": multi, "mono": mono, "apart": lambda rng: mono(rng, apart=True)}[kind]
    rng = random.Random(f"{'mono' if kind == 'apart' else kind}-{seed}")
    while n:
        made = make(rng)
        if made:
            n -= 1
            yield made


def documents(kind, seed, n):
    """n documents of a corpus, the same for the same seed."""
    return (text for text, _ in documents_with_ops(kind, seed, n))


def parser():
    """The command line."""
    p = one_line_errors(argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False))
    p.add_argument("--kind", default="mono", choices=KINDS, help="which corpus (default mono)")
    p.add_argument("--seed", type=flags.whole(0), default=0, help="of the documents (default 0)")
    p.add_argument("--n", type=flags.whole(0), default=20,
                   help="how many documents (default 20; 0: none)")
    p.add_argument("--tokenizer", action="store_true",
                   help="learn miniature.tiktoken from the three corpora, and exit")
    return p


def main():
    args = parser().parse_args()
    if args.tokenizer:
        from corpora.bpe import learn_bpe
        from corpora.vocabulary import write_tiktoken
        texts = (text for kind in ("nl", "multi", "mono") for text in documents(kind, args.seed, 6000))
        write_tiktoken(Path(__file__).with_name("miniature.tiktoken"), learn_bpe(texts, 1024))
    else:
        sys.stdout.write("\n-----\n".join(documents(args.kind, args.seed, args.n)))


if __name__ == "__main__":
    cli(main)
