"""The miniature corpora, made by seed: the paper's three (section 2.1) at the size of a laptop.

    nl       plain English about lists, words and numbers, and some Python in it, as in THEPILE
    multi    small programs in the six languages of BIGQUERY, its name on a first line
    mono     Python alone, as BIGPYTHON: a comment and the code that does it, turn by turn, and
             functions with docstrings; of some programs all comments stand at the top

    python miniature/corpus.py --kind multi --n 5      look at some documents
    python miniature/corpus.py --kind mono@50          of the instrument
    python miniature/corpus.py --tokenizer             learn miniature.tiktoken anew

Each exists on two levels. nl, multi and mono are for a first model: 56 operations, each on the
result of the one before. nl@S, multi@S and mono@S are the instrument: 123 operations, some of them
hard to tell apart or on two variables, longer programs, larger numbers, and a dial: S per cent of
the programs have all their comments at the top. Two positions of the dial give the same documents,
line for line, in another order; so mono@0 against mono@100 is the ablation "do comments have to
stand beside their code".

Which operations follow one another is what the held-out problems (problems.py) test: `held_out`
sets a tenth of all sequences of two or more operations aside, by a hash of their code. No document
of any corpus contains one of them, all problems are such sequences. Wording, names and values vary
in both. Every choice is a draw of known probability (draws.py): entropy.py says how well a model of
mono can do at best.
"""
import argparse
import json
import random
import sys
import zlib
from collections import namedtuple
from functools import lru_cache, partial
from pathlib import Path
from string import Formatter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import flags  # noqa: E402
from harness.cli import cli, one_line_errors  # noqa: E402

from miniature.draws import Draw  # noqa: E402
from miniature.operations import (  # noqa: E402
    ASSIGN,
    BASIC,
    CODE,
    FOREIGN,
    INTO,
    LANGUAGES,
    NAMES,
    OPERATIONS,
    PRINT,
    WORDS,
)

KINDS = ("nl", "multi", "mono")
PREFIX = "# Import libraries.\n\nimport numpy as np\n\n"     # the paper's benchmark begins with it

# How hard a corpus is. values, lengths, functions: how many values a program begins with, how many
# operations it has at most, and how many a function; each entry is as likely as the next. turns:
# the most of a program. numbers, ks: ranges of the numbers in lists and in operations. back: how
# likely an operation on an older variable is, against 4 for the newest.
Level = namedtuple("Level", "operations values lengths functions turns numbers ks back")
FIRST = Level(tuple(BASIC), (1, 2, 2, 3, 4), (0, 0, 0, 1, 2, 2, 2, 3, 3, 4), (1, 1, 2, 2, 2, 3), 6,
              range(10), range(2, 6), 0)
INSTRUMENT = Level(tuple(OPERATIONS), (1, 1, 2, 2, 3), (0, 1, 1, 2, 2, 3, 3, 4, 5, 6),
                   (1, 1, 2, 2, 3, 4), 7, range(50), range(2, 10), 1)
FIRST_SHARE = 6     # per cent of a first model's programs that say everything at the top


# ------------------------------------------------- held out --------------------------------------

def held_out(operations) -> bool:
    """Whether this sequence of operations belongs to the benchmarks and never to a corpus.

    The hash is over their code: sorting a list and sorting the words of a list are two operations
    and one expression."""
    code = "\n".join(CODE[o] for o in operations)
    return len(operations) >= 2 and zlib.crc32(code.encode()) % 10 == 0


@lru_cache(1 << 18)
def allowed(operations) -> bool:
    """Whether no run at the end of a tuple of names is held out: a problem must not occur inside a
    longer program either."""
    return not any(held_out(operations[i:]) for i in range(len(operations) - 1))


# ------------------------------------------------- the pieces ------------------------------------

def goes_on(draw, lengths, done) -> bool:
    """Whether something that has `done` parts gets another, so that its length is drawn from
    lengths. Asked part by part, because what was drawn must soon be seen (draws.derivations)."""
    reached = sum(length >= done for length in lengths)
    return bool(reached) and draw.chance(sum(length > done for length in lengths) / reached)


@lru_cache
def pieces(template):
    return [(literal, name) for literal, name, *_ in Formatter().parse(template)]


def say(draw, template, **fields):
    """Write a template -> {field: its text}. A field is drawn where it is reached: fields are
    functions that draw, write and return."""
    said = {}
    for literal, name in pieces(template):
        draw.write(literal)
        if name:
            said[name] = fields[name]()
    return said


def fresh(draw, kind, used):
    """Write a variable name for a type that is not in use yet -> it."""
    pool = [n for n in NAMES.get(kind, NAMES["int"]) if n not in used] or [f"result{len(used)}"]
    return draw.write(draw.choice(pool))


def value(draw, kind, level):
    """Write a value of one of the five types, as Python and JSON do -> it."""
    begin = len(draw.text)
    if kind == "int":
        draw.write(str(draw.randint(2, 40)))
    elif kind == "nums":
        listed(draw, "[]", ", ", draw.sample(level.numbers, draw.randint(3, 5)), "{}")
    elif kind == "words":
        listed(draw, "[]", ", ", draw.sample(WORDS, draw.randint(2, 3)), '"{}"')
    elif kind == "text":
        listed(draw, '""', " ", draw.sample(WORDS, draw.randint(1, 3)), "{}")
    else:
        listed(draw, "{}", ", ", draw.sample(WORDS, draw.randint(2, 3)), '"{}": ',
               lambda: draw.write(str(draw.randint(1, 9))))
    return draw.text[begin:]


def listed(draw, around, between, items, form, after=lambda: None):
    draw.write(around[0])
    for i, item in enumerate(items):
        draw.write((between if i else "") + form.format(item))
        after()
    draw.write(around[1])


def make_value(draw, kind, level=FIRST):
    """A value, written nowhere."""
    return json.loads(value(Draw(draw.rng), kind, level))


def number(draw, level):
    return draw.write(str(draw.choice(level.ks)))


def chain(draw, kind, operations, lengths, free=False):
    """Operations that fit one another, drawn as they are asked for: the first takes a value of this
    kind, each other what the one before gives. free: held-out sequences too."""
    done = ()
    while goes_on(draw, lengths, len(done)):
        fitting = [op for op in operations if op.into == kind and not op.other
                   and (free or allowed((*done, op.name)))]
        if not fitting:
            return
        op = draw.choice(fitting)
        done, kind = (*done, op.name), op.out
        yield op


def lower(sentence):
    return sentence[0].lower() + sentence[1:]


# ------------------------------------------------- programs --------------------------------------

class Program:
    """A program under way. Each comment is written as it is drawn; its code below it or, moved,
    below all comments. turns: [(comment, code)]; scope: {variable: type}, the newest last;
    done: names of the operations. free: held-out sequences too."""

    def __init__(self, draw, level, moved=False, free=False, functions=0.12):
        self.draw, self.level, self.moved, self.free = draw, level, moved, free
        self.functions = functions      # how often an operation is asked for as a function
        self.turns, self.scope, self.done = [], {}, ()
        # An answer is cut where the next comment begins, and the benchmark adds two line breaks:
        # after a turn there may be four.
        self.gap = "\n" * draw.choice((2, 4), (2, 1))

    def turn(self, ask):
        """One turn. ask() writes the comment and returns the code."""
        self.draw.write("# " if self.moved or not self.turns else self.gap + "# ")
        begin = len(self.draw.text)
        code = ask()
        comment = self.draw.text[begin:]
        self.draw.write("\n" + ("" if self.moved else code))
        self.turns.append((comment, code))

    def end(self):
        """Print the newest variable, and write what is left."""
        v = list(self.scope)[-1]
        self.turn(lambda: say(self.draw, self.draw.choice(PRINT) + ".",
                              v=lambda: self.draw.write(v)) and f"print({v})")
        if self.moved:
            self.draw.write(self.gap.join(code for _, code in self.turns))
        self.draw.write("\n")

    def assign(self, kind, given=""):
        """A turn that gives a new variable its value. given: text for it (a {A} of a problem)."""
        def ask():
            said = say(self.draw, self.draw.choice(ASSIGN[kind]) + ".", o=self.new(kind),
                       x=lambda: self.draw.write(given) if given else
                       value(self.draw, kind, self.level))
            self.scope[said["o"]] = kind
            return f"{said['o']} = {said['x']}"
        self.turn(ask)

    def new(self, kind):
        return lambda: fresh(self.draw, kind, self.scope)

    def operate(self) -> bool:
        """A turn for one operation on variables of the scope, or two for a function and its call.
        False: there is none that fits."""
        as_function = (len(self.turns) + 2 < self.level.turns
                       and self.draw.chance(self.functions))
        fitting, weights = self.fitting(as_function)
        if not fitting:
            return False
        op = self.draw.choice(fitting, weights)
        self.done = (*self.done, op.name)
        if as_function:
            self.as_function(op)
        else:
            self.turn(lambda: self.ask(op))
        return True

    def fitting(self, as_function):
        """(Operations that can come next, how likely each is): 4 where the newest variable is of a
        type that it takes, level.back where older ones are."""
        kinds, found, weights = list(self.scope.values()), [], []
        for op in self.level.operations:
            if op.into not in kinds or op.other and (
                    as_function or op.other not in kinds
                    or op.other == op.into and kinds.count(op.into) < 2):
                continue
            weight = 4 if kinds[-1] in (op.into, op.other) else self.level.back
            if weight and (self.free or allowed((*self.done, op.name))):
                found.append(op)
                weights.append(weight)
        return found, weights

    def ask(self, op):
        """Write what an operation is asked with -> its code."""
        taken = []

        def variable(kind):
            some = [v for v in self.scope if self.scope[v] == kind and v not in taken]
            newest = list(self.scope)[-1]
            weights = [4 if v == newest or not self.level.back else 1 for v in some]
            if not self.level.back and newest in some:
                some, weights = [newest], [1]
            taken.append(self.draw.choice(some, weights))
            return self.draw.write(taken[-1])

        said = say(self.draw, self.draw.choice(op.asks), v=lambda: variable(op.into),
                   w=lambda: variable(op.other), k=lambda: number(self.draw, self.level))
        said |= say(self.draw, self.draw.choice(INTO) + ".", o=self.new(op.out))
        self.scope[said["o"]] = op.out
        return f"{said['o']} = {op.code.format(**said)}"

    def as_function(self, op):
        """Two turns: a function for an operation, and a call of it."""
        f, arg = "", NAMES[op.into][-1]
        v = [v for v in self.scope if self.scope[v] == op.into][-1]

        def define():
            nonlocal f
            verb = self.draw.choice(["get", "make", "find"])
            f = f"{verb}_{op.name.removesuffix('_k')}"
            self.draw.write(f'Write a function "{f}" that takes "{arg}": ')
            begin = len(self.draw.text)
            said = say(self.draw, lower(self.draw.choice(op.asks)).replace('"', ""),
                       v=lambda: self.draw.write(arg), k=lambda: number(self.draw, self.level))
            what = self.draw.text[begin:]
            self.draw.write(".")
            return (f'def {f}({arg}):\n    """{what[0].upper()}{what[1:]}."""\n'
                    f'    return {op.code.format(**said)}')

        def call():
            form = self.draw.choice(['Call "{f}" on "{v}"', 'Apply "{f}" to "{v}"',
                                     'Use "{f}" with "{v}"'])
            self.draw.write(form.format(f=f, v=v))
            o = say(self.draw, self.draw.choice(INTO) + ".", o=self.new(op.out))["o"]
            self.scope[o] = op.out
            return f"{o} = {f}({v})"

        self.turn(define)
        self.turn(call)


STARTS = {"nums": 2, "int": 2, "words": 3, "text": 3, "dict": 3}    # how often: words are the
# hardest to copy, because each is several tokens


def program(draw, level, moved=False, free=False, functions=0.12, given=()):
    """Write a program: values, operations, a print -> Program. given: texts that stand for the
    values, as long as they last (the {A} and {B} of a problem)."""
    p = Program(draw, level, moved, free, functions)
    while not p.turns or goes_on(draw, level.values, len(p.turns)):
        kind = draw.choice(list(STARTS), list(STARTS.values()))
        p.assign(kind, given[len(p.turns)] if len(p.turns) < len(given) else "")
    while len(p.turns) + 1 < level.turns and goes_on(draw, level.lengths, len(p.done)):
        if not p.operate():
            break
    p.end()
    return p


def function(draw, level, free=False):
    """Write a function that does operations one after the other, in HumanEval's form
    -> (kind of its argument, Operations)."""
    draw.write("def " + draw.choice(["get", "make", "find", "compute", "build"]))
    draw.write("_" + draw.choice(["result", "value", "answer", "output"]) + "(")
    kind = draw.choice(list(STARTS))
    arg = v = draw.write(draw.choice(NAMES[kind]))
    draw.write('):\n    """')
    ops, codes = [], []
    for op in chain(draw, kind, level.operations, level.functions, free):
        ask = draw.choice(op.asks).replace('"', "")
        said = say(draw, ", then " + lower(ask) if ops else ask,
                   v=lambda: draw.write("the result" if ops else arg),
                   k=lambda: number(draw, level))
        codes.append(op.code.format(**said | {"v": v}))
        ops.append(op)
        v = "result"
    lines = [f"result = {code}" for code in codes[:-1]] + [f"return {codes[-1]}"]
    draw.write('."""\n' + "".join(f"    {line}\n" for line in lines))
    return kind, ops


def mono(draw, level=FIRST, share=FIRST_SHARE):
    """Write one document of Python -> names of its operations, in order. share: per cent of the
    programs whose comments all stand at the top."""
    if draw.chance(0.28):
        return [op.name for op in function(draw, level)[1]]
    if draw.chance(0.7):
        draw.write(PREFIX)
    return list(program(draw, level, draw.chance(share / 100)).done)


# ------------------------------------------------- multi -----------------------------------------

BY_LANGUAGE = {language: [op for op in BASIC if FOREIGN.get(op.name, {}).get(language, "-") != "-"]
               for language in LANGUAGES}


def multi(draw, level=FIRST, share=FIRST_SHARE):
    """One document of one of six languages -> names of its operations."""
    language = draw.choice(["Python", "Python", *LANGUAGES, "JavaScript", "Java"])
    draw.write(language + "\n")
    if language == "Python":
        return mono(draw, level, share)
    operations, names, used, turns = BY_LANGUAGE[language], [], [], []
    starts = [k for k in NAMES if k != "dict" and any(op.into == k for op in operations)]

    def turn(write, declaration, e):
        """write() writes the comment of a turn and returns the texts of its fields."""
        draw.write(("\n\n" if turns else "") + "// ")
        said = write()
        if "o" in said:
            used.append(said["o"])
        turns.append(draw.write("\n" + declaration.format(e=e(said), **said)))

    _, declare, show = LANGUAGES[language]

    def assign(kind):
        turn(lambda: say(draw, draw.choice(ASSIGN[kind]) + ".", o=lambda: fresh(draw, kind, used),
                         x=lambda: value(draw, kind, level)),
             declare[kind], lambda said: literal(language, kind, said["x"]))

    def operate(op, code, v):
        names.append(op.name)
        turn(lambda: say(draw, draw.choice(op.asks), v=lambda: draw.write(v),
                         k=lambda: number(draw, level))
             | say(draw, draw.choice(INTO) + ".", o=lambda: fresh(draw, op.out, used)),
             declare[op.out], lambda said: code.format(**{"v": v, **said}))

    kind = draw.choice(starts)
    assign(kind)
    if draw.chance(0.25):
        for _ in range(draw.randint(1, 3)):
            assign(draw.choice(starts))
    else:
        for op in chain(draw, kind, operations, (1, 1, 2, 2, 3)):
            operate(op, FOREIGN[op.name][language], used[-1])
        turn(lambda: say(draw, draw.choice(PRINT) + ".", v=lambda: draw.write(used[-1])), show,
             lambda said: "")
    draw.write("\n")
    return names


def literal(language, kind, x):
    """A value of Python as another language writes it."""
    form, type_ = LANGUAGES[language][0], "int" if kind == "nums" else "string"
    return x if kind in ("text", "int") else form.format(x[1:-1], t=type_)


# ------------------------------------------------- nl --------------------------------------------

NOUN = {"nums": "the list", "words": "the list", "text": "the phrase", "int": "the number",
        "dict": "the table"}
PEOPLE = "Mia Tom Anna Ben Lea Max Eva Paul Ida Leo".split()
ADJECTIVES = "small old red quiet bright tall young cold happy green".split()
ANIMALS = "cat dog bird fish horse".split()
VERBS = "saw found followed liked left watched passed remembered".split()
PLACES = ("near the river|under the tree|behind the house|in the rain|by the fire|on the hill|"
          "at night|in the morning").split("|")


def spoken(value):
    """A value as a sentence says it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        value = [f"{k} {n}" for k, n in value.items()]
    if isinstance(value, list):
        some = [str(i) for i in value]
        if len(some) < 2:
            return some[0] if some else "nothing"
        return ", ".join(some[:-1]) + " and " + some[-1]
    return str(value)


def english(ask, kind, k):
    """A wording of an operation as English says it."""
    for noun in ("dictionary", "dict", "string", "list of strings"):
        ask = ask.replace(f'the {noun} "{{v}}"', '"{v}"')
    return lower(ask.format(v=NOUN[kind], k=k).replace('"', ""))


def nl(draw, level=FIRST, share=FIRST_SHARE):
    """One document of plain English, or of Python for 30 in 100 -> names of its operations.

    In THEPILE 7.6 % are code (section 2.1), but the paper's NL sees twice as many tokens as its
    MONO, and here NL sees a third as many: so both find a tenth to a fifth of MONO's tokens in
    code."""
    form = draw.choice(["code", "repeat", "tale", "words", "story"], (30, 10, 10, 15, 35))
    who, other = draw.sample(PEOPLE, 2)
    if form == "code":
        return mono(draw, level, share)
    if form == "repeat":        # somebody repeats what was said
        said = " ".join(draw.sample(WORDS + ANIMALS + ADJECTIVES, draw.randint(4, 10)))
        draw.write(f'{who} says "{said}" and {other} says "{said}" too.\n')
        return []
    if form == "tale":          # about nothing much
        noun = lambda: f"the {draw.choice(ADJECTIVES)} {draw.choice(ANIMALS + WORDS)}"
        some = [f"{noun()} {draw.choice(VERBS)} {noun()} {draw.choice(PLACES)}"
                for _ in range(draw.randint(3, 6))]
        draw.write(" ".join(s[0].upper() + s[1:] + "." for s in some) + "\n")
        return []
    operations = [op for op in level.operations if not op.other]
    if form == "words":         # what an operation is, in other words
        op = draw.choice(operations)
        k = draw.choice(level.ks)
        first, second, third = [english(a, op.into, k) for a in draw.sample(op.asks, 3)]
        draw.write(f"To {first} is to {second}. In other words, {third}.\n")
        return [op.name]
    return story(draw, level, operations, who, other)


def story(draw, level, operations, who, other):
    """Somebody does some operations, and what comes out."""
    start, names = draw.choice(list(NAMES)), []
    held = make_value(draw, start, level)
    called = draw.choice(NAMES[start])
    draw.write(f"{who} has {NOUN[start].replace('the', 'a')} called {called}: {spoken(held)}.")
    if draw.chance(0.7):
        draw.write(f" {other} has the same: {spoken(held)}.")
    for op in chain(draw, start, operations, (1, 1, 2, 2, 3)):
        k = draw.choice(level.ks)
        what = english(draw.choice(op.asks), op.into, k)
        held = eval(op.code.format(v="v", k=k), {"v": held})      # our own code, not a model's
        draw.write(f" {draw.choice(['Now', 'Then', 'Next'])} {who} wants to {what}. "
                   f"This gives {spoken(held)}.")
        names.append(op.name)
    draw.write("\n")
    return names


# ------------------------------------------------- the corpora -----------------------------------

def writer_of(kind):
    """"mono" or "mono@12" -> the function that writes a document of it with a Draw, and returns
    names of operations. ValueError for another kind."""
    name, at, share = kind.partition("@")
    if name not in KINDS or at and not (share.isdecimal() and share.isascii() and
                                        int(share) <= 100):
        raise ValueError(f"unknown corpus miniature:{kind}: use miniature:"
                         f"{', miniature:'.join(KINDS)}, or of the instrument miniature:mono@12 "
                         "(of 100 programs 12 say everything first)")
    make = {"nl": nl, "multi": multi, "mono": mono}[name]
    return partial(make, level=INSTRUMENT, share=int(share)) if at else make


def draws(kind, seed, n):
    """(Draw that wrote a document, names of its operations in order), n of them, the same for the
    same seed; of mono@S for all S the same choices."""
    write = writer_of(kind)
    rng = random.Random(f"{kind.partition('@')[0]}-{seed}")
    for _ in range(n):
        draw = Draw(rng)
        yield draw, write(draw)


def documents(kind, seed, n):
    """n documents of a corpus, the same for the same seed."""
    return (draw.text for draw, _ in draws(kind, seed, n))


def parser():
    """The command line."""
    p = one_line_errors(argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False))
    p.add_argument("--kind", type=flags.text, default="mono",
                   help="which corpus: nl, multi, mono, mono@12, ... (default mono)")
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
        texts = (text for kind in ("nl@12", "multi@12", "mono@12")
                 for text in documents(kind, args.seed, 6000))
        write_tiktoken(Path(__file__).with_name("miniature.tiktoken"), learn_bpe(texts, 1024))
    else:
        sys.stdout.write("\n-----\n".join(documents(args.kind, args.seed, args.n)))


if __name__ == "__main__":
    cli(main)
