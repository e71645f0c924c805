"""Everything that knows about devices: the mesh, gather and vary, placing, and checkpoints that fit
any mesh.

A mesh has three axes (paper, section 2.2, and jaxformer):

    dp     copies of the model, each with its part of the batch
    fsdp   each parameter is split over these chips and gathered when its layer runs; the batch is
           split here too
    tp     heads, feed-forward and vocabulary are split over these chips, which work on the same
           tokens

How several processes find each other and end together stands in harness/hosts.py, what a
checkpoint is called and whose folder it is in harness/folder.py.
"""
from harness.files import read_json
from harness.folder import (
    CRC,
    checkpoints,
    damaged,
    discard,
    flush,
    flush_folder,
    is_ours,
    last_good,
    read_config_json,
    write_config_json,
)
from harness.hosts import agree, name_platform, say

import contextlib
import json
import math
import os
import shutil
import threading
import zlib
from functools import partial
from pathlib import Path

from fast.compiler import keep_programs

import jax
import numpy as np
from jax import lax
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

DATA = ("dp", "fsdp")    # the axes that split the batch


# ---- the mesh ------------------------------------------------------------------------------------

def find_devices():
    """Say in one line where we run; the first thing that a script does with JAX.

    ValueError for a device that JAX_PLATFORMS names and that is not there."""
    keep_programs()
    name_platform()
    try:
        devices, count = jax.devices(), jax.process_count()
    except (RuntimeError, AssertionError) as error:
        why = str(error).partition("\n")[0][:200] or "there is no such device"
        named = jax.config.jax_platforms or "not set"
        raise ValueError(f"JAX_PLATFORMS is {named}: {why}") from None
    say(f"# platform {devices[0].platform} · {len(devices)} x {devices[0].device_kind} · "
        f"{count} process{'es' * (count > 1)} · jax {jax.__version__}")


def make_mesh(dp=1, fsdp=1, tp=1, devices=None):
    """A (dp, fsdp, tp) mesh of the first dp x fsdp x tp devices. Raises ValueError when there are
    fewer."""
    devices = jax.devices() if devices is None else list(devices)
    need, there = dp * fsdp * tp, len(devices)
    asked = f"--dp {dp} --fsdp {fsdp} --tp {tp}".replace(" --fsdp 1", "")
    if min(dp, fsdp, tp) < 1:
        raise ValueError(f"{asked}: each must be at least 1")
    if need > there:
        raise ValueError(
            f"{asked} needs {need} devices and there are {there}: lower one (on a CPU, "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={need} makes virtual devices)")
    if need < there and jax.process_count() > 1:
        raise ValueError(f"{asked} uses {need} of {there} devices: with several processes the "
                         "product must be all of them")
    grid = device_grid(devices[:need], dp, fsdp, tp)
    return Mesh(grid, ("dp", "fsdp", "tp"), axis_types=(AxisType.Auto,) * 3)


def device_grid(devices, dp: int, fsdp: int, tp: int):
    """The devices as an array (dp, fsdp, tp), in JAX's order: the chips of a mesh axis are
    neighbours, tp first.

    An axis that is no product of whole sides of a TPU slice gets a part of a side (fsdp 8 of
    v6e:4x4), which jax.make_mesh refuses on most TPUs. Chips with holes between them, as when some
    are left over, stay as they are listed."""
    try:
        return create_device_mesh((dp, fsdp, tp), devices, allow_split_physical_axes=True)
    except AssertionError:
        return np.array(devices).reshape(dp, fsdp, tp)


def check_divides(config, batch_size: int, grad_accum: int, dp: int, fsdp: int, tp: int):
    """Every size that the mesh splits must divide. Raises ValueError that names the flag, before
    anything compiles."""
    least_one = dict(dp=dp, fsdp=fsdp, tp=tp, batch_size=batch_size, grad_accum=grad_accum)
    for name, size in least_one.items():
        if size < 1:
            raise ValueError(f"--{name} is {size}: it must be at least 1")
    c, rows = config, dp * fsdp * grad_accum
    #     size            into parts  its name      what to change
    rules = [
        (c.n_head,        tp,        "n_head",     "--tp"),
        (4 * c.n_embd,    tp,        "4 x n_embd", "--tp"),
        (c.vocab_size,    tp,        "vocab_size", "--tp"),
        (c.n_embd,        fsdp,      "n_embd",     "--fsdp"),
        (batch_size,      rows,      "batch_size", "--batch_size (or --dp, --fsdp, --grad_accum)"),
    ]
    for size, parts, name, flag in rules:
        if size % parts:
            raise ValueError(f"{name} {size} does not divide by {parts}: change {flag}")


PEAK_FLOPS = {      # dense bf16 FLOP/s of a data sheet, by the beginning of JAX's device_kind
    "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5": 459e12, "TPU v6 lite": 918e12,
    "NVIDIA H100": 989e12, "NVIDIA H200": 989e12, "NVIDIA A100": 312e12,
}


def peak_flops(mesh):
    """Peak of the whole mesh in FLOP/s, for MFU; None for a device that is not in the table, a CPU
    among them."""
    kind = mesh.devices.flat[0].device_kind
    peak = next((flops for name, flops in PEAK_FLOPS.items() if kind.startswith(name)), None)
    return peak and peak * mesh.size


# ---- inside shard_map: vary and gather -----------------------------------------------------------
# Inside shard_map each chip runs the same lines on its own part. For each value JAX keeps the set
# of axes over which it differs from chip to chip, and so knows where gradients must be summed:
#
#                       differs over    chip 0   chip 1   chip 2   chip 3     (dp = 4)
#     bias              {}              b        b        b        b
#     vary(bias, dp)    {dp}            b        b        b        b          nothing is sent
#     its gradient      {dp}            g0       g1       g2       g3         each of its own rows
#     bias's gradient   {}              g        g        g        g          g = g0 + g1 + g2 + g3
#
# The sum is the transpose of vary, and happens where vary stands. Without it, JAX puts a vary of
# its own before each use of the bias, and sums as often.
#
# A matrix is split over fsdp, and whole only while its layer runs:
#
#                       differs over    chip 0   chip 1   chip 2   chip 3     (fsdp = 4)
#     w                 {fsdp}          w0       w1       w2       w3         float32, the shards
#     gather(w)         {fsdp}          w0..w3   w0..w3   w0..w3   w0..w3     all_gather of bf16
#     its gradient      {fsdp}          g        g'       g''      g'''       each of its own rows
#     w's gradient      {fsdp}          s0       s1       s2       s3         psum_scatter, float32
#
# where s0..s3 is the sum g + g' + g'' + g''', each chip with its own part.

def varying(x) -> frozenset:
    """The mesh axes over which this value differs from device to device (tracked by shard_map's
    check_vma)."""
    return jax.typeof(x).manual_axis_type.varying


def vary(x, axes):
    """Let x differ over `axes` from here on. Axes over which it already does are skipped, because
    pcast refuses them."""
    axes = (axes,) if isinstance(axes, str) else axes
    return lax.pcast(x, tuple(a for a in axes if a not in varying(x)), to="varying")


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def gather(w, dim, fsdp, dtype):
    """A whole weight from its shards along `dim`. It is cast first, because then half the bytes
    travel in bf16.

    Its gradient returns in float32, because a sum over up to 64 chips, rounded to bf16 after each,
    would lose its small terms."""
    return lax.all_gather(w.astype(dtype), fsdp, axis=dim, tiled=True)


def gather_forward(w, dim, fsdp, dtype):
    return gather(w, dim, fsdp, dtype), None


def gather_backward(dim, fsdp, dtype, _, grad):
    return (lax.psum_scatter(grad.astype(np.float32), fsdp, scatter_dimension=dim, tiled=True),)


gather.defvjp(gather_forward, gather_backward)


def platform() -> str:
    """cpu, gpu or tpu: what is being compiled for. Inside shard_map it is the mesh's, which may be
    a TPU that is not here."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    kind = device.device_kind if device else ""
    return "tpu" if kind.startswith("TPU") else "cpu" if kind == "cpu" else jax.default_backend()


# ---- placing -------------------------------------------------------------------------------------

def shardings(table, mesh):
    """name -> NamedSharding, from a parameter table's specs."""
    return {name: NamedSharding(mesh, spec) for name, (_, spec, _) in table.items()}


def place_batch(local, mesh):
    """This process's rows of the batch (numpy) -> the global array, split over dp and fsdp."""
    return jax.make_array_from_process_local_data(NamedSharding(mesh, P(DATA)), local)


def batch_rows(mesh):
    """(index, count): which of how many equal parts of the batch this process feeds.

    Processes that differ only in tp hold the same rows, so the parts are the distinct row sets, in
    order."""
    if jax.process_count() == 1:
        return 0, 1
    grid = mesh.devices.reshape(-1, mesh.shape["tp"])                    # (data ranks, tp)
    owners = [tuple(sorted({d.process_index for d in row})) for row in grid]
    parts = list(dict.fromkeys(owners))
    mine = next(i for i, part in enumerate(parts) if jax.process_index() in part)
    return mine, len(parts)


# ---- checkpoints ---------------------------------------------------------------------------------
# out_dir/step_00001000/config.json        model, tokenizer, step: small, for people and sample.py
#                      /index_00000.json   for each array: global shape, and each shard's place in
#                                          the array and in the file
#                      /shards_00000.bin   the raw shards that process 0 owns, one after another
#
# A process writes the shards that are its own (replica 0). Reading goes by global index, so a
# checkpoint of 256 chips opens on a laptop. The folder is filled under another name and renamed
# when it is whole. Checksums: each shard's stands in the index, each index's in config.json, and
# config.json's own there too.
#
# What reads JSON is called read_..., what puts arrays on devices load_...

SIZES = [(0, 2 ** 40)]
SHARD = {"begin": SIZES, "shape": SIZES, "offset": (0, 2 ** 50), "crc32": CRC}
INDEX = {str: {"shape": SIZES, "dtype": str, "shards": [SHARD]}}


def save_checkpoint(out_dir, step: int, arrays: dict, meta: dict, keep=2, files=()):
    """Write {name: jax.Array} and meta; afterwards only the newest `keep` checkpoints stay. Returns
    the folder.

    Every process must call this. `files` are copied in (a tokenizer). Raises OSError when it cannot
    be written; the earlier checkpoints are then untouched."""
    return begin_save(out_dir, step, arrays, meta, keep, files)()


def begin_save(out_dir, step: int, arrays: dict, meta: dict, keep=2, files=()):
    """The same while training goes on -> a function that waits until it is written, raises what
    went wrong, and returns the folder. Call it before the next save."""
    save = Save(Path(out_dir), step, meta, keep, files)
    save.make_folder()
    save.copy(arrays)
    save.thread.start()         # it writes, and a process that is alone commits
    return save.wait


class Save:
    """A checkpoint on its way to the disk. The methods stand in the order in which they happen."""

    def __init__(self, out_dir, step, meta, keep, files):
        self.out_dir, self.keep, self.files = out_dir, keep, files
        self.final = out_dir / f"step_{step:08d}"
        self.temp = out_dir / f"step_{step:08d}.tmp"
        self.rank, self.alone = jax.process_index(), jax.process_count() == 1
        self.record = {k: v for k, v in meta.items() if k not in ("files", "crc32")}
        self.record |= dict(step=step, num_processes=jax.process_count())
        self.thread = threading.Thread(target=self.attempt, args=(self.write,))
        self.error = None

    def attempt(self, work):
        """Do a part of the work, and keep its error, because one that is raised in a thread goes
        unseen: `wait` raises it."""
        try:
            work()
        except OSError as error:
            self.error = OSError(f"{self.final} could not be written ({error.strerror or error}); "
                                 + last_good(self.out_dir))
        except Exception as error:
            self.error = error

    def make_folder(self):
        """Process 0 makes the folder that all fill. Raises its OSError on all."""
        def make():
            if is_ours(self.temp):
                shutil.rmtree(self.temp)
            self.temp.mkdir(parents=True)

        if self.rank == 0:
            self.attempt(make)
        if agree(self.error is not None):
            raise self.error or OSError(f"{self.final}: process 0 could not make the folder; "
                                        + last_good(self.out_dir))

    def copy(self, arrays):
        """Copy our shards to the host, because the next step gives the arrays' memory away. Of each
        shard, the process of replica 0 writes it."""
        self.copies = []
        for name, array in arrays.items():
            shards = [([part.start or 0 for part in shard.index], np.array(shard.data, order="C"))
                      for shard in array.addressable_shards if shard.replica_id == 0]
            self.copies.append((name, array.shape, str(array.dtype), shards))

    def write(self):
        """Write the copies and their index."""
        index, offset = {}, 0
        with open(self.temp / f"shards_{self.rank:05d}.bin", "wb") as file:
            for name, shape, dtype, shards in self.copies:
                index[name] = dict(shape=shape, dtype=dtype, shards=[])
                for begin, data in shards:
                    index[name]["shards"].append(dict(
                        begin=begin, shape=data.shape, offset=offset, crc32=zlib.crc32(data)))
                    file.write(data.data)
                    offset += data.nbytes
            if offset == 0:
                file.write(b"\0")   # this process owns nothing; an empty file cannot be mapped
            flush(file)
        with open(self.temp / f"index_{self.rank:05d}.json", "w") as file:
            json.dump(index, file)
            flush(file)
        if self.alone:
            self.commit()

    def commit(self):
        """Give the folder its final name, which says that it is whole; then the oldest go."""
        for file in self.files:
            shutil.copy(file, self.temp)
        small = sorted(p for p in self.temp.iterdir() if p.suffix != ".bin")
        self.record["files"] = {p.name: zlib.crc32(p.read_bytes()) for p in small}
        write_config_json(self.temp, self.record)
        if self.final.exists():
            discard(self.final)
        os.rename(self.temp, self.final)
        flush_folder(self.out_dir)
        for old in checkpoints(self.out_dir)[:-max(1, self.keep)]:
            with contextlib.suppress(OSError):      # the new one is whole, whatever becomes of it
                if old != self.final:
                    discard(old)

    def wait(self):
        """Wait until every process has written its part; then process 0 commits. -> the folder"""
        self.thread.join()
        bad = agree(self.error is not None)
        if not self.alone and not bad:
            if self.rank == 0:
                self.attempt(self.commit)
            bad = agree(self.error is not None)
        if bad:
            shutil.rmtree(self.temp, ignore_errors=True)
            raise self.error or OSError(f"{self.final}: another process could not write its part; "
                                        + last_good(self.out_dir))
        return self.final


def find_checkpoint(path) -> Path:
    """A step folder as it is, or the newest of an out_dir. Raises FileNotFoundError with what was
    looked for."""
    path = Path(path)
    if (path / "config.json").is_file():
        return path
    found = checkpoints(path)
    if not found:
        raise FileNotFoundError(f"no checkpoint in {path}: expected {path}/step_*/config.json, "
                                "as train.py writes it")
    return found[-1]


def read_index(folder, meta) -> dict:
    """{name: (shape, dtype, [(bytes of its file, shard)])} of a checkpoint, from the files of all
    its processes."""
    found = {}
    try:
        for name, crc in (meta.get("files") or {}).items():
            if Path(name).name != name or zlib.crc32((folder / name).read_bytes()) != crc:
                raise ValueError(f"{name} fails its checksum")
        for rank in range(meta["num_processes"]):
            data = np.memmap(folder / f"shards_{rank:05d}.bin", np.uint8, "r")
            for name, entry in read_json(folder / f"index_{rank:05d}.json", INDEX).items():
                shape, shards = tuple(entry["shape"]), entry["shards"]
                if any(not len(s["begin"]) == len(s["shape"]) == len(shape) for s in shards):
                    raise ValueError(f"a shard of {name} has another rank than its array")
                known = found.setdefault(name, (shape, np.dtype(entry["dtype"]), []))
                known[2].extend((data, s) for s in shards)
    except (OSError, ValueError, TypeError) as error:
        raise damaged(folder, error) from None
    return found


def load_arrays(folder, wanted: dict) -> dict:
    """Put {name: ShapeDtypeStruct with a sharding} of a checkpoint of any mesh on the devices of
    another, in the dtypes wanted. Each device gets its slice alone, and this host holds one array
    at a time, once.

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
    """An array on a mesh, want: ShapeDtypeStruct with a sharding, from read(index), which gives a
    slice. Devices that hold the same slice get it from one reading."""
    held = {}

    def piece(index):
        place = tuple(part.indices(size)[:2] for part, size in zip(index, want.shape))
        if place not in held:
            held[place] = read(index).astype(want.dtype, copy=False)
        return held[place]

    return jax.make_array_from_callback(want.shape, want.sharding, piece)


def read_slice(folder, name, shape, dtype, shards, index):
    """The slice `index` of an array, put together from the shards that overlap it.

        the array    0 . . . . . . . . . . . 12      here with one axis
        shards       [    A    |    B    |  C  ]
        index              [ wanted ]                both A and B give a piece of it
    """
    want = [part.indices(size)[:2] for part, size in zip(index, shape)]
    out, filled = np.empty([stop - start for start, stop in want], dtype), 0
    for data, shard in shards:
        span = [(begin, begin + size) for begin, size in zip(shard["begin"], shard["shape"])]
        both = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(want, span)]
        if any(start >= stop for start, stop in both):
            continue
        end = shard["offset"] + math.prod(shard["shape"]) * dtype.itemsize
        raw = data[shard["offset"]:end]
        if zlib.crc32(raw) != shard["crc32"]:
            raise damaged(folder, f"{name} fails its checksum")
        piece = raw.view(dtype).reshape(shard["shape"])[within(both, span)]
        out[within(both, want)] = piece
        filled += piece.size
    if filled != out.size:
        raise damaged(folder, f"parts of {name} are missing")
    return out


def within(both, whole):
    """The slices of `both` as they lie inside of `whole`; each a list of (start, stop), one an
    axis."""
    return tuple(slice(a - start, b - start) for (a, b), (start, _) in zip(both, whole))
