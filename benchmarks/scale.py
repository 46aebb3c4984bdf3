"""What size costs: memory for 1 and 64 GiB, a million blocks of which most are empty, and the time to the first one."""

import math
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zarr

from benchmarks.identity import CLASSES, NETWORK, make_engine
from benchmarks.rows import Row, Rows
from benchmarks.running import command_of
from benchmarks.setting import CORES, VOXEL_SIZE_NM
from unetpipe.allocate import allocate
from unetpipe.data.ingest import ingest
from unetpipe.files import read_json
from unetpipe.grid import Shape
from unetpipe.progress import record_beside

_SIZES: tuple[Shape, Shape] = ((16, 8192, 8192), (1024, 8192, 8192))
"""Of volumes of 1 and of 64 GiB."""

_OF_A_TILE = 1024
_CHUNK = 128

SPARSE: Shape = (10240, 10240, 10240)
"""Of more than 10**12 voxels."""

_KEPT = 320
"""By a tile of it along y and x, so that there are more than a million blocks."""

_CLUSTERS = 24
"""Places in it where chunks are stored: 2 x 2 x 2 of them."""

_DENSE: Shape = (128, 2 * _KEPT, 2 * _KEPT)
"""Of which all is stored: 64 such blocks."""

_SAMPLE_SECONDS = 0.1


class _Run:
    """`predict` in a process of its own, and the most memory that each of its processes has held, in bytes."""

    def __init__(self, allocated: Path, certificate: Path) -> None:
        self.peaks: dict[int, int] = {}
        self._started = time.time()
        with subprocess.Popen(
            command_of(allocated, certificate, workers=CORES, cores=CORES), stdout=subprocess.DEVNULL
        ) as process:
            watcher = threading.Thread(target=self._watch, args=(psutil.Process(process.pid),))
            watcher.start()
            self.status = process.wait()
            watcher.join()
        self.seconds = time.time() - self._started
        if self.status:
            raise subprocess.CalledProcessError(self.status, process.args)
        self.job: dict[str, Any] = read_json(allocated.parent / "job-0.json")
        entries = record_beside(read_json(allocated)["probability"]).entries()
        begun = [entry["finished"] - sum(entry["seconds"].values()) for entry in entries]
        self.first = min(begun) - self._started

    def _watch(self, process: psutil.Process) -> None:
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            for each in (process, *process.children(recursive=True)):
                self.peaks[each.pid] = max(self.peaks.get(each.pid, 0), _peak(each.pid))
            time.sleep(_SAMPLE_SECONDS)

    @property
    def memory(self) -> int:
        """Of all processes."""
        return sum(self.peaks.values())


def _peak(pid: int) -> int:
    """The most that a process has held so far; 0 if it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return 1024 * int(lines.get("VmHWM", "0 kB").split()[0])


def memory(sizes: tuple[Shape, Shape] = _SIZES, kept: int = _OF_A_TILE) -> Rows:
    """The sum of the peak memory of all processes: of the larger volume over that of the smaller one.

    One chunk of the images is stored, and all voxels are computed all the same: read, cropped, encoded and written.
    """
    with tempfile.TemporaryDirectory() as folder:
        certificate = make_engine(Path(folder, "engine"))
        small, large = (_predicted(Path(folder), certificate, size, [(0, 0, 0)], kept, "compute") for size in sizes)
    what, against = (f"{math.prod(size) / 2**30:.3g} GiB" for size in reversed(sizes))
    rate = large.job["voxels"] / large.seconds / 1e6
    beside = f"{large.memory / 2**20:,.0f} MB in all; {large.job['blocks']:,} blocks, {rate:.0f} Mvox/s"
    found = (large.memory / small.memory,) * 3
    return [Row(f"memory of all processes, {what}", against, found, 1.05, beside, f"memory of {what} over {against}")]


def blocks(shape: Shape = SPARSE, clusters: int = _CLUSTERS) -> Rows:
    """A volume of which almost nothing is stored."""
    places = np.random.default_rng(0).integers(0, [n // _CHUNK - 2 for n in shape], (clusters, 3))
    stored = [tuple((place + np.array(step)).tolist()) for place in places for step in np.ndindex(2, 2, 2)]
    with tempfile.TemporaryDirectory() as folder:
        certificate = make_engine(Path(folder, "engine"))
        run = _predicted(Path(folder), certificate, shape, stored, _KEPT, "skip")
        whole = list(np.ndindex(*(math.ceil(n / _CHUNK) for n in _DENSE)))
        dense = _predicted(Path(folder), certificate, _DENSE, whole, _KEPT, "skip")
    empty, computed = run.job["skipped"], run.job["blocks"]
    rate = empty / run.seconds
    what = f"{math.prod(shape) / 1e12:.2f} x 10^12 voxels, {empty:,} empty blocks and {computed:,} others"
    return [
        Row(f"{what}: empty blocks a second", "", (rate,) * 3, 2000, f"{run.seconds:.1f} s in all", "empty blocks/s"),
        Row(f"{what}: seconds to the first block", "", (run.first,) * 3, 10, "", "seconds to the first block"),
        Row(
            f"{what}: memory of all processes",
            f"of a volume of {dense.job['blocks']} blocks",
            (run.memory / dense.memory,) * 3,
            1.05,
            f"{run.memory / 2**20:,.0f} MB in all",
        ),
    ]


def _predicted(folder: Path, certificate: Path, shape: Shape, stored: list[Any], kept: int, absent: Any) -> _Run:
    """The prediction of an image in chunks of 128^3, of which those at the places ``stored`` are there."""
    place = folder / "x".join(map(str, shape))
    image = zarr.create_array(
        place / "image.zarr", shape=shape, dtype="uint8", chunks=[min(_CHUNK, n) for n in shape], zarr_format=3
    )
    noise = np.random.default_rng(1).integers(60, 200, image.chunks, np.uint8)
    for index in stored:
        image.blocks[index] = noise
    volume, allocated = place / "volumes" / "v" / "volume.json", place / "predictions" / "v" / "allocated.json"
    ingest(
        image=str(place / "image.zarr"), labels=None, volume=volume, name="v", sections=None,
        voxel_size_nm=VOXEL_SIZE_NM, range=None, label_values={}, ignore=[], cores=CORES,
    )  # fmt: skip
    allocate(
        volume, certificate, allocated, classes=list(CLASSES), batch=1, on_change="refuse", workers=CORES, cores=CORES,
        tile=list(NETWORK.geometry.tile_for((1, kept, kept))), absent=absent, block_seconds=600,
    )  # fmt: skip
    return _Run(allocated, certificate)
