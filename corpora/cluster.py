"""The pool on a dask.distributed cluster, or on one started here: `pip install distributed`.

The workers need the packages of requirements.txt and see the same file system: they read the files
of --input, and this project, under the names that these have here. A task is done again where its
worker dies; new workers get tasks as they come.
"""
from harness.cli import PROJECT, signals_wait

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
import os
import pickle

from corpora.pool import Pool, worker_pool

PATIENCE = 10           # seconds to wait for the scheduler, and for its first worker
BATCH = 2 ** 21         # bytes of files a task, because the scheduler takes a millisecond for each


def absolute_paths(args):
    """Because the workers stand in other folders."""
    args.input = [os.path.abspath(name) for name in args.input]
    if args.tokenizer.endswith(".tiktoken"):
        args.tokenizer = os.path.abspath(args.tokenizer)


def pool_for(args, workers, make_tools, *parts):
    """The Pool that --dask names, or one of so many processes here. Each of its workers works with
    what make_tools(*parts) gives."""
    if args.dask:
        return cluster_pool(args.dask, workers, args.input, make_tools, *parts)
    return worker_pool(workers, make_tools, *parts)


@contextlib.contextmanager
def cluster_pool(address, workers, paths, make_tools, *parts):
    """The Pool of the cluster at `address`; "local" starts one of so many `workers` here.

    ValueError where nobody answers, where a worker does not see one of `paths` or lacks a package,
    where the cluster is lost on the way.
    """
    try:
        import cloudpickle
        import distributed
    except ImportError:
        raise ValueError("--dask needs the package distributed: pip install distributed") from None
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)      # because the bar stands in the line
    setup = cloudpickle.dumps((make_tools, parts))
    try:
        with contextlib.ExitStack() as stack:
            client = connected(stack, distributed, address, workers)
            check_seen(client, [str(PROJECT), *paths])
            setup = client.submit(bytes, setup)     # made again where its worker dies
            executor = client.get_executor(pure=False)

            def submit(function, items):
                return executor.submit(task, str(PROJECT), setup, pickle.dumps((function, items)))

            yield Pool(submit, sum(client.nthreads().values()), BATCH)
    except distributed.KilledWorker:
        raise ValueError("workers of --dask were killed again and again over the same files, "
                         "perhaps for lack of memory") from None
    except concurrent.futures.CancelledError:
        raise ValueError(f"the cluster at {address} was lost: start again") from None
    except ImportError as error:
        raise ValueError(f"the workers of --dask lack a package ({error}): install "
                         "requirements.txt where they run") from None


def connected(stack, distributed, address, workers):
    """-> a client with a worker at least; the stack closes it, and the cluster that it started."""
    if address == "local":
        with signals_wait():        # the workers are deaf to what a terminal sends to all
            cluster = stack.enter_context(distributed.LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL))
        return stack.enter_context(distributed.Client(cluster, set_as_default=False))
    try:        # first without a client, because one that nobody answers takes long to end
        asyncio.run(answered(distributed, address))
    except (OSError, ValueError, TypeError, MemoryError) as error:  # the last: not dask's language
        raise ValueError(f"--dask {address}: no scheduler answers in {PATIENCE} s; give the "
                         "address that `dask scheduler` prints, such as tcp://HOST:8786"
                         ) from error
    client = stack.enter_context(
        distributed.Client(address, timeout=PATIENCE, set_as_default=False))
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError:
        raise ValueError(f"--dask {address}: no worker came in {PATIENCE} s; start some, each by "
                         "`dask worker` and that address") from None
    return client


async def answered(distributed, address):
    """An error where nobody answers, where it is no scheduler, where the address is none."""
    keys = distributed.Security().get_connection_args("client")     # of dask's configuration
    comm = await distributed.comm.connect(address, timeout=PATIENCE, **keys)
    await comm.close()


def check_seen(client, paths):
    """ValueError where a worker does not see a path. One that dies meanwhile is not asked."""
    for worker, missing in client.run(unseen, paths, on_error="ignore").items():
        if missing:
            raise ValueError(f"the worker {worker} does not see {missing[0]}: --dask needs a file "
                             "system that all workers share")


# ---- on a worker ---------------------------------------------------------------------------------

def unseen(paths):
    """The paths that are not there."""
    return [path for path in paths if not os.path.exists(path)]


def task(project, setup, payload):
    """Finds this project, then goes to work."""
    import sys
    if project not in sys.path:
        sys.path.append(project)
    from corpora.cluster import work
    return work(setup, payload)


# These two travel as code, because neither a worker nor the scheduler knows this project yet:
# cloudpickle does so with what belongs to the main program.
unseen.__module__ = task.__module__ = "__main__"


def work(setup, payload):
    """The items of the payload through its function."""
    function, items = pickle.loads(payload)
    return function(tools_of(setup), items)


@functools.lru_cache(maxsize=4)     # of several runs on one cluster each has its own
def tools_of(setup):
    """What the workers work with, made once in each."""
    make_tools, parts = pickle.loads(setup)
    return make_tools(*parts)
