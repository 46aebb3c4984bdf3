"""A run with every layer, without a network."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from levelled import fill, make, plan
from stores import make_store
from viewing import SHAPE, Made, run_of

from unetpipe.arrays import open_array
from unetpipe.files import read_json, write_json


@pytest.fixture(scope="session")
def made(make_volume: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A run of one volume ``v``, with image, truth, prediction with levels and label map, and objects."""
    folder = tmp_path_factory.mktemp("viewed")
    run = run_of(folder)
    rng = np.random.default_rng(5)
    image = rng.integers(0, 256, SHAPE).astype(np.uint8)
    truth = rng.choice(np.array([0, 1, 2, 255], np.uint8), SHAPE)
    make_volume(image, truth, folder=run, source={"sections": [0, SHAPE[0]], "image_sections": SHAPE[0]})
    prediction = run / "predictions" / "v"
    (prediction / "volumes" / "v").mkdir(parents=True)
    (prediction / "volumes" / "v" / "volume.json").write_bytes((run / "volumes" / "v" / "volume.json").read_bytes())
    allocated = plan(prediction, make_volume, SHAPE, labels=True)
    fill(allocated)
    make(allocated)
    segments = run / "segments" / "v"
    numbers = rng.integers(0, 2**40, SHAPE).astype(np.uint64)
    make_store(
        segments / "segments.zarr",
        shape=SHAPE, dtype="uint64", chunk=(9, 64, 64), shard=(9, 256, 256), voxel_size_nm=(40, 4, 4),
    )[...] = numbers  # fmt: skip
    write_json(segments / "segments.json", {"segments": str(segments / "segments.zarr"), "array": "0"})
    store = read_json(allocated)["probability"]
    return Made(
        run,
        {
            "image": image,
            "truth": truth,
            "probability": open_array(f"{store}/0")[...],
            "classes": open_array(f"{store}/labels/classes/0")[...],
            "segments": numbers,
        },
    )
