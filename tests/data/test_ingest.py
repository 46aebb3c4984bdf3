"""Ingest gives back the voxels, whatever interrupts it, and knows what it has."""

import logging
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from numpy.typing import NDArray

import unetpipe
from unetpipe.config import Instances
from unetpipe.data import instances as data_instances
from unetpipe.data import slabs
from unetpipe.data.ingest import ingest
from unetpipe.data.sources import tiff
from unetpipe.errors import UserError
from unetpipe.grid import Region
from unetpipe.volume import IGNORE, Image, VolumeFile, create, layout, open_array

Voxels = NDArray[Any]
CLASSES = {"membrane": [0], "inside": [1, 255]}


def _ingest(image: str | Path, volume: Path, labels: str | Path | None = None, **changes: Any) -> VolumeFile:
    given: dict[str, Any] = {
        "name": "v",
        "sections": None,
        "voxel_size_nm": (40.0, 4.0, 4.0),
        "range": None,
        "label_values": CLASSES,
        "ignore": [7],
        "cores": 2,
    }
    ingest(str(image), None if labels is None else str(labels), volume, **(given | changes))
    return VolumeFile.read(volume)


def _stack(seed: int = 0, shape: tuple[int, int, int] = (20, 50, 60)) -> Voxels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _labels(seed: int = 0, shape: tuple[int, int, int] = (20, 50, 60)) -> Voxels:
    return np.random.default_rng(seed).choice(np.array([0, 1, 7, 255], np.uint8), shape)


def _tree(folder: Path) -> dict[str, bytes]:
    """Every file but those of the record, with its content."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and "progress" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@examples(max_examples=12)
@given(
    shape=st.tuples(st.integers(1, 19), st.integers(1, 150), st.integers(1, 150)),
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
    cut=st.tuples(st.integers(0, 5), st.integers(0, 5)),
)
def test_what_was_ingested_is_what_is_there(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, int, int], dtype: str, cut: tuple[int, int]
) -> None:
    folder = tmp_path_factory.mktemp("ingest")
    rng = np.random.default_rng(0)
    image = (rng.random(shape) * 250).astype(dtype)
    labels = rng.choice(np.array([0, 1, 7, 255], np.uint8), shape)
    labels[:, 0, 0] = 1
    np.save(folder / "image.npy", image)
    np.save(folder / "labels.npy", labels)
    first, end = min(cut[0], shape[0] - 1), max(shape[0] - cut[1], min(cut[0], shape[0] - 1) + 1)

    volume = _ingest(
        folder / "image.npy", folder / "v" / "volume.json", folder / "labels.npy", sections=(first, end), range=(0, 255)
    )

    assert volume.shape == (end - first, *shape[1:])
    assert volume.dtype == dtype
    array = open_array(volume.image)
    assert array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(array[...], image[first:end])
    assert volume.labels is not None
    expected = np.select([labels == 0, labels == 7], [0, IGNORE], 1)[first:end]
    np.testing.assert_array_equal(open_array(volume.labels)[...], expected)
    assert open_array(volume.labels).dtype == np.uint8
    assert len(volume.mean) == len(volume.std) == end - first


def test_slabs_of_zeros_are_written_too(tmp_path: Path) -> None:
    np.save(tmp_path / "zeros.npy", np.zeros((20, 50, 60), np.uint8))
    _ingest(tmp_path / "zeros.npy", tmp_path / "v" / "volume.json", tmp_path / "zeros.npy")
    for store in ("image.zarr", "labels.zarr"):
        assert len([path for path in (tmp_path / "v" / store / "0" / "c").rglob("*") if path.is_file()]) == 3


def test_volume_json_says_what_is_known(tmp_path: Path) -> None:
    image = _stack()
    image[4] = 30
    tifffile.imwrite(
        tmp_path / "i.tif",
        image,
        imagej=True,
        resolution=(0.25, 0.2),
        metadata={"spacing": 40, "unit": "nm", "axes": "ZYX"},
    )
    volume = _ingest(tmp_path / "i.tif", tmp_path / "v" / "volume.json", voxel_size_nm=None, sections=[3, 20])
    assert volume.name == "v"
    assert volume.image == str(tmp_path / "v" / "image.zarr" / "0")
    assert volume.labels is None
    assert volume.labels_digest is None
    assert volume.shape == (17, 50, 60)
    assert volume.first_section == 0
    assert volume.voxel_size_nm == (40, 5, 4)
    assert volume.origin_nm == (120, 0, 0)
    assert volume.missing_sections == (1,)
    assert [z for z, std in enumerate(volume.std) if std == 0] == [1]
    assert volume.mean[1] == 30
    assert volume.version == unetpipe.__version__
    assert volume.source == {
        "image": str(tmp_path / "i.tif"),
        "labels": None,
        "sections": [3, 20],
        "image_sections": 20,
        "in_place": False,
        "voxel_size_known": True,
        "labelled": None,
    }
    image_attributes: Any = zarr.open_group(tmp_path / "v" / "image.zarr", mode="r").attrs["ome"]
    transformations = image_attributes["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert transformations == [
        {"type": "scale", "scale": [40, 5, 4]},
        {"type": "translation", "translation": [120, 0, 0]},
    ]


def test_the_settings_know_the_voxel_size_better(tmp_path: Path) -> None:
    metadata = {"spacing": 40, "unit": "nm", "axes": "ZYX"}
    tifffile.imwrite(tmp_path / "i.tif", _stack(), imagej=True, resolution=(0.25, 0.25), metadata=metadata)
    volume = _ingest(tmp_path / "i.tif", tmp_path / "v" / "volume.json", voxel_size_nm=[50, 6, 6])
    assert volume.voxel_size_nm == (50, 6, 6)


def test_an_unknown_voxel_size_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.save(tmp_path / "i.npy", _stack())
    with caplog.at_level(logging.WARNING):
        volume = _ingest(tmp_path / "i.npy", tmp_path / "v" / "volume.json", voxel_size_nm=None)
    assert volume.voxel_size_nm == (1, 1, 1)
    assert volume.source["voxel_size_known"] is False
    assert "tell its voxel size; results will have voxels of 1 nm. Set volumes.v.voxel_size_nm" in caplog.text


def test_missing_sections_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = _stack()
    image[2], image[19] = 0, 255
    np.save(tmp_path / "i.npy", image)
    with caplog.at_level(logging.WARNING):
        volume = _ingest(tmp_path / "i.npy", tmp_path / "v" / "volume.json")
    assert volume.missing_sections == (2, 19)
    assert "taken for missing, since without contrast: sections 2, 19" in caplog.text


def test_the_digest_follows_the_voxels_alone(tmp_path: Path) -> None:
    image = _stack()
    np.save(tmp_path / "a.npy", image)
    tifffile.imwrite(tmp_path / "b.tif", image, compression="zlib")
    np.save(tmp_path / "wider.npy", image.reshape(20, 25, 120))
    image[13, 20, 20] ^= 1
    np.save(tmp_path / "c.npy", image)
    digests = {
        path: _ingest(
            tmp_path / path, tmp_path / path.replace(".", "-") / "volume.json", voxel_size_nm=size
        ).image_digest
        for path, size in (("a.npy", (1, 1, 1)), ("b.tif", (9, 9, 9)), ("c.npy", None), ("wider.npy", None))
    }
    assert digests["a.npy"] == digests["b.tif"]
    assert len(set(digests.values())) == 3


def test_the_digest_of_labels_is_of_the_classes(tmp_path: Path) -> None:
    labels = _labels()
    np.save(tmp_path / "i.npy", _stack())
    np.save(tmp_path / "a.npy", labels)
    np.save(tmp_path / "b.npy", labels.astype(np.int32) + 10)
    np.save(tmp_path / "c.npy", labels[::-1])
    shifted = {"membrane": [10], "inside": [11, 265]}
    digests = [
        _ingest(tmp_path / "i.npy", tmp_path / name / "volume.json", tmp_path / f"{name}.npy", **changes).labels_digest
        for name, changes in (("a", {}), ("b", {"label_values": shifted, "ignore": [17]}), ("c", {}))
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("kind", ["npy", "zarr"])
def test_labels_outside_the_annotated_parts_are_not_looked_at(tmp_path: Path, kind: str) -> None:
    labels, known = _labels(), np.zeros((20, 50, 60), bool)
    # From the first section used, the fourth of the file.
    parts = [2, [[5, 14], [10, 30], [0, 25]], [[5, 6], [20, 50], [20, 60]]]
    known[5] = known[8:17, 10:30, :25] = known[8, 20:, 20:] = True
    labels[~known] = 99
    np.save(tmp_path / "i.npy", _stack())
    np.save(tmp_path / "l.npy", labels)
    _zarr_in_place(tmp_path / "l.zarr", labels, (7, 20, 60))
    volume = _ingest(
        tmp_path / "i.npy", tmp_path / "v" / "volume.json", tmp_path / f"l.{kind}", sections=(3, 20), annotated=parts
    )
    found = open_array(str(volume.labels))[...]
    expected = np.select([~known | (labels == 7), labels == 0], [IGNORE, 0], 1)[3:]
    np.testing.assert_array_equal(found, expected)
    assert volume.source["labelled"] == (expected != IGNORE).sum(axis=(1, 2)).tolist()
    assert volume.learnt_sections().tolist() == [2, *range(5, 14)]


def test_annotated_parts_beyond_the_volume_are_refused_together(tmp_path: Path) -> None:
    np.save(tmp_path / "i.npy", _stack())
    np.save(tmp_path / "l.npy", _labels())
    message = (
        r"annotated\.0 there is no section 17: 17 are used, from 0 on; "
        r"annotated\.2 \[0, 51\) along y reaches beyond the volume, which has 50 voxels there"
    )
    parts = [17, 16, [[0, 1], [0, 51], [0, 1]]]
    with pytest.raises(UserError, match=message):
        _ingest(
            tmp_path / "i.npy", tmp_path / "v" / "volume.json", tmp_path / "l.npy", sections=(3, 20), annotated=parts
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"ignore": [0, 1, 7, 255], "label_values": {"a": [2], "b": [3]}}, "all label values are", id="all"
        ),
        pytest.param({"annotated": [4]}, "all label values in the parts that are annotated are", id="annotated"),
        pytest.param({"sections": (4, 5)}, "all label values are", id="sections"),
    ],
)
def test_labels_of_which_none_has_a_class_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    labels = _labels()
    labels[4] = 7
    np.save(tmp_path / "i.npy", _stack())
    np.save(tmp_path / "l.npy", labels)
    volume = tmp_path / "v" / "volume.json"
    with pytest.raises(UserError, match=f"not one voxel is labelled: {message} to be ignored"):
        _ingest(tmp_path / "i.npy", volume, tmp_path / "l.npy", **changes)
    assert not volume.exists()


@pytest.mark.parametrize("dtype", ["uint64", "int32"])
def test_instances_become_classes_section_by_section(tmp_path: Path, dtype: str) -> None:
    ids = np.random.default_rng(0).integers(0, 4, (20, 13, 15)).repeat(5, axis=1).repeat(4, axis=2).astype(dtype)
    ids[ids == 3] = np.iinfo(dtype).max
    np.save(tmp_path / "i.npy", _stack(shape=ids.shape))
    np.save(tmp_path / "l.npy", ids)
    rule = Instances(boundary="membrane", object="inside", reach=2, ignore=[2])
    volume = _ingest(
        tmp_path / "i.npy", tmp_path / "v" / "volume.json", tmp_path / "l.npy", instances=rule, annotated=[3, 9, 17]
    )
    found = open_array(str(volume.labels))[...]
    encoded = data_instances.Instances(list(CLASSES), rule)
    for z, section in enumerate(ids):
        expected = encoded.encode(section) if z in (3, 9, 17) else np.full(section.shape, IGNORE)
        np.testing.assert_array_equal(found[z], expected)
    assert set(np.unique(found)) == {0, 1, IGNORE}


def test_memory_of_instances_is_that_of_a_slab(tmp_path: Path) -> None:
    peaks, rule = [], Instances(boundary="membrane", object="inside")
    for sections in (16, 96):
        np.save(tmp_path / "i.npy", np.zeros((sections, 256, 256), np.uint8))
        np.save(tmp_path / "l.npy", np.ones((sections, 256, 256), np.uint64))
        tracemalloc.start()
        _ingest(
            tmp_path / "i.npy", tmp_path / str(sections) / "volume.json", tmp_path / "l.npy", instances=rule, cores=1
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    slab_bytes = 8 * 256 * 256 * 8
    assert peaks[1] - peaks[0] < slab_bytes / 2
    assert peaks[1] < 3 * slab_bytes


def _zarr_in_place(path: Path, image: Voxels, chunk: tuple[int, int, int]) -> None:
    zarr.create_array(path, shape=image.shape, dtype=image.dtype, chunks=chunk)[...] = image


@pytest.mark.parametrize("depth", [1, 3, 8, 12])
@pytest.mark.parametrize("sections", [None, (5, 11)], ids=["all", "some"])
def test_a_zarr_is_used_in_place_with_the_statistics_of_a_copy(
    tmp_path: Path, depth: int, sections: tuple[int, int] | None
) -> None:
    image = _stack(shape=(12, 70, 1100))
    image[6] = 9
    np.save(tmp_path / "i.npy", image)
    _zarr_in_place(tmp_path / "i.zarr", image, (depth, 32, 100))
    copied = _ingest(tmp_path / "i.npy", tmp_path / "a" / "volume.json", sections=sections)
    used = _ingest(tmp_path / "i.zarr", tmp_path / "b" / "volume.json", sections=sections)
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["progress", "volume.json"]
    assert used.image == str(tmp_path / "i.zarr")
    assert used.first_section == (0 if sections is None else 5)
    assert used.shape == copied.shape
    assert used.origin_nm == copied.origin_nm
    assert (used.mean, used.std, used.missing_sections) == (copied.mean, copied.std, copied.missing_sections)


def test_what_a_zarr_in_place_has_left_out_reads_as_in_a_copy(tmp_path: Path) -> None:
    image = _stack()
    image[8:16, 32:] = 0
    np.save(tmp_path / "i.npy", image)
    _zarr_in_place(tmp_path / "i.zarr", image, (8, 32, 32))
    assert not (tmp_path / "i.zarr" / "c" / "1" / "1").exists()
    copied = _ingest(tmp_path / "i.npy", tmp_path / "a" / "volume.json")
    used = _ingest(tmp_path / "i.zarr", tmp_path / "b" / "volume.json")
    around = Region((-3, -4, -5), (23, 54, 65))
    np.testing.assert_array_equal(Image(used).read(around), Image(copied).read(around))


def test_an_ome_zarr_is_used_in_place_with_its_origin(tmp_path: Path) -> None:
    image = _stack()
    chunk, shard = layout(image.shape)
    create(
        tmp_path / "i.zarr",
        shape=image.shape, dtype="uint8", chunk=chunk, shard=shard, voxel_size_nm=(30, 3, 3), origin_nm=(60, 6, 9),
    )[...] = image  # fmt: skip
    volume = _ingest(tmp_path / "i.zarr", tmp_path / "v" / "volume.json", voxel_size_nm=None, sections=(2, 9))
    assert volume.image == str(tmp_path / "i.zarr" / "0")
    assert volume.voxel_size_nm == (30, 3, 3)
    assert volume.origin_nm == (120, 6, 9)


def test_a_zarr_in_place_has_another_digest_once_it_was_written_to(tmp_path: Path) -> None:
    image = _stack()
    _zarr_in_place(tmp_path / "i.zarr", image, (8, 32, 32))
    first = _ingest(tmp_path / "i.zarr", tmp_path / "v" / "volume.json")
    same = _ingest(tmp_path / "i.zarr", tmp_path / "w" / "volume.json")
    zarr.open_array(tmp_path / "i.zarr", mode="r+")[0, 0, 0] = image[0, 0, 0] ^ 1
    os.utime(tmp_path / "i.zarr" / "c" / "0" / "0" / "0", (1, 1))
    changed = _ingest(tmp_path / "i.zarr", tmp_path / "v" / "volume.json")
    assert first.image_digest == same.image_digest != changed.image_digest


def test_labels_may_be_a_zarr_and_are_copied(tmp_path: Path) -> None:
    np.save(tmp_path / "i.npy", _stack())
    _zarr_in_place(tmp_path / "l.zarr", _labels(), (7, 20, 60))
    volume = _ingest(tmp_path / "i.npy", tmp_path / "v" / "volume.json", tmp_path / "l.zarr")
    assert volume.labels == str(tmp_path / "v" / "labels.zarr" / "0")


def test_progress_is_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.save(tmp_path / "i.npy", _stack())
    np.save(tmp_path / "l.npy", _labels())
    with caplog.at_level(logging.INFO):
        _ingest(tmp_path / "i.npy", tmp_path / "v" / "volume.json", tmp_path / "l.npy")
    lines = [record.getMessage() for record in caplog.records]
    assert any("image: 100%" in line and "3/3" in line for line in lines)
    assert any("labels: 100%" in line and "3/3" in line for line in lines)


def test_memory_does_not_grow_with_the_number_of_sections(tmp_path: Path) -> None:
    peaks = []
    for sections in (16, 96):
        path = tmp_path / f"{sections}.tif"
        with tifffile.TiffWriter(path) as writer:
            for section in _stack(shape=(sections, 256, 256)):
                writer.write(section, contiguous=False, compression="zlib")
        tracemalloc.start()
        _ingest(path, tmp_path / str(sections) / "volume.json", cores=1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    slab_bytes = 8 * 256 * 256
    assert peaks[1] - peaks[0] < 2 * slab_bytes
    assert peaks[1] < 96 * 256 * 256


# Interruption: before a slab is written, when it is written but not recorded, and when nothing but volume.json is left.
def _interrupt_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    original = tiff.TiffSource.read

    def read(self: tiff.TiffSource, first: int, end: int) -> Voxels:
        if first == 8:
            raise KeyboardInterrupt
        return original(self, first, end)

    monkeypatch.setattr(tiff.TiffSource, "read", read)


def _interrupt_syncing(monkeypatch: pytest.MonkeyPatch) -> None:
    original = slabs.sync_shard

    def sync(array: Any, start: Any) -> Path:
        if tuple(start) == (16, 0, 0):
            raise KeyboardInterrupt
        return original(array, start)

    monkeypatch.setattr(slabs, "sync_shard", sync)


def _interrupt_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    original = slabs.sync_shard

    def sync(array: Any, start: Any) -> Path:
        if "labels.zarr" in str(array.store_path) and start[0] == 8:
            raise KeyboardInterrupt
        return original(array, start)

    monkeypatch.setattr(slabs, "sync_shard", sync)


def _interrupt_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(self: VolumeFile, path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(VolumeFile, "write", write)


INTERRUPTIONS = [
    pytest.param(_interrupt_reading, 1, id="reading"),
    pytest.param(_interrupt_syncing, 2, id="syncing"),
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
    tifffile.imwrite(tmp_path / "i.tif", _stack(), compression="zlib")
    tifffile.imwrite(tmp_path / "l.tif", _labels(), compression="zlib")
    for folder in ("undisturbed", "interrupted"):
        (tmp_path / folder).mkdir()
    volume = Path("v/volume.json")
    monkeypatch.chdir(tmp_path / "undisturbed")
    _ingest("../i.tif", volume, "../l.tif")

    monkeypatch.chdir(tmp_path / "interrupted")
    with monkeypatch.context() as patch:
        interrupt(patch)
        with pytest.raises(KeyboardInterrupt):
            _ingest("../i.tif", volume, "../l.tif")
    assert not volume.exists()

    original, read = tiff.TiffSource.read, []

    def counted(self: tiff.TiffSource, first: int, end: int) -> Voxels:
        read.append((self.address, first))
        return original(self, first, end)

    monkeypatch.setattr(tiff.TiffSource, "read", counted)
    _ingest("../i.tif", volume, "../l.tif")
    slabs_of_both = [(address, first) for address in ("../i.tif", "../l.tif") for first in (0, 8, 16)]
    assert read == slabs_of_both[finished:]
    assert _tree(tmp_path / "interrupted") == _tree(tmp_path / "undisturbed")


def test_a_shard_that_is_gone_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("i.tif", _stack(), compression="zlib")
    tifffile.imwrite("l.tif", _labels(), compression="zlib")
    volume = Path("v/volume.json")
    _ingest("i.tif", volume, "l.tif")
    before = _tree(tmp_path)
    for store in ("image.zarr", "labels.zarr"):
        next(path for path in sorted((tmp_path / "v" / store / "0" / "c").rglob("*")) if path.is_file()).unlink()
    volume.unlink()
    _ingest("i.tif", volume, "l.tif")
    assert {path: data for path, data in _tree(tmp_path).items() if "zarr" in str(path)} == {
        path: data for path, data in before.items() if "zarr" in str(path)
    }


def test_an_interrupted_sampling_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _zarr_in_place(tmp_path / "i.zarr", _stack(), (8, 32, 32))
    undisturbed = _ingest(tmp_path / "i.zarr", tmp_path / "a" / "volume.json")
    original, calls = slabs.measure_patches, []

    def third_fails(boxes: Any, grey_range: Any) -> dict[str, Any]:
        calls.append(len(boxes[0]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(boxes, grey_range)

    monkeypatch.setattr(slabs, "measure_patches", third_fails)
    with pytest.raises(KeyboardInterrupt):
        _ingest(tmp_path / "i.zarr", tmp_path / "b" / "volume.json")
    assert not (tmp_path / "b" / "volume.json").exists()
    assert _ingest(tmp_path / "i.zarr", tmp_path / "b" / "volume.json") == undisturbed
    assert calls == [8, 8, 4, 4]


def test_other_input_after_an_interruption_is_not_mixed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "i.npy", _stack(1))
    volume = tmp_path / "v" / "volume.json"
    with monkeypatch.context() as patch:
        _interrupt_syncing(patch)
        with pytest.raises(KeyboardInterrupt):
            _ingest(tmp_path / "i.npy", volume)
    np.save(tmp_path / "i.npy", _stack(2))
    os.utime(tmp_path / "i.npy", (1, 1))
    ingested = _ingest(tmp_path / "i.npy", volume)
    np.testing.assert_array_equal(open_array(ingested.image)[...], _stack(2))
    np.testing.assert_allclose(ingested.mean, [section.mean() for section in _stack(2)], rtol=0.05)


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
    np.save(tmp_path / "i.npy", _stack())
    np.save(tmp_path / "l.npy", _labels())
    for folder in ("fresh", "used"):
        (tmp_path / folder).mkdir()
    volume = tmp_path / "used" / "volume.json"
    _ingest(tmp_path / "i.npy", volume, tmp_path / "l.npy")
    _ingest(tmp_path / "i.npy", volume, tmp_path / "l.npy", **changes)
    _ingest(tmp_path / "i.npy", tmp_path / "fresh" / "volume.json", tmp_path / "l.npy", **changes)
    fresh, used = _tree(tmp_path / "fresh"), _tree(tmp_path / "used")
    assert used.pop("volume.json") == fresh.pop("volume.json").replace(b"/fresh/", b"/used/")
    assert used == fresh


def test_a_store_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    np.save(tmp_path / "i.npy", _stack())
    volume = tmp_path / "v" / "volume.json"
    first = _ingest(tmp_path / "i.npy", volume)
    for path in sorted((tmp_path / "v" / "image.zarr").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert _ingest(tmp_path / "i.npy", volume) == first
    np.testing.assert_array_equal(open_array(first.image)[...], _stack())


def test_labels_that_are_gone_from_the_settings_are_gone(tmp_path: Path) -> None:
    np.save(tmp_path / "i.npy", _stack())
    np.save(tmp_path / "l.npy", _labels())
    volume = tmp_path / "v" / "volume.json"
    _ingest(tmp_path / "i.npy", volume, tmp_path / "l.npy")
    assert _ingest(tmp_path / "i.npy", volume).labels is None
    assert not (tmp_path / "v" / "labels.zarr").exists()


def test_an_input_in_the_output_is_not_wiped(tmp_path: Path) -> None:
    np.save(tmp_path / "i.npy", _stack())
    np.save(tmp_path / "l.npy", _labels())
    volume = tmp_path / "v" / "volume.json"
    _ingest(tmp_path / "i.npy", volume, tmp_path / "l.npy")
    before = _tree(tmp_path / "v" / "labels.zarr")
    with pytest.raises(UserError, match=r"it lies in .*labels\.zarr, which this step writes anew\n.*another name"):
        _ingest(tmp_path / "i.npy", volume, tmp_path / "v" / "labels.zarr")
    assert _tree(tmp_path / "v" / "labels.zarr") == before
