"""Files: benchmarks found, JSON read and checked, results written under a temporary name."""
import contextlib
import errno
import gzip
import hashlib
import http.client
import json
import os
import re
import secrets
import shutil
import sys
import urllib.request
import zlib
from pathlib import Path

BENCHMARKS = {
    "HumanEval.jsonl.gz": (
        "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",
        "https://github.com/openai/human-eval/raw/master/data/HumanEval.jsonl.gz"),
    "mtpb.jsonl": (
        "3ab79ddb160f484a63491330ba72204930d56cc946f7c0c5fb469622a941f89c",
        "https://raw.githubusercontent.com/salesforce/CodeGen/main/codegen1/benchmark/mtpb.jsonl"),
}
UNPACKED = "1d49078ba3e2b196b9344535bef34a43021f038fad9561d6ee7c53450609a6a2"   # HumanEval.jsonl


def find_benchmark(name) -> Path:
    """An official file: from $CODEGEN_BENCHMARKS, from ~/.cache/codegen, or downloaded there once
    and checked. ValueError that says what to do where it is nowhere."""
    sha256, url = BENCHMARKS[name]
    named = os.environ.get("CODEGEN_BENCHMARKS")
    folders = [Path(named)] if named else []
    with contextlib.suppress(RuntimeError):     # a user without a home folder
        folders.append(Path.home() / ".cache" / "codegen")
    for folder in folders:
        with contextlib.suppress(PermissionError):
            if (folder / name).is_file():
                return folder / name
    advice = f"save {url} in a folder that CODEGEN_BENCHMARKS names, or give --problems FILE"
    try:
        with urllib.request.urlopen(url, timeout=30) as reply:
            content = reply.read()
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(f"{name} is not here and cannot be downloaded ({error}): "
                         + advice) from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{url} is not the official file (its sha256 differs): nothing was saved")
    try:
        cache = Path.home() / ".cache" / "codegen"
        cache.mkdir(parents=True, exist_ok=True)
        replace_file(cache / name, content)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{name} has no place in a home folder ({error}): {advice}") from None
    return cache / name


def is_official(path) -> bool:
    """Whether a problem file is an official one, byte for byte (HumanEval's also unpacked)."""
    digests = [sha256 for sha256, _ in BENCHMARKS.values()] + [UNPACKED]
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() in digests


def read_lines(path):
    """A .jsonl or .jsonl.gz file -> [(line number, dict)]. ValueError names the line that is no
    JSON object."""
    try:
        with (gzip.open if str(path).endswith(".gz") else open)(path, "rb") as file:
            return parse_lines(file.read(), path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is no whole gzip file: {error}") from None


def parse_lines(raw: bytes, path):
    """The same from a file's bytes. Lines end at \\n only: a Unicode line separator inside a JSON
    string is ordinary text."""
    found = []
    for number, line in enumerate(raw.split(b"\n"), 1):
        if line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                why = " ".join(str(error).split())[:100]
                raise ValueError(f"{path}, line {number}: no JSON ({why}); mend or delete the "
                                 "line") from None
            if not isinstance(record, dict):
                raise ValueError(f"{path}, line {number}: a JSON object is expected")
            found.append((number, record))
    return found


# ---- writing -------------------------------------------------------------------------------------

def open_part(path):
    """A new file beside `path`, under a name that nobody has."""
    while True:
        with contextlib.suppress(FileExistsError):
            return open(f"{path}.{secrets.token_hex(4)}.part", "xb")


@contextlib.contextmanager
def named(path):
    """Inside, an OSError that names no file, as that of a full disk, names this one."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def replace_file(path, content: bytes):
    """Write under a temporary name, then rename: a reader sees the old file or the new one, whole.

    A link goes on pointing to the file; into /dev/null, a pipe or a stream of our own the content
    is just written."""
    if (stream := stream_of(path)) is not None:
        sys.stdout.flush()
        with named(path), open(stream, "wb", closefd=False) as file:
            file.write(content)
        return
    path = os.path.realpath(path)
    if os.path.exists(path) and not os.path.isfile(path):
        with named(path), open(path, "wb") as file:
            file.write(content)
        return
    with named(path), open_part(path) as part:
        try:
            if os.path.exists(path):
                shutil.copymode(path, part.name)    # what was private stays so
            part.write(content)
            part.flush()
            os.fsync(part.fileno())
            os.replace(part.name, path)
        except BaseException:
            os.unlink(part.name)
            raise


def stream_of(path):
    """The number of the open file that a name like /dev/stdout or /dev/fd/63 stands for; None for
    other names."""
    found = re.fullmatch(r"/dev/std(out|err)|/(?:dev|proc/self)/fd/(\d{1,9})", str(path))
    return found and int(found[2] or {"out": 1, "err": 2}[found[1]])


def check_folder(folder):
    """Before hours of work: ValueError where a folder, or what is missing of it, cannot be made or
    nothing written there."""
    folder = Path(folder)
    above = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    if not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(f"nothing can be written in {above}: choose another --out")


def check_apart(path, *inputs):
    """ValueError where the file that results go to is one of the inputs."""
    if any(os.path.realpath(path) == os.path.realpath(i) for i in inputs):
        raise ValueError(f"the results would overwrite {path}: give --results FILE")


def check_writable(path, *inputs, what="the results", flag="--results"):
    """Before hours of work: can this file be written, and is it none of the inputs? It stays as it
    is. ValueError says what to do. what: goes there; flag: names it."""
    check_apart(path, *inputs)
    there = os.path.exists(path)
    try:
        if there and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        plain = not there or os.path.isfile(path)
        if plain and stream_of(path) is None:   # beside a device or a pipe nothing is made
            with open_part(os.path.realpath(path)) as part:
                os.unlink(part.name)
    except OSError as error:
        raise ValueError(f"{what} cannot be written to {path} ({error.strerror}): "
                         f"give {flag} FILE") from None


# ---- JSON files that may be damaged --------------------------------------------------------------

def read_json(path, wanted=None, most=1 << 28) -> dict:
    """A JSON object from a file, checked against `wanted` (see `check`). ValueError names the file
    and what is wrong; OSError where it cannot be read."""
    path = Path(path)
    if path.stat().st_size > most:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes: that is no file of ours")
    try:
        record = json.loads(path.read_bytes(), parse_constant=lambda name: float("nan"))
    except (ValueError, RecursionError) as error:
        why = " ".join(str(error).split())[:100]
        raise ValueError(f"{path} is damaged: no JSON ({why})") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path} is damaged: a JSON object is expected")
    if wanted:
        check(record, wanted, f"{path} is damaged: ")
    return record


TYPES = {str: "a text", bool: "true or false", dict: "an object", list: "a list"}


def check(value, wanted, where=""):
    """ValueError, which begins with `where` and names the place, unless a JSON value is as wanted:

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
            bad(place, TYPES[wanted])

    walk(value, wanted, "")
