"""An imitation of a series of the Cell Tracking Challenge: discs that move, meet and press against each other."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Ids = NDArray[np.uint16]


def moving_cells(
    shape: tuple[int, int, int], cells: int, radius: float, seed: int = 0
) -> tuple[NDArray[np.uint8], Ids]:
    """Grey values and numbers of cells, (frame, y, x).

    Where two overlap, a voxel is of the one in which it lies deeper.
    """
    rng = np.random.default_rng(seed)
    size = np.array(shape[1:])
    place = rng.uniform(0, size, (cells, 2))
    radii = radius * rng.uniform(0.8, 1.2, cells)
    speed = rng.normal(scale=radius / 8, size=(cells, 2))
    y, x = np.mgrid[: shape[1], : shape[2]]
    grey, ids = np.empty(shape, np.uint8), np.empty(shape, np.uint16)
    for z in range(shape[0]):
        at = (place + z * speed) % size
        inside = radii[:, None, None] - np.hypot(y - at[:, 0, None, None], x - at[:, 1, None, None])
        deepest = inside.max(axis=0)
        ids[z] = np.where(deepest > 0, inside.argmax(axis=0) + 1, 0)
        # Dark where a cell ends, be it at another one: as edges are in phase contrast.
        second = np.sort(inside, axis=0)[-2] if cells > 1 else np.full(shape[1:], -np.inf)
        edge = np.exp(-(np.minimum(np.abs(deepest), np.abs(deepest - second) / 2) ** 2) / 4)
        light = np.where(deepest > 0, 170.0, 90.0) - 70 * edge + 12 * rng.normal(size=shape[1:])
        grey[z] = np.clip(gaussian_filter(light, 0.7), 0, 255)
    return grey, ids


def write_series(
    folder: Path, grey: NDArray[Any], ids: Ids, labelled: Iterable[int], sequence: str = "01", truth: str = "GT"
) -> tuple[str, str]:
    """The folders of frames and of labels below ``folder``, as the challenge gives them out."""
    frames, labels = folder / sequence, folder / f"{sequence}_{truth}" / "SEG"
    for place in (frames, labels):
        place.mkdir(parents=True, exist_ok=True)
    for z, frame in enumerate(grey):
        tifffile.imwrite(frames / f"t{z:03}.tif", frame)
    for z in labelled:
        tifffile.imwrite(labels / f"man_seg{z:03}.tif", ids[z])
    return str(frames), str(labels)
