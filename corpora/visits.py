"""Two visits to each file by worker processes: the first decides, the second tokenizes what stays.

So duplicates cost no tokenization, and no text travels between processes; the second visit reads
mostly from the page cache.
"""
from corpora.pool import batched, bounded_map
from corpora.text import read_piece

import numpy as np


def start(inspect, get_tokenizer, name):
    """Runs once in each worker -> its tools, which each visit gets. inspect: binary file ->
    (reason, digest, pieces)."""
    return inspect, get_tokenizer(name)


def inspect_file(inspect, path):
    """(path, reason, digest, pieces), of which the last three are what `inspect` says."""
    try:
        with open(path, "rb") as file:
            return path, *inspect(file)
    except OSError:
        return path, "unreadable", None, []


def first_visit(tools, paths):
    """Worker: [path] -> what `inspect_file` says of each."""
    return [inspect_file(tools[0], path) for path in paths]


def second_visit(tools, jobs):
    """Worker: [(path, offset, digest, prefix)] -> [(path, uint16 ids)], None for the ids where the
    file has changed since the first visit."""
    documents = []
    for path, offset, digest, prefix in jobs:
        text = read_piece(path, offset, digest)
        ids = None if text is None else np.array(tools[1].encode(prefix + text), np.uint16)
        documents.append((path, ids))
    return documents


def inspected(pool, files):
    """(path, bytes) pairs -> what `inspect_file` says of each, yielded in lists, in order."""
    return bounded_map(pool, first_visit, batched(files, pool.batch))


def tokenized(pool, batches, prefix, count):
    """Lists of (path, pieces) -> yields the uint16 ids of each piece, in order. prefix: path ->
    what is put before a piece's text; `count` (a Counter) is told of what has changed meanwhile."""
    changed = set()
    jobs = jobs_of(batches, prefix, count)
    for documents in bounded_map(pool, second_visit, jobs):
        for path, ids in documents:
            if ids is not None:
                yield ids
            elif path not in changed:
                changed.add(path)
                count["unreadable"] += 1


def jobs_of(batches, prefix, count):
    """Lists of (path, pieces) -> lists for `second_visit`: the files of a batch together, but of a
    large file each piece alone, because it is work enough."""
    for batch in batches:
        small = []
        for path, pieces in batch:
            jobs = [(path, *piece, prefix(path)) for piece in pieces]
            if len(jobs) == 1:
                small += jobs
            else:
                count["large"] += 1
                count["documents_of_large"] += len(jobs)
                yield from ([job] for job in jobs)
        yield small
