"""python -m pytest tests/test_records.py : documents wherever they lie, and what is left out."""
from harness import flags

import argparse
import collections
import gzip
import json
import os
import shutil
import subprocess
import sys

from corpora.documents import Document
from corpora.files import REASONS, TextFiles
from corpora.languages import language
from corpora.notebooks import NoNotebook, notebook_text
from corpora.text import read_piece
from corpora.visits import jobs_of, joined

import numpy as np
import pytest
from tqdm import tqdm

import data

TEXTS = [f"def f{i}(x):\n    return '\u00e9\u4e2d' + x * {i}\n" * (1 + i % 5) for i in range(40)]
FORMATS = [".jsonl", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".parquet"]


def write_records(path, records):
    """A file of records, its format by its name; several members, frames or row groups."""
    raw = [json.dumps(record).encode() + b"\n" for record in records]
    halves = [b"".join(raw[:len(raw) // 2]), b"".join(raw[len(raw) // 2:])]
    if path.suffix == ".gz":
        path.write_bytes(b"".join(map(gzip.compress, halves)))
    elif path.suffix == ".zst":
        compress = pytest.importorskip("zstandard").ZstdCompressor().compress
        path.write_bytes(b"".join(map(compress, halves)))
    elif path.suffix == ".parquet":
        pytest.importorskip("pyarrow")
        from pyarrow import Table, parquet
        table = Table.from_pylist(records)
        parquet.write_table(table, path, row_group_size=10, compression="zstd")
    else:
        path.write_bytes(b"".join(halves))
    return path


def read(*inputs, language=None, **how):
    """(texts with their prefixes, the TextFiles) of what is read."""
    files = TextFiles([str(i) for i in inputs], **how)
    found = list(files.documents(tqdm(disable=True), language))
    assert all(isinstance(d, Document) for d in found)
    return [d.prefix + d.opened().read().decode() for d in found], files


def prepare(out, *args):
    data.main(["prepare", "--out", str(out), "--tokenizer", "bytes", "--block_size", "64",
               "--workers", "1", *map(str, args)])
    return json.loads((out / "meta.json").read_text())


def add_up(meta):
    """The law of meta.json."""
    others = meta["files_seen"] - meta["record_files"]
    assert set(meta["dropped"]) == set(REASONS)
    assert meta["documents_seen"] >= others
    return meta["documents_seen"] == meta["kept"] + sum(meta["dropped"].values())


# ---- every format --------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def from_files(tmp_path_factory):
    top = tmp_path_factory.mktemp("files")
    (top / "src").mkdir()
    for i, text in enumerate(TEXTS):
        (top / "src" / f"{i:02}.py").write_text(text)
    return top / "out", prepare(top / "out", "--input", top / "src")


@pytest.mark.parametrize("ending", FORMATS)
def test_the_same_documents_give_the_same_shards_in_every_format(ending, from_files, tmp_path):
    key = "content" if ending == ".parquet" else "text"
    path = write_records(tmp_path / f"a{ending}", [{key: t, "id": i} for i, t in enumerate(TEXTS)])
    out = tmp_path / "out"
    meta = prepare(out, "--input", path)
    assert add_up(meta) and meta["documents_seen"] == meta["kept"] == len(TEXTS)
    assert meta["files_seen"] == meta["record_files"] == 1 and meta["damaged_files"] == 0
    for file in ("train00000.bin", "val00000.bin"):
        assert (out / file).read_bytes() == (from_files[0] / file).read_bytes()


def test_source_and_records_in_one_run(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text(TEXTS[0])
    (tmp_path / "src" / "other.txt").write_text("not asked for\n")
    write_records(tmp_path / "src" / "b.jsonl", [{"text": TEXTS[0]}, {"code": TEXTS[5]}])
    write_records(tmp_path / "c.jsonl.gz", [{"content": TEXTS[6]}])
    texts, files = read(tmp_path / "src", tmp_path / "c.jsonl.gz")
    assert texts == [TEXTS[0], TEXTS[6]] and files.count["extension"] == 2
    meta = prepare(tmp_path / "o", "--input", tmp_path / "src", tmp_path / "c.jsonl.gz",
                   "--extensions", ".py,.jsonl", "--val_fraction", 0)
    assert add_up(meta) and meta["documents_seen"] == 5 and meta["kept"] == 3
    assert meta["dropped"]["duplicate"] == meta["dropped"]["extension"] == 1


@pytest.mark.parametrize("shard, parts", [(10 ** 6, 1), (1000, 5)])
def test_a_long_text_is_one_document_unless_it_is_longer_than_a_shard(monkeypatch, shard, parts):
    """Its pieces are joined, in order; nothing is lost where one document ends, and the next one
    is another. One that has changed since the first visit is left out and counted."""
    monkeypatch.setattr("corpora.text.PIECE", 100)
    monkeypatch.setattr("corpora.visits.SHARD", shard)
    long = "".join(f"line {i}\n" for i in range(500))
    documents = [Document("", 9, "", text.encode()) for text in ("a = 1\n", long, long, "b = 2\n")]
    count = collections.Counter()
    stay = [[(d, data.inspect(d.opened())[2]) for d in documents]]
    pieces = [[*job[1:], np.frombuffer(read_piece(job[0], *job[1]).encode(), np.uint8)]
              for jobs in jobs_of(stay, count) for job in jobs]
    assert count == {"large": 2} and len(pieces) > 60
    pieces[len(pieces) - 2][2] = None       # the last piece of the second long one
    found = [ids.tobytes().decode() for ids in joined(pieces, count)]
    assert found[0] == "a = 1\n" and "".join(found[1:1 + parts]) == long
    assert found[-1] == "b = 2\n" and len(found) == 2 + parts + (parts - 1)
    assert count == {"large": 2, "documents_of_large": 2 * parts - 1, "unreadable": 1}


# ---- damage --------------------------------------------------------------------------------------

ODD = [{"text": None}, {"text": ["a"]}, {"text": 5}, {"other": "x"}, {}, {"text": {"a": "b"}}]


def test_records_without_a_text_are_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps(r) for r in [{"text": "a\n"}, *ODD, {"text": None, "code": "b\n"}]]
    path.write_text("\n".join([*lines, "", "no json", '["text"]', "[" * 10 ** 5, '{"text": "c']))
    texts, files = read(path)
    assert texts == ["a\n", "b\n"]
    assert files.count["no_text"] == len(ODD) and files.count["not_json"] == 4
    assert add_up(files.numbers())
    assert read(path, text_key="other")[0] == ["x"]


def test_rows_without_a_text_are_counted(tmp_path):
    for name, records in (("null", [{"text": "a\n"}, {"text": None}]),
                          ("list", [{"text": ["a"]}, {"text": []}]), ("none", [{"x": 1}, {"x": 2}])):
        texts, files = read(write_records(tmp_path / f"{name}.parquet", records))
        assert len(texts) + files.count["no_text"] == files.seen == 2
        assert texts == (["a\n"] if name == "null" else [])


def test_a_lone_surrogate_and_a_nul_are_no_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud83d"}\n{"text": "a\\u0000"}\n{"text": "ok"}\n')
    files = TextFiles([str(tmp_path / "a.jsonl")])
    found = [data.inspect(d.opened())[0] for d in files.documents(tqdm(disable=True))]
    assert found == ["not_utf8", "nul_byte", None]


@pytest.mark.parametrize("ending", FORMATS[1:4])
@pytest.mark.parametrize("cut", [1, 9, 60])
def test_a_tail_that_is_cut_off_costs_only_itself(tmp_path, ending, cut, capsys):
    path = write_records(tmp_path / f"a{ending}", [{"text": text} for text in TEXTS])
    path.write_bytes(path.read_bytes()[:-cut])
    texts, files = read(path)
    assert texts == TEXTS[:len(texts)] and len(texts) >= len(TEXTS) // 2      # the first half
    assert files.count["damaged_files"] == 1 and add_up(files.numbers())
    error = capsys.readouterr().err
    assert "a.json" in error and "damaged" in error and len(error.splitlines()) == 1


def test_a_cut_gzip_loses_no_line_that_is_there(tmp_path):
    """Of one that was only flushed, every line counts, and the run goes on with the next file."""
    import zlib
    stream = zlib.compressobj(wbits=31)
    raw = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in TEXTS)
    (tmp_path / "a.jsonl.gz").write_bytes(stream.compress(raw) + stream.flush(zlib.Z_SYNC_FLUSH))
    (tmp_path / "b.py").write_text("b\n")
    (tmp_path / "c.jsonl.gz").write_bytes(b"no gzip at all")
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(b'{"text": "d"}') + bytes(512))
    texts, files = read(*(tmp_path / name for name in sorted(os.listdir(tmp_path))))
    assert texts == [*TEXTS, "b\n", "d"] and files.count["damaged_files"] == 2


def test_a_damaged_row_group_costs_no_other(tmp_path):
    path = write_records(tmp_path / "a.parquet", [{"text": text} for text in TEXTS])
    from pyarrow import parquet
    place = parquet.ParquetFile(path).metadata.row_group(1).column(0)
    raw = bytearray(path.read_bytes())
    start = place.dictionary_page_offset or place.data_page_offset
    raw[start:start + place.total_compressed_size] = b"\xff" * place.total_compressed_size
    path.write_bytes(raw)
    texts, files = read(path)
    assert texts == TEXTS[:10] + TEXTS[20:] and files.count["damaged_files"] == 1
    path.write_bytes(raw[:-9])      # without its end it is nothing
    texts, files = read(path)
    assert texts == [] and files.count["damaged_files"] == 1 and add_up(files.numbers())


def test_zeros_between_members_are_padding_wherever_they_lie(tmp_path):
    halves = [json.dumps({"text": text}).encode() + b"\n" for text in ("a\n", "b\n")]
    zeros = bytes(9000)
    for ending, compress in ((".gz", gzip.compress), (".zst", zstd_compress)):
        path = tmp_path / f"a.jsonl{ending}"
        path.write_bytes(compress(halves[0]) + zeros + compress(halves[1]) + zeros)
        texts, files = read(path)
        assert texts == ["a\n", "b\n"] and files.count["damaged_files"] == 0
        path.write_bytes(zeros)     # but a file of nothing else is none of these
        assert read(path)[1].count["damaged_files"] == 1


def zstd_compress(raw):
    return pytest.importorskip("zstandard").ZstdCompressor().compress(raw)


@pytest.mark.parametrize("name", [b"a\xff.jsonl.gz", b"a\nb.jsonl.gz", b"a\xff.parquet"])
def test_a_name_that_is_no_line_of_text_is_read_and_said_in_one_line(name, tmp_path, capsys):
    path = write_records(tmp_path / ("a" + os.path.splitext(name.decode("latin-1"))[1]),
                         [{"text": text} for text in TEXTS])
    path = path.rename(tmp_path / os.fsdecode(name))
    texts, files = read(path)
    assert texts == TEXTS and not files.count["damaged_files"]
    path.write_bytes(path.read_bytes()[:-20])
    assert read(path)[1].count["damaged_files"] == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "damaged" in error and repr(str(path)) in error


def test_texts_of_any_column_type_that_are_no_utf8_cost_themselves_alone(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet
    raw = pa.array([b"caf\xe9\n" if i == 3 else text.encode() for i, text in enumerate(TEXTS)])
    text = raw.view(pa.string())
    columns = {
        "plain": text, "category": text.dictionary_encode(), "bytes": raw,
        "large": raw.cast(pa.large_binary()).view(pa.large_string()),
        "view": raw.cast(pa.binary_view()).view(pa.string_view())}
    for name, column in columns.items():
        path = tmp_path / f"{name}.parquet"
        parquet.write_table(pa.table({"text": column, "language": column}), path)
        files = TextFiles([str(path)])
        found = [data.inspect(d.opened())[0] for d in files.documents(tqdm(disable=True))]
        assert found == [None] * 3 + ["not_utf8"] + [None] * (len(TEXTS) - 4), name
        assert not files.count["damaged_files"]


def test_columns_that_hold_no_text_are_not_read(tmp_path):
    """Even where a value of theirs is none that Python has."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet
    for kind in (pa.timestamp("us"), pa.duration("ns"), pa.int64()):
        other = pa.array([2 ** 62 + 1] * len(TEXTS), kind)
        table = pa.table({"text": TEXTS, "code": other, "content": [[{"a": "b"}]] * len(TEXTS)})
        parquet.write_table(table, tmp_path / "a.parquet")
        texts, files = read(tmp_path / "a.parquet")
        assert texts == TEXTS and not files.count["damaged_files"]
        texts, files = read(tmp_path / "a.parquet", text_key="code")
        assert texts == [] and files.count["no_text"] == len(TEXTS)


@pytest.mark.parametrize("ending, library", [(".jsonl.zst", "zstandard"), (".parquet", "pyarrow")])
def test_a_missing_library_is_one_line_before_any_work(tmp_path, ending, library):
    (tmp_path / f"a{ending}").touch()
    code = f"import sys; sys.modules['{library}'] = None; import data; data.cli(data.main)"
    result = subprocess.run(
        [sys.executable, "-c", code, "prepare", "--input", tmp_path / f"a{ending}", "--out",
         tmp_path / "o", "--tokenizer", "bytes"], cwd=os.path.dirname(data.__file__), text=True,
        capture_output=True)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert f"pip install {library}" in result.stderr and os.listdir(tmp_path) == [f"a{ending}"]


# ---- languages, filters, notebooks ---------------------------------------------------------------

def test_the_language_of_a_record_by_its_name_or_its_files(tmp_path):
    names = ["Python", "c++", "src/a.cc", "x.h", "JavaScript", "Ruby", None, 3, "", "README"]
    path = write_records(tmp_path / "a.jsonl", [{"text": "t\n", "lang": name} for name in names])
    texts, files = read(path, language=language, language_key="lang")
    assert texts == [f"{name}\nt\n" for name in ("Python", "C++", "C++", "C", "JavaScript")]
    assert files.count["no_language"] == 5 and add_up(files.numbers())
    assert len(read(path)[0]) == 10


def test_a_language_key_without_a_prefix_would_not_be_heeded(tmp_path):
    shared = ["--input", str(tmp_path), "--out", "o", "--language_key", "lang"]
    read_flags = lambda *words: TextFiles.of(data.parser().parse_args([*words, *shared]))
    assert read_flags("prepare", "--language_prefix").language_key == "lang"
    for words in (["prepare"], ["train-bpe", "--vocab_size", "300"]):
        with pytest.raises(ValueError, match="--language_key is for --language_prefix"):
            read_flags(*words)


def test_a_vocabulary_that_cannot_be_written_is_not_learned(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.files.os.access", lambda name, mode: False)
    (tmp_path / "a.py").write_text("a" * 99)
    with pytest.raises(ValueError, match="nothing can be written in"):
        data.main(["train-bpe", "--input", str(tmp_path), "--vocab_size", "300", "--out",
                   str(tmp_path / "no" / "x.tiktoken")])


@pytest.mark.parametrize("filters, dropped", [
    ("code", {"average_line": 1, "longest_line": 1, "digits": 1}), ("prose", {"digits": 1}),
    ("none", {})])
def test_filters_are_chosen_and_counted(tmp_path, filters, dropped):
    texts = ["word " * 50, "a = 1\n" * 50 + "b" * 1001, "0123456789abcdef\n" * 9, "x = 1\n" * 30]
    write_records(tmp_path / "a.jsonl", [{"text": text} for text in [*texts, texts[3], "\n"]])
    meta = prepare(tmp_path / "o", "--input", tmp_path / "a.jsonl", "--filters", filters,
                   "--val_fraction", 0)
    assert meta["filters"] == filters and add_up(meta)
    assert {k: n for k, n in meta["dropped"].items() if n} == {"duplicate": 1, "empty": 1} | dropped


CELLS = [{"cell_type": "markdown", "source": ["# Title\n", "\n", "A long word."]},
         {"cell_type": "code", "source": "x = 1\nprint(x)\n", "outputs": [{"text": "1"}]},
         {"cell_type": "raw", "source": "raw"}, {"cell_type": "code", "source": []}]


def test_a_notebook_is_one_document(tmp_path):
    want = "# # Title\n#\n# A long word.\n\nx = 1\nprint(x)\n"
    assert notebook_text(json.dumps({"cells": CELLS}).encode()) == want
    old = [{"cell_type": "heading", "source": "Title"}, {"cell_type": "code", "input": ["y = 2"]}]
    assert notebook_text(json.dumps({"worksheets": [{"cells": old}]}).encode()) == (
        "# Title\n\ny = 2\n")
    blank = [{"cell_type": "code"}, {"cell_type": "code", "source": None}, *CELLS]
    assert notebook_text(json.dumps({"cells": blank}).encode()) == want
    for bad in (b"", b"{", b"[]", b"{}", b'{"cells": 3}', b'{"cells": [{}]}', b"[" * 10 ** 5,
                b'{"cells": [{"cell_type": "code", "source": 5}]}', b"\xff\xfe"):
        with pytest.raises(NoNotebook):
            notebook_text(bad)
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": CELLS}))
    (tmp_path / "b.ipynb").write_text("{")
    meta = prepare(tmp_path / "o", "--input", tmp_path, "--extensions", ".ipynb",
                   "--block_size", 8, "--val_fraction", 0)
    assert meta["kept"] == 1 and meta["dropped"]["not_json"] == 1
    assert sum(meta["tokens"].values()) == len(want) + 1


# ---- what is left out ----------------------------------------------------------------------------

PATHS = ["a.py", "b.txt", "build/x.py", "build/y/z.py", "src/build/x.py", "src/a.py", "src/test_a.py",
         "docs/deep/er/a.py", "docs/a.py", "docs/a b.py", "[x].py", "!odd.py", "#odd.py", "c.pyc"]
PATTERNS = ["a.py", "*.txt", "build/", "/build", "src/build", "src/*.py", "docs/**", "docs/**/a.py",
            "**/a.py", "**/build/**", "test_*", "doc?", "[ab].*", "[!ab].py", r"\[x\].py", r"\!odd.py",
            r"\#odd.py", "#odd.py", "", "*", "*.py\n!a.py", "build/*\n!build/x.py", "docs/a b.py  ",
            "docs/*/a.py", "docs/deep\n!docs/deep/er/a.py", "*.py[co]", "d*/**/*.py", "/", "a.py/",
            "**", "src/**/x.py", "[a-c].p?", "[]x].py", "*a*", r"[\[\d].p*", "[+--x]*", "[&&a].py",
            "\ufeffa.py", "build\r\r\n", "a.py\r\n", "docs\u2028a.py"]


def tree(top):
    for path in PATHS:
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).touch()


@pytest.mark.skipif(not shutil.which("git"), reason="compares with git")
def test_gitignore_is_read_as_git_reads_it(tmp_path):
    tree(tmp_path)
    git = lambda *args, **how: subprocess.run(["git", *args], cwd=tmp_path, text=True,
                                              capture_output=True, **how).stdout
    git("init")
    for pattern in PATTERNS:
        (tmp_path / ".gitignore").write_bytes(pattern.encode())
        listed = git("ls-files", "--others", "--exclude-standard", "-z").split("\0")
        files = TextFiles([str(tmp_path)], ".py,.txt,.pyc", gitignore=True)
        ours = {os.path.relpath(path, tmp_path) for path, _ in files}
        assert ours == set(listed) - {"", ".gitignore"}, pattern


def test_patterns_and_gitignore_leave_out_and_are_counted(tmp_path):
    tree(tmp_path)
    (tmp_path / "src" / ".gitignore").write_text("*.py\n!a.py\n")
    (tmp_path / ".gitignore").write_text("/docs/\n")

    def found(*exclude, gitignore=False, inputs=(tmp_path,)):
        files = TextFiles([str(i) for i in inputs], exclude=exclude, gitignore=gitignore)
        paths = {os.path.relpath(path, tmp_path) for path, _ in files}
        assert len(paths) == files.kept and files.kept + sum(
            files.count[reason] for reason in REASONS) == files.seen
        return paths, files.folders["excluded"], files.count["excluded"]

    everything = {path for path in PATHS if path.endswith(".py")}
    assert found() == (everything, 0, 0)
    assert found("build", "test_*", "/a.py") == (
        {p for p in everything if "build" not in p and p not in ("src/test_a.py", "a.py")}, 2, 2)
    assert found(gitignore=True) == (
        {p for p in everything if p[:4] not in ("docs", "src/")} | {"src/a.py"}, 1, 1 + 1)
    assert found("!src/test_a.py", gitignore=True)[0] == found(gitignore=True)[0]
    named = (tmp_path / "src/test_a.py", tmp_path / "a.py")
    assert found("test_*", gitignore=True, inputs=named)[0] == {"a.py"}


def test_every_flag_of_what_is_read_has_a_type():
    parser = argparse.ArgumentParser()
    from corpora.files import input_flags
    input_flags(parser)
    assert {a.type for a in parser._actions if a.nargs != 0} == {flags.text}
