"""Small volumes to bring in, as the rule does."""

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from unetpipe.data.ingest import ingest
from unetpipe.volume import VolumeFile

Voxels = NDArray[Any]
CLASSES = {"membrane": [0], "inside": [1, 255]}


def ingested(image: str | Path, volume: Path, labels: str | Path | None = None, **changes: Any) -> VolumeFile:
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


def some_grey(seed: int = 0, shape: tuple[int, int, int] = (20, 50, 60)) -> Voxels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def some_labels(seed: int = 0, shape: tuple[int, int, int] = (20, 50, 60)) -> Voxels:
    return np.random.default_rng(seed).choice(np.array([0, 1, 7, 255], np.uint8), shape)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file but those of the record, with its content."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and "progress" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def zarr_in_place(path: Path, image: Voxels, chunk: tuple[int, int, int]) -> None:
    zarr.create_array(path, shape=image.shape, dtype=image.dtype, chunks=chunk)[...] = image
