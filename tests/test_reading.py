"""The companion: what its pages link to is there, what they quote is the source, and each station is whole."""
from harness.cli import cli

import re
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from reading import quotes

ROOT = Path(__file__).parents[1]
PAGES = [page for page in quotes.PAGES if (ROOT / page).exists()]
READING = (ROOT / "reading.md").read_text(encoding="utf-8")
STATIONS = ["1", "2.1", "2.2", "2.3", "3.1", "3.2", "4.1", "4.2", "4.3", "4.4", "5", "Appendix", "Appendix"]
PARTS = ["The paper", "Code", "Law", "Figures", "Question"]
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def stations(text):
    """(heading, text) of each station: the second-level headings behind the list of words."""
    return re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", text, re.MULTILINE)[1:]


def slugs(path):
    """The anchors that GitHub gives to the headings of a Markdown file."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_what_is_quoted_is_what_the_source_says_today(page):
    quotes.check(page)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    text = FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    targets = re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", text)
    pictures = [("", name) for name in re.findall(r'(?:src|srcset)="([^"]+)"', text)]
    for words, target in targets + pictures:
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        path = ROOT / (file or page)
        assert path.exists(), target
        lines = re.fullmatch(r"L(\d+)-L(\d+)", anchor)
        if lines:
            first, last = map(int, lines.groups())
            part = path.read_text(encoding="utf-8").splitlines()[first - 1:last]
            assert 1 <= first <= last and len(part) == last - first + 1, target
            name = words.strip("`").split(".")[-1]
            named = rf"(def|class) {name}\b|{name} = "
            assert not words.startswith("`") or any(re.match(named, line.strip()) for line in part[:9]), (words, target)
        elif anchor:
            assert anchor in slugs(path), target
        assert lines or not (words.startswith("`") and target.endswith(".py")), f"{target}: run python reading/quotes.py"


@pytest.mark.parametrize("page", PAGES)
def test_every_quoted_line_is_the_sources_and_no_quote_is_long(page):
    """Not by the rules of quotes.py but by the lines that stand above each quote."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"^\[(.+), (.+)\]\((.+)#L(\d+)-L(\d+)\)\n```python\n((?:.*\n)*?)```$", text, re.MULTILINE)
    assert len(found) == text.count("```python\n") >= len(STATIONS)
    for name, numbers, file, first, last, shown in found:
        assert name == file and numbers == (first if first == last else f"{first}-{last}")
        source = (ROOT / file).read_text(encoding="utf-8").splitlines()[int(first) - 1:int(last)]
        assert dedent("\n".join(source)) + "\n" == shown and len(source) <= 10, f"{file} {numbers}"
    measured = (ROOT / "miniature" / "README.md").read_text(encoding="utf-8").splitlines()
    tables = re.findall(r"^<!-- rows .*\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert len(tables) == text.count("<!-- rows") and all(row in measured for t in tables for row in t.splitlines())


def test_stations_follow_the_paper_and_have_all_parts():
    found = stations(READING)
    assert [heading.split()[0].rstrip(":") for heading, _ in found] == STATIONS
    for heading, text in found:
        assert re.findall(r"^\*\*(.+)\.\*\*", text, re.MULTILINE) == PARTS, heading
        said, code, law, figures, question = re.split(r"^\*\*.+\.\*\*", text, flags=re.MULTILINE)[1:]
        assert len(re.findall(r"[.?](?=\s)", re.split(r"\n\n", said)[0] + "\n")) == 3, f"{heading}: not three sentences"
        assert said.count("```text\n") == 1, f"{heading}: no equation"
        assert re.search(r"\[`[\w.]+`\]\(\w+\.py#L", code) and "<!-- quote " in code, f"{heading}: no code"
        assert re.search(r"\[`test_\w+`\]\(tests/test_\w+\.py#L", law), f"{heading}: no law"
        assert "miniature" in figures.lower(), f"{heading}: nothing measured"
        answer = re.search(r"<details><summary>Answer</summary>\n\n(.+?)\n</details>\n", question, re.DOTALL)
        assert answer and "?" in question[:answer.start()], f"{heading}: no question or no answer"


def test_it_is_read_in_half_an_hour():
    prose = re.sub(r"^\|.*$|^\[\S+, [\d-]+\].*$|<[^>]*>|\]\([^)]*\)|`[^`]*`", " ", FENCE.sub("", READING), flags=re.MULTILINE)
    assert 1200 <= len(re.findall(r"[A-Za-z][\w'-]*", prose)) <= 1600
    assert "\u2014" not in READING and len(stations(READING)) == len(STATIONS)


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A small one: a source, a measurement, a page."""
    monkeypatch.setattr(quotes, "ROOT", tmp_path)
    (tmp_path / "code.py").write_text("A = 1\n\n\n@cache\ndef f(x):\n    y = x\n    z = y\n    return z\n\n\nclass C:\n"
                                      "    def g(self):\n        return 1\n")
    (tmp_path / "measured.md").write_text("# One\n\nWords.\n\n| a | b |\n| - | - |\n| x | 1 |\n| y | 2 |\n\n# Two\n")
    (tmp_path / "reading.md").write_text("[`code.f`](code.py) [`C.g`](code.py) [`A`](code.py#L7-L9)\n\n"
                                         "<!-- quote code.py f: y = ... z = -->\n\n<!-- rows measured.md One: y -->\n")
    return tmp_path


def write(page, text):
    page.write_text(text)
    return text


def test_quotes_are_written_anew_and_what_is_stale_is_named(house):
    page = house / "reading.md"
    once = write(page, quotes.renewed("reading.md"))
    assert once == ("[`code.f`](code.py#L4-L8) [`C.g`](code.py#L12-L13) [`A`](code.py#L1-L1)\n\n"
                    "<!-- quote code.py f: y = ... z = -->\n[code.py, 6-7](code.py#L6-L7)\n```python\ny = x\nz = y\n```\n\n"
                    "<!-- rows measured.md One: y -->\n| a | b |\n| - | - |\n| y | 2 |\n")
    assert quotes.renewed("reading.md") == once
    for file, old, new in (("code.py", "y = x", "y = x + 1"), ("code.py", "A = 1\n", "A = 1\n\n"),
                           ("measured.md", "| 2 |", "| 3 |"), ("code.py", "    z = y", "    # more\n    z = y")):
        write(house / file, (house / file).read_text().replace(old, new))
        with pytest.raises(ValueError, match=r"reading.md, line \d+ is stale"):
            quotes.check("reading.md")
        write(page, quotes.renewed("reading.md"))
        quotes.check("reading.md")


@pytest.mark.parametrize("old, new, words", [
    ("code.py f", "code.py h", "code.py has no h"), ("code.py f", "codes.py f", "codes.py"), ("z =", "w =", "with 'w ='"),
    ("One", "Three", "'Three'"), ("One", "Two", "'Two'"), (": y -->", ": q -->", "no row 'q'"), ("C.g", "C.h", "no C.h")])
def test_what_is_not_there_is_named(house, old, new, words):
    write(house / "reading.md", (house / "reading.md").read_text().replace(old, new))
    with pytest.raises(ValueError, match=re.escape(words)):
        quotes.renewed("reading.md")


def test_check_says_in_one_line_what_is_stale_and_writes_nothing(house, monkeypatch, capsys):
    page = house / "reading.md"
    before = page.read_text()
    monkeypatch.setattr(sys, "argv", ["quotes.py", "--check"])
    with pytest.raises(SystemExit) as left:
        cli(quotes.main)
    assert left.value.code == 2 and page.read_text() == before
    assert re.fullmatch(r"quotes\.py: error: reading\.md, line 1 is stale: .*\n", capsys.readouterr().err)
    monkeypatch.setattr(sys, "argv", ["quotes.py"])
    cli(quotes.main)
    monkeypatch.setattr(sys, "argv", ["quotes.py", "--check"])
    cli(quotes.main)
