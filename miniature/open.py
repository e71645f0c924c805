"""The miniature corpora as data for training: made on first use, in a folder under out/."""
from harness.cli import PROJECT

import fcntl
import hashlib
import json
from pathlib import Path

from tqdm import tqdm

from data import get_tokenizer, pack
from miniature import corpus, draws, operations

MINIATURE = {"n": 16000, "block_size": 256, "val_fraction": 0.02, "seed": 0}


def open_miniature(kind):
    """"mono", "multi", "nl", of the instrument "mono@12" -> the folder of the packed corpus, made
    (seconds, once) under a name that tells all that it depends on. ValueError for another kind."""
    corpus.writer_of(kind)      # raises it
    vocab = PROJECT / "miniature" / "miniature.tiktoken"
    if not vocab.is_file():
        raise FileNotFoundError(f"{vocab} is missing: it belongs to the project")
    files = [Path(module.__file__) for module in (corpus, draws, operations)]
    made_of = b"".join(file.read_bytes() for file in files)
    made_of += (get_tokenizer("miniature").identity + json.dumps(MINIATURE)).encode()
    folder = PROJECT / "out" / f"miniature-{kind}-{hashlib.sha256(made_of).hexdigest()[:12]}"
    folder.parent.mkdir(exist_ok=True)
    with open(folder.parent / ".miniature.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)    # of several processes one makes it, the others wait
        if not (folder / "meta.json").is_file():
            make(kind, folder)
    return folder


def make(kind, folder):
    """Writes the corpus into a new folder."""
    seed, n = MINIATURE["seed"], MINIATURE["n"]
    tokenizer = get_tokenizer("miniature")
    texts = tqdm(corpus.documents(kind, seed, n), total=n, unit=" documents",
                 desc=f"miniature:{kind}")
    pack((tokenizer.encode(text) for text in texts), folder, tokenizer, MINIATURE["block_size"],
         MINIATURE["val_fraction"], seed, about=lambda: {"miniature": kind})
