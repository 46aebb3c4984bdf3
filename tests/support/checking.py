"""Settings to check, with the files that they name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from safetensors.numpy import save_file

from unetpipe.check import check
from unetpipe.config import Network
from unetpipe.errors import SettingsError

Data = dict[str, Any]


def good_settings(folder: Path) -> Data:
    """Settings that can be used: one volume to train on, one to test."""
    rng = np.random.default_rng(0)
    for name in ("train", "test"):
        tifffile.imwrite(folder / f"{name}.tif", rng.integers(0, 255, (6, 70, 80), dtype=np.uint8))
        tifffile.imwrite(folder / f"{name}-labels.tif", rng.integers(0, 2, (6, 70, 80), dtype=np.uint8))
    return {
        "run": "x",
        "data_dir": str(folder),
        "classes": {"membrane": [0], "inside": [1]},
        "volumes": {
            name: {"role": name, "image": f"{{data_dir}}/{name}.tif", "labels": f"{{data_dir}}/{name}-labels.tif"}
            for name in ("train", "test")
        },
    }


def problems_of(data: Data) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        check(data, "config.yaml")
    return dict(caught.value.problems)


def checkpoint(path: Path, **changes: Any) -> str:
    metadata = {"network": Network().model_dump(mode="json"), "classes": ["membrane", "inside"]} | changes
    save_file({"w": np.zeros(3, np.float32)}, path, metadata={"unetpipe": json.dumps(metadata)})
    return str(path)


def with_voxel_size(path: Path, nm: float) -> None:
    metadata = {"spacing": 40, "unit": "nm", "axes": "ZYX"}
    voxels = np.zeros((6, 70, 80), np.uint8)
    tifffile.imwrite(path, voxels, imagej=True, resolution=(1 / nm, 1 / nm), metadata=metadata)
