"""The drawings of reading.md, each twice: NAME.svg for a light page, NAME-dark.svg for a dark one.

    python -m reading.drawings      writes them beside this file

What the code knows is taken from it: shapes from the table of parameters, the nucleus from
top_p_filter, the order of sequences from the permutation, tokens from the tokenizer, the curve
from learning_rate. tests/test_drawings.py holds that the files are what this script writes.

Each function of DRAWINGS returns (title, height, marks); a mark is a piece of SVG (svg.py)."""
from harness.cli import cli
from harness.files import replace_file
from harness.inside import MEMORY, PROCESSES
from harness.problems import PREFIX

import argparse
import itertools
from pathlib import Path

from corpora.order import permute

import jax.numpy as jnp
import numpy as np

import humaneval
import mtpb
from data import get_tokenizer
from model import CONFIGS, param_table
from reading.svg import (
    DARK,
    LIGHT,
    WIDTH,
    arrow,
    box,
    bracket,
    key,
    label,
    line,
    lines,
    page,
    plus,
    polygon,
    text,
)
from sample import top_p_filter
from train import RECIPES, learning_rate

HERE = Path(__file__).parent


# ---- 2.2: the block ------------------------------------------------------------------------------

def block():
    """The block that most Transformers have beside CodeGen's, and what the chips of tp add up in each."""
    marks = [
        *serial(40, 180), *parallel(368, 506),
        all_reduce(426, 384, "forward"), all_reduce(426, 432, "backward"),
        *lines(494, 393, ["forward: sums the", "results of tp’s chips"], "s", 18),
        *lines(494, 441, ["backward: sums", "their gradients"], "s", 18),
        text(155, 500, "2 forward + 2 backward", "m b orange"),
        text(490, 500, "1 forward + 1 backward", "m b orange"),
        *lines(155, 526, ["h = x + Attn(LN x)", "y = h + MLP(LN h)"], "m c grey"),
        text(490, 526, "y = x + Attn(LN x) + MLP(LN x)", "m c grey")]
    return "The block, serial and parallel: all-reduces over tp, 2 + 2 against 1 + 1", 560, marks


def serial(x, mid):
    """The stream goes down at x, what is added to it stands at mid."""
    marks = [text(155, 24, "one after the other: GPT-2", "b m"), text(x, 54, "x", "m b"),
             arrow([(x, 62), (x, 446)]), text(x, 466, "y", "m b")]
    for top, name, hue in ((74, "Attention", "blue"), (258, "MLP", "purple")):
        marks += [arrow([(x, top), (mid, top), (mid, top + 164), (x + 11, top + 164)]),
                  label(mid - 75, top + 12, 150, 28, "LayerNorm"),
                  all_reduce(mid, top + 49, "backward"),
                  label(mid - 75, top + 81, 150, 38, name, hue, ""),
                  all_reduce(mid, top + 128, "forward"), plus(x, top + 164)]
    return marks


def parallel(x, mid, top=74):
    left, right = mid - 66, mid + 66        # of attention and of the MLP
    return [text(490, 24, "side by side: CodeGen", "b m"), text(x, 54, "x", "m b"),
            arrow([(x, 62), (x, 322)]), text(x, 342, "y", "m b"),
            line([(x, top), (mid, top), (mid, top + 90)]),
            line([(mid, top + 158), (left, top + 158), (left, top + 90), (right, top + 90),
                  (right, top + 158), (mid, top + 158)]),
            arrow([(mid, top + 158), (mid, top + 224), (x + 11, top + 224)]),
            label(mid - 75, top + 12, 150, 28, "LayerNorm"),
            all_reduce(mid, top + 49, "backward"),
            label(left - 58, top + 101, 116, 38, "Attention", "blue", ""),
            label(right - 58, top + 101, 116, 38, "MLP", "purple", ""),
            plus(mid, top + 158), all_reduce(mid, top + 182, "forward"), plus(x, top + 224)]


def all_reduce(x, y, way):
    """A pill around x with a triangle that points forward (down) or backward (up)."""
    tip, foot = (y + 16, y + 7) if way == "forward" else (y + 7, y + 16)
    look = "orange" if way == "forward" else "orange bare"
    return box(x - 58, y, 116, 23, look, 11.5) + text(x + 9, y + 16, "all-reduce", "s m orange") + \
        polygon([(x - 44, foot), (x - 34, foot), (x - 39, tip)], "orange")


# ---- 2.2: the mesh -------------------------------------------------------------------------------

MESH = {"dp": 2, "fsdp": 4, "tp": 4}
MINE = 0, 1, 2          # dp, fsdp and tp of the chip that is marked
BATCH = 16              # sequences
CELL, HIGH = 52, 40


def mesh():
    """One matrix of 350M on 32 chips, and what one of them shares with whom."""
    (_, *shape), (_, *spec), _ = param_table(CONFIGS["350M"])["fc_in"]      # of one layer: D, F
    rows, columns = (size // MESH[axis] for size, axis in zip(shape, spec))
    marks = [text(0, 89 + HIGH * i, f"fsdp {i}", "s grey") for i in range(MESH["fsdp"])]
    for dp, head in enumerate(("dp 0: all of fc_in", "dp 1: all of it again")):
        marks += [text(234 + 302 * dp, 24, head, "b m"), *copy(130 + 302 * dp, dp)]
    first, last = sequences(*MINE[:2])
    marks += key(2, 256, [
        ("orange full", f"one chip of {np.prod(list(MESH.values()))}, and its part of fc_in: "
                        f"{rows:,} × {columns:,} of {shape[0]:,} × {shape[1]:,}",
                        "(fc_in is the first matrix of a layer’s MLP)"),
        ("blue", "its column: parts joined while the layer runs (gather): "
                 f"{shape[0]:,} × {columns:,};",
                 "backward they add up gradients, each for its part (reduce-scatter)"),
        ("green", f"its row: the same sequences, {first} and {last} of the batch,",
                  "with other columns of fc_in; sums are all-reduced over tp"),
        ("purple", "the same part, for other sequences:",
                   "gradients are all-reduced over dp, once a step")])
    return "One matrix on a mesh of dp 2, fsdp 4, tp 4: what one chip shares", 454, marks


def copy(x0, dp):
    """The chips of one place on dp, which hold the matrix once, and the sequences of each row."""
    marks = [text(x0 - 40, 54, "batch", "s m grey")]
    marks += [text(x0 + CELL * (tp + 0.5), 54, f"tp {tp}", "s m grey") for tp in range(MESH["tp"])]
    for fsdp in range(MESH["fsdp"]):
        y, hue = 64 + HIGH * fsdp, "green" if (dp, fsdp) == MINE[:2] else "grey"
        words = "{}, {}".format(*sequences(dp, fsdp))
        marks.append(label(x0 - 70, y + 2, 60, HIGH - 4, words, hue, f"s {hue}"))
        for tp in range(MESH["tp"]):
            chip = (dp * MESH["fsdp"] + fsdp) * MESH["tp"] + tp
            look = look_of(dp, fsdp, tp)
            marks.append(label(x0 + CELL * tp + 2, y + 2, CELL - 4, HIGH - 4, str(chip), look,
                               "b on" if "full" in look else "s grey"))
    return marks


def sequences(dp, fsdp):
    """The first and the last sequence of a batch that the chips of a row work on."""
    each = BATCH // (MESH["dp"] * MESH["fsdp"])
    first = (dp * MESH["fsdp"] + fsdp) * each
    return first, first + each - 1


def look_of(dp, fsdp, tp):
    if (dp, fsdp, tp) == MINE:
        return "orange full"
    if (dp, fsdp) == MINE[:2]:
        return "green"
    if (dp, tp) == MINE[::2]:
        return "blue"
    return "purple" if (fsdp, tp) == MINE[1:] else "grey"


# ---- 2.1: from files to batches ------------------------------------------------------------------

FILES = {"A": (4, "purple"), "B": (6, "orange"), "C": (3, "blue"), "D": (5, "green")}   # tokens
BLOCK, ROWS, SEED = 4, 2, 0     # tokens of a sequence, sequences of a batch
LEFT, TOKEN = 150, 21           # where the drawing begins, and how wide a token is


def steps():
    """The five steps from files to sequences; which sequences a batch has."""
    names = "filter", "deduplicate", "tokenize", "shuffle", "concatenate"
    marks = [*lines(0, 44, "12345", "grey", 62), *lines(20, 44, names, "b", 62),
             *row_of_files(22, "AB?CBD", gone=2), *row_of_files(84, "ABCBD", gone=3),
             *lines(LEFT + 306, 36, ["out: long lines,", "or mostly digits"], "s grey", 18),
             *lines(LEFT + 306, 98, ["of equal texts", "the first stays"], "s grey", 18),
             *row_of_tokens(149, "ABCD", 16), *row_of_tokens(211, "CADB", 16),
             *row_of_tokens(273, "CADB", TOKEN, ends=True)]
    stream = sum(tokens + 1 for tokens, _ in FILES.values())    # an end of text after each
    n = (stream - 1) // BLOCK               # the last sequence has a next token behind it, too
    for i in range(n):
        left, right = LEFT + TOKEN * BLOCK * i, LEFT + TOKEN * BLOCK * (i + 1)
        marks += [bracket(left + 3, right - 3, 303), text((left + right) / 2, 328, str(i), "m s")]
    marks += [text(0, 328, "sequence", "s"),
              text(LEFT, 352, "dots: end of text · what is predicted stands one token further on", "s grey")]
    title = "Five steps from files to sequences, and how seed and step choose a batch"
    return title, 566, marks + batches(n)


def row_of_files(y, names, gone):
    marks = []
    for i, name in enumerate(names):
        x, hue = LEFT + 50 * i, "grey" if i == gone else FILES[name][1]
        marks.append(label(x, y, 38, 32, name, hue + " bare dash" * (i == gone), f"s {hue}", 4))
        if i == gone:
            marks.append(line([(x + 2, y + 30), (x + 36, y + 2)]))
    return marks


def row_of_tokens(y, names, gap, ends=False):
    """The tokens of files, with a gap behind each, in which the end of text may stand."""
    marks, x = [], LEFT
    for name in names:
        tokens, hue = FILES[name]
        marks += [box(x + TOKEN * i + 1, y, TOKEN - 2, 26, hue, 3) for i in range(tokens)]
        x += TOKEN * tokens
        if ends:
            marks.append(box(x + 5, y + 8, 10, 10, "grey full", 5))
        x += gap
    return marks


def batches(n):
    """The order of two epochs of n sequences, and the batches that are cut from it."""
    orders = [permute(np.arange(n), n, (SEED, epoch)) for epoch in range(2)]
    x_of = lambda i: LEFT + 44 * i + 14 * (i >= n)
    marks = [text(0, 402, "a batch is a function of (seed, step)", "b"),
             text(WIDTH, 402, f"n = {n}, batch = {ROWS}, seed = {SEED}", "s e grey"),
             text(x_of(0) + 2, 432, "epoch 0", "s grey"),
             text(x_of(n) + 2, 432, "epoch 1", "s grey"),
             text(0, 463, "sequence", "s"), text(0, 501, "step", "s blue")]
    for i, row in enumerate(np.concatenate(orders)):
        marks.append(label(x_of(i) + 2, 442, 40, 32, str(row), "grey", ""))
    for step in range(2 * n // ROWS):
        left, right = x_of(ROWS * step), x_of(ROWS * (step + 1) - 1) + 44
        marks += [bracket(left + 6, right - 6, 478, "blue"),
                  text((left + right) / 2, 501, str(step), "s m blue")]
    return marks + lines(0, 532, ["epoch, place = divmod(step * batch + i, n)",
                                  "sequence = permute(place, n, (seed, epoch))"], "c", 22)


# ---- 3: the nucleus ------------------------------------------------------------------------------

TOKENS = {"sum": .35, "len": .25, "max": .15, "np": .10, "0": .07, "items": .05, "[": .03}
TOP_P = 0.7


def nucleus():
    """Bars each of which begins where the one before it ended."""
    probs = np.array(list(TOKENS.values()), np.float32)
    stays = np.isfinite(np.asarray(top_p_filter(jnp.log(probs)[None], TOP_P)[0]))
    drawn = np.where(stays, probs / probs[stays].sum(), 0)
    before = np.cumsum(probs) - probs           # what the likelier ones have together
    x_of, high = (lambda p: 78 + 470 * p), 36
    bottom = 88 + high * len(probs)
    marks = [text(0, 24, "What comes after `total =` ?  The likeliest first:"),
             text(x_of(TOP_P), 66, f"top_p = {TOP_P}", "m b orange"),
             text(WIDTH, 66, "drawn with", "e s grey")]
    for i, token in enumerate(TOKENS):
        ends = x_of(before[i]), x_of(before[i] + probs[i])
        marks += bar(84 + high * i, token, probs[i], ends, stays[i], drawn[i])
        if i + 1 < len(probs):
            marks.append(line([(ends[1], 112 + high * i), (ends[1], 120 + high * i)]))
    crossing = int(stays.sum()) - 1
    marks += [line([(x_of(TOP_P), 76), (x_of(TOP_P), bottom)], "orange wide"),
              *lines(x_of(TOP_P) + 14, 103, ["stay: less than", f"{TOP_P} before them"],
                     "s blue"),
              text(x_of(0), 104 + high * crossing, f"crosses {TOP_P}, and stays", "s blue"),
              *lines(x_of(0), 92 + high * (crossing + 2),
                     [f"cut: {TOP_P} or more", "before them"], "s grey"),
              line([(x_of(0), bottom), (x_of(1), bottom)])]
    marks += [text(x_of(p), bottom + 20, f"{p:g}", "s m grey") for p in (0, .25, .5, .75, 1)]
    marks.append(text(x_of(.5), bottom + 42, "probability, added up", "s m grey"))
    title = "The nucleus: a token stays if the likelier ones have less than top_p together"
    return title, bottom + 56, marks


def bar(y, token, p, ends, stays, drawn):
    """A token, its bar with its probability in it or beside it, and what it is drawn with."""
    left, right = ends
    show = lambda p: f"{p:.2f}"[1:]
    hue = "blue" if stays else "grey"
    inside = p > 0.09
    place = text(left + 10 if inside else left - 8, y + 19, show(p),
                 f"s {hue}" if inside else f"s e {hue}")
    return [text(66, y + 20, token, "c e" if stays else "c e grey"),
            box(left, y, right - left, 28, hue if stays else "grey bare dash", 3), place,
            text(WIDTH, y + 20, show(drawn) if stays else "0", "s e b" if stays else "s e grey")]


# ---- 4: turns ------------------------------------------------------------------------------------

ASKED = ['# Assign [3, 1, 2] to "nums".\n', '# Sort "nums" into "items".\n',
         '# Print the last of "items".\n']
ANSWERS = ["nums = [3, 1, 2]", "items = sorted(nums)", "print(items[-1])"]
TURN = [("orange", "a prompt becomes a comment", "`# ` + prompt + `\\n`"),
        ("grey", "the model reads all of it", "what the cache holds, not again"),
        ("blue", "it writes, token by token", "until a stop rule cuts"),
        ("blue", "the answer is appended", "answer + `\\n\\n`")]


def turns():
    """The history, and the loop that makes it grow."""
    marks, y = [], 62
    hues = ["grey"] + ["orange", "blue"] * len(ASKED)
    for i, (hue, piece) in enumerate(zip(hues, mtpb.history(ASKED, ANSWERS))):
        if hue == "orange":
            marks += [line([(308, y - 14), (314, y - 14), (314, y + 27), (308, y + 27)]),
                      text(322, y + 12, str(i // 2), "s grey")]
        for words in piece.split("\n")[:-1]:
            marks += [text(10, y, words, f"c {hue}")] * bool(words)
            y += 21
    marks = [text(0, 24, "the history", "b"), text(376, 24, "a turn", "b"),
             text(306, 54, "turn", "s grey"), box(0, 40, 300, y - 52), *marks]
    for i, (hue, first, second) in enumerate(TURN):
        top = 40 + 74 * i
        marks += [box(376, top, 232, 54, hue), text(492, top + 23, first, "s m"),
                  text(492, top + 43, second, "s m grey"),
                  arrow([(492, top + 54), (492, top + 74)])]
    end = 40 + 74 * len(TURN)
    marks += [arrow([(608, end - 47), (628, end - 47), (628, 67), (608, 67)]),
              text(626, 56, "next", "s m grey"),
              label(376, end, 232, 36, "no turn left: the history is run", "green", "s")]
    title = "A conversation is one text that grows: a comment, its answer, a comment, its answer"
    return title, end + 52, marks


# ---- 3 and 4: the judge --------------------------------------------------------------------------

def judge():
    """What crosses the border between a program and its judge."""
    ours = ["tests and expected values", "never leave; programs are", "started and watched from",
            "where they cannot reach"]
    walls = ["no network, no rights", "scratch folder, else read-only",
             f"{MEMORY >> 30} GiB, {PROCESSES} processes", "killed when its time is up"]
    marks = [box(0, 8, 236, 392, "green", 10), text(118, 36, "outside: the judge", "b m green"),
             box(404, 8, 236, 392, "orange", 10),
             text(522, 36, "inside: the program", "b m orange"),
             *lines(118, 64, ours, "s m grey"), *lines(522, 64, walls, "s m grey"),
             text(320, 84, "the program’s text", "s m"), arrow([(240, 92), (400, 92)])]
    marks += lane(156, f"HumanEval {humaneval.TIMEOUT:g}", "the tests call it from here",
                  ["assert", "candidate(7) == True"], ["def is_prime(n):", "\u00a0" * 4 + "..."],
                  to="7", back="True")
    marks += lane(276, f"MTPB {mtpb.TIMEOUT:g}", "compared here",
                  ["expected: 3", "received: 3"], ["items = sorted(nums)", "print(items[-1])"],
                  back="3")
    marks += lines(320, 428, [
        "Only plain values come back, checked before anything is built. An exit code",
        "or a printed “passed” makes no pass: a program can only claim a value."], "s m")
    return "The judge outside, the program inside, and what crosses the border", 462, marks


def lane(y, name, why, ours, theirs, back, to=None):
    """One benchmark's way of judging: what is outside, what is inside, what goes to and comes back.
    """
    name, seconds = name.split()
    marks = [text(320, y + 6, name, "m b"), text(320, y + 25, f"{seconds} s a program", "m s grey"),
             box(12, y, 212, 104, "green bare"), box(416, y, 212, 104, "orange bare"),
             *lines(118, y + 30, ours, "m c", 22), text(118, y + 88, why, "m s grey"),
             *lines(430, y + 46, theirs, "c", 22)]
    y += 60
    if to:
        marks += [text(320, y - 6, to, "m c"), arrow([(228, y), (412, y)])]
        y += 34
    return marks + [text(320, y - 6, back, "m c"), arrow([(412, y), (228, y)])]


# ---- 4: the cache --------------------------------------------------------------------------------

def cache():
    """Which tokens' keys and values are there, which are computed together, which one by one."""
    rows, hues = counted(), ("green", "orange", "blue")
    unit, marks = 520 / sum(rows[-1]), [text(0, 24, "tokens of the history", "b")]
    for i, row in enumerate(rows):
        x, y = 72, 44 + 52 * i
        marks.append(text(0, y + 22, f"turn {i}"))
        for hue, count in zip(hues, row):
            if count:
                marks.append(label(x, y, unit * count - 2, 32, str(count), hue, f"{hue} b", 4))
            x += unit * count
        if i + 1 < len(rows):
            marks.append(line([(x - 2, y + 32), (x - 2, y + 52)], "grey dash"))
    y = 60 + 52 * len(rows)
    marks += key(72, y, zip(hues, ("reused: their keys and values lie in the cache",
                                   "run: what is new of the prompt, all together",
                                   "written: the answer, one token after another")))
    made, anew = sum(run + written for _, run, written in rows), sum(map(sum, rows))
    c = CONFIGS["16.1B"]
    size = 2 * c.n_layer * c.n_head * c.head_dim * jnp.bfloat16.dtype.itemsize      # keys, values
    marks += [text(72, y + 96, f"{made} tokens are computed; read anew each turn, {anew}"),
              text(72, y + 120, f"16.1B, bfloat16: {size / 1e6:.2f} MB of cache a token", "grey")]
    return "The cache of keys and values over three turns: reused, run, written", y + 138, marks


def counted():
    """The conversation above in tokens -> [(reused, run, written)], one a turn, counted as in
    sample.Chat.align: what is reused agrees with what the cache holds."""
    encode, history, held, rows = get_tokenizer("miniature").encode, PREFIX, [], []
    for ask, answer in zip(ASKED, ANSWERS):
        ids, whole = encode(history + ask), encode(history + ask + answer)
        agree = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(ids, held))
        reused = min(len(list(agree)), len(ids) - 1)
        rows.append((reused, len(ids) - reused, len(whole) - len(ids)))
        history, held = history + ask + answer + "\n\n", whole
    return rows


# ---- 2.3: the learning rate ----------------------------------------------------------------------

# Of 350M: name, colour, steps, recipe (peak, end, warm-up, cosine). NL's is the preset's. MULTI's
# is jaxformer's configuration; of MONO the steps alone could be confirmed.
LATER = 1.8e-4, 3.0e-5, 3000, 147_000
STAGES = [("NL", "purple", RECIPES["350M"][1], RECIPES["350M"][2:]),
          ("MULTI", "orange", 150_000, LATER), ("MONO", "blue", 150_000, LATER)]


def schedule():
    """The rate over the steps of three corpora, one after another."""
    total = sum(steps for _, _, steps, _ in STAGES)
    x_of, y_of = (lambda step: 44 + 590 * step / total), (lambda rate: 262 - 190 * rate / 3e-4)
    marks = [text(0, 24, "learning rate, 350M", "b"), text(0, 52, "×10⁻⁴", "s grey")]
    for rate in range(4):
        y, right = y_of(rate * 1e-4), 634 if rate < 3 else x_of(STAGES[0][2])
        marks += [line([(44, y), (right, y)], "grey faint" if rate else "grey"),
                  text(36, y + 5, str(rate), "s e grey")]
    begin = 0
    for name, hue, steps, recipe in STAGES:
        *_, warm, cosine = recipe
        at = np.unique([0, *np.linspace(warm, warm + cosine, 25), steps])
        rates = np.asarray(learning_rate(at, *recipe))
        curve = [(x_of(begin + step), y_of(rate)) for step, rate in zip(at, rates)]
        middle = x_of(begin + steps / 2)
        if begin:
            top = 32 if name == "MULTI" else 112
            marks.append(line([(x_of(begin), top), (x_of(begin), 278)], "grey dash"))
        marks += [line(curve, f"{hue} wide" + " dash" * (name == "MONO")),
                  text(middle, 308, name, f"m b {hue}"),
                  text(middle, 328, f"{steps:,} steps", "m s grey")]
        begin += steps
    warm, cosine = STAGES[0][3][2:]
    marks += [text(x_of(warm) + 8, 64, f"warm-up: {warm:,} steps", "s grey"),
              text(x_of(168_000), 145, f"cosine: {cosine:,} steps", "s grey"),
              text(x_of(326_000), 234, "flat", "s m grey"),
              *lines(x_of(360_000), 44, ["anew: steps, moments, rate", "kept: the weights"], "s"),
              *lines(x_of(575_000), 347, ["rate not confirmed:", "drawn as MULTI’s"],
                     "s m grey", 18),
              arrow([(x_of(210_000), 303), (x_of(375_000), 303)]),
              arrow([(x_of(468_000), 303), (x_of(532_000), 303)])]
    return "The learning rate, and where NL, MULTI and MONO begin anew", 378, marks


# ---- the files -----------------------------------------------------------------------------------

DRAWINGS = block, mesh, steps, nucleus, turns, judge, cache, schedule


def files():
    """{name of a file: what it holds}, of all drawings."""
    found = {}
    for draw in DRAWINGS:
        title, height, marks = draw()
        found[f"{draw.__name__}.svg"] = page(title, height, marks, LIGHT)
        found[f"{draw.__name__}-dark.svg"] = page(title, height, marks, DARK)
    return found


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    for name, content in files().items():
        replace_file(HERE / name, content.encode())
        print(f"{name}  {len(content.encode()):,} bytes")


if __name__ == "__main__":
    cli(main)
