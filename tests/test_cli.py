"""Laws of the command line: Ctrl-C and SIGTERM are quiet whenever they come, output that cannot be written is no traceback.

Most tests run a small script of their own beside a copy of harness/: it sends itself the signal at the moment in question.
"""
from harness.cli import pasted

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ("data", "model", "train", "sample", "humaneval", "mtpb", "tpu_mesh")
BEGIN = """
from harness.cli import call_script, cli, unfinished, unheard
import os, signal, sys, threading, time, types
stop = lambda number=signal.SIGINT: os.kill(os.getpid(), number)
"""


@pytest.fixture
def script(tmp_path):
    """script(code, ...) runs BEGIN and the code as a script of the project, and returns how it ended."""
    shutil.copytree(ROOT / "harness", tmp_path / "harness")

    def run(code, shell="", **env):
        (tmp_path / "script.py").write_text(BEGIN + code, encoding="utf-8")
        command = f'exec "{sys.executable}" "{tmp_path / "script.py"}" {shell}'
        return subprocess.run(["bash", "-c", command], capture_output=True, cwd=tmp_path, timeout=60,
                              env=dict(PATH="/usr/bin:/bin", **env))
    return run


def quiet(done):
    return b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


MAIN = {
    "while modules load": "stop()\ntime.sleep(9)",
    "in main": "def main():\n    stop()\n    time.sleep(9)\ncli(main)",
    "twice": "def main():\n    try:\n        stop()\n    finally:\n        stop()\ncli(main)",
    "where an object is destroyed": """
class Noisy:
    def __del__(self):
        stop()
def main():
    Noisy()
    time.sleep(9)
cli(main)""",
    "at the end": "import atexit\natexit.register(stop)\ncli(lambda: None)",
    "beside threads with JAX": """
sys.modules["jax"] = types.ModuleType("jax")
def main():
    threading.Thread(target=time.sleep, args=(50,)).start()
    try:
        stop()
    except BaseException:
        print("an exception came", file=sys.stderr)
cli(main)"""}


@pytest.mark.parametrize("when", MAIN)
def test_ctrl_c_is_quiet(script, when):
    done = script(MAIN[when])
    assert (done.returncode, done.stderr, done.stdout) == (130, b"", b"")


def test_sigterm_clears_up_as_ctrl_c_does(script):
    done = script("def main():\n    try:\n        stop(signal.SIGTERM)\n    finally:\n        print('clear')\ncli(main)")
    assert (done.returncode, done.stderr, done.stdout) == (143, b"", b"clear\n")


def test_a_benchmark_that_samples_hears_sigterm_wherever_it_comes(script):
    """Also in a callback that swallows exceptions, as XLA calls them: the run does not go on."""
    done = script("""
from harness import benchmark
sys.modules["jax"] = types.ModuleType("jax")
sys.argv = ["script.py", "generate", "--ckpt", ".", "--problems", __file__]
def main():
    benchmark.begin(benchmark.mtpb_parser("", 1, 1, 1), "mtpb.jsonl")
    try:
        stop(signal.SIGTERM)
    except BaseException:
        print("an exception came", file=sys.stderr)
cli(main)""")
    assert (done.returncode, done.stderr) == (143, b"")


def test_where_no_exception_is_raised_what_is_unfinished_is_cleared_up(script, tmp_path):
    done = script("""
sys.modules["jax"] = types.ModuleType("jax")
def main():
    open("half", "w").close()
    unfinished.append(lambda: os.remove("half"))
    unfinished.append(lambda: 1 / 0)
    print("kept")
    stop()
cli(main)""")
    assert (done.returncode, done.stderr, done.stdout) == (130, b"", b"kept\n") and not (tmp_path / "half").exists()


def test_a_process_that_starts_hears_ctrl_c_when_it_is_ready(script, tmp_path):
    """It comes before the child has imported anything; it is heard there, and not as a traceback."""
    (tmp_path / "child.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport harness.cli\nos._exit(7)")
    done = script("cli(lambda: call_script('child.py'))")
    assert (done.returncode, done.stderr) == (130, b"")


def test_a_worker_leaves_ctrl_c_to_who_started_it(script):
    done = script("""
import concurrent.futures, multiprocessing
def work(x):
    stop()
    return x
def main():
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        print(list(pool.map(work, [1, 2])))
if __name__ == "__main__":
    cli(main)""")
    assert (done.returncode, done.stderr, done.stdout) == (0, b"", b"[1, 2]\n")


PRINTS = "def main():\n    print('text · ' * {n})\n    print('more', file=sys.stderr)\n    {then}\ncli(main)"


@pytest.mark.parametrize("shell", [
    ">&-", "2>&-", ">&- 2>&-", "<&-", ">/dev/full", "2>/dev/full", ">/dev/full 2>/dev/full"])
@pytest.mark.parametrize("n", [1, 100_000])
@pytest.mark.parametrize("then", ["pass", "raise ValueError('bad')", "sys.exit(2)"])
def test_closed_and_full_streams(script, shell, n, then):
    done = script(PRINTS.format(n=n, then=then), shell)
    assert quiet(done) and done.returncode in (0, 2)
    if then != "pass" or ">/dev/full" in shell:
        assert done.returncode == 2


def test_argparse_into_a_full_disk():
    for flag in ("--help", "--nonsense"):
        for shell in (">/dev/full", "2>/dev/full", ">&-", "2>&-"):
            command = f'exec "{sys.executable}" "{ROOT}/humaneval.py" {flag} {shell}'
            done = subprocess.run(["bash", "-c", command], capture_output=True)
            assert quiet(done) and done.returncode in (0, 2)


def test_a_reader_that_leaves(script):
    done = script(PRINTS.format(n=100_000, then="pass"), "| head -c 5")
    assert quiet(done) and done.stdout == b"text "


@pytest.mark.parametrize("env", [
    dict(PYTHONIOENCODING="ascii"), dict(LC_ALL="C", PYTHONUTF8="0"), dict(PYTHONIOENCODING="latin-1")])
def test_an_encoding_that_lacks_a_character_ends_no_run(script, env):
    done = script("cli(lambda: print('· 。', file=sys.stderr) or print('· 。'))", **env)
    assert done.returncode == 0 and quiet(done) and b"?" in done.stdout


@pytest.mark.parametrize("error, words", [
    ("ValueError('two\\nlines')", b"two lines"), ("OSError(28, 'full')", b"full"), ("MemoryError()", b"out of memory"),
    ("RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes')", b"out of memory")])
def test_errors_are_one_line(script, error, words):
    done = script(f"def main():\n    raise {error}\ncli(main)")
    assert done.returncode == 2 and words in done.stderr and done.stderr.count(b"\n") == 1


def test_a_fault_of_ours_is_no_bad_input(script):
    assert b"Traceback" in script("cli(lambda: 1 / 0)").stderr


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_import_harness_first(name):
    body = ast.parse((ROOT / f"{name}.py").read_text(encoding="utf-8")).body
    first = next(node for node in body if isinstance(node, (ast.Import, ast.ImportFrom)))
    assert isinstance(first, ast.ImportFrom) and first.module.split(".")[0] == "harness"


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_path_in_a_command_that_we_print_is_that_path_in_a_shell(shell):
    """Whatever its name: what is printed commands no terminal, and is one line."""
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    for name in ("out", "o 1", "it's", "-x", "=ls", "~", "*", "$HOME", "a\nb", "\x1b[2J!!", os.fsdecode(b"\xff'\\"), "名"):
        word = pasted(name)
        assert word.isprintable() and word == word.strip() != ""
        done = subprocess.run([shell, "-c", f"printf %s {word}"], capture_output=True)
        assert done.stdout.removeprefix(b"./") == os.fsencode(name)
        assert not done.stdout.startswith(b"-")
