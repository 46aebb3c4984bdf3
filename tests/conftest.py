"""What several tests need: real sections, and small volumes on disk."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray
from stores import make_store

import unetpipe
from unetpipe.volume import VolumeFile, layout

# Shared machines pause at times: no example fails for having taken long.
settings.register_profile(
    "unetpipe", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("unetpipe")

# Those that take longest, by measurement. A worker takes file after file: what comes last decides when all are done.
LONG = [
    "workflow/test_reproduce.py",
    "workflow/test_interrupted.py",
    "workflow/test_workflow.py",
    "workflow/test_bucket.py",
    "workflow/test_dimensions.py",
    "workflow/test_ablation.py",
    "workflow/test_segment.py",
    "docs/test_commands.py",
    "docs/test_site.py",
    "test_crash.py",
    "test_faults.py",
    "test_predict.py",
    "deploy/test_export.py",
    "deploy/test_quantize.py",
    "test_evaluate.py",
    "test_outlook.py",
    "deploy/test_networks.py",
    "engines/test_contract.py",
    "test_train.py",
    "test_train_again.py",
    "test_predict_bucket.py",
    "test_segment_again.py",
    "test_benchmarks.py",
    "viewer/test_browser.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(LONG)))


MakeVolume = Callable[..., Path]


@pytest.fixture(scope="session")
def isbi_dir() -> Path:
    """The folder of the ISBI 2012 stacks."""
    folder = os.environ.get("UNETPIPE_ISBI_DIR")
    if not folder:
        pytest.skip("UNETPIPE_ISBI_DIR is not set: no ISBI 2012 stacks")
    return Path(folder)


@pytest.fixture(scope="session")
def make_volume(tmp_path_factory: pytest.TempPathFactory) -> MakeVolume:
    """A function that puts a volume on disk as ingest does, and gives its volume.json."""

    def make(
        image: NDArray[Any],
        labels: NDArray[np.uint8] | None = None,
        name: str = "v",
        folder: Path | None = None,
        **changes: Any,
    ) -> Path:
        place = (folder or tmp_path_factory.mktemp("volume")) / "volumes" / name
        chunk, shard = layout(image.shape)
        size = (40.0, 4.0, 4.0)
        arrays: dict[str, str | None] = {"image": None, "labels": None}
        for kind, voxels in (("image", image), ("labels", labels)):
            if voxels is not None:
                array = make_store(
                    place / f"{kind}.zarr",
                    shape=image.shape, dtype=str(voxels.dtype), chunk=chunk, shard=shard, voxel_size_nm=size,
                )  # fmt: skip
                array[...] = voxels
                arrays[kind] = str(place / f"{kind}.zarr" / "0")
        sections = image.reshape(len(image), -1).astype(float)
        std = sections.std(axis=1)
        facts: dict[str, Any] = {
            "name": name,
            "image": arrays["image"],
            "labels": arrays["labels"],
            "shape": image.shape,
            "first_section": 0,
            "dtype": str(image.dtype),
            "voxel_size_nm": size,
            "origin_nm": (0.0, 0.0, 0.0),
            "range": None,
            "mean": tuple(sections.mean(axis=1)),
            "std": tuple(std),
            "missing_sections": tuple(int(z) for z in np.flatnonzero(std == 0)),
            "image_digest": "0" * 64,
            "labels_digest": None if labels is None else "1" * 64,
            "extent": None,
            "source": {},
            "version": unetpipe.__version__,
        }
        VolumeFile(**(facts | changes)).write(place / "volume.json")
        return place / "volume.json"

    return make
