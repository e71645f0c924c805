"""Everything that knows about devices: the mesh, several hosts, gather and vary, and checkpoints that fit any mesh.

A mesh has three axes (paper, section 2.2, and jaxformer):

    dp     copies of the model, each with its part of the batch
    fsdp   each parameter is split over these chips and gathered when its layer runs; the batch is split here too
    tp     heads, feed-forward and vocabulary are split over these chips, which work on the same tokens
"""
from harness.cli import unheard

import contextlib
import importlib.util
import json
import math
import os
import re
import shutil
import sys
import tempfile
import threading
import zlib
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

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
        with unheard():
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

class Chip(NamedTuple):
    """One device at its best, as its maker's data sheet states it (cloud.google.com/tpu/docs, nvidia.com)."""
    flops: float          # dense bf16 FLOP/s
    hbm: int              # bytes of memory
    hbm_rate: float       # bytes/s to and from it
    link: float = 0       # bytes/s of one interconnect link in one direction: the sheet's total / links of a chip / 8 bits
    ring: int = 0         # a side of the slice closes to a ring if this divides it; both directions then carry data
    topology: str = ""    # what `--topology` calls it


CHIPS = {   # by the beginning of JAX's device_kind. JAX sees the two cores of a v4 or v5p chip as one device.
    "TPU v4":      Chip(275e12, 32 * 2 ** 30, 1228e9, 2400e9 / 6 / 8, 4, "v4"),
    "TPU v5 lite": Chip(197e12, 16 * 2 ** 30, 819e9, 1600e9 / 4 / 8, 16, "v5e"),
    "TPU v5":      Chip(459e12, 95 * 2 ** 30, 2765e9, 4800e9 / 6 / 8, 4, "v5p"),
    "TPU v6 lite": Chip(918e12, 32 * 2 ** 30, 1640e9, 3200e9 / 4 / 8, 16, "v6e"),
    "NVIDIA H100": Chip(989e12, 80 * 10 ** 9, 3350e9),
    "NVIDIA H200": Chip(989e12, 141 * 10 ** 9, 4800e9),
    "NVIDIA A100": Chip(312e12, 80 * 10 ** 9, 2039e9),
}


def peak_flops(mesh):
    """Peak of the whole mesh in FLOP/s, for MFU; None for a device that is not in the table, a CPU among them."""
    kind = mesh.devices.flat[0].device_kind
    chip = next((c for name, c in CHIPS.items() if kind.startswith(name)), None)
    return chip and chip.flops * mesh.size


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


def untracked(f, *args):
    """f(*args) for an f that does not say over which axes its results vary, as JAX's attention kernels do not.

    It runs where shard_map does not track that, and its results vary wherever an argument does. Only for an f without
    collectives, that is handed its own gradient as well: untracked, a derivative would not know what to add up."""
    axes = tuple(sorted(frozenset().union(*map(varying, jax.tree.leaves(args)))))
    if not axes:
        return f(*args)
    forget = lambda x: x[None][0]      # in there the result of any operation is untracked; the arguments still are not
    inner = jax.shard_map(lambda *args: f(*jax.tree.map(forget, args)), in_specs=P(), out_specs=P(), check_vma=False)
    return jax.tree.map(lambda x: vary(x, axes), inner(*args))


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


# ------------------------------------------- machines that are not here -------------------------------------------
# train.py --plan compiles the step for a TPU by its compiler alone. What the program does is then read from its text.

def parse_topology(text: str):
    """"v4:8x8x4" -> (Chip, sides (8, 8, 4)). Raises ValueError that says what is expected."""
    name, _, sides = text.partition(":")
    chip = next((c for c in CHIPS.values() if c.topology == name), None)
    if not chip or not re.fullmatch(r"\d+(x\d+){1,2}", sides):
        raise ValueError(f"--topology {text!r}: expected a TPU and the sides of its slice, like v4:8x8x4, v5p:4x4x8, "
                         "v5e:16x16 or v6e:8x16")
    return chip, tuple(int(n) for n in sides.split("x"))


def topology_mesh(topology: str, dp: int, fsdp: int, tp: int):
    """The mesh of a TPU that is not here, for compiling only; None without the package libtpu, its compiler."""
    if importlib.util.find_spec("libtpu") is None:
        return None
    os.environ |= dict(TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost", TPU_ACCELERATOR_TYPE="v4-8",
                       TPU_MIN_LOG_LEVEL="3", ALLOW_MULTIPLE_LIBTPU_LOAD="1")     # look for no TPU, and say nothing of it
    from jax.experimental import topologies
    cores = dict(chip_config_name="megacore") if topology.startswith("v4") else {}    # its two cores as one device
    return make_mesh(dp, fsdp, tp, topologies.get_topology_desc(topology, platform="tpu", **cores).devices)


def compile_with_text(lowered):
    """(executable, its program as text). The text is what XLA itself writes down: `as_text` cannot read back the programs
    of every TPU (jaxlib 0.10 and 0.11 with Pallas kernels on v5p)."""
    with tempfile.TemporaryDirectory() as folder:
        program = lowered.compile(compiler_options=dict(xla_dump_to=folder, xla_dump_hlo_as_text=True))
        return program, next(Path(folder).glob("*after_optimizations.txt")).read_text()


def places(sides, dp, fsdp, tp):
    """Coordinates (dp, fsdp, tp, sides) of the chips, laid so that tp, then fsdp, gets whole sides of the slice."""
    grid = np.stack(np.indices(sides), -1)                                              # (*sides, len(sides))
    ways = [grid.transpose(*order, len(sides)).reshape(dp, fsdp, tp, -1) for order in permutations(range(len(sides)))]
    return max(ways, key=lambda way: [links(way, sides, 1, (axis,)) for axis in ("tp", "fsdp", "dp")])


def links(coords, sides, ring, axes):
    """How many links of a chip a collective over these mesh axes uses: two for each side of the slice that it runs all
    around, one where there is no way around. coords: (dp, fsdp, tp, sides)."""
    group = coords[tuple(slice(None) if a in axes else 0 for a in ("dp", "fsdp", "tp"))].reshape(-1, coords.shape[-1])
    spans = [len(set(column)) for column in group.T[:len(sides)]]
    return sum(2 if n == side and side % ring == 0 else 1 for n, side in zip(spans, sides) if n > 1)


class Collective(NamedTuple):
    kind: str           # all-gather, reduce-scatter, all-reduce, ...
    axes: tuple         # mesh axes that it runs over
    count: int          # times a step
    bytes: int          # of what goes in on one device, all times together
    hidden: bool        # started early and waited for later, so that the chip computes meanwhile

    def moved(self, ranks):
        """Bytes that leave a device, in rings of `ranks`: its part for every other one, in an all-reduce twice."""
        whole = self.bytes * (ranks if self.kind == "all-gather" else 1)
        return whole * (ranks - 1) / ranks * (2 if self.kind == "all-reduce" else 1)


WIDTH = dict(pred=1, s8=1, u8=1, bf16=2, f16=2, s16=2, u16=2, f32=4, s32=4, u32=4, f64=8, s64=8, u64=8)
NO_TRAFFIC = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota", "partition-id", "after-all")


def arrays(type_text: str):
    """[(bytes, in HBM or not)] of an HLO type. S(1), S(3), ... are memories on the chip."""
    return [(WIDTH[t] * math.prod(int(n) for n in dims.split(",") if n), "S(" not in layout)
            for t, dims, layout in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\](\{[^}]*\})?", type_text) if t in WIDTH]


def groups_axes(text: str, mesh_shape: dict):
    """The mesh axes that replica groups run over, and their size: from {{0,1},{2,3}} or [2,2]<=[4] as HLO writes them."""
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        numbers = lambda s: [int(n) for n in s.split(",")]
        ids = np.arange(math.prod(numbers(found[3]))).reshape(numbers(found[3]))
        group = ids.transpose(numbers(found[4]) if found[4] else None).reshape(int(found[1]), int(found[2]))[0]
    elif found := re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}", text):
        group = [int(n) for n in found[1].split(",")]
    else:
        group = range(math.prod(mesh_shape.values()))
    places = np.array(np.unravel_index(group, tuple(mesh_shape.values()))).T                # (ranks, axes)
    return tuple(a for a, column in zip(mesh_shape, places.T) if len(set(column)) > 1), len(places)


def read_program(hlo: str, mesh_shape: dict):
    """(HBM bytes, [Collective]) of one run of a compiled program on one device, from its text.

    Loops count as often as they run. HBM traffic is what instructions read and write outside of the chip's own memories;
    of an array that a fusion only slices or updates in place, the slice."""
    bodies = {}
    for name, body in re.findall(r"^(?:ENTRY )?%?([\w.-]+) [^\n]*\{\n(.*?)^\}(?:, execution_thread=\S+)?$", hlo, re.M | re.S):
        bodies[name] = {n: (type_text, op, re.findall(r"%([\w.-]+)", rest.split(")")[0]), rest) for n, type_text, op, rest
                        in re.findall(r"^ +(?:ROOT )?%([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$", body, re.M)}
    total, found = [0], {}

    def size(body, names, everywhere=False):
        return sum(n for name in names if name in body for n, hbm in arrays(body[name][0]) if hbm or everywhere)

    def called(rest, word="calls"):
        return re.search(rf"\b{word}=%?([\w.-]+)", rest)[1]

    def fusion_reads(body, index):
        """Bytes that a fusion reads of its operand number `index`."""
        me = next((n for n, (_, op, _, rest) in body.items() if op == "parameter" and rest.startswith(f"{index})")), None)
        read = 0
        for name, (_, op, operands, rest) in body.items():
            if me not in operands:
                continue
            if op in ("dynamic-slice", "slice"):
                read += size(body, [name], True)
            elif op == "fusion":
                read += sum(fusion_reads(bodies[called(rest)], i) for i, o in enumerate(operands) if o == me)
            elif not (op == "dynamic-update-slice" and operands[0] == me):
                return size(body, [me], True)
        return read

    def fusion_writes(body, whole):
        """Bytes that it writes: of an update in place, the update."""
        updates = [size(body, [operands[1]], True) for _, op, operands, _ in body.values() if op == "dynamic-update-slice"]
        return min(whole, sum(updates)) if updates else whole

    def visit(name, times):
        body = bodies[name]
        for n, (_, op, operands, rest) in body.items():
            kind = op.removesuffix("-start")
            inside = bodies[called(rest)] if op in ("fusion", "async-start") else {}
            within = next((o for _, o, _, _ in inside.values() if o in ("all-gather", "all-reduce", "reduce-scatter")), None)
            if op == "while":
                trips = max(int(c) for _, o, _, r in bodies[called(rest, "condition")].values()
                            if o == "constant" and (c := r.split(")")[0]).isdigit())
                visit(called(rest, "body"), times * trips)
            elif op in ("conditional", "call"):
                for branch in re.findall(r"%([\w.-]+)", rest[rest.index(")"):]):
                    if branch in bodies:
                        visit(branch, times)
            elif within or kind in ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all"):
                if within:
                    text = next(r for _, o, _, r in inside.values() if o == within)
                    kind = "reduce-scatter" if "reduce-scatter" in called(rest) else within
                axes, ranks = groups_axes(text if within else rest, mesh_shape)
                key = kind, axes, ranks, op.endswith("-start")
                count, size_so_far = found.get(key, (0, 0))
                found[key] = count + times, size_so_far + times * size(body, operands, True)
                total[0] += times * size(body, [n] if op.endswith("-start") else [*operands, n])   # a start's type has both
            elif op == "fusion":
                whole = {o for o in operands if o in body and any(hbm for _, hbm in arrays(body[o][0]))}
                read = sum(fusion_reads(inside, i) for i, o in enumerate(operands) if o in whole)
                total[0] += times * (read + fusion_writes(inside, size(body, [n])))
            elif op in ("copy-start", "slice-start", "dynamic-slice", "slice"):
                total[0] += times * min(size(body, operands), size(body, [n], True))
            elif op not in (*NO_TRAFFIC, "async-update") and not op.endswith("-done") \
                    and (op != "custom-call" or "tpu_custom_call" in rest):
                total[0] += times * size(body, [n] if op.endswith("-start") else [*operands, n])

    visit(re.search(r"^ENTRY %?([\w.-]+)", hlo, re.M)[1], 1)
    return total[0], [Collective(kind, axes, *found[kind, axes, ranks, hidden], hidden)
                      for kind, axes, ranks, hidden in found if ranks > 1]


def roofline(chip: Chip, coords, sides, flops: float, hbm_bytes: float, collectives) -> dict:
    """Seconds of a step at data-sheet rates: arithmetic and HBM run side by side, and hidden collectives beside both;
    for the others the chip waits."""
    ranks = lambda axes: math.prod(n for n, a in zip(coords.shape, ("dp", "fsdp", "tp")) if a in axes)
    rate = lambda axes: chip.link * links(coords, sides, chip.ring, axes)
    times = [(c.hidden, c.moved(ranks(c.axes)) / rate(c.axes)) for c in collectives]
    out = dict(compute=flops / chip.flops, hbm=hbm_bytes / chip.hbm_rate, hidden=sum(t for h, t in times if h),
               waiting=sum(t for h, t in times if not h))
    step = max(out["compute"], out["hbm"], out["hidden"]) + out["waiting"]
    each = dict(compute=out["compute"], HBM=out["hbm"], interconnect=out["hidden"] + out["waiting"])
    return out | dict(step=step, bound=max(each, key=each.get))
