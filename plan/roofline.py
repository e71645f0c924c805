"""Seconds of a step at data-sheet rates, on a slice whose chips stand in a grid."""
import math
from itertools import permutations

import numpy as np

from plan.chips import Chip


def places(sides, dp, fsdp, tp):
    """Coordinates (dp, fsdp, tp, sides) of the chips, laid so that tp, then fsdp, gets whole sides of the slice."""
    grid = np.stack(np.indices(sides), -1)                                              # (*sides, len(sides))
    orders = permutations(range(len(sides)))
    ways = [grid.transpose(*order, len(sides)).reshape(dp, fsdp, tp, -1) for order in orders]
    return max(ways, key=lambda way: [links(way, sides, 1, (axis,)) for axis in ("tp", "fsdp", "dp")])


def links(coords, sides, ring, axes):
    """How many links of a chip a collective over these mesh axes uses: two for each side of the slice that it runs all
    around, one where there is no way around. coords: (dp, fsdp, tp, sides)."""
    group = coords[tuple(slice(None) if a in axes else 0 for a in ("dp", "fsdp", "tp"))]
    group = group.reshape(-1, coords.shape[-1])                                         # (ranks, sides)
    spans = [len(set(column)) for column in group.T[:len(sides)]]
    return sum(2 if n == side and side % ring == 0 else 1 for n, side in zip(spans, sides) if n > 1)


def roofline(chip: Chip, coords, sides, flops: float, hbm_bytes: float, collectives) -> dict:
    """Arithmetic and HBM run side by side, and hidden collectives beside both; for the others the chip waits."""
    ranks = lambda axes: math.prod(n for n, a in zip(coords.shape, ("dp", "fsdp", "tp")) if a in axes)
    rate = lambda axes: chip.link * links(coords, sides, chip.ring, axes)
    times = [(c.hidden, c.moved(ranks(c.axes)) / rate(c.axes)) for c in collectives]
    out = dict(compute=flops / chip.flops, hbm=hbm_bytes / chip.hbm_rate, hidden=sum(t for h, t in times if h),
               waiting=sum(t for h, t in times if not h))
    step = max(out["compute"], out["hbm"], out["hidden"]) + out["waiting"]
    each = dict(compute=out["compute"], HBM=out["hbm"], interconnect=out["hidden"] + out["waiting"])
    return out | dict(step=step, bound=max(each, key=each.get))
