"""Whatever interrupts ingest or changes in between, it ends as a run from the start."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from ingesting import Voxels, ingested, some_grey, some_labels, tree, zarr_in_place

from unetpipe.arrays import open_array
from unetpipe.config import Instances
from unetpipe.data import slabs
from unetpipe.data.sources import tiff
from unetpipe.errors import UserError
from unetpipe.storage import LocalFolder
from unetpipe.volume import VolumeFile


# Interruption: before a slab is written, when it is written but not recorded, and when nothing but volume.json is left.
def _interrupt_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    original = tiff.TiffSource.read

    def read(self: tiff.TiffSource, first: int, end: int) -> Voxels:
        if first == 8:
            raise KeyboardInterrupt
        return original(self, first, end)

    monkeypatch.setattr(tiff.TiffSource, "read", read)


def _interrupt_shard(monkeypatch: pytest.MonkeyPatch, store: str, shard: str) -> None:
    original = LocalFolder.write

    def write(self: LocalFolder, name: str, data: bytes) -> None:
        original(self, name, data)
        if store in self.address and name.startswith(shard):
            raise KeyboardInterrupt

    monkeypatch.setattr(LocalFolder, "write", write)


def _interrupt_image(monkeypatch: pytest.MonkeyPatch) -> None:
    _interrupt_shard(monkeypatch, "image.zarr", "c/2/")


def _interrupt_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    _interrupt_shard(monkeypatch, "labels.zarr", "c/1/")


def _interrupt_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(self: VolumeFile, path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(VolumeFile, "write", write)


INTERRUPTIONS = [
    pytest.param(_interrupt_reading, 1, id="reading"),
    pytest.param(_interrupt_image, 2, id="syncing"),
    pytest.param(_interrupt_labels, 4, id="labels"),
    pytest.param(_interrupt_writing, 6, id="volume.json"),
]


@pytest.mark.parametrize(("interrupt", "finished"), INTERRUPTIONS)
def test_an_interrupted_run_goes_on_and_ends_in_the_same_bytes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interrupt: Callable[[pytest.MonkeyPatch], None],
    finished: int,
) -> None:
    tifffile.imwrite(tmp_path / "i.tif", some_grey(), compression="zlib")
    tifffile.imwrite(tmp_path / "l.tif", some_labels(), compression="zlib")
    for folder in ("undisturbed", "interrupted"):
        (tmp_path / folder).mkdir()
    volume = Path("v/volume.json")
    monkeypatch.chdir(tmp_path / "undisturbed")
    ingested("../i.tif", volume, "../l.tif")

    monkeypatch.chdir(tmp_path / "interrupted")
    with monkeypatch.context() as patch:
        interrupt(patch)
        with pytest.raises(KeyboardInterrupt):
            ingested("../i.tif", volume, "../l.tif")
    assert not volume.exists()

    original, read = tiff.TiffSource.read, []

    def counted(self: tiff.TiffSource, first: int, end: int) -> Voxels:
        read.append((self.address, first))
        return original(self, first, end)

    monkeypatch.setattr(tiff.TiffSource, "read", counted)
    ingested("../i.tif", volume, "../l.tif")
    slabs_of_both = [(address, first) for address in ("../i.tif", "../l.tif") for first in (0, 8, 16)]
    assert read == slabs_of_both[finished:]
    assert tree(tmp_path / "interrupted") == tree(tmp_path / "undisturbed")


def test_a_shard_that_is_gone_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("i.tif", some_grey(), compression="zlib")
    tifffile.imwrite("l.tif", some_labels(), compression="zlib")
    volume = Path("v/volume.json")
    ingested("i.tif", volume, "l.tif")
    before = tree(tmp_path)
    for store in ("image.zarr", "labels.zarr"):
        next(path for path in sorted((tmp_path / "v" / store / "0" / "c").rglob("*")) if path.is_file()).unlink()
    volume.unlink()
    ingested("i.tif", volume, "l.tif")
    assert {path: data for path, data in tree(tmp_path).items() if "zarr" in str(path)} == {
        path: data for path, data in before.items() if "zarr" in str(path)
    }


def test_an_interrupted_sampling_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zarr_in_place(tmp_path / "i.zarr", some_grey(), (8, 32, 32))
    undisturbed = ingested(tmp_path / "i.zarr", tmp_path / "a" / "volume.json")
    original, calls = slabs.measure_patches, []

    def third_fails(boxes: Any, grey_range: Any) -> dict[str, Any]:
        calls.append(len(boxes[0]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(boxes, grey_range)

    monkeypatch.setattr(slabs, "measure_patches", third_fails)
    with pytest.raises(KeyboardInterrupt):
        ingested(tmp_path / "i.zarr", tmp_path / "b" / "volume.json")
    assert not (tmp_path / "b" / "volume.json").exists()
    assert ingested(tmp_path / "i.zarr", tmp_path / "b" / "volume.json") == undisturbed
    assert calls == [8, 8, 4, 4]


def test_other_input_after_an_interruption_is_not_mixed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "i.npy", some_grey(1))
    volume = tmp_path / "v" / "volume.json"
    with monkeypatch.context() as patch:
        _interrupt_image(patch)
        with pytest.raises(KeyboardInterrupt):
            ingested(tmp_path / "i.npy", volume)
    np.save(tmp_path / "i.npy", some_grey(2))
    os.utime(tmp_path / "i.npy", (1, 1))
    found = ingested(tmp_path / "i.npy", volume)
    np.testing.assert_array_equal(open_array(found.image)[...], some_grey(2))
    np.testing.assert_allclose(found.mean, [section.mean() for section in some_grey(2)], rtol=0.05)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"sections": (8, 20)}, id="sections"),
        pytest.param({"label_values": {"inside": [1, 255], "membrane": [0]}}, id="classes"),
        pytest.param({"ignore": [7, 0], "label_values": {"membrane": [5], "inside": [1, 255]}}, id="ignore"),
        pytest.param({"annotated": [3, [[4, 9], [0, 20], [0, 60]]]}, id="annotated"),
        pytest.param({"instances": Instances(boundary="membrane", object="inside")}, id="instances"),
        pytest.param({"range": (50, 200)}, id="range"),
        pytest.param({"voxel_size_nm": (50, 4, 4)}, id="voxel-size"),
    ],
)
def test_other_settings_give_what_they_give_from_the_start(tmp_path: Path, changes: dict[str, Any]) -> None:
    np.save(tmp_path / "i.npy", some_grey())
    np.save(tmp_path / "l.npy", some_labels())
    for folder in ("fresh", "used"):
        (tmp_path / folder).mkdir()
    volume = tmp_path / "used" / "volume.json"
    ingested(tmp_path / "i.npy", volume, tmp_path / "l.npy")
    ingested(tmp_path / "i.npy", volume, tmp_path / "l.npy", **changes)
    ingested(tmp_path / "i.npy", tmp_path / "fresh" / "volume.json", tmp_path / "l.npy", **changes)
    fresh, used = tree(tmp_path / "fresh"), tree(tmp_path / "used")
    assert used.pop("volume.json") == fresh.pop("volume.json").replace(b"/fresh/", b"/used/")
    assert used == fresh


def test_a_store_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    np.save(tmp_path / "i.npy", some_grey())
    volume = tmp_path / "v" / "volume.json"
    first = ingested(tmp_path / "i.npy", volume)
    for path in sorted((tmp_path / "v" / "image.zarr").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert ingested(tmp_path / "i.npy", volume) == first
    np.testing.assert_array_equal(open_array(first.image)[...], some_grey())


def test_labels_that_are_gone_from_the_settings_are_gone(tmp_path: Path) -> None:
    np.save(tmp_path / "i.npy", some_grey())
    np.save(tmp_path / "l.npy", some_labels())
    volume = tmp_path / "v" / "volume.json"
    ingested(tmp_path / "i.npy", volume, tmp_path / "l.npy")
    assert ingested(tmp_path / "i.npy", volume).labels is None
    assert not (tmp_path / "v" / "labels.zarr").exists()


def test_an_input_in_the_output_is_not_wiped(tmp_path: Path) -> None:
    np.save(tmp_path / "i.npy", some_grey())
    np.save(tmp_path / "l.npy", some_labels())
    volume = tmp_path / "v" / "volume.json"
    ingested(tmp_path / "i.npy", volume, tmp_path / "l.npy")
    before = tree(tmp_path / "v" / "labels.zarr")
    with pytest.raises(UserError, match=r"it lies in .*labels\.zarr, which this step writes anew\n.*another name"):
        ingested(tmp_path / "i.npy", volume, tmp_path / "v" / "labels.zarr")
    assert tree(tmp_path / "v" / "labels.zarr") == before
