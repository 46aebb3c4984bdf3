"""What is no volume, or was one, is refused with what to do about it."""

import json
import logging
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from formats import (
    COPIED,
    Voxels,
    as_hdf5,
    as_npy,
    as_ome_zarr_4,
    as_page_by_page,
    as_png_folder,
    as_tiff,
    as_zarr_array,
    each_of,
    multiscale,
    some_voxels,
)
from PIL import Image

from unetpipe.data.sources import FORMS, file_of, open_source
from unetpipe.errors import UserError


@pytest.fixture(autouse=True)
def quiet() -> None:
    # tifffile logs what it finds wrong with a damaged file; the tests look at what is raised.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)


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
    return as_hdf5(folder, some_voxels("uint8")).partition(":/")[0]


def _hdf5_wrong_dataset(folder: Path) -> str:
    return as_hdf5(folder, some_voxels("uint8")).replace("raw", "row")


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
    address = as_zarr_array(3)(folder, some_voxels("uint8"))
    (Path(address) / "zarr.json").write_text('{"zarr_format": 3, "node_type"')
    return address


def _zarr_list(folder: Path) -> str:
    address = as_zarr_array(3)(folder, some_voxels("uint8"))
    (Path(address) / "zarr.json").write_text("[]")
    return address


def _ome_odd_axes(folder: Path) -> str:
    zarr.create_group(folder / "a.zarr", attributes={"ome": {"multiscales": [multiscale("0") | {"axes": 3}]}})
    return str(folder / "a.zarr")


def _zarr_group(folder: Path) -> str:
    group = zarr.create_group(folder / "a.zarr")
    group.create_array("raw", shape=(3, 20, 30), dtype="uint8")
    return str(folder / "a.zarr")


def _zarr_empty_group(folder: Path) -> str:
    zarr.create_group(folder / "a.zarr")
    return str(folder / "a.zarr")


def _ome_five_axes(folder: Path) -> str:
    image = multiscale("0", axes="zyx") | {"axes": [{"name": name} for name in "tczyx"]}
    group = zarr.create_group(folder / "a.zarr", zarr_format=2, attributes={"multiscales": [image]})
    group.create_array("0", shape=(1, 2, 3, 20, 30), dtype="uint8")
    return str(folder / "a.zarr")


def _ome_without_array(folder: Path) -> str:
    zarr.create_group(folder / "a.zarr", attributes={"ome": {"multiscales": [multiscale("0")]}})
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
        pytest.param(_ome_odd_axes, r"no OME-Zarr image; arrays and groups in it: none", id="ome-zarr-odd-axes"),
        pytest.param(_zarr_group, r"no OME-Zarr image; arrays and groups in it: raw", id="zarr-plain-group"),
        pytest.param(_zarr_empty_group, r"no OME-Zarr image; arrays and groups in it: none", id="zarr-empty-group"),
        pytest.param(_ome_five_axes, r"shape \(1, 2, 3, 20, 30\): 5 axes\n.*\(z, y, x\)", id="ome-zarr-channels"),
        pytest.param(_ome_without_array, r"name the array 0, which cannot be read", id="ome-zarr-no-array"),
        pytest.param(_zarr_2d, r"shape \(20, 30\): 2 axes", id="zarr-two-axes"),
        pytest.param(lambda folder: _rgb_tiff(folder) + ":/raw", r"no whole HDF5 file", id="dataset-of-no-hdf5"),
        pytest.param(
            lambda folder: f"{folder}:/raw",
            r"is a folder, no HDF5 file\n.*FOLDER\.zarr/ARRAY",
            id="dataset-of-a-folder",
        ),
        pytest.param(lambda folder: "gs://bucket/a.zarr", r"no address that is known\n.*s3://BUCKET", id="remote"),
        pytest.param(str, r"without TIFF or PNG files; it holds nothing", id="empty-folder"),
    ],
)
def test_what_is_no_volume_is_refused(tmp_path: Path, make: Callable[[Path], str], message: str) -> None:
    with pytest.raises(UserError, match=message):  # noqa: SIM117 – some show only when they are read
        with open_source(make(tmp_path)) as source:
            source.read(0, source.shape[0])


def test_a_strange_section_is_found_when_it_is_read(tmp_path: Path) -> None:
    as_png_folder(tmp_path, some_voxels("uint8"))
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


@each_of(
    {name: COPIED[name] for name in COPIED if name.startswith(("tiff", "big")) and name != "tiff-folder"}
    | {"npy": as_npy, "hdf5": as_hdf5}
)
def test_no_cut_goes_unnoticed(tmp_path: Path, write: Callable[[Path, Voxels], str]) -> None:
    voxels = some_voxels("uint8")
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
    path = Path(as_page_by_page(tmp_path, some_voxels("uint8")))
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages[4].offset
        (tags,) = struct.unpack("<H", path.read_bytes()[at : at + 2])
    content = bytearray(path.read_bytes())
    content[at + 2 + 12 * tags : at + 6 + 12 * tags] = struct.pack("<I", len(content) + 1000)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"tells of more pages, but only 5 can be found"):
        open_source(str(path))


def test_damaged_compressed_data_is_found(tmp_path: Path) -> None:
    address = as_tiff(compression="zlib")(tmp_path, some_voxels("uint8"))
    with tifffile.TiffFile(address) as tiff:
        start, length = tiff.pages[5].dataoffsets[0], tiff.pages[5].databytecounts[0]
    with Path(address).open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * length)
    with open_source(address, threads=2) as source, pytest.raises(UserError, match=r"section 5 cannot be decoded"):
        source.read(0, 11)


def test_metadata_of_zarr_version_2_and_3_are_the_only_ones_read(tmp_path: Path) -> None:
    address = as_ome_zarr_4(tmp_path, some_voxels("uint8"))
    attributes = json.loads((Path(address) / ".zattrs").read_text())
    attributes["multiscales"][0]["datasets"][0]["coordinateTransformations"] = [{"type": "identity"}]
    (Path(address) / ".zattrs").write_text(json.dumps(attributes))
    with open_source(address) as source:
        assert source.voxel_size_nm is None
