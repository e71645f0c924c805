"""Laws of a run that several processes share: its parts, put together, are one process' file; what is missing, unfinished,
doubled or of another run is named."""
from harness import benchmark, hosts, parts, samples

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import humaneval
import mtpb

ROOT = Path(__file__).resolve().parents[1]
N = 3                               # processes
CHECK = "def check(candidate):\n    assert candidate(1) == 1\n"
TASKS = {f"T/{i}": {"task_id": f"T/{i}", "prompt": f"def f(x):  # {'x' * i}\n", "entry_point": "f", "test": CHECK,
                    "canonical_solution": "    return x\n"} for i in range(5)}
TALKS = [{"id": str(i), "category": "none", "prompts": ["Set x to {A}.", "Print x."], "inputs": [{"A": 3}, {"A": 5}],
          "outputs": [3, 5], "cases": [({"A": 3}, 3), ({"A": 5}, 5)], "max_gen_length": 4} for i in range(5)]


@pytest.fixture(scope="module")
def model():
    """(Chat maker, prompt_logprob) of a tiny random model, and its checkpoint's arrays and meta."""
    import jax

    import sample
    from data import get_tokenizer
    from model import Config, init_params
    config = Config(n_layer=1, n_head=2, n_embd=16, rotary_dim=4, block_size=128, vocab_size=512)
    params, tokenizer = init_params(jax.random.key(0), config), get_tokenizer("bytes")
    saved = {f"params/{n}": w for n, w in params.items()}, {"model": dataclasses.asdict(config), "tokenizer": "bytes"}
    return (lambda ids: sample.Chats(params, config, tokenizer, len(ids), 0.8, 0.95, 0, ids),
            lambda texts, spans=None: sample.prompt_logprob(params, config, tokenizer, texts, spans), saved)


def generate(kind, model, path, part=None, **settings):
    """The sample file of one process, or of a process alone."""
    new_chat, logprob, _ = model
    settings = {"n": 2} | settings | ({"part": part, "limit": None} if part else {})
    if kind == "humaneval":
        humaneval.generate(TASKS, path, settings | {"max_new_tokens": 4}, new_chat, logprob, (), batch_size=4)
    else:
        mtpb.generate(TALKS, path, settings | {"mode": "multi"}, new_chat, logprob, ())


def score(kind, paths):
    """The report, and the results file's lines."""
    script, problems = (humaneval, TASKS) if kind == "humaneval" else (mtpb, TALKS)
    report = script.score(problems, paths, source="own.jsonl", workers=2)
    return report, Path(report["results_file"]).read_text()


def divided(kind, model, folder):
    """Parts of N processes -> the name of the whole, their names."""
    whole = folder / "s.jsonl"
    files = [parts.name_of(whole, i, N) for i in range(N)]
    for i, path in enumerate(files):
        generate(kind, model, path, [i, N])
    return str(whole), files


def tree(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture(scope="module", params=["humaneval", "mtpb"])
def made(request, model, tmp_path_factory):
    """(kind, folder with the file of one process and with parts)."""
    folder = tmp_path_factory.mktemp(request.param)
    generate(request.param, model, folder / "one.jsonl")
    divided(request.param, model, folder)
    return request.param, folder


def copy(made, folder):
    """-> kind, the name of the whole, the names of the parts, in a folder of one's own."""
    kind, old = made
    for name, content in tree(old).items():
        (folder / name).write_bytes(content)
    whole = folder / "s.jsonl"
    return kind, str(whole), [parts.name_of(whole, i, N) for i in range(N)]


def test_parts_put_together_are_the_file_of_one_process(made, tmp_path):
    kind, whole, files = copy(made, tmp_path)
    assert not os.path.exists(whole)
    texts = [Path(path).read_text().splitlines() for path in files]
    one = (tmp_path / "one.jsonl").read_text().splitlines()
    assert sorted(sum(texts, [])) == sorted(one) and len(texts[0]) > len(texts[2])
    alone, results = score(kind, [str(tmp_path / "one.jsonl")])
    for names in ([whole], files[::-1]):
        report, ours = score(kind, names)
        assert ours == results and report["results_file"] == str(tmp_path / "s_results.jsonl")
        same = {k: v for k, v in alone.items() if k not in ("samples", "results_file")}
        assert {k: v for k, v in report.items() if k not in ("samples", "results_file")} == same


def test_a_killed_part_is_resumed_alone_with_the_same_bytes(made, model, tmp_path):
    kind, _, files = copy(made, tmp_path)
    before = tree(tmp_path)
    whole = Path(files[1]).read_bytes()
    for cut in (len(whole) - 1, whole.index(b"\n") + 9, 5):
        Path(files[1]).write_bytes(whole[:cut])
        generate(kind, model, files[1], [1, N])
        assert tree(tmp_path) == before


def test_a_problem_stays_with_its_process_when_more_are_wanted():
    for limit in range(8):
        owners = {p: i for i in range(N) for p in parts.share(list(range(limit)), (i, N))}
        assert owners == {p: p % N for p in range(limit)}


def break_whole(files, what):
    """Damage parts in one way."""
    lines = Path(files[1]).read_text().splitlines(keepends=True)
    settings = Path(f"{files[1]}.json")
    change = lambda **new: settings.write_text(json.dumps(json.loads(settings.read_text()) | new))
    if what == "missing":
        os.unlink(files[1])
    elif what == "unfinished":
        Path(files[1]).write_text("".join(lines[:-1]))
    elif what == "doubled":
        Path(files[1]).write_text("".join(lines + lines[:1]))
    elif what == "in another part too":
        Path(files[2]).write_text(Path(files[2]).read_text() + lines[0])
    elif what == "other settings":
        change(n=3)
    elif what == "another model":
        change(checkpoint="step 7")
    elif what == "other limit":
        change(limit=4)
    elif what == "other N":
        change(part=[1, N + 1])
    elif what == "twice":
        change(part=[0, N])
    elif what == "no settings":
        os.unlink(settings)


@pytest.mark.parametrize("what, words", [
    ("missing", "part 1 of 3 is missing: run process 1 again .--num_processes 3."),
    ("unfinished", "part 1 of 3 is unfinished, it lacks 1 of its 2 problems: run process 1 again"),
    ("doubled", "doubled: problem .*1 has .* run process 1 again"),
    ("in another part too", "doubled: problem .*1 has .*00001-of.*00002-of.* run process 1 again"),
    ("other settings", r"different runs \(n\)"), ("another model", r"different runs \(checkpoint\)"),
    ("other limit", r"different runs \(limit\)"), ("other N", "of 3 and of 4 processes"),
    ("twice", "part 0 is there twice"), ("no settings", "needs its settings beside it")])
def test_what_is_wrong_with_parts_is_named(made, tmp_path, what, words):
    kind, whole, files = copy(made, tmp_path)
    break_whole(files, what)
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=words) as caught:
        score(kind, [whole])
    assert "\n" not in str(caught.value) and tree(tmp_path) == before


def test_other_files_do_not_mix_with_parts_and_none_is_given_twice(made, tmp_path):
    kind, whole, files = copy(made, tmp_path)
    one = str(tmp_path / "one.jsonl")
    for paths, words in (([one, *files], "do not go together"), ([*files, one], "do not go together"),
                         ([one, one], "given twice"), ([whole, files[0]], "given twice")):
        with pytest.raises(ValueError, match=words):
            score(kind, paths)


@pytest.mark.parametrize("name", ["s-00000-of-00003.jsonl", "s-00002-of-00003.jsonl.json"])
def test_results_overwrite_no_part_however_it_is_named(made, tmp_path, name):
    kind, whole, files = copy(made, tmp_path)
    before, (script, problems) = tree(tmp_path), (humaneval, TASKS) if kind == "humaneval" else (mtpb, TALKS)
    for paths in ([whole], files):
        with pytest.raises(ValueError, match="would overwrite"):
            script.score(problems, paths, results=tmp_path / name, workers=1)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["s.jsonl", "s-00001-of-00002.jsonl", "own.jsonl", "no folder/r.jsonl"])
def test_run_refuses_such_results_before_it_samples(tmp_path, name, monkeypatch):
    problems, flags = tmp_path / "own.jsonl", {"--ckpt": tmp_path, "--out": tmp_path / "s.jsonl"}
    problems.write_text("".join(json.dumps({k: v for k, v in p.items() if k != "cases"}) + "\n" for p in TALKS))
    flags |= {"--problems": problems, "--results": tmp_path / name, "--num_processes": 2, "--process_id": 0}
    monkeypatch.setattr(benchmark, "call_script", lambda *_: pytest.fail("it has begun"))
    monkeypatch.setattr(sys, "argv", ["mtpb.py", "run", *(str(word) for pair in flags.items() for word in pair)])
    with pytest.raises(ValueError, match="would overwrite|cannot be written to .*no folder"):
        mtpb.main()


def test_a_part_is_not_gone_on_with_as_a_whole_or_as_another_part(made, model, tmp_path):
    kind, _, files = copy(made, tmp_path)
    before = tree(tmp_path)
    for path, part in ((files[0], None), (files[0], [1, N]), (tmp_path / "one.jsonl", [0, N])):
        with pytest.raises(ValueError, match=r"other settings \(part"):
            generate(kind, model, path, part)
    assert tree(tmp_path) == before


def test_more_processes_than_problems(model, tmp_path):
    """Those that have nothing to do write nothing, and are not missed."""
    whole = tmp_path / "s.jsonl"
    for i in range(8):
        generate("humaneval", model, parts.name_of(whole, i, 8), [i, 8])
    assert len(parts.files_of(whole)) == 5
    assert score("humaneval", [str(whole)])[0]["programs"] == 10


def test_a_grown_limit_is_noted_and_the_part_goes_on(tmp_path):
    path = tmp_path / "s.jsonl"
    settings = {"n": 1, "part": [0, 2], "limit": 1}
    for limit in (1, 100, 3):
        with samples.resume(path, settings | {"limit": limit}, "id", {"a": 1}):
            samples.append_records(path, [{"id": "a"}] if limit == 1 else [])
        assert samples.settings_of(path) == settings | {"limit": limit}


def test_run_in_two_processes(model, tmp_path):
    """The real commands: the first says what is missing and ends well, the second scores the whole."""
    import tpu_mesh
    arrays, meta = model[-1]
    tpu_mesh.save_checkpoint(tmp_path / "ckpt", 1, arrays, meta)
    problems = tmp_path / "own.jsonl"
    problems.write_text("".join(json.dumps({k: v for k, v in p.items() if k != "cases"}) + "\n" for p in TALKS))

    def run(process):
        done = subprocess.run([
            sys.executable, ROOT / "mtpb.py", "run", "--ckpt", tmp_path / "ckpt", "--problems", problems, "--n", "1",
            "--out", tmp_path / "s.jsonl", "--num_processes", "2", "--process_id", str(process)],
            capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()
    first, second = run(0), run(1)
    assert "part 1 of 2 is missing: run process 1 again" in first[-2]
    assert first[-1].endswith(f"next: python mtpb.py score {tmp_path / 's.jsonl'}")
    assert json.loads(second[-1])["programs"] == 10
    ids = [json.loads(line)["id"] for line in (tmp_path / "s_results.jsonl").read_text().splitlines()]
    assert ids == [i for i in "01234" for _ in range(2)]


# ---- which process, whose chips

POD = {"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "a,b"}
CLUSTERS = [
    ({}, 0, (0, 1)), ({"SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_STEP_NODELIST": "n[0-3]"}, 0, (2, 4)),
    ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, 0, (0, 1)),                     # a batch script, not srun
    ({"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "1"}, 0, (1, 3)),
    (POD, 4, (1, 2)), (POD | {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"}, 4, (3, 4)),
    (POD, 0, (0, 1)), ({"TPU_SKIP_MDS_QUERY": "1"}, 4, (0, 1))]


@pytest.mark.parametrize("environment, chips, want", CLUSTERS)
def test_the_part_is_what_the_cluster_says(environment, chips, want, monkeypatch):
    monkeypatch.setattr(hosts, "chips_here", lambda: ["chip"] * chips)
    monkeypatch.setattr(os, "environ", environment)
    assert hosts.my_part() == want and hosts.my_part(5, 4) == (4, 5) and hosts.my_part(1) == (0, 1)


@pytest.mark.parametrize("count, number", [("2", "5"), ("2", "2"), ("2", "-1"), ("0", "0"), ("x", "0"), ("", "")])
def test_a_cluster_that_says_nonsense_is_not_believed(count, number, monkeypatch):
    """No process samples another's problems, or writes a file that `score` does not know."""
    monkeypatch.setattr(os, "environ", {"OMPI_COMM_WORLD_SIZE": count, "OMPI_COMM_WORLD_RANK": number})
    with pytest.raises(ValueError, match="give --num_processes N and --process_id I"):
        hosts.my_part()
    assert hosts.my_part(1) == (0, 1)


def test_a_cloud_tpu_asks_its_metadata_server(monkeypatch):
    monkeypatch.setattr(hosts, "chips_here", lambda: ["chip"] * 4)
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(hosts, "metadata", {"agent-worker-number": "2", "worker-network-endpoints": "u:1:a,u:2:b,u:3:c"}.get)
    assert hosts.my_part() == (2, 3)


def test_flags_that_do_not_go_together():
    for flags, words in (((2, None), "go together"), ((None, 1), "go together"), ((2, 2), "the last is 1")):
        with pytest.raises(ValueError, match=words):
            hosts.my_part(*flags)


@pytest.mark.parametrize("chips, shape", [(0, None), (1, "1,1,1"), (4, "2,2,1"), (8, "2,4,1")])
def test_a_host_starts_its_own_chips_alone(chips, shape, monkeypatch):
    for before in ({}, {"TPU_HOST_BOUNDS": "2,2,4"}):
        monkeypatch.setattr(hosts, "chips_here", lambda: ["chip"] * chips)
        monkeypatch.setattr(os, "environ", dict(before))
        hosts.keep_to_own_chips()
        assert os.environ.get("TPU_CHIPS_PER_PROCESS_BOUNDS") == shape
        assert os.environ.get("TPU_HOST_BOUNDS") == ("1,1,1" if shape else before.get("TPU_HOST_BOUNDS"))
    chosen = {"TPU_VISIBLE_CHIPS": "0"}
    monkeypatch.setattr(os, "environ", dict(chosen))
    hosts.keep_to_own_chips()
    assert os.environ == chosen
