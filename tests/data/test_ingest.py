"""Ingest gives back the voxels, and knows what it has."""

import logging
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from ingesting import ingested, some_grey, some_labels, zarr_in_place
from stores import make_store

import unetpipe
from unetpipe.arrays import open_array
from unetpipe.grid import Region
from unetpipe.volume import IGNORE, Image, layout, mirrored


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

    volume = ingested(
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
    ingested(tmp_path / "zeros.npy", tmp_path / "v" / "volume.json", tmp_path / "zeros.npy")
    for store in ("image.zarr", "labels.zarr"):
        assert len([path for path in (tmp_path / "v" / store / "0" / "c").rglob("*") if path.is_file()]) == 3


def test_volume_json_says_what_is_known(tmp_path: Path) -> None:
    image = some_grey()
    image[4] = 30
    tifffile.imwrite(
        tmp_path / "i.tif",
        image,
        imagej=True,
        resolution=(0.25, 0.2),
        metadata={"spacing": 40, "unit": "nm", "axes": "ZYX"},
    )
    volume = ingested(tmp_path / "i.tif", tmp_path / "v" / "volume.json", voxel_size_nm=None, sections=[3, 20])
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
    tifffile.imwrite(tmp_path / "i.tif", some_grey(), imagej=True, resolution=(0.25, 0.25), metadata=metadata)
    volume = ingested(tmp_path / "i.tif", tmp_path / "v" / "volume.json", voxel_size_nm=[50, 6, 6])
    assert volume.voxel_size_nm == (50, 6, 6)


def test_an_unknown_voxel_size_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.save(tmp_path / "i.npy", some_grey())
    with caplog.at_level(logging.WARNING):
        volume = ingested(tmp_path / "i.npy", tmp_path / "v" / "volume.json", voxel_size_nm=None)
    assert volume.voxel_size_nm == (1, 1, 1)
    assert volume.source["voxel_size_known"] is False
    assert "tell its voxel size; results will have voxels of 1 nm. Set volumes.v.voxel_size_nm" in caplog.text


def test_missing_sections_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = some_grey()
    image[2], image[19] = 0, 255
    np.save(tmp_path / "i.npy", image)
    with caplog.at_level(logging.WARNING):
        volume = ingested(tmp_path / "i.npy", tmp_path / "v" / "volume.json")
    assert volume.missing_sections == (2, 19)
    assert "taken for missing, since without contrast: sections 2, 19" in caplog.text


def test_the_digest_follows_the_voxels_alone(tmp_path: Path) -> None:
    image = some_grey()
    np.save(tmp_path / "a.npy", image)
    tifffile.imwrite(tmp_path / "b.tif", image, compression="zlib")
    np.save(tmp_path / "wider.npy", image.reshape(20, 25, 120))
    image[13, 20, 20] ^= 1
    np.save(tmp_path / "c.npy", image)
    digests = {
        path: ingested(
            tmp_path / path, tmp_path / path.replace(".", "-") / "volume.json", voxel_size_nm=size
        ).image_digest
        for path, size in (("a.npy", (1, 1, 1)), ("b.tif", (9, 9, 9)), ("c.npy", None), ("wider.npy", None))
    }
    assert digests["a.npy"] == digests["b.tif"]
    assert len(set(digests.values())) == 3


@pytest.mark.parametrize("depth", [1, 3, 8, 12])
@pytest.mark.parametrize("sections", [None, (5, 11)], ids=["all", "some"])
def test_a_zarr_is_used_in_place_with_the_statistics_of_a_copy(
    tmp_path: Path, depth: int, sections: tuple[int, int] | None
) -> None:
    image = some_grey(shape=(12, 70, 1100))
    image[6] = 9
    np.save(tmp_path / "i.npy", image)
    zarr_in_place(tmp_path / "i.zarr", image, (depth, 32, 100))
    copied = ingested(tmp_path / "i.npy", tmp_path / "a" / "volume.json", sections=sections)
    used = ingested(tmp_path / "i.zarr", tmp_path / "b" / "volume.json", sections=sections)
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["progress", "volume.json"]
    assert used.image == str(tmp_path / "i.zarr")
    assert used.first_section == (0 if sections is None else 5)
    assert used.shape == copied.shape
    assert used.origin_nm == copied.origin_nm
    assert (used.mean, used.std, used.missing_sections) == (copied.mean, copied.std, copied.missing_sections)


def test_what_a_zarr_in_place_has_left_out_reads_as_in_a_copy(tmp_path: Path) -> None:
    image = some_grey()
    image[8:16, 32:] = 0
    np.save(tmp_path / "i.npy", image)
    zarr_in_place(tmp_path / "i.zarr", image, (8, 32, 32))
    assert not (tmp_path / "i.zarr" / "c" / "1" / "1").exists()
    copied = ingested(tmp_path / "i.npy", tmp_path / "a" / "volume.json")
    used = ingested(tmp_path / "i.zarr", tmp_path / "b" / "volume.json")
    around = Region((-3, -4, -5), (23, 54, 65))
    z = mirrored(-3, 23, len(image))
    # Measured where something is stored, they are normalised otherwise.
    found, expected = (
        Image(volume).read(around) * np.array(volume.std)[z, None, None] + np.array(volume.mean)[z, None, None]
        for volume in (used, copied)
    )
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_sections_are_measured_where_something_is_stored(tmp_path: Path) -> None:
    image = np.zeros((24, 600, 700), np.uint8)
    noise = np.random.default_rng(0).integers(50, 150, (8, 60, 70), np.uint8)
    # One chunk of a hundred, far from the lattice of patches; nothing above it, all of it below.
    image[8:16, 540:, 630:] = noise
    image[16:] = np.tile(noise, (1, 10, 10))
    zarr_in_place(tmp_path / "i.zarr", image, (8, 60, 70))
    used = ingested(tmp_path / "i.zarr", tmp_path / "b" / "volume.json")
    assert used.missing_sections == tuple(range(8))
    for section in range(8):
        for z in (8 + section, 16 + section):
            assert used.mean[z] == pytest.approx(noise[section].mean(), abs=2)
            assert used.std[z] == pytest.approx(noise[section].std(), abs=2)
    extent = used.read_extent()
    assert extent is not None
    np.testing.assert_array_equal(extent.voxels(Region((0, 0, 0), image.shape)), image > 0)


def test_of_an_image_that_is_all_there_nothing_is_written_down(tmp_path: Path) -> None:
    zarr_in_place(tmp_path / "i.zarr", some_grey() + 1, (8, 32, 32))
    used = ingested(tmp_path / "i.zarr", tmp_path / "b" / "volume.json")
    assert used.extent is None
    assert used.read_extent() is None
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["progress", "volume.json"]


def test_an_ome_zarr_is_used_in_place_with_its_origin(tmp_path: Path) -> None:
    image = some_grey()
    chunk, shard = layout(image.shape)
    make_store(
        tmp_path / "i.zarr",
        shape=image.shape, dtype="uint8", chunk=chunk, shard=shard, voxel_size_nm=(30, 3, 3), origin_nm=(60, 6, 9),
    )[...] = image  # fmt: skip
    volume = ingested(tmp_path / "i.zarr", tmp_path / "v" / "volume.json", voxel_size_nm=None, sections=(2, 9))
    assert volume.image == str(tmp_path / "i.zarr" / "0")
    assert volume.voxel_size_nm == (30, 3, 3)
    assert volume.origin_nm == (120, 6, 9)


def test_a_zarr_in_place_has_another_digest_once_it_was_written_to(tmp_path: Path) -> None:
    image = some_grey()
    zarr_in_place(tmp_path / "i.zarr", image, (8, 32, 32))
    first = ingested(tmp_path / "i.zarr", tmp_path / "v" / "volume.json")
    same = ingested(tmp_path / "i.zarr", tmp_path / "w" / "volume.json")
    zarr.open_array(tmp_path / "i.zarr", mode="r+")[0, 0, 0] = image[0, 0, 0] ^ 1
    os.utime(tmp_path / "i.zarr" / "c" / "0" / "0" / "0", (1, 1))
    changed = ingested(tmp_path / "i.zarr", tmp_path / "v" / "volume.json")
    assert first.image_digest == same.image_digest != changed.image_digest


def test_progress_is_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.save(tmp_path / "i.npy", some_grey())
    np.save(tmp_path / "l.npy", some_labels())
    with caplog.at_level(logging.INFO):
        ingested(tmp_path / "i.npy", tmp_path / "v" / "volume.json", tmp_path / "l.npy")
    lines = [record.getMessage() for record in caplog.records]
    assert any("image: 100%" in line and "3/3" in line for line in lines)
    assert any("labels: 100%" in line and "3/3" in line for line in lines)


def test_memory_does_not_grow_with_the_number_of_sections(tmp_path: Path) -> None:
    peaks = []
    for sections in (16, 96):
        path = tmp_path / f"{sections}.tif"
        with tifffile.TiffWriter(path) as writer:
            for section in some_grey(shape=(sections, 256, 256)):
                writer.write(section, contiguous=False, compression="zlib")
        tracemalloc.start()
        ingested(path, tmp_path / str(sections) / "volume.json", cores=1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    slab_bytes = 8 * 256 * 256
    assert peaks[1] - peaks[0] < 2 * slab_bytes
    assert peaks[1] < 96 * 256 * 256
