"""Worker processes on this machine."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import dask
from distributed import Client, LocalCluster, WorkerPlugin

from unetpipe.errors import UserError

_ATTEMPTS = 3
"""To start them."""

log = logging.getLogger(__name__)


@contextmanager
def connect(workers: int, threads: int = 1) -> Iterator[Client]:
    """A client of ``workers`` local processes with ``threads`` tasks at a time each.

    They end with the block; at once if it ends with an error. A process that dies is replaced. Processes whose parent
    is killed end by themselves.

    Raises
    ------
    UserError
        If they cannot be started.
    """
    with (
        dask.config.set(
            {
                # Peak memory is bounded by block and tile; Dask's own limits would pause or kill a worker on a hunch.
                "distributed.worker.memory.target": False,
                "distributed.worker.memory.spill": False,
                "distributed.worker.memory.pause": False,
                "distributed.worker.memory.terminate": False,
                # What is tried again, and where, is decided here.
                "distributed.scheduler.allowed-failures": 0,
                "distributed.scheduler.work-stealing": False,
                # Dask looks at itself so often that it took one part in twenty of two processors.
                "distributed.worker.profile.enabled": False,
                "distributed.admin.tick.interval": "1s",
                "distributed.admin.system-monitor.interval": "5s",
            }
        ),
        _start(workers, threads) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(_Deaf())
        try:
            yield client
        except BaseException:
            # Nobody wants what they compute: do not wait for it.
            for nanny in cluster.workers.values():
                nanny.close_gracefully()
                kill(nanny.pid)
            raise


def _start(workers: int, threads: int) -> LocalCluster:
    """The processes. Where one dies before all are there, Dask ends the others: they are started again."""
    error: RuntimeError | None = None
    for _ in range(_ATTEMPTS):
        try:
            return LocalCluster(
                n_workers=workers,
                threads_per_worker=threads,
                processes=True,
                host="127.0.0.1",
                # Any free port: with None it would be 8787 for all, and two jobs on one machine would collide.
                dashboard_address="127.0.0.1:0",
                memory_limit=0,
                # Workers would log what a task raises, traceback and all; it is raised again where the task came from.
                silence_logs=logging.CRITICAL,
            )
        except RuntimeError as failed:
            error = failed
            log.warning("a worker process ended while it was started (%s)", failed)
    raise UserError(
        f"{workers} worker processes were to be started on this machine",
        f"in {_ATTEMPTS} attempts, one of them died at once ({error})",
        "see whether this machine is out of memory or processes, and run again; what is finished is kept",
    )


class _Deaf(WorkerPlugin):
    """A terminal and a batch system signal all processes of a job; only the one that leads the work answers."""

    name = "deaf"

    def setup(self, worker: Any) -> None:  # noqa: ARG002 – Dask's signature
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)


def kill(pid: int | None) -> None:
    """End a process at once, if it is there."""
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
