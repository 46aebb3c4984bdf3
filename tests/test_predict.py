"""A voxel of the result depends on input and engine alone, not on tiles, workers, or earlier runs."""

import functools
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import predicting
import pytest
import zarr
from distributed import LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx_unet import CLASSES
from predicting import finish, shards, start

from unetpipe import compute, predict
from unetpipe.allocate import read_plan
from unetpipe.compute import Device
from unetpipe.config import Network
from unetpipe.data.ingest import ingest
from unetpipe.engines import load_engine, mirrored
from unetpipe.errors import UserError
from unetpipe.files import read_json, write_json
from unetpipe.grid import AXES, Geometry, Plan, Region, Shape, triple
from unetpipe.ledger import added
from unetpipe.progress import Record
from unetpipe.volume import Image, VolumeFile

NETWORKS: dict[str, dict[str, Any]] = {
    "2D": {},
    # What comes out of a tile is 2 more than a multiple of 9 along y.
    "2D, each axis another": {"kernel": [(1, 5, 3), (1, 3, 3), (1, 3, 3)], "pooling": [(1, 3, 2), (1, 3, 2)]},
    "2.5D": {"sections": 3},
    "3D": {"kernel": [(3, 3, 3), (1, 3, 3), (3, 3, 3)], "pooling": [(1, 2, 2), (2, 2, 2)]},
}
BACKENDS = ["openvino", "onnxruntime"]


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """The folder of a certified engine, by network and library."""
    folders = {}
    for name, changes in NETWORKS.items():
        for backend in BACKENDS:
            folder = tmp_path_factory.mktemp(f"{name}-{backend}")
            folders[name, backend] = predicting.make_engine(backend, folder, **changes).parent
    return folders


@pytest.fixture(scope="module")
def openvino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate, where the engine does not matter."""
    return predicting.make_engine("openvino", tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def at_hand() -> Iterator[None]:
    """Two workers that need no start."""
    with predicting.at_hand():
        yield


def run(engine_folder: Path, image: Image, plan: Plan, mirror: Sequence[str] = ()) -> NDArray[np.uint8]:
    """The prediction of a whole volume, in this process."""
    device = Device(
        lambda batch: mirrored(load_engine(engine_folder, tile=plan.tile, batch=batch, threads=1), mirror),
        plan.batch,
        len(CLASSES),
    )
    result = np.zeros((len(CLASSES), *plan.shape), np.uint8)
    for block in plan.blocks():
        result[(slice(None), *block.write.slices)] = device.infer(image.read(block.read), block).probability
    return result


def volume_of(voxels: NDArray[Any], make_volume: Callable[..., Path]) -> VolumeFile:
    limits = (-1.0, 1.5) if voxels.dtype.kind == "f" else None
    return VolumeFile.read(make_volume(voxels, range=limits))


DTYPES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], NDArray[Any]]] = {
    "uint8": lambda rng, shape: rng.integers(0, 256, shape, np.uint8),
    "uint16": lambda rng, shape: rng.integers(0, 65536, shape, np.uint16),
    "float32": lambda rng, shape: rng.normal(size=shape).astype(np.float32),
}


def by_hand(engine_folder: Path, image: Image, plan: Plan, mirror: Sequence[str]) -> NDArray[np.uint8]:
    """The same of a plan with one block: every mirror image in a call of its own, the rest by NumPy."""
    engine = load_engine(engine_folder, tile=plan.tile, batch=1, threads=1)
    (block,) = plan.blocks()
    grey = image.read(block.read)
    axes = [number for number, axis in enumerate(AXES) if axis in mirror]
    images = [along for count in range(len(axes) + 1) for along in itertools.combinations(axes, count)]
    result = np.zeros((len(CLASSES), *plan.shape), np.uint8)
    for tile in block.tiles():
        seen = grey[block.read_of(tile).relative_to(block.read.start).slices]
        answers = [np.flip(engine.run(np.flip(seen, a)[None])[0], [axis + 1 for axis in a]) for a in images]
        mean = functools.reduce(np.add, answers) / np.float32(len(images))
        inside = tile.clip(plan.shape)
        z, y, x = inside.shape
        result[(slice(None), *inside.slices)] = np.rint(mean[:, :z, :y, :x] * np.float32(255))
    engine.close()
    return result


def mirrors(geometry: Geometry) -> st.SearchStrategy[tuple[str, ...]]:
    """Axes along which the network can be mirrored, or none."""
    axes = AXES[3 - geometry.dimensions :]
    groups = [group for count in range(len(axes) + 1) for group in itertools.combinations(axes, count)]
    return st.sampled_from(groups)


def cut(geometry: Geometry, shape: Shape, kept: Sequence[int], tiles: Sequence[int], batch: int) -> Plan:
    """Tiles that keep about ``kept`` poolings along each axis, and blocks of so many of them."""
    tile = geometry.tile_for([n * p for n, p in zip(kept, geometry.pooling, strict=True)])
    block = triple([n * k for n, k in zip(tiles, geometry.kept(tile), strict=True)])
    return Plan(shape, tile, block, block, batch, geometry)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("network", NETWORKS)
@settings(max_examples=8)
@given(data=st.data())
def test_tiled_equals_whole_bit_for_bit(
    network: str,
    backend: str,
    data: st.DataObject,
    engines: dict[tuple[str, str], Path],
    make_volume: Callable[..., Path],
) -> None:
    geometry = Network.model_validate({"depth": 2, **NETWORKS[network]}).geometry
    shape = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 60), st.integers(1, 60)), "shape")
    flat = geometry.dimensions == 2
    kept = [data.draw(st.integers(1, most), "kept") for most in (1 if flat else 2, 10, 10)]
    tiles = [data.draw(st.integers(1, most), "tiles") for most in (4, 2, 2)]
    batch = data.draw(st.integers(1, 3), "batch")
    mirror = data.draw(mirrors(geometry), "mirror")
    dtype = data.draw(st.sampled_from(sorted(DTYPES)), "dtype")
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    image = Image(volume_of(DTYPES[dtype](rng, shape), make_volume))
    once = [-(-n // p) for n, p in zip(shape, geometry.pooling, strict=True)]
    whole = cut(geometry, shape, [1 if flat else once[0], *once[1:]], [shape[0] if flat else 1, 1, 1], 1)
    folder = engines[network, backend]
    np.testing.assert_array_equal(
        run(folder, image, cut(geometry, shape, kept, tiles, batch), mirror), run(folder, image, whole, mirror)
    )


class Padded(Image):
    """A volume that is normalised as a whole, and mirrored by NumPy."""

    def read(self, region: Region) -> NDArray[np.float32]:
        facts, count = self.volume, self.volume.shape[0]
        grey = np.asarray(self.array[facts.first_section : facts.first_section + count]).astype(np.float32)
        if facts.range is not None:
            grey = grey.clip(*np.array(facts.range, np.float32))
        there = [z for z in range(count) if facts.std[z] > 0]
        for z in range(count):
            scale = np.float32(1 / facts.std[z]) if z in there else np.float32(0)
            grey[z] = (grey[z] - np.float32(facts.mean[z])) * scale
        if there:
            grey = grey[[min(there, key=lambda other: abs(other - z)) for z in range(count)]]
        reach = [(-a, max(0, b - n)) for a, b, n in zip(region.start, region.stop, grey.shape, strict=True)]
        wide = np.pad(grey, reach, mode="reflect")
        return np.ascontiguousarray(wide[tuple(slice(0, n) for n in region.shape)])


@st.composite
def volumes(draw: st.DrawFn, folder: Path, make_volume: Callable[..., Path]) -> Path:
    """A volume of any shape, a voxel thin or smaller than what the network loses, in any chunks and shards."""
    thin = st.sampled_from([1, 2, 3])
    shape = draw(st.tuples(thin | st.integers(4, 9), *[thin | st.integers(4, 70)] * 2))
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    before, after = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    whole = (before + shape[0] + after, *shape[1:])
    voxels = DTYPES[dtype](np.random.default_rng(draw(st.integers(0, 99))), whole)
    # Alike in part: what is computed once and copied lies beside what is not.
    voxels[:, draw(st.integers(0, 70)) :] = voxels[0, 0, 0]
    chunks = draw(st.tuples(*[st.integers(1, 40)] * 3))
    several = draw(st.none() | st.tuples(*[st.integers(1, 3)] * 3))
    shards = None if several is None else triple([n * times for n, times in zip(chunks, several, strict=True)])
    image = zarr.create_array(folder / "image.zarr", shape=whole, chunks=chunks, shards=shards, dtype=dtype)
    image[...] = voxels
    used = voxels[before : before + shape[0]]
    source = VolumeFile.read(make_volume(used, folder=folder, range=(-1.0, 1.5) if dtype == "float32" else None))
    replace(source, image=str(folder / "image.zarr"), first_section=before).write(folder / "volume.json")
    return folder / "volume.json"


@pytest.mark.usefixtures("at_hand")
@settings(max_examples=20)
@given(data=st.data())
def test_what_is_stored_is_the_whole_in_one_call_whatever_the_layout(
    data: st.DataObject,
    engines: dict[tuple[str, str], Path],
    make_volume: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    network = data.draw(st.sampled_from(sorted(NETWORKS)), "network")
    certificate = engines[network, data.draw(st.sampled_from(BACKENDS), "backend")] / "certificate.json"
    geometry = Network.model_validate({"depth": 2, **NETWORKS[network]}).geometry
    flat = geometry.dimensions == 2
    folder = tmp_path_factory.mktemp("any")
    volume = data.draw(volumes(folder, make_volume), "volume")
    source = VolumeFile.read(volume)
    once = [-(-n // p) for n, p in zip(source.shape, geometry.pooling, strict=True)]
    # A few blocks, not thousands of tiny ones; what a tile keeps is rarely a divisor of anything.
    counts = data.draw(st.tuples(*[st.integers(1, 4)] * 3), "tiles along each axis")
    kept = [1 if flat and axis == 0 else -(-n // counts[axis]) for axis, n in enumerate(once)]
    tiles = data.draw(st.tuples(st.integers(1, 5), *[st.integers(1, 3)] * 2), "tiles of a block")
    plan = cut(geometry, source.shape, kept, tiles, data.draw(st.integers(1, 5), "batch"))
    chunk = [data.draw(st.sampled_from([c for c in range(1, n + 1) if n % c == 0]), "chunk") for n in plan.block]
    plan = replace(plan, chunk=triple(chunk))
    workers, threads = data.draw(st.integers(1, 2), "workers"), data.draw(st.integers(1, 2), "threads")
    mirror = data.draw(mirrors(geometry), "mirror")
    allocated = start(certificate, volume, folder / "prediction", plan=plan, mirror=mirror)
    facts = finish(certificate, allocated, workers, workers * threads)
    assert facts["computed"] == facts["blocks"] == np.prod(plan.block_counts)
    whole = cut(geometry, source.shape, [1 if flat else once[0], *once[1:]], [source.shape[0] if flat else 1, 1, 1], 1)
    assert len(list(whole.blocks())) == 1
    expected = by_hand(certificate.parent, Padded(source), whole, mirror)
    np.testing.assert_array_equal(np.asarray(predicting.stored(folder / "prediction")[...]), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tile_off_the_grid_would_differ(
    backend: str, engines: dict[tuple[str, str], Path], make_volume: Callable[..., Path]
) -> None:
    # The law is not idle: pooling is not shift-invariant.
    geometry = Network(depth=2).geometry
    image = Image(volume_of(DTYPES["uint8"](np.random.default_rng(1), (1, 80, 80)), make_volume))
    tile = geometry.tile_for((1, 40, 40))
    engine = load_engine(engines["2D", backend], tile=tile, batch=1, threads=1)
    block = next(Plan((1, 80, 80), tile, (1, 40, 40), (1, 40, 40), 1, geometry).blocks())
    aligned = engine.run(image.read(block.read)[None])
    moved = Region.of((0, block.read.start[1], block.read.start[2] + 3), tile)
    shifted = engine.run(image.read(moved)[None])
    assert np.abs(aligned[..., 3:] - shifted[..., :-3]).max() > 1e-4


@pytest.fixture(scope="module")
def source(make_volume: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_volume(predicting.noise(), folder=tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def unbroken(
    openvino: Path, source: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What one worker gives without interruption: its JSON, and the files of the store."""
    folder = tmp_path_factory.mktemp("unbroken")
    return finish(openvino, start(openvino, source, folder)), shards(folder)


@pytest.mark.parametrize(
    ("workers", "cores"), [pytest.param(2, 2, id="two workers"), pytest.param(1, 3, id="one with three threads")]
)
def test_any_number_of_workers_and_threads_gives_the_same_bytes(
    workers: int, cores: int, openvino: Path, source: Path, unbroken: Any, tmp_path: Path
) -> None:
    facts, files = unbroken
    result = finish(openvino, start(openvino, source, tmp_path), workers, cores)
    assert result["digest"] == facts["digest"]
    assert result["threads_per_worker"] == cores // workers
    assert 1 <= len(result["peak_memory_mb"]) <= workers
    assert shards(tmp_path) == files


@pytest.mark.usefixtures("at_hand")
@pytest.mark.parametrize(
    "shares",
    [
        pytest.param([(0, 1)], id="one job"),
        pytest.param([(2, 3), (0, 3), (1, 3)], id="three, in any order"),
        pytest.param([(1, 3), (0, 2), (1, 2)], id="two, after one of three"),
    ],
)
def test_any_number_of_jobs_gives_the_same_bytes_and_computes_each_block_once(
    shares: list[tuple[int, int]], openvino: Path, source: Path, unbroken: Any, tmp_path: Path
) -> None:
    facts, files = unbroken
    allocated = start(openvino, source, tmp_path)
    jobs = {share: finish(openvino, allocated, share=share) for share in shares}
    assert (
        sum(job["computed"] for job in jobs.values()) == facts["computed"] == len(list(predicting.recorded(tmp_path)))
    )
    assert shards(tmp_path) == files
    last = {share: job for share, job in jobs.items() if share[1] == shares[-1][1]}
    sizes = [job["blocks"] for job in last.values()]
    assert sum(sizes) == facts["blocks"]
    assert max(sizes) - min(sizes) <= 1
    assert added(job["digest"] for job in last.values()) == facts["digest"]


@given(wanted=st.lists(st.booleans(), max_size=40).map(lambda bits: np.array(bits, bool)), jobs=st.integers(1, 50))
def test_shares_are_equal_parts_of_what_is_wanted(wanted: NDArray[np.bool_], jobs: int) -> None:
    parts = [predict._share(wanted, number, jobs) for number in range(jobs)]
    np.testing.assert_array_equal(np.sum(parts, axis=0), wanted)
    sizes = [int(part.sum()) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_workers_of_a_scheduler_give_the_same_bytes_and_forget_what_was_before(
    openvino: Path, source: Path, unbroken: Any, make_volume: Callable[..., Path], tmp_path: Path
) -> None:
    facts, files = unbroken
    with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0") as cluster:
        how = {"workers": None, "cluster": cluster.scheduler_address}
        # In the same place, of another image: its workers must not take the one for the other.
        other = make_volume(predicting.noise(seed=5))
        assert finish(openvino, start(openvino, other, tmp_path), **how)["digest"] != facts["digest"]
        shutil.rmtree(tmp_path / "progress")
        shutil.rmtree(tmp_path / "probability.zarr")
        result = finish(openvino, start(openvino, source, tmp_path), **how)
    assert result["digest"] == facts["digest"]
    assert (result["workers"], result["threads_per_worker"]) == (1, 2)
    assert shards(tmp_path) == files


def test_a_worker_elsewhere_of_another_device_class_is_refused(openvino: Path, source: Path, tmp_path: Path) -> None:
    allocated = start(openvino, source, tmp_path)
    description = read_json(allocated)
    description["key"]["device_class"] = {"processor": "another"}
    write_json(allocated, description)
    write_json(tmp_path / "progress" / "key.json", description["key"])
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        pytest.raises(UserError, match="another class of device"),
    ):
        finish(openvino, allocated, workers=None, cluster=cluster.scheduler_address)


@pytest.mark.usefixtures("at_hand")
def test_the_store_holds_what_the_engine_gives(openvino: Path, source: Path, unbroken: Any, tmp_path: Path) -> None:
    allocated = start(openvino, source, tmp_path)
    result = finish(openvino, allocated)
    assert result["voxels"] == np.prod(predicting.SHAPE)
    assert result["constant_tiles"] == 0
    assert result["bytes_written"] == sum(len(data) for name, data in unbroken[1].items() if "/c/" in name)
    expected = run(openvino.parent, Image(VolumeFile.read(source)), read_plan(read_json(allocated)))
    np.testing.assert_array_equal(np.asarray(predicting.stored(tmp_path)[...]), expected)


@pytest.mark.usefixtures("at_hand")
def test_empty_parts_cost_nothing_and_are_counted(
    openvino: Path, make_volume: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = predicting.noise()
    image[:, :, 20:] = 7
    source = make_volume(image)
    allocated = start(openvino, source, tmp_path)
    assert finish(openvino, allocated)["constant_tiles"] > 30
    monkeypatch.setattr(compute, "_constant", lambda seen: None)
    expected = run(openvino.parent, Image(VolumeFile.read(source)), read_plan(read_json(allocated)))
    np.testing.assert_array_equal(np.asarray(predicting.stored(tmp_path)[...]), expected)


@pytest.mark.usefixtures("at_hand")
def test_a_finished_prediction_is_not_computed_again(
    openvino: Path, source: Path, unbroken: Any, tmp_path: Path
) -> None:
    allocated = start(openvino, source, tmp_path)
    first = finish(openvino, allocated)
    second = finish(openvino, allocated)
    assert (first["computed"], second["computed"]) == (first["blocks"], 0)
    assert second["digest"] == first["digest"] == unbroken[0]["digest"]


def test_another_device_class_is_refused(openvino: Path, source: Path, tmp_path: Path) -> None:
    allocated = start(openvino, source, tmp_path)
    description = read_json(allocated)
    description["key"]["device_class"] = {"processor": "another"}
    write_json(allocated, description)
    with pytest.raises(UserError, match="another class of device"):
        finish(openvino, allocated)


def test_a_record_of_something_else_is_refused(openvino: Path, source: Path, tmp_path: Path) -> None:
    allocated = start(openvino, source, tmp_path)
    write_json(tmp_path / "progress" / "key.json", {})
    with pytest.raises(UserError, match="do not belong together"):
        finish(openvino, allocated)


def test_a_store_that_is_gone_is_named(openvino: Path, source: Path, tmp_path: Path) -> None:
    allocated = start(openvino, source, tmp_path)
    (tmp_path / "probability.zarr").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"(?s)probability\.zarr.*delete .*allocated\.json"):
        finish(openvino, allocated)


@pytest.mark.usefixtures("at_hand")
@pytest.mark.parametrize("damage", ["gone", "cut", "void"])
def test_a_block_that_is_gone_cut_or_void_is_computed_again(
    damage: str, openvino: Path, source: Path, unbroken: Any, tmp_path: Path
) -> None:
    facts, files = unbroken
    allocated = start(openvino, source, tmp_path)
    finish(openvino, allocated)
    name = "3.1.1"
    shard = tmp_path.joinpath("probability.zarr", "0", "c", "0", *name.split("."))
    if damage == "gone":
        shard.unlink()
    elif damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-1])
    else:
        Record(tmp_path / "progress").append("repair", {"name": name, "void": True, "round": 2})
    result = finish(openvino, allocated)
    assert result["computed"] == 1
    assert result["digest"] == facts["digest"]
    assert shards(tmp_path) == files
    assert Record(tmp_path / "progress").done()[name]["round"] == (3 if damage == "void" else 0)


@pytest.mark.usefixtures("at_hand")
def test_an_entry_that_does_not_reach_the_record_is_noticed(
    openvino: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocated = start(openvino, source, tmp_path)
    original = Record.entries
    asked = 0

    def entries(record: Record) -> Iterator[dict[str, Any]]:
        nonlocal asked
        asked += 1
        return (entry for entry in original(record) if asked == 1 or entry["name"] != "2.0.1")

    monkeypatch.setattr(Record, "entries", entries)
    with pytest.raises(UserError, match=r"does not hold 1 blocks that were just computed: \['2.0.1'\]"):
        finish(openvino, allocated)
    assert not (tmp_path / "job-0.json").exists()


@pytest.mark.usefixtures("at_hand")
def test_an_image_used_in_place_that_changed_is_refused(openvino: Path, tmp_path: Path) -> None:
    image = zarr.create_array(tmp_path / "image.zarr", shape=(4, 60, 60), chunks=(4, 30, 30), dtype="uint8")
    image[...] = DTYPES["uint8"](np.random.default_rng(5), (4, 60, 60))
    volume = tmp_path / "volumes" / "v" / "volume.json"
    ingest(
        image=str(tmp_path / "image.zarr"), labels=None, volume=volume, name="v", sections=None, voxel_size_nm=None,
        range=None, label_values={"a": [0], "b": [1]}, ignore=[], cores=1,
    )  # fmt: skip
    allocated = start(openvino, volume, tmp_path / "prediction")
    finish(openvino, allocated)
    image[0, 0, 0] += 1
    with pytest.raises(UserError, match=r"(?s)image\.zarr, which is used in place.*delete .*volume\.json"):
        finish(openvino, allocated)
