"""The miniature: corpora that are deterministic, runnable and free of the held-out problems; a report that is its data."""
import contextlib
import io
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "miniature"))
import corpus  # noqa: E402
import problems  # noqa: E402
import solve  # noqa: E402

from data import MINIATURE, get_tokenizer  # noqa: E402

MTPB = [json.loads(line) for line in (ROOT / "miniature" / "mtpb.jsonl").read_text().splitlines()]
HUMANEVAL = [json.loads(line) for line in (ROOT / "miniature" / "humaneval.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole():
    """All that the models are trained on: kind -> [(text, operation names)]."""
    return {kind: list(corpus.documents_with_ops(kind, MINIATURE["seed"], MINIATURE["n"])) for kind in corpus.KINDS}


def test_same_seed_same_corpus(whole):
    for kind in corpus.KINDS:
        assert list(corpus.documents_with_ops(kind, MINIATURE["seed"], 300)) == whole[kind][:300]
        assert list(corpus.documents_with_ops(kind, 99, 300)) != whole[kind][:300]


def test_no_problem_occurs_in_any_corpus(whole):
    """Not by the generator's rule but by looking: no problem's operations are a run of any document's operations, and
    neither does its text stand anywhere."""
    code = {op[0]: op[3] for op in corpus.OPERATIONS}      # two operations may have one code: sort numbers, sort words
    wanted = {tuple(code[n] for n in p["name"].split()) for p in MTPB + HUMANEVAL}
    assert len({p["name"] for p in MTPB + HUMANEVAL}) == len(MTPB + HUMANEVAL) and all(len(w) >= 2 for w in wanted)
    prompts, solutions = [p["prompt"].splitlines()[1] for p in HUMANEVAL], [p["canonical_solution"] for p in HUMANEVAL]
    for documents in whole.values():
        for _, names in documents:
            codes = [code[n] for n in names]
            for i in range(len(codes)):
                for j in range(i + 2, len(codes) + 1):
                    assert tuple(codes[i:j]) not in wanted
        text = "\n".join(t for t, _ in documents)
        assert not [s for s in prompts + solutions if s in text]
    # and yet each single operation of a problem is taught
    taught = {n for _, names in whole["mono"] for n in names}
    assert {n for p in MTPB + HUMANEVAL for n in p["name"].split()} <= taught


def test_what_a_document_says_is_what_its_list_of_operations_says(whole):
    """The test above trusts the lists: the code of each listed operation stands in the text, in this order."""
    for text, names in whole["mono"][:2000]:
        place = 0
        for name in names:
            code = re.escape(corpus.CODE[name].replace("{{", "{").replace("}}", "}"))
            found = re.compile(code.replace(r"\{v\}", r"\w+").replace(r"\{k\}", r"\d")).search(text, place)
            assert found, (name, text)
            place = found.end()


def test_forty_operations_in_three_wordings_each(whole):
    text = "\n".join(t for t, _ in whole["mono"])
    assert len(corpus.OPERATIONS) >= 40
    for name, _, _, _, *asks in corpus.OPERATIONS:
        assert len(asks) >= 3, name
        for ask in asks:      # the whole wording occurs, with some variable and number and where the result goes
            words = re.escape(ask).replace(r"\{v\}", r"\w+").replace(r"\{k\}", r"\d")
            assert re.search(words + r"( and |\ as )", text), (name, ask)


def test_forms_of_mono(whole):
    """Turn by turn, functions with docstrings, and a few per cent with the whole specification first."""
    texts = [t.removeprefix(corpus.PREFIX) for t, _ in whole["mono"]]
    comments = lambda t: [line.startswith("#") for line in t.splitlines()]
    assert {sum(comments(t)) for t in texts if not t.startswith("def ")} == {1, 2, 3, 4, 5, 6}
    single = [t for t in texts if sum(comments(t)) > 2 and comments(t) == sorted(comments(t), reverse=True)]
    assert 0.01 < len(single) / len(texts) < 0.08
    functions = [t for t in texts if re.match(r'def \w+\(\w+\):\n    """', t)]
    assert 0.2 < len(functions) / len(texts) < 0.4


def test_apart_is_mono_with_the_comments_moved(whole):
    moved = 0
    for (mono, names), (apart, same_names) in zip(whole["mono"], whole["apart"]):
        assert names == same_names and sorted(mono.splitlines()) == sorted(apart.splitlines())
        lines = [line.startswith("#") for line in apart.removeprefix(corpus.PREFIX).splitlines()]
        assert lines == sorted(lines, reverse=True)
        moved += mono != apart
    assert moved > 0.6 * len(whole["mono"])


def test_nl_is_mostly_english_and_multi_has_six_languages(whole):
    code = sum("=" in t or "def " in t for t, _ in whole["nl"])
    assert 0.04 < code / len(whole["nl"]) < 0.1
    languages = [t.split("\n")[0] for t, _ in whole["multi"]]
    assert set(languages) == {"Python", *corpus.LANGUAGES} and len(set(languages)) == 6
    assert min(languages.count(language) for language in set(languages)) > 0.08 * len(languages)


def test_programs_run(whole):
    python = [t for t, _ in whole["mono"][:300] + whole["apart"][:100]]
    python += [t.removeprefix("Python\n") for t, _ in whole["multi"][:300] if t.startswith("Python\n")]
    for text in python:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(text, {"__name__": "__main__"})     # our own generator's code
        assert out.getvalue() or "print" not in text


def test_mtpb_is_well_formed():
    assert len(MTPB) == 100
    assert {p["category"] for p in MTPB} == {"string", "array", "math", "dict", "algorithm"}
    for p in MTPB:
        assert len(p["prompts"]) >= 3 and len(p["inputs"]) == len(p["outputs"]) == 5 and p["max_gen_length"]
        assert len({json.dumps(i) for i in p["inputs"]}) == 5
        assert p["prompts"][0].count("{A}") == 1
        for i in p["inputs"]:
            for prompt in p["prompts"]:
                prompt.format(**i)


def test_humaneval_is_well_formed():
    """The solution passes its check, and a body that gives its argument back does not: 50 of 50 and 0 of 50."""
    assert len(HUMANEVAL) == 50
    for p in HUMANEVAL:
        assert p["test"].count("assert candidate(") == 5
        argument = p["prompt"].split(")")[0].split("(")[1]
        for body, right in ((p["canonical_solution"], True), (f"\n    return {argument}\n", False)):
            scope = {}
            exec(p["prompt"] + body + "\n" + p["test"], scope)
            with contextlib.nullcontext() if right else pytest.raises(AssertionError):
                scope["check"](scope[p["entry_point"]])


def test_the_files_are_what_the_generator_makes():
    assert MTPB == json.loads(json.dumps(problems.mtpb())) and HUMANEVAL == json.loads(json.dumps(problems.humaneval()))


def test_one_tokenizer_fits_all_corpora(whole):
    tok = get_tokenizer("miniature")
    assert tok.n_vocab == 1024
    for kind, most in (("nl", 60), ("multi", 110), ("mono", 110), ("apart", 110)):
        sizes = [len(tok.encode(t)) for t, _ in whole[kind][:500]]
        assert sum(sizes) / len(sizes) < most
    longest = max(len(tok.encode("".join(f"# {q}\n" for q in p["prompts"]).format(**i))) for p in MTPB for i in p["inputs"])
    assert longest < 130        # a single-turn conversation fits the context of 256 with its answer


def test_a_program_is_judged_by_what_it_prints():
    start = solve.command()
    assert solve.printed("import numpy as np\nprint(sorted([3, 1]))", start) == "[1, 3]"
    assert solve.printed("print(1)\nraise SystemExit(3)", start) != "1"
    assert solve.printed("print(1)\nx = 1 / 0", start) == "ZeroDivisionError: division by zero"
    assert solve.printed("while True: pass", start, seconds=1) == "timed out"
