"""Who computes the blocks of a prediction: processes of this machine, SLURM jobs, or a Dask scheduler's workers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from distributed import Client

from unetpipe import gpus
from unetpipe.config import Slurm
from unetpipe.elsewhere import connect_scheduler, connect_slurm
from unetpipe.layout import IN_FLIGHT
from unetpipe.measure import split_cores
from unetpipe.processes import connect
from unetpipe.stop import Stop


@dataclass(frozen=True)
class Where:
    """What the settings say of it, and what is known of this machine.

    Attributes
    ----------
    cluster, slurm, workers, memory_mb:
        As in the settings ``predict``.
    cores:
        CPU cores of this machine for the workers.
    gpu:
        Whether a worker job gets a GPU.
    on_gpus:
        Whether the engine uses the GPUs of the machine that it runs on.
    folder:
        For what worker jobs say.
    """

    cluster: str
    slurm: Slurm
    workers: int | None
    cores: int
    memory_mb: int
    gpu: bool
    on_gpus: bool
    folder: Path

    @property
    def usual(self) -> tuple[int, int]:
        """Workers, and the threads of each, if nothing else is known."""
        if self.cluster == "slurm":
            return self.slurm.workers, self.slurm.cores
        return split_cores(self.workers, self.cores, gpus.visible() if self.on_gpus else ())

    @contextmanager
    def connected(self, blocks: int, stop: Stop) -> Iterator[tuple[Client, int, int] | None]:
        """A client for so many blocks, the number of workers, and the threads of each.

        None if it was asked to stop while it waited for a GPU that nobody else has.

        Raises
        ------
        UserError
            If there can be no workers.
        """
        count, threads = self.usual
        if self.cluster == "slurm":
            count = min(count, blocks)
            memory, gpu = self.memory_mb, self.gpu
            with connect_slurm(self.slurm, count, IN_FLIGHT, memory_mb=memory, gpu=gpu, folder=self.folder) as client:
                yield client, count, threads
        elif self.cluster != "local":
            with connect_scheduler(self.cluster) as client:
                there = client.scheduler_info(n_workers=-1)["workers"].values()
                # So many were meant to be busy; a thread that reads or writes is not.
                yield client, len(there), min(facts["nthreads"] for facts in there)
        elif self.on_gpus and (cards := gpus.visible()):
            with gpus.taken(cards, min(count, blocks), stop) as mine:
                if not mine:
                    yield None
                    return
                with connect(len(mine), IN_FLIGHT, [card.word for card in mine]) as client:
                    yield client, len(mine), max(1, self.cores // len(mine))
        else:
            with connect(min(count, blocks), IN_FLIGHT) as client:
                yield client, count, threads
