"""Everything that knows about devices: the mesh, several hosts, gather and vary, and checkpoints that fit any mesh.

A mesh has three axes (paper, section 2.2, and jaxformer):

    dp     copies of the model, each with its part of the batch
    fsdp   each parameter is split over these chips and gathered when its layer runs; the batch is split here too
    tp     heads, feed-forward and vocabulary are split over these chips, which work on the same tokens
"""
import contextlib
import hashlib
import json
import math
import os
import shutil
import sys
import threading
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
HEARTBEAT = 30           # seconds without a sign of life after which a process counts as dead and the others end


def start(coordinator="", num_processes=0, process_id=-1):
    """Join the other processes (nothing to say on a Cloud TPU pod) and say in one line where we run.

    Compiled programs are kept in ~/.cache/codegen/compiled (or where JAX_COMPILATION_CACHE_DIR says): the same command
    compiles once."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        with contextlib.suppress(OSError, RuntimeError):     # no home, or none to write to: compile each time
            folder = Path.home() / ".cache" / "codegen" / "compiled"
            folder.mkdir(parents=True, exist_ok=True)
            jax.config.update("jax_compilation_cache_dir", str(folder))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    if coordinator:
        jax.distributed.initialize(coordinator, num_processes, process_id, heartbeat_timeout_seconds=HEARTBEAT)
    elif os.environ.get("TPU_WORKER_HOSTNAMES", "").count(","):
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT)
    if jax.process_index() == 0:
        devices = jax.devices()
        print(f"# platform {devices[0].platform} · {len(devices)} x {devices[0].device_kind} · "
              f"{jax.process_count()} process{'es' * (jax.process_count() > 1)} · jax {jax.__version__}", flush=True)


def huge_pages():
    """On a Linux CPU, start the script anew with malloc asking for pages of 2 MB: 1.3 times the training speed.

    XLA takes and frees its buffers anew each step; with pages of 4 KB a good part of a step is page faults. glibc reads
    the setting before Python runs, so it cannot be changed from inside. Harmless where it means nothing."""
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def make_mesh(dp=1, fsdp=1, tp=1, devices=None):
    """A (dp, fsdp, tp) mesh of the first dp x fsdp x tp devices. Raises ValueError when there are fewer."""
    devices = jax.devices() if devices is None else list(devices)
    need = dp * fsdp * tp
    if min(dp, fsdp, tp) < 1:
        raise ValueError(f"--dp {dp} --fsdp {fsdp} --tp {tp}: each must be at least 1")
    if need > len(devices):
        raise ValueError(f"--dp {dp} --fsdp {fsdp} --tp {tp} needs {need} devices and there are {len(devices)}: lower one "
                         f"(on a CPU, XLA_FLAGS=--xla_force_host_platform_device_count={need} makes virtual devices)")
    if need < len(devices) and jax.process_count() > 1:
        raise ValueError(f"--dp {dp} --fsdp {fsdp} --tp {tp} uses {need} of {len(devices)} devices: with several "
                         "processes the product must be all of them")
    grid = device_grid(devices[:need], dp, fsdp, tp)
    return Mesh(grid, ("dp", "fsdp", "tp"), axis_types=(AxisType.Auto,) * 3)


def device_grid(devices, dp: int, fsdp: int, tp: int):
    """The devices as an array (dp, fsdp, tp), in JAX's order: the chips of a mesh axis are neighbours, tp first.

    An axis that is no product of whole sides of a TPU slice gets a part of a side (fsdp 8 of v6e:4x4), which
    jax.make_mesh refuses on most TPUs. Chips with holes between them, as when some are left over, stay as they
    are listed."""
    try:
        return create_device_mesh((dp, fsdp, tp), devices, allow_split_physical_axes=True)
    except AssertionError:
        return np.array(devices).reshape(dp, fsdp, tp)


def check_divides(config, batch_size: int, grad_accum: int, dp: int, fsdp: int, tp: int):
    """Every size that the mesh splits must divide. Raises ValueError that names the flag, before anything compiles."""
    for name, size in dict(dp=dp, fsdp=fsdp, tp=tp, batch_size=batch_size, grad_accum=grad_accum).items():
        if size < 1:
            raise ValueError(f"--{name} is {size}: it must be at least 1")
    rules = [(config.n_head, tp, "n_head", "--tp"), (4 * config.n_embd, tp, "4 x n_embd", "--tp"),
             (config.vocab_size, tp, "vocab_size", "--tp"), (config.n_embd, fsdp, "n_embd", "--fsdp"),
             (batch_size, dp * fsdp * grad_accum, "batch_size", "--batch_size (or --dp, --fsdp, --grad_accum)")]
    for size, parts, name, flag in rules:
        if size % parts:
            raise ValueError(f"{name} {size} does not divide by {parts}: change {flag}")


# ------------------------------------------------ what a chip can do ---------------------------------------------

PEAK_FLOPS = {      # dense bf16 FLOP/s of a data sheet, by the beginning of JAX's device_kind
    "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5": 459e12, "TPU v6 lite": 918e12,
    "NVIDIA H100": 989e12, "NVIDIA H200": 989e12, "NVIDIA A100": 312e12,
}


def peak_flops(mesh):
    """Peak of the whole mesh in FLOP/s, for MFU; None for a device that is not in the table, a CPU among them."""
    kind = mesh.devices.flat[0].device_kind
    peak = next((flops for name, flops in PEAK_FLOPS.items() if kind.startswith(name)), None)
    return peak and peak * mesh.size


# XLA for TPUs waits for each collective unless told not to. With these, weights are gathered while the layer computes.
# (Its further step, gathers fused into the matrix products, is refused by the compiler on v4.)
TPU_OPTIONS = {"xla_enable_async_all_gather": "true", "xla_enable_async_all_reduce": "true",
               "xla_enable_async_reduce_scatter_fusion": "true", "xla_tpu_overlap_compute_collective_tc": "true",
               "xla_tpu_enable_async_collective_fusion": "false"}


def compiler_options(mesh):
    """For jax.jit of a step on this mesh."""
    return TPU_OPTIONS if mesh.devices.flat[0].platform == "tpu" else None


# ------------------------------------------------ inside shard_map ------------------------------------------------

def varying(x) -> frozenset:
    """The mesh axes over which this value differs from device to device (tracked by shard_map's check_vma)."""
    return jax.typeof(x).manual_axis_type.varying


def vary(x, axes):
    """Let x differ over `axes` from here on. Its transpose, the sum of gradients over them, then happens at this
    very place. pcast refuses axes over which x already varies, so they are skipped."""
    axes = (axes,) if isinstance(axes, str) else axes
    return lax.pcast(x, tuple(a for a in axes if a not in varying(x)), to="varying")


def platform() -> str:
    """cpu, gpu or tpu: what is being compiled for. Inside shard_map it is the mesh's, which may be a TPU that is not here."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    kind = device.device_kind if device else ""
    return "tpu" if kind.startswith("TPU") else "cpu" if kind == "cpu" else jax.default_backend()


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def gather(w, dim, fsdp, dtype):
    """A whole weight from the fsdp shards: cast first, so that half the bytes travel in bf16. Its gradient returns as
    a reduce-scatter in float32: a sum over up to 64 chips, rounded to bf16 after each, would lose its small terms."""
    return lax.all_gather(w.astype(dtype), fsdp, axis=dim, tiled=True)


def gather_forward(w, dim, fsdp, dtype):
    return gather(w, dim, fsdp, dtype), None


def gather_backward(dim, fsdp, dtype, _, grad):
    return (lax.psum_scatter(grad.astype(np.float32), fsdp, scatter_dimension=dim, tiled=True),)


gather.defvjp(gather_forward, gather_backward)


# ---------------------------------------------------- placing -----------------------------------------------------

def shardings(table, mesh):
    """name -> NamedSharding, from a parameter table's specs."""
    return {name: NamedSharding(mesh, spec) for name, (_, spec, _) in table.items()}


def place_batch(local, mesh):
    """This process's rows of the batch (numpy) -> the global array, split over dp and fsdp."""
    return jax.make_array_from_process_local_data(NamedSharding(mesh, P(DATA)), local)


def batch_rows(mesh):
    """(index, count): which of how many equal parts of the batch this process feeds.

    Processes that differ only in tp hold the same rows, so the parts are the distinct row sets, in order."""
    if jax.process_count() == 1:
        return 0, 1
    grid = mesh.devices.reshape(-1, mesh.shape["tp"])                    # (data ranks, tp)
    owner = [tuple(sorted({d.process_index for d in row})) for row in grid]
    parts = list(dict.fromkeys(owner))
    mine = next(i for i, p in enumerate(parts) if jax.process_index() in p)
    return mine, len(parts)


# -------------------------------------------------- checkpoints ---------------------------------------------------
# out_dir/step_00001000/config.json        model, tokenizer, step: small, for people and for sample.py
#                      /index_00000.json   for each array: global shape, and each shard's place in the array and file
#                      /shards_00000.bin   the raw shards that process 0 owns, one after another
# A process writes the shards that are its own (replica 0). Reading goes by global index, so a checkpoint of 256 chips
# opens on a laptop. The folder is filled under another name and renamed when it is whole.

def save_checkpoint(out_dir, step: int, arrays: dict, meta: dict, keep=2, files=()):
    """Write {name: jax.Array} and meta; afterwards only the newest `keep` checkpoints stay. Returns the folder.

    Every process must call this. `files` are copied in (a tokenizer). Raises OSError when it cannot be written; the
    earlier checkpoints are then untouched."""
    return begin_save(out_dir, step, arrays, meta, keep, files)()


def begin_save(out_dir, step: int, arrays: dict, meta: dict, keep=2, files=()):
    """The same while training goes on: copies this process's shards to the host, writes them in a thread, and returns a
    function that waits for it, raises what went wrong and returns the folder. Call it before the next save."""
    out_dir = Path(out_dir)
    final, temp, rank = out_dir / f"step_{step:08d}", out_dir / f"step_{step:08d}.tmp", jax.process_index()
    failed = []

    def guarded(work):
        try:
            work()
        except OSError as e:
            failed.append(OSError(f"{final} could not be written ({e.strerror or e}); " + last_good(out_dir)))
        except Exception as e:      # in a thread it would go unseen: `wait` raises it
            failed.append(e)

    def make_folder():
        shutil.rmtree(temp, ignore_errors=True)
        temp.mkdir(parents=True)

    def write():
        index, offset = {}, 0
        with open(temp / f"shards_{rank:05d}.bin", "wb") as f:
            for name, array, shards in copies:
                index[name] = dict(shape=array.shape, dtype=str(array.dtype), shards=[])
                for begin, data in shards:
                    index[name]["shards"].append(dict(begin=begin, shape=data.shape, offset=offset, crc32=zlib.crc32(data)))
                    f.write(data.data)
                    offset += data.nbytes
            if offset == 0:
                f.write(b"\0")      # this process owns nothing; an empty file cannot be mapped
            flush(f)
        with open(temp / f"index_{rank:05d}.json", "w") as f:
            json.dump(index, f)
            flush(f)
        if jax.process_count() == 1:
            finish()

    def finish():
        for file in files:
            shutil.copy(file, temp)
        with open(temp / "config.json", "w") as f:
            json.dump(meta | dict(step=step, num_processes=jax.process_count()), f, indent=1)
            flush(f)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(temp, final)
        flush_folder(out_dir)
        for old in checkpoints(out_dir)[:-keep]:
            shutil.rmtree(old)

    def wait():
        thread.join()
        bad = agree(len(failed))
        if jax.process_count() > 1 and not bad:
            if rank == 0:
                guarded(finish)         # its final name says that it is whole: only when every process has written its part
            bad = agree(len(failed))
        if bad:
            shutil.rmtree(temp, ignore_errors=True)
            raise failed[0] if failed else OSError(f"{final}: another process could not write its part; {last_good(out_dir)}")
        return final

    if rank == 0:
        guarded(make_folder)
    if agree(len(failed)):
        raise failed[0] if failed else OSError(f"{final}: process 0 could not make the folder; {last_good(out_dir)}")
    # A copy of our own: the next step gives the arrays' memory away. Of each shard, the process of replica 0 writes it.
    copies = [(name, array, [([s.start or 0 for s in shard.index], np.array(shard.data, order="C"))
                             for shard in array.addressable_shards if shard.replica_id == 0]) for name, array in arrays.items()]
    thread = threading.Thread(target=guarded, args=(write,))
    thread.start()
    return wait


def last_good(out_dir) -> str:
    found = checkpoints(out_dir)
    return f"the last good checkpoint is {found[-1]}" if found else "there is no earlier checkpoint"


def agree(number: int) -> int:
    """The largest of the processes' numbers, the same on all: every process must call it at the same point."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils
    return int(multihost_utils.process_allgather(np.int32(number)).max())


def flush(file):
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder):
    """A rename survives a power cut only once the folder itself is on the disk."""
    fd = os.open(folder, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def checkpoints(out_dir):
    """The finished checkpoints of a run, oldest first."""
    return sorted(p for p in Path(out_dir).glob("step_*") if p.suffix != ".tmp" and (p / "config.json").is_file())


def find_checkpoint(path) -> Path:
    """A step folder as it is, or the newest of an out_dir. Raises FileNotFoundError with what was looked for."""
    path = Path(path)
    if (path / "config.json").is_file():
        return path
    found = checkpoints(path)
    if not found:
        raise FileNotFoundError(f"no checkpoint in {path}: expected {path}/step_*/config.json, as train.py writes it")
    return found[-1]


def fingerprint(folder) -> str:
    """Which model lies in a checkpoint or Hugging Face folder, as one line of text: a copy has the
    same one, another step or other weights have another.

    A digest of config.json, of the indexes with each shard's checksum, and of pieces of what is too
    large to be read whole: weight files of others, which have no checksums."""
    folder, digest = Path(folder), hashlib.sha256()
    ours = lambda file: file.is_file() and file.suffix != ".md" and file.name[0] != "."
    for file in sorted(filter(ours, folder.iterdir())):
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        if file.name.startswith("shards_"):
            continue
        places = [0] if size <= 1 << 20 else [*range(0, size, size // 64), size - (1 << 12)]
        with open(file, "rb") as f:
            for place in places:
                f.seek(place)
                digest.update(f.read(1 << 20 if place == 0 else 1 << 12))
    step = load_meta(folder).get("step")
    return f"{f'step {step}, ' if step is not None else ''}sha256 {digest.hexdigest()[:16]}"


def load_meta(folder) -> dict:
    """config.json of a checkpoint folder."""
    try:
        return json.loads((Path(folder) / "config.json").read_text())
    except ValueError as e:
        raise ValueError(f"checkpoint {folder} is damaged: config.json is not JSON ({e})") from None


def load_checkpoint(folder, wanted: dict) -> dict:
    """Read {name: ShapeDtypeStruct with a sharding} from a checkpoint of any mesh; each device reads only its slice.

    Raises ValueError that names the folder when a file is missing, cut short or altered (each shard has a checksum),
    or when a shape is not the one wanted."""
    folder = Path(folder)
    meta = load_meta(folder)
    records, shapes = {}, {}
    try:
        for rank in range(meta["num_processes"]):
            data = np.memmap(folder / f"shards_{rank:05d}.bin", np.uint8, "r")
            for name, entry in json.loads((folder / f"index_{rank:05d}.json").read_text()).items():
                shapes[name] = tuple(entry["shape"]), np.dtype(entry["dtype"])
                records.setdefault(name, []).extend((data, shard) for shard in entry["shards"])
    except (OSError, ValueError, KeyError) as e:
        raise ValueError(f"checkpoint {folder} is damaged: {e}; {instead(folder)}") from None

    def read(name, dtype, want):
        """The slice `want` of array `name`, put together from the shards that overlap it."""
        want = [s.indices(n)[:2] for s, n in zip(want, shapes[name][0])]
        out = np.empty([b - a for a, b in want], dtype)
        filled = 0
        for data, shard in records[name]:
            span = [(a, a + n) for a, n in zip(shard["begin"], shard["shape"])]
            both = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(want, span)]
            if any(a >= b for a, b in both):
                continue
            raw = data[shard["offset"]:shard["offset"] + math.prod(shard["shape"]) * dtype.itemsize]
            if zlib.crc32(raw) != shard["crc32"]:
                raise ValueError(f"checkpoint {folder} is damaged: {name} fails its checksum; {instead(folder)}")
            piece = raw.view(dtype).reshape(shard["shape"])
            out[tuple(slice(a - w, b - w) for (a, b), (w, _) in zip(both, want))] = \
                piece[tuple(slice(a - s, b - s) for (a, b), (s, _) in zip(both, span))]
            filled += math.prod(b - a for a, b in both)
        if filled != out.size:
            raise ValueError(f"checkpoint {folder} is damaged: parts of {name} are missing; {instead(folder)}")
        return out

    out = {}
    for name, want in wanted.items():
        if name not in shapes:
            raise ValueError(f"checkpoint {folder} has no array {name}")
        shape, dtype = shapes[name]
        if shape != want.shape:
            raise ValueError(f"checkpoint {folder} holds {name} of shape {shape}, this model wants {want.shape}: "
                             "give the model flags that it was trained with")
        out[name] = jax.make_array_from_callback(shape, want.sharding, partial(read, name, dtype))
    return out


def instead(folder) -> str:
    """What to do about a damaged checkpoint: the one before it, if there is one."""
    others = [p for p in checkpoints(folder.parent) if p != folder]
    return f"the one before it is {others[-1]}: remove the damaged folder to use it" if others else "there is no other"
