"""Worker processes on this machine."""

import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import dask
from distributed import Client, LocalCluster, WorkerPlugin

from unetpipe.errors import UserError

_ATTEMPTS = 3
"""To start them."""

BEHAVIOUR: dict[str, Any] = {
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
"""Settings of Dask for work that :mod:`unetpipe.cluster` hands out."""

log = logging.getLogger(__name__)


@contextmanager
def connect(workers: int, threads: int = 1, gpus: Sequence[str] = ()) -> Iterator[Client]:
    """A client of ``workers`` local processes with ``threads`` tasks at a time each.

    ``gpus``: for each process the GPU that it sees, as CUDA_VISIBLE_DEVICES has it; all that there are where empty.

    They end with the block; at once if it ends with an error. A process that dies is replaced. Processes whose parent
    is killed end by themselves.

    Raises
    ------
    UserError
        If they cannot be started.
    """
    with (
        dask.config.set(BEHAVIOUR),
        _start(workers, threads) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(_Deaf())
        if gpus:
            client.register_plugin(_Sees(gpus))
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


class _Sees(WorkerPlugin):
    """Each process has a GPU of its own, and so has the one that replaces it. CUDA asks when it is first used."""

    name = "sees"

    def __init__(self, gpus: Sequence[str]) -> None:
        self._gpus = tuple(gpus)

    def setup(self, worker: Any) -> None:
        os.environ["CUDA_VISIBLE_DEVICES"] = self._gpus[int(worker.name)]


def end_worker(client: Client, address: str, name: Any) -> None:
    """End a worker at once, to be replaced: here by its number, elsewhere by the process that watches over it."""
    if isinstance(client.cluster, LocalCluster):
        kill(client.cluster.workers[name].pid)
    else:
        # Its machine may be the one that hangs: then nobody can end it, and nobody waits for that.
        client.run(_kill_its_worker, workers=[address], nanny=True, wait=False, on_error="ignore")


async def _kill_its_worker(dask_worker: Any) -> None:
    # Asynchronous, since Dask waits for all that is not.
    kill(dask_worker.pid)


def kill(pid: int | None) -> None:
    """End a process at once, if it is there."""
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
