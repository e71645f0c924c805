"""real/: stages that are done once, a size that fits the time, licences by one name, a page that is its data."""
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from email.message import Message
from pathlib import Path

import pytest

from real import collect, corpus, page, run

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "real" / "results.json"


def test_a_stage_that_is_done_is_not_done_again_and_a_torn_line_is(tmp_path):
    work = run.Work(tmp_path)
    work.stage("begin", lambda work: dict(minutes=1))
    work.stage("a", lambda work: dict(found=1))
    with open(work.file, "a") as file:
        file.write('{"stage": "b", "fou')                       # killed while it wrote
    work = run.Work(tmp_path)
    assert work.stage("a", lambda work: pytest.fail("again"))["found"] == 1
    assert work.stage("b", lambda work: dict(found=2))["found"] == 2
    assert [json.loads(line)["stage"] for line in open(work.file)] == ["begin", "a", "b"]


@pytest.mark.parametrize("speed, width", [(10, 128), (9000, 192), (10 ** 9, 1024)])
def test_the_largest_size_that_sees_enough_tokens_is_chosen(tmp_path, monkeypatch, speed, width):
    """At every speed: the next larger one would see too few, and the smallest is taken where none sees enough."""
    work = run.Work(tmp_path)
    work.done["begin"] = dict(stage="begin", platform="cpu", seconds=0, minutes=60)
    sizes = {rung[2]: 12 * rung[0] * rung[2] ** 2 for rung in run.LADDER}
    monkeypatch.setattr(run, "try_out", lambda work, rung: dict(
        rung=rung, params=sizes[rung[2]], tokens_per_s=speed * 10 ** 6 / sizes[rung[2]]))
    found = run.choose(work)
    chosen, enough = found["chosen"], [t for t in found["trials"] if t["tokens"] >= run.ENOUGH * t["params"]]
    assert chosen == (enough[-1] if enough else found["trials"][0]) and chosen["rung"][2] == width
    step = run.SHAPES["cpu"][2]
    assert chosen["steps"] * step == chosen["tokens"] <= 3600 * (1 - run.EVALUATION) * chosen["tokens_per_s"] + step


def test_licences_of_one_kind_have_one_name():
    def about(**fields):
        message = Message()
        for name, value in fields.items():
            message[name.replace("_", "-")] = value
        return message
    assert corpus.licence(about(License_Expression="MIT", License="whatever")) == "MIT"
    assert corpus.licence(about(Classifier="License :: OSI Approved :: MIT License")) == "MIT"
    assert corpus.licence(about(License="Apache 2.0")) == "Apache-2.0"
    assert corpus.licence(about(License="Copyright\n" + "x" * 5000)) == "Copyright"
    assert corpus.licence(about()) == "not stated"
    found = [dict(licence="MIT", bytes=1), dict(licence="BSD", bytes=5), dict(licence="MIT", bytes=2)]
    assert corpus.by_licence(found) == {"BSD": [1, 5], "MIT": [2, 3]}


def test_the_folders_hold_the_standard_library_and_none_lies_in_another():
    folders = corpus.folders()
    assert (folders[0] / "json" / "decoder.py").exists()
    assert not any(a != b and a.resolve().is_relative_to(b.resolve()) for a in folders for b in folders)


def test_programs_are_of_different_problems_and_show_what_the_model_wrote_alone(tmp_path):
    def lines(name, rows):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    sample = dict(task_id="HumanEval/53", completion="    return x + y\n", passed=True, result="passed")
    wrong = dict(task_id="HumanEval/2", completion="    return 0\n", passed=False, result="failed: wrong answer",
                 prompt_logprob=[-4.0, 2])
    empty = dict(task_id="HumanEval/3", completion="", passed=False, result="failed: wrong answer")
    lines("humaneval_t0.2_results.jsonl", [sample, sample, wrong, empty])
    for mode in collect.MODES:
        lines(f"mtpb-{mode}.jsonl", [dict(id="7", prompts_completions=["", "# Say.\n", "print(1)\n\n"])])
        lines(f"mtpb-{mode}_results.jsonl", [dict(case=2, passed=mode == "multi")])
    found = collect.programs(tmp_path)
    assert found["solved"] == 2 and [p["problem"] for p in found["nearly"]] == ["HumanEval/2 (truncate_number)"]
    assert [p["wrote"] for p in found["passed"]] == ["    return x + y", "# turn 1\nprint(1)"]
    assert "Say" not in json.dumps(found)


def test_what_was_cut_off_is_no_syntax_error(tmp_path):
    ends = [("stop", "passed"), ("length", "failed: SyntaxError: '(' was never closed"), ("stop", "timed out"),
            ("stop", "failed: NameError: name 'f' is not defined"), ("length", "failed: wrong answer")]
    rows = [dict(finish_reason=why, passed=result == "passed", result=result) for why, result in ends]
    (tmp_path / "humaneval_t0.8_results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = collect.outcomes(tmp_path)
    assert found == {"0.8": {"no end": 2, "passed": 1, "timed out": 1, "NameError": 1}}
    assert page.outcomes_row(("0.8", dict(zip("abcdefgh", range(8, 0, -1))))) == (
        "0.8", "8 a, 7 b, 6 c, 5 d, 4 e, 3 f, 3 others")


def test_a_block_of_code_ends_where_it_ends():
    assert page.code("a\n```\nb") == "````python\na\n```\nb\n````"


@pytest.mark.skipif(not RESULTS.exists(), reason="no run was published")
def test_the_page_is_what_its_results_say(tmp_path):
    shutil.copy(RESULTS, tmp_path)
    page.write_page(tmp_path)
    assert (tmp_path / "README.md").read_text() == (RESULTS.parent / "README.md").read_text()
    commands = json.dumps(json.loads(RESULTS.read_text())["commands"])
    assert not re.search(r"/(home|root|tmp|Users|work)/", commands)     # no folder of the machine that it ran on


def test_no_folder_of_others_is_filled_nor_one_that_another_run_fills(tmp_path):
    """Its data, model, trial and hf would be deleted."""
    def tried(out, *more):
        done = subprocess.run([sys.executable, ROOT / "real" / "run.py", "--out", str(out), *more], capture_output=True,
                              text=True, cwd=tmp_path)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
        return done.stderr
    (tmp_path / "mine" / "data").mkdir(parents=True)
    assert "other files" in tried("mine") and [*(tmp_path / "mine").iterdir()] == [tmp_path / "mine" / "data"]
    (tmp_path / "file").touch()
    assert "is a file" in tried("file")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "stages.jsonl").write_text('{"stage": 5}\n')
    assert "line 1" in tried("run")
    with run.take_folder(tmp_path / "run"):
        assert "another process" in tried("run")


def test_a_first_checkpoint_that_was_not_finished_is_begun_again(tmp_path, monkeypatch):
    work, commands = run.Work(tmp_path), []
    work.done["begin"] = dict(stage="begin", platform="cpu", seconds=0, minutes=60)
    work.done["choose"] = dict(stage="choose", seconds=0, chosen=dict(rung=run.LADDER[0], steps=1))
    (tmp_path / "model" / "step_00000060.tmp").mkdir(parents=True)

    def call(script, *command):
        commands.append(command)
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / "metrics.jsonl").write_text('{"step": 1, "loss": 9, "val_loss": 9, "tokens_per_s": 1}\n')
        return script, ""
    monkeypatch.setattr(run, "call", call)
    run.train(work)
    assert commands[0][-1] == "scratch"


def test_commands_are_shown_as_a_shell_reads_them(tmp_path, monkeypatch):
    """A folder is named only where a word begins with it: --out keeps its name, whatever the folder's is."""
    monkeypatch.setattr(run, "call_script", lambda *_: "")
    shown, _ = run.call("data.py", "--out", Path("out") / "a b", "$(reboot)")
    assert shlex.split(shown) == ["python", "data.py", "--out", "out/a b", "$(reboot)"] and "'$(reboot)'" in shown
    names = {"/lib/python": "STDLIB", "out": "OUT"}
    assert [collect.named(w, names) for w in ("--out", "out", "out/x", "outer", "/lib/python/site", "/lib/python3")] == [
        "--out", "OUT", "OUT/x", "outer", "STDLIB/site", "/lib/python3"]
    assert page.table(["a|b"], [["c"]]).splitlines()[0] == "| a\\|b |"


def test_ctrl_c_does_not_wait_for_what_was_asked(tmp_path):
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom real import run\n" \
              "run.ask('import os, sys, time; open(sys.argv[1], \"w\").write(str(os.getpid())); time.sleep(60)', sys.argv[1])"
    pid = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", program, pid], stderr=subprocess.DEVNULL) as process:
        while not pid.exists() or not pid.read_text():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) != 0
    for _ in range(100):            # it is killed as its parent ends, and then somebody collects it
        if not Path(f"/proc/{pid.read_text()}").exists():
            return
        time.sleep(0.1)
    pytest.fail("it is still there")


def test_bad_input_is_one_line(tmp_path):
    bad = subprocess.run([sys.executable, ROOT / "real" / "run.py", "--out", str(tmp_path / "new"), "--input",
                          str(tmp_path / "none")], capture_output=True, text=True, cwd=tmp_path)
    assert bad.returncode == 2 and len(bad.stderr.splitlines()) == 1 and "none" in bad.stderr
    assert not (tmp_path / "new").exists()


def test_a_run_goes_on_as_it_began(tmp_path):
    (tmp_path / "stages.jsonl").write_text(json.dumps(dict(stage="begin", minutes=5, folders=["a"], limit=None)) + "\n")
    bad = subprocess.run([sys.executable, ROOT / "real" / "run.py", "--out", str(tmp_path), "--minutes", "6"],
                         capture_output=True, text=True)
    assert bad.returncode == 2 and "with other minutes (5.0)" in bad.stderr.replace("(5)", "(5.0)")
