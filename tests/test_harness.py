"""Laws of the sandbox, in every kind of isolation that this machine allows, for root and for others: no wall has a hole,
nothing right is lost, what crosses the border costs little and gives nothing, what ends leaves nothing."""
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
if __name__ == "__main__":      # a run in another user's name, see `others`
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from harness import outside
from harness.messages import Opaque, Series, decode, encode

import programs
import programs2
import pytest

import humaneval
import mtpb

USER = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]      # with no right over the machine
WITHOUT = {"bwrap": {"locks of others", "process numbers of others", "ten children of 440 MB"},
           "none": set(programs2.WALLS)}


def verdicts(isolation):
    """What is wrong in this kind of isolation -> {name: result}."""
    outside.first_worker = lambda unsafe, runner, warm: outside.Worker(isolation, runner, warm)
    wrong = {}
    hostile = programs2.WALLS | programs2.BORDER
    hostile = {n: p for n, p in hostile.items() if n not in WITHOUT.get(isolation, ())
               and (os.uname().machine == "x86_64" or "libc.syscall" not in p[1])}
    results = humaneval.check_all([(programs.PROBLEMS[i], text) for i, text, _ in hostile.values()], 3, 1)
    wrong |= {n: r["result"] for (n, (_, _, want)), r in zip(hostile.items(), results)
              if r["passed"] or want and not r["result"].startswith(want) or r["result"].startswith("failed: it ended")}
    right = programs2.RIGHT
    results = humaneval.check_all([(programs.PROBLEMS[i], text) for i, text in right.values()], 20, 2)
    wrong |= {n: r["result"] for n, r in zip(right, results) if not r["passed"]}
    printed = programs2.PRINTED | {n: (text, 5) for n, text in programs2.ENDED.items()}
    ran, _ = mtpb.judge_all([(text, gold) for text, gold in printed.values()], 1.5, 2)
    wrong |= {n: got for (n, (got, _)) in zip(printed, ran)
              if got["passed_strict"] or got["passed"] and n not in programs2.ENDED}
    return wrong


@pytest.fixture
def locked():
    with open(programs2.LOCKED, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize("user", ["ourselves", "another user"])
@pytest.mark.parametrize("isolation", ["namespaces", "bwrap", "none"])
def test_no_wall_has_a_hole_and_nothing_right_is_lost(isolation, user, locked):
    command = [sys.executable, __file__]
    if user == "another user":
        if os.getuid() or isolation == "none" or subprocess.run([*USER, "true"], capture_output=True).returncode:
            pytest.skip("only root can be another user here")
        command = USER + command
    try:
        outside.Worker(isolation).stop()
    except OSError as error:
        pytest.skip(f"{isolation} does not work on this machine: {error}")
    done = subprocess.run([*command, isolation], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {}


if __name__ == "__main__":
    print(json.dumps(verdicts(sys.argv[1])))
