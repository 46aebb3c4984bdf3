"""A Dask client, and work on many pieces through a bounded window."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

import dask
from distributed import Client, LocalCluster, as_completed

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def connect(workers: int) -> Iterator[Client]:
    """A client of ``workers`` local processes with one task at a time each; they end with the block."""
    with (
        dask.config.set(
            {
                # Peak memory is bounded by block and tile; Dask's own limits would pause or kill a worker on a hunch.
                "distributed.worker.memory.target": False,
                "distributed.worker.memory.spill": False,
                "distributed.worker.memory.pause": False,
                "distributed.worker.memory.terminate": False,
                "distributed.scheduler.allowed-failures": 3,
            }
        ),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            # Any free port: with None it would be 8787 for all, and two jobs on one machine would collide.
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
            # Workers would log what a task raises, traceback and all; it is raised again where the task came from.
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def for_each(
    client: Client, function: Callable[[T], R], items: Iterable[T], *, window: int | None = None
) -> Iterator[R]:
    """Results of ``function`` for each item, in the order in which they are finished.

    Only ``window`` items (default: four per worker) are known to the scheduler at any time, so that its memory does
    not grow with their number. The function and its results should be small: hand over addresses, not arrays.

    Raises whatever ``function`` raises, for the first item that fails.
    """
    pending = iter(items)
    size = window or 4 * max(1, len(client.scheduler_info(n_workers=-1)["workers"]))

    def submit(count: int) -> list[Any]:
        return [client.submit(function, item, pure=False) for item in islice(pending, count)]

    running = as_completed(submit(size))
    for future in running:
        result: R = future.result()
        future.release()
        for new in submit(1):
            running.add(new)
        yield result
