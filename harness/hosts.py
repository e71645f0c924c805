"""Several processes, one run: they find each other, wait, agree, and end together.

JAX is imported inside the functions, because whoever only scores imports harness and never JAX.
"""
import contextlib
import importlib.util
import os
import re
import socket
import sys
import threading
import urllib.request
import warnings
from pathlib import Path

HEARTBEAT = 30      # seconds without a sign of life, then a process counts as dead, the others end
WAIT = 120          # seconds that a process waits for the others at the start


# ---- finding the others --------------------------------------------------------------------------

def join(coordinator=None, num_processes=None, process_id=None):
    """Join the other processes of this run, before any device is used; without any, do nothing.

    They are found by JAX itself (Cloud TPU, GKE, SLURM, MPI), or named: coordinator is host:port of
    process 0; num_processes 1 alone looks for none. ValueError for what does not go together. Who
    is not there within WAIT seconds is named, and the process ends with code 2."""
    import jax
    if num_processes == 1:
        return
    others = "the other processes of this cluster"
    if coordinator or num_processes or process_id is not None:
        check_named(coordinator, num_processes, process_id)
        whom = "process 0" if process_id else f"all {num_processes} processes"
        others = f"{whom} at {coordinator}"
        keep_cpp_quiet()
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
                             "To run alone, add --num_processes 1") from None
    else:
        if not coordinator:
            keep_cpp_quiet()


def check_named(coordinator, num_processes, process_id):
    """ValueError where the flags that name the other processes do not go together."""
    if not coordinator:
        raise ValueError("--num_processes and --process_id need --coordinator HOST:PORT, that of "
                         "process 0")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"--coordinator {coordinator!r}: HOST:PORT of process 0 is expected, "
                         "as in 10.0.0.1:1234")
    if num_processes and process_id is not None:
        check_number(num_processes, process_id)
    if process_id == 0:
        check_port(int(port))


def check_number(num_processes, process_id):
    if process_id >= num_processes:
        raise ValueError(f"--process_id {process_id}: of {num_processes} processes the last is "
                         f"{num_processes - 1}")


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
    def tell():
        print(f"# waiting for {whom}, {WAIT} seconds at most", file=sys.stderr, flush=True)

    def give_up():
        end_at_once(f"waited {WAIT} seconds for {whom} in vain: are all of them started, and is "
                    "the address right?", 2)

    timers = [threading.Timer(WAIT / 10, tell), threading.Timer(WAIT, give_up)]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


# What makes libtpu look for no TPU, and say nothing of it.
NO_TPU = dict(TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost",
              TPU_ACCELERATOR_TYPE="v4-8", TPU_MIN_LOG_LEVEL="3", ALLOW_MULTIPLE_LIBTPU_LOAD="1")


def name_platform():
    """With libtpu installed and no TPU here, name the CPU, because JAX would look for the TPU and
    complain in five lines."""
    import jax
    tpu = chips_here()
    others = importlib.util.find_spec("jax_plugins")         # where the plug-ins of GPUs lie
    if not (jax.config.jax_platforms or tpu or others) and importlib.util.find_spec("libtpu"):
        jax.config.update("jax_platforms", "cpu")
    if not tpu and "tpu" in (jax.config.jax_platforms or ""):
        os.environ |= NO_TPU | os.environ       # so that it fails in one line


def chips_here() -> list:
    """The TPU chips of this host, as files."""
    return list(Path("/dev").glob("accel*")) + list(Path("/dev").glob("vfio/[0-9]*"))


# ---- dividing work -------------------------------------------------------------------------------
# Work that is divided over hosts and needs no collective: they never speak to each other, so one
# that dies costs its own part alone. Not run on a pod; the tests set what a cluster would.

METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"
SHAPES = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}       # of a host's chips, by their number


def my_part(num_processes=None, process_id=None):
    """-> (the number of this process, of how many), (0, 1) alone: by the flags, else as srun, Open
    MPI, Cloud TPU or GKE say. ValueError for flags that do not go together."""
    if num_processes is None and process_id is None:
        try:
            process, processes = part_in_cluster() or part_in_pod() or (0, 1)
        except ValueError:              # no numbers
            process, processes = -1, 0
        if 0 <= process < processes:
            return process, processes
        raise ValueError("the cluster's environment does not say which process this is (SLURM_, "
                         "OMPI_, TPU_ or MEGASCALE_ variables): give --num_processes N and "
                         "--process_id I, of one process alone --num_processes 1")
    if num_processes is None or process_id is None and num_processes > 1:
        raise ValueError("--num_processes N and --process_id I go together: N processes, of which "
                         "this is number I, from 0")
    check_number(num_processes, process_id or 0)
    return process_id or 0, num_processes


def part_in_cluster():
    """The same from what srun or mpirun set in the environment, else None. A batch script of SLURM
    that was not started by srun has SLURM_NTASKS too, but is one process."""
    for count, number, there in (
            ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_NODELIST"),
            ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")):
        if {count, number, there} <= os.environ.keys():
            return int(os.environ[number]), int(os.environ[count])
    return None


def part_in_pod():
    """The same from what GKE sets, or from the metadata server of a Cloud TPU VM; None where there
    is no TPU. A job of several slices counts through all of them."""
    if not chips_here():
        return None
    number, hosts = os.environ.get("TPU_WORKER_ID"), os.environ.get("TPU_WORKER_HOSTNAMES")
    if not (number and hosts) and "TPU_SKIP_MDS_QUERY" not in os.environ:
        number, hosts = metadata("agent-worker-number"), metadata("worker-network-endpoints")
    if not (number and hosts):
        return None
    count = len(hosts.split(","))
    slices, ours = (int(os.environ.get(f"MEGASCALE_{name}", default))
                    for name, default in (("NUM_SLICES", 1), ("SLICE_ID", 0)))
    return ours * count + int(number), slices * count


def metadata(name):
    """What Google's metadata server says of this machine, None where it says nothing."""
    request = urllib.request.Request(METADATA + name, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:
            return reply.read().decode()
    except OSError:
        print(f"# a TPU, and no metadata server says {name}: on a pod, give --num_processes and "
              "--process_id", file=sys.stderr)
        return None


def keep_to_own_chips():
    """Before JAX is imported, on one host of a pod: use its chips alone. Else libtpu would wait for
    the hosts of the whole slice. Where TPU_VISIBLE_CHIPS is set, somebody has chosen chips."""
    chips = len(chips_here())
    if not chips or "TPU_VISIBLE_CHIPS" in os.environ:
        return
    if chips not in SHAPES:
        raise ValueError(f"this host has {chips} TPU chips, in a shape that is not known here: set "
                         "TPU_VISIBLE_CHIPS, TPU_PROCESS_BOUNDS, TPU_CHIPS_PER_PROCESS_BOUNDS")
    for name in ("TPU_PROCESS_BOUNDS", "TPU_HOST_BOUNDS"):      # libtpu's new names and old ones
        os.environ[name] = "1,1,1"
    for name in ("TPU_CHIPS_PER_PROCESS_BOUNDS", "TPU_CHIPS_PER_HOST_BOUNDS"):
        os.environ[name] = SHAPES[chips]
    os.environ |= {"TPU_VISIBLE_CHIPS": ",".join(map(str, range(chips))), "TPU_WORKER_ID": "0",
                   "TPU_WORKER_HOSTNAMES": "localhost", "CLOUD_TPU_TASK_ID": "0",
                   "TPU_PROCESS_ADDRESSES": "localhost:8476", "TPU_PROCESS_PORT": "8476"}


# ---- doing things together -----------------------------------------------------------------------

def say(*lines):
    """Print lines, on process 0 alone."""
    import jax
    if jax.process_index() == 0:
        for line in lines:
            print(line, flush=True)


def agree(number: int) -> int:
    """The largest of the processes' numbers, the same on all: every process must call it at the
    same point."""
    import jax
    if jax.process_count() == 1:
        return number
    import numpy as np
    from jax.experimental import multihost_utils
    return int(multihost_utils.process_allgather(np.int32(number)).max())


def together(work):
    """Process 0 does `work`, for example takes a folder. All go on, or where it raises all end:
    process 0 says why."""
    import jax
    done, error = None, None
    if jax.process_index() == 0:
        try:
            done = work()
        except (OSError, ValueError) as e:
            error = e
    if agree(error is not None):
        raise error or SystemExit(2)
    return done


# ---- ending together -----------------------------------------------------------------------------

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


def end_together(main):
    """Run main. What JAX raises there ends in one line: another process is gone, so that our
    collectives fail, or the memory of a device is full."""
    import jax
    try:
        main()
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() > 1:
            another_has_ended()
        reason = str(error).splitlines()[0][:200]
        if "RESOURCE_EXHAUSTED" not in reason:
            raise
        raise ValueError(f"the device has too little memory ({reason}): lower --batch_size, raise "
                         "--grad_accum, add --remat layer, or a mesh of more devices") from None


LOST = re.compile(rb"[WEF]\d{4} .*(coordination.service|distributed service)|terminate called")
PEERS = re.compile(rb"\[Gloo\] Rank|connected peer ranks")  # two threads may tear it into pieces


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
                if not PEERS.search(line):
                    os.write(to, line + b"\n")

    for number, name in ((1, "stdout"), (2, "stderr")):
        getattr(sys, name).flush()
        real = os.dup(number)
        read, write = os.pipe()
        os.dup2(write, number)
        os.close(write)
        setattr(sys, name, open(real, "w", errors="replace", buffering=1))
        threading.Thread(target=pass_on, args=(read, real), daemon=True).start()
