"""The order of an epoch without a table of it."""
import numpy as np

ROUNDS = 6
GOLDEN = np.uint64(0x9E3779B97F4A7C15)      # 2**64 / the golden ratio: a product spreads the bits


def permute(index, n, key):
    """index (array of ints below n) -> their places in a permutation of n drawn by key (a tuple of
    ints), each below n. BIGPYTHON's 35 million sequences would be a table of 0.3 GB.

    A Feistel network. A place is two halves of its bits; a round makes of them

        (left, right) -> (right, left XOR hash(right))

    and can be undone, because right is still there: so it permutes the numbers of that many bits,
    whatever the hash. They are up to 4 n, so a place that falls outside n goes through again until
    it falls inside: following such a cycle to its next place below n is a permutation of these.
    """
    bits = np.uint64(max(1, (int(n - 1).bit_length() + 1) // 2))     # of a half
    mask = (np.uint64(1) << bits) - np.uint64(1)
    keys = np.random.SeedSequence(key).generate_state(2 * ROUNDS, np.uint64).reshape(ROUNDS, 2)
    place = np.array(index, np.uint64)
    outside = np.arange(len(place))         # which of them still have to go through
    while len(outside):
        left, right = place[outside] >> bits, place[outside] & mask
        for add, multiply in keys:
            hashed = (right + add) * (multiply | np.uint64(1))
            hashed = ((hashed ^ (hashed >> np.uint64(29))) * GOLDEN) >> np.uint64(32)
            left, right = right, left ^ (hashed & mask)
        place[outside] = (left << bits) | right
        outside = outside[place[outside] >= n]
    return place.astype(np.int64)
