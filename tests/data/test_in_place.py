"""N5 and precomputed volumes, used where they lie: where their voxels are in space, and what is refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
import tifffile
import zarr
from formats import Voxels, as_n5, as_n5_pyramid, as_precomputed, some_voxels, write_n5, write_precomputed
from ingesting import ingested

from unetpipe.arrays import open_array
from unetpipe.data.sources import open_source, watched
from unetpipe.data.sources.in_place import InPlaceSource
from unetpipe.errors import UserError
from unetpipe.grid import Region
from unetpipe.volume import Image

FACTORS = ([1, 1, 1], [2, 2, 1], [4, 4, 2])


def levels(folder: Path, attributes: list[dict[str, Any]], **above: dict[str, Any]) -> Path:
    """An N5 with the levels s0, s1, … of ``t/``, each with its attributes; ``above``: those of its folders."""
    for number, own in enumerate(attributes):
        write_n5(folder / "v.n5" / "t" / f"s{number}", some_voxels("uint8"), **own)
    for name, found in above.items():
        (folder / "v.n5" / ("" if name == "root" else name) / "attributes.json").write_text(json.dumps(found))
    return folder / "v.n5" / "t"


def n5_viewer(folder: Path) -> Path:
    return levels(
        folder,
        [
            {"downsamplingFactors": f, "pixelResolution": {"unit": "um", "dimensions": [0.004, 0.005, 0.04]}}
            for f in FACTORS
        ],
    )


def n5_viewer_scales(folder: Path) -> Path:
    pixels = {"unit": "nm", "dimensions": [4, 5, 40]}
    return levels(folder, [{}] * 3, t={"scales": FACTORS, "pixelResolution": pixels})


def paintera(folder: Path) -> Path:
    own = [{}, *({"downsamplingFactors": f} for f in FACTORS[1:])]
    return levels(folder, own, t={"multiScale": True, "resolution": [4, 5, 40]})


def big_data_viewer(folder: Path) -> Path:
    root = {"downsamplingFactors": FACTORS, "dataType": "uint8", "resolution": [4, 5, 40], "units": ["nm"] * 3}
    return levels(folder, [{"downsamplingFactors": f} for f in FACTORS], root=root, t={"multiScale": True})


def cosem(folder: Path) -> Path:
    own = [
        {
            "transform": {
                "axes": ["z", "y", "x"],
                "units": ["nm", "nm", "nm"],
                "scale": [40 * f[2], 5 * f[1], 4 * f[0]],
                "translate": [20 * (f[2] - 1), 2.5 * (f[1] - 1), 2 * (f[0] - 1)],
            }
        }
        for f in FACTORS
    ]
    return levels(folder, own)


@pytest.mark.parametrize(
    "make", [n5_viewer, n5_viewer_scales, paintera, big_data_viewer, cosem], ids=lambda make: make.__name__
)
def test_a_level_of_n5_has_its_own_voxel_size_and_place(make: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = make(tmp_path)
    with open_source(str(folder)) as whole, open_source(f"{folder}/s0") as finest:
        assert isinstance(whole, InPlaceSource)
        assert whole.array_address == f"{folder}/s0"
        assert (whole.voxel_size_nm, whole.origin_nm) == ((40, 5, 4), (0, 0, 0))
        assert (finest.voxel_size_nm, finest.origin_nm) == ((40, 5, 4), (0, 0, 0))
    # The centre of a voxel is that of those that it stands for.
    with open_source(f"{folder}/s1") as level:
        assert (level.voxel_size_nm, level.origin_nm) == ((40, 10, 8), (0, 2.5, 2))
    with open_source(f"{folder}/s2/") as level:
        assert (level.voxel_size_nm, level.origin_nm) == ((80, 20, 16), (20, 7.5, 6))
        np.testing.assert_array_equal(level.read(0, 11), some_voxels("uint8"))


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        pytest.param({"resolution": [4, 5, 40], "offset": [80, 10, 400]}, ((40, 5, 4), (400, 10, 80)), id="offset"),
        pytest.param(
            {"resolution": [0.004, 5, 0.04], "units": ["µm", "nm", "um"], "offset": [0, -10, 0.4]},
            ((40, 5, 4), (400, -10, 0)),
            id="units",
        ),
        pytest.param({"resolution": [4e-9, 5e-9, 4e-8], "units": ["m"] * 3}, ((40, 5, 4), (0, 0, 0)), id="metres"),
        pytest.param({"resolution": [4, 5, 40], "units": ["Nanometers"] * 3}, ((40, 5, 4), (0, 0, 0)), id="plural"),
        pytest.param({"resolution": [4, 5, 40], "units": ["pixel"] * 3}, (None, (0, 0, 0)), id="unknown unit"),
        pytest.param({"pixelResolution": {"unit": "pixel", "dimensions": [1, 1, 1]}}, (None, (0, 0, 0)), id="pixels"),
        pytest.param({"pixelResolution": [4, 5, 40]}, (None, (0, 0, 0)), id="no unit"),
        pytest.param({"resolution": [1, 1, 1]}, (None, (0, 0, 0)), id="as BigDataViewer always writes"),
        pytest.param({"resolution": [1, 1, 1], "units": ["nm"] * 3}, ((1, 1, 1), (0, 0, 0)), id="a nanometre"),
        pytest.param({"pixelResolution": "4"}, (None, (0, 0, 0)), id="nonsense"),
        pytest.param({}, (None, (0, 0, 0)), id="nothing"),
    ],
)
def test_an_n5_array_tells_where_it_lies(attributes: dict[str, Any], expected: tuple[Any, Any], tmp_path: Path) -> None:
    write_n5(tmp_path / "a", some_voxels("uint8"))
    file = tmp_path / "a" / "attributes.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | attributes))
    with open_source(str(tmp_path / "a")) as source:
        assert (source.voxel_size_nm, source.origin_nm) == expected


def test_what_a_level_says_itself_counts(tmp_path: Path) -> None:
    above = {"pixelResolution": {"unit": "um", "dimensions": [1, 1, 1]}, "axes": ["x", "y", "z"]}
    folder = levels(tmp_path, [{"resolution": [4, 5, 40], "units": ["nm"] * 3}, {}], root=above)
    with open_source(str(folder)) as finest, open_source(f"{folder}/s1") as other:
        assert finest.voxel_size_nm == (40, 5, 4)
        assert other.voxel_size_nm == (1000, 1000, 1000)


def test_label_multisets_are_known_by_what_stands_above_them(tmp_path: Path) -> None:
    folder = levels(tmp_path, [{}], t={"multiScale": True, "isLabelMultiset": True})
    with pytest.raises(UserError, match="label multisets"):
        open_source(str(folder))


def test_scales_of_a_precomputed_volume_are_its_levels(tmp_path: Path) -> None:
    voxels, address = some_voxels("uint16"), tmp_path / "a"
    write_precomputed(address, voxels, voxel_offset=[10, -20, 5])
    write_precomputed(address, voxels[:5, :18, :21], (8, 8, 80), voxel_offset=[5, -10, 2])
    write_precomputed(address, voxels[:2], (16, 16, 80), voxel_offset=[0, 0, 0], key="coarse/est")
    for name in ("", "/", "/4_4_40"):
        with open_source(f"{address}{name}") as source:
            assert isinstance(source, InPlaceSource)
            assert source.array_address == f"{address}/4_4_40"
            assert (source.voxel_size_nm, source.origin_nm) == ((40, 4, 4), (200, -80, 40))
            np.testing.assert_array_equal(source.read(2, 7), voxels[2:7])
            np.testing.assert_array_equal(open_array(source.array_address)[1:3, 4:9, 7:8], voxels[1:3, 4:9, 7:8])
    with open_source(f"{address}/8_8_80") as source:
        assert source.shape == (5, 18, 21)
        # Voxels 10, 11 of the finest scale along x, whose centres are 40 and 44.
        assert (source.voxel_size_nm, source.origin_nm) == ((80, 8, 8), (180, -78, 42))
    with open_source(f"{address}/coarse/est") as source:
        assert source.shape == (2, 37, 43)
        assert watched(f"{address}/coarse/est") == [str(address / "info")]
    assert watched(str(address)) == [str(address / "info")]


@pytest.mark.parametrize("dtype", ["uint32", "uint64", "float32", "int16"])
def test_other_types_are_kept(dtype: str, tmp_path: Path) -> None:
    voxels = some_voxels(dtype)
    for write in (write_n5, write_precomputed):
        with open_source(write(tmp_path / write.__name__, voxels)) as source:
            assert source.dtype == dtype
            np.testing.assert_array_equal(source.read(0, 11), voxels)


@pytest.mark.parametrize("sharded", [False, True])
def test_a_segmentation_is_read_as_numbers(sharded: bool, tmp_path: Path) -> None:
    labels = some_voxels("uint64") * 2**40
    how: dict[str, Any] = {"encoding": "compressed_segmentation", "compressed_segmentation_block_size": [8, 8, 8]}
    if sharded:
        from formats import SHARDING

        how["sharding"] = SHARDING
    with open_source(write_precomputed(tmp_path / "a", labels, **how)) as source:
        np.testing.assert_array_equal(source.read(0, 11), labels)


def test_what_was_not_written_is_zero(tmp_path: Path) -> None:
    for write, name in ((as_n5, "0"), (as_precomputed, "10-26_-20--8_5-8")):
        address = Path(write(tmp_path, some_voxels("uint8")))
        with open_source(str(address)) as source:
            assert isinstance(source, InPlaceSource)
            array = Path(source.array_address)
        (array / name / "0" / "0" if name == "0" else array / name).unlink()
        expected = some_voxels("uint8")
        expected[:3, :12, :16] = 0
        with open_source(str(address)) as source:
            np.testing.assert_array_equal(source.read(0, 11), expected)
        assert open_array(str(array)).fill_value == 0


def test_watched_are_the_attributes_that_count(tmp_path: Path) -> None:
    folder = Path(as_n5_pyramid(tmp_path, some_voxels("uint8")))
    root, finest = str(folder.parent / "attributes.json"), str(folder / "s0" / "attributes.json")
    assert watched(str(folder)) == [finest, root]
    assert watched(str(folder / "s0")) == [finest, root]


def test_sections_beside_a_file_of_that_name_are_sections(tmp_path: Path) -> None:
    for z in range(3):
        tifffile.imwrite(tmp_path / f"{z}.tif", some_voxels("uint8")[z])
    for name in ("info", "attributes.json"):
        (tmp_path / name).write_text('{"microscope": "FIB-SEM", "resolution": [4, 4, 4]}')
    with open_source(str(tmp_path)) as source:
        np.testing.assert_array_equal(source.read(0, 3), some_voxels("uint8")[:3])


def _n5(**attributes: Any) -> Callable[[Path, Voxels], str]:
    def write(folder: Path, voxels: Voxels) -> str:
        path = Path(write_n5(folder / "a", voxels))
        file = path / "attributes.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | attributes))
        return str(path)

    return write


def _info(**metadata: Any) -> Callable[[Path, Voxels], str]:
    def write(folder: Path, voxels: Voxels) -> str:
        path = Path(write_precomputed(folder / "a", voxels))
        described = json.loads((path / "info").read_text())
        described["scales"][0] |= metadata.pop("scale", {})
        (path / "info").write_text(json.dumps(described | metadata))
        return str(path)

    return write


def _channels(folder: Path, voxels: Voxels) -> str:
    _info(num_channels=2)(folder, voxels)
    return str(folder / "a" / "4_4_40")


def _n5_of_four(folder: Path, voxels: Voxels) -> str:
    metadata = {
        "dimensions": [4, 5, 6, 2],
        "blockSize": [4, 4, 4, 1],
        "dataType": "uint8",
        "compression": {"type": "raw"},
    }
    kvstore = {"driver": "file", "path": f"{folder}/a/"}
    ts.open({"driver": "n5", "kvstore": kvstore, "metadata": metadata}, create=True).result()
    return str(folder / "a")


def _n5_group(folder: Path, voxels: Voxels) -> str:
    write_n5(folder / "a.n5" / "raw", voxels)
    (folder / "a.n5" / "attributes.json").write_text('{"n5": "4.0.0"}')
    return str(folder / "a.n5")


def _n5_broken(folder: Path, voxels: Voxels) -> str:
    address = write_n5(folder / "a", voxels)
    (folder / "a" / "attributes.json").write_text('{"dimensions"')
    return address


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(_n5_of_four, r"dimensions \[4, 5, 6, 2\]: 4 axes\n.*one channel", id="n5 of four"),
        pytest.param(_n5(axes=["z", "y", "x"]), r"the axes \['z', 'y', 'x'\]\n.*\(x, y, z\)", id="n5 axes"),
        pytest.param(_n5(isLabelMultiset=True), r"label multisets\n.*one number", id="n5 multisets"),
        pytest.param(_n5(dataType="text"), r"metadata cannot be read \(.*text", id="n5 of a strange type"),
        pytest.param(_n5_group, r"without an array s0; with attributes in it: raw\n.*s0, s1", id="n5 group"),
        pytest.param(_n5_broken, r"metadata cannot be read.*\n.*an N5", id="n5 broken"),
        pytest.param(_info(num_channels=3), r"num_channels 3\n.*one channel", id="precomputed, channels"),
        pytest.param(_channels, r"num_channels 2\n.*one channel", id="precomputed, channels of a scale"),
        pytest.param(_info(scale={"encoding": "compresso"}), r"cannot be read \(.*compresso", id="encoding"),
        pytest.param(_info(scales=[]), r"without TIFF or PNG files; it holds 4_4_40, info", id="precomputed, no scale"),
    ],
)  # fmt: skip
def test_what_is_no_volume_is_refused(make: Callable[[Path, Voxels], str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        open_source(make(tmp_path, some_voxels("uint8")))


def test_an_array_of_several_channels_is_refused_by_its_reader_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has 2 channels"):
        open_array(_channels(tmp_path, some_voxels("uint8")))


def test_a_damaged_chunk_is_told_without_settings(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a.zarr", shape=(4, 8, 8), chunks=(4, 8, 8), dtype="uint8")
    array[...] = 1
    (tmp_path / "a.zarr" / "c" / "0" / "0" / "0").write_bytes(b"nonsense")
    with open_source(str(tmp_path / "a.zarr")) as source, pytest.raises(UserError, match="cannot be read") as failure:
        source.read(0, 4)
    assert "tensorstore_spec" not in str(failure.value)


def five_axes(folder: Path, voxels: Voxels, version: int, separator: str, names: str = "tczyx", first: int = 1) -> Path:
    """An OME-Zarr image as most converters write it, of ``first`` channels, with a level of half as many voxels."""
    axes = [{"name": name, "type": "space", "unit": "nanometer"} for name in names]
    scales = ([1, 1, 40, 4, 5], [1, 1, 40, 8, 10])
    levels = [
        {"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        for number, scale in enumerate(scales)
    ]
    image = {"version": "0.4", "axes": axes, "datasets": levels}
    described = {"multiscales": [image]} if version == 2 else {"ome": {"version": "0.5", "multiscales": [image]}}
    outer = zarr.create_group(folder / "a.zarr", zarr_format=version)
    group = outer.create_group("0", attributes=described)
    for number, step in enumerate((1, 2)):
        here = voxels[:, ::step, ::step]
        array = group.create_array(
            str(number), shape=(1, first, *here.shape), dtype=here.dtype, chunks=(1, 1, 3, 16, 16),
            chunk_key_encoding={"name": "v2" if version == 2 else "default", "separator": separator},
        )  # fmt: skip
        array[...] = np.broadcast_to(here, array.shape)
    return folder / "a.zarr" / "0"


@pytest.mark.parametrize(("version", "separator"), [(2, "."), (2, "/"), (3, "."), (3, "/")])
def test_one_channel_and_time_point_of_an_image_with_five_axes(version: int, separator: str, tmp_path: Path) -> None:
    voxels = some_voxels("uint16")
    voxels[:3, :16, :16] = 0
    address = five_axes(tmp_path, voxels, version, separator)
    for name, step, size_nm in (("", 1, (40, 4, 5)), ("/0", 1, (40, 4, 5)), ("/1", 2, (40, 8, 10))):
        here = voxels[:, ::step, ::step]
        with open_source(f"{address}{name}") as source:
            assert isinstance(source, InPlaceSource)
            assert (source.shape, source.voxel_size_nm, source.origin_nm) == (here.shape, size_nm, (0, 0, 0))
            np.testing.assert_array_equal(source.read(2, 7), here[2:7])
            stored = source.stored()
            assert stored is not None
            assert (stored.shape, stored.unit) == (here.shape, (3, 16, 16))
            # The first chunk of the full resolution holds zeros alone, and zarr does not store it.
            assert math.prod(stored.grid) - stored.count == (step == 1)
        volume = ingested(f"{address}{name}", tmp_path / f"v{name}" / "volume.json", range=(0, 200))
        box = Region((1, -3, 5), (8, 18, 19))
        expected = np.pad(here, ((0, 0), (3, 0), (0, 0)), "reflect")[1:8, :21, 5:19].astype(np.float32)
        statistics = [np.array(values, np.float32)[1:8, None, None] for values in (volume.mean, volume.std)]
        np.testing.assert_allclose(Image(volume).read(box), (expected - statistics[0]) / statistics[1], atol=1e-5)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        pytest.param({"first": 2}, r"array of shape \(1, 2, 11, 37, 43\): 5 axes\n.*one channel", id="two channels"),
        pytest.param({"names": "tcxyz"}, r"axes \(t, c, x, y, z\)\n.*\(z, y, x\)", id="another order"),
    ],
)
def test_of_several_channels_none_is_chosen(how: dict[str, Any], message: str, tmp_path: Path) -> None:
    address = five_axes(tmp_path, some_voxels("uint8"), 2, "/", **how)
    with pytest.raises(UserError, match=message):
        open_source(str(address))
    with pytest.raises(UserError, match=r"arrays and groups in it: 0\n"):
        open_source(str(address.parent))


def test_the_first_of_many_axes_are_not_taken_for_channels_where_nobody_says_so(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "rgb.zarr", shape=(1, 37, 43, 3), dtype="uint8")
    with pytest.raises(UserError, match=r"shape \(1, 37, 43, 3\): 4 axes"):
        open_source(str(tmp_path / "rgb.zarr"))


def test_a_codec_that_is_not_known_is_told(tmp_path: Path) -> None:
    write_n5(tmp_path / "a", some_voxels("uint8"))
    file = tmp_path / "a" / "attributes.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"compression": {"type": "lz4"}}))
    with pytest.raises(UserError, match=r"\"lz4\" is not registered.*\n.*write it with another: zstd"):
        open_source(str(tmp_path / "a"))


def test_an_image_of_which_nothing_is_stored_is_refused(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a.zarr", shape=(4, 40, 40), chunks=(4, 8, 8), dtype="uint8")
    with pytest.raises(UserError, match=r"not one of its chunks is stored.*\n.*copied as a whole"):
        ingested(tmp_path / "a.zarr", tmp_path / "v" / "volume.json")
    assert not (tmp_path / "v" / "volume.json").exists()
    array[:, :8, :8] = np.broadcast_to(np.arange(1, 9, dtype=np.uint8), (4, 8, 8))
    extent = ingested(tmp_path / "a.zarr", tmp_path / "v" / "volume.json").read_extent()
    assert extent is not None
    assert extent.count == 1
