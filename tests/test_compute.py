"""A worker's block: what it computes, what it may leave out, and what it leaves on the disk."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import predicting
import pytest
import zarr
from numpy.typing import NDArray
from predicting import GEOMETRY, TILE

from unetpipe import compute
from unetpipe.arrays import open_array
from unetpipe.compute import Device, ReadError, Task, compute_block
from unetpipe.engines import Engine, load_engine, mirrored
from unetpipe.errors import UserError
from unetpipe.grid import Block, Plan
from unetpipe.progress import Record
from unetpipe.volume import Image, VolumeFile


class Fake(Engine):
    """Gives (value, phase along y and x) per voxel, counts its tiles, and has memory for ``room`` tiles a call."""

    def __init__(self, batch: int, room: int = 99, error: Exception | None = None) -> None:
        super().__init__("fake", "none", (batch, *TILE))
        self.room, self.error = room, error
        self.tiles = 0
        self.closed = False

    def _stream(self, batches: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        for batch in batches:
            if len(batch) > self.room:
                raise self.error or MemoryError()
            self.tiles += len(batch)
            y, x = GEOMETRY.output(TILE)[1:]
            kept = batch[:, None, :, 20 : 20 + y, 20 : 20 + x]
            phase = (np.arange(y) % 4)[:, None] + (np.arange(x) % 4)
            yield np.concatenate([np.abs(np.sin(kept)) ** (1 + phase), kept * 0 + phase / 8], axis=1).astype(np.float32)

    def close(self) -> None:
        self.closed = True


def plan_of(shape: tuple[int, int, int], batch: int = 3) -> Plan:
    return Plan(shape, TILE, (2, 48, 48), (2, 48, 48), batch, GEOMETRY)


def whole(device: Device, image: NDArray[np.float32], plan: Plan, classes: int = 2) -> NDArray[np.uint8]:
    """The prediction of ``image``, mirrored by NumPy."""
    result = np.zeros((classes, *plan.shape), np.uint8)
    margin = 80
    padded = np.pad(image, ((8, 8), (margin, margin), (margin, margin)), mode="reflect")
    for block in plan.blocks():
        grey = padded[block.read.relative_to((-8, -margin, -margin)).slices]
        result[(slice(None), *block.write.slices)] = device.infer(np.ascontiguousarray(grey), block).probability
    return result


@pytest.fixture(scope="module", params=["openvino", "onnxruntime"])
def certificate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return predicting.make_engine(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def openvino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return predicting.make_engine("openvino", tmp_path_factory.mktemp("engine"))


def patched() -> NDArray[np.float32]:
    """Noise beside areas of few values, 0 with either sign among them."""
    image = np.random.default_rng(1).normal(size=(6, 150, 140)).astype(np.float32)
    image[1:3, 30:, :100] = -1.25
    image[3, :, :] = 0.0
    image[4, :, 20:] = -0.0
    image[5] = -1.25
    return image


@pytest.mark.parametrize("mirror", ["", "yx"])
def test_constant_tiles_equal_computed_ones(mirror: str, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, image = plan_of((6, 150, 140)), patched()

    def predict() -> NDArray[np.uint8]:
        device = Device(
            lambda batch: mirrored(load_engine(certificate.parent, tile=TILE, batch=batch, threads=1), mirror),
            plan.batch,
            classes=3,
        )
        return whole(device, image, plan, classes=3)

    spared = predict()
    monkeypatch.setattr(compute, "_constant", lambda seen: None)
    np.testing.assert_array_equal(spared, predict())


def test_each_value_is_computed_once_and_all_constant_tiles_are_counted() -> None:
    plan, image = plan_of((6, 150, 140)), patched()
    engine = Fake(1)
    device = Device(lambda batch: engine, 1, classes=2)
    padded = np.pad(image, ((8, 8), (80, 80), (80, 80)), mode="reflect")
    constant = others = 0
    for _ in range(2):
        for block in plan.blocks():
            grey = np.ascontiguousarray(padded[block.read.relative_to((-8, -80, -80)).slices])
            parts = [grey[block.read_of(tile).relative_to(block.read.start).slices] for tile in block.tiles()]
            alike = sum(len(np.unique(part.view(np.uint32))) == 1 for part in parts)
            assert device.infer(grey, block).constant_tiles == alike
            constant += alike
            others += len(parts) - alike
    assert constant > 100
    # -1.25, 0 and -0.
    assert engine.tiles == others + 3


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("std::bad_alloc"),
        RuntimeError("Check 'ptr' failed at cpu_memory.cpp:257:\nFailed to allocate 96000000 bytes of memory"),
        Exception("[ONNXRuntimeError] : 1 : FAIL : Failed to allocate memory for requested buffer of size 551651328"),
        UserError("memory of the GPU was to be taken for the calls", "there is not enough of it", "set predict.batch"),
    ],
    ids=lambda error: str(error)[:20] or "MemoryError",
)
@pytest.mark.parametrize("where", ["load", "run"])
def test_where_memory_is_short_calls_are_smaller_and_bytes_the_same(where: str, error: Exception) -> None:
    engines: list[Fake] = []

    def load(batch: int) -> Engine:
        if where == "load" and batch > 2:
            raise error
        engines.append(Fake(batch, room=2, error=error))
        return engines[-1]

    plan, image = plan_of((3, 100, 90), batch=9), np.random.default_rng(3).normal(size=(3, 100, 90)).astype(np.float32)
    device = Device(load, plan.batch, classes=2)
    found = whole(device, image, plan)
    assert device.batch == 2
    assert [engine.closed for engine in engines] == [True] * (len(engines) - 1) + [False]
    np.testing.assert_array_equal(found, whole(Device(Fake, 9, classes=2), image, plan))


def test_where_memory_is_short_for_one_tile_it_says_what_to_set() -> None:
    plan, image = plan_of((1, 50, 50)), np.ones((1, 50, 50), np.float32)
    device = Device(lambda batch: Fake(batch, room=0), plan.batch, classes=2)
    with pytest.raises(UserError, match=r"set predict\.tile to less or predict\.workers to fewer"):
        whole(device, image, plan)


def test_other_errors_of_an_engine_are_no_lack_of_memory() -> None:
    plan, image = plan_of((1, 50, 50)), np.ones((1, 50, 50), np.float32)
    device = Device(lambda batch: Fake(batch, room=0, error=RuntimeError("a defect")), plan.batch, classes=2)
    with pytest.raises(RuntimeError, match="a defect"):
        whole(device, image, plan)


_SHORT = """
import resource, sys
from pathlib import Path
import numpy as np
from unetpipe.compute import Device
from unetpipe.engines import load_engine
from unetpipe.grid import Block, Plan
from predicting import GEOMETRY

folder, tile = Path(sys.argv[1]), GEOMETRY.tile_for((1, 400, 400))
kept = GEOMETRY.kept(tile)
plan = Plan((1, *kept[1:]), tile, kept, kept, 64, GEOMETRY)
block = next(plan.blocks())
load_engine(folder, tile=GEOMETRY.tile_for((1, 40, 40)), batch=1, threads=1).close()
grey = np.random.default_rng(0).normal(size=block.read.shape).astype(np.float32)
lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
limit = (int(lines["VmSize"].split()[0]) << 10) + (700 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
device = Device(lambda batch: load_engine(folder, tile=tile, batch=batch, threads=1), 64, 3)
found = device.infer(grey, block).probability
assert 1 <= device.batch < 64, device.batch
np.save(sys.argv[2], found)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="address space can be limited on Linux alone")
def test_engines_say_that_memory_is_short_as_it_is_understood_here(certificate: Path, tmp_path: Path) -> None:
    script = tmp_path / "short.py"
    script.write_text(_SHORT)
    subprocess.run(
        [sys.executable, str(script), str(certificate.parent), str(tmp_path / "found.npy")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(predicting.__file__).parent), *sys.path])},
        check=True,
    )
    tile = GEOMETRY.tile_for((1, 400, 400))
    kept = GEOMETRY.kept(tile)
    block = next(Plan((1, *kept[1:]), tile, kept, kept, 1, GEOMETRY).blocks())
    grey = np.random.default_rng(0).normal(size=block.read.shape).astype(np.float32)
    device = Device(lambda batch: load_engine(certificate.parent, tile=tile, batch=batch, threads=1), 1, 3)
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), device.infer(grey, block).probability)


def tasks(certificate: Path, allocated: Path) -> list[Task]:
    plan = compute._open(allocated, 1).plan
    return [Task(allocated, certificate.parent, 1, block.index) for block in plan.blocks()]


def entries(folder: Path) -> list[dict[str, Any]]:
    return list(Record(folder / "progress").entries())


def test_threads_of_one_process_give_what_one_gives(
    openvino: Path, make_volume: Callable[..., Path], tmp_path: Path
) -> None:
    source = make_volume(predicting.noise())
    for folder, threads in (("one", 1), ("three", 3)):
        allocated = predicting.start(openvino, source, tmp_path / folder)
        with ThreadPoolExecutor(threads) as pool:
            computed = list(pool.map(compute_block, tasks(openvino, allocated)))
        assert Counter(predicting.recorded(tmp_path / folder)) == Counter(each.entry["name"] for each in computed)
        assert all(each.peak_memory_mb > 10 and each.batch == 2 for each in computed)
    assert predicting.shards(tmp_path / "one") == predicting.shards(tmp_path / "three")


def test_an_entry_holds_what_was_read_and_written(
    openvino: Path, make_volume: Callable[..., Path], tmp_path: Path
) -> None:
    source = make_volume(predicting.noise())
    allocated = predicting.start(openvino, source, tmp_path)
    task = tasks(openvino, allocated)[5]
    entry = compute_block(task).entry
    assert entries(tmp_path) == [entry]
    block = Block(compute._open(allocated, 1).plan, task.index)
    grey = Image(VolumeFile.read(source)).read(block.read)
    shard = tmp_path.joinpath("probability.zarr", "0", "c", "0", *block.name.split(".")).read_bytes()
    assert entry["name"] == block.name == task.name
    assert entry["read"] == hashlib.blake2b(grey.tobytes(), digest_size=16).hexdigest()
    assert entry["written"] == hashlib.blake2b(shard, digest_size=16).hexdigest()
    assert (entry["bytes"], entry["voxels"], entry["round"]) == (len(shard), block.write.voxels, 0)
    assert entry["seconds"].keys() == {"read", "infer", "write"}


@pytest.mark.parametrize("index", [0, -1], ids=["whole", "at the edge"])
def test_shards_are_read_by_another_library(
    index: int, openvino: Path, make_volume: Callable[..., Path], tmp_path: Path
) -> None:
    allocated = predicting.start(openvino, make_volume(predicting.noise((13, 90, 75))), tmp_path)
    task = tasks(openvino, allocated)[index]
    compute_block(task)
    box = (slice(None), *Block(compute._open(allocated, 1).plan, task.index).write.slices)
    voxels = open_array(str(tmp_path / "probability.zarr" / "0"))[box]
    assert len(np.unique(voxels)) > 10
    np.testing.assert_array_equal(np.asarray(predicting.stored(tmp_path)[box]), voxels)


def test_a_damaged_shard_is_replaced_unread(openvino: Path, make_volume: Callable[..., Path], tmp_path: Path) -> None:
    allocated = predicting.start(openvino, make_volume(predicting.noise((13, 90, 75))), tmp_path)
    task = tasks(openvino, allocated)[-1]
    compute_block(task)
    before = predicting.shards(tmp_path)
    shard = tmp_path.joinpath("probability.zarr", "0", "c", "0", *task.name.split("."))
    shard.write_bytes(b"damaged" * 100)
    compute_block(task)
    assert predicting.shards(tmp_path) == before


def test_a_task_that_is_tried_again_is_not_computed_again_if_it_is_recorded(
    openvino: Path, make_volume: Callable[..., Path], tmp_path: Path
) -> None:
    allocated = predicting.start(openvino, make_volume(predicting.noise()), tmp_path)
    task = tasks(openvino, allocated)[3]
    first = compute_block(task)
    assert compute_block(task.retry()).entry == first.entry
    assert len(entries(tmp_path)) == 1
    # Neither its shard alone nor its entry alone is enough.
    shard = tmp_path.joinpath("probability.zarr", "0", "c", "0", *task.name.split("."))
    shard.unlink()
    compute_block(task.retry())
    assert len(entries(tmp_path)) == 2
    os.truncate(shard, shard.stat().st_size - 1)
    assert compute_block(task.retry()).entry["bytes"] == shard.stat().st_size
    assert len(entries(tmp_path)) == 3
    Record(tmp_path / "progress").append("repair", {"name": task.name, "void": True, "round": 1})
    compute_block(replace(task.retry(), round=2))
    assert len(entries(tmp_path)) == 5
    assert Record(tmp_path / "progress").done()[task.name]["round"] == 2


def test_voxels_that_cannot_be_read_are_named(openvino: Path, make_volume: Callable[..., Path], tmp_path: Path) -> None:
    source = predicting.in_small_chunks(make_volume(predicting.noise((5, 90, 75))), tmp_path / "image.zarr")
    allocated = predicting.start(openvino, source, tmp_path)
    (tmp_path / "image.zarr" / "c" / "0" / "0" / "0").write_bytes(b"damaged")
    with pytest.raises(ReadError, match=r"image\.zarr cannot be read in 0:5,-\d+:\d+,-\d+:\d+ \(z, y, x\)"):
        compute_block(tasks(openvino, allocated)[0])
    assert entries(tmp_path) == []


def test_a_shard_that_is_lost_from_the_volume_is_named_with_the_voxels_that_need_it(
    openvino: Path, make_volume: Callable[..., Path], tmp_path: Path
) -> None:
    source = make_volume(predicting.noise((5, 90, 75)), source={"in_place": False})
    allocated = predicting.start(openvino, source, tmp_path)
    (shard,) = (path for path in (source.parent / "image.zarr" / "0" / "c").rglob("*") if path.is_file())
    shard.unlink()
    with pytest.raises(ReadError, match=rf"^0:5,-\d+:\d+,-\d+:\d+ .* cannot be read: the shard {shard} is gone"):
        compute_block(tasks(openvino, allocated)[0])
    assert entries(tmp_path) == []


@pytest.mark.parametrize(
    ("chunks", "shards"),
    [
        pytest.param((1, 5, 12, 24), (3, 10, 24, 48), id="deeper"),
        pytest.param((1, 5, 12, 24), (3, 5, 24, 96), id="wider"),
        pytest.param((1, 5, 12, 24), (3, 5, 12, 48), id="smaller"),
        pytest.param((1, 5, 12, 24), (1, 5, 24, 48), id="a shard for each class"),
        pytest.param((3, 5, 12, 48), None, id="no shards"),
    ],
)
def test_a_block_is_written_as_one_shard_or_not_at_all(
    chunks: tuple[int, ...],
    shards: tuple[int, ...] | None,
    openvino: Path,
    make_volume: Callable[..., Path],
    tmp_path: Path,
) -> None:
    allocated = predicting.start(openvino, make_volume(predicting.noise()), tmp_path)
    zarr.create_array(
        tmp_path / "probability.zarr" / "0",
        shape=(3, *predicting.SHAPE), dtype="uint8", chunks=chunks, shards=shards, overwrite=True,
    )  # fmt: skip
    before = predicting.shards(tmp_path)
    with pytest.raises(UserError, match="not one for each block"):
        compute_block(Task(allocated, openvino.parent, 1, (0, 0, 0)))
    assert predicting.shards(tmp_path) == before
    assert entries(tmp_path) == []
