"""Everything that knows about devices: the mesh, several hosts, gather and vary, and checkpoints that fit any mesh.

A mesh has three axes (paper, section 2.2, and jaxformer):

    dp     copies of the model, each with its part of the batch
    fsdp   each parameter is split over these chips and gathered when its layer runs; the batch is split here too
    tp     heads, feed-forward and vocabulary are split over these chips, which work on the same tokens
"""
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import math
import os
import re
import shutil
import socket
import sys
import threading
import warnings
import zlib
from functools import partial
from pathlib import Path

from harness.files import check, read_json

import jax
import numpy as np
from jax import lax
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

DATA = ("dp", "fsdp")    # the axes that split the batch
HEARTBEAT = 30           # seconds without a sign of life after which a process counts as dead and the others end
WAIT = 120               # seconds that a process waits for the others at the start


def start():
    """Say in one line where we run; the first thing that a script does with JAX.

    Compiled programs are kept in ~/.cache/codegen/compiled (or where JAX_COMPILATION_CACHE_DIR
    says): the same command compiles once. ValueError for a device that JAX_PLATFORMS names and
    that is not there."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        with contextlib.suppress(OSError, RuntimeError):     # no home, or none to write to: compile each time
            folder = Path.home() / ".cache" / "codegen" / "compiled"
            folder.mkdir(parents=True, exist_ok=True)
            jax.config.update("jax_compilation_cache_dir", str(folder))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    name_platform()
    try:
        devices, count = jax.devices(), jax.process_count()
    except (RuntimeError, AssertionError) as error:
        why = str(error).partition("\n")[0][:200] or "there is no such device"
        named = jax.config.jax_platforms or "not set"
        raise ValueError(f"JAX_PLATFORMS is {named}: {why}") from None
    if jax.process_index() == 0:
        print(f"# platform {devices[0].platform} · {len(devices)} x {devices[0].device_kind} · "
              f"{count} process{'es' * (count > 1)} · jax {jax.__version__}", flush=True)


def name_platform():
    """With libtpu installed and no TPU here, name the CPU: JAX would look for the TPU and complain
    in five lines."""
    tpu = list(Path("/dev").glob("accel*")) + list(Path("/dev").glob("vfio/[0-9]*"))
    others = importlib.util.find_spec("jax_plugins")         # where the plug-ins of GPUs lie
    if not (jax.config.jax_platforms or tpu or others) and importlib.util.find_spec("libtpu"):
        jax.config.update("jax_platforms", "cpu")


# --------------------------------------- several processes ----------------------------------------

def join(coordinator=None, num_processes=None, process_id=None):
    """Join the other processes of this run, before any device is used; without any, do nothing.

    They are found by JAX itself (Cloud TPU, GKE, SLURM, MPI), or named: coordinator is host:port of
    process 0; num_processes 1 alone looks for none. ValueError for what does not go together. Who
    is not there within WAIT seconds is named, and the process ends with code 2."""
    if num_processes == 1:
        return
    if not coordinator and (num_processes or process_id is not None):
        raise ValueError("--num_processes and --process_id need --coordinator HOST:PORT, that of "
                         "process 0")
    if coordinator:
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"--coordinator {coordinator!r}: HOST:PORT of process 0 is expected, "
                             "as in 10.0.0.1:1234")
        if num_processes and process_id is not None and process_id >= num_processes:
            raise ValueError(f"--process_id {process_id}: of {num_processes} processes the last is "
                             f"{num_processes - 1}")
        if process_id == 0:
            check_port(int(port))
    if coordinator:
        whom = "process 0" if process_id else f"all {num_processes} processes"
        others = f"{whom} at {coordinator}"
        keep_cpp_quiet()
    else:
        others = "the other processes of this cluster"
    try:
        with limit_on_waiting(others), warnings.catch_warnings(action="ignore"):
            jax.distributed.initialize(
                coordinator, num_processes, process_id, initialization_timeout=2 * WAIT,
                heartbeat_timeout_seconds=HEARTBEAT)
    except ValueError as error:             # no cluster is found, or too little is said of one
        if coordinator or "JAX_COORDINATOR_ADDRESS" in os.environ:
            raise ValueError(
                f"--coordinator needs --num_processes and --process_id ({error})") from None
        tasks = os.environ.get("SLURM_NTASKS", "1")
        if tasks != "1":
            print(f"# SLURM_NTASKS is {tasks}, but this was not started by srun: running alone",
                  file=sys.stderr)
    except (RuntimeError, OSError) as error:
        # Where JAX is in use already, as in a notebook, it is too late to look: we are alone.
        if coordinator or "before any JAX calls" not in str(error):
            raise ValueError(f"{others} cannot be joined ({' '.join(str(error).split())[:200]}). "
                             "To run alone, add "
                             "--num_processes 1") from None
    else:
        if not coordinator:
            keep_cpp_quiet()


def check_port(port):
    """ValueError where another program listens: JAX would share the port with it, and talk to its
    processes."""
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise ValueError(
            f"--coordinator: port {port} cannot be opened here ({error.strerror})") from None


@contextlib.contextmanager
def limit_on_waiting(whom):
    """Say for whom we wait when it takes long, and end the process after WAIT seconds.

    By threads of our own, because JAX ends a process that has waited too long by an abort and a
    trace."""
    def say():
        print(f"# waiting for {whom}, {WAIT} seconds at most", file=sys.stderr, flush=True)

    def give_up():
        end_at_once(f"waited {WAIT} seconds for {whom} in vain: are all of them started, and is "
                    "the address right?", 2)

    timers = [threading.Timer(WAIT / 10, say), threading.Timer(WAIT, give_up)]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


ending = threading.Lock()


def end_at_once(why, code):
    """One line, and the end: an orderly exit would wait for processes that are not there. The first
    caller alone speaks."""
    ending.acquire()
    print(f"{Path(sys.argv[0]).name}: error: {why}", file=sys.stderr, flush=True)
    os._exit(code)


def another_has_ended():
    print(file=sys.stderr)      # behind the progress bar
    end_at_once("another process has ended or cannot be reached. Start all of them again with "
                "--init_from resume", 3)


LOST = re.compile(rb"[WEF]\d{4} .*(coordination.service|distributed service)|terminate called")


def keep_cpp_quiet():
    """When another process dies, JAX's C++ writes a trace and aborts: nothing in Python can keep it
    from that.

    So what C++ writes goes through pipes from here on, and Python alone has the real stdout and
    stderr. The first line about a lost process becomes ours and ends this one. Gloo's counts of its
    peers are dropped, every other line is passed on."""
    def pass_on(pipe, to):
        rest = b""
        while part := os.read(pipe, 2 ** 16):
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                if LOST.match(line):
                    another_has_ended()
                if b"connected peer ranks" not in line:
                    os.write(to, line + b"\n")

    for number, name in ((1, "stdout"), (2, "stderr")):
        getattr(sys, name).flush()
        real = os.dup(number)
        read, write = os.pipe()
        os.dup2(write, number)
        os.close(write)
        setattr(sys, name, open(real, "w", errors="replace", buffering=1))
        threading.Thread(target=pass_on, args=(read, real), daemon=True).start()


def together(work):
    """Process 0 does `work`, for example takes a folder. All go on, or where it raises all end:
    process 0 says why."""
    done, error = None, None
    if jax.process_index() == 0:
        try:
            done = work()
        except (OSError, ValueError) as e:
            error = e
    if agree(error is not None):
        raise error or SystemExit(2)
    return done


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
# Checksums: each shard's stands in the index, each index's in config.json, and config.json's own
# there too.

NAME = re.compile(r"step_\d{8}")                       # a checkpoint; all else is its owner's
UNFINISHED = re.compile(r"step_\d{8}\.(tmp|old)")      # one that is being written, or deleted
INSIDE = re.compile(r"config\.json|index_\d{5}\.json|shards_\d{5}\.bin|.*\.tiktoken")
CRC = (0, 2 ** 32 - 1)
CONFIG = {"step": (0, 10 ** 8 - 1), "num_processes": (1, 2 ** 16),
          "files?": {str: CRC}, "crc32?": CRC}
SIZES = [(0, 2 ** 40)]
INDEX = {str: {"shape": SIZES, "dtype": str, "shards": [
    {"begin": SIZES, "shape": SIZES, "offset": (0, 2 ** 50), "crc32": CRC}]}}


def take_folder(out_dir):
    """Make a run's folder and hold it -> its lock, which goes when this process ends, however it
    ends.

    What a killed process left half written or half deleted goes now. ValueError where another
    process holds it."""
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    lock = open(out_dir / ".lock", "a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"{out_dir} is being written by another process: wait for its end, or "
                         "choose another "
                         "--out_dir") from None
    except OSError:
        pass            # a disk that knows no locks
    whole = checkpoints(out_dir)
    for folder in out_dir.iterdir():
        half_deleted = NAME.fullmatch(folder.name) and whole and folder.name < whole[0].name
        if (UNFINISHED.fullmatch(folder.name) or half_deleted) and is_ours(folder):
            shutil.rmtree(folder, ignore_errors=True)
    return lock


def is_ours(folder) -> bool:
    """Whether a folder holds nothing but what a checkpoint is made of."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return all(INSIDE.fullmatch(p.name) for p in folder.iterdir())


def discard(folder):
    """Delete a checkpoint: under another name first, because one that is half deleted must not pass
    for one."""
    old = Path(f"{folder}.old")
    os.rename(folder, old)
    shutil.rmtree(old)


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
        if is_ours(temp):
            shutil.rmtree(temp)
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
        record = {k: v for k, v in meta.items() if k not in ("files", "crc32")}
        small = sorted(p for p in temp.iterdir() if p.suffix != ".bin")
        record |= dict(step=step, num_processes=jax.process_count(),
                       files={p.name: zlib.crc32(p.read_bytes()) for p in small})
        with open(temp / "config.json", "w") as f:
            json.dump(record | dict(crc32=checksum(record)), f, indent=1)
            flush(f)
        if final.exists():
            discard(final)
        os.rename(temp, final)
        flush_folder(out_dir)
        for old in checkpoints(out_dir)[:-max(1, keep)]:
            with contextlib.suppress(OSError):      # the new one is whole, whatever becomes of it
                if old != final:
                    discard(old)

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
    """The finished checkpoints of a run, oldest first: folders named step_ and eight digits, and no
    copies of them."""
    named = (p for p in Path(out_dir).glob("step_*") if NAME.fullmatch(p.name))
    return sorted(p for p in named if (p / "config.json").is_file())


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


def checksum(record) -> int:
    """Of what config.json says, whatever its layout."""
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def load_meta(folder) -> dict:
    """config.json of a checkpoint, checked, or of a Hugging Face folder, as it is. ValueError says
    what is wrong.

    Earlier versions wrote no checksum: without one, none is compared."""
    folder = Path(folder)
    try:
        meta = read_json(folder / "config.json")
        if "model_type" not in meta:
            check(meta, CONFIG, "in config.json ")
            rest = {k: v for k, v in meta.items() if k != "crc32"}
            if meta.get("crc32") not in (None, checksum(rest)):
                raise ValueError("config.json fails its checksum (edited by hand? then remove its "
                                 "line crc32)")
    except ValueError as error:
        raise damaged(folder, error) from None
    return meta


def load_index(folder, meta) -> dict:
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


def load_checkpoint(folder, wanted: dict) -> dict:
    """Read {name: ShapeDtypeStruct with a sharding} from a checkpoint of any mesh; each device reads only its slice.

    Raises ValueError that names the folder when a file is missing, cut short or altered (each shard has a checksum),
    or when a shape is not the one wanted."""
    folder = Path(folder)
    found = load_index(folder, load_meta(folder))

    def read(name, dtype, want):
        """The slice `want` of array `name`, put together from the shards that overlap it."""
        want = [s.indices(n)[:2] for s, n in zip(want, found[name][0])]
        out = np.empty([b - a for a, b in want], dtype)
        filled = 0
        for data, shard in found[name][2]:
            span = [(a, a + n) for a, n in zip(shard["begin"], shard["shape"])]
            both = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(want, span)]
            if any(a >= b for a, b in both):
                continue
            raw = data[shard["offset"]:shard["offset"] + math.prod(shard["shape"]) * dtype.itemsize]
            if zlib.crc32(raw) != shard["crc32"]:
                raise damaged(folder, f"{name} fails its checksum")
            piece = raw.view(dtype).reshape(shard["shape"])
            out[tuple(slice(a - w, b - w) for (a, b), (w, _) in zip(both, want))] = \
                piece[tuple(slice(a - s, b - s) for (a, b), (s, _) in zip(both, span))]
            filled += math.prod(b - a for a, b in both)
        if filled != out.size:
            raise damaged(folder, f"parts of {name} are missing")
        return out

    out = {}
    for name, want in wanted.items():
        if name not in found:
            raise ValueError(f"checkpoint {folder} has no array {name}")
        shape, dtype, _ = found[name]
        if shape != want.shape:
            raise ValueError(f"checkpoint {folder} holds {name} of shape {shape}, this model wants {want.shape}: "
                             "give the model flags that it was trained with")
        out[name] = jax.make_array_from_callback(shape, want.sharding, partial(read, name, dtype))
    return out


def damaged(folder, what) -> ValueError:
    """The error that says so, and what to do: take the checkpoint before it, if there is one."""
    others = [p for p in checkpoints(folder.parent) if p != folder]
    instead = "there is no other"
    if others:
        instead = f"the one before it is {others[-1]}: remove the damaged folder to use it"
    return ValueError(f"checkpoint {folder} is damaged: {what}; {instead}")
