"""Run the workflow on a cluster, as a user would, and do something to it meanwhile."""

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import slurm
from running import ROOT, command, importing, write

PROFILE = ROOT / "workflow" / "profiles" / "slurm"
_QUICKLY = [
    *("--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1", "--latency-wait", "10"),
    # There is no accounting to guess an account from.
    "--slurm-no-account",
]


class Submitted:
    """A snakemake with the profile ``slurm``, in a session of its own, as in a terminal of its own."""

    def __init__(self, folder: Path, settings: dict[str, Any], *arguments: str, sync_seconds: float = 0.0) -> None:
        self.folder = folder
        words = command(folder, "--configfile", write(folder, settings), "--workflow-profile", str(PROFILE))
        # Of the machine where snakemake is called: what the cluster has is its own affair.
        cores = words.index("--cores")
        del words[cores : cores + 2]
        environment = importing(ROOT / "tests" / "support" / "slowly") | {"SYNC_SECONDS": str(sync_seconds)}
        with (folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                [*words, *_QUICKLY, *arguments],
                env=environment, cwd=folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                # A test runner in the background may have been told to ignore Ctrl-C; its children would be too.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )  # fmt: skip

    def said(self) -> str:
        """All that it has told the user."""
        return (self.folder / "output").read_text()

    def jobs(self) -> list[str]:
        """The numbers of the jobs that it has submitted, the last one last."""
        return re.findall(r"SLURM jobid (\d+)", self.said())

    def until_recorded(self, volume: str, blocks: int) -> None:
        """Wait until so many blocks of a volume are recorded; it must be in the middle then."""
        slurm.until(lambda: self.recorded(volume) >= blocks or self.process.poll() is not None, f"{blocks} blocks", 120)
        assert self.process.poll() is None, self.said()

    def recorded(self, volume: str) -> int:
        """Entries in the record."""
        place = self.folder / "results" / "small" / "predictions" / volume / "progress"
        return sum(log.read_bytes().count(b"}\n") for log in place.glob("*.jsonl"))

    def interrupt(self) -> None:
        """Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)

    def give_up(self) -> None:
        """End it and its jobs, if it has not ended."""
        if self.process.poll() is None:
            self.interrupt()
            self.process.wait(timeout=120)

    def end(self, seconds: float = 300.0) -> int:
        """The exit status."""
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"not finished within {seconds:.0f} s; in the queue: {slurm.queue()}\n{self.said()}"
            ) from None


def workers() -> list[str]:
    """The numbers of the worker jobs that run."""
    lines = slurm.said("squeue", "--noheader", "--states=RUNNING", "--format=%i %j").splitlines()
    return [number for number, _, name in (line.partition(" ") for line in lines) if name.startswith("unetpipe-")]


def until_empty(beside: Submitted | None = None) -> None:
    """Wait until no job is left but those of a snakemake that runs beside; TimeoutError if one stays."""
    slurm.until(lambda: not set(slurm.queue()) - set(beside.jobs() if beside else ()), "the queue to be empty")
