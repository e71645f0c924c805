"""Two visits to each document by worker processes: the first decides, the second tokenizes what
stays.

So duplicates cost no tokenization. A file is read by the workers, at the second visit mostly from
the page cache; a record's text travels to them, so that no file of records is read twice.
"""
import functools
from typing import NamedTuple

from corpora.notebooks import NoNotebook
from corpora.pool import batched, bounded_map
from corpora.shards import SHARD
from corpora.text import read_piece

import numpy as np


class Tools(NamedTuple):
    """What a worker has in hand at each visit."""
    inspect: object     # binary file -> (reason, digest, pieces)
    tokenize: object    # (text, prefix) -> uint16 ids


def make_tools(inspect, tokenize, get_tokenizer, name):
    """Runs once in each worker -> its Tools. tokenize: (tokenizer, text, prefix) -> uint16 ids."""
    return Tools(inspect, functools.partial(tokenize, get_tokenizer(name)))


def inspect_document(inspect, document):
    """(reason, digest, pieces), as `inspect` says, or why it cannot be read."""
    try:
        with document.opened() as file:
            return inspect(file)
    except OSError:
        return "unreadable", None, []
    except NoNotebook:
        return "not_json", None, []


def first_visit(tools, documents):
    """Worker: [Document] -> what `inspect_document` says of each."""
    return [inspect_document(tools.inspect, document) for document in documents]


def second_visit(tools, jobs):
    """Worker: [(Document, piece, ...)] -> the uint16 ids of each piece; None where the file has
    changed since the first visit."""
    return [piece_ids(tools.tokenize, document, *piece) for document, piece, _ in jobs]


def piece_ids(tokenize, document, offset, digest):
    """The uint16 ids of a piece, the document's prefix before the first one; or None."""
    text = read_piece(document, offset, digest)
    if text is None:
        return None
    return tokenize(text, "" if offset else document.prefix)


def inspected(pool, documents):
    """Documents -> lists of (Document, reason, digest, pieces), in order."""
    for batch, verdicts in bounded_map(pool, first_visit, batched(documents, pool.batch)):
        yield [(document, *verdict) for document, verdict in zip(batch, verdicts)]


def tokenized(pool, batches, count):
    """Lists of (Document, pieces) -> yields the uint16 ids of each document, in order. The pieces
    of a large one are joined; a text longer than a shard is cut into several.

    `count` (a Counter) is told of the large ones, and of what has changed since the first visit.
    """
    visited = bounded_map(pool, second_visit, jobs_of(batches, count))
    pieces = ((*job[1:], ids) for jobs, results in visited for job, ids in zip(jobs, results))
    yield from joined(pieces, count)


def joined(pieces, count):
    """((offset, digest), whether it is the document's last, ids or None) of each piece, in order ->
    yields the ids of each document."""
    parts, changed = [], False
    for (offset, _), last, ids in pieces:
        changed = changed or ids is None
        if not changed:
            parts.append(ids)
            if last or sum(map(len, parts)) >= SHARD:
                count["documents_of_large"] += not last or offset > 0
                yield np.concatenate(parts)
                parts = []
        if last:
            count["unreadable"] += changed
            parts, changed = [], False


def jobs_of(batches, count):
    """Lists of (Document, pieces) -> lists of (Document, piece, whether it is the last) for
    `second_visit`: the documents of a batch together, but of a large one each piece alone, because
    it is work enough."""
    for batch in batches:
        small = []
        for document, pieces in batch:
            jobs = [(document, piece, False) for piece in pieces]
            jobs[-1] = (document, pieces[-1], True)
            if len(jobs) == 1:
                small += jobs
            else:
                count["large"] += 1
                if small:
                    yield small
                yield from ([job] for job in jobs)
                small = []
        yield small
