"""Documents laid out in files, so that a corpus larger than memory can be shuffled."""
import numpy as np
from tqdm import tqdm

BUCKET = 2 ** 26        # bytes of text, whose ids a bucket holds: one is in memory at a time


def buckets_for(n_text):
    """How many buckets for so many bytes of text."""
    return 1 + n_text // BUCKET


class Buckets:
    """`n` bucket files in `folder`; `documents` and `tokens` count what was added, with each
    document's end of text."""

    def __init__(self, folder, n, eot):
        self.folder, self.n, self.eot = folder, n, eot
        self.documents = self.tokens = 0

    def add(self, ids, bucket):
        """Writes a document and its end of text to the end of a bucket."""
        # Opened for each document, so that any number of buckets is no matter of open files.
        with open(self.folder / f"bucket{bucket}", "ab") as file:
            np.append(np.asarray(ids, np.uint16), np.uint16(self.eot)).tofile(file)
        self.documents += 1
        self.tokens += len(ids) + 1

    def emptied(self):
        """Yields the documents of each bucket, a list with their ends of text, and removes it."""
        bar = tqdm(range(self.n), unit=" buckets", desc="shuffle, pack", disable=self.n == 1)
        for bucket in bar:
            path = self.folder / f"bucket{bucket}"
            if path.exists():       # some document has drawn it
                ids = np.fromfile(path, np.uint16)
                path.unlink()
                # Each ends in eot, which encode() never returns; behind the last nothing is left.
                yield np.split(ids, np.flatnonzero(ids == self.eot) + 1)[:-1]
