"""After a run on the miniature corpus: what the model can do on held-out problems."""
from harness.cli import PROJECT
from harness.files import read_lines
from harness.problems import PREFIX
from harness.terminal import printable

import json
import signal
import subprocess
import sys

from miniature.run import conversations

LINES = 16      # of a program that are shown: a model that has learned little may write many


def closing(out, val, limit=20):
    """Solve held-out multi-turn problems greedily, say how many pass, show one conversation.

    out: the folder of the run; val: its last validation loss, or None; limit: of problems."""
    for kind in (signal.SIGINT, signal.SIGTERM):    # all is saved: it ends this and the benchmark
        signal.signal(kind, lambda kind, frame: sys.exit(128 + kind))
    loss = "" if val is None else f"final val_loss {val:.3f}; "
    print(loss + "now held-out problems of miniature/mtpb.jsonl, turn by turn", flush=True)
    samples = out / "closing.jsonl"
    samples.unlink(missing_ok=True)         # of an earlier end, hence of another model
    # A process of its own, because what runs model-written code never shares one with the trainer.
    command = [
        sys.executable, PROJECT / "mtpb.py", "run",
        "--problems", PROJECT / "miniature" / "mtpb.jsonl", f"--ckpt={out}", f"--out={samples}",
        "--n", "1", "--temperature", "0", "--limit", str(limit)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        try:
            shown, _ = run.communicate()
        except BaseException:
            run.terminate()
            raise
    if run.returncode == 0:
        report = json.loads(shown.splitlines()[-1])
        rates = [f"{name} {100 * group['pass_rate']:.0f} %"
                 for name, group in report["by_category"].items()]
        print("by category: " + ", ".join(rates))
        print(f"held-out multi-turn problems, greedily: {100 * report['pass_rate']:.0f} % of "
              f"{report['programs']} programs pass ({report['problems_scored']} problems, each "
              "with several inputs)")
        show_conversation(samples, report["results_file"])


def show_conversation(samples, results):
    """Print one of the conversations of a sample file, judged in a results file: the first that
    passed; where none did, the first that printed a wrong value, or else the first of all."""
    said, verdicts = ([line for _, line in read_lines(path)] for path in (samples, results))
    found = conversations(said, verdicts)
    one = next(found[kind] for kind in ("right", "wrong value", "error") if kind in found)
    how = "passed" if "right" in found else f"none passed, and this one {one['result']}"
    print(f"one of them, problem {one['id']} ({printable(how)}); all are in {samples}")
    program = printable(one["program"].removeprefix(PREFIX))
    lines = [line for line in program.splitlines() if line.strip()]
    print(*(f"    {line}" for line in lines[:LINES]), sep="\n")
    if len(lines) > LINES:
        print(f"    ... and {len(lines) - LINES} lines more")
    print(f"printed {printable(one['printed']) or 'nothing'}, expected {one['expected']}")
