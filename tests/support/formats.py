"""One volume in every format that is read, written by other libraries."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tensorstore as ts
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image
from stores import make_store

from unetpipe.volume import layout

Voxels = NDArray[Any]

IMAGEJ = "ImageJ=1.54f\nimages={n}\nslices={n}\nunit=nm\nspacing=40.0\nloop=false\n"


def as_tiff(**options: Any) -> Callable[[Path, Voxels], str]:
    def write(folder: Path, voxels: Voxels) -> str:
        tifffile.imwrite(folder / "stack.tif", voxels, photometric="minisblack", **options)
        return str(folder / "stack.tif")

    return write


def as_page_by_page(folder: Path, voxels: Voxels) -> str:
    with tifffile.TiffWriter(folder / "stack.tif") as tiff:
        for section in voxels:
            tiff.write(section, contiguous=False)
    return str(folder / "stack.tif")


def as_imagej_one_page(folder: Path, voxels: Voxels) -> str:
    # As ImageJ does beyond 4 GB: one page, and the other sections behind the data of the first.
    path = folder / "stack.tif"
    description = IMAGEJ.format(n=len(voxels))
    tifffile.imwrite(path, voxels[0], byteorder=">", description=description, metadata=None, resolution=(0.25, 0.25))
    with path.open("ab") as file:
        file.write(voxels[1:].astype(voxels.dtype.newbyteorder(">")).tobytes())
    return str(path)


def as_tiff_folder(folder: Path, voxels: Voxels) -> str:
    for z, section in enumerate(voxels):
        tifffile.imwrite(folder / f"s{z + 1}.tif", section, compression="zlib")
    (folder / "notes.txt").write_text("what else lies there does not count")
    (folder / "._s1.tif").write_text("nor does what is hidden")
    return str(folder)


def as_png_folder(folder: Path, voxels: Voxels) -> str:
    for z, section in enumerate(voxels):
        Image.fromarray(section).save(folder / f"s{z + 1}.png")
    return str(folder)


def as_hdf5(folder: Path, voxels: Voxels) -> str:
    with h5py.File(folder / "data.h5", "w") as file:
        file.create_dataset("volumes/raw", data=voxels, chunks=(min(5, len(voxels)), 16, 16), compression="gzip")
    return f"{folder / 'data.h5'}:/volumes/raw"


def as_npy(folder: Path, voxels: Voxels) -> str:
    np.save(folder / "stack.npy", voxels)
    return str(folder / "stack.npy")


def as_npy_fortran(folder: Path, voxels: Voxels) -> str:
    np.save(folder / "stack.npy", np.asfortranarray(voxels.astype(voxels.dtype.newbyteorder(">"))))
    return str(folder / "stack.npy")


def as_zarr_array(version: int) -> Callable[[Path, Voxels], str]:
    def write(folder: Path, voxels: Voxels) -> str:
        array = zarr.create_array(
            folder / "plain.zarr", shape=voxels.shape, dtype=voxels.dtype, chunks=(3, 16, 16), zarr_format=version
        )
        array[...] = voxels
        return str(folder / "plain.zarr")

    return write


def as_ome_zarr_4(folder: Path, voxels: Voxels) -> str:
    group = zarr.create_group(folder / "ome.zarr", zarr_format=2, attributes={"multiscales": [multiscale("s0")]})
    group.create_array("s0", shape=voxels.shape, dtype=voxels.dtype, chunks=(3, 16, 16))[...] = voxels
    group.create_array("s1", shape=(1, 1, 1), dtype=voxels.dtype)
    return str(folder / "ome.zarr")


def as_ome_zarr_5(folder: Path, voxels: Voxels) -> str:
    chunk, shard = layout(voxels.shape)
    make_store(
        folder / "ome.zarr",
        shape=voxels.shape, dtype=str(voxels.dtype), chunk=chunk, shard=shard,
        voxel_size_nm=(40, 4, 4), origin_nm=(80, 0, 8),
    )[...] = voxels  # fmt: skip
    return str(folder / "ome.zarr")


def as_sharded_zarr(folder: Path, voxels: Voxels) -> str:
    array = zarr.create_array(
        folder / "sharded.zarr", shape=voxels.shape, dtype=voxels.dtype, chunks=(3, 16, 16), shards=(6, 32, 16)
    )
    array[...] = voxels
    return str(folder / "sharded.zarr")


def write_n5(path: Path, voxels: Voxels, **attributes: Any) -> str:
    """An N5 array, whose axes are (x, y, z)."""
    described = {
        "dimensions": voxels.shape[::-1],
        "blockSize": [min(n, b) for n, b in zip(voxels.shape[::-1], (16, 12, 3), strict=True)],
        "dataType": str(voxels.dtype),
        "compression": {"type": "gzip"},
    }
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{path}/"}, "metadata": described | attributes}
    ts.open(spec, create=True).result().write(voxels.T).result()
    return str(path)


def as_n5(folder: Path, voxels: Voxels) -> str:
    return write_n5(folder / "a.n5" / "raw", voxels, resolution=[4, 4, 40], units=["nm", "nm", "nm"])


def as_n5_pyramid(folder: Path, voxels: Voxels) -> str:
    """As n5-viewer writes it."""
    for number, factors in enumerate(([1, 1, 1], [2, 2, 1])):
        write_n5(
            folder / "p.n5" / "raw" / f"s{number}",
            np.ascontiguousarray(voxels[:, :: factors[1], :: factors[0]]),
            downsamplingFactors=factors,
            pixelResolution={"unit": "um", "dimensions": [0.004, 0.004, 0.04]},
        )
    (folder / "p.n5" / "attributes.json").write_text('{"n5": "2.5.1"}')
    return str(folder / "p.n5" / "raw")


def write_precomputed(path: Path, voxels: Voxels, resolution: tuple[float, ...] = (4, 4, 40), **scale: Any) -> str:
    """A scale of a precomputed volume, whose axes are (x, y, z, channel), from the voxel (10, -20, 5) on."""
    described = {
        "size": voxels.shape[::-1],
        "voxel_offset": [10, -20, 5],
        "resolution": resolution,
        "chunk_size": [min(n, b) for n, b in zip(voxels.shape[::-1], (16, 12, 3), strict=True)],
        "encoding": "raw",
    }
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": f"{path}/"},
        "multiscale_metadata": {"data_type": str(voxels.dtype), "num_channels": 1, "type": "image"},
        "scale_metadata": described | scale,
    }
    ts.open(spec, create=True).result().write(voxels.T[..., None]).result()
    return str(path)


def as_precomputed(folder: Path, voxels: Voxels) -> str:
    return write_precomputed(folder / "a.precomputed", voxels)


SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "preshift_bits": 1,
    "minishard_bits": 1,
    "shard_bits": 2,
    "hash": "identity",
    "minishard_index_encoding": "gzip",
    "data_encoding": "gzip",
}


def as_sharded_precomputed(folder: Path, voxels: Voxels) -> str:
    return write_precomputed(folder / "b.precomputed", voxels, sharding=SHARDING)


def multiscale(path: str, unit: str = "micrometer", axes: str = "zyx") -> dict[str, Any]:
    space = [{"name": name, "type": "space", "unit": unit} for name in axes]
    scale = [{"type": "scale", "scale": [0.02, 0.002, 0.002]}, {"type": "translation", "translation": [0.04, 0, 0.004]}]
    whole = [{"type": "scale", "scale": [2.0, 2.0, 2.0]}]
    levels = [{"path": path, "coordinateTransformations": scale}]
    return {"version": "0.4", "axes": space, "datasets": levels, "coordinateTransformations": whole}


COPIED = {
    "tiff": as_tiff(),
    "tiff-without-metadata": as_tiff(metadata=None),
    "tiff-deflate-predictor": as_tiff(compression="zlib", predictor=True),
    "tiff-lzw": as_tiff(compression="lzw"),
    "tiff-packbits": as_tiff(compression="packbits"),
    "tiff-tiled-deflate": as_tiff(tile=(16, 16), compression="zlib"),
    "tiff-strips": as_tiff(rowsperstrip=7),
    "tiff-big-endian": as_tiff(byteorder=">"),
    "bigtiff": as_tiff(bigtiff=True),
    "tiff-imagej": as_tiff(imagej=True, metadata={"axes": "ZYX"}),
    "tiff-imagej-frames": as_tiff(imagej=True, metadata={"axes": "TYX"}),
    "tiff-imagej-one-page": as_imagej_one_page,
    "tiff-ome": as_tiff(ome=True, metadata={"axes": "ZYX"}),
    "tiff-page-by-page": as_page_by_page,
    "tiff-folder": as_tiff_folder,
    "png-folder": as_png_folder,
    "hdf5": as_hdf5,
    "npy": as_npy,
    "npy-fortran-big-endian": as_npy_fortran,
}


IN_PLACE = {
    "zarr-2": as_zarr_array(2),
    "zarr-3": as_zarr_array(3),
    "zarr-3-sharded": as_sharded_zarr,
    "ome-zarr-0.4": as_ome_zarr_4,
    "ome-zarr-0.5": as_ome_zarr_5,
    "n5": as_n5,
    "n5-pyramid": as_n5_pyramid,
    "precomputed": as_precomputed,
    "precomputed-sharded": as_sharded_precomputed,
}


def each_of(writers: dict[str, Callable[[Path, Voxels], str]]) -> Any:
    return pytest.mark.parametrize("write", [pytest.param(write, id=name) for name, write in writers.items()])


def some_voxels(dtype: str, shape: tuple[int, ...] = (11, 37, 43)) -> Voxels:
    return np.random.default_rng(7).integers(0, 200, shape).astype(dtype)
