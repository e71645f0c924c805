"""What a TPU chip can do, and which slices there are of it."""
import math
import re
from typing import NamedTuple

from fast.peak import PEAK_FLOPS


class Chip(NamedTuple):
    """One chip at its best, as its maker's data sheet states it (cloud.google.com/tpu/docs)."""
    kind: str           # JAX's device_kind. It sees the two cores of a v4 or v5p chip as one device
    dims: int           # of the grid in which the chips of a slice stand
    largest: int        # slice, in chips
    hbm: int            # bytes of memory
    hbm_rate: float     # bytes/s to and from it
    link: float         # bytes/s of a link in one direction: the sheet's total / its links / 8
    ring: int           # a side closes to a ring if this divides it, and carries data both ways

    @property
    def flops(self) -> float:
        """Dense bf16 FLOP/s."""
        return PEAK_FLOPS[self.kind]


CHIPS = {   # by the name that --topology has for it
    "v4":  Chip("TPU v4", 3, 4096, 32 * 2 ** 30, 1228e9, 2400e9 / 6 / 8, 4),
    "v5e": Chip("TPU v5 lite", 2, 256, 16 * 2 ** 30, 819e9, 1600e9 / 4 / 8, 16),
    "v5p": Chip("TPU v5", 3, 6144, 95 * 2 ** 30, 2765e9, 4800e9 / 6 / 8, 4),
    "v6e": Chip("TPU v6 lite", 2, 256, 32 * 2 ** 30, 1640e9, 3200e9 / 4 / 8, 16),
}

HOST = {3: 4, 2: 8}         # chips of one host at most, by the dims of the grid
SLICES = {3: ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4"), 2: ("2x2", "2x4", "4x4", "4x8", "8x8")}


def parse_topology(text: str):
    """"v4:8x8x4" -> (Chip, sides (8, 8, 4)). Raises ValueError that says which slices there are."""
    name, _, sides = text.partition(":")
    if name not in CHIPS or not re.fullmatch(r"[0-9]{1,5}(x[0-9]{1,5})*", sides):
        raise ValueError(f"--topology {text[:50]!r}: expected a TPU and the sides of its slice, "
                         "like v4:8x8x4, v5p:4x4x8, v5e:16x16 or v6e:8x16")
    chip, sides = CHIPS[name], tuple(int(n) for n in sides.split("x"))
    small = all(n in (1, 2, 4) for n in sides)
    if chip.dims == 3:      # larger slices are put together from cubes of 4 x 4 x 4
        there = small or all(n and n % 4 == 0 for n in sides)
        which = "3 sides, each 1, 2 or 4, or all of them multiples of 4"
    else:
        there = all(n in (1, 2, 4, 8, 16) for n in sides) and max(sides) <= 2 * min(sides)
        which = "2 sides of 1, 2, 4, 8 or 16, one at most twice the other"
    if len(sides) != chip.dims or not there or math.prod(sides) > chip.largest:
        raise ValueError(f"--topology {text}: a {name} has no such slice: expected {which}, "
                         f"and at most {chip.largest} chips")
    return chip, sides
