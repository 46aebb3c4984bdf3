"""A voxel of the result depends on input and engine alone, not on tiles, workers, or what was killed when."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx_unet import CLASSES, unet

from unetpipe import config
from unetpipe.allocate import allocate, read_plan
from unetpipe.data.ingest import ingest
from unetpipe.deploy.build_engine import build_engine
from unetpipe.engines import device_class, load_engine
from unetpipe.errors import UserError
from unetpipe.files import digest, read_json, write_json
from unetpipe.grid import Plan, unet_geometry
from unetpipe.predict import infer, predict
from unetpipe.progress import Record
from unetpipe.volume import Image, VolumeFile, open_array

GEOMETRY = unet_geometry(2)


def make_engine(backend: str, folder: Path) -> Path:
    """A certificate beside an engine: a U-Net with random weights and two poolings."""
    (folder / "model.onnx").write_bytes(unet([6, 8, 12]).SerializeToString(deterministic=True))
    build_engine(
        folder / "model.onnx",
        folder / "engine",
        folder / "build.json",
        settings=config.Engine(backend=backend),
        tile=None,
        batch=1,
    )
    write_json(
        folder / "certificate.json",
        {
            "geometry": asdict(GEOMETRY),
            "engine_digest": digest(folder / "engine"),
            "device_class": device_class(backend),
            "backend": backend,
            "precision": "fp32",
            "versions": {},
            "profile": None,
        },
    )
    return folder / "certificate.json"


@pytest.fixture(scope="session", params=["openvino", "onnxruntime"])
def certificate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of each engine."""
    return make_engine(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def openvino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the engine does not matter."""
    return make_engine("openvino", tmp_path_factory.mktemp("engine"))


def run(engine_folder: Path, image: Image, plan: Plan) -> NDArray[np.uint8]:
    """The prediction of a whole volume, in this process."""
    engine = load_engine(engine_folder, tile=plan.tile[1:], batch=plan.batch, threads=1)
    result = np.zeros((len(CLASSES), *plan.shape), np.uint8)
    for block in plan.blocks():
        result[(slice(None), *block.write.slices)] = infer(engine, image.read(block.read), block, len(CLASSES))
    engine.close()
    return result


def volume_of(voxels: NDArray[Any], make_volume: Callable[..., Path]) -> VolumeFile:
    limits = (-1.0, 1.5) if voxels.dtype.kind == "f" else None
    return VolumeFile.read(make_volume(voxels, range=limits))


DTYPES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], NDArray[Any]]] = {
    "uint8": lambda rng, shape: rng.integers(0, 256, shape, np.uint8),
    "uint16": lambda rng, shape: rng.integers(0, 65536, shape, np.uint16),
    "float32": lambda rng, shape: rng.normal(size=shape).astype(np.float32),
}


@settings(max_examples=30)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 70), st.integers(1, 70)),
    kept=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    tiles=st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)),
    batch=st.integers(1, 4),
    dtype=st.sampled_from(sorted(DTYPES)),
    seed=st.integers(0, 99),
)
def test_tiled_equals_whole_bit_for_bit(
    shape: tuple[int, int, int],
    kept: tuple[int, int],
    tiles: tuple[int, int, int],
    batch: int,
    dtype: str,
    seed: int,
    certificate: Path,
    make_volume: Callable[..., Path],
) -> None:
    image = Image(volume_of(DTYPES[dtype](np.random.default_rng(seed), shape), make_volume))
    whole_tile = GEOMETRY.tile_for((1, *shape[1:]))
    whole_block = (shape[0], *GEOMETRY.kept(whole_tile)[1:])
    whole = Plan(shape, whole_tile, whole_block, whole_block, 1, GEOMETRY)
    tile = GEOMETRY.tile_for((1, 4 * kept[0], 4 * kept[1]))
    one = GEOMETRY.kept(tile)
    block = (tiles[0], tiles[1] * one[1], tiles[2] * one[2])
    cut = Plan(shape, tile, block, block, batch, GEOMETRY)
    np.testing.assert_array_equal(run(certificate.parent, image, cut), run(certificate.parent, image, whole))


def test_a_tile_off_the_grid_would_differ(certificate: Path, make_volume: Callable[..., Path]) -> None:
    # The law is not idle: pooling is not shift-invariant.
    image = Image(volume_of(DTYPES["uint8"](np.random.default_rng(1), (1, 80, 80)), make_volume))
    tile = GEOMETRY.tile_for((1, 40, 40))
    engine = load_engine(certificate.parent, tile=tile[1:], batch=1, threads=1)
    block = next(Plan((1, 80, 80), tile, (1, 40, 40), (1, 40, 40), 1, GEOMETRY).blocks())
    aligned = engine.run(image.read(block.read)[None])
    moved = type(block.read).of((0, block.read.start[1], block.read.start[2] + 3), tile)
    shifted = engine.run(image.read(moved)[None])
    assert np.abs(aligned[..., 3:] - shifted[..., :-3]).max() > 1e-4


def start(certificate: Path, volume: Path, folder: Path, tile: tuple[int, int] = (64, 64)) -> Path:
    path = folder / "allocated.json"
    allocate(volume, certificate, path, classes=list(CLASSES), tile=list(tile), batch=2, on_change="refuse")
    return path


def finish(certificate: Path, allocated: Path, workers: int | None = 1, cores: int = 1) -> dict[str, Any]:
    done = allocated.parent / "job-0.json"
    predict(allocated, certificate, done, job="job-0", workers=workers, cores=cores)
    return read_json(done)


def shards(folder: Path) -> dict[str, bytes]:
    store = folder / "probability.zarr"
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def unbroken(
    openvino: Path, make_volume: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What one worker gives without interruption: its JSON, and the files of the store."""
    folder = tmp_path_factory.mktemp("unbroken")
    image = DTYPES["uint8"](np.random.default_rng(2), (30, 90, 75))
    source = make_volume(image, folder=tmp_path_factory.mktemp("source"))
    result = finish(openvino, start(openvino, source, folder))
    return {**result, "source": str(source)}, shards(folder)


@pytest.mark.parametrize(
    ("workers", "cores"), [pytest.param(2, 2, id="two workers"), pytest.param(1, 3, id="one with three threads")]
)
def test_any_number_of_workers_and_threads_gives_the_same_bytes(
    workers: int, cores: int, openvino: Path, unbroken: Any, tmp_path: Path
) -> None:
    facts, files = unbroken
    result = finish(openvino, start(openvino, Path(facts["source"]), tmp_path), workers, cores)
    assert result["digest"] == facts["digest"]
    assert result["threads_per_worker"] == cores // workers
    assert shards(tmp_path) == files


def test_the_store_holds_what_the_engine_gives(openvino: Path, unbroken: Any, tmp_path: Path) -> None:
    allocated = start(openvino, Path(unbroken[0]["source"]), tmp_path)
    finish(openvino, allocated)
    description = read_json(allocated)
    image = Image(VolumeFile.read(Path(description["volume_file"])))
    stored = np.asarray(open_array(f"{description['probability']}/0")[...])
    np.testing.assert_array_equal(stored, run(openvino.parent, image, read_plan(description)))


def test_killed_at_any_moment_it_ends_in_the_same_bytes(openvino: Path, unbroken: Any, tmp_path: Path) -> None:
    facts, files = unbroken
    allocated = start(openvino, Path(facts["source"]), tmp_path)
    code = (
        "import sys; from pathlib import Path; from unetpipe.predict import predict\n"
        "if __name__ == '__main__':\n"
        "    predict(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), job='job-0', workers=2, cores=2)\n"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    done = tmp_path / "job-0.json"
    record = Record(tmp_path / "progress")
    kills = 0
    while not done.exists():
        process = subprocess.Popen(
            [sys.executable, str(script), str(allocated), str(openvino), str(done)],
            start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        before = len(record.done())
        while process.poll() is None and len(record.done()) == before:
            time.sleep(0.01)
        time.sleep(random.random() * 0.05)
        if process.poll() is None and kills < 3:
            kills += 1
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=120)
    assert kills > 0, "it was over before it could be killed"
    assert read_json(done)["digest"] == facts["digest"]
    assert shards(tmp_path) == files
    names = Counter(
        json.loads(line)["name"]
        for log in record.folder.glob("*.jsonl")
        for line in log.read_text().split("\n")
        if line
    )
    assert set(names.values()) == {1}, "no block is computed again after it was recorded"
    assert len(names) == facts["blocks"]


def test_a_finished_prediction_is_not_computed_again(openvino: Path, unbroken: Any, tmp_path: Path) -> None:
    allocated = start(openvino, Path(unbroken[0]["source"]), tmp_path)
    first = finish(openvino, allocated)
    second = finish(openvino, allocated)
    assert (first["computed"], second["computed"]) == (first["blocks"], 0)
    assert second["digest"] == first["digest"]


def test_another_device_class_is_refused(openvino: Path, unbroken: Any, tmp_path: Path) -> None:
    allocated = start(openvino, Path(unbroken[0]["source"]), tmp_path)
    description = read_json(allocated)
    description["key"]["device_class"] = {"processor": "another"}
    write_json(allocated, description)
    with pytest.raises(UserError, match="another class of device"):
        finish(openvino, allocated)


def test_a_record_of_something_else_is_refused(openvino: Path, unbroken: Any, tmp_path: Path) -> None:
    allocated = start(openvino, Path(unbroken[0]["source"]), tmp_path)
    write_json(tmp_path / "progress" / "key.json", {})
    with pytest.raises(UserError, match="do not belong together"):
        finish(openvino, allocated)


def test_a_store_that_is_gone_is_named(openvino: Path, unbroken: Any, tmp_path: Path) -> None:
    allocated = start(openvino, Path(unbroken[0]["source"]), tmp_path)
    (tmp_path / "probability.zarr").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"(?s)probability\.zarr.*delete .*allocated\.json"):
        finish(openvino, allocated)


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_shard_that_is_gone_or_cut_is_computed_again(
    damage: str, openvino: Path, unbroken: Any, tmp_path: Path
) -> None:
    facts, files = unbroken
    allocated = start(openvino, Path(facts["source"]), tmp_path)
    finish(openvino, allocated)
    shard = next(path for path in sorted((tmp_path / "probability.zarr" / "0" / "c").rglob("*")) if path.is_file())
    if damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-1])
    result = finish(openvino, allocated)
    assert result["computed"] == 1
    assert result["digest"] == facts["digest"]
    assert shards(tmp_path) == files


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
