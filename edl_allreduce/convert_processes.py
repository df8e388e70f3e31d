"""Converting in several processes where that pays: the pool, and running a function over many items in it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from edl_allreduce.errors import EdlError
from edl_allreduce.table import Table

# For less input, starting processes takes longer than converting.
_WORTH_PROCESSES = 16 << 20

S = TypeVar("S")
T = TypeVar("T")


@contextmanager
def pool_for(table: Table, paths: Sequence[str], workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """Processes to convert with; None where one is enough."""
    workers = workers or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    divisible = table.splittable or len(paths) > 1
    if workers == 1 or not divisible or sum(map(table.size, paths)) < _WORTH_PROCESSES:
        yield None
        return
    # Not forked: the caller may have threads, of TensorFlow's or gRPC's, which do not survive that.
    context = multiprocessing.get_context("spawn")
    ignore_interrupts = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)  # the parent ends the work
    with ProcessPoolExecutor(workers, mp_context=context, initializer=ignore_interrupts) as pool:
        yield pool


def each(
    pool: ProcessPoolExecutor | None, function: Callable[[S], T], items: Sequence[S], done: Callable[[T], None]
) -> list[T]:
    """`function` of each item, in the order of items; `done` hears of each result as it is there.

    When one fails, the rest is not begun, and what is running is waited for.
    """
    if pool is None:
        results = []
        for item in items:
            results.append(function(item))
            done(results[-1])
        return results
    futures = [pool.submit(function, item) for item in items]
    try:
        for future in as_completed(futures):
            done(future.result())
        return [future.result() for future in futures]
    except BrokenProcessPool:
        raise EdlError(
            "a converting process ended unexpectedly: out of memory, or called from a script without "
            "`if __name__ == '__main__':`; --workers=1 converts in this process"
        ) from None
    finally:
        wait([future for future in futures if not future.cancel()])
