"""Ranges are those of all values, whatever the number of cores."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from onnx_unet import unet

from unetpipe.deploy.activations import trace
from unetpipe.deploy.calibrate import calibrate


@pytest.mark.parametrize(
    ("settings", "tile"),
    [
        pytest.param({}, (1, 40, 36), id="2D"),
        pytest.param({"sections": 3}, (3, 40, 36), id="2.5D"),
        pytest.param({"kernel": (3, 3, 3), "pooling": (2, 2, 2)}, (18, 18, 20), id="3D"),
    ],
)
def test_ranges_are_the_extremes_of_all_tiles(settings: dict[str, Any], tile: tuple[int, int, int]) -> None:
    model = unet((4, 6), **settings)
    tiles = np.random.default_rng(0).standard_normal((3, *tile)).astype(np.float32)
    found = calibrate(model, tiles, cores=2)
    names = sorted(trace(model).channels)
    assert sorted(found) == sorted([*names, "image"])
    np.testing.assert_array_equal(found["image"].most, tiles.max(axis=(0, 2, 3)))
    np.testing.assert_array_equal(found["image"].least, tiles.min(axis=(0, 2, 3)))
    with_all = onnx.ModelProto()
    with_all.CopyFrom(model)
    del with_all.graph.output[:]
    with_all.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in names)
    values: list[Any] = ReferenceEvaluator(with_all).run(None, {"image": tiles})
    for name, value in zip(names, values, strict=True):
        others = (0, *range(2, value.ndim))
        np.testing.assert_allclose(found[name].least, value.min(axis=others), atol=1e-5)
        np.testing.assert_allclose(found[name].most, value.max(axis=others), atol=1e-5)


def test_the_number_of_cores_changes_no_bit() -> None:
    model = unet((18, 150))
    tiles = np.random.default_rng(0).standard_normal((2, 1, 60, 60)).astype(np.float32)
    one, other = (calibrate(model, tiles, cores) for cores in (1, 3))
    for name, found in one.items():
        np.testing.assert_array_equal(found.least, other[name].least)
        np.testing.assert_array_equal(found.most, other[name].most)
