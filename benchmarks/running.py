"""`predict` as a user runs it: in a process of its own, whose seconds are counted."""

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from unetpipe.files import read_json
from unetpipe.progress import record_beside


@dataclass(frozen=True)
class Ran:
    """A prediction.

    ``seconds``: from the call of `predict` to its end: with the start of workers, and the compilation of the engine in
    each. ``running``: from when the first block began to be read to when the last one was recorded. ``cpu``: seconds of
    all processes together, with their start. ``between``: the median from the end of a block to that of the next; 0 of
    one block. ``done``: what `predict` wrote at the end.
    """

    seconds: float
    running: float
    cpu: float
    between: float
    done: dict[str, Any]


def run(allocated: Path, certificate: Path, *, workers: int | None, cores: int) -> Ran:
    """Predict what is allocated."""
    done = allocated.parent / "job-0.json"
    command = command_of(allocated, certificate, workers=workers, cores=cores)
    told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    entries = record_beside(str(allocated.parent / "probability.zarr")).done().values()
    ends = sorted(entry["finished"] for entry in entries)
    between = statistics.median(b - a for a, b in pairwise(ends)) if len(ends) > 1 else 0.0
    began = min(entry["finished"] - sum(entry["seconds"].values()) for entry in entries)
    return Ran(told["seconds"], ends[-1] - began, told["cpu"], between, read_json(done))


def command_of(allocated: Path, certificate: Path, *, workers: int | None, cores: int) -> list[str]:
    """In a process of its own: workers import what the process that starts them was called with."""
    words = [*map(str, (allocated, certificate, allocated.parent / "job-0.json")), json.dumps(workers), str(cores)]
    return [sys.executable, "-c", _PREDICT, *words]


_PREDICT = """
import json, resource, sys, time
from pathlib import Path
from unetpipe.predict import predict

start = time.perf_counter()
predict(*map(Path, sys.argv[1:4]), job="job-0", workers=json.loads(sys.argv[4]), cores=int(sys.argv[5]))
seconds = time.perf_counter() - start
spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps({"seconds": seconds, "cpu": sum(used.ru_utime + used.ru_stime for used in spent)}))
"""
