"""A prediction on its way, in processes that can be killed."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_HANGS_SECONDS = 120.0
_GONE_SECONDS = 30.0

_SCRIPT = Path(__file__).with_name("slow_disk.py")


class Offence(Exception):  # noqa: N818 – it is the program's, not an error of this one
    """What differs from a run that nobody has killed."""


@dataclass(frozen=True)
class Unbroken:
    """What all runs share, and what came of one that nobody has killed.

    ``bucket``: where predictions go; None for folders on disk. ``files``: of the store. ``others``: the names of all
    other files that are left, logs of the record left out.
    """

    certificate: Path
    volume: Path
    bucket: str | None
    sync_seconds: float
    seconds: float
    digest: str
    files: Mapping[str, bytes]
    others: frozenset[str]


class Processes:
    """A prediction on its way: the process that leads it, and its workers, in a group of their own."""

    def __init__(self, unbroken: Unbroken, folder: Path) -> None:
        self.folder = folder
        self.start = time.monotonic()
        with (folder / "log").open("ab") as out:
            self.driver = subprocess.Popen(
                [sys.executable, _SCRIPT, allocated_in(folder), unbroken.certificate, str(unbroken.sync_seconds)],
                start_new_session=True, env=os.environ | {"TMPDIR": str(folder / "tmp")},
                stdout=out, stderr=out,
            )  # fmt: skip

    def over(self, seconds: float = 0.0) -> bool:
        """Whether the driver ends within so many seconds."""
        with suppress(subprocess.TimeoutExpired):
            self.driver.wait(seconds)
        return self.driver.poll() is not None

    def kill(self, who: str, chance: random.Random) -> bool:
        """Kill a worker, the driver or everyone; False if there was nobody left.

        A worker cannot be killed before there is one.
        """
        while not self.over():
            if who == "driver":
                self.driver.kill()
                return True
            if who == "everyone":
                os.killpg(self.driver.pid, signal.SIGKILL)
                return True
            if workers := self._workers():
                with suppress(psutil.NoSuchProcess):
                    chance.choice(workers).kill()
                    return True
            time.sleep(0.01)
        return False

    def end(self) -> None:
        """Wait for the end. Offence if it is not a good one."""
        if not self.over(_HANGS_SECONDS):
            raise Offence(f"it hangs: not finished within {_HANGS_SECONDS:.0f} s")
        if self.driver.returncode != 0:
            raise Offence(f"it ended with status {self.driver.returncode}")
        self.gone()

    def gone(self) -> None:
        """Wait until the whole group is gone. Offence if a process stays behind."""
        self.driver.wait()
        latest = time.monotonic() + _GONE_SECONDS
        while left := list(self._group()):
            if time.monotonic() > latest:
                raise Offence(f"left behind {_GONE_SECONDS:.0f} s after the driver's end: {left}")
            time.sleep(0.02)

    def destroy(self) -> None:
        """Leave nothing behind, whatever happened."""
        with suppress(ProcessLookupError):
            os.killpg(self.driver.pid, signal.SIGKILL)
        self.driver.wait()

    def _group(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                # Where nobody waits for orphans, they stay zombies.
                if os.getpgid(process.pid) == self.driver.pid and process.status() != psutil.STATUS_ZOMBIE:
                    yield process

    def _workers(self) -> list[psutil.Process]:
        """The other children keep books."""
        found = []
        for process in self._group():
            with suppress(psutil.NoSuchProcess):
                if "spawn_main" in " ".join(process.cmdline()):
                    found.append(process)
        return found


def allocated_in(folder: Path) -> Path:
    return folder / "prediction" / "allocated.json"
