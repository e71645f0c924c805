"""What a TPU chip can do, and how the chips of a slice are wired."""
import re
from typing import NamedTuple

from tpu_mesh import PEAK_FLOPS


class Chip(NamedTuple):
    """One chip at its best, as its maker's data sheet states it (cloud.google.com/tpu/docs)."""
    flops: float          # dense bf16 FLOP/s
    hbm: int              # bytes of memory
    hbm_rate: float       # bytes/s to and from it
    link: float           # bytes/s of one interconnect link in one direction: the sheet's total / links of a chip / 8 bits
    ring: int             # a side of the slice closes to a ring if this divides it; both directions then carry data


CHIPS = {   # by the name that --topology has for it. JAX sees the two cores of a v4 or v5p chip as one device.
    "v4":  Chip(PEAK_FLOPS["TPU v4"], 32 * 2 ** 30, 1228e9, 2400e9 / 6 / 8, 4),
    "v5e": Chip(PEAK_FLOPS["TPU v5 lite"], 16 * 2 ** 30, 819e9, 1600e9 / 4 / 8, 16),
    "v5p": Chip(PEAK_FLOPS["TPU v5"], 95 * 2 ** 30, 2765e9, 4800e9 / 6 / 8, 4),
    "v6e": Chip(PEAK_FLOPS["TPU v6 lite"], 32 * 2 ** 30, 1640e9, 3200e9 / 4 / 8, 16),
}


def parse_topology(text: str):
    """"v4:8x8x4" -> (Chip, sides (8, 8, 4)). Raises ValueError that says what is expected."""
    name, _, sides = text.partition(":")
    if name not in CHIPS or not re.fullmatch(r"\d+(x\d+){1,2}", sides):
        raise ValueError(f"--topology {text!r}: expected a TPU and the sides of its slice, "
                         "like v4:8x8x4, v5p:4x4x8, v5e:16x16 or v6e:8x16")
    return CHIPS[name], tuple(int(n) for n in sides.split("x"))
