"""Masks in every format."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

Voxels = NDArray[Any]


def as_zarr(folder: Path, mask: Voxels) -> str:
    zarr.create_array(folder / "m.zarr", shape=mask.shape, chunks=(2, 3, 3), dtype=mask.dtype)[...] = mask
    return str(folder / "m.zarr")


def as_tiff(folder: Path, mask: Voxels) -> str:
    tifffile.imwrite(folder / "m.tif", mask, photometric="minisblack")
    return str(folder / "m.tif")


def as_npy(folder: Path, mask: Voxels) -> str:
    np.save(folder / "m.npy", mask)
    return str(folder / "m.npy")


def as_h5(folder: Path, mask: Voxels) -> str:
    with h5py.File(folder / "m.h5", "w") as file:
        file["mask"] = mask
    return f"{folder}/m.h5:/mask"


FORMATS: dict[str, Callable[[Path, Voxels], str]] = {"Zarr": as_zarr, "TIFF": as_tiff, "npy": as_npy, "h5": as_h5}
