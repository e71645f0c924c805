"""What reading.md quotes, cut from the source, so that it cannot go stale.

    python reading/quotes.py            write quotes and lines into reading.md and reading.zh.md
    python reading/quotes.py --check    write nothing; exit code 2 and one line: what is stale

Three things in a page are written here. The first two stand behind a comment, which no reader sees:

    <!-- quote model.py block: h = vary( ... y = x + -->    lines of `block`, from the first that
                                        begins with `h = vary(` to the next that does with `y = x +`
    <!-- rows miniature/README.md By difficulty: easy; hard -->    rows of the table of that heading
    [`model.block`](model.py)           the lines where it stands are added: model.py#L1-L9
"""
import argparse
import ast
import re
import sys
from itertools import zip_longest
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from harness.cli import cli, one_line_errors  # noqa: E402
from harness.files import replace_file  # noqa: E402

PAGES = "reading.md", "reading.zh.md"
QUOTE = re.compile(r"(<!-- quote (\S+) (\S+): (.+?) \.\.\. (.+) -->)\n"      # and what it had:
                   r"(?:\[.*\n```python\n(?:.*\n)*?```\n)?")
ROWS = re.compile(r"(<!-- rows (\S+) ([^:\n]+): (.+) -->)\n(?:\|.*\n)*")
LINK = re.compile(r"\[`([\w.]+)`\]\(([\w/]+\.py)(?:#L\d+-L\d+)?\)")


def read(file):
    return (ROOT / file).read_text(encoding="utf-8")


def lines_of(file, name):
    """The first and last line, counted from 1, of a function, a class, a method ("Chat.align") or a
    constant. ValueError where the file has none of that name."""
    body = ast.parse(read(file)).body
    for part in name.removeprefix(f"{Path(file).stem}.").split("."):
        node = next((node for node in body if part in names(node)), None)
        if node is None:
            raise ValueError(f"{file} has no {name}")
        body = getattr(node, "body", [])
    decorators = getattr(node, "decorator_list", [])
    return min(n.lineno for n in (node, *decorators)), node.end_lineno


def names(node):
    """The names that a statement gives to something: of `def f`, `class C` and `X = 1`."""
    targets = [ast.unparse(target) for target in getattr(node, "targets", [])]
    return targets or [getattr(node, "name", None)]


def quote(found):
    """The comment, a link to the lines that it means, and these."""
    mark, file, name, *words = found.groups()
    lines = read(file).splitlines()
    (place, end), places = lines_of(file, name), []
    for word in words:
        begins = (n for n in range(place, end + 1) if lines[n - 1].lstrip().startswith(word))
        place = next(begins, None)
        if place is None:
            raise ValueError(f"{name} of {file} has no line there that begins with {word!r}")
        places.append(place)
    first, last = places
    said = f"{first}-{last}" if first < last else f"{first}"
    code = dedent("\n".join(lines[first - 1:last]))
    return f"{mark}\n[{file}, {said}]({file}#L{first}-L{last})\n```python\n{code}\n```\n"


def rows(found):
    """The comment, the head of the table that it means, and those of its rows that it names."""
    mark, file, heading, words = found.groups()
    below = re.search(rf"^#+ {re.escape(heading)}.*\n((?:[^#|\n].*\n|\n)*)((?:\|.*\n)+)", read(file),
                      re.MULTILINE)
    if not below:
        raise ValueError(f"{file} has no table under a heading {heading!r}")
    title, rule, *others = below[2].splitlines()
    chosen = {row.split(" | ")[0].removeprefix("| "): row for row in others}
    try:
        table = [title, rule, *(chosen[word] for word in words.split("; "))]
    except KeyError as missing:
        raise ValueError(f"the table under {heading!r} of {file} has no row {missing}") from None
    return "\n".join([mark, *table]) + "\n"


def link(found):
    name, file = found.groups()
    first, last = lines_of(file, name)
    return f"[`{name}`]({file}#L{first}-L{last})"


def renewed(page):
    """A page as it should be. ValueError where it names what is not there."""
    try:
        return LINK.sub(link, ROWS.sub(rows, QUOTE.sub(quote, read(page))))
    except (OSError, ValueError) as error:
        raise ValueError(f"{page}: {error}") from None


def check(page):
    """ValueError that names the first line of a page that is stale."""
    old, new = read(page).splitlines(), renewed(page).splitlines()
    for number, (line, wanted) in enumerate(zip_longest(old, new, fillvalue=""), 1):
        if line != wanted:
            raise ValueError(f"{page}, line {number} is stale: {line[:60]!r}. "
                             "Write it anew with python reading/quotes.py")


def main():
    parser = one_line_errors(argparse.ArgumentParser(description=__doc__.splitlines()[0]))
    parser.add_argument("--check", action="store_true", help="write nothing, say what is stale")
    args = parser.parse_args()
    for page in filter(lambda page: (ROOT / page).exists(), PAGES):
        if args.check:
            check(page)
        else:
            replace_file(ROOT / page, renewed(page).encode())


if __name__ == "__main__":
    cli(main)
