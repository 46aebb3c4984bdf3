"""Plans are legal whatever the volume, and a store is made once."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from unetpipe.allocate import allocate, plan_volume, read_plan
from unetpipe.errors import UserError
from unetpipe.files import read_json, write_json
from unetpipe.grid import unet_geometry
from unetpipe.progress import Record

CLASSES = ["membrane", "inside"]


@given(st.tuples(st.integers(1, 40), st.integers(1, 5000), st.integers(1, 5000)), st.integers(1, 5), st.integers(1, 4))
def test_every_volume_can_be_planned(shape: tuple[int, int, int], depth: int, batch: int) -> None:
    plan = plan_volume(shape, unet_geometry(depth), None, batch)
    assert all(k <= 1024 + plan.geometry.pooling[1] for k in plan.kept[1:])
    assert all(c <= 128 for c in plan.chunk[1:])
    # Equal tiles: what is computed beyond the volume is less than one pooling an axis and tile.
    for size, kept, count in zip(shape[1:], plan.kept[1:], plan.block_counts[1:], strict=True):
        assert kept * count - size < plan.geometry.pooling[1] * count
        assert count == -(-size // 1024)


def test_a_tile_that_the_network_cannot_take_is_refused() -> None:
    with pytest.raises(UserError, match=r"cannot take a tile of \[101, 100\]") as caught:
        plan_volume((1, 50, 50), unet_geometry(2), [101, 100], 1)
    assert "predict.tile" in caught.value.repair


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "engine" / "certificate.json"
    geometry = unet_geometry(2)
    write_json(
        path,
        {
            "geometry": {"border": geometry.border, "pooling": geometry.pooling, "base": geometry.base},
            "engine_digest": "e" * 64,
            "device_class": "some processor",
            "profile": None,
            "backend": "onnxruntime",
            "precision": "fp32",
            "versions": {"onnxruntime": "1"},
        },
    )
    return path


@pytest.fixture
def volume(make_volume: Any) -> Path:
    return make_volume(np.random.default_rng(1).integers(0, 255, (10, 150, 90), np.uint8))


def run(volume: Path, certificate: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    settings = {"classes": CLASSES, "tile": None, "batch": 1, "on_change": "refuse"}
    allocate(volume, certificate, folder / "allocated.json", **(settings | changes))
    return read_json(folder / "allocated.json")


def test_the_store_has_whole_blocks_as_shards(volume: Path, certificate: Path, tmp_path: Path) -> None:
    allocated = run(volume, certificate, tmp_path / "p")
    array = zarr.open_array(f"{allocated['probability']}/{allocated['array']}", mode="r")
    plan = read_plan(allocated)
    assert array.shape == (2, 10, 150, 90)
    assert array.shards == (2, *plan.block)
    assert array.dtype == np.uint8
    group = zarr.open_group(allocated["probability"], mode="r")
    assert [axis["name"] for axis in group.attrs["ome"]["multiscales"][0]["axes"]] == list("czyx")
    assert [channel["label"] for channel in group.attrs["ome"]["omero"]["channels"]] == CLASSES


def test_a_store_whose_key_fits_is_kept_whatever_became_of_its_json(
    volume: Path, certificate: Path, tmp_path: Path
) -> None:
    allocated = run(volume, certificate, tmp_path / "p")
    array = zarr.open_array(f"{allocated['probability']}/0", mode="r+")
    array[0, :8] = 7
    Record(tmp_path / "p" / "progress").append("w", {"name": "0.0.0"})
    (tmp_path / "p" / "allocated.json").unlink()
    assert run(volume, certificate, tmp_path / "p") == allocated
    assert (array[0, :8] == 7).all()
    assert Record(tmp_path / "p" / "progress").done().keys() == {"0.0.0"}


def test_a_store_that_is_gone_is_made_again_and_its_record_forgotten(
    volume: Path, certificate: Path, tmp_path: Path
) -> None:
    allocated = run(volume, certificate, tmp_path / "p")
    Record(tmp_path / "p" / "progress").append("w", {"name": "0.0.0"})
    shutil.rmtree(allocated["probability"])
    run(volume, certificate, tmp_path / "p")
    assert Record(tmp_path / "p" / "progress").done() == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"certificate": {"engine_digest": "f" * 64}}, "engine: was", id="engine"),
        pytest.param({"certificate": {"device_class": "other"}}, "device_class: was", id="device class"),
        pytest.param({"certificate": {"versions": {"onnxruntime": "2"}}}, "versions.onnxruntime: was", id="library"),
        pytest.param({"volume": {"image_digest": "2" * 64}}, "input.image_digest: was", id="input"),
        pytest.param({"volume": {"mean": [1.0] * 10}}, "input.mean: was", id="normalisation"),
        pytest.param({"settings": {"tile": [104, 104]}}, "plan.tile: was", id="tile"),
        pytest.param({"settings": {"batch": 2}}, "plan.batch: was", id="batch"),
        pytest.param({"settings": {"classes": ["inside", "membrane"]}}, "classes: was", id="order of classes"),
    ],
)
def test_whatever_can_change_a_voxel_is_refused(
    change: dict[str, dict[str, Any]], message: str, volume: Path, certificate: Path, tmp_path: Path
) -> None:
    run(volume, certificate, tmp_path / "p")
    before = {path: path.read_bytes() for path in (tmp_path / "p").rglob("*") if path.is_file()}
    for path, name in ((certificate, "certificate"), (volume, "volume")):
        write_json(path, read_json(path) | change.get(name, {}))
    settings = change.get("settings", {})
    with pytest.raises(UserError, match=message):
        run(volume, certificate, tmp_path / "p", **settings)
    assert {path: path.read_bytes() for path in (tmp_path / "p").rglob("*") if path.is_file()} == before
    run(volume, certificate, tmp_path / "p", on_change="restart", **settings)


def test_an_engine_for_one_tile_decides(volume: Path, certificate: Path, tmp_path: Path) -> None:
    write_json(certificate, read_json(certificate) | {"profile": {"tile": [104, 108], "batch": [1, 1, 8]}})
    assert run(volume, certificate, tmp_path / "p", tile=None)["plan"]["tile"] == [1, 104, 108]


def test_another_name_or_voxel_size_changes_no_voxel(volume: Path, certificate: Path, tmp_path: Path) -> None:
    run(volume, certificate, tmp_path / "p")
    write_json(volume, read_json(volume) | {"name": "w", "voxel_size_nm": [1.0, 1.0, 1.0], "version": "9"})
    run(volume, certificate, tmp_path / "p")
