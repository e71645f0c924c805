"""A run that several processes share: who samples which problems, and their files put together.

                                process 0 of 2                        process 1 of 2
    samples/humaneval.jsonl ->  humaneval-00000-of-00002.jsonl        humaneval-00001-of-00002.jsonl
    (the name of the whole)     problems 0, 2, 4, ...                 problems 1, 3, 5, ...

Every N-th problem and not blocks of them, because neighbours in a file are alike: both official
files grow longer towards their end, so the last block would take longest. And a problem stays with
its process when --limit changes, so that a finished run can go on with more problems.
"""
from harness import samples

import os
import re
from collections import Counter
from pathlib import Path

MARKS = ("part", "limit")   # settings of a part alone: its place, up to which problem it is wanted
PART = re.compile(r"-(\d{5})-of-(\d{5})\.jsonl")


def name_of(path, process, processes) -> str:
    """The file of one process of a run that is named `path` as a whole."""
    return f"{str(path).removesuffix('.jsonl')}-{process:05}-of-{processes:05}.jsonl"


def whole_of(path) -> str:
    """The name of the run that a file is a part of; its own where it is none."""
    return PART.sub(".jsonl", str(path))


def share(items, part):
    """The items of one process, part = (its number, of how many); None is all of them."""
    process, processes = part or (0, 1)
    return items[process::processes]


def files_of(path) -> list:
    """The sample files that a name stands for: itself, or where it is not there, its parts beside
    it."""
    path, whole = Path(path), Path(path).name.removesuffix(".jsonl")
    if os.path.exists(path) or not os.path.isdir(path.parent):
        return [str(path)]
    beside = sorted(p for p in path.parent.iterdir() if p.name.startswith(whole))
    return [str(p) for p in beside if PART.fullmatch(p.name[len(whole):])] or [str(path)]


# ---- put together --------------------------------------------------------------------------------

def gather(paths, read, key, wanted):
    """Sample files -> (their records, their settings or None).

    read(path) -> records; key: the field with a problem's id; wanted(settings) -> {id: number of
    records} of the problems in order. Parts of one run come in the order of the problems, with the
    settings of that run: what its one process would have written. ValueError for files without a
    record, and, in one line that says what to do, for parts that do not fit together, are missing
    or unfinished, and for records that are there twice."""
    paths = [path for name in paths for path in files_of(name)]
    if twice := [p for p, n in Counter(map(os.path.realpath, paths)).items() if n > 1]:
        raise ValueError(f"{twice[0]} is given twice")
    settings, parts = check_parts(paths)
    by_path = {path: read(path) for path in paths}
    records = [r for path in paths for r in by_path[path]]
    if not records:
        raise ValueError(f"{', '.join(paths)}: there is no sample to score")
    if parts:
        _, processes = part_of(settings)
        counts = wanted(settings)                                       # of all problems
        up_to_limit = dict(list(counts.items())[:settings["limit"]])    # [:None] is all
        check_once(by_path, key, counts, processes)
        held = {process: Counter(r[key] for r in by_path[path]) for process, path in parts.items()}
        if missing := lacking(held, up_to_limit, processes):
            raise ValueError(missing)
        place = {name: i for i, name in enumerate(counts)}
        records.sort(key=lambda r: place[r[key]])       # stable: the samples of a problem stay so
        settings = {name: value for name, value in settings.items() if name not in MARKS}
    return records, settings


def check_parts(paths):
    """-> (the settings of the first file, None without any; {process: path, ...} of parts, else
    None). ValueError for parts that are not of one run."""
    found = {path: samples.settings_of(path) for path in paths}
    first, *others = paths
    parts = {}
    for path in paths:
        if part := part_of(found[path]):
            process, _ = part
            if process in parts:
                raise ValueError(f"part {process} is there twice: {parts[process]} and {path}")
            parts[process] = path
        elif PART.search(path):
            raise ValueError(f"{path} needs its settings beside it, in {path}.json: copy both")
    if not parts:
        return found[first], None
    for path in others:
        if not (part_of(found[first]) and part_of(found[path])):
            raise ValueError(f"{first} and {path} do not go together: one is a part of a divided "
                             "run, the other is not")
        if why := differences(found[first], found[path]):
            raise ValueError(f"{first} and {path} are parts of different runs ({why})")
    return found[first], parts


def part_of(settings):
    """(process, of how many) of a part's settings, None for other files.

    They come from a file, so they may be anything. A limit that is not there becomes None in them,
    because `gather` reads it."""
    part = (settings or {}).get("part")
    whole = lambda number: type(number) is int      # isinstance would take True, too
    if isinstance(part, list) and [*map(whole, part)] == [True] * 2 and 0 <= part[0] < part[1]:
        limit = settings.setdefault("limit")
        if whole(settings.get("n")) and (limit is None or whole(limit) and limit > 0):
            return tuple(part)
    return None


def differences(a, b) -> str:
    """The names of the settings in which two parts differ, "" for parts of one run."""
    # Their number differs. The model's place may, from host to host. The limit may not, although
    # samples.NOT_COMPARED lets it grow: the parts would not be of the same problems.
    may_differ = {"part"} | samples.NOT_COMPARED - {"limit"}
    names = sorted(k for k in (a.keys() | b.keys()) - may_differ if a.get(k) != b.get(k))
    if a["part"][1] != b["part"][1]:
        names.insert(0, f"of {a['part'][1]} and of {b['part'][1]} processes")
    return ", ".join(names)


def check_once(by_path, key, counts, processes):
    """ValueError for a problem with more records than {id: number} says."""
    found = Counter(r[key] for records in by_path.values() for r in records)
    for place, (name, number) in enumerate(counts.items()):
        if found[name] > number:
            where = [path for path, records in by_path.items()
                     if any(r[key] == name for r in records)]
            raise ValueError(
                f"some records are doubled: problem {name} has {found[name]} in "
                f"{', '.join(where)}, where {number} are wanted. Delete its part and run process "
                f"{place % processes} again (--num_processes {processes})")     # as in `share`


def lacking(held, counts, processes) -> str:
    """What a divided run still lacks, in one line that says what to do; "" for nothing.

    held: {process: {id: number of records}} of the parts that are there; counts: {id: number} of
    the problems that are wanted, in order."""
    faults = {}
    for process in range(processes):
        its, found = share(list(counts), (process, processes)), held.get(process, {})
        to_come = [name for name in its if found.get(name, 0) < counts[name]]
        if not to_come:     # so a part may be missing, where there are more processes than problems
            continue
        fault = "is missing"
        if process in held:
            fault = f"is unfinished, it lacks {len(to_come)} of its {len(its)} problems"
        faults[process] = f"part {process} of {processes} {fault}"
    if not faults:
        return ""
    return (f"{'; '.join(faults.values())}: run process {', '.join(map(str, faults))} again "
            f"(--num_processes {processes}), or copy its files to here")


def waiting_for(path, processes, key, counts) -> str:
    """The same of the run that is named `path` as a whole, while others may be writing."""
    names = {process: name_of(path, process, processes) for process in range(processes)}
    held = {process: samples.count(name, key) for process, name in names.items()
            if os.path.exists(name)}
    return lacking(held, counts, processes)
