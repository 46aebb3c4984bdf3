"""A predicted volume on disk, as the rules before quality control leave it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from halves import halves
from numpy.typing import NDArray
from stores import make_store

import unetpipe
from unetpipe.config import Network
from unetpipe.files import write_json
from unetpipe.grid import Geometry, Plan, Region
from unetpipe.selection import Selection

MakePredicted = Callable[..., dict[str, Any]]


@pytest.fixture
def make_predicted(tmp_path: Path, make_volume: Callable[..., Path]) -> MakePredicted:
    """A function that gives the arguments of ``quality`` for an image and its probabilities."""

    def make(
        image: NDArray[Any],
        probability: NDArray[np.uint8] | None = None,
        labels: NDArray[np.uint8] | None = None,
        block: Sequence[int] = (8, 64, 64),
        region: Region | None = None,
        **changes: Any,
    ) -> dict[str, Any]:
        place = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        if probability is None:
            probability = halves(image.shape)
        volume = make_volume(image, labels, folder=place, **changes)
        geometry: Geometry = Network(depth=1).geometry
        plan = Plan(image.shape, geometry.tile_for((1, 16, 16)), tuple(block), tuple(block), 1, geometry)  # type: ignore[arg-type]
        selection = Selection.of(plan, region)
        folder = place / "predictions" / "v"
        array = make_store(
            folder / "probability.zarr",
            shape=probability.shape, dtype="uint8", chunk=(1, *block), shard=(len(probability), *block),
            voxel_size_nm=(40, 4, 4), channels=[f"class {n}" for n in range(len(probability))],
        )  # fmt: skip
        for wanted in selection.blocks(plan):
            box = (slice(None), *wanted.write.slices)
            array[box] = probability[box]
        write_json(
            folder / "allocated.json",
            {
                "volume": "v",
                "volume_file": str(volume),
                "probability": str(folder / "probability.zarr"),
                "array": "0",
                "classes": [f"class {n}" for n in range(len(probability))],
                "key": {
                    "input": {}, "engine": "e", "backend": "openvino", "device_class": {},
                    "version": unetpipe.__version__,
                },
                "plan": {**asdict(plan), "blocks": math.prod(plan.block_counts)},
                "selection": selection.as_json(),
            },
        )  # fmt: skip
        write_json(folder / "job-0.json", {"digest": "d" * 64})
        return {
            "volume": volume,
            "allocated": folder / "allocated.json",
            "predicted": [folder / "job-0.json"],
            "quality": place / "quality" / "v.json",
        }

    return make
