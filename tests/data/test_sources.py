"""One volume, whatever the file: the same voxels, and a refusal for what is none."""

import itertools
import json
import logging
import shutil
import struct
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
from numpy.typing import NDArray
from PIL import Image

from unetpipe.data.ingest import ingest
from unetpipe.data.sources import FORMS, file_of, open_source, watched
from unetpipe.errors import UserError
from unetpipe.volume import VolumeFile, create, layout

Voxels = NDArray[Any]
IMAGEJ = "ImageJ=1.54f\nimages={n}\nslices={n}\nunit=nm\nspacing=40.0\nloop=false\n"


@pytest.fixture(autouse=True)
def quiet() -> None:
    # tifffile logs what it finds wrong with a damaged file; the tests look at what is raised.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)


def _tiff(**options: Any) -> Callable[[Path, Voxels], str]:
    def write(folder: Path, voxels: Voxels) -> str:
        tifffile.imwrite(folder / "stack.tif", voxels, photometric="minisblack", **options)
        return str(folder / "stack.tif")

    return write


def _page_by_page(folder: Path, voxels: Voxels) -> str:
    with tifffile.TiffWriter(folder / "stack.tif") as tiff:
        for section in voxels:
            tiff.write(section, contiguous=False)
    return str(folder / "stack.tif")


def _imagej_one_page(folder: Path, voxels: Voxels) -> str:
    # As ImageJ does beyond 4 GB: one page, and the other sections behind the data of the first.
    path = folder / "stack.tif"
    description = IMAGEJ.format(n=len(voxels))
    tifffile.imwrite(path, voxels[0], byteorder=">", description=description, metadata=None, resolution=(0.25, 0.25))
    with path.open("ab") as file:
        file.write(voxels[1:].astype(voxels.dtype.newbyteorder(">")).tobytes())
    return str(path)


def _tiff_folder(folder: Path, voxels: Voxels) -> str:
    for z, section in enumerate(voxels):
        tifffile.imwrite(folder / f"s{z + 1}.tif", section, compression="zlib")
    (folder / "notes.txt").write_text("what else lies there does not count")
    (folder / "._s1.tif").write_text("nor does what is hidden")
    return str(folder)


def _png_folder(folder: Path, voxels: Voxels) -> str:
    for z, section in enumerate(voxels):
        Image.fromarray(section).save(folder / f"s{z + 1}.png")
    return str(folder)


def _hdf5(folder: Path, voxels: Voxels) -> str:
    with h5py.File(folder / "data.h5", "w") as file:
        file.create_dataset("volumes/raw", data=voxels, chunks=(min(5, len(voxels)), 16, 16), compression="gzip")
    return f"{folder / 'data.h5'}:/volumes/raw"


def _npy(folder: Path, voxels: Voxels) -> str:
    np.save(folder / "stack.npy", voxels)
    return str(folder / "stack.npy")


def _npy_fortran(folder: Path, voxels: Voxels) -> str:
    np.save(folder / "stack.npy", np.asfortranarray(voxels.astype(voxels.dtype.newbyteorder(">"))))
    return str(folder / "stack.npy")


def _zarr_array(version: int) -> Callable[[Path, Voxels], str]:
    def write(folder: Path, voxels: Voxels) -> str:
        array = zarr.create_array(
            folder / "plain.zarr", shape=voxels.shape, dtype=voxels.dtype, chunks=(3, 16, 16), zarr_format=version
        )
        array[...] = voxels
        return str(folder / "plain.zarr")

    return write


def _ome_zarr_4(folder: Path, voxels: Voxels) -> str:
    group = zarr.create_group(folder / "ome.zarr", zarr_format=2, attributes={"multiscales": [_multiscale("s0")]})
    group.create_array("s0", shape=voxels.shape, dtype=voxels.dtype, chunks=(3, 16, 16))[...] = voxels
    group.create_array("s1", shape=(1, 1, 1), dtype=voxels.dtype)
    return str(folder / "ome.zarr")


def _ome_zarr_5(folder: Path, voxels: Voxels) -> str:
    chunk, shard = layout(voxels.shape)
    create(
        folder / "ome.zarr",
        shape=voxels.shape, dtype=str(voxels.dtype), chunk=chunk, shard=shard,
        voxel_size_nm=(40, 4, 4), origin_nm=(80, 0, 8),
    )[...] = voxels  # fmt: skip
    return str(folder / "ome.zarr")


def _multiscale(path: str, unit: str = "micrometer", axes: str = "zyx") -> dict[str, Any]:
    space = [{"name": name, "type": "space", "unit": unit} for name in axes]
    scale = [{"type": "scale", "scale": [0.02, 0.002, 0.002]}, {"type": "translation", "translation": [0.04, 0, 0.004]}]
    whole = [{"type": "scale", "scale": [2.0, 2.0, 2.0]}]
    levels = [{"path": path, "coordinateTransformations": scale}]
    return {"version": "0.4", "axes": space, "datasets": levels, "coordinateTransformations": whole}


COPIED = {
    "tiff": _tiff(),
    "tiff-without-metadata": _tiff(metadata=None),
    "tiff-deflate-predictor": _tiff(compression="zlib", predictor=True),
    "tiff-lzw": _tiff(compression="lzw"),
    "tiff-packbits": _tiff(compression="packbits"),
    "tiff-tiled-deflate": _tiff(tile=(16, 16), compression="zlib"),
    "tiff-strips": _tiff(rowsperstrip=7),
    "tiff-big-endian": _tiff(byteorder=">"),
    "bigtiff": _tiff(bigtiff=True),
    "tiff-imagej": _tiff(imagej=True, metadata={"axes": "ZYX"}),
    "tiff-imagej-frames": _tiff(imagej=True, metadata={"axes": "TYX"}),
    "tiff-imagej-one-page": _imagej_one_page,
    "tiff-ome": _tiff(ome=True, metadata={"axes": "ZYX"}),
    "tiff-page-by-page": _page_by_page,
    "tiff-folder": _tiff_folder,
    "png-folder": _png_folder,
    "hdf5": _hdf5,
    "npy": _npy,
    "npy-fortran-big-endian": _npy_fortran,
}
IN_PLACE = {
    "zarr-2": _zarr_array(2),
    "zarr-3": _zarr_array(3),
    "ome-zarr-0.4": _ome_zarr_4,
    "ome-zarr-0.5": _ome_zarr_5,
}


def _cases(writers: dict[str, Callable[[Path, Voxels], str]]) -> Any:
    return pytest.mark.parametrize("write", [pytest.param(write, id=name) for name, write in writers.items()])


def _voxels(dtype: str, shape: tuple[int, ...] = (11, 37, 43)) -> Voxels:
    return np.random.default_rng(7).integers(0, 200, shape).astype(dtype)


@_cases(COPIED | IN_PLACE)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_every_format_gives_the_same_voxels_in_any_slabs(
    tmp_path: Path, write: Callable[[Path, Voxels], str], dtype: str
) -> None:
    voxels = _voxels(dtype)
    with open_source(write(tmp_path, voxels), threads=3) as source:
        assert source.shape == voxels.shape
        assert source.dtype == voxels.dtype
        for cuts in ([0, 11], [0, 1, 2, 10, 11], [0, 4, 8, 11]):
            slabs = [source.read(first, end) for first, end in itertools.pairwise(cuts)]
            assert all(slab.dtype == voxels.dtype and slab.dtype.isnative for slab in slabs)
            np.testing.assert_array_equal(np.concatenate(slabs), voxels)


@_cases(COPIED)
def test_every_format_that_is_copied_has_the_same_digest(tmp_path: Path, write: Callable[[Path, Voxels], str]) -> None:
    voxels, facts = _voxels("uint8"), []
    for folder, writer in (("this", write), ("npy", _npy)):
        (tmp_path / folder).mkdir()
        address = writer(tmp_path / folder, voxels)
        volume = tmp_path / folder / "v" / "volume.json"
        ingest(address, None, volume, "v", None, None, None, {"a": [0], "b": [1]}, [], cores=2)
        facts.append(VolumeFile.read(volume))
    assert facts[0].image_digest == facts[1].image_digest
    assert (facts[0].mean, facts[0].std) == (facts[1].mean, facts[1].std)


@_cases({name: COPIED[name] for name in ("tiff", "tiff-lzw", "npy", "hdf5", "tiff-folder", "png-folder")})
def test_one_section_is_a_volume(tmp_path: Path, write: Callable[[Path, Voxels], str]) -> None:
    voxels = _voxels("uint8", (1, 40, 50))
    with open_source(write(tmp_path, voxels)) as source:
        assert source.shape == (1, 40, 50)
        np.testing.assert_array_equal(source.read(0, 1), voxels)


def test_a_2d_image_counts_as_one_section(tmp_path: Path) -> None:
    voxels = _voxels("uint8", (40, 50))
    Image.fromarray(voxels).save(tmp_path / "one.png")
    np.save(tmp_path / "one.npy", voxels)
    tifffile.imwrite(tmp_path / "one.tif", voxels)
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file["raw"] = voxels
    for name in ("one.png", "one.npy", "one.tif", "one.h5:/raw"):
        with open_source(str(tmp_path / name)) as source:
            np.testing.assert_array_equal(source.read(0, 1), voxels[None], err_msg=name)


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint32", "float32", "float64"])
@_cases({name: COPIED[name] for name in ("tiff", "npy", "hdf5")} | {"zarr-3": IN_PLACE["zarr-3"]})
def test_other_types_are_kept(tmp_path: Path, write: Callable[[Path, Voxels], str], dtype: str) -> None:
    voxels = _voxels(dtype) - (np.float32(0.25) if dtype.startswith("f") else 0)
    with open_source(write(tmp_path, voxels.astype(dtype))) as source:
        assert source.dtype == dtype
        np.testing.assert_array_equal(source.read(0, 11), voxels)


@_cases({name: COPIED[name] for name in ("tiff", "npy", "hdf5", "png-folder")})
def test_bits_become_bytes(tmp_path: Path, write: Callable[[Path, Voxels], str]) -> None:
    bits = _voxels("uint8") > 100
    with open_source(write(tmp_path, bits)) as source:
        assert source.dtype == np.uint8
        np.testing.assert_array_equal(source.read(0, 11), bits.astype(np.uint8))


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        pytest.param(
            _tiff(imagej=True, resolution=(0.25, 0.25), metadata={"spacing": 40, "unit": "nm", "axes": "ZYX"}),
            (40, 4, 4),
            id="imagej-nm",
        ),
        pytest.param(
            _tiff(imagej=True, resolution=(250, 200), metadata={"spacing": 0.04, "unit": "um", "axes": "ZYX"}),
            (40, 5, 4),
            id="imagej-um",
        ),
        pytest.param(
            _tiff(imagej=True, resolution=(250, 250), metadata={"spacing": 0.04, "unit": "micron", "axes": "ZYX"}),
            (40, 4, 4),
            id="imagej-micron",
        ),
        pytest.param(_imagej_one_page, (40, 4, 4), id="imagej-one-page"),
        pytest.param(
            _tiff(imagej=True, resolution=(72, 72), metadata={"spacing": 1, "unit": "pixel", "axes": "ZYX"}),
            None,
            id="imagej-pixels",
        ),
        pytest.param(_tiff(imagej=True, metadata={"unit": "nm", "axes": "ZYX"}), None, id="imagej-without-spacing"),
        pytest.param(
            _tiff(
                ome=True,
                metadata={
                    "axes": "ZYX", "PhysicalSizeX": 4.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.005,
                    "PhysicalSizeZ": 0.04, "PhysicalSizeZUnit": "µm",
                },
            ),
            (40, 5, 4),
            id="ome",
        ),
        pytest.param(_tiff(resolution=(300, 300), resolutionunit="inch"), None, id="dots-per-inch"),
        pytest.param(_npy, None, id="npy"),
        pytest.param(_zarr_array(3), None, id="zarr-array"),
        pytest.param(_ome_zarr_4, (40, 4, 4), id="ome-zarr-0.4-two-scales"),
        pytest.param(_ome_zarr_5, (40, 4, 4), id="ome-zarr-0.5"),
    ],
)  # fmt: skip
def test_voxel_size_is_read_where_the_format_defines_it(
    tmp_path: Path, write: Callable[[Path, Voxels], str], expected: tuple[float, float, float] | None
) -> None:
    with open_source(write(tmp_path, _voxels("uint8"))) as source:
        assert source.voxel_size_nm == expected


def test_hdf5_has_its_voxel_size_in_micrometres(tmp_path: Path) -> None:
    address = _hdf5(tmp_path, _voxels("uint8"))
    with h5py.File(file_of(address), "a") as file:
        file["volumes/raw"].attrs["element_size_um"] = np.array([0.04, 0.005, 0.004], np.float32)
    with open_source(address) as source:
        assert source.voxel_size_nm == pytest.approx((40, 5, 4), rel=1e-6)


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        # The level's translation is scaled by the image's scale, which comes after it.
        pytest.param(_ome_zarr_4, (80.0, 0.0, 8.0), id="ome-zarr-0.4-two-scales"),
        pytest.param(_ome_zarr_5, (80.0, 0.0, 8.0), id="ome-zarr-0.5"),
        pytest.param(_zarr_array(3), (0.0, 0.0, 0.0), id="zarr-array"),
    ],
)
def test_zarr_tells_its_origin(
    tmp_path: Path, write: Callable[[Path, Voxels], str], expected: tuple[float, ...]
) -> None:
    with open_source(write(tmp_path, _voxels("uint8"))) as source:
        assert source.origin_nm == expected


def test_sections_are_sorted_as_people_count(tmp_path: Path) -> None:
    for z in (1, 2, 10, 9, 100):
        tifffile.imwrite(tmp_path / f"s{z}.tif", np.full((4, 4), z, np.uint8))
    with open_source(str(tmp_path)) as source:
        assert source.read(0, 5)[:, 0, 0].tolist() == [1, 2, 9, 10, 100]


@_cases(COPIED | IN_PLACE)
def test_listing_changes_with_the_files_alone(tmp_path: Path, write: Callable[[Path, Voxels], str]) -> None:
    address = write(tmp_path, _voxels("uint8"))
    listings = []
    for _ in range(2):
        with open_source(address) as source:
            listings.append(source.listing())
    for zarr_folder in tmp_path.glob("*.zarr"):
        shutil.rmtree(zarr_folder)
    write(tmp_path, _voxels("uint8")[::-1].copy())
    with open_source(address) as source:
        listings.append(source.listing())
    assert listings[0] == listings[1] != listings[2]


def test_watched_files_are_those_whose_change_counts(tmp_path: Path) -> None:
    voxels = _voxels("uint8")
    for name in ("tiffs", "rest"):
        (tmp_path / name).mkdir()
    folder = _tiff_folder(tmp_path / "tiffs", voxels)
    assert watched(folder) == [f"{folder}/s{z}.tif" for z in range(1, 12)]
    assert watched(_hdf5(tmp_path / "rest", voxels)) == [str(tmp_path / "rest" / "data.h5")]
    assert watched(_npy(tmp_path / "rest", voxels)) == [str(tmp_path / "rest" / "stack.npy")]
    zarr_folder = _ome_zarr_5(tmp_path / "rest", voxels)
    assert watched(zarr_folder) == [f"{zarr_folder}/zarr.json"]


def test_opening_reads_no_voxels(tmp_path: Path) -> None:
    # A hundred megabytes of zeros, of which the file system stores none.
    np.lib.format.open_memmap(tmp_path / "huge.npy", "w+", np.uint8, (10_000, 100, 100))
    with tifffile.TiffWriter(tmp_path / "many.tif") as tiff:
        for _ in range(300):
            tiff.write(np.zeros((8, 8), np.uint8), contiguous=False)
    read = (
        "import sys; from unetpipe.data.sources import open_source; "
        f"a, b = (open_source({str(tmp_path)!r} + name).shape for name in ('/huge.npy', '/many.tif')); "
        "print(a, b, sorted({'zarr', 'h5py', 'PIL', 'torch', 'scipy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, check=True)
    assert result.stdout == "(10000, 100, 100) (300, 8, 8) []\n"


def _rgb_tiff(folder: Path) -> str:
    tifffile.imwrite(folder / "a.tif", np.zeros((20, 30, 3), np.uint8), photometric="rgb")
    return str(folder / "a.tif")


def _channels_tiff(folder: Path) -> str:
    tifffile.imwrite(folder / "a.tif", np.zeros((4, 2, 20, 30), np.uint8), imagej=True, metadata={"axes": "ZCYX"})
    return str(folder / "a.tif")


def _noted_channels_tiff(folder: Path) -> str:
    tifffile.imwrite(
        folder / "a.tif", np.zeros((4, 20, 30), np.uint8), photometric="minisblack", metadata={"axes": "CYX"}
    )
    return str(folder / "a.tif")


def _two_stacks_tiff(folder: Path) -> str:
    tifffile.imwrite(folder / "a.tif", np.zeros((5, 2, 20, 30), np.uint8), photometric="minisblack")
    return str(folder / "a.tif")


def _mixed_tiff(folder: Path) -> str:
    with tifffile.TiffWriter(folder / "a.tif") as tiff:
        tiff.write(np.zeros((20, 30), np.uint8), contiguous=False)
        tiff.write(np.zeros((20, 31), np.uint8), contiguous=False)
    return str(folder / "a.tif")


def _png(mode: str) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        Image.new(mode, (30, 20)).save(folder / "a.png")
        return str(folder / "a.png")

    return write


def _file(name: str, content: bytes = b"") -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        (folder / name).write_bytes(content)
        return str(folder / name)

    return write


def _two_kinds(folder: Path) -> str:
    _png("L")(folder)
    _rgb_tiff(folder)
    return str(folder)


def _folder_of_stacks(folder: Path) -> str:
    tifffile.imwrite(folder / "a.tif", np.zeros((3, 20, 30), np.uint8), photometric="minisblack")
    return str(folder)


def _hdf5_without_dataset(folder: Path) -> str:
    return _hdf5(folder, _voxels("uint8")).partition(":/")[0]


def _hdf5_wrong_dataset(folder: Path) -> str:
    return _hdf5(folder, _voxels("uint8")).replace("raw", "row")


def _four_axes(folder: Path) -> str:
    np.save(folder / "a.npy", np.zeros((2, 3, 20, 30), np.uint8))
    return str(folder / "a.npy")


def _complex(folder: Path) -> str:
    np.save(folder / "a.npy", np.zeros((3, 20, 30), np.complex64))
    return str(folder / "a.npy")


def _pickled(folder: Path) -> str:
    np.save(folder / "a.npy", np.array([{"a": 1}]), allow_pickle=True)
    return str(folder / "a.npy")


def _zarr_folder(folder: Path) -> str:
    (folder / "a.zarr" / "c").mkdir(parents=True)
    return str(folder / "a.zarr")


def _zarr_broken(folder: Path) -> str:
    address = _zarr_array(3)(folder, _voxels("uint8"))
    (Path(address) / "zarr.json").write_text('{"zarr_format": 3, "node_type"')
    return address


def _zarr_list(folder: Path) -> str:
    address = _zarr_array(3)(folder, _voxels("uint8"))
    (Path(address) / "zarr.json").write_text("[]")
    return address


def _ome_odd_axes(folder: Path) -> str:
    zarr.create_group(folder / "a.zarr", attributes={"ome": {"multiscales": [_multiscale("0") | {"axes": 3}]}})
    return str(folder / "a.zarr")


def _zarr_group(folder: Path) -> str:
    group = zarr.create_group(folder / "a.zarr")
    group.create_array("raw", shape=(3, 20, 30), dtype="uint8")
    return str(folder / "a.zarr")


def _zarr_empty_group(folder: Path) -> str:
    zarr.create_group(folder / "a.zarr")
    return str(folder / "a.zarr")


def _ome_five_axes(folder: Path) -> str:
    image = _multiscale("0", axes="zyx") | {"axes": [{"name": name} for name in "tczyx"]}
    group = zarr.create_group(folder / "a.zarr", zarr_format=2, attributes={"multiscales": [image]})
    group.create_array("0", shape=(1, 1, 3, 20, 30), dtype="uint8")
    return str(folder / "a.zarr")


def _ome_without_array(folder: Path) -> str:
    zarr.create_group(folder / "a.zarr", attributes={"ome": {"multiscales": [_multiscale("0")]}})
    return str(folder / "a.zarr")


def _zarr_2d(folder: Path) -> str:
    zarr.create_array(folder / "a.zarr", shape=(20, 30), dtype="uint8")
    return str(folder / "a.zarr")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(_rgb_tiff, r"a\.tif was to be read\n.*axes S: 3.*\n.*one value per pixel", id="tiff-rgb"),
        pytest.param(_channels_tiff, r"axes Z: 4, C: 2.*\n.*one channel", id="tiff-channels"),
        pytest.param(_noted_channels_tiff, r"axes C: 4, Y: 20.*\n.*one channel", id="tiff-noted-channels"),
        pytest.param(_two_stacks_tiff, r"axes Q: 5, Q: 2, Y: 20", id="tiff-two-stacks"),
        pytest.param(_mixed_tiff, r"section 1 has the shape \(20, 31\).*first one \(20, 30\)", id="tiff-two-shapes"),
        pytest.param(_file("a.tif", b"II*\0\0\0\0\0"), r"a\.tif was to be read\n.*no whole TIFF", id="tiff-no-pages"),
        pytest.param(_file("a.tif", b"<html>"), r"no whole TIFF file", id="tiff-foreign"),
        pytest.param(_file("a.tif"), r"no whole TIFF file", id="tiff-empty"),
        pytest.param(_png("RGB"), r"channels RGB.*\n.*greyscale", id="png-rgb"),
        pytest.param(_png("LA"), r"channels LA.*\n.*greyscale", id="png-alpha"),
        pytest.param(_png("P"), r"colours from a palette.*\n.*greyscale", id="png-palette"),
        pytest.param(_file("a.png", b"\x89PNG\r\n"), r"no whole PNG file", id="png-cut"),
        pytest.param(_two_kinds, r"1 TIFF and 1 PNG files", id="folder-of-two-kinds"),
        pytest.param(_folder_of_stacks, r"a\.tif holds 3 sections\n.*each file is one section", id="folder-of-stacks"),
        pytest.param(_hdf5_without_dataset, r"which of its datasets.*\n.*holds /volumes/raw", id="hdf5-no-dataset"),
        pytest.param(_hdf5_wrong_dataset, r"no dataset /volumes/row.*\n.*/volumes/raw", id="hdf5-wrong-dataset"),
        pytest.param(_file("a.h5", b"foreign"), r"no whole HDF5 file", id="hdf5-foreign"),
        pytest.param(_four_axes, r"shape \(2, 3, 20, 30\): 4 axes\n.*one channel", id="npy-four-axes"),
        pytest.param(_complex, r"voxels of type complex64", id="npy-complex"),
        pytest.param(_pickled, r"no whole \.npy file", id="npy-pickle"),
        pytest.param(_file("a.npy", b"foreign"), r"no whole \.npy file", id="npy-foreign"),
        pytest.param(_file("a.czi"), r"kind \.czi\n.*TIFF.*Zarr", id="other-format"),
        pytest.param(_zarr_folder, r"without zarr\.json.*it holds c\n.*OME-Zarr", id="zarr-no-metadata"),
        pytest.param(_zarr_broken, r"metadata cannot be read.*\n.*OME-Zarr", id="zarr-broken-metadata"),
        pytest.param(_zarr_list, r"metadata cannot be read.*\n.*OME-Zarr", id="zarr-metadata-no-object"),
        pytest.param(_ome_odd_axes, r"no OME-Zarr image; arrays in it: none", id="ome-zarr-odd-axes"),
        pytest.param(_zarr_group, r"no OME-Zarr image; arrays in it: raw", id="zarr-plain-group"),
        pytest.param(_zarr_empty_group, r"no OME-Zarr image; arrays in it: none", id="zarr-empty-group"),
        pytest.param(_ome_five_axes, r"axes \(t, c, z, y, x\)\n.*\(z, y, x\)", id="ome-zarr-five-axes"),
        pytest.param(_ome_without_array, r"name the array 0, which cannot be read", id="ome-zarr-no-array"),
        pytest.param(_zarr_2d, r"shape \(20, 30\): 2 axes", id="zarr-two-axes"),
        pytest.param(lambda folder: _rgb_tiff(folder) + ":/raw", r"no whole HDF5 file", id="dataset-of-no-hdf5"),
        pytest.param(
            lambda folder: f"{folder}:/raw",
            r"is a folder, no HDF5 file\n.*FOLDER\.zarr/ARRAY",
            id="dataset-of-a-folder",
        ),
        pytest.param(lambda folder: "s3://bucket/a.zarr", r"remote store.*\n.*copy it here", id="remote"),
        pytest.param(str, r"without TIFF or PNG files; it holds nothing", id="empty-folder"),
    ],
)
def test_what_is_no_volume_is_refused(tmp_path: Path, make: Callable[[Path], str], message: str) -> None:
    with pytest.raises(UserError, match=message):  # noqa: SIM117 – some show only when they are read
        with open_source(make(tmp_path)) as source:
            source.read(0, source.shape[0])


def test_a_strange_section_is_found_when_it_is_read(tmp_path: Path) -> None:
    _png_folder(tmp_path, _voxels("uint8"))
    Image.fromarray(np.zeros((37, 44), np.uint8)).save(tmp_path / "s7.png")
    message = r"s7\.png holds \(37, 44\) pixels \(y, x\) of uint8, s1\.png holds \(37, 43\) of uint8"
    with open_source(str(tmp_path)) as source, pytest.raises(UserError, match=message):
        source.read(4, 8)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        pytest.param("trian.tif", r"no such file\n.*train\.tif: is one of these meant\?", id="misspelt"),
        pytest.param("quite/else.tif", r"no folder .*quite\n.*holds test\.tif, train\.tif", id="no-folder"),
        pytest.param("train.tif/a.tif", r"train\.tif is a file", id="below-a-file"),
        pytest.param("data.h5:/raw", r"data\.h5:/raw was to be read\n.*no such file", id="hdf5"),
    ],
)
def test_a_missing_file_is_named_with_those_that_are_there(tmp_path: Path, ask: str, message: str) -> None:
    for name in ("train.tif", "test.tif"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=message):
        open_source(f"{tmp_path}/{ask}")


def test_every_form_in_the_settings_reference_is_named() -> None:
    assert all(form in FORMS for form in ("TIFF", "PNG", "FILE.h5:/DATASET", ".npy", "Zarr"))


@_cases(
    {name: COPIED[name] for name in COPIED if name.startswith(("tiff", "big")) and name != "tiff-folder"}
    | {"npy": _npy, "hdf5": _hdf5}
)
def test_no_cut_goes_unnoticed(tmp_path: Path, write: Callable[[Path, Voxels], str]) -> None:
    voxels = _voxels("uint8")
    address = write(tmp_path, voxels)
    path = file_of(address)
    whole = path.read_bytes()
    noticed = 0
    for size in np.linspace(0, len(whole) - 1, 40).astype(int):
        path.write_bytes(whole[:size])
        try:
            with open_source(address) as source:
                # What was cut off may be a text at the end; voxels it is not.
                np.testing.assert_array_equal(source.read(0, source.shape[0]), voxels)
        except UserError:
            noticed += 1
    assert noticed >= 35


def test_a_page_chain_that_breaks_is_no_shorter_stack(tmp_path: Path) -> None:
    path = Path(_page_by_page(tmp_path, _voxels("uint8")))
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages[4].offset
        (tags,) = struct.unpack("<H", path.read_bytes()[at : at + 2])
    content = bytearray(path.read_bytes())
    content[at + 2 + 12 * tags : at + 6 + 12 * tags] = struct.pack("<I", len(content) + 1000)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"tells of more pages, but only 5 can be found"):
        open_source(str(path))


def test_damaged_compressed_data_is_found(tmp_path: Path) -> None:
    address = _tiff(compression="zlib")(tmp_path, _voxels("uint8"))
    with tifffile.TiffFile(address) as tiff:
        start, length = tiff.pages[5].dataoffsets[0], tiff.pages[5].databytecounts[0]
    with Path(address).open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * length)
    with open_source(address, threads=2) as source, pytest.raises(UserError, match=r"section 5 cannot be decoded"):
        source.read(0, 11)


def test_metadata_of_zarr_version_2_and_3_are_the_only_ones_read(tmp_path: Path) -> None:
    address = _ome_zarr_4(tmp_path, _voxels("uint8"))
    attributes = json.loads((Path(address) / ".zattrs").read_text())
    attributes["multiscales"][0]["datasets"][0]["coordinateTransformations"] = [{"type": "identity"}]
    (Path(address) / ".zattrs").write_text(json.dumps(attributes))
    with open_source(address) as source:
        assert source.voxel_size_nm is None
