"""The arrows of the house: which file imports which. Read from the files, nothing is run."""
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {     # script -> the scripts that it imports as it starts
    "tpu_mesh": set(), "data": set(), "model": {"tpu_mesh", "data"}, "train": {"model", "tpu_mesh", "data"},
    "sample": {"model", "tpu_mesh", "data"}, "humaneval": set(), "mtpb": set()}
BELOW, ABOVE = {"harness", "corpora", "fast"}, {"runs", "hf", "plan", "miniature", "real", "bench", "reading"}
LEANS_ON = {"corpora": {"harness"}}     # a folder below -> others below that it imports
OURS = SCRIPTS.keys() | BELOW | ABOVE


def imports(path):
    """(of ours as the file starts, of ours inside functions) -> two sets of first names."""
    tree, start, later = ast.parse(path.read_text()), set(), set()
    inside = {n for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.Lambda)) for n in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {(node.module or "").split(".")[0]}
        else:
            continue
        (later if node in inside else start).update(names & OURS)
    return start, later


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_import_what_stands_before_them_and_open_doors_inside_commands(script):
    start, later = imports(ROOT / f"{script}.py")
    assert start - BELOW <= SCRIPTS[script]
    before = set().union(*([SCRIPTS[script]] + [SCRIPTS[s] for s in SCRIPTS[script]]))
    assert later - BELOW - ABOVE <= before
    assert "bench" not in start | later


@pytest.mark.parametrize("folder", sorted(BELOW))
def test_what_stands_below_imports_no_script(folder):
    for path in (ROOT / folder).glob("*.py"):
        start, later = imports(path)
        assert (start | later) - {folder} <= LEANS_ON.get(folder, set()), path


def test_what_travels_to_the_isolated_process_imports_only_what_travels():
    for name in ("messages", "inside", "calls", "prints"):
        start, later = imports(ROOT / "harness" / f"{name}.py")
        assert start | later <= {"harness"}


def test_the_top_level_holds_the_seven_scripts_and_no_others():
    assert {p.stem for p in ROOT.glob("*.py")} == SCRIPTS.keys()
