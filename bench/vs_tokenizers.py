"""Preparing a corpus: MB of Python source a second beside the tokenizers library on the same files and cores.

    pip install tokenizers && python bench/vs_tokenizers.py       TIKTOKEN_CACHE_DIR as for data.py

Ours is the whole command `data.py prepare`, start-up, filters, duplicates, shuffle and packing included; the peer only reads
the files and encodes them, in one batch. Files: the standard library and the installed packages, as much as is asked for."""
import argparse
import itertools
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from statistics import median

from versus import ROOT, machine, ratio

PEER = """
import sys; from pathlib import Path; from tokenizers import Tokenizer
texts = [f.read_text(encoding="utf-8", errors="replace") for f in Path(sys.argv[1]).rglob("*.py")]
encoded = Tokenizer.from_file(sys.argv[2]).encode_batch_fast(texts, add_special_tokens=False)
print(sum(len(e.ids) for e in encoded))
"""


def source(folder, size):
    """Copy files until they are `size` bytes together, as often as that takes; a first line tells copies apart."""
    files = sorted(f for key in ("stdlib", "purelib") for f in Path(sysconfig.get_path(key)).rglob("*.py"))
    made = 0
    for n, file in enumerate(itertools.cycle(files)):
        raw = b"# copy %d\n" % (n // len(files)) + file.read_bytes()
        (folder / f"{n}.py").write_bytes(raw)
        made += len(raw)
        if made >= size:
            return made


def timed(command):
    """(seconds, peak MB of its largest process)."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env=os.environ | {"RAYON_NUM_THREADS": str(os.cpu_count())})
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=5, help="measurements of each side (default 5)")
    p.add_argument("--megabytes", type=int, nargs="+", default=[1, 10, 100], help="sizes (default 1 10 100)")
    args = p.parse_args()
    from data import get_tokenizer, write_hf_tokenizer
    machine("tiktoken", "tokenizers")
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        write_hf_tokenizer(get_tokenizer("codegen"), work, 256)
        for size in args.megabytes:
            files = work / f"{size}"
            files.mkdir()
            made = source(files, size * 10 ** 6) / 1e6
            ours, theirs = [], []
            for i in range(args.rounds):
                ours.append(timed([sys.executable, ROOT / "data.py", "prepare", "--input", files, "--out", work / f"{size}-{i}",
                                   "--tokenizer", "codegen"]))
                theirs.append(timed([sys.executable, "-c", PEER, files, work / "tokenizer.json"]))
            m, low, high = ratio([made / s for s, _ in ours], [made / s for s, _ in theirs])
            rates = [median(made / seconds for seconds, _ in side) for side in (ours, theirs)]
            print(f"| prepare | {made:.0f} MB | {rates[0]:.2f} | {rates[1]:.2f} (tokenizers) | "
                  f"**{m:.2f}** ({low:.2f} to {high:.2f}) | MB/s · peak {max(m for _, m in ours):.0f} against "
                  f"{max(m for _, m in theirs):.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
