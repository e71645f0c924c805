"""Files of our own that are damaged: whatever stands in them, a command ends well or with one line and exit code 2.

Each JSON file that a command reads is broken in every place, one place at a time, and read by that command, in this process.
"""
from harness.cli import cli
from harness.folder import checkpoints

import copy
import io
import json
import os
import random
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

import data
import humaneval
import model
import mtpb
import sample
import train

ROOT = Path(__file__).resolve().parents[1]
MISSING = object()
VALUES = [MISSING, None, True, -1, 0, 1.5, 2 ** 70, float("nan"), "", "x", "../x", "0" * 300, [], [None], {}, {"a": 1}]
TEXTS = [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}" * 2, b"[" * 100_000, b"\0" * 10]


def places(tree, path=()):
    """The path of every value in a JSON tree; of a list's items the first and of an object's values all."""
    yield path
    children = tree.items() if isinstance(tree, dict) else enumerate(tree[:1]) if isinstance(tree, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def broken(tree):
    """(what was done, the broken tree) for each place and each odd value."""
    for path in places(tree):
        for value in VALUES:
            if not path:
                if value is not MISSING:
                    yield f"all = {value!r:.20}", value
                continue
            whole = copy.deepcopy(tree)
            inside = whole
            for key in path[:-1]:
                inside = inside[key]
            if value is MISSING:
                del inside[path[-1]]
            else:
                inside[path[-1]] = value
            yield f"{'.'.join(map(str, path))} = {'missing' if value is MISSING else repr(value)[:20]}", whole


def text_of(stream):
    return stream.buffer.getvalue().decode()


def run(module, *argv):
    """(exit code, stderr) of a command, run in this process."""
    out, err, old = (*(io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in "oe"), sys.argv)
    sys.argv = [module.__file__, *map(str, argv)]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            cli(module.main)
        return 0, text_of(err)
    except SystemExit as end:
        return end.code, text_of(err)
    finally:
        sys.argv = old


def bad_ends(file, module, *argv):
    """Break `file` in every way (or in 60 of them, CODEGEN_FUZZ=1 tries all), run the command on each -> the ways that did not
    end as they should."""
    good, wrong = file.read_bytes(), []
    tree = json.loads(good)
    tree.pop("crc32", None)     # without its checksum, as earlier versions wrote it: what it says has to be looked at
    cases = list(broken(tree))
    random.Random(file.name).shuffle(cases)
    cases = cases[:None if "CODEGEN_FUZZ" in os.environ else 60]
    cases = [(f"text {text[:10]!r}", text) for text in TEXTS] + [(what, json.dumps(t).encode()) for what, t in cases]
    for what, content in cases:
        file.write_bytes(content)
        try:
            code, err = run(module, *argv)
            lines = [line for line in err.replace("\r", "\n").splitlines() if line.strip() and "it/s" not in line]
            if code and (code != 2 or sum("error:" in line for line in lines) != 1):
                wrong.append(f"{file.name}: {what}: exit {code}, {err[-200:]}")
        except BaseException as error:
            wrong.append(f"{file.name}: {what}: {type(error).__name__}: {str(error)[:100]}")
        finally:
            file.write_bytes(good)
    return wrong


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with prepared data, a checkpoint of a tiny model trained on it, and an exported one."""
    here = tmp_path_factory.mktemp("damage")
    (here / "src").mkdir()
    for i in range(60):
        (here / "src" / f"m{i}.py").write_text("".join(f"def f{i}_{j}(x):\n    return x + {j}\n" for j in range(9)))
    assert run(data, "prepare", "--input", here / "src", "--out", here / "data", "--tokenizer", "bytes", "--block_size", "32",
               "--val_fraction", "0.1")[0] == 0
    code, err = run(train, "--model", "0.1M", "--data", here / "data", "--steps", "2", "--batch_size", "2", "--n_layer", "1",
                    "--n_embd", "16", "--n_head", "2", "--rotary_dim", "4", "--out_dir", here / "out", "--no-benchmark")
    assert code == 0, err
    assert run(model, "export", "--ckpt", here / "out", "--hf", here / "hf", "--mp_num", "1")[0] == 0
    return here


def newest(folder):
    return checkpoints(folder)[-1]


def sampling(ckpt):
    return sample, "--ckpt", ckpt, "--prompt", "x = ", "--max_new_tokens", "1"


def scoring(here, kind):
    script = humaneval if kind == "humaneval" else mtpb
    return script, "score", here / f"{kind}.jsonl", "--problems", here / f"{kind}_problems.jsonl", "--timeout", "1"


@pytest.mark.parametrize("name", ["config.json", "index_00000.json"])
def test_checkpoints(here, name):
    assert bad_ends(newest(here / "out") / name, *sampling(here / "out")) == []


def test_resuming(here):
    """The run is at its last step, so a good config.json trains nothing."""
    more = "--init_from", "resume", "--out_dir", here / "out", "--no-benchmark", "--steps", "2"
    assert bad_ends(newest(here / "out") / "config.json", train, *more) == []


def test_prepared_data(here):
    argv = "--model", "0.1M", "--data", here / "data", "--steps", "0", "--batch_size", "2", "--out_dir", here / "other"
    assert bad_ends(here / "data" / "meta.json", train, *argv) == []


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_hugging_face_folders(here, name):
    assert bad_ends(here / "hf" / name, *sampling(here / "hf")) == []
