"""Notebooks (.ipynb): code and Markdown cells in their order, one text."""
import json


class NoNotebook(ValueError):
    """What should be a notebook is none."""


def is_notebook(path):
    """Whether a file is a notebook, by its name."""
    return path.lower().endswith(".ipynb")


def notebook_text(raw):
    """bytes of a notebook -> its text: code as it stands, the lines of Markdown as comments, a
    blank line between cells. Outputs and raw cells are left out. NoNotebook where it is none."""
    try:
        notebook = json.loads(raw)
        sheets = notebook.get("worksheets") or [notebook]      # of format 3, before 2015
        cells = [cell for sheet in sheets for cell in sheet["cells"]]
        return "\n\n".join(filter(None, map(cell_text, cells))) + "\n"
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        raise NoNotebook from None


def cell_text(cell):
    """A cell -> its text; "" for one that is neither code nor Markdown."""
    code = cell["cell_type"] == "code"
    if not code and cell["cell_type"] not in ("markdown", "heading"):
        return ""
    text = "".join(cell.get("input", cell.get("source")) or "")
    if code:
        return text.strip("\n")
    return "\n".join(f"# {line}".rstrip() for line in text.strip().splitlines())
