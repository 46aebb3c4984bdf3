"""Prediction on more than one machine."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, StringConstraints

from unetpipe.config.types import Model, Positive

Word = Annotated[str, StringConstraints(pattern=r"^[^\s'\"]+$")]
"""What the batch system calls something, or one option for it: a single word of a shell, without quotes."""

Cluster = Annotated[str, StringConstraints(pattern=r"^(local|slurm|(tcp|tls)://[^\s/]+:\d+)$")]
"""Where worker processes are."""


class Slurm(Model):
    """Worker jobs of `predict.cluster: slurm`: each is one process that computes blocks, on a GPU of its own if any."""

    workers: Positive = Field(
        4, description="worker jobs; fewer where there are fewer blocks. What waits in the queue joins when it starts"
    )
    cores: Positive = Field(4, description="CPU cores of a worker job")
    walltime_minutes: Positive = Field(
        240, description="of a worker job; one that ends is replaced, and what it had in hand is computed by others"
    )
    partition: Word | None = Field(None, description="of the worker jobs; that of the cluster where left out")
    account: Word | None = Field(None, description="of the worker jobs; that of the cluster where left out")
    interface: Word | None = Field(
        None, description="the network between nodes, as `ip link` names it, such as ib0; Dask chooses where left out"
    )
    options: list[Word] = Field([], description="more options for sbatch, such as `--constraint=h100`")


@dataclass(frozen=True)
class Spread:
    """Machines that predict a volume at the same time; of each, worker processes and CPU cores, None to choose."""

    machines: int
    workers: int | None
    cores: int | None
