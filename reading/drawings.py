"""The drawings of reading.md, each twice: NAME.svg for a light page, NAME-dark.svg for a dark one.

    python -m reading.drawings      writes them beside this file

What the code knows is taken from it: shapes from the table of parameters, the nucleus from
top_p_filter, the order of sequences from the permutation, tokens from the tokenizer, the curve
from learning_rate. tests/test_drawings.py holds that the files are what this script writes."""
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
    arrow,
    box,
    bracket,
    label,
    line,
    page,
    plus,
    polygon,
    text,
)
from sample import top_p_filter, truncate_turn
from train import RECIPES, learning_rate

HERE = Path(__file__).parent


# ---- 2.2: the block ------------------------------------------------------------------------------

def all_reduce(x, y, way):
    """A pill around x with a triangle that points forward (down) or backward (up)."""
    tip, foot = (y + 16, y + 7) if way == "forward" else (y + 7, y + 16)
    look = "orange" if way == "forward" else "orange bare"
    return box(x - 58, y, 116, 23, look, 11.5) + text(x + 9, y + 16, "all-reduce", "s m orange") + \
        polygon([(x - 44, foot), (x - 34, foot), (x - 39, tip)], "orange")


def block():
    """The block that most Transformers have beside CodeGen's: what tp ranks add up."""
    marks = [text(155, 24, "one after the other: GPT-2", "b m"), text(490, 24, "side by side: CodeGen", "b m")]
    x, mid = 40, 180
    marks += [text(x, 54, "x", "m b"), arrow([(x, 62), (x, 446)]), text(x, 466, "y", "m b")]
    for top, name, hue in ((74, "Attention", "blue"), (258, "MLP", "purple")):
        marks += [line([(x, top), (mid, top), (mid, top + 162)]),
                  arrow([(mid, top + 152), (mid, top + 164), (x + 11, top + 164)]),
                  label(mid - 75, top + 12, 150, 28, "LayerNorm"),
                  all_reduce(mid, top + 49, "backward"),
                  label(mid - 75, top + 81, 150, 38, name, hue, ""),
                  all_reduce(mid, top + 128, "forward"), plus(x, top + 164)]
    x, mid, top = 368, 506, 74
    left, right = mid - 66, mid + 66
    marks += [text(x, 54, "x", "m b"), arrow([(x, 62), (x, 322)]), text(x, 342, "y", "m b"),
              line([(x, top), (mid, top), (mid, top + 90)]),
              line([(left, top + 158), (left, top + 90), (right, top + 90), (right, top + 158)]),
              line([(left, top + 158), (right, top + 158)]),
              arrow([(mid, top + 158), (mid, top + 224), (x + 11, top + 224)]),
              label(mid - 75, top + 12, 150, 28, "LayerNorm"),
              all_reduce(mid, top + 49, "backward"),
              label(left - 58, top + 101, 116, 38, "Attention", "blue", ""),
              label(right - 58, top + 101, 116, 38, "MLP", "purple", ""),
              plus(mid, top + 158), all_reduce(mid, top + 182, "forward"), plus(x, top + 224)]
    marks += [all_reduce(426, 384, "forward"), text(494, 393, "forward, results of", "s"),
              text(494, 411, "the tp ranks add up", "s"),
              all_reduce(426, 432, "backward"), text(494, 441, "backward, their", "s"),
              text(494, 459, "gradients do", "s")]
    marks += [text(155, 500, "2 forward + 2 backward", "m b orange"),
              text(490, 500, "1 forward + 1 backward", "m b orange"),
              text(155, 526, "h = x + Attn(LN x)", "m c grey"),
              text(155, 546, "y = h + MLP(LN h)", "m c grey"),
              text(490, 526, "y = x + Attn(LN x) + MLP(LN x)", "m c grey")]
    return "The block, serial and parallel: all-reduces over tp, 2 + 2 against 1 + 1", 560, marks


# ---- 2.2: the mesh -------------------------------------------------------------------------------

MESH = {"dp": 2, "fsdp": 4, "tp": 4}
BATCH = 16


def mesh():
    """One matrix of 350M on 32 chips, and what one of them shares with whom."""
    shape, spec, _ = param_table(CONFIGS["350M"])["fc_in"]
    shape, spec = shape[1:], spec[1:]                           # of one layer: (D, F)
    part = [size // MESH[axis] for size, axis in zip(shape, spec)]
    by = lambda sizes: " × ".join(f"{n:,}" for n in sizes)
    marks, mine, cell, high = [], (0, 1, 2), 52, 40
    for dp in range(MESH["dp"]):
        x0 = 130 + 302 * dp
        marks += [text(x0 + 2 * cell, 24, f"dp {dp}: " + ("all of fc_in" if dp == 0 else "all of it again"), "m b"),
                  text(x0 - 40, 54, "batch", "s m grey")]
        for tp in range(MESH["tp"]):
            marks.append(text(x0 + cell * (tp + 0.5), 54, f"tp {tp}", "s m grey"))
        for fsdp in range(MESH["fsdp"]):
            y, rank = 64 + high * fsdp, dp * MESH["fsdp"] + fsdp
            rows = BATCH // (MESH["dp"] * MESH["fsdp"])
            own = (dp, fsdp) == mine[:2]
            marks.append(label(x0 - 70, y + 3, 60, high - 6, f"{rank * rows}, {rank * rows + rows - 1}",
                               "green" if own else "grey", "s green" if own else "s grey"))
            if dp == 0:
                marks.append(text(0, y + 25, f"fsdp {fsdp}", "s grey"))
            for tp in range(MESH["tp"]):
                chip, place = rank * MESH["tp"] + tp, (dp, fsdp, tp)
                look = ("orange full" if place == mine else "purple" if place[1:] == mine[1:]
                        else "green" if own else "blue" if (dp, tp) == (mine[0], mine[2]) else "grey")
                marks.append(label(x0 + cell * tp + 2, y + 2, cell - 4, high - 4, str(chip), look,
                                   "b on" if place == mine else "s grey"))
    key = [("orange full", f"one chip of {MESH['dp'] * MESH['fsdp'] * MESH['tp']}, and its part of fc_in: "
            f"{by(part)} of {by(shape)}", ""),
           ("blue", f"its column is gathered while the layer runs: {by((shape[0], part[1]))};",
            "the gradient is scattered back to the parts"),
           ("green", "its row works on the same sequences, 2 and 3 of the batch,",
            "each chip with other columns of fc_in; sums are all-reduced"),
           ("purple", "the same part, for other sequences: once a step", "the gradients of both are all-reduced")]
    y = 256
    for look, first, second in key:
        marks += [box(2, y - 14, 22, 18, look, 4), text(36, y, first)]
        y += 22
        if second:
            marks.append(text(36, y, second))
            y += 22
        y += 8
    return "One matrix on a mesh of dp 2 x fsdp 4 x tp 4, the row of one chip marked", y - 10, marks


# ---- 2.1: from files to batches ------------------------------------------------------------------

DOCUMENTS = {"A": (4, "purple"), "B": (6, "orange"), "C": (3, "blue"), "D": (5, "green")}   # tokens
BLOCK, SEED = 4, 0
BATCH_ROWS = 2


def steps():
    """The five steps from files to sequences; which of them a step takes."""
    x0, cell = 150, 21
    names = "filter", "deduplicate", "tokenize", "shuffle", "concatenate"
    marks = [text(20, 44 + 62 * i, name, "b") for i, name in enumerate(names)]
    marks += [text(0, 44 + 62 * i, str(i + 1), "grey") for i in range(len(names))]

    def file(i, y, name, gone=False):
        x, look = x0 + 50 * i, "grey bare dash" if gone else DOCUMENTS[name][1]
        strike = [line([(x + 2, y + 30), (x + 36, y + 2)])] if gone else []
        return [label(x, y, 38, 32, name, look, "s grey" if gone else f"s {look}", 4), *strike]

    for i, name in enumerate("AB?CBD"):
        marks += file(i, 22, name, gone=name == "?")
    for i, name in enumerate("ABCBD"):
        marks += file(i, 84, name, gone=i == 3)
    marks += [text(x0 + 306, 36, "out: long lines,", "s grey"), text(x0 + 306, 54, "or mostly digits", "s grey"),
              text(x0 + 306, 98, "of equal texts", "s grey"), text(x0 + 306, 116, "the first stays", "s grey")]

    def strip(x, y, name):
        n, hue = DOCUMENTS[name]
        return [box(x + cell * i + 1, y, cell - 2, 26, hue, 3) for i in range(n)]

    for y, order, gap in ((149, "ABCD", 16), (211, "CADB", 16), (273, "CADB", cell)):
        x = x0
        for name in order:
            marks += strip(x, y, name)
            x += cell * DOCUMENTS[name][0]
            if gap == cell:
                marks.append(box(x + 5, y + 8, 10, 10, "grey full", 5))
            x += gap
    stream = sum(n + 1 for n, _ in DOCUMENTS.values())          # the end of text after each
    n = (stream - 1) // BLOCK                                   # each has one token more, a target
    for i in range(n):
        left = x0 + cell * BLOCK * i
        marks += [bracket(left + 3, left + cell * BLOCK - 3, 303),
                  text(left + cell * BLOCK / 2, 328, str(i), "m s")]
    marks.append(text(0, 328, "sequences", "s grey"))
    marks.append(text(x0, 352, "dots: end of text · targets stand one token further on", "s grey"))
    return "Five steps from files to sequences, and how step and seed choose a batch", 560, \
        marks + batches(n)


def batches(n):
    """The order of two epochs, and the batches that are cut from it."""
    order = [int(permute(np.array([place]), n, (SEED, epoch))[0])
             for epoch in range(2) for place in range(n)]
    marks, cell = [text(0, 400, "a batch is a function of (seed, step)", "b"),
                    text(640, 400, f"n = {n}, batch = {BATCH_ROWS}, seed = {SEED}", "s e grey")], 44
    x_of = lambda i: 150 + cell * i + 14 * (i >= n)
    for epoch in range(2):
        marks.append(text(x_of(n * epoch) + 2, 430, f"epoch {epoch}", "s grey"))
    marks += [text(0, 461, "sequence", "s"), text(0, 497, "step", "s")]
    for i, row in enumerate(order):
        marks.append(label(x_of(i) + 2, 440, cell - 4, 32, str(row), "grey", ""))
    for step in range(2 * n // BATCH_ROWS):
        left, right = x_of(BATCH_ROWS * step), x_of(BATCH_ROWS * (step + 1) - 1) + cell
        marks += [bracket(left + 6, right - 6, 476, "blue"), text((left + right) / 2, 499, str(step), "s m blue")]
    marks += [text(0, 528, "`epoch, place = divmod(step * batch + i, n)`", "s"),
              text(0, 550, "`sequence = permute(place, n, (seed, epoch))`", "s")]
    return marks


# ---- 3: the nucleus ------------------------------------------------------------------------------

TOKENS = {"sum": .35, "len": .25, "max": .15, "np": .10, "0": .07, "items": .05, "[": .03}
TOP_P = 0.7


def nucleus():
    """Each bar begins where the one before it ended."""
    probs = np.array(list(TOKENS.values()), np.float32)
    stays = np.isfinite(np.asarray(top_p_filter(jnp.log(probs)[None], TOP_P)[0]))
    drawn = np.where(stays, probs / probs[stays].sum(), 0)
    x0, wide, y0, high = 78, 470, 84, 36
    x_of = lambda p: x0 + wide * p
    bottom = y0 + high * len(probs)
    marks = [text(0, 24, "What comes after `total = ` ?  The likeliest first:"),
             text(x_of(TOP_P), 66, f"top_p = {TOP_P}", "m b orange"), text(640, 66, "drawn with", "e s grey")]
    before = np.concatenate([[0], np.cumsum(probs)[:-1]])
    for i, (token, p) in enumerate(TOKENS.items()):
        y, left, right = y0 + high * i, x_of(before[i]), x_of(before[i] + p)
        crosses = before[i] < TOP_P < before[i] + p
        look = "grey bare dash" if not stays[i] else "blue"
        marks += [text(66, y + 20, token, "c e" + " grey" * (not stays[i])),
                  box(left, y, right - left, 28, look, 3)]
        shown = f"{p:.2f}"[1:]
        inside = p >= .1 and not crosses
        marks.append(text((left + right) / 2 if inside else right + 8 if i < 6 else left - 8, y + 19, shown,
                          "s " + ("m " if inside else "" if i < 6 else "e ") + ("blue" if stays[i] else "grey")))
        marks.append(text(640, y + 20, f"{drawn[i]:.2f}"[1:] if stays[i] else "0", "s e b" if stays[i] else "s e grey"))
        if i + 1 < len(probs):
            marks.append(line([(right, y + 28), (right, y + high)], "grey"))
    marks += [line([(x_of(TOP_P), 76), (x_of(TOP_P), bottom + 4)], "orange wide"),
              text(x_of(TOP_P) + 14, y0 + 19, "stay: the likelier", "s blue"),
              text(x_of(TOP_P) + 14, y0 + 38, "have less than 0.7", "s blue"),
              text(x0, y0 + high * 2 + 20, "crosses 0.7, and stays", "s blue"),
              text(x0, y0 + high * 4 + 8, "cut: the likelier ones have", "s grey"),
              text(x0, y0 + high * 4 + 26, "0.7 or more together", "s grey"),
              line([(x0, bottom + 4), (x_of(1), bottom + 4)])]
    for p in (0, .25, .5, .75, 1):
        marks.append(text(x_of(p), bottom + 24, f"{p:g}", "s m grey"))
    marks.append(text(x_of(.5), bottom + 46, "probability, added up", "s m grey"))
    return "The nucleus: a token stays if the likelier ones have less than top_p together", bottom + 58, marks


# ---- 4: turns ------------------------------------------------------------------------------------

ASKED = ['# Assign [3, 1, 2] to "nums".\n', '# Sort "nums" into "items".\n', '# Print the last of "items".\n']
ANSWERS = ["nums = [3, 1, 2]", "items = sorted(nums)", "print(items[-1])"]
assert [truncate_turn(answer) for answer in ANSWERS] == ANSWERS


def turns():
    """The history, and the loop that makes it grow."""
    marks, y = [text(0, 24, "the history", "b"), text(376, 24, "a turn", "b")], 62
    places = []
    looks = ["grey"] + ["orange", "blue"] * len(ASKED)
    for look, piece in zip(looks, mtpb.history(ASKED, ANSWERS)):
        top = y
        for words in piece.split("\n")[:-1]:
            if words:
                marks.append(text(10, y, words, f"c {look}"))
            y += 21
        places.append((top, y))
    marks.insert(0, box(0, 40, 300, y - 52))
    for i in range(len(ASKED)):
        top, bottom = places[1 + 2 * i][0] - 15, places[2 + 2 * i][0] + 7
        marks += [line([(308, top), (314, top), (314, bottom), (308, bottom)]),
                  text(322, (top + bottom) / 2 + 5, str(i), "s grey")]
    marks.append(text(308, 54, "turn", "s grey"))
    boxes = [("orange", "a prompt becomes a comment", "`# ` + prompt + `\\n`"),
             ("grey", "the model reads all of it", "what the cache holds, not again"),
             ("blue", "it writes, token by token", "until a stop rule cuts"),
             ("blue", "the answer is appended", "answer + `\\n\\n`")]
    for i, (look, first, second) in enumerate(boxes):
        top = 40 + 74 * i
        marks += [box(376, top, 232, 54, look), text(492, top + 23, first, "s m"),
                  text(492, top + 43, second, "s m grey")]
        if i:
            marks.append(arrow([(492, top - 20), (492, top)]))
    end = 40 + 74 * 3 + 54
    marks += [arrow([(608, end - 27), (630, end - 27), (630, 67), (608, 67)]),
              arrow([(492, end), (492, end + 26)]),
              label(376, end + 26, 232, 36, "no turn left: the history is run", "green", "s")]
    return "A conversation is one text that grows: a comment, its answer, a comment, its answer", max(y, end + 62) + 8, marks


# ---- 3 and 4: the judge --------------------------------------------------------------------------

def judge():
    """What crosses the border between a program and its judge."""
    marks = [box(0, 8, 236, 392, "green", 10), box(404, 8, 236, 392, "orange", 10),
             text(118, 36, "outside: the judge", "b m green"), text(522, 36, "inside: the program", "b m orange")]
    walls = ["no network, no rights", "a scratch folder, else read-only",
             f"{MEMORY >> 30} GiB, {PROCESSES} processes", "killed when its time is up"]
    marks += [text(522, 62 + 20 * i, words, "s m grey") for i, words in enumerate(walls)]
    marks += [text(118, 62, "has the tests and the values", "s m grey"), text(118, 82, "that are expected", "s m grey"),
              text(118, 102, "watches the process from", "s m grey"), text(118, 122, "where it cannot reach", "s m grey")]
    marks += [arrow([(240, 92), (400, 92)]), text(320, 84, "the program’s text", "s m")]
    marks += lane(156, "HumanEval", f"{humaneval.TIMEOUT:g} s",
                  ["assert", "candidate(7) == True"], ["def is_prime(n):", "\u00a0\u00a0\u00a0\u00a0..."],
                  [("7", "right"), ("True", "left")], "the tests call it from here")
    marks += lane(276, "MTPB", f"{mtpb.TIMEOUT:g} s", ["expected: 3", "received: 3"],
                  ["items = sorted(nums)", "print(items[-1])"], [("3", "left")], "compared here")
    marks += [text(320, 428, "Only plain values cross, checked before anything is built. An exit code or", "s m"),
              text(320, 448, "a printed “passed” makes no pass: a program can only claim a value.", "s m")]
    return "The judge outside, the program inside, and what crosses the border", 460, marks


def lane(y, name, seconds, ours, theirs, messages, why):
    """One benchmark's way of judging."""
    marks = [text(320, y + 6, name, "m b"), text(320, y + 24, f"{seconds} a program", "m s grey"),
             box(12, y, 212, 104, "bare green"), box(416, y, 212, 104, "bare orange")]
    marks += [text(118, y + 30 + 22 * i, words, "m c") for i, words in enumerate(ours)]
    marks += [text(430, y + 46 + 22 * i, words, "c") for i, words in enumerate(theirs)]
    marks.append(text(118, y + 90, why, "m s grey"))
    for i, (value, way) in enumerate(messages):
        at = y + 62 + 34 * i
        ends = [(228, at), (412, at)]
        marks += [arrow(ends if way == "right" else ends[::-1]), text(320, at - 6, value, "m c")]
    return marks


# ---- 4: the cache --------------------------------------------------------------------------------

def counted():
    """The conversation's tokens -> [(reused, run, written)], one a turn, as Chat.align counts."""
    encode, held, rows, text_ = get_tokenizer("miniature").encode, [], [], PREFIX
    for ask, answer in zip(ASKED, ANSWERS):
        ids, whole = encode(text_ + ask), encode(text_ + ask + answer)
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(ids, held))
        reused = min(sum(1 for _ in same), len(ids) - 1)
        rows.append((reused, len(ids) - reused, len(whole) - len(ids)))
        text_, held = text_ + ask + answer + "\n\n", whole
    return rows


def cache():
    """Tokens whose keys and values are there already, are computed together, one by one."""
    rows = counted()
    unit = 520 / sum(rows[-1])
    looks = ("green", "orange", "blue")
    marks = [text(0, 24, "Tokens of the history, turn by turn", "b")]
    for i, row in enumerate(rows):
        x, y = 72, 48 + 52 * i
        marks.append(text(0, y + 22, f"turn {i}"))
        for look, count in zip(looks, row):
            if count:
                wide = unit * count
                marks += [label(x, y, wide - 2, 32, str(count), look, f"{look} b", 4)]
            x += unit * count
        if i + 1 < len(rows):
            marks.append(line([(x - 2, y + 32), (x - 2, y + 52)], "grey dash"))
    y = 48 + 52 * len(rows) + 16
    says = ("reused: keys and values lie in the cache", "run: what is new of the prompt, all together",
            "written: the answer, one token after another")
    for i, (look, words) in enumerate(zip(looks, says)):
        marks += [box(72, y + 26 * i - 13, 20, 16, look, 4), text(102, y + 26 * i, words)]
    y += 26 * 3 + 16
    with_cache, without = sum(r + w for _, r, w in rows), sum(sum(r) for r in rows)
    c = CONFIGS["16.1B"]
    size = 2 * c.n_layer * c.n_head * c.head_dim * 2
    marks += [text(72, y, f"{with_cache} tokens go through the model; without a cache {without}"),
              text(72, y + 26, f"a token of 16.1B costs {size / 1e6:.2f} MB of cache in bfloat16", "grey")]
    return "The cache of keys and values over three turns: reused, run, written", y + 40, marks


# ---- 2.3: the learning rate ----------------------------------------------------------------------

# 350M on MULTI by jaxformer's configuration; of MONO the steps alone were published.
STAGES = [("NL", "purple", RECIPES["350M"][1], RECIPES["350M"][2:]),
          ("MULTI", "orange", 150_000, (1.8e-4, 3e-5, 3000, 147_000)),
          ("MONO", "blue", 150_000, (1.8e-4, 3e-5, 3000, 147_000))]


def schedule():
    """The rate over the steps of three corpora, one after another."""
    total = sum(steps for _, _, steps, _ in STAGES)
    x_of, y_of = (lambda s: 44 + 590 * s / total), (lambda lr: 262 - 190 * lr / 3e-4)
    marks = [text(0, 24, "learning rate of the 350M models", "b")]
    for lr in (0, 1e-4, 2e-4, 3e-4):
        marks += [line([(44, y_of(lr)), (634, y_of(lr))], "grey" if not lr else "grey faint"),
                  text(36, y_of(lr) + 5, f"{lr * 1e4:g}", "s e grey")]
    marks.append(text(0, 52, "×10⁻⁴", "s grey"))
    begin = 0
    for name, hue, steps, recipe in STAGES:
        warm, cosine = recipe[2:]
        at = np.unique(np.concatenate([[0, warm], np.linspace(warm, warm + cosine, 25), [steps]])).clip(0, steps)
        rates = np.asarray(learning_rate(jnp.array(at), *recipe))
        marks += [line([(x_of(begin + s), y_of(r)) for s, r in zip(at, rates)], f"{hue} wide" + " dash" * (name == "MONO")),
                  text(x_of(begin + steps / 2), 308, name, f"m b {hue}"),
                  text(x_of(begin + steps / 2), 328, f"{steps:,} steps", "m s grey")]
        if begin:
            marks.append(line([(x_of(begin), 52 if name == "MULTI" else 112), (x_of(begin), 278)], "grey dash"))
        begin += steps
    marks += [text(x_of(12_000), y_of(3e-4) - 8, "warm-up: 3,000 steps", "s grey"),
              text(x_of(178_000), y_of(1.85e-4), "cosine: 300,000 steps", "s grey"),
              text(x_of(326_000), y_of(3e-5) - 9, "flat", "s m grey"),
              text(x_of(360_000), 68, "anew: steps, moments, rate", "s"),
              text(x_of(360_000), 88, "kept: the weights", "s"),
              text(x_of(575_000), 348, "its rate not confirmed", "s m grey"),
              *(arrow([(x_of(a), 303), (x_of(b), 303)]) for a, b in ((210e3, 375e3), (468e3, 532e3)))]
    return "The learning rate, and where NL, MULTI and MONO begin anew", 362, marks


# ---- the files -----------------------------------------------------------------------------------

DRAWINGS = (block, mesh, steps, nucleus, turns, judge, cache, schedule)


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
        print(f"{name}  {len(content):,} bytes")


if __name__ == "__main__":
    cli(main)
