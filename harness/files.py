"""Files of problems and samples: found, read line by line, written under a temporary name, resumed."""
import collections
import fcntl
import gzip
import hashlib
import json
import os
import re
import urllib.request
import zlib
from pathlib import Path

BENCHMARKS = {
    "HumanEval.jsonl.gz": ("b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",
                           "https://github.com/openai/human-eval/raw/master/data/HumanEval.jsonl.gz"),
    "mtpb.jsonl": ("3ab79ddb160f484a63491330ba72204930d56cc946f7c0c5fb469622a941f89c",
                   "https://raw.githubusercontent.com/salesforce/CodeGen/main/codegen1/benchmark/mtpb.jsonl"),
}


def find_benchmark(name) -> Path:
    """An official file: from $CODEGEN_BENCHMARKS, from ~/.cache/codegen, or downloaded there once and checked."""
    sha256, url = BENCHMARKS[name]
    cache = Path.home() / ".cache" / "codegen"
    for folder in (os.environ.get("CODEGEN_BENCHMARKS"), cache):
        if folder and (Path(folder) / name).is_file():
            return Path(folder) / name
    try:
        with urllib.request.urlopen(url, timeout=30) as reply:
            content = reply.read()
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{name} is not here and cannot be downloaded ({error}): save {url} as {cache / name}, or in a "
                         "folder that CODEGEN_BENCHMARKS names") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{url} is not the official file (its sha256 differs): nothing was saved")
    replace_file(cache / name, content)
    return cache / name


def is_official(path) -> bool:
    """Whether a problem file is, byte for byte, one of the official ones."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() in [sha256 for sha256, _ in BENCHMARKS.values()]


def read_lines(path):
    """A .jsonl or .jsonl.gz file -> [(line number, dict)]. ValueError names the line that is no JSON object.

    Lines end at \\n only: a Unicode line separator inside a JSON string is ordinary text."""
    try:
        with (gzip.open if str(path).endswith(".gz") else open)(path, "rb") as file:
            lines = file.read().split(b"\n")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is no whole gzip file: {error}") from None
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: no JSON ({error}); mend or delete the line") from None
            if not isinstance(record, dict):
                raise ValueError(f"{path}, line {number}: a JSON object is expected")
            found.append((number, record))
    return found


def replace_file(path, content: bytes):
    """Write under a temporary name, then rename: a reader sees the old file or the new one."""
    part = Path(f"{path}.part")
    with open(part, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def append_records(path, records):
    """Add records to a sample file; they are on the disk when this returns."""
    with open(path, "ab") as file:
        file.write("".join(json.dumps(r) + "\n" for r in records).encode())
        file.flush()
        os.fsync(file.fileno())


def resume(path, settings, key, wanted):
    """Open or go on with a sample file -> (ids that it holds whole, a lock to hold while writing).

    What a killed run left of other wanted ids is removed; wanted: {id: number of records}, key: the field with the id.
    The settings lie in path + ".json". ValueError for a file that was made with other settings, or that another process
    is writing."""
    path = Path(path)
    if path.suffix == ".gz":
        raise ValueError(f"{path}: samples are appended as plain text, choose a name that ends in .jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = open(f"{path}.json", "a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ValueError(f"{path} is being written by another process") from None
    if not path.exists() or not path.stat().st_size:
        lock.truncate(0)
        json.dump(settings, lock)
        lock.flush()
        return set(), lock
    old = settings_of(path)
    if old is None:
        raise ValueError(f"{path} has no settings beside it in {path}.json: choose another --out")
    other = [k for k in settings if old.get(k) != settings[k]]
    if other:
        raise ValueError(f"{path} was made with other settings ({', '.join(other)}): choose another --out")
    raw = path.read_bytes()
    if not raw.endswith(b"\n"):                 # killed in the middle of a line
        replace_file(path, raw[:raw.rfind(b"\n") + 1])
    records, counts = [r for _, r in read_lines(path)], collections.Counter()
    for r in records:
        counts[str(r.get(key))] += 1
    done = {i for i, n in wanted.items() if counts[i] == n}
    broken = {i for i in wanted if counts[i]} - done
    if broken:
        replace_file(path, "".join(json.dumps(r) + "\n" for r in records if str(r.get(key)) not in broken).encode())
    if done:
        print(f"resuming: {len(done)} of {len(wanted)} problems are there")
    return done, lock


def settings_of(path) -> dict | None:
    """The settings that `resume` left beside a sample file; None where there are none."""
    try:
        settings = json.loads(Path(f"{path}.json").read_text())
        return settings if isinstance(settings, dict) else None
    except (OSError, ValueError):
        return None


def results_path(path):
    return re.sub(r"\.(jsonl(\.gz)?|json)$", "", str(path)) + "_results.jsonl"


# ------------------------------------------- JSON files that may be damaged ----------------------------------------

def read_json(path, wanted=None, most=1 << 28) -> dict:
    """A JSON object from a file, checked against `wanted` (see `check`). ValueError names the file and what is wrong;
    OSError where it cannot be read."""
    path = Path(path)
    if path.stat().st_size > most:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes: that is no file of ours")
    try:
        record = json.loads(path.read_bytes(), parse_constant=lambda name: float("nan"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: no JSON ({' '.join(str(error).split())[:100]})") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path} is damaged: a JSON object is expected")
    if wanted:
        check(record, wanted, f"{path} is damaged: ")
    return record


def check(value, wanted, where=""):
    """ValueError, which begins with `where` and names the place, unless a value from JSON is as wanted:

        str, bool, dict, list   a value of that type         float       a finite number
        (low, high)             a whole number, both included
        [kind]                  a list of such values        {str: kind} a dict of such values
        {"key": kind, ...}      at least these keys; "key?" may be missing or null
        {"a", "b"}              one of these texts
    """
    def bad(place, expected):
        raise ValueError(f"{where}{place or 'it'} must be {expected}")

    def walk(value, wanted, place):
        if isinstance(wanted, tuple):
            low, high = wanted
            if type(value) is not int or not low <= value <= high:
                bad(place, f"a whole number from {low} to {high}")
        elif isinstance(wanted, list):
            if not isinstance(value, list):
                bad(place, "a list")
            for i, item in enumerate(value):
                walk(item, wanted[0], f"{place}[{i}]")
        elif isinstance(wanted, (set, frozenset)):
            if not isinstance(value, str) or value not in wanted:
                bad(place, f"one of {', '.join(sorted(wanted))}")
        elif isinstance(wanted, dict):
            if not isinstance(value, dict):
                bad(place, "an object")
            if str in wanted:
                for key, item in value.items():
                    walk(item, wanted[str], f"{place}.{key}"[:100].lstrip("."))
                return
            for key, kind in wanted.items():
                name = key.rstrip("?")
                inside = f"{place}.{name}".lstrip(".")
                if value.get(name) is None:
                    if not key.endswith("?"):
                        bad(inside, "there")
                else:
                    walk(value[name], kind, inside)
        elif wanted is float:
            if type(value) not in (int, float) or not abs(value) < 1e300:
                bad(place, "a finite number")
        elif type(value) is not wanted:
            bad(place, {str: "a text", bool: "true or false", dict: "an object", list: "a list"}[wanted])

    walk(value, wanted, "")
