"""The mesh and what lies on it: gather and vary, placing, and checkpoints that fit any mesh.

A mesh has three axes. dp and tp are those of jaxformer, the paper's library (section 2.3):

    dp     copies of the model, each with its part of the batch
    fsdp   each matrix is split over these chips and gathered when its layer runs; the batch is
           split here too
    tp     heads, feed-forward and vocabulary are split over these chips, which work on the same
           tokens

How several processes find each other stands in harness/hosts.py, what the flags of a mesh may be in
harness/devices.py.
"""
from harness.devices import check_mesh
from harness.folder import check_files, damaged, flush, read_config_json, read_index_json
from harness.saving import Save

import json
import math
import zlib
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax import lax
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

DATA = ("dp", "fsdp")    # the axes that split the batch


# ---- the mesh ------------------------------------------------------------------------------------

def make_mesh(dp=1, fsdp=1, tp=1, devices=None):
    """A (dp, fsdp, tp) mesh of the first dp x fsdp x tp devices. Raises ValueError when there are
    fewer."""
    devices = jax.devices() if devices is None else list(devices)
    check_mesh(dp, fsdp, tp, len(devices), jax.process_count())
    grid = device_grid(devices[:dp * fsdp * tp], dp, fsdp, tp)
    return Mesh(grid, ("dp", "fsdp", "tp"), axis_types=(AxisType.Auto,) * 3)


def device_grid(devices, dp: int, fsdp: int, tp: int):
    """The devices as an array (dp, fsdp, tp). JAX chooses their order: it makes the chips of a mesh
    axis neighbours on the TPU, those of tp before all others.

    A mesh axis may take a part of a side of a TPU slice: fsdp 8 on the 4 x 4 chips of v6e:4x4 is
    one whole side and half of the other. jax.make_mesh would refuse that on this and most TPUs."""
    try:
        return create_device_mesh((dp, fsdp, tp), devices, allow_split_physical_axes=True)
    except AssertionError:      # by JAX, where the chips are no whole box: some are left over
        return np.array(devices).reshape(dp, fsdp, tp)


# ---- inside shard_map: vary and gather -----------------------------------------------------------
# Inside shard_map each chip runs the same lines on its own part. A value's type holds, beside shape
# and dtype, the mesh axes over which the value may differ from chip to chip. JAX works these axes
# out operation by operation ("vma", varying manual axes). They tell it where to add gradients up,
# because the gradient of a value must have the value's own type:
#
#                       may differ over   chip 0   chip 1   chip 2   chip 3     (dp = 4)
#     bias              {}                b        b        b        b
#     vary(bias, dp)    {dp}              b        b        b        b        nothing is sent
#     its gradient      {dp}              g0       g1       g2       g3       each of its own rows
#     bias's gradient   {}                g        g        g        g        g0 + g1 + g2 + g3
#
# vary changes the type alone: the values are still equal, but count as different, so each chip has
# a gradient of its own. Backward, vary is the sum of these, an all-reduce, once, where it stands.
# Without our vary JAX puts one of its own at each use of the bias, and each has its all-reduce.
#
# A matrix is split over fsdp, and whole only while its layer runs:
#
#                       may differ over   chip 0   chip 1   chip 2   chip 3     (fsdp = 4)
#     w                 {fsdp}            w0       w1       w2       w3       float32, the shards
#     gather(w)         {fsdp}            w0..w3   w0..w3   w0..w3   w0..w3   all_gather, in bf16
#     its gradient      {fsdp}            g0       g1       g2       g3       each of its own rows
#     w's gradient      {fsdp}            s0       s1       s2       s3       psum_scatter, float32
#
# where s0..s3 are the parts of the sum g0 + g1 + g2 + g3: each chip keeps the part of its shard.
# The gathered w is equal on all chips, but counts as different, as after vary.

def varying_axes(x) -> frozenset:
    """The mesh axes over which x may differ from chip to chip, by its type."""
    return jax.typeof(x).manual_axis_type.varying


def vary(x, axes):
    """x, typed as one that may differ over `axes`, one name or several; with () it is x itself."""
    axes = (axes,) if isinstance(axes, str) else axes
    missing = tuple(a for a in axes if a not in varying_axes(x))    # lax.pcast refuses the others
    return lax.pcast(x, missing, to="varying")                      # a type alone: nothing is sent


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))     # dim, axis and dtype have no gradients
def gather(w, dim, axis, dtype):
    """The whole weight (..., d, ...) from its shards (..., d / n, ...), which lie along dimension
    `dim` on the n chips of the mesh axis `axis`; for axis () it is w itself, rounded to `dtype`.

    It is sent in `dtype`, because in bf16 it has half the bytes. It is then cast back to w's
    float32, because a gradient has the dtype of its value, and the sum of the chips' gradients,
    rounded to bf16 after each addition, would lose its small terms."""
    return lax.all_gather(w.astype(dtype), axis, axis=dim, tiled=True).astype(w.dtype)


def gather_forward(w, dim, axis, dtype):
    return gather(w, dim, axis, dtype), None        # None: nothing is kept for the way back


def gather_backward(dim, axis, dtype, kept, grad):
    """grad: this chip's gradient of the whole weight (..., d, ...) -> that of w's shard, summed
    over the chips, (..., d / n, ...); in a tuple, an item for each argument that has a gradient."""
    return (lax.psum_scatter(grad, axis, scatter_dimension=dim, tiled=True),)


gather.defvjp(gather_forward, gather_backward)


# ---- placing -------------------------------------------------------------------------------------

def shardings(table, mesh):
    """name -> NamedSharding, from a parameter table's specs."""
    return {name: NamedSharding(mesh, spec) for name, (_, spec, _) in table.items()}


def place_batch(rows, mesh):
    """This process's rows of the batch, numpy (b, ...) -> the array of all, (B, ...), split over dp
    and fsdp."""
    return jax.make_array_from_process_local_data(NamedSharding(mesh, P(DATA)), rows)


def batch_part(mesh):
    """(i, n): this process feeds part i of n equal parts of the batch.

    A data rank is a place on the dp and fsdp axes, with tp chips. All processes that have chips of
    the same data rank feed the same part. 4 processes of 2 chips each, dp 2 and tp 4: data rank 0
    lies on processes 0 and 1, which feed part 0 of 2, data rank 1 on 2 and 3, which feed part 1."""
    if jax.process_count() == 1:
        return 0, 1
    ranks = mesh.devices.reshape(-1, mesh.shape["tp"])                   # (dp fsdp, tp)
    groups = [tuple(sorted({chip.process_index for chip in chips})) for chips in ranks]
    groups = list(dict.fromkeys(groups))                                 # each once, in order
    mine = next(i for i, group in enumerate(groups) if jax.process_index() in group)
    return mine, len(groups)


# ---- checkpoints ---------------------------------------------------------------------------------
# out_dir/step_00001000/config.json        model, tokenizer, step: small, for people and sample.py
#                      /index_00000.json   for each array: global shape, and each shard's place in
#                                          the array and in the file
#                      /shards_00000.bin   the raw shards that process 0 owns, one after another
#
# A shard may lie on several chips (each dp rank has a copy). JAX numbers the copies, its replicas,
# and the process that has replica 0 owns the shard: it writes it. Reading goes by the place in the
# whole array, so a checkpoint of 256 chips opens on a laptop. harness/saving.py sees to it that a
# folder is whole or not there.
#
# What reads files is called read_..., what puts arrays on devices load_...

def save_checkpoint(out_dir, step: int, arrays: dict, meta: dict, keep=2, files=()):
    """Write {name: jax.Array} and meta; afterwards only the newest `keep` checkpoints stay. Returns
    the folder.

    Every process must call this. `files` are copied in (a tokenizer). Raises OSError when it cannot
    be written; the earlier checkpoints are then untouched."""
    wait = begin_save(out_dir, step, arrays, meta, keep, files)
    return wait()


def begin_save(out_dir, step: int, arrays: dict, meta: dict, keep=2, files=()):
    """As save_checkpoint, but training goes on meanwhile -> wait, a function: wait() returns the
    folder when it is written, or raises what went wrong. Call wait before the next begin_save."""
    own = own_shards(arrays)
    save = Save(Path(out_dir), step, partial(write_shards, own=own), meta, keep, files)
    save.begin()
    return save.wait


def own_shards(arrays):
    """What this process has to write -> [(name, global shape, dtype, shards)], with shards a list
    of (where it begins in the array, its numbers). These are copies, on the host, because the next
    train step gives the arrays' memory to its results."""
    own = []
    for name, array in arrays.items():
        mine = [shard for shard in array.addressable_shards if shard.replica_id == 0]
        shards = [([part.start or 0 for part in shard.index], np.array(shard.data, order="C"))
                  for shard in mine]
        own.append((name, array.shape, str(array.dtype), shards))
    return own


def write_shards(folder, own):
    """Write this process's shards, one after another, and the index that says where each lies."""
    rank, index, offset = jax.process_index(), {}, 0
    with open(folder / f"shards_{rank:05d}.bin", "wb") as file:
        for name, shape, dtype, shards in own:
            index[name] = dict(shape=shape, dtype=dtype, shards=[])
            for begin, numbers in shards:
                index[name]["shards"].append(dict(
                    begin=begin, shape=numbers.shape, offset=offset, crc32=zlib.crc32(numbers)))
                file.write(numbers.data)
                offset += numbers.nbytes
        if offset == 0:
            file.write(b"\0")       # others own all its shards, and an empty file cannot be mapped
        flush(file)
    with open(folder / f"index_{rank:05d}.json", "w") as file:
        json.dump(index, file)
        flush(file)


def read_index(folder, meta) -> dict:
    """All shards of a checkpoint, whichever process wrote them: {name: (shape, dtype, shards)},
    each shard as (its file, mapped into memory; its entry in the index)."""
    found = {}
    try:
        check_files(folder, meta)
        for rank in range(meta["num_processes"]):
            file = np.memmap(folder / f"shards_{rank:05d}.bin", np.uint8, "r")
            for name, entry in read_index_json(folder / f"index_{rank:05d}.json").items():
                if name not in found:
                    found[name] = tuple(entry["shape"]), np.dtype(entry["dtype"]), []
                found[name][2].extend((file, shard) for shard in entry["shards"])
    except (OSError, ValueError, TypeError) as error:
        raise damaged(folder, error) from None
    return found


def load_arrays(folder, wanted: dict) -> dict:
    """A checkpoint of any mesh onto the devices of another. wanted: {name: ShapeDtypeStruct with a
    sharding} -> {name: jax.Array}. Each device gets its slice alone. This host holds the numbers of
    one array at a time, and none of them twice.

    Raises ValueError that names the folder when a file is missing, cut short or altered (each shard
    has a checksum), or when a shape is not the one wanted."""
    folder, arrays = Path(folder), {}
    index = read_index(folder, read_config_json(folder))
    for name, want in wanted.items():
        if name not in index:
            raise ValueError(f"checkpoint {folder} has no array {name}")
        shape, dtype, shards = index[name]
        if shape != want.shape:
            raise ValueError(f"checkpoint {folder} holds {name} of shape {shape}, this model wants "
                             f"{want.shape}: give the model flags that it was trained with")
        read = partial(read_slice, folder, name, shape, dtype, shards)
        arrays[name] = make_array(want, read)
    return arrays


def make_array(want, read):
    """An array on a mesh, of the shape, dtype and sharding of `want`. read(index), index a slice an
    axis, gives the numbers of one place; devices that hold the same place share one reading."""
    numbers = {}            # place, a (start, stop) an axis -> what was read there

    def numbers_at(index):
        place = tuple(part.indices(size)[:2] for part, size in zip(index, want.shape))
        if place not in numbers:
            numbers[place] = read(index).astype(want.dtype, copy=False)
        return numbers[place]

    array = jax.make_array_from_callback(want.shape, want.sharding, numbers_at)
    return array.block_until_ready()    # only then is `numbers` free, before the next array is read


def read_slice(folder, name, shape, dtype, shards, slices):
    """A device's part of an array (a slice an axis), put together from the shards that overlap it.

        the array    0 . . . . . . . . . . . 12      here with one axis
        shards       [    A    |    B    |  C  ]     spans A (0, 5), B (5, 10), C (10, 13)
        wanted             [       ]                 (3, 7)
        overlaps           [ A ][B ]                 A (3, 5), B (5, 7), C (10, 7): none

    All three are lists of (start, stop), one an axis."""
    wanted = [part.indices(size)[:2] for part, size in zip(slices, shape)]      # None filled in
    out, filled = np.empty([stop - start for start, stop in wanted], dtype), 0
    for file, shard in shards:
        span = [(begin, begin + size) for begin, size in zip(shard["begin"], shard["shape"])]
        overlap = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(wanted, span)]
        if any(start >= stop for start, stop in overlap):
            continue                                                    # the shard has none of it
        end = shard["offset"] + math.prod(shard["shape"]) * dtype.itemsize          # in bytes
        raw = file[shard["offset"]:end]
        if zlib.crc32(raw) != shard["crc32"]:
            raise damaged(folder, f"{name} fails its checksum")
        numbers = raw.view(dtype).reshape(shard["shape"])[within(span, overlap)]
        out[within(wanted, overlap)] = numbers
        filled += numbers.size
    if filled != out.size:          # shards do not overlap, so this has counted each number once
        raise damaged(folder, f"parts of {name} are missing")
    return out


def within(whole, part):
    """Where `part` lies in `whole`, both ranges, as slices: [(5, 7)] in [(3, 7)] is [2:4]."""
    return tuple(slice(a - start, b - start) for (start, _), (a, b) in zip(whole, part))
