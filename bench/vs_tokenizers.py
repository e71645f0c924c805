"""Preparing a corpus: MB of Python source a second beside the tokenizers library on the same files and cores.

    pip install tokenizers && python bench/vs_tokenizers.py       TIKTOKEN_CACHE_DIR as for data.py

"encode" is reading the files and encoding them, on both sides, after the vocabulary is loaded. "prepare" is the whole command
`data.py prepare`, start-up, filters, duplicates, shuffle and packing included, beside a script of the peer that only reads and
encodes. Files: the standard library and the installed packages, as much as is asked for."""
import argparse
import io
import itertools
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from statistics import median

from versus import CORES, ROOT, machine, ratio

PEER = """
import sys, time; from pathlib import Path; from tokenizers import Tokenizer
tokenizer, start = Tokenizer.from_file(sys.argv[2]), time.perf_counter()
texts = [f.read_text(encoding="utf-8", errors="replace") for f in Path(sys.argv[1]).rglob("*.py")]
encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
n = sum(len(e.ids) for e in encoded)
print(time.perf_counter() - start)
"""
OURS = """
import sys, time
from corpora import visits; from corpora.files import TextFiles; from corpora.pool import worker_pool
from data import get_tokenizer, inspect, tokenize
from harness.cli import CORES; from tqdm import tqdm
def wait(tools, seconds):
    time.sleep(seconds)
if __name__ == "__main__":
    files = TextFiles([sys.argv[1]], ".py")
    with worker_pool(CORES, visits.make_tools, inspect, tokenize, get_tokenizer, "codegen") as pool:
        for future in [pool.submit(wait, 0.5) for _ in range(CORES)]:     # until all have loaded it
            future.result()
        found = files.documents(tqdm(disable=True))
        stay = [[(document, pieces) for document, _, _, pieces in batch]
                for batch in visits.inspected(pool, found)]
        start = time.perf_counter()
        n = sum(len(ids) for ids in visits.tokenized(pool, stay, files.count))
        print(time.perf_counter() - start)
"""


def source(folder, size):
    """Copy files until they are `size` bytes together, as often as that takes; a first line tells copies apart. Both sides get
    the files that pass the filters."""
    from data import inspect
    files = [f for key in ("stdlib", "purelib") for f in sorted(Path(sysconfig.get_path(key)).rglob("*.py"))]
    made = 0
    for n, file in enumerate(itertools.cycle(files)):
        raw = b"# copy %d\n" % (n // len(files)) + file.read_bytes()
        if inspect(io.BytesIO(raw))[0]:
            continue
        (folder / f"{n}.py").write_bytes(raw)
        made += len(raw)
        if made >= size:
            return made


def timed(command):
    """(seconds of the whole command, peak MB of its largest process, what it printed last)."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
                               env=os.environ | {"RAYON_NUM_THREADS": str(CORES)})
    printed = process.stdout.read().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1024, printed[-1]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=5, help="measurements of each side (default 5)")
    p.add_argument("--megabytes", type=int, nargs="+", default=[1, 10, 100], help="sizes (default 1 10 100)")
    args = p.parse_args()
    from data import get_tokenizer
    from hf.tokenizer import write_hf_tokenizer
    machine("tiktoken", "tokenizers")
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        write_hf_tokenizer(get_tokenizer("codegen"), work, 256)
        for size in args.megabytes:
            files = work / f"{size}"
            files.mkdir()
            made = source(files, size * 10 ** 6) / 1e6
            runs = {"ours": [], "encode": [], "peer": []}
            for i in range(args.rounds):
                runs["encode"].append(timed([sys.executable, "-c", OURS, files]))
                runs["ours"].append(timed([sys.executable, ROOT / "data.py", "prepare", "--input", files, "--out",
                                           work / f"{size}-{i}", "--tokenizer", "codegen"]))
                runs["peer"].append(timed([sys.executable, "-c", PEER, files, work / "tokenizer.json"]))
            whole = {side: [made / seconds for seconds, *_ in r] for side, r in runs.items()}
            inside = {side: [made / float(r[-1]) for r in runs[side]] for side in ("encode", "peer")}
            memory = {side: max(mb for _, mb, _ in r) for side, r in runs.items()}
            for what, a, b in ("encode", inside["encode"], inside["peer"]), ("prepare", whole["ours"], whole["peer"]):
                m, low, high = ratio(a, b)
                print(f"| {what} | {made:.0f} MB | {median(a):.2f} | {median(b):.2f} (tokenizers) | **{m:.2f}** ({low:.2f} to "
                      f"{high:.2f}) | MB/s · peak {memory['ours']:.0f} against {memory['peer']:.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
