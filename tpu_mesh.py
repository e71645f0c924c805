"""Everything that knows about devices: the mesh, several hosts, gather and vary, and checkpoints that fit any mesh.

A mesh has three axes (paper, section 2.2, and jaxformer):

    dp     copies of the model, each with its part of the batch
    fsdp   each parameter is split over these chips and gathered when its layer runs; the batch is split here too
    tp     heads, feed-forward and vocabulary are split over these chips, which work on the same tokens
"""
import importlib
import json
import math
import os
import shutil
import sys
import zlib
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

DATA = ("dp", "fsdp")    # the axes that split the batch


def start(coordinator="", num_processes=0, process_id=-1):
    """Join the other processes (nothing to say on a Cloud TPU pod) and say in one line where we run."""
    if coordinator:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    elif os.environ.get("TPU_WORKER_HOSTNAMES", "").count(","):
        jax.distributed.initialize()
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
    return jax.make_mesh((dp, fsdp, tp), ("dp", "fsdp", "tp"), axis_types=(AxisType.Auto,) * 3, devices=devices[:need])


def check_divides(config, batch_size: int, grad_accum: int, dp: int, fsdp: int, tp: int):
    """Every size that the mesh splits must divide. Raises ValueError that names the flag, before anything compiles."""
    rules = [(config.n_head, tp, "n_head", "--tp"), (4 * config.n_embd, tp, "4 x n_embd", "--tp"),
             (config.vocab_size, tp, "vocab_size", "--tp"), (config.n_embd, fsdp, "n_embd", "--fsdp"),
             (batch_size, dp * fsdp * grad_accum, "batch_size", "--batch_size (or --dp, --fsdp, --grad_accum)")]
    for size, parts, name, flag in rules:
        if size % parts:
            raise ValueError(f"{name} {size} does not divide by {parts}: change {flag}")


# Dense bf16 FLOP/s of one device, as its maker's data sheet states it. JAX sees a v4 or v5p chip as one device.
PEAK_FLOPS = {"TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5p": 459e12, "TPU v5": 459e12, "TPU v6 lite": 918e12,
              "NVIDIA H100": 989e12, "NVIDIA H200": 989e12, "NVIDIA A100": 312e12}


def peak_flops(mesh):
    """Peak of the whole mesh in FLOP/s, for MFU; None for a device that is not in the table, a CPU among them."""
    kind = mesh.devices.flat[0].device_kind
    per_device = next((f for name, f in PEAK_FLOPS.items() if kind.startswith(name)), None)
    return per_device and per_device * mesh.size


# ------------------------------------------------ inside shard_map ------------------------------------------------

def varying(x) -> frozenset:
    """The mesh axes over which this value differs from device to device (tracked by shard_map's check_vma)."""
    return jax.typeof(x).manual_axis_type.varying


def vary(x, axes):
    """Let x differ over `axes` from here on. Its transpose, the sum of gradients over them, then happens at this
    very place. pcast refuses axes over which x already varies, so they are skipped."""
    axes = (axes,) if isinstance(axes, str) else axes
    return lax.pcast(x, tuple(a for a in axes if a not in varying(x)), to="varying")


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
    out_dir = Path(out_dir)
    final, temp, rank = out_dir / f"step_{step:08d}", out_dir / f"step_{step:08d}.tmp", jax.process_index()
    if rank == 0:
        shutil.rmtree(temp, ignore_errors=True)
        temp.mkdir(parents=True)
    barrier("checkpoint folder")
    index, offset = {}, 0
    with open(temp / f"shards_{rank:05d}.bin", "wb") as f:
        for name, array in arrays.items():
            index[name] = dict(shape=array.shape, dtype=str(array.dtype), shards=[])
            for shard in array.addressable_shards:
                if shard.replica_id == 0:
                    data = np.ascontiguousarray(shard.data)
                    begin = [s.start or 0 for s in shard.index]
                    index[name]["shards"].append(dict(begin=begin, shape=data.shape, offset=offset,
                                                      crc32=zlib.crc32(data)))
                    f.write(data.data)
                    offset += data.nbytes
        if offset == 0:
            f.write(b"\0")      # this process owns nothing; an empty file cannot be mapped
        flush(f)
    with open(temp / f"index_{rank:05d}.json", "w") as f:
        json.dump(index, f)
        flush(f)
    barrier("checkpoint shards")
    if rank == 0:
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
    barrier("checkpoint done")
    return final


def flush(file):
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder):
    """A rename survives a power cut only once the folder itself is on the disk."""
    fd = os.open(folder, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def barrier(name):
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils
        multihost_utils.sync_global_devices(name)


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


# ------------------------------------------------ weight files of others ------------------------------------------

def weight_files(folder):
    """The files of a Hugging Face folder that hold its tensors, one or those of an index; safetensors before torch's."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            try:
                return sorted({folder / file for file in json.loads(index.read_text())["weight_map"].values()})
            except (ValueError, KeyError) as e:
                raise ValueError(f"{index} is damaged: {e!r}") from None
    raise FileNotFoundError(f"{folder} holds neither model.safetensors nor pytorch_model.bin")


def read_tensors(file, name=None):
    """The tensor `name` of a weight file as numpy, or without a name {name: shape} of all, from the file's header.

    A file is mapped, and anew for each tensor: the pages of a map count as memory of the process until it is closed."""
    package = "safetensors" if file.suffix == ".safetensors" else "torch"
    try:
        library = importlib.import_module(package)
        if package == "safetensors":
            with library.safe_open(file, "numpy") as f:
                return f.get_tensor(name) if name else {n: tuple(f.get_slice(n).get_shape()) for n in f.keys()}
        tensors = library.load(file, map_location="cpu", weights_only=True, mmap=True)
        return tensors[name].float().numpy() if name else {n: tuple(t.shape) for n, t in tensors.items()}
    except ImportError:
        raise ValueError(f"to read {file} the package {package} is needed: pip install {package}") from None
    except Exception as e:      # each library has errors of its own
        raise ValueError(f"{file} cannot be read ({type(e).__name__}): {e}") from None


def write_tensors(file, shapes: dict, tensor):
    """Write a float32 safetensors file, asking tensor(name) for one array after the other.

    The format: the length of a JSON header in 8 bytes, the header, then the tensors where the header says."""
    header, end = dict(__metadata__=dict(format="pt")), 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = dict(dtype="F32", shape=shape, data_offsets=[begin, end])
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)      # so that the tensors start at a multiple of 8
    with open(file, "wb") as f:
        f.write(len(raw).to_bytes(8, "little") + raw)
        for name in tqdm(shapes, desc="write weights", unit=" tensors", delay=2, leave=False, disable=None):
            f.write(np.ascontiguousarray(tensor(name), "<f4"))
        flush(f)
