"""The benches' own machinery: whose turn it is, and what becomes of the figures. Nothing is timed."""
import os
import sys
from pathlib import Path

from plan.card import MEASURED, NONE, reached

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
import gpu  # noqa: E402
import versus  # noqa: E402

SIDE = """
import os, sys
sys.path.insert(0, {bench!r})
import versus
side = versus.flags("a side", 1).parse_args().side
with open({log!r}, "a") as log:
    others = [line.split()[1] for line in open({log!r}) if os.path.exists("/proc/" + line.split()[1])]
    print(side, os.getpid(), len(others), file=log, flush=True)
    versus.serve(lambda: dict(a=1, b=2)[side])
"""


def turns(tmp_path, monkeypatch, gpu):
    """(figures, [(side, how many others are there as it starts)])."""
    script, log = tmp_path / "side.py", tmp_path / f"log{gpu}"
    script.write_text(SIDE.format(bench=str(Path(versus.__file__).parent), log=str(log)))
    monkeypatch.setattr(versus, "GPU", {})
    figures = versus.versus(str(script), "shape", ["a", "b"], 2, gpu)
    return figures, [(line.split()[0], int(line.split()[2])) for line in log.read_text().splitlines()]


def test_on_a_gpu_a_side_is_alone_with_the_memory(tmp_path, monkeypatch):
    if not os.path.exists("/proc/self"):
        return
    figures, started = turns(tmp_path, monkeypatch, gpu=False)
    assert figures == dict(a=[1, 1], b=[2, 2]) and started == [("a", 0), ("b", 1)]
    figures, started = turns(tmp_path, monkeypatch, gpu=True)
    assert figures == dict(a=[1, 1], b=[2, 2]) and started == [("a", 0), ("b", 0)] * 2


def test_jobs_of_the_gpu_are_functions_and_a_failed_one_leaves_the_tables():
    for name, *_ in (*gpu.JOBS, *gpu.TINY):
        assert name in gpu.DO
    ours = dict(tokens_per_s=300, mfu=0.5, of_prediction=0.75, peak_gb=3.0)
    found = [(("trained", "350M", 8, NONE), ours), (("compiled", "350M, 8 sequences"), dict(tokens_per_s=200)),
             (("sampled", "350M", 1), {"1": dict(tokens_per_s=30.0), "peak_gb": 1.0})]
    text = "\n".join(gpu.tables(found))
    assert "| 350M, 8 sequences | 300 | 50.0% | 75% | 3.0 | 200 | **1.50** | - | - |" in text
    assert "| 350M | 1 | 30.0 | - | - |" in text


def test_a_prediction_is_a_ceiling_of_what_was_measured():
    shares = {(preset, batch): share for preset, batch, share in reached()}
    assert len(shares) == len(MEASURED) and all(0.3 < share < 0.6 for share in shares.values())
    assert round(shares["2.7B", 8], 2) == 0.53
