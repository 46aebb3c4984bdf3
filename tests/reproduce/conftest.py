"""What a report says, without a run."""

from copy import deepcopy
from typing import Any

import pytest

import unetpipe

PLAN = {"tile": [1, 104, 104], "block": [8, 64, 64], "chunk": [8, 64, 64], "batch": 2, "blocks": 4}


@pytest.fixture
def report() -> dict[str, Any]:
    """The content of a report.json, to change."""
    return deepcopy(
        {
            "schema": 1,
            "run": "small",
            "version": unetpipe.__version__,
            "versions": {},
            "backend": "onnxruntime",
            "precision": "fp32",
            "device_class": {},
            "command": "snakemake --cores all",
            "settings": {
                "run": "small",
                "classes": {"membrane": [0], "inside": [255]},
                "volumes": {
                    name: {"role": name, "image": "data/a.tif", "labels": "data/b.tif"} for name in ("train", "test")
                },
                "network": {"width": 4, "depth": 2},
                "augment": {"tile": [104, 104], "border_class": "membrane"},
            },
            "inputs": {
                name: {
                    "image": "data/a.tif", "labels": "data/b.tif", "mask": mask, "in_place": False,
                    "mask_digest": mask and "c" * 64, "image_digest": "a" * 64, "labels_digest": "b" * 64,
                }
                for name, mask in (("train", None), ("test", "data/m.tif"))
            },
            "digests": {
                "samples": "1" * 64, "checkpoint": "2" * 64, "onnx": "3" * 64, "engine": "4" * 64,
                "predictions": {"test": {"digest": "5" * 64, "plan": PLAN}},
                "segments": {"test": "6" * 64},
            },
            "scores": {
                "test": {
                    "mean_iou": 0.75, "classes": {"membrane": {"iou": 0.5}, "inside": {"iou": 1.0}}, "version": "0",
                    "thresholds": [0.1, 0.2],
                }
            },
            "quality": {"what stands beside": "is not looked at"},
        }
    )  # fmt: skip
