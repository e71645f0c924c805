"""Seconds of a step at data-sheet rates, on a slice whose chips stand in a grid."""
import itertools
import math
from dataclasses import dataclass

import numpy as np

from plan.chips import Chip
from tpu_mesh import device_grid


@dataclass(frozen=True)
class Place:
    """A chip that is not here, as far as the order of a mesh depends on it."""
    coords: tuple
    device_kind: str
    platform: str = "tpu"
    core_on_chip: int = 0


def places(chip: Chip, sides, dp, fsdp, tp):
    """Coordinates of the chips in the order of the mesh: (dp, fsdp, tp, 3)."""
    x, y, z = (*sides, 1)[:3]
    slice_of_it = [Place((i, j, k), chip.kind) for k, j, i in
                   itertools.product(range(z), range(y), range(x))]
    return coordinates(device_grid(slice_of_it, dp, fsdp, tp))


def coordinates(grid):
    """(dp, fsdp, tp) devices -> their coordinates, (dp, fsdp, tp, 3)."""
    return np.array([device.coords for device in grid.flat]).reshape(*grid.shape, 3)


def links(coords, sides, ring, axes):
    """How many links of a chip a collective over these mesh axes uses: two for each side of the
    slice that it runs all around, one where there is no way around. coords: (dp, fsdp, tp, 3)."""
    group = coords[tuple(slice(None) if a in axes else 0 for a in ("dp", "fsdp", "tp"))]
    spans = [len(set(column)) for column in group.reshape(-1, coords.shape[-1]).T]
    return sum(2 if n == side and side % ring == 0 else 1 for n, side in zip(spans, sides) if n > 1)


def roofline(chip: Chip, coords, sides, flops: float, hbm_bytes: float, collectives) -> dict:
    """Arithmetic and HBM run side by side, and hidden collectives beside both; for the others the
    chip waits."""
    sizes = dict(zip(("dp", "fsdp", "tp"), coords.shape))
    ranks = lambda axes: math.prod(sizes[a] for a in axes)
    rate = lambda axes: chip.link * links(coords, sides, chip.ring, axes)
    times = [(c.hidden, c.moved(ranks(c.axes)) / rate(c.axes)) for c in collectives]
    out = dict(compute=flops / chip.flops, hbm=hbm_bytes / chip.hbm_rate,
               hidden=sum(t for h, t in times if h), waiting=sum(t for h, t in times if not h))
    step = max(out["compute"], out["hbm"], out["hidden"]) + out["waiting"]
    each = dict(compute=out["compute"], HBM=out["hbm"], interconnect=out["hidden"] + out["waiting"])
    return out | dict(step=step, bound=max(each, key=each.get))
