"""Laws of harness/files.py and samples.py: what is read is checked, what is refused stays as it
was, nothing of a stranger's is taken."""

from harness import files, samples

import contextlib
import fcntl
import gzip
import io
import json
import os
from pathlib import Path

import pytest


def state(folder):
    """{name: bytes} of all that lies in a folder."""
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()
    }


# ---- finding and reading


def test_no_home_folder_is_one_line_and_takes_nothing_away(monkeypatch, tmp_path):
    def homeless():
        raise RuntimeError("could not determine the home directory")

    found = files.find_benchmark("HumanEval.jsonl.gz")
    monkeypatch.setattr(files.Path, "home", homeless)
    monkeypatch.setenv("CODEGEN_BENCHMARKS", str(found.parent))
    assert files.find_benchmark("HumanEval.jsonl.gz") == found
    monkeypatch.delenv("CODEGEN_BENCHMARKS")
    monkeypatch.setattr(files.urllib.request, "urlopen", lambda url, timeout: open(found, "rb"))
    with pytest.raises(ValueError, match="no place in a home folder .*CODEGEN_BENCHMARKS"):
        files.find_benchmark("HumanEval.jsonl.gz")
    (tmp_path / "file").touch()  # a home that cannot be written, also by root
    monkeypatch.setattr(files.Path, "home", lambda: tmp_path / "file")
    with pytest.raises(ValueError, match="no place in a home folder .*CODEGEN_BENCHMARKS"):
        files.find_benchmark("HumanEval.jsonl.gz")


def test_a_download_that_breaks_off_is_one_line(monkeypatch, tmp_path):
    def broken(url, timeout):
        raise files.http.client.IncompleteRead(b"x")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CODEGEN_BENCHMARKS", raising=False)
    monkeypatch.setattr(files.urllib.request, "urlopen", broken)
    with pytest.raises(ValueError, match="cannot be downloaded"):
        files.find_benchmark("mtpb.jsonl")


def test_the_official_file_is_official_packed_and_unpacked_and_no_other(tmp_path):
    packed = files.find_benchmark("HumanEval.jsonl.gz")
    raw = gzip.decompress(packed.read_bytes())
    (tmp_path / "unpacked.jsonl").write_bytes(raw)
    (tmp_path / "other.jsonl").write_bytes(raw + b"\n")
    assert files.is_official(packed) and files.is_official(tmp_path / "unpacked.jsonl")
    assert not files.is_official(tmp_path / "other.jsonl")


GOOD = b'{"a": 1}\n'


@pytest.mark.parametrize(
    "name, raw",
    [
        ("x.jsonl.gz", gzip.compress(GOOD * 99, mtime=0)[:-9]),
        ("x.jsonl.gz", GOOD),
        ("x.jsonl.gz", b"\x1f\x8b\x08"),
        ("x.jsonl.gz", gzip.compress(GOOD, mtime=0) + b"more"),
        ("x.jsonl", gzip.compress(GOOD, mtime=0)),
        ("x.jsonl", GOOD + b'{"a": ' + b"9" * 5000 + b"}"),
        ("x.jsonl", GOOD + b"[" * 100_000),
        ("x.jsonl", b"\xff\xfe{\x00"),
        ("x.jsonl", GOOD + b"null\n"),
        ("x.jsonl", b'{"a": "\xff"}'),
    ],
)
def test_what_is_no_file_of_json_lines_is_one_line(name, raw, tmp_path):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(ValueError, match="x.jsonl") as caught:
        files.read_lines(tmp_path / name)
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


# ---- writing


def test_a_temporary_name_takes_no_strangers_file_and_a_failure_changes_nothing(
    tmp_path, monkeypatch
):
    target, stranger = tmp_path / "x", tmp_path / "x.part"
    target.write_bytes(b"old")
    stranger.write_bytes(b"a stranger's")
    files.replace_file(target, b"new")
    assert state(tmp_path) == {"x": b"new", "x.part": b"a stranger's"}

    def full(*args):
        raise OSError(28, "no space left")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError):
        files.replace_file(target, b"newer")
    assert state(tmp_path) == {"x": b"new", "x.part": b"a stranger's"}


def test_a_link_stays_a_link_and_a_pipe_a_pipe(tmp_path):
    (tmp_path / "link").symlink_to("file")
    files.replace_file(tmp_path / "link", b"1")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_bytes() == b"1"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    files.check_writable(tmp_path / "pipe")
    files.replace_file(tmp_path / "pipe", b"through")
    assert os.read(reader, 100) == b"through" and (tmp_path / "pipe").is_fifo()
    os.close(reader)


def test_what_goes_into_a_stream_of_ours_stands_between_what_was_printed(tmp_path, capfd):
    """Whether that is a pipe or a file, which is then not replaced: what else is printed would be lost."""
    for open_at in (os.pipe, lambda: (None, os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY))):
        reader, writer = open_at()
        os.write(writer, b"before\n")
        for root in ("/dev/fd", "/proc/self/fd"):
            files.check_writable(f"{root}/{writer}")
            files.replace_file(f"{root}/{writer}", b"between\n")
        os.write(writer, b"behind\n")
        os.close(writer)
        whole = os.read(reader, 100) if reader else (tmp_path / "log").read_bytes()
        assert whole == b"before\nbetween\nbetween\nbehind\n"
    assert os.listdir(tmp_path) == ["log"]
    print("before")
    files.replace_file("/dev/stdout", b"between\n")
    assert capfd.readouterr().out == "before\nbetween\n"


def test_what_is_replaced_stays_as_private_as_it_was(tmp_path):
    for mode in (0o600, 0o640):
        (tmp_path / "x").touch()
        (tmp_path / "x").chmod(mode)
        files.replace_file(tmp_path / "x", b"new")
        assert (tmp_path / "x").stat().st_mode & 0o777 == mode


def test_writability_is_found_out_without_touching_anything(tmp_path, monkeypatch):
    (tmp_path / "old").write_bytes(b"results")
    (tmp_path / "samples").write_bytes(b"samples")
    before = state(tmp_path)
    files.check_writable(tmp_path / "old", tmp_path / "samples")
    files.check_writable(tmp_path / "new")
    for bad in (tmp_path / "no folder" / "x", tmp_path / "old" / "x"):
        with pytest.raises(ValueError, match="cannot be written .*--results FILE"):
            files.check_writable(bad)
    (tmp_path / "link").symlink_to("samples")
    for same in ("samples", "link", "../" + tmp_path.name + "/samples"):
        with pytest.raises(ValueError, match="would overwrite .*--results FILE"):
            files.check_writable(tmp_path / same, tmp_path / "samples")
    monkeypatch.setattr(files.os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match="cannot be written .*--results FILE"):
        files.check_writable(tmp_path / "old")
    (tmp_path / "link").unlink()
    assert state(tmp_path) == before


# ---- sample files

SETTINGS = {"n": 1, "ckpt": "out", "checkpoint": "step 5, sha256 ab"}
WANTED = {"a": 1, "b": 1}
RECORD = {"id": "a", "text": "x"}


def sample(path, settings, records=()):
    with samples.resume(path, settings, "id", WANTED) as done:
        samples.append_records(path, records)
    return done


@pytest.fixture
def made(tmp_path):
    """A sample file that holds problem a."""
    assert sample(tmp_path / "s.jsonl", SETTINGS, [RECORD]) == set()
    return tmp_path / "s.jsonl"


def test_samples_belong_to_one_model_wherever_it_lies(made):
    assert sample(made, SETTINGS | {"ckpt": "./out/"}) == {"a"}  # another spelling
    before = state(made.parent)
    for other in ({"checkpoint": "step 6, sha256 cd"}, {"n": 2}):
        with pytest.raises(
            ValueError,
            match="(another model, step 5.*step 6.*|other settings .n.*)choose another --out",
        ):
            sample(made, SETTINGS | other)
    assert state(made.parent) == before


@pytest.mark.parametrize("name", ["humaneval", "mtpb"])
def test_samples_of_another_model_are_refused_before_a_model_is_loaded(name, made, monkeypatch):
    import importlib

    import jax.numpy as jnp

    import sample as sampling
    import tpu_mesh

    def load(*args):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(sampling, "load", load)
    script = importlib.import_module(name)
    monkeypatch.setattr(importlib.import_module("runs.sampling"), "find_devices", lambda: None)
    meta = {"model": {}, "tokenizer": "bytes"}
    tpu_mesh.save_checkpoint(made.parent / "out", 1, {"w": jnp.zeros(3)}, meta)
    flags = ["generate", "--ckpt", str(made.parent / "out"), "--out", str(made)]
    args, before = script.parser().parse_args(flags), state(made.parent)
    problems = files.find_benchmark(
        "HumanEval.jsonl.gz" if name == "humaneval" else "mtpb.jsonl"
    )
    with pytest.raises(ValueError, match="is of another model, step 5"):
        script.generate_command(args, problems)
    assert state(made.parent) == before


def test_a_file_that_does_not_say_its_model_is_not_gone_on_with(made):
    old = {k: v for k, v in SETTINGS.items() if k != "checkpoint"}
    Path(f"{made}.json").write_text(json.dumps(old))
    before = state(made.parent)
    with pytest.raises(ValueError, match="does not say which model"):
        sample(made, SETTINGS)
    assert state(made.parent) == before and samples.settings_of(made) == old


@pytest.mark.parametrize(
    "settings",
    [
        b"[1]",
        b"{",
        b"a stranger's",
        b'{"name": "package"}',
        b"null",
        b'{"n": ' + b"9" * 5000 + b"}",
        b"\xff",
    ],
)
def test_a_strangers_file_in_the_settings_place_stays(settings, tmp_path, made):
    """Beside a sample file that is there, and where none is."""
    Path(f"{made}.json").write_bytes(settings)
    (tmp_path / "t.jsonl.json").write_bytes(settings)
    before = state(tmp_path)
    for name in ("s.jsonl", "t.jsonl"):
        with pytest.raises(ValueError, match="choose another --out"):
            sample(tmp_path / name, SETTINGS, [RECORD])
    assert state(tmp_path) == before


def test_what_is_refused_gets_no_settings_file(tmp_path):
    (tmp_path / "s.jsonl").write_text("somebody's notes\n")
    (tmp_path / "folder").mkdir()
    before = state(tmp_path)
    for name in ("s.jsonl", "s.jsonl.gz", "folder"):
        with pytest.raises(ValueError):
            sample(tmp_path / name, SETTINGS, [RECORD])
    with (
        contextlib.suppress(KeyboardInterrupt),
        samples.resume(tmp_path / "t.jsonl", SETTINGS, "id", WANTED),
    ):
        raise KeyboardInterrupt  # before the first sample
    assert state(tmp_path) == before


def test_a_damaged_sample_file_is_named_and_not_touched(made):
    made.write_bytes(b"no JSON\n" + made.read_bytes() + b'{"id": "b", "te')
    before = state(made.parent)
    with pytest.raises(ValueError, match="s.jsonl, line 1"):
        sample(made, SETTINGS)
    assert state(made.parent) == before


def test_one_writer_at_a_time_and_file_systems_without_locks(made, monkeypatch):
    with samples.resume(made, SETTINGS, "id", WANTED):
        with pytest.raises(ValueError, match="being written by another process"):
            sample(made, SETTINGS)

    def no_locks(*args):
        raise OSError(37, "no locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert sample(made, SETTINGS) == {"a"}


def test_an_encoding_without_our_characters_ends_nothing(made, monkeypatch):
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), "ascii", errors="replace"))
    Path(f"{made}.json").write_text(json.dumps(SETTINGS, ensure_ascii=False), encoding="utf-8")
    assert sample(made, SETTINGS) == {"a"}


# ---- which model


def test_a_fingerprint_is_the_models_and_not_the_places(tmp_path):
    from harness import folder

    import shutil

    import jax.numpy as jnp

    import tpu_mesh

    one = tpu_mesh.save_checkpoint(tmp_path / "out", 1, {"w": jnp.zeros(3)}, {"model": {}})
    two = tpu_mesh.save_checkpoint(tmp_path / "out", 2, {"w": jnp.zeros(3)}, {"model": {}})
    other = tpu_mesh.save_checkpoint(tmp_path / "other", 1, {"w": jnp.ones(3)}, {"model": {}})
    shutil.copytree(one, tmp_path / "copy")
    prints = [folder.fingerprint(f) for f in (one, tmp_path / "copy", two, other)]
    assert prints[0] == prints[1] and len(set(prints)) == 3 and prints[0].startswith("step 1, ")


def test_a_fingerprint_of_large_weights_reads_pieces_of_them(tmp_path):
    from harness import folder

    (tmp_path / "config.json").write_text('{"model_type": "codegen"}')
    weights = bytearray(os.urandom(1 << 16) * 64)
    seen = set()
    for place in (None, 0, len(weights) - 1, len(weights) // 64 * 32):
        if place is not None:
            weights[place] ^= 1
        (tmp_path / "model.safetensors").write_bytes(weights)
        seen.add(folder.fingerprint(tmp_path))
    (tmp_path / "README.md").write_text("nothing of the model")
    assert folder.fingerprint(tmp_path) in seen and len(seen) == 4


@pytest.mark.parametrize("there", [True, False])
def test_what_no_sample_can_be_written_to_is_found_out_before_a_model_is_read(there, tmp_path, monkeypatch):
    path, before = tmp_path / "a" / "b" / "s.jsonl", state(tmp_path)
    samples.check_resumable(path, SETTINGS)
    sealed = path if there else tmp_path
    if there:
        sample(path, SETTINGS, [RECORD])
        before = state(tmp_path)
    monkeypatch.setattr(files.os, "access", lambda name, mode: Path(name) != sealed)
    with pytest.raises(ValueError, match=f"{sealed.name}.*choose another --out"):
        samples.check_resumable(path, SETTINGS)
    assert state(tmp_path) == before
