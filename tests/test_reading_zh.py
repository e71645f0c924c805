"""reading.zh.md is reading.md in Chinese: station by station the same links, quotes, pictures, formulas and figures."""
import re
from itertools import zip_longest
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGLISH, CHINESE = ROOT / "reading.md", ROOT / "reading.zh.md"

FENCED = re.compile(r"^```.*?^```$", re.M | re.S)
HEADING = re.compile(r"^(#+) +(.*)$", re.M)
# What is the same in both languages: in this order in every station; or, where the order of words decides, in any.
ORDERED = {
    "marks": r"<!-- .*? -->", "quotes": r"^```python\n.*?^```$", "equations": r"^```text$",
    "links": r"(?<=\]\()[^)\s]+|(?<=src=\")[^\"]+|(?<=srcset=\")[^\"]+|(?<=href=\")[^\"]+",
    "questions": r"</?(?:details|summary)>", "parts": r"^\*\*(?=.*)", "rows": r"^\|.*\|$"}
UNORDERED = {"names": r"`[^`]+`", "figures": r"\d+(?:[.,]\d+)*"}
BILLION = re.compile(r"([\d.]+)\sbillion")      # 16.1 billion are 161 亿


def anchor(title):
    """What GitHub makes of a heading, for links to it."""
    return "#" + re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def stations(text):
    """-> [{what: [...]}], one a heading. A link to a heading of the page counts by the number of that heading."""
    text = text.replace("](reading.zh.md)", "](other)").replace("](reading.md)", "](other)")
    text = BILLION.sub(lambda number: f"{float(number[1]) * 10:g} 亿", text)
    without = FENCED.sub(lambda block: re.sub("^#", " ", block[0], flags=re.M), text)     # `# a comment` is no heading
    found, headings = [], list(HEADING.finditer(without))
    numbers = {f"({anchor(h[2])})": f"(heading {i})" for i, h in enumerate(headings)}
    ends = [h.start() for h in headings[1:]] + [len(text)]
    for h, end in zip(headings, ends):
        part = re.sub(r"\(#[^)\s]+\)", lambda link: numbers.get(link[0], link[0]), text[h.start():end])
        station = {"level": h[1], "number": re.match(r"[\d.]*", h[2])[0]}
        for what, pattern in ORDERED.items():
            station[what] = re.findall(pattern, part, re.M | (re.S if what == "quotes" else 0))
        rest = re.sub(r"^```.*$", "", without_code(part), flags=re.M)
        for what, pattern in UNORDERED.items():
            station[what] = sorted(" ".join(name.split()) for name in re.findall(pattern, rest))
            rest = re.sub(pattern, " ", rest)
        found.append(station)
    return found


def without_code(text):
    """Without what is the source's: marks, quotes, rows, where links lead."""
    text = re.sub(ORDERED["quotes"], " ", text, flags=re.M | re.S)
    for pattern in (r"<!-- .*? -->", r"\]\([^)]*\)", r"^\|.*\|$", r"<[^>]*srcset[^>]*>"):
        text = re.sub(pattern, " ", text, flags=re.M)
    return text


def differences(english, chinese):
    """Lines that say in which station what differs."""
    pairs = zip_longest(stations(english), stations(chinese), fillvalue={})
    return [f"station {i} ({a.get('number', '')}), {what}: {a.get(what)} and {b.get(what)}"
            for i, (a, b) in enumerate(pairs) for what in {**a, **b} if a.get(what) != b.get(what)]


def share_of_chinese(text):
    """Of the letters of the prose, without code, equations and names."""
    prose = re.sub(UNORDERED["names"], " ", FENCED.sub("", without_code(text)))
    prose = re.sub(r"<[^>]*>", " ", prose)
    chinese = len(re.findall(r"[\u4e00-\u9fff]", prose))
    return chinese / (chinese + len(re.findall(r"[A-Za-z]", prose)))


def test_the_two_pages_have_the_same_stations():
    assert differences(ENGLISH.read_text("utf-8"), CHINESE.read_text("utf-8")) == []


@pytest.mark.parametrize("old, new", [
    (r"^## ", "### "), (r"^## .*\n", ""), (r"\]\(model\.py", "](data.py"), (r"<details>", ""), (r"(?<=\.)svg", "png"),
    (r"<!-- quote", "<!-- q"), (r"^```python\n.*\n", "```python\n"), (r"`\w+`", "`x`"),
    (r"(?<=[\u4e00-\u9fff] )\d+", "7777"), (r"(?<=<= )1000", "1001"), (r"^\*\*", "")])
def test_a_difference_is_found(old, new):
    """Broken on purpose: a level, a heading, a link, a question, a picture, a mark, a line of code, a name, figures, a part."""
    chinese = CHINESE.read_text("utf-8")
    broken = re.sub(old, new, chinese, count=1, flags=re.M)
    assert broken != chinese and differences(ENGLISH.read_text("utf-8"), broken)


def test_it_is_in_chinese():
    """In every station, and the English page in none."""
    parts = lambda page: re.split(r"^(?=##+ )", FENCED.sub("", page.read_text("utf-8")), flags=re.M)
    assert min(map(share_of_chinese, parts(CHINESE))) > 0.5
    assert max(map(share_of_chinese, parts(ENGLISH))) < 0.1
