"""Samples to draw: networks, settings, and the rule run in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from unetpipe.config import Augment, Network
from unetpipe.data.augment import augment
from unetpipe.data.samples import SHARD, SamplesFile

CLASSES = ["membrane", "inside"]
COUNT = 2 * SHARD + 3
SETTINGS = Augment(samples=COUNT, tile=(40, 36), border_class="membrane", elastic_sigma=2.0)
FLAT = Network(depth=1)  # border (0, 8, 8)
CHANNELS = Network(depth=1, sections=5)  # border (2, 8, 8)
STACK = Network(depth=1, kernel=[(1, 3, 3), (3, 3, 3)], pooling=(2, 2, 2))  # border (4, 8, 8)
IN_3D = {"tile": (12, 40, 36)}
Make = Callable[..., Path]


def run(folder: Path, volumes: dict[str, list[Path]], **changes: Any) -> SamplesFile:
    arguments: dict[str, Any] = {
        **volumes, "samples": folder / "samples.json", "store": folder / "samples.zarr",
        "settings": SETTINGS, "network": FLAT, "classes": CLASSES, "seed": 1, "cores": 2,
    }  # fmt: skip
    augment(**(arguments | changes))
    return SamplesFile.read(folder / "samples.json")


def content(folder: Path) -> dict[str, NDArray[Any]]:
    group = zarr.open_group(folder / "samples.zarr", mode="r")
    names = [f"train/{name}" for name in ("image", "label", "weight", "source")]
    names += [f"validate/{name}" for name in ("image", "label", "source")]
    return {name: np.asarray(group[name]) for name in names}
