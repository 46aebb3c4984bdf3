"""One volume, whatever the file: the same voxels, sizes and digests."""

import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from formats import (
    COPIED,
    IN_PLACE,
    Voxels,
    as_hdf5,
    as_imagej_one_page,
    as_npy,
    as_ome_zarr_4,
    as_ome_zarr_5,
    as_tiff,
    as_tiff_folder,
    as_zarr_array,
    each_of,
    some_voxels,
)
from PIL import Image

from unetpipe.data.ingest import ingest
from unetpipe.data.sources import file_of, open_source, watched
from unetpipe.errors import UserError
from unetpipe.volume import VolumeFile


@each_of(COPIED | IN_PLACE)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_every_format_gives_the_same_voxels_in_any_slabs(
    tmp_path: Path, write: Callable[[Path, Voxels], str], dtype: str
) -> None:
    voxels = some_voxels(dtype)
    with open_source(write(tmp_path, voxels), threads=3) as source:
        assert source.shape == voxels.shape
        assert source.dtype == voxels.dtype
        for cuts in ([0, 11], [0, 1, 2, 10, 11], [0, 4, 8, 11]):
            slabs = [source.read(first, end) for first, end in itertools.pairwise(cuts)]
            assert all(slab.dtype == voxels.dtype and slab.dtype.isnative for slab in slabs)
            np.testing.assert_array_equal(np.concatenate(slabs), voxels)


@each_of(COPIED)
def test_every_format_that_is_copied_has_the_same_digest(tmp_path: Path, write: Callable[[Path, Voxels], str]) -> None:
    voxels, facts = some_voxels("uint8"), []
    for folder, writer in (("this", write), ("npy", as_npy)):
        (tmp_path / folder).mkdir()
        address = writer(tmp_path / folder, voxels)
        volume = tmp_path / folder / "v" / "volume.json"
        ingest(address, None, volume, "v", None, None, None, {"a": [0], "b": [1]}, [], cores=2)
        facts.append(VolumeFile.read(volume))
    assert facts[0].image_digest == facts[1].image_digest
    assert (facts[0].mean, facts[0].std) == (facts[1].mean, facts[1].std)


@each_of({name: COPIED[name] for name in ("tiff", "tiff-lzw", "npy", "hdf5", "tiff-folder", "png-folder")})
def test_one_section_is_a_volume(tmp_path: Path, write: Callable[[Path, Voxels], str]) -> None:
    voxels = some_voxels("uint8", (1, 40, 50))
    with open_source(write(tmp_path, voxels)) as source:
        assert source.shape == (1, 40, 50)
        np.testing.assert_array_equal(source.read(0, 1), voxels)


def test_a_2d_image_counts_as_one_section(tmp_path: Path) -> None:
    voxels = some_voxels("uint8", (40, 50))
    Image.fromarray(voxels).save(tmp_path / "one.png")
    np.save(tmp_path / "one.npy", voxels)
    tifffile.imwrite(tmp_path / "one.tif", voxels)
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file["raw"] = voxels
    for name in ("one.png", "one.npy", "one.tif", "one.h5:/raw"):
        with open_source(str(tmp_path / name)) as source:
            np.testing.assert_array_equal(source.read(0, 1), voxels[None], err_msg=name)


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint32", "float32", "float64"])
@each_of({name: COPIED[name] for name in ("tiff", "npy", "hdf5")} | {name: IN_PLACE[name] for name in ("zarr-3",)})
def test_other_types_are_kept(tmp_path: Path, write: Callable[[Path, Voxels], str], dtype: str) -> None:
    voxels = some_voxels(dtype) - (np.float32(0.25) if dtype.startswith("f") else 0)
    with open_source(write(tmp_path, voxels.astype(dtype))) as source:
        assert source.dtype == dtype
        np.testing.assert_array_equal(source.read(0, 11), voxels)


@each_of({name: COPIED[name] for name in ("tiff", "npy", "hdf5", "png-folder")})
def test_bits_become_bytes(tmp_path: Path, write: Callable[[Path, Voxels], str]) -> None:
    bits = some_voxels("uint8") > 100
    with open_source(write(tmp_path, bits)) as source:
        assert source.dtype == np.uint8
        np.testing.assert_array_equal(source.read(0, 11), bits.astype(np.uint8))


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        pytest.param(
            as_tiff(imagej=True, resolution=(0.25, 0.25), metadata={"spacing": 40, "unit": "nm", "axes": "ZYX"}),
            (40, 4, 4),
            id="imagej-nm",
        ),
        pytest.param(
            as_tiff(imagej=True, resolution=(250, 200), metadata={"spacing": 0.04, "unit": "um", "axes": "ZYX"}),
            (40, 5, 4),
            id="imagej-um",
        ),
        pytest.param(
            as_tiff(imagej=True, resolution=(250, 250), metadata={"spacing": 0.04, "unit": "micron", "axes": "ZYX"}),
            (40, 4, 4),
            id="imagej-micron",
        ),
        pytest.param(as_imagej_one_page, (40, 4, 4), id="imagej-one-page"),
        pytest.param(
            as_tiff(imagej=True, resolution=(72, 72), metadata={"spacing": 1, "unit": "pixel", "axes": "ZYX"}),
            None,
            id="imagej-pixels",
        ),
        pytest.param(as_tiff(imagej=True, metadata={"unit": "nm", "axes": "ZYX"}), None, id="imagej-without-spacing"),
        pytest.param(
            as_tiff(
                ome=True,
                metadata={
                    "axes": "ZYX", "PhysicalSizeX": 4.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.005,
                    "PhysicalSizeZ": 0.04, "PhysicalSizeZUnit": "µm",
                },
            ),
            (40, 5, 4),
            id="ome",
        ),
        pytest.param(as_tiff(resolution=(300, 300), resolutionunit="inch"), None, id="dots-per-inch"),
        pytest.param(as_npy, None, id="npy"),
        pytest.param(as_zarr_array(3), None, id="zarr-array"),
        pytest.param(as_ome_zarr_4, (40, 4, 4), id="ome-zarr-0.4-two-scales"),
        pytest.param(as_ome_zarr_5, (40, 4, 4), id="ome-zarr-0.5"),
    ],
)  # fmt: skip
def test_voxel_size_is_read_where_the_format_defines_it(
    tmp_path: Path, write: Callable[[Path, Voxels], str], expected: tuple[float, float, float] | None
) -> None:
    with open_source(write(tmp_path, some_voxels("uint8"))) as source:
        assert source.voxel_size_nm == expected


def test_hdf5_has_its_voxel_size_in_micrometres(tmp_path: Path) -> None:
    address = as_hdf5(tmp_path, some_voxels("uint8"))
    with h5py.File(file_of(address), "a") as file:
        file["volumes/raw"].attrs["element_size_um"] = np.array([0.04, 0.005, 0.004], np.float32)
    with open_source(address) as source:
        assert source.voxel_size_nm == pytest.approx((40, 5, 4), rel=1e-6)


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        # The level's translation is scaled by the image's scale, which comes after it.
        pytest.param(as_ome_zarr_4, (80.0, 0.0, 8.0), id="ome-zarr-0.4-two-scales"),
        pytest.param(as_ome_zarr_5, (80.0, 0.0, 8.0), id="ome-zarr-0.5"),
        pytest.param(as_zarr_array(3), (0.0, 0.0, 0.0), id="zarr-array"),
    ],
)
def test_zarr_tells_its_origin(
    tmp_path: Path, write: Callable[[Path, Voxels], str], expected: tuple[float, ...]
) -> None:
    with open_source(write(tmp_path, some_voxels("uint8"))) as source:
        assert source.origin_nm == expected


def pyramid(folder: Path, version: int = 3, axes: str = "zyx", transformations: list[Any] | None = None) -> Path:
    """An OME-Zarr of two levels, voxels of 4 nm and 8 nm, and an array beside them."""
    levels = [
        {
            "path": f"scale/{number}",
            "coordinateTransformations": transformations
            or [
                {"type": "scale", "scale": [40, size, size]},
                {"type": "translation", "translation": [0, size / 2 - 2, size / 2 - 2]},
            ],
        }
        for number, size in enumerate((4, 8))
    ]
    space = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in axes]
    multiscales = {"multiscales": [{"axes": space, "datasets": levels}]}
    attributes = multiscales if version == 2 else {"ome": multiscales}
    group = zarr.create_group(folder / "p.zarr", zarr_format=version, attributes=attributes)
    voxels = some_voxels("uint8")
    for path in ("scale/0", "scale/1", "other"):
        group.create_array(path, shape=voxels.shape, dtype=voxels.dtype)[...] = voxels
    return folder / "p.zarr"


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("scale/0", ((40, 4, 4), (0, 0, 0)), id="full resolution"),
        pytest.param("scale/1", ((40, 8, 8), (0, 2, 2)), id="coarser"),
        pytest.param("scale/1/", ((40, 8, 8), (0, 2, 2)), id="with a slash"),
        pytest.param("other", (None, (0, 0, 0)), id="no level"),
    ],
)
def test_a_level_of_a_pyramid_has_its_own_voxel_size(
    version: int, name: str, expected: tuple[Any, Any], tmp_path: Path
) -> None:
    address = f"{pyramid(tmp_path, version)}/{name}"
    with open_source(address) as source:
        assert (source.voxel_size_nm, source.origin_nm) == expected
        assert np.array_equal(source.read(0, source.shape[0]), some_voxels("uint8"))
    # Whoever changes the voxel size of the image changes that of the level.
    assert str(tmp_path / "p.zarr" / ("zarr.json" if version == 3 else ".zattrs")) in watched(address)


def test_so_it_has_from_inside_and_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    level = pyramid(tmp_path) / "scale" / "1"
    (tmp_path / "link").symlink_to(level)
    monkeypatch.chdir(level)
    for address in (".", str(tmp_path / "link")):
        with open_source(address) as source:
            assert source.voxel_size_nm == (40, 8, 8)
    assert "../../zarr.json" in watched(".")


def test_axes_in_another_order_are_refused_for_a_level_too(tmp_path: Path) -> None:
    folder = pyramid(tmp_path, axes="xyz")
    for address in (folder, folder / "scale" / "1"):
        with pytest.raises(UserError, match=r"axes \(x, y, z\)"):
            open_source(str(address))
    with open_source(str(folder / "other")) as source:
        assert source.voxel_size_nm is None


def test_transformations_that_are_none_tell_nothing(tmp_path: Path) -> None:
    folder = pyramid(tmp_path, transformations=[5, "scale"])
    for address in (folder, folder / "scale" / "1"):
        with open_source(str(address)) as source:
            assert source.voxel_size_nm is None


def test_sections_are_sorted_as_people_count(tmp_path: Path) -> None:
    for z in (1, 2, 10, 9, 100):
        tifffile.imwrite(tmp_path / f"s{z}.tif", np.full((4, 4), z, np.uint8))
    with open_source(str(tmp_path)) as source:
        assert source.read(0, 5)[:, 0, 0].tolist() == [1, 2, 9, 10, 100]


@each_of(COPIED | IN_PLACE)
def test_listing_changes_with_the_files_alone(tmp_path: Path, write: Callable[[Path, Voxels], str]) -> None:
    address = write(tmp_path, some_voxels("uint8"))
    listings = []
    for _ in range(2):
        with open_source(address) as source:
            listings.append(source.listing())
    for folder in tmp_path.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    write(tmp_path, some_voxels("uint8")[::-1].copy())
    with open_source(address) as source:
        listings.append(source.listing())
    assert listings[0] == listings[1] != listings[2]


def test_watched_files_are_those_whose_change_counts(tmp_path: Path) -> None:
    voxels = some_voxels("uint8")
    for name in ("tiffs", "rest"):
        (tmp_path / name).mkdir()
    folder = as_tiff_folder(tmp_path / "tiffs", voxels)
    assert watched(folder) == [f"{folder}/s{z}.tif" for z in range(1, 12)]
    assert watched(as_hdf5(tmp_path / "rest", voxels)) == [str(tmp_path / "rest" / "data.h5")]
    assert watched(as_npy(tmp_path / "rest", voxels)) == [str(tmp_path / "rest" / "stack.npy")]
    zarr_folder = as_ome_zarr_5(tmp_path / "rest", voxels)
    assert watched(zarr_folder) == [f"{zarr_folder}/zarr.json"]


def test_opening_reads_no_voxels(tmp_path: Path) -> None:
    # A hundred megabytes of zeros, of which the file system stores none.
    np.lib.format.open_memmap(tmp_path / "huge.npy", "w+", np.uint8, (10_000, 100, 100))
    with tifffile.TiffWriter(tmp_path / "many.tif") as tiff:
        for _ in range(300):
            tiff.write(np.zeros((8, 8), np.uint8), contiguous=False)
    read = (
        "import sys; from unetpipe.data.sources import open_source, watched; "
        f"a, b = (open_source({str(tmp_path)!r} + name).shape for name in ('/huge.npy', '/many.tif')); "
        "print(a, b, sorted({'zarr', 'h5py', 'PIL', 'torch', 'scipy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, check=True)
    assert result.stdout == "(10000, 100, 100) (300, 8, 8) []\n"
