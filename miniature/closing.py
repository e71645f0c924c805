"""After a run on the miniature corpus: what the model can do on held-out problems."""
from harness.cli import PROJECT

import json
import signal
import subprocess
import sys


def closing(out, val, limit=20):
    """Solve held-out multi-turn problems greedily, say how many pass and what to try next.

    out: the folder of the run; val: its last validation loss, or None; limit: of problems."""
    for kind in (signal.SIGINT, signal.SIGTERM):    # all is saved: it ends this and the benchmark
        signal.signal(kind, lambda kind, frame: sys.exit(128 + kind))
    loss = "" if val is None else f"final val_loss {val:.3f}; "
    print(loss + "now held-out problems of miniature/mtpb.jsonl, turn by turn", flush=True)
    samples = out / "mtpb.jsonl"
    samples.unlink(missing_ok=True)         # an earlier run's are not this model's
    # A process of its own, because what runs model-written code never shares one with the trainer.
    command = [
        sys.executable, PROJECT / "mtpb.py", "run",
        "--problems", PROJECT / "miniature" / "mtpb.jsonl", "--ckpt", out, "--out", samples,
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
    print(f"next:  python sample.py --ckpt {out}")
