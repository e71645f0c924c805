"""python -m pytest tests/test_corpora.py : what stands below data.py."""
from harness.files import find_benchmark, read_lines

import collections
import gc
import hashlib
import io
import json
import multiprocessing.queues
import os
import random
import signal
import sys

from corpora import benchmarks, cluster, digests
from corpora.pool import bounded_map, worker_pool

import pytest
from hypothesis import given
from hypothesis import strategies as st

import data


@pytest.mark.parametrize("parts", [1, 256])
@given(numbers=st.lists(st.integers(0, 400), max_size=2000))
def test_a_set_of_digests_is_a_set(parts, numbers):
    ours, theirs = digests.DigestSet(), set()
    for number in numbers:
        digest = hashlib.sha256(b"%d" % number).digest()
        if parts == 1:      # all in one table, at its end, so that places wrap around
            digest = b"\0\xff\xff\xff" + digest
        assert (digest in ours) == (digest in theirs)
        ours.add(digest)
        theirs.add(digest)


def test_a_digest_takes_at_most_16_bytes_and_zero_is_one_too():
    ours, n = digests.DigestSet(), 60_000
    rng = random.Random(0)
    for _ in range(n):
        ours.add(rng.randbytes(32))
    assert sum(ours.counts) == n and sum(table.nbytes for table in ours.tables) <= 16.5 * n
    assert bytes(32) not in ours
    ours.add(bytes(32))
    assert bytes(32) in ours


def test_of_equal_documents_the_first_stays_and_the_others_are_counted():
    rng = random.Random(1)
    digest = lambda: hashlib.sha256(b"%d" % rng.randrange(300)).digest()
    rows = [(f"f{i}", rng.choice([None, None, "empty"]), digest(), [(0, b"")]) for i in range(1000)]
    batches = [rows[i:i + 7] for i in range(0, len(rows), 7)]
    count, seen, expected = collections.Counter(), set(), []
    for path, reason, digest, _ in rows:
        if not reason and digest not in seen:
            seen.add(digest)
            expected.append(path)
    stay = [path for batch in data.distinct(batches, count) for path, _ in batch]
    assert stay == expected
    assert sum(count.values()) == len(rows) - len(stay) and set(count) == {"empty", "duplicate"}


# ---------------------------------------------------------------------------------------------------------------------
# Benchmarks

ORDINARY = "import os\n\n\ndef area(width, height):\n    return width * height\n\n\n" * 20


@pytest.fixture(scope="module")
def searched():
    return benchmarks.Benchmarks(benchmarks.passages())


@pytest.fixture(scope="module")
def humaneval():
    return [record for _, record in read_lines(find_benchmark("HumanEval.jsonl.gz"))]


@pytest.fixture(scope="module")
def mtpb():
    return [record for _, record in read_lines(find_benchmark("mtpb.jsonl"))]


def holds(searched, text):
    return searched.held_in(io.BytesIO(text.encode()))


def as_comment(text, mark="# "):
    return "".join(f"        {mark}{line}\n" for line in text.splitlines())


@given(shift=st.integers(0, 100), data=st.data())
def test_every_problem_is_found_wherever_it_stands_and_however_it_is_laid_out(searched, humaneval, mtpb, shift, data):
    before = ("x = 1\n" * 20)[:shift] + ORDINARY
    problem = data.draw(st.sampled_from(humaneval))
    solution = "\n    ".join(problem["canonical_solution"].splitlines())
    prompts = data.draw(st.sampled_from(mtpb))["prompts"]
    laid_out = [problem["prompt"], as_comment(problem["prompt"]), problem["prompt"].replace("\n", "\r\n"),
                " ".join(problem["prompt"].split()), as_comment("\n".join(prompts)), "\n".join(prompts)]
    if len(benchmarks.bare(solution)) >= benchmarks.LEAST:
        laid_out += [solution, problem["canonical_solution"].replace("    ", "\t")]
    assert all(holds(searched, before + text + ORDINARY) for text in laid_out)


def test_a_short_solution_is_found_with_its_signature_alone(searched, humaneval):
    solution = '    return "".join(list(map(lambda x: x.swapcase(), text)))\n'
    assert not holds(searched, solution)
    problem = next(p for p in humaneval if p["entry_point"] == "flip_case")     # def flip_case(string: str) -> str:
    code = f"def flip_case(string: str) -> str:\n{problem['canonical_solution']}"
    assert holds(searched, ORDINARY + code) and not holds(searched, ORDINARY + problem["canonical_solution"])


def test_near_misses_stay(searched, humaneval):
    prompt = next(p for p in humaneval if p["entry_point"] == "is_prime")["prompt"]
    bare = benchmarks.bare(prompt).decode()
    part = bare[20:20 + benchmarks.ENOUGH]
    assert holds(searched, part) and not holds(searched, part[:-1] + "!") and not holds(searched, "!" + part[1:])
    assert not holds(searched, part[:40] + "!" + part[40:])
    for idiom in ("from typing import List, Tuple, Optional, Any, Dict\nimport math\n",
                  "def add(x: int, y: int):\n    return x + y\n",
                  "    for i in range(len(numbers)):\n        for j in range(i + 1, len(numbers)):\n",
                  "if n < 2:\n    return n\n", 'if __name__ == "__main__":\n    import doctest\n    doctest.testmod()\n', ""):
        assert not holds(searched, ORDINARY + idiom + ORDINARY)


def test_a_problem_on_the_border_of_two_pieces_is_found(searched, humaneval, monkeypatch):
    monkeypatch.setattr("corpora.text.PIECE", 1000)
    one_line = " ".join(humaneval[0]["prompt"].split())
    for length in range(1000 - len(one_line), 1000, 7):
        assert holds(searched, "a" * length + one_line + "a" * 3000)


def test_prepare_drops_and_counts_them_and_says_that_it_looked(humaneval, tmp_path):
    texts = {"solved": humaneval[1]["prompt"] + humaneval[1]["canonical_solution"], "again": humaneval[1]["prompt"],
             "ordinary": ORDINARY}
    (tmp_path / "src").mkdir()
    for name, text in texts.items():
        (tmp_path / "src" / f"{name}.py").write_text(text)
    out = tmp_path / "out"
    data.main(["prepare", "--input", str(tmp_path / "src"), "--out", str(out), "--tokenizer", "bytes", "--block_size", "64",
               "--exclude_benchmarks"])
    meta = json.loads((out / "meta.json").read_text())
    assert meta["dropped"]["benchmark"] == 2 and meta["kept"] == 1 and meta["exclude_benchmarks"]


# ---------------------------------------------------------------------------------------------------------------------
# A cluster

def test_a_cluster_that_is_not_there_is_one_error(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    (tmp_path / "a.py").write_text(ORDINARY)
    for address in ("tcp://127.0.0.1:1", "nonsense", "http://127.0.0.1:1"):
        with pytest.raises(ValueError, match="no scheduler answers"):
            data.main(["prepare", "--input", str(tmp_path), "--out", str(tmp_path / "out"), "--tokenizer", "bytes",
                       "--dask", address])
        assert os.listdir(tmp_path) == ["a.py"]


def test_without_the_package_a_cluster_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    (tmp_path / "a.py").write_text(ORDINARY)
    with pytest.raises(ValueError, match="pip install distributed"):
        data.main(["prepare", "--input", str(tmp_path), "--out", str(tmp_path / "out"), "--tokenizer", "bytes",
                   "--dask", "local"])


def test_a_cluster_writes_the_same_bytes_though_a_worker_is_killed(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "BATCH", 2 ** 15)
    (tmp_path / "src").mkdir()
    for i in range(100):
        (tmp_path / "src" / f"{i}.py").write_text(f"# {i}\n" + ORDINARY * 10)
    command = ["prepare", "--input", str(tmp_path / "src"), "--tokenizer", "codegen", "--block_size", "128", "--workers", "1"]
    data.main([*command, "--out", str(tmp_path / "one")])
    distinct = data.distinct
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as two:
        def kills(*args):
            for i, batch in enumerate(distinct(*args)):
                if i == 5:
                    os.kill(next(iter(two.workers.values())).pid, signal.SIGKILL)
                yield batch
        monkeypatch.setattr(data, "distinct", kills)
        data.main([*command, "--out", str(tmp_path / "two"), "--dask", two.scheduler_address])
    names = sorted(os.listdir(tmp_path / "one"))
    assert names == sorted(os.listdir(tmp_path / "two"))
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)


# ---- the pool ------------------------------------------------------------------------------------

def die_halfway(_, items):
    """Worker: begins an answer of 100 bytes and is killed."""
    queue = next(o for o in gc.get_objects() if isinstance(o, multiprocessing.queues.SimpleQueue))
    os.write(queue._writer.fileno(), b"\0\0\0\x64half")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_halfway_through_an_answer_ends_the_run():
    with pytest.raises(ValueError, match="was killed"), worker_pool(2, int) as pool:
        list(bounded_map(pool, die_halfway, [[1]]))
