"""Worker processes on other machines: as SLURM jobs, or those of a Dask scheduler that runs already."""

import getpass
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
from distributed import Client, WorkerPlugin

from unetpipe.config import Slurm
from unetpipe.errors import UserError
from unetpipe.processes import BEHAVIOUR

_ANSWER_SECONDS = 60
"""For a scheduler to answer; and for a worker job to find the scheduler that it belongs to, or to find it gone."""

_OF_A_PROCESS_MB = 500
"""What a worker job gets beside what the plan allows its worker: the process that watches over the worker."""

log = logging.getLogger(__name__)


@contextmanager
def connect_slurm(
    settings: Slurm, workers: int, tasks: int, *, memory_mb: int, gpu: bool, folder: Path
) -> Iterator[Client]:
    """A client of ``workers`` SLURM jobs with ``tasks`` tasks at a time each.

    Those that wait in the queue join when they start; one that ends is replaced. All end with the block. Where this
    process is killed, they end within a minute, and those that still wait are cancelled when the next one begins.

    Parameters
    ----------
    memory_mb:
        Of a worker.
    gpu:
        Whether each gets a GPU.
    folder:
        What the jobs say goes into ``workers`` in it. Jobs of one folder have one name, by which those of an earlier
        process are found.

    Raises
    ------
    UserError
        If SLURM does not take such jobs.
    """
    # An extra of the package.
    from dask_jobqueue import SLURMCluster

    name = f"unetpipe-{hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:8]}"
    memory = f"{memory_mb + _OF_A_PROCESS_MB}M"
    place = folder / "workers"
    place.mkdir(parents=True, exist_ok=True)
    with dask.config.set({**BEHAVIOUR, "distributed.comm.timeouts.connect": f"{_ANSWER_SECONDS}s"}):
        cluster = SLURMCluster(
            queue=settings.partition,
            account=settings.account,
            # Dask takes cores for the number of tasks at a time.
            cores=tasks,
            processes=1,
            job_cpu=settings.cores,
            memory=f"{memory_mb + _OF_A_PROCESS_MB}MiB",
            job_mem=memory,
            walltime=f"{settings.walltime_minutes // 60:02}:{settings.walltime_minutes % 60:02}:00",
            interface=settings.interface,
            python=shlex.quote(sys.executable),
            job_name=name,
            log_directory=str(place),
            # Whoever reaches the scheduler can run what he likes, and others are on the cluster too: certificates for
            # this run alone, which only this user can read.
            security=True,
            shared_temp_directory=str(place.absolute()),
            death_timeout=_ANSWER_SECONDS,
            job_script_prologue=[
                f"export DASK_INTERNAL_INHERIT_CONFIG={dask.config.serialize(dask.config.global_config)}"
            ],
            worker_extra_args=["--no-dashboard"],
            job_extra_directives=["--export=ALL", *(["--gpus=1"] if gpu else []), *settings.options],
            scheduler_options={"dashboard_address": ":0"},
            silence_logs=logging.CRITICAL,
        )
        with cluster:
            _refuse_what_slurm_refuses(cluster.job_script())
            _cancel(name)
            cluster.adapt(minimum=workers, maximum=workers)
            with Client(cluster) as client:
                yield client


def _refuse_what_slurm_refuses(script: str) -> None:
    """UserError if no such job could ever run: otherwise it would be waited for in vain."""
    asked = "worker jobs were to be started on SLURM"
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        raise UserError(
            asked,
            "there is no sbatch on this machine",
            "set predict.cluster to `local`, or predict where jobs can be started",
        )
    found = subprocess.run(  # noqa: S603 – SLURM's own command
        [sbatch, "--test-only"], input=script, capture_output=True, text=True, check=False
    )
    if found.returncode:
        said = found.stderr.strip().splitlines() or [f"status {found.returncode}"]
        raise UserError(
            asked, f"SLURM refuses them: {said[-1]}", "change predict.slurm, and see `sinfo` for what there is"
        )


def _cancel(name: str) -> None:
    """End the jobs of an earlier process that was killed: there is one process for a prediction at a time."""
    command = ["scancel", f"--user={getpass.getuser()}", f"--name={name}"]
    subprocess.run(command, capture_output=True, check=False)  # noqa: S603 – SLURM's own


@contextmanager
def connect_scheduler(address: str) -> Iterator[Client]:
    """A client of a Dask scheduler at ``address``, whose workers see the same files as this process.

    Its workers are left as they are found, but for their working directory, which becomes that of this process.

    Raises
    ------
    UserError
        If there is no scheduler, or it has no workers.
    """
    asked = f"blocks were to be computed by the workers of {address}"
    repair = "start a scheduler and workers, or change predict.cluster"
    try:
        client = Client(address, timeout=_ANSWER_SECONDS)
    except (OSError, TimeoutError) as error:
        raise UserError(asked, f"no Dask scheduler answers there ({error})", repair) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=_ANSWER_SECONDS)
        except TimeoutError:
            raise UserError(asked, f"it has no worker, and got none in {_ANSWER_SECONDS} s", repair) from None
        try:
            client.register_plugin(_At(Path.cwd()))
        except FileNotFoundError:
            raise UserError(
                asked,
                f"they do not see the folder {Path.cwd()}",
                "start workers on machines that share a file system with this one",
            ) from None
        yield client


class _At(WorkerPlugin):
    """Relative addresses count from the working directory of the process that leads."""

    name = "unetpipe-at"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def setup(self, worker: Any) -> None:  # noqa: ARG002 – Dask's signature
        os.chdir(self._folder)
