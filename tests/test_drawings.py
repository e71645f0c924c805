"""Laws of the drawings: the files are what the script writes now, texts keep inside and apart, and figures are the code's."""
from harness.problems import PREFIX

import re
import xml.etree.ElementTree as ET
from itertools import combinations

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from data import get_tokenizer
from model import CONFIGS, param_table
from reading import drawings
from reading.svg import DARK, LIGHT, MARGIN, WIDTH, style

NAMES = [draw.__name__ for draw in drawings.DRAWINGS]
SVG = "{http://www.w3.org/2000/svg}"
LETTER = {"code": 0.61, "words": 0.53}      # of the height: how wide a letter is, on average


@pytest.fixture(scope="module")
def files():
    return drawings.files()


def texts(content):
    """[(left, right, top, bottom, words)] of a drawing, widths estimated by characters."""
    found = []
    for mark in ET.fromstring(content).iter(f"{SVG}text"):
        looks = mark.get("class", "").split()
        high = 14 if {"s", "c"} & set(looks) else 16
        code = "".join(span.text for span in mark) if "c" not in looks else "".join(mark.itertext())
        words = "".join(mark.itertext())
        wide = len(code) * 14 * LETTER["code"] + (len(words) - len(code)) * high * LETTER["words"]
        x, y = float(mark.get("x")), float(mark.get("y"))
        left = x - wide / 2 if "m" in looks else x - wide if "e" in looks else x
        found.append((left, left + wide, y - 0.72 * high, y + 0.2 * high, words))
    return found


def test_the_files_are_what_the_script_writes(files):
    assert {path.name: path.read_text() for path in drawings.HERE.glob("*.svg")} == files


@pytest.mark.parametrize("name", NAMES)
def test_a_drawing_has_a_title_and_its_texts_keep_inside_and_apart(files, name):
    root = ET.fromstring(files[f"{name}.svg"])
    assert root.tag == f"{SVG}svg" and root[0].tag == f"{SVG}title" and root[0].text
    left, top, wide, high = map(float, root.get("viewBox").split())
    assert (left, top, wide) == (-MARGIN, 0, WIDTH + 2 * MARGIN)
    found = texts(files[f"{name}.svg"])
    assert len(found) > 5
    for x0, x1, y0, y1, words in found:
        assert x0 >= left + 4 and x1 <= left + wide - 4 and y0 >= 0 and y1 <= high, words
    for (a0, a1, b0, b1, one), (c0, c1, d0, d1, other) in combinations(found, 2):
        assert a1 <= c0 + 2 or c1 <= a0 + 2 or b1 <= d0 or d1 <= b0, (one, other)


@pytest.mark.parametrize("name", NAMES)
def test_light_and_dark_differ_in_colours_alone(files, name):
    assert files[f"{name}.svg"].replace(style(LIGHT), style(DARK)) == files[f"{name}-dark.svg"]
    assert all(len(files[f"{name}{theme}.svg"]) < 20_000 for theme in ("", "-dark"))


def test_the_part_of_a_chip_is_the_shardings():
    shape, spec, _ = param_table(CONFIGS["350M"])["fc_in"]
    mesh = jax.sharding.AbstractMesh((2, 4, 4), ("dp", "fsdp", "tp"))
    _, rows, columns = NamedSharding(mesh, spec).shard_shape(shape)
    words = " ".join(mark[-1] for mark in texts(drawings.files()["mesh.svg"]))
    assert f"{rows:,} × {columns:,} of {shape[1]:,} × {shape[2]:,}" in words


def test_a_nucleus_is_the_smallest_set_that_reaches_top_p(files):
    words = [mark[-1] for mark in texts(files["nucleus.svg"])]
    kept = [float(word) for word in words if re.fullmatch(r"\.\d\d", word)][1::2]
    probs = sorted(drawings.TOKENS.values(), reverse=True)
    n = next(n for n in range(len(probs)) if sum(probs[:n]) >= drawings.TOP_P)
    assert kept[:n] == [pytest.approx(p / sum(probs[:n]), abs=0.006) for p in probs[:n]]


def test_an_epoch_has_each_sequence_once(files):
    boxes = re.findall(r'rx="6" class="grey"/><text [^>]*>(\d+)<', files["steps.svg"])
    n = len(boxes) // 2
    assert sorted(boxes[:n]) == sorted(boxes[n:]) == [str(i) for i in range(n)] and boxes[:n] != boxes[n:]


def test_what_is_reused_run_and_written_is_the_history():
    encode, text = get_tokenizer("miniature").encode, PREFIX
    before = 0
    for (reused, run, written), ask, answer in zip(drawings.counted(), drawings.ASKED, drawings.ANSWERS):
        assert reused + run == len(encode(text + ask)) and written == len(encode(answer))
        assert reused <= before
        before, text = reused + run + written, text + ask + answer + "\n\n"


def test_the_curve_is_the_schedule(files):
    """The highest and lowest points of NL's curve lie at lr_max and at 0, where the axis has them."""
    curve = re.search(r'd="M([^"]+)" class="open purple', files["schedule.svg"]).group(1)
    heights = np.array([float(point.split()[1]) for point in curve.split("L")])
    assert heights[0] == heights.max() == 262 and heights.min() == heights[1] == 72
