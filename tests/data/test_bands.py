"""Sections that are too large to be read whole become the same volume, in bounded memory."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from formats import COPIED, IN_PLACE, Voxels, as_hdf5, as_npy, as_png_folder, as_tiff, each_of, some_voxels
from ingesting import ingested, tree

from unetpipe import config
from unetpipe.data import bands, slabs
from unetpipe.data.sources import open_source

ODD_STRIPS = {"tiff-strips-of-one-row": as_tiff(rowsperstrip=1, compression="zlib")}
IN_PARTS = {
    name: write
    for name, write in COPIED.items()
    if name not in ("png-folder", "tiff-deflate-predictor", "tiff-lzw", "tiff-packbits", "tiff-folder")
}


@each_of(COPIED | IN_PLACE | ODD_STRIPS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_rows_are_those_of_the_sections(tmp_path: Path, write: Callable[[Path, Voxels], str], dtype: str) -> None:
    voxels = some_voxels(dtype)
    with open_source(write(tmp_path, voxels), threads=2) as source:
        for first, end, low, high in ((0, 11, 0, 37), (0, 1, 36, 37), (3, 9, 5, 22), (10, 11, 0, 1), (2, 4, 16, 32)):
            rows = source.read_rows(first, end, low, high)
            assert rows.dtype == voxels.dtype
            np.testing.assert_array_equal(rows, voxels[first:end, low:high])


@each_of(IN_PARTS)
def test_formats_that_can_decode_rows_alone(tmp_path: Path, write: Callable[[Path, Voxels], str]) -> None:
    with open_source(write(tmp_path, some_voxels("uint8"))) as source:
        assert source.rows_at_once <= 16


def test_bits_in_strips_are_decoded(tmp_path: Path) -> None:
    bits = some_voxels("uint8") > 100
    with open_source(as_tiff(rowsperstrip=5)(tmp_path, bits)) as source:
        np.testing.assert_array_equal(source.read_rows(0, 11, 3, 18), bits[:, 3:18])


def test_a_tile_that_is_left_out_is_empty(tmp_path: Path) -> None:
    # GDAL writes none where there is nothing.
    voxels = some_voxels("uint8", (1, 64, 64))
    tifffile.imwrite(tmp_path / "a.tif", voxels[0], tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tiff:
        tags = tiff.pages.first.tags
        for name in ("TileOffsets", "TileByteCounts"):
            values = list(tags[name].value)
            values[5] = 0
            tags[name].overwrite(values)
    voxels[:, 16:32, 16:32] = 0
    with open_source(str(tmp_path / "a.tif")) as source:
        np.testing.assert_array_equal(source.read(0, 1), voxels)
        np.testing.assert_array_equal(source.read_rows(0, 1, 10, 40), voxels[:, 10:40])


def as_one_strip(folder: Path, voxels: Voxels) -> str:
    return as_tiff(rowsperstrip=voxels.shape[1], compression="zlib")(folder, voxels)


@each_of({"npy": as_npy, "hdf5": as_hdf5, "tiff": as_tiff(rowsperstrip=7), "png": as_png_folder, "strip": as_one_strip})
@pytest.mark.parametrize("rule", ["classes", "instances"])
@pytest.mark.parametrize("most_rows", [60, 1500])
def test_what_is_read_at_once_does_not_change_a_byte(
    tmp_path: Path, write: Callable[[Path, Voxels], str], rule: str, most_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (10, 2100, 40)
    rng = np.random.default_rng(5)
    image = rng.integers(0, 256, shape, np.uint8)
    # Objects of a few rows each, so that boundaries lie on the cuts too.
    labels = np.repeat(rng.integers(0, 4, (10, 525, 40), np.uint8), 4, axis=1)
    how: dict[str, object] = {"annotated": [1, ((2, 9), (100, 2050), (3, 33))], "sections": (1, 10), "ignore": []}
    how["label_values"] = {"membrane": [0], "inside": [1, 2, 3]}
    if rule == "instances":
        how["instances"] = config.Instances(boundary="membrane", object="inside", reach=3)
    addresses = []
    for kind, voxels in (("image", image), ("labels", labels)):
        (tmp_path / kind).mkdir()
        addresses.append(write(tmp_path / kind, voxels))
    whole = ingested(addresses[0], tmp_path / "whole" / "v" / "volume.json", addresses[1], **how)
    most_bytes = most_rows * 8 * 40
    for module in (bands, slabs):
        monkeypatch.setattr(module, "MOST_BYTES", most_bytes)
    monkeypatch.setattr(bands, "_MOST_BYTES_DECODED", most_bytes)
    reads = []
    filled = bands.rows_of
    monkeypatch.setattr(slabs, "rows_of", lambda *given: (reads.append(given), filled(*given))[1])
    parts = ingested(addresses[0], tmp_path / "parts" / "v" / "volume.json", addresses[1], **how)
    # Two slabs of the image and of the classes; of instances, the numbers of the objects as well.
    assert len(reads) == (6 if rule == "instances" else 4)
    assert (parts.mean, parts.std, parts.source["labelled"]) == (whole.mean, whole.std, whole.source["labelled"])
    assert (parts.image_digest, parts.labels_digest) == (whole.image_digest, whole.labels_digest)
    one, other = (tree(tmp_path / name / "v") for name in ("whole", "parts"))
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name] and name != "volume.json"] == []


@each_of({"tiff": as_tiff(rowsperstrip=16, compression="packbits"), "strip": as_one_strip, "png": as_png_folder})
def test_memory_is_bounded_by_a_band_and_a_section(tmp_path: Path, write: Callable[[Path, Voxels], str]) -> None:
    # A slab of eight sections would be 67 MB.
    voxels = np.tile(some_voxels("uint8", (1, 64, 64)), (8, 64, 32))
    address = write(tmp_path, voxels)
    code = f"""
import resource
from pathlib import Path
from unetpipe.data import bands, slabs
from unetpipe.data.ingest import ingest
from unetpipe.data.sources import open_source
for module in (bands, slabs):
    module.MOST_BYTES = 2**20
bands._MOST_BYTES_DECODED = 2**20
with open_source({address!r}) as source:
    source.read_rows(0, 1, 0, 16)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
ingest({address!r}, None, Path({str(tmp_path)!r}) / "a" / "volume.json", "v", [0, 1], [1, 1, 1], None, {{}}, [], 1)
before = peak()
ingest({address!r}, None, Path({str(tmp_path)!r}) / "v" / "volume.json", "v", None, [1, 1, 1], None, {{}}, [], 1)
print(peak() - before)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    band_mb = 8 * 1024 * 2048 / 2**20
    assert float(result.stdout) < 2.5 * band_mb
