"""The folder of a run, as files: whose it is, which checkpoints lie there, and its metrics.

    out/.lock               held while a process trains
        metrics.jsonl       one line a step
        step_00001000/      a checkpoint; tpu_mesh.py says what is in it
        step_00001200.tmp/  one that is being written      step_00000800.old/  or deleted

All else in it is its owner's, and stays.
"""
from harness.files import check, read_json, replace_file
from harness.sizes import CONFIG_SCHEMA

import fcntl
import hashlib
import json
import os
import re
import shutil
import zlib
from pathlib import Path

STEPS = 10 ** 8 - 1         # the most: a checkpoint's name has eight digits
NAME = re.compile(r"step_\d{8}")
UNFINISHED = re.compile(r"step_\d{8}\.(tmp|old)")
INSIDE = re.compile(r"config\.json|index_\d{5}\.json|shards_\d{5}\.bin|.*\.tiktoken")
METRICS = "metrics.jsonl"

CRC = (0, 2 ** 32 - 1)
CONFIG_JSON = {"step": (0, STEPS), "num_processes": (1, 2 ** 16), "files?": {str: CRC},
               "crc32?": CRC}
# What an index must look like (harness.files.check). The limits are far above any real size: they
# keep a damaged file from asking for absurd memory.
SIZES = [(0, 2 ** 40)]
SHARD = {"begin": SIZES, "shape": SIZES, "offset": (0, 2 ** 50), "crc32": CRC}
INDEX = {str: {"shape": SIZES, "dtype": str, "shards": [SHARD]}}


# ---- whose folder it is --------------------------------------------------------------------------

def take_run(out, first, source):
    """Take the folder of a run that starts from the checkpoint `source` (None: anew), and cut its
    metrics back to step `first` -> the lock.

    What a killed run left of a line goes; a metrics.jsonl that is not ours stays, and is a
    ValueError."""
    lock = take_folder(out)
    if checkpoints(out)[-1:] != [source] * bool(source):
        raise ValueError(f"another process has just written to {out}: start again")
    cut_metrics(out / METRICS, first, new=not source)
    return lock


def take_folder(out_dir):
    """Make a run's folder and hold it -> its lock, which goes when this process ends, however it
    ends.

    What a killed process left half written or half deleted goes now. ValueError where another
    process holds it."""
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    lock = open(out_dir / ".lock", "a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"{out_dir} is being written by another process: wait for its end, or "
                         "choose another folder") from None
    except OSError:
        pass            # a disk that knows no locks
    whole = checkpoints(out_dir)
    for folder in out_dir.iterdir():
        half_deleted = NAME.fullmatch(folder.name) and whole and folder.name < whole[0].name
        if (UNFINISHED.fullmatch(folder.name) or half_deleted) and is_ours(folder):
            shutil.rmtree(folder, ignore_errors=True)
    return lock


def is_ours(folder) -> bool:
    """Whether a folder holds nothing but what a checkpoint is made of."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return all(INSIDE.fullmatch(p.name) for p in folder.iterdir())


def cut_metrics(file, first, new):
    """Keep the lines up to step `first` of our metrics. ValueError where a new run finds others."""
    kept = []
    for line in file.read_bytes().splitlines() if file.exists() else []:
        try:
            row = json.loads(line)
            if row["step"] <= first and "tokens_per_s" in row:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            row = {}
        if new and "tokens_per_s" not in row and not line.startswith(b'{"step": '):
            raise ValueError(f"{file} is not of a run of ours: choose another --out_dir") from None
    replace_file(file, b"".join(line + b"\n" for line in kept))


# ---- checkpoints by name -------------------------------------------------------------------------

def checkpoints(out_dir):
    """The finished checkpoints of a run, oldest first: folders named step_ and eight digits, and no
    copies of them."""
    named = (p for p in Path(out_dir).glob("step_*") if NAME.fullmatch(p.name))
    return sorted(p for p in named if (p / "config.json").is_file())


def find_checkpoint(path) -> Path:
    """A step folder as it is, or the newest of an out_dir. Raises FileNotFoundError with what was
    looked for."""
    path = Path(path)
    if (path / "config.json").is_file():
        return path
    found = checkpoints(path)
    if not found:
        raise FileNotFoundError(f"no checkpoint in {path}: expected {path}/step_*/config.json, "
                                "as train.py writes it")
    return found[-1]


def last_good(out_dir) -> str:
    found = checkpoints(out_dir)
    return f"the last good checkpoint is {found[-1]}" if found else "there is no earlier checkpoint"


def damaged(folder, what) -> ValueError:
    """The error that says so, and what to do: take the checkpoint before it, if there is one."""
    others = [p for p in checkpoints(folder.parent) if p != folder]
    instead = "there is no other"
    if others:
        instead = f"the one before it is {others[-1]}: remove the damaged folder to use it"
    return ValueError(f"checkpoint {folder} is damaged: {what}; {instead}")


def discard(folder):
    """Delete a checkpoint: under another name first, because one that is half deleted must not pass
    for one."""
    old = Path(f"{folder}.old")
    os.rename(folder, old)
    shutil.rmtree(old)


def flush(file):
    """Return once the file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder):
    """The same for a folder: a rename survives a power cut only then."""
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


# ---- the small files of a checkpoint: config.json and indexes ------------------------------------

def write_config_json(folder, record):
    """Write it, with the checksum of what it says."""
    with open(folder / "config.json", "w") as file:
        json.dump(record | dict(crc32=checksum(record)), file, indent=1)
        flush(file)


def read_config_json(folder) -> dict:
    """config.json of a checkpoint, checked, or of a Hugging Face folder, as it is. ValueError says
    what is wrong.

    Earlier versions wrote no checksum: without one, none is compared."""
    folder = Path(folder)
    try:
        record = read_json(folder / "config.json")
        if "model_type" not in record:
            check(record, CONFIG_JSON, "in config.json ")
            rest = {k: v for k, v in record.items() if k != "crc32"}
            if record.get("crc32") not in (None, checksum(rest)):
                raise ValueError("config.json fails its checksum (edited by hand? then remove its "
                                 "line crc32)")
    except ValueError as error:
        raise damaged(folder, error) from None
    return record


def is_hf(folder) -> bool:
    """Whether a folder is Hugging Face's: its config.json says model_type, ours does not."""
    try:
        return "model_type" in read_json(Path(folder) / "config.json")
    except ValueError:      # damaged: whoever reads it says so
        return False


def read_checkpoint_meta(folder) -> dict:
    """config.json of a checkpoint, its sizes checked, its tokenizer a name or a path. ValueError if
    it is damaged."""
    meta = read_config_json(folder)
    where = f"checkpoint {folder} is damaged: config.json: "
    check(meta, dict(model=dict, tokenizer=str), where)
    meta["model"] = dict(dtype="float32") | meta["model"]
    check(meta["model"], CONFIG_SCHEMA, where)
    if unknown := meta["model"].keys() - CONFIG_SCHEMA.keys():
        raise ValueError(f"{where}another version wrote it, its model has "
                         + ", ".join(sorted(unknown)))
    name = meta["tokenizer"]
    if name.endswith(".tiktoken"):
        if name != Path(name).name:
            raise ValueError(f"{where}tokenizer {name!r} must be the name of a file beside it")
        name = str(Path(folder) / name)
    return meta | dict(tokenizer=name)


def checksum(record) -> int:
    """Of what config.json says, whatever its layout."""
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def check_files(folder, meta):
    """ValueError where a file of a checkpoint is not what config.json (meta) has noted of it."""
    for name, crc in (meta.get("files") or {}).items():
        if Path(name).name != name or zlib.crc32((folder / name).read_bytes()) != crc:
            raise ValueError(f"{name} fails its checksum")


def read_index_json(file) -> dict:
    """One process's index of a checkpoint (see INDEX), checked."""
    index = read_json(file, INDEX)
    for name, array in index.items():
        n = len(array["shape"])
        if any(not len(shard["begin"]) == len(shard["shape"]) == n for shard in array["shards"]):
            raise ValueError(f"a shard of {name} has another rank than its array")
    return index


WHOLE = 1 << 20     # bytes of a file up to which fingerprint reads all of it
PIECE = 1 << 12     # bytes of each of the pieces of a larger one


def fingerprint(folder) -> str:
    """Which model lies in a checkpoint or Hugging Face folder, as one line of text: a copy has the
    same one, another step or other weights have another.

    A digest of config.json, of the indexes with each shard's checksum, and of pieces of what is too
    large to be read whole: weight files of others, which have no checksums."""
    folder, digest = Path(folder), hashlib.sha256()
    ours = lambda file: file.is_file() and file.suffix != ".md" and file.name[0] != "."
    for file in sorted(filter(ours, folder.iterdir())):
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        if file.name.startswith("shards_"):
            continue
        offsets = [0] if size <= WHOLE else [*range(0, size, size // 64), size - PIECE]
        with open(file, "rb") as f:
            for offset in offsets:
                f.seek(offset)
                digest.update(f.read(WHOLE if offset == 0 else PIECE))
    step = read_config_json(folder).get("step")
    return f"{f'step {step}, ' if step is not None else ''}sha256 {digest.hexdigest()[:16]}"
