"""The miniature corpus: deterministic, runnable, varied, and with nothing of the held-out problems in it."""
import contextlib
import io
import json
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "miniature"))
import corpus  # noqa: E402
import solve  # noqa: E402

from data import MINIATURE, get_tokenizer  # noqa: E402

PROBLEMS = [json.loads(line) for line in (ROOT / "miniature" / "mtpb.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole():
    """All that the toy model is trained on: (text, operation names)."""
    return list(corpus.documents_with_ops("mono", MINIATURE["seed"], MINIATURE["n"]))


def test_same_seed_same_corpus(whole):
    assert list(corpus.documents("mono", MINIATURE["seed"], 300)) == [text for text, _ in whole[:300]]
    assert list(corpus.documents("mono", 99, 300)) != [text for text, _ in whole[:300]]


def test_no_held_out_sequence_occurs_in_the_corpus(whole):
    """Not by the generator's rule but by looking: no problem's operations are a run of any document's operations."""
    code = {op[0]: op[3] for op in corpus.OPERATIONS}      # two operations may have one code: sort numbers, sort words
    wanted = {tuple(code[n] for n in p["name"].split()) for p in PROBLEMS}
    assert len({p["name"] for p in PROBLEMS}) == len(PROBLEMS) and all(len(w) >= 2 for w in wanted)
    for _, names in whole:
        codes = [code[n] for n in names]
        for i in range(len(codes)):
            for j in range(i + 2, len(codes) + 1):
                assert tuple(codes[i:j]) not in wanted
    # and yet each single operation of a problem is taught
    taught = {n for _, names in whole for n in names}
    assert {n for p in PROBLEMS for n in p["name"].split()} <= taught


def test_forty_operations_in_three_wordings_each(whole):
    text = "\n".join(t for t, _ in whole)
    assert len(corpus.OPERATIONS) >= 40
    for name, _, _, _, *asks in corpus.OPERATIONS:
        assert len(asks) >= 3, name
        for ask in asks:      # the whole wording occurs, with some variable and number and where the result goes
            words = re.escape(ask).replace(r"\{v\}", r"\w+").replace(r"\{k\}", r"\d")
            assert re.search(words + r"( and |\ as )", text), (name, ask)


def test_turns_and_forms(whole):
    turns = Counter(min(t.count("# "), 7) - t.startswith(corpus.PREFIX) for t, _ in whole)
    assert set(turns) == {1, 2, 3, 4, 5, 6}
    assert any('"""' in t for t, _ in whole)
    single = [t for t, _ in whole if t.removeprefix(corpus.PREFIX).count("\n\n") == 0 and t.count("# ") > 2]
    assert 0.03 < len(single) / len(whole) < 0.2


def test_programs_run(whole):
    for text, _ in whole[:300]:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(text, {"__name__": "__main__"})     # our own generator's code
        assert out.getvalue() or "print" not in text


def test_problems_are_well_formed():
    assert len(PROBLEMS) >= 90
    assert {p["category"] for p in PROBLEMS} == {"string", "array", "math", "dict", "algorithm"}
    for p in PROBLEMS:
        assert len(p["prompts"]) >= 3 and len(p["inputs"]) == len(p["outputs"]) == 5
        assert p["prompts"][0].count("{A}") == 1
        for i in p["inputs"]:
            for prompt in p["prompts"]:
                prompt.format(**i)
    assert PROBLEMS == json.loads(json.dumps(corpus.benchmark()))      # the file is what the generator makes


def test_tokenizer_fits_the_corpus(whole):
    tok = get_tokenizer("miniature")
    assert tok.n_vocab == 512
    sizes = [len(tok.encode(t)) for t, _ in whole[:500]]
    assert sum(sizes) / len(sizes) < 170


def test_a_program_is_judged_by_what_it_prints():
    start = solve.command()
    assert solve.printed("import numpy as np\nprint(sorted([3, 1]))", start) == "[1, 3]"
    assert solve.printed("print(1)\nraise SystemExit(3)", start) != "1"
    assert solve.printed("print(1)\nx = 1 / 0", start) == "ZeroDivisionError: division by zero"
    assert solve.printed("while True: pass", start, seconds=1) == "timed out"
