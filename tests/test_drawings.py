"""Laws of the drawings: the files are what the script writes now, texts keep inside and apart, and figures are the code's."""
from harness.problems import PREFIX

import re
import xml.etree.ElementTree as ET
from itertools import combinations
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

import mtpb
from data import get_batch, get_tokenizer
from model import CONFIGS, param_table
from reading import drawings
from reading.svg import DARK, LIGHT, MARGIN, WIDTH, style
from sample import truncate_turn

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


def brightness(colour):
    """Relative luminance (WCAG 2) of "#rrggbb"."""
    parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_texts_stand_out_from_what_they_lie_on(colours):
    """4.5 to 1, as WCAG 2 asks of small letters."""
    grounds = [colours["ground"], colours["pale"], *colours["tints"].values()]
    pairs = [(colours[name], ground) for name in ("ink", "words") for ground in grounds]
    pairs += [(colours["texts"][hue], ground) for hue, tint in colours["tints"].items()
              for ground in (colours["ground"], colours["pale"], tint)]
    for pair in pairs:
        dark, bright = sorted(map(brightness, pair))
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, pair


def test_the_part_of_a_chip_is_the_shardings(files):
    shape, spec, _ = param_table(CONFIGS["350M"])["fc_in"]
    mesh = jax.sharding.AbstractMesh((2, 4, 4), ("dp", "fsdp", "tp"))
    _, rows, columns = NamedSharding(mesh, spec).shard_shape(shape)
    words = " ".join(mark[-1] for mark in texts(files["mesh.svg"]))
    assert f"{rows:,} × {columns:,} of {shape[1]:,} × {shape[2]:,}" in words


def test_a_nucleus_is_the_smallest_set_that_reaches_top_p(files):
    words = [mark[-1] for mark in texts(files["nucleus.svg"])]
    kept = [float(word) for word in words if re.fullmatch(r"\.\d\d", word)][1::2]
    probs = sorted(drawings.TOKENS.values(), reverse=True)
    n = next(n for n in range(len(probs)) if sum(probs[:n]) >= drawings.TOP_P)
    assert kept[:n] == [pytest.approx(p / sum(probs[:n]), abs=0.006) for p in probs[:n]]


def test_batches_are_those_of_training(files):
    boxes = [int(n) for n in re.findall(r'rx="6" class="grey"/><text [^>]*>(\d+)<', files["steps.svg"])]
    data = SimpleNamespace(sequences=lambda split: len(boxes) // 2, read=lambda split, rows: rows.tolist())
    size = drawings.ROWS
    batches = [get_batch(data, "train", drawings.SEED, step, size) for step in range(len(boxes) // size)]
    assert len(boxes) == 10 and sum(batches, []) == boxes


def test_the_conversation_is_a_right_program_that_no_rule_cuts(files, capsys):
    assert [truncate_turn(answer) for answer in drawings.ANSWERS] == drawings.ANSWERS
    exec("".join(mtpb.history(drawings.ASKED, drawings.ANSWERS)), {})
    assert f"expected: {capsys.readouterr().out.strip()}" in [mark[-1] for mark in texts(files["judge.svg"])]


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
