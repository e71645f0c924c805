"""A pool of worker processes that ends with its parent and keeps memory bounded.

The workers are spawned, because fork would copy the caller's threads and locks. They import what
their command imports: never JAX, so that they start in a blink.
"""
from harness.cli import signals_wait

import collections
import concurrent.futures
import contextlib
import functools
import multiprocessing.connection
import os
import threading
from typing import NamedTuple

STOP = None     # of a worker: the event that the parent sets when the run is over before its end
TOOLS = None    # of a worker: what make_tools(*args) gave


class Pool(NamedTuple):
    """Workers, wherever they are."""
    submit: object      # (function, items) -> a future of function(tools, items)
    workers: int
    batch: int = 2 ** 18    # bytes of files at once: work for some 0.04 s, little to keep in flight


@contextlib.contextmanager
def worker_pool(workers, make_tools, *args):
    """A Pool of processes on this machine, each of which has called make_tools(*args).

    ValueError where a worker was killed. However the block ends, no worker stays."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, context, start_worker, (stop, make_tools, args))
    try:
        with signals_wait():
            for _ in range(workers):    # each call starts a process
                pool.submit(int)
        threading.Thread(target=end_with_a_worker, args=(pool, stop), daemon=True).start()
        yield Pool(functools.partial(pool.submit, unless_stopped), workers)
    except concurrent.futures.BrokenExecutor:
        for process in multiprocessing.active_children():   # the others, for which it waits
            process.kill()
        raise ValueError("a process that tokenizes was killed, perhaps for lack of memory: try "
                         "fewer --workers") from None
    finally:
        stop.set()
        with contextlib.suppress(OSError):      # end_with_a_worker may just have closed its queue
            pool.shutdown(cancel_futures=True)


def end_with_a_worker(pool, stop):
    """Where a worker is killed halfway through an answer, its rest would be waited for without end,
    because others could still write it: they are killed, and our own end is closed."""
    processes, answers = pool._processes, pool._result_queue._writer   # no public way leads there
    multiprocessing.connection.wait([process.sentinel for process in processes.values()])
    if not stop.is_set():
        for process in list(processes.values()):
            process.kill()
        if not stop.wait(1):    # mostly the pool has noticed, and closes it itself
            answers.close()


def start_worker(stop, make_tools, args):
    """Runs once in each worker, which leaves when its parent was killed."""
    global STOP, TOOLS
    STOP = stop
    TOOLS = make_tools(*args)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def unless_stopped(function, items):
    """Worker: function(TOOLS, items), or [] where the run is over."""
    return [] if STOP.is_set() else function(TOOLS, items)


def bounded_map(pool, function, batches):
    """Yields (batch, function(tools, batch)), two lists, for each batch, in order. At most four a
    worker are on the way, because `batches` may be endless and memory is not."""
    pending = collections.deque()
    for batch in batches:
        pending.append((batch, pool.submit(function, batch)))
        if len(pending) >= 4 * pool.workers:
            batch, future = pending.popleft()
            yield batch, future.result()
    for batch, future in pending:
        yield batch, future.result()


def batched(documents, size):
    """Documents -> lists of about `size` bytes together."""
    batch, total = [], 0
    for document in documents:
        batch.append(document)
        total += document.size + 1024
        if total >= size:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
