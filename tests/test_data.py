"""python -m pytest tests/test_data.py : tokenizers, the five steps of preparation, batches."""
import dataclasses
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from corpora.bpe import blocks, learn_bpe
from corpora.documents import Document
from corpora.files import REASONS, TextFiles
from corpora.text import read_piece
from corpora.tokenizer import PATTERN
from corpora.vocabulary import GPT2_URL, write_tiktoken

import numpy as np
import pytest
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st

import data

PROJECT = Path(data.__file__).parent
NAMES = ["gpt2", "codegen", "bytes", "small"]
SOURCE = "def f(w, h):\n    # 12 <|endoftext|>\n\treturn w * h  # \u00e9\u4e2d\U0001f600\r\n\n\n        x = 31337\n" * 8


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory):
    path = tmp_path_factory.mktemp("bpe") / "small.tiktoken"
    write_tiktoken(path, learn_bpe([SOURCE], 290))
    return {name: data.get_tokenizer(path if name == "small" else name) for name in NAMES}


def run(*args, **kwargs):
    return subprocess.run([sys.executable, str(PROJECT / "data.py"), *map(str, args)], capture_output=True, text=True,
                          timeout=120, **kwargs)


def refused(result):
    """Exit code 2, one line on stderr, no traceback; returns the line."""
    lines = [line for line in result.stderr.splitlines() if line.strip() and "B/s" not in line.split("[")[-1]]
    assert result.returncode == 2 and len(lines) == 1 and "Traceback" not in result.stderr, result.stderr
    return lines[0]


# ---------------------------------------------------------------------------------------------------------------------
# Tokenizers

# Plain text() never draws surrogates, and rarely runs of blanks or the separator: name them.
anything = st.lists(st.one_of(st.text(), st.text(st.characters(codec=None, categories=("Cs",))),
                              st.sampled_from(["<|endoftext|>", " " * 33, "\t" * 11, "\r\n", " \t ", "\ud83d\ude00"]),
                              st.text("\n\t \u00e9a1_", max_size=40))).map("".join)


@pytest.mark.parametrize("name", NAMES)
@given(text=anything)
@settings(deadline=None, max_examples=150)
def test_decode_undoes_encode(tokenizers, name, text):
    t = tokenizers[name]
    ids = t.encode(text)
    assert t.decode(ids) == text and t.decode_bytes(ids) == text.encode("utf-8", "surrogatepass")
    assert t.eot not in ids and all(0 <= i < t.n_vocab for i in ids)


@given(ids=st.lists(st.integers(0, 50294)))
@settings(deadline=None)
def test_any_ids_decode_to_text(tokenizers, ids):
    assert isinstance(tokenizers["codegen"].decode(ids), str)  # a model may sample half a character


@pytest.mark.parametrize("n", range(1, 71))
def test_whitespace_runs(tokenizers, n):
    """Greedy, the longest first: 31 spaces are 50257, 2 are 50286; 9 tabs are 50287, 2 are 50294; one is GPT-2's."""
    rest, single = n % 31, tokenizers["gpt2"].encode(" ")
    assert tokenizers["codegen"].encode(" " * n) == [50257] * (n // 31) + {0: [], 1: single}.get(rest, [50288 - rest])
    rest, single = n % 9, tokenizers["gpt2"].encode("\t")
    assert tokenizers["codegen"].encode("\t" * n) == [50287] * (n // 9) + {0: [], 1: single}.get(rest, [50296 - rest])


@given(text=st.text(st.sampled_from(" \t\n\r\u00a0ab1'.\u00e9\ud800")))
@settings(deadline=None, max_examples=300)
def test_runs_are_cut_before_gpt2_sees_the_text(tokenizers, text):
    """One pattern does what the definition says: split at the runs, each as long as it can be, and GPT-2 for the rest."""
    want = []
    for i, part in enumerate(re.split("( {2,31}|\t{2,9})", text)):
        want += [tokenizers["codegen"].runs[part]] if i % 2 else tokenizers["gpt2"].encode(part)
    assert tokenizers["codegen"].encode(text) == want


def test_codegen_is_gpt2_but_for_the_runs(tokenizers):
    gpt2, codegen = tokenizers["gpt2"], tokenizers["codegen"]
    assert codegen.encode("    return x") == [50284, *gpt2.encode("return x")]    # no space before "return"
    assert codegen.encode(" " * 32 + "x") == [50257, *gpt2.encode(" x")]          # the 32nd space belongs to the word
    assert codegen.encode(" \t x") == gpt2.encode(" \t x")                        # mixed: not merged
    assert (gpt2.n_vocab, codegen.n_vocab, gpt2.eot, codegen.eot) == (50257, 50295, 50256, 50256)
    text = SOURCE.replace("\t", "")
    assert gpt2.encode(text) == tiktoken.get_encoding("r50k_base").encode_ordinary(text)


@pytest.mark.parametrize("unit", ["a", " ", "\n", "^", "\u00e9", " \t", "7"])
def test_endless_repetition_is_cut(tokenizers, unit):
    """The merges of one word take up to the square of its length, so tiktoken never gets a word of a million characters."""
    class Spy:
        def __init__(self, bpe):
            self.bpe, self.longest = bpe, 0

        def encode_ordinary(self, piece):
            self.longest = max([self.longest, *map(len, re.findall(r"\S+|\s+", piece))])
            return self.bpe.encode_ordinary(piece)

    text = unit * (10 ** 5 // len(unit))
    for name in ("codegen", "small"):
        spied = dataclasses.replace(tokenizers[name], bpe=Spy(tokenizers[name].bpe))
        assert spied.decode(spied.encode(text)) == text
        assert spied.bpe.longest <= 4000


def test_trained_bpe_is_what_tiktoken_applies(tokenizers, tmp_path):
    t = tokenizers["small"]
    assert t.n_vocab == 290 and t.eot == 289
    assert t.encode("20250") == [ord(c) for c in "20250"]                          # digits stay single
    assert not any(re.search(rb"\d.|.\d", token, re.S) for token in t.vocab[256:-1])
    assert all("".join(re.findall(PATTERN, s)) == s for s in [SOURCE, *map(chr, range(0x3000))])
    # With every merge learned, each word of the text is one token: the trainer and tiktoken cut it alike.
    words = re.findall(PATTERN, SOURCE)
    write_tiktoken(tmp_path / "full.tiktoken", learn_bpe([SOURCE], 5000))
    full = data.get_tokenizer(tmp_path / "full.tiktoken")
    assert [full.decode([i]) for i in full.encode(SOURCE)] == words


def test_a_prompt_may_end_with_a_line_break(tokenizers, tmp_path):
    """With every merge learned, too: a prompt's ids are the first of the text's, whether what
    follows the break is indented, empty or neither, so a model has seen them before all three."""
    text = SOURCE + "\n\n    a\n\tb\n\n\n    \n  c\n"
    write_tiktoken(tmp_path / "full.tiktoken", learn_bpe([text * 2], 5000))
    for tokenizer in (tokenizers["small"], data.get_tokenizer(tmp_path / "full.tiktoken")):
        ids = tokenizer.encode(text)
        for end in (i + 1 for i, c in enumerate(text) if c == "\n"):
            prompt = tokenizer.encode(text[:end])
            assert prompt == ids[:len(prompt)]


@given(text=st.text(st.sampled_from("aabc \n\t1_\u00e9\u4e2d\ud800\x1c\x85"), max_size=80))
@example(text="low lower lowest slow slowly newer newest wider " * 3 + "aaaa aaa banana")
@settings(deadline=None, max_examples=60)
def test_bpe_merges_the_most_frequent_pair_first(text):
    """Against counting all pairs anew for each merge; of several pairs the one with the lowest ids
    is first, so that the same text gives the same file."""
    ranks = {bytes([i]): i for i in range(256)}
    words = [[bytes([b]) for b in w.encode("utf-8", "surrogatepass")]
             for w in re.findall(PATTERN, text)]
    while len(ranks) < 289:
        count = {}
        for w in words:
            for pair in zip(w, w[1:]):
                count[pair] = count.get(pair, 0) + 1
        if max(count.values(), default=0) < 2:
            break
        a, b = min(count, key=lambda pair: (-count[pair], ranks[pair[0]], ranks[pair[1]]))
        ranks.setdefault(a + b, len(ranks))
        for w in words:
            i = 0
            while i + 1 < len(w):
                if (w[i], w[i + 1]) == (a, b):
                    w[i:i + 2] = [a + b]
                i += 1
    assert list(learn_bpe([text], 290).items()) == list(ranks.items())


@given(text=st.text(st.sampled_from("ab1 \t\r\n\u00e9."), max_size=200))
@settings(deadline=None)
def test_a_long_text_is_cut_where_the_pattern_cuts(text):
    """For the trainer, which holds many texts at once: no word of the vocabulary's is lost."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("corpora.bpe.BLOCK", 9)
        parts = list(blocks(text))
    words = [word for part in parts for word in re.findall(PATTERN, part)]
    assert "".join(parts) == text and words == re.findall(PATTERN, text)


def test_learning_asks_for_its_library(tmp_path):
    """tokenizers is an extra: without it one line says so, before anything is read or written."""
    (tmp_path / "a.py").write_text(SOURCE)
    code = "import sys; sys.modules['tokenizers'] = None; import data; data.cli(data.main)"
    result = subprocess.run(
        [sys.executable, "-c", code, "train-bpe", "--input", tmp_path, "--vocab_size", "300",
         "--out", tmp_path / "o.tiktoken"], cwd=PROJECT, text=True, capture_output=True)
    assert "pip install tokenizers" in refused(result)
    assert os.listdir(tmp_path) == ["a.py"]


def test_a_signal_ends_a_library_that_does_not_listen():
    code = ("import hashlib, signal; from harness.cli import signals_end_at_once\n"
            "signal.signal(signal.SIGTERM, lambda *_: None)\n"
            "with signals_end_at_once():\n"
            "    print(flush=True)\n"
            "    hashlib.pbkdf2_hmac('sha256', b'', b'', 10 ** 9)")     # minutes, deaf
    with subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT,
                          stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.terminate()
        assert process.wait(timeout=60) == 128 + signal.SIGTERM


def test_unusable_tokenizers_are_refused(tmp_path):
    (tmp_path / "bad.tiktoken").write_text("no such line\n")
    (tmp_path / "short.tiktoken").write_text("YQ== 0\n")
    for name in ("cl100k", tmp_path / "missing.tiktoken", tmp_path / "bad.tiktoken", tmp_path / "short.tiktoken"):
        with pytest.raises(ValueError, match=re.escape(str(name))):
            data.get_tokenizer(name)
    with pytest.raises(ValueError, match="50295"):
        data.get_tokenizer("codegen").decode([50295])


def test_no_network_names_the_file_to_get(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.py").write_text("x = 1\n")
    offline = {**os.environ, "TIKTOKEN_CACHE_DIR": str(tmp_path), "https_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    line = refused(run("prepare", "--input", tmp_path / "x", "--out", tmp_path / "out", env=offline))
    assert "TIKTOKEN_CACHE_DIR" in line and GPT2_URL in line and "0ea1e91bbb3a60f729a8dc8f777fd2fc07cd8df4" in line


# ---------------------------------------------------------------------------------------------------------------------
# prepare

@pytest.fixture
def nasty(tmp_path):
    """A folder with one of everything, the files that stay, and how often each reason must be counted."""
    top = tmp_path / "src"
    (top / "deep").mkdir(parents=True)
    stays = [f"def f{i}(x):\n    return x * {i}\n" * 20 for i in range(30)]
    for i, text in enumerate(stays):
        (top / "deep" / f"m{i}.py").write_text(text)
    (top / "copy.py").write_text(stays[3])
    (top / "empty.py").write_text("")
    (top / "blank.py").write_text(" \n\n")
    (top / "latin.py").write_bytes(b"x = '\xe9'\n")
    (top / "huge_line.py").write_text("x" * 10 ** 7)
    (top / "one_long.py").write_text("x = 1\n" * 100 + "y" * 1001 + "\n")
    (top / "digits.py").write_text("0123456789abcdef\n" * 9)
    (top / "nul.py").write_bytes(b"x = 1\0\n")
    (top / "zeros.py").write_bytes(b"\0" * 60)
    (top / "program.py").write_bytes(b"\x7fELF\0\0\xff\xfe")
    (top / "utf16_without_mark.py").write_bytes(stays[4].encode("utf-16-le"))
    (top / "later").mkdir()
    (top / "later" / "windows.py").write_bytes(stays[5].replace("\n", "\r\n").encode())
    (top / "later" / "mark.py").write_bytes(stays[6].encode("utf-8-sig"))
    (top / "later" / "utf16.py").write_bytes(stays[7].encode("utf-16"))
    (top / "later" / "utf32.py").write_bytes(stays[8].encode("utf-32"))
    (top / "half_utf16.py").write_bytes(stays[9].encode("utf-16")[:-1])
    for folder in (".git", "node_modules/x", "deep/__pycache__", "my_venv/lib"):
        (top / folder).mkdir(parents=True)
        (top / folder / "theirs.py").write_text(f"theirs = {folder!r}\n")
    (top / "my_venv" / "pyvenv.cfg").touch()
    (top / "notes.txt").write_text("not python\n")
    (top / "loop").symlink_to(top)
    (top / "self.py").symlink_to(top / "self.py")
    (top / "dangling.py").symlink_to(top / "nowhere")
    (top / "folder.py").mkdir()
    os.mkfifo(top / "pipe.py")  # opening it would wait for ever
    os.symlink("/proc/self/mem", top / "no_read.py")  # opens, but cannot be read, whoever asks
    (top / os.fsdecode(b"odd\xff\nname.py")).write_text("odd = 1\n")
    stays.append("odd = 1\n")
    return top, stays, {"extension": 1, "unreadable": 4, "empty": 2, "nul_byte": 4, "not_utf8": 2,
                        "average_line": 1, "longest_line": 1, "digits": 1, "benchmark": 0, "duplicate": 5}


def documents_of(folder):
    """The texts of a prepared folder, split -> list, the cut ends included."""
    d = data.open_data(folder)
    t = data.get_tokenizer(d.tokenizer)
    result = {}
    for split, shards in d.shards.items():
        stream = np.concatenate([shard[int(i > 0):] for i, shard in enumerate(shards)])
        result[split] = [t.decode(part) for part in np.split(stream, np.flatnonzero(stream == t.eot) + 1)]
    return result


def test_prepare_survives_a_nasty_folder_and_its_numbers_add_up(nasty, tmp_path, monkeypatch):
    top, stays, reasons = nasty
    small, out = tmp_path / "small.tiktoken", tmp_path / "out"
    write_tiktoken(small, learn_bpe(stays, 280))
    result = run("prepare", "--input", top, "--out", out, "--tokenizer", small, "--block_size", 64,
                 "--val_fraction", 0.1, "--workers", 2, "--language_prefix")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("data.py: CPU, 2 processes\n")
    meta = json.loads((out / "meta.json").read_text())
    assert meta["dropped"] == dict.fromkeys(REASONS, 0) | reasons
    assert meta["passed_over"] == {
        ".git": 1, "__pycache__": 1, "node_modules": 1, "virtual environment": 1}
    said = "passed over: .git 1, __pycache__ 1, node_modules 1, virtual environment 1"
    assert said in result.stdout
    assert meta["files_seen"] == meta["kept"] + sum(meta["dropped"].values()) and meta["kept"] == len(stays)
    assert meta["documents"]["train"] + meta["documents"]["val"] == meta["kept"] and meta["documents"]["val"] == 3
    t = data.get_tokenizer(out / "small.tiktoken")                    # the folder holds its own copy
    small.unlink()
    assert sum(meta["tokens"].values()) == sum(len(t.encode("Python\n" + text)) + 1 for text in stays)
    for split in ("train", "val"):
        rows = meta["sequences"][split]
        assert meta["tokens"][split] == rows * 64 + 1 + meta["unused_tokens"][split]
        assert sum(shard["sequences"] for shard in meta["shards"][split]) == rows
    found = documents_of(out)
    whole = [text.removesuffix("<|endoftext|>") for texts in found.values() for text in texts[:-1]]
    assert len(whole) == len(set(whole)) and set(whole) <= {"Python\n" + text for text in stays}
    assert whole != sorted(whole) and not set(found["train"][:-1]) & set(found["val"][:-1])
    assert not (tmp_path / "out.tmp").exists() and sorted(p.name for p in out.iterdir()) == [
        "meta.json", "small.tiktoken", "train00000.bin", "val00000.bin"]


def test_one_process_or_many_write_the_same_bytes(nasty, tmp_path):
    for workers in (1, 3):
        assert run("prepare", "--input", nasty[0], "--out", tmp_path / str(workers), "--tokenizer", "bytes",
                   "--block_size", 100, "--workers", workers).returncode == 0
    for file in ("meta.json", "train00000.bin", "val00000.bin"):
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "3" / file).read_bytes()


@pytest.mark.parametrize("text, reason", [
    ("x" * 99 + "\n", None), ("x" * 100 + "\n", "average_line"), ("y\n" * 50 + "x" * 1000, None),
    ("y\n" * 50 + "x" * 1001, "longest_line"), ("0" * 9 + "x", None), ("0" * 19 + "x", "digits"),
    ("\ufeffx = 1\n", None), ("\n\n", "empty")])
def test_filters_at_their_borders(text, reason):
    assert data.inspect(io.BytesIO(text.encode()))[0] == reason


def pack_numbers(folder, lengths, block_size=8, val_fraction=0.0, n_buckets=1):
    """Packs documents of these lengths, whose bytes tell where they came from; returns the opened data."""
    documents = [[i % 251] * n for i, n in enumerate(lengths)]
    data.pack(iter(documents), folder, data.get_tokenizer("bytes"), block_size, val_fraction, 0, n_buckets)
    return data.open_data(folder)


def test_sequences_join_without_gap_over_shards_and_buckets(tmp_path, monkeypatch):
    monkeypatch.setattr("corpora.shards.SHARD", 80)
    rng = np.random.default_rng(0)
    for case in range(20):
        lengths = rng.integers(0, 60, 40)
        d = pack_numbers(tmp_path / str(case), lengths, block_size=int(rng.integers(1, 40)), n_buckets=1 + case % 4)
        shards = d.shards["train"]
        assert len(shards) > 1 and all(a[-1] == b[0] for a, b in zip(shards, shards[1:]))
        stream = np.concatenate([shard[int(i > 0):] for i, shard in enumerate(shards)])
        total = int(sum(lengths)) + 40
        assert d.meta["tokens"]["train"] == total
        assert len(stream) == (total - 1) // d.block_size * d.block_size + 1     # all but less than a sequence
        parts = np.split(stream, np.flatnonzero(stream == 256))
        assert all(len(set(part[part != 256])) <= 1 for part in parts)             # documents stay whole


def test_shuffle_reaches_every_order(tmp_path):
    """Three documents, two buckets: the six orders about equally often (chi-squared below 25.7, where p is 1e-4)."""
    orders = {}
    for seed in range(240):
        data.pack(iter([[1], [2], [3]]), tmp_path / str(seed), data.get_tokenizer("bytes"), 5, 0.0, seed, 2)
        order = tuple(data.open_data(tmp_path / str(seed)).shards["train"][0][::2])
        orders[order] = orders.get(order, 0) + 1
    assert len(orders) == 6 and sum((n - 40) ** 2 / 40 for n in orders.values()) < 25.7


def test_shuffle_holds_one_bucket_in_memory(tmp_path):
    """The buckets share the corpus about equally: none holds more than half of it."""
    def documents():
        yield from ([1] * 9 for _ in range(400))
        sizes.extend(path.stat().st_size for path in (tmp_path / "d.tmp").glob("bucket*"))

    sizes = []
    data.pack(documents(), tmp_path / "d", data.get_tokenizer("bytes"), 8, 0.0, 0, 4)
    assert len(sizes) == 4 and sum(sizes) == 400 * 10 * 2 and max(sizes) < sum(sizes) / 2


def test_validation_holds_a_whole_sequence(tmp_path):
    d = pack_numbers(tmp_path / "d", [7] * 100, block_size=64, val_fraction=0.01)  # 1 document is 8 tokens: it takes 9
    assert d.meta["documents"] == {"train": 91, "val": 9} and d.meta["sequences"]["val"] == 1
    assert (data.get_batch(d, "val", 0, 5, 3) == data.get_batch(d, "val", 0, 0, 1)).all()


@settings(deadline=None, max_examples=60)
@given(lengths=st.lists(st.integers(0, 400), min_size=1, max_size=12), seed=st.integers(0, 9),
       block_size=st.integers(1, 40), val_fraction=st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.9]))
def test_training_text_is_served_first(tmp_path_factory, lengths, seed, block_size, val_fraction):
    """Whatever the documents: each split has a sequence, training at least half of its share, and
    no token is lost or doubled; where two sequences cannot be had, the refusal says so."""
    documents, total = [[i] * n for i, n in enumerate(lengths)], sum(lengths) + len(lengths)
    folder = tmp_path_factory.mktemp("d") / "out"
    call = lambda: data.pack(iter(documents), folder, data.get_tokenizer("bytes"), block_size,
                             val_fraction, seed)
    if total < (block_size + 1) * (2 if val_fraction else 1):
        with pytest.raises(ValueError, match="more text"):
            call()
        assert not list(folder.parent.iterdir())
        return
    meta = call()
    tokens, cut = meta["tokens"], meta["cut_documents"]
    assert sum(tokens.values()) == total and meta["sequences"]["train"] > 0 and cut in (0, 1)
    assert sum(meta["documents"].values()) == len(lengths) + cut
    assert (meta["sequences"]["val"] > 0) == (val_fraction > 0)
    due = total - max(round(val_fraction * total), block_size + 1 if val_fraction else 0)
    assert tokens["train"] >= min(due // 2, total - block_size - 1)


def test_one_document_or_one_large_and_one_small(tmp_path):
    for name, texts in (("one", ["x = 1\n" * 5000]), ("two", ["y = 2\n", "x = 1\n" * 5000])):
        (tmp_path / name).mkdir()
        for i, text in enumerate(texts):
            (tmp_path / name / f"{i}.py").write_text(text)
        result = run("prepare", "--input", tmp_path / name, "--out", tmp_path / f"{name}_out",
                     "--tokenizer", "bytes", "--block_size", 256)
        assert result.returncode == 0 and "one document is cut" in result.stdout, result.stderr
        meta = json.loads((tmp_path / f"{name}_out" / "meta.json").read_text())
        assert meta["tokens"]["train"] > 29_000 and meta["sequences"]["val"] >= 1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_long_file_is_read_in_pieces(tmp_path, monkeypatch, encoding):
    """They are the text, end where lines end, can be read one by one, and their file is still known
    as a copy of another that is encoded or broken into lines otherwise."""
    text = "".join(f"caf\u00e9 {i} \U0001f600\u4e2d\n" * (i % 7) + "\n" for i in range(200))
    path, plain = tmp_path / "long.py", tmp_path / "plain.py"
    path.write_bytes(text.replace("\n", "\r\n").encode(encoding))
    plain.write_bytes(text.encode())
    whole = data.inspect(open(plain, "rb"))
    for size in (1, 2, 50, 1000):
        monkeypatch.setattr("corpora.text.PIECE", size)
        reason, digest, pieces = data.inspect(open(path, "rb"))
        texts = [read_piece(Document(str(path), 0), *piece) for piece in pieces]
        assert (reason, digest) == whole[:2] and len(pieces) > 5
        assert "".join(texts) == text.replace("\n", "\r\n") and all(t[-1] == "\n" for t in texts)
    path.write_bytes(b"x" * 10)
    assert {read_piece(Document(str(path), 0), *piece) for piece in pieces} == {None}


def test_a_large_file_is_one_document(tmp_path):
    with open(tmp_path / "story.txt", "w") as file:
        file.writelines(["a line of the story\n"] * 850_000)       # 17 million characters
    result = run("prepare", "--input", tmp_path, "--extensions", "txt", "--out", tmp_path / "o",
                 "--tokenizer", "bytes")
    assert result.returncode == 0 and "read as 1 documents" in result.stdout, result.stderr
    meta = json.loads((tmp_path / "o" / "meta.json").read_text())
    assert meta["kept"] == 1 and sum(meta["tokens"].values()) == 17_000_001


@pytest.mark.parametrize("extensions, found", [
    (".py", {"a.py", "B.PY"}), ("py,.ts", {"a.py", "B.PY", "t.d.ts", "t.ts"}), (".mk", set()),
    (".d.ts", {"t.d.ts"}), ("Makefile, html.erb", {"Makefile", "p.html.erb"}),
    ("CMakeLists.txt", {"CMakeLists.txt"})])
def test_extensions_are_ends_of_names_or_whole_names(tmp_path, extensions, found):
    for name in ("a.py", "B.PY", "apy", "t.d.ts", "t.ts", "td.txt", "Makefile", "p.html.erb",
                 "CMakeLists.txt"):
        (tmp_path / name).touch()
    args = data.parser().parse_args(
        ["prepare", "--input", str(tmp_path), "--out", "o", "--extensions", extensions])
    chosen = TextFiles(args.input, args.extensions)
    assert {os.path.basename(path) for path, _ in chosen} == found


def test_a_file_or_a_folder_that_input_names_is_read(tmp_path):
    """Whatever its name: who names it wants it. What is passed over of itself is counted."""
    for folder in ("src/.git", "src/node_modules/a/node_modules", "src/venv/lib"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "theirs.py").touch()
    (tmp_path / "src" / "venv" / "pyvenv.cfg").touch()
    (tmp_path / "story").touch()

    def found(*inputs):
        paths = TextFiles([str(tmp_path / i) for i in inputs], ".py")
        return sorted(os.path.relpath(path, tmp_path) for path, _ in paths), dict(paths.folders)

    assert found("src", "story") == (
        ["story"], {".git": 1, "node_modules": 1, "virtual environment": 1})
    assert found("src/.git", "src/venv") == (["src/.git/theirs.py", "src/venv/lib/theirs.py"], {})
    assert found("src/node_modules") == (["src/node_modules/a/node_modules/theirs.py"], {})


def test_every_place_for_out(tmp_path):
    """A slash at the end, a link, a link to what is not there yet, an empty folder: all become the
    data; nothing else is touched, and nothing stays beside it."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("x = 1\n" * 100)
    top = tmp_path / "top"
    (top / "disk").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "link").symlink_to(top / "disk")
    (top / "ahead").symlink_to(top / "later")
    for out in ("slash/", "link", "ahead", "empty", "a/b/c"):
        result = run("prepare", "--input", tmp_path / "src", "--out", f"{top}/{out}", "--tokenizer",
                     "bytes", "--block_size", 64)
        assert result.returncode == 0, result.stderr
        assert data.open_data(top / out).meta["kept"] == 1
        assert sorted(os.listdir(top / out)) == ["meta.json", "train00000.bin", "val00000.bin"]
    assert sorted(os.listdir(top)) == ["a", "ahead", "disk", "empty", "later", "link", "slash"]
    (top / "loop").symlink_to(top / "loop")
    (top / "file").touch()
    for out in ("loop", "file", "link", "empty/", "file/x"):
        refused(run("prepare", "--input", tmp_path / "src", "--out", f"{top}/{out}", "--tokenizer",
                    "bytes"))
    assert sorted(os.listdir(top)) == [
        "a", "ahead", "disk", "empty", "file", "later", "link", "loop", "slash"]


@pytest.mark.parametrize("strangers", [["mine"], ["unfinished", "mine"], ["train00000.bin"]])
@pytest.mark.parametrize("where", ["o", "o.tmp"])
def test_a_folder_of_somebody_else_stays(tmp_path, where, strangers):
    (tmp_path / where).mkdir()
    for name in strangers:
        (tmp_path / where / name).write_text("precious")
    with pytest.raises(ValueError, match="not an unfinished run"):
        data.pack(iter([[1] * 99]), tmp_path / "o", data.get_tokenizer("bytes"), 8, 0.0, 0)
    left = {p.name: p.read_text() for p in (tmp_path / where).iterdir()}
    assert left == dict.fromkeys(strangers, "precious")


def test_a_tokenizer_takes_no_name_of_others(tmp_path):
    for name in ("t.tiktoken.tmp", "t.tiktoken.part"):
        (tmp_path / name).write_text("precious")
    write_tiktoken(tmp_path / "t.tiktoken", {bytes([i]): i for i in range(256)})
    assert (tmp_path / "t.tiktoken.tmp").read_text() == "precious"


def test_a_full_disk_leaves_nothing(tmp_path):
    """A limit on the size of files stands for the disk."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("x = 1\n" * 10 ** 4)
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    refused(run("prepare", "--input", tmp_path / "src", "--out", tmp_path / "deep" / "o",
                "--tokenizer", "bytes", "--block_size", 64, preexec_fn=limit))
    assert os.listdir(tmp_path) == ["src"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_ends_quietly(tmp_path, number):
    """As a terminal or a supervisor sends it, while the workers are busy: an exit code, no word."""
    (tmp_path / "src").mkdir()
    for i in range(2000):
        (tmp_path / "src" / f"m{i}.py").write_text(f"value = {i}\n" * 300)
    out, bucket = tmp_path / "out", tmp_path / "out.tmp" / "bucket0"
    process = subprocess.Popen(
        [sys.executable, PROJECT / "data.py", "prepare", "--input", tmp_path / "src", "--out", out,
         "--tokenizer", "bytes", "--workers", "2"], text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    while not bucket.exists() or not bucket.stat().st_size:
        assert process.poll() is None and not time.sleep(0.005)
    os.killpg(process.pid, number)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    assert all("B/s" in line for line in error.splitlines() if line.strip()), error
    assert os.listdir(tmp_path) == ["src"]


def test_killed_it_starts_again_cleanly(tmp_path):
    source = tmp_path / "src"
    source.mkdir()
    for i in range(3000):
        (source / f"m{i}.py").write_text(f"value = {i}\n" * 200)
    out, bucket = tmp_path / "out", tmp_path / "out.tmp" / "bucket0"
    command = ["prepare", "--input", source, "--out", out, "--tokenizer", "bytes", "--workers", "1"]

    # A test run in the background of a shell has Ctrl-C switched off, and its children inherit that.
    listening = ("import signal, data; signal.signal(signal.SIGINT, signal.default_int_handler);"
                 "data.cli(data.main)")

    for how, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):                # the last leaves its half behind
        process = subprocess.Popen([sys.executable, "-c", listening, *map(str, command)], cwd=PROJECT, text=True,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while not bucket.exists() or not bucket.stat().st_size:
            assert process.poll() is None and not time.sleep(0.005)
        process.send_signal(signal.SIGSTOP)
        assert bucket.exists() and "another run" in refused(run(*command))        # nobody else may write there now
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)
        error = process.communicate(timeout=60)[1]
        assert process.returncode == code and "Traceback" not in error
        assert not out.exists()
    result = run(*command)
    assert result.returncode == 0, result.stderr
    meta = json.loads((out / "meta.json").read_text())
    assert meta["kept"] == 3000
    assert sum(meta["tokens"].values()) == sum(len(f"value = {i}\n") * 200 + 1 for i in range(3000))
    assert not bucket.parent.exists()


def test_bad_input_is_one_line_and_overwrites_nothing(tmp_path):
    source, empty, full = tmp_path / "src", tmp_path / "empty", tmp_path / "full"
    for folder in (source, empty, full):
        folder.mkdir()
    (source / "a.py").write_text("x = 1\n")
    (full / "mine").write_text("precious")
    (tmp_path / "half.tmp").mkdir()
    (tmp_path / "half.tmp" / "mine").write_text("precious")
    ok = ["prepare", "--tokenizer", "bytes", "--input", source, "--out"]
    for args, word in [
            ([*ok, full], "exists already"), ([*ok, tmp_path / "half"], "half.tmp"),
            ([*ok, tmp_path / "o"], "block_size"), ([*ok, tmp_path / "o", "--bloc", 8], "--bloc"),
            ([*ok, tmp_path / "o", "--val_fraction", 1], "val_fraction"),
            ([*ok, tmp_path / "o", "--block_size", 0], "block_size"), ([*ok, tmp_path / "o", "--tokenizer", "x"], "x"),
            ([*ok, tmp_path / "o", "--extensions", ".txt"], "no .txt file"), ([], "required"),
            ([*ok, tmp_path / "o", "--extensions", ".txt"], "dropped: extension 1"),
            ([*ok, tmp_path / "o", "--extensions", ".rs,.py", "--language_prefix"], ".rs"),
            (["prepare", "--tokenizer", "bytes", "--input", empty, "--out", tmp_path / "o"], "no .py file"),
            (["prepare", "--input", tmp_path / "none", "--out", tmp_path / "o"], "no such folder"),
            (["train-bpe", "--input", source, "--vocab_size", 9, "--out", tmp_path / "o.tiktoken"], "vocab_size"),
            (["train-bpe", "--input", source, "--vocab_size", 300, "--out", full / "mine"], ".tiktoken")]:
        assert word in refused(run(*args))
    assert (full / "mine").read_text() == (tmp_path / "half.tmp" / "mine").read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "full", "half.tmp", "src"]


def test_train_bpe_command(tmp_path):
    (tmp_path / "a.py").write_text(SOURCE)
    result = run("train-bpe", "--input", tmp_path, "--vocab_size", 280, "--out", tmp_path / "o.tiktoken")
    assert result.returncode == 0 and result.stdout.startswith("data.py: CPU, 1 process\n"), result.stderr
    assert data.get_tokenizer(tmp_path / "o.tiktoken").n_vocab == 280


# ---------------------------------------------------------------------------------------------------------------------
# Batches

@given(n=st.integers(1, 600), seed=st.integers(0, 2 ** 40), epoch=st.integers(0, 9))
@settings(deadline=None, max_examples=60)
def test_permute_is_a_permutation(n, seed, epoch):
    places = data.permute(np.arange(n), n, (seed, epoch))
    assert sorted(places) == list(range(n))


def test_permute_looks_random():
    """Over 2,000 keys each index lands on each of 10 places about 200 times (5 standard deviations), orders differ."""
    landed = np.zeros((10, 10), int)
    for key in range(2000):
        landed[np.arange(10), data.permute(np.arange(10), 10, (key, 0))] += 1
    assert abs(landed - 200).max() < 5 * np.sqrt(200 * .9)
    big = data.permute(np.arange(10 ** 5), 10 ** 5, (0, 0))
    assert abs(np.corrcoef(np.arange(10 ** 5), big)[0, 1]) < 0.02 and abs(np.corrcoef(big[:-1], big[1:])[0, 1]) < 0.02


def test_each_sequence_once_an_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr("corpora.shards.SHARD", 80)
    d = pack_numbers(tmp_path / "d", [7] * 121)                                   # 121 sequences, each of another byte
    n = d.meta["sequences"]["train"]
    rows = np.concatenate([data.get_batch(d, "train", 3, step, 5) for step in range(3 * n // 5 + 1)])[:3 * n]
    assert rows.shape == (3 * n, 9) and rows.dtype == np.int32
    epochs = [[tuple(row) for row in rows[e * n:(e + 1) * n]] for e in range(3)]
    assert all(len(set(epoch)) == n for epoch in epochs) and set(epochs[0]) == set(epochs[1]) == set(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2]
    stream = np.concatenate([shard[int(i > 0):] for i, shard in enumerate(d.shards["train"])])
    assert set(epochs[0]) == {tuple(stream[i * 8:i * 8 + 9]) for i in range(n)}   # y of one row begins the next row's x
    again = data.get_batch(data.open_data(tmp_path / "d"), "train", 3, 17, 5)
    assert (again == rows[17 * 5:18 * 5]).all() and (data.get_batch(d, "train", 4, 17, 5) != again).any()


@pytest.mark.parametrize("processes", [2, 3, 4, 12])
def test_p_processes_read_what_one_reads(tmp_path, processes):
    d = pack_numbers(tmp_path / "d", [7] * 31, val_fraction=0.1)
    for split in ("train", "val"):                                                # val is far smaller than the batch
        for step in range(6):
            parts = [data.get_batch(d, split, 0, step, 12, p, processes) for p in range(processes)]
            assert (np.concatenate(parts) == data.get_batch(d, split, 0, step, 12)).all()
    with pytest.raises(ValueError, match="13"):
        data.get_batch(d, "train", 0, 0, 13, 0, processes if processes != 1 else 2)


def test_damaged_data_is_named(tmp_path):
    d = pack_numbers(tmp_path / "d", [7] * 31)
    with pytest.raises(ValueError, match="val_fraction"):
        data.get_batch(d, "val", 0, 0, 4)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        data.open_data(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="miniature:klingon"):
        data.open_data("miniature:klingon")
    with open(tmp_path / "d" / "train00000.bin", "ab") as file:
        file.write(b"xx")
    with pytest.raises(ValueError, match="train00000.bin"):
        data.open_data(tmp_path / "d")
    (tmp_path / "d" / "meta.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        data.open_data(tmp_path / "d")


GOOD = {"file": "train00000.bin", "sequences": 30, "crc32": 2344257602}


@pytest.mark.parametrize("change", [
    *({key: value} for value in (None, -1, 2 ** 70, 0.5, True, [], {}, [8])
      for key in ("block_size", "vocab_size", "eot", "tokenizer", "shards", "sequences")),
    *({key: "8"} for key in ("block_size", "vocab_size", "eot", "shards", "sequences")),
    *({"shards": {"train": rows, "val": []}} for rows in (
        [], [None], [{}], [GOOD | {"sequences": 29}], [GOOD | {"sequences": -1}], [GOOD, GOOD],
        *([GOOD | {"file": file}] for file in (
            "../d2/train00000.bin", "/dev/zero", "..", "", "no", 8, "a\0b")))),
    {"tokenizer": "../own.tiktoken"}, {"tokenizer": "no.tiktoken"}, {"eot": 257}], ids=str)
def test_damaged_meta_is_one_error(tmp_path, change):
    """A value of another type, missing, huge or negative, or a name that leaves the folder."""
    pack_numbers(tmp_path / "d2", [7] * 31)
    (tmp_path / "own.tiktoken").touch()
    d = pack_numbers(tmp_path / "d", [7] * 31)
    assert d.meta["shards"]["train"] == [GOOD]
    meta = {key: value for key, value in (d.meta | change).items() if value is not None}
    (tmp_path / "d" / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(ValueError, match="damaged.*prepare it again"):
        data.open_data(tmp_path / "d")


def test_a_token_beyond_the_vocabulary_does_not_train(tmp_path):
    d = pack_numbers(tmp_path / "d", [7] * 31)
    ids = np.fromfile(tmp_path / "d" / "train00000.bin", np.uint16)
    ids[100] = 257
    ids.tofile(tmp_path / "d" / "train00000.bin")
    with pytest.raises(ValueError, match="token id 257"):
        data.get_batch(data.open_data(d.folder), "train", 0, 0, 31)


def test_jax_is_not_imported():
    code = "import sys, data; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0
