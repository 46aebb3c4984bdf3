"""A prediction to try: a small engine, an empty store with a plan of many blocks, and what a run leaves behind."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import zarr
from certificates import write_certificate
from distributed import Client
from engines import make_engine_in
from numpy.typing import NDArray
from onnx_unet import CLASSES, unet

import unetpipe
from unetpipe import cluster, compute, config, spread
from unetpipe.arrays import open_array
from unetpipe.engines import device_class
from unetpipe.files import read_json, write_json
from unetpipe.grid import Plan, Shape
from unetpipe.predict import predict
from unetpipe.processes import connect
from unetpipe.progress import Record, record_beside
from unetpipe.storage import folder_at, join
from unetpipe.volume import LEVEL, VolumeFile, create

GEOMETRY = config.Network(depth=2).geometry
SHAPE = (30, 90, 75)
TILE = (1, 64, 64)
BLOCK = (5, 24, 48)
"""Of the small volume: 6 x 4 x 2 blocks."""


def noise(shape: Shape = SHAPE, seed: int = 2) -> NDArray[np.uint8]:
    """A volume of which no two blocks are alike."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def make_engine(backend: str, folder: Path, seed: int = 0, **network: Any) -> Path:
    """A certificate beside an engine: a U-Net with random weights and two poolings, ``network`` its other settings."""
    model = unet([6, 8, 12], seed, **network)
    (folder / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    make_engine_in(folder, folder / "model.onnx", backend)
    geometry = config.Network.model_validate({"depth": 2, **network}).geometry
    return write_certificate(folder, geometry, device_class=device_class(backend), backend=backend)


def start(
    certificate: Path,
    volume: Path,
    folder: Path,
    block: Shape = BLOCK,
    batch: int = 2,
    plan: Plan | None = None,
    mirror: Sequence[str] = (),
    store: str | None = None,
) -> Path:
    """The allocated.json of an empty prediction, with a plan that no machine's speed has a part in.

    ``store``: the address of the folder for the store, where that is not ``folder``.
    """
    source = VolumeFile.read(volume)
    proof = read_json(certificate)
    plan = plan or Plan(source.shape, TILE, block, block, batch, GEOMETRY)
    key = {
        "input": source.identity(),
        "engine": proof["engine_digest"],
        "backend": proof["backend"],
        "device_class": proof["device_class"],
        "plan": asdict(plan),
        "version": unetpipe.__version__,
        **({"mirror": list(mirror)} if mirror else {}),
    }
    probability = join(store or str(folder), "probability.zarr")
    Record.open(record_beside(probability).place.address, key, "refuse", source.name)
    create(
        folder_at(probability),
        shape=(len(CLASSES), *plan.shape),
        dtype="uint8",
        chunk=(1, *plan.chunk),
        shard=(len(CLASSES), *plan.block),
        voxel_size_nm=source.voxel_size_nm,
        channels=CLASSES,
    )
    write_json(
        folder / "allocated.json",
        {
            "volume": source.name,
            "volume_file": str(volume),
            "probability": probability,
            "array": LEVEL,
            "classes": CLASSES,
            "key": json.loads(json.dumps(key)),
            "plan": {**asdict(plan), "blocks": math.prod(plan.block_counts)},
        },
    )
    return folder / "allocated.json"


def in_small_chunks(volume: Path, copy: Path) -> Path:
    """Let a volume be read from a copy that has a file for each 5 x 24 x 48 voxels."""
    source = VolumeFile.read(volume)
    image = zarr.create_array(copy, shape=source.shape, chunks=(5, 24, 48), dtype=source.dtype)
    image[...] = open_array(source.image)[...]
    replace(source, image=str(copy)).write(volume)
    return volume


def finish(
    certificate: Path, allocated: Path, workers: int | None = 1, cores: int = 1, **settings: Any
) -> dict[str, Any]:
    """Run it to its end, in this process; gives the JSON of the job."""
    done = allocated.parent / "job-0.json"
    predict(allocated, certificate, done, job="job-0", workers=workers, cores=cores, **settings)
    result: dict[str, Any] = read_json(done)
    return result


def forget() -> None:
    """Let this process open prediction and engine anew."""
    compute._open.cache_clear()
    compute._engine.cache_clear()


def _busy(dask_worker: Any) -> bool:
    """Whether a worker has anything to do, or to begin."""
    state = dask_worker.state
    return bool(state.executing or state.ready or state.long_running or dask_worker.active_threads)


@contextmanager
def at_hand() -> Iterator[None]:
    """Let runs in this process find their workers, one or two, without a start, and try again without a pause."""
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        clients: dict[int, Client] = {}

        @contextmanager
        def connected(workers: int, threads: int) -> Iterator[Client]:
            if workers not in clients:
                clients[workers] = stack.enter_context(connect(workers, threads))
            client = clients[workers]
            # As processes that have just been started, they know nothing of an earlier run.
            client.run(forget)
            try:
                yield client
            finally:
                # They are not killed, as after a real run: what they have begun must not go on beside the next run.
                while any(client.run(_busy).values()):
                    time.sleep(0.01)

        patch.setattr(spread, "connect", connected)
        patch.setattr(cluster, "_PAUSE_SECONDS", 0.02)
        yield


_CODE = """
import sys
from pathlib import Path
from types import SimpleNamespace
if __name__ == "__main__":
    from unetpipe import rule
    from unetpipe.predict import predict
    certificate, allocated, log, settings = *sys.argv[1:4], eval(sys.argv[4])
    rule.run(
        SimpleNamespace(
            rule="predict", wildcards=["v"], threads=2, log=[log],
            input={"allocated": allocated, "certificate": certificate},
            output={"done": str(Path(allocated).parent / "job-0.json")},
            params={"job": "job-0", "workers": 2, **settings},
        ),
        predict,
    )
"""


class Run:
    """It, as the rule runs it: a process of its own with two workers, in a group of their own.

    ``folder``: where script and log lie.
    """

    def __init__(self, certificate: Path, allocated: Path, folder: Path, **settings: Any) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "run.py").write_text(_CODE)
        self._log = folder / "run.log"
        self.allocated = allocated
        self._record = record_beside(store(allocated.parent))
        self._earlier = set(self._record.logs())
        self.process = subprocess.Popen(
            [sys.executable, folder / "run.py", certificate, allocated, self._log, repr(settings)],
            start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def until(self, blocks: int) -> None:
        """Wait until so many more blocks are recorded, by each of its workers; it must be in the middle then."""
        place = self._record.place
        while sum(place.read(log).count(b"}\n") >= blocks for log in set(place.logs()) - self._earlier) < 2:
            assert self.process.poll() is None, self.log()
            time.sleep(0.005)
        assert self.process.poll() is None, "it was over too soon"

    def workers(self) -> list[psutil.Process]:
        """Its worker processes; its other children only keep books."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]

    def end(self) -> int:
        """The exit status, when it and its workers are gone."""
        status = self.process.wait(timeout=240)
        while self._group():
            time.sleep(0.01)
        return status

    def _group(self) -> bool:
        """Whether any process of its group is left."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def log(self) -> str:
        """What it told the user."""
        return self._log.read_text()


def store(folder: Path) -> str:
    """The address of the store."""
    address: str = read_json(folder / "allocated.json")["probability"]
    return address


def shards(folder: Path) -> dict[str, bytes]:
    """Every object of the store."""
    place = folder_at(store(folder))
    return {entry.name: place.read(entry.name) for entry in place.entries()}


def recorded(folder: Path) -> Iterator[str]:
    """The names in the record, one for each entry."""
    for entry in record_beside(store(folder)).entries():
        yield entry["name"]


def stored(folder: Path) -> "zarr.Array[Any]":
    """What was predicted: (c, z, y, x)."""
    return zarr.open_array(folder / "probability.zarr" / LEVEL, mode="r")
