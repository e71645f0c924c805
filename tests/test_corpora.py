"""python -m pytest tests/test_corpora.py : what stands below data.py."""
import collections
import hashlib
import random

from corpora import digests

import pytest
from hypothesis import given
from hypothesis import strategies as st

import data


class Bar:
    def update(self, n):
        pass


@pytest.mark.parametrize("parts", [1, 256])
@given(numbers=st.lists(st.integers(0, 400), max_size=2000))
def test_a_set_of_digests_is_a_set(parts, numbers):
    ours, theirs = digests.DigestSet(), set()
    for number in numbers:
        digest = hashlib.sha256(b"%d" % number).digest()
        if parts == 1:      # all in one table, at its end, so that places wrap around
            digest = b"\0\xff\xff\xff" + digest
        assert (digest in ours) == (digest in theirs)
        ours.add(digest)
        theirs.add(digest)


def test_a_digest_takes_at_most_16_bytes_and_zero_is_one_too():
    ours, n = digests.DigestSet(), 60_000
    rng = random.Random(0)
    for _ in range(n):
        ours.add(rng.randbytes(32))
    assert sum(ours.counts) == n and sum(table.nbytes for table in ours.tables) <= 16.5 * n
    assert bytes(32) not in ours
    ours.add(bytes(32))
    assert bytes(32) in ours


def test_of_equal_documents_the_first_stays_and_the_others_are_counted():
    rng = random.Random(1)
    digest = lambda: hashlib.sha256(b"%d" % rng.randrange(300)).digest()
    rows = [(f"f{i}", rng.choice([None, None, "empty"]), digest(), [(0, b"")]) for i in range(1000)]
    batches = [rows[i:i + 7] for i in range(0, len(rows), 7)]
    count, seen, expected = collections.Counter(), set(), []
    for path, reason, digest, _ in rows:
        if not reason and digest not in seen:
            seen.add(digest)
            expected.append(path)
    stay = [path for batch in data.distinct(batches, count, Bar()) for path, _ in batch]
    assert stay == expected
    assert sum(count.values()) == len(rows) - len(stay) and set(count) == {"empty", "duplicate"}
