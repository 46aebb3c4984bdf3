"""The entropy of a voxel is that of the definition."""

import numpy as np
import pytest
from halves import halves
from scipy.stats import entropy as reference

from unetpipe.quality.certainty import entropy


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_it_is_that_of_another_implementation(classes: int) -> None:
    probability = halves((3, 20, 30), seed=classes, classes=classes)
    expected = reference(probability.astype(float), axis=0) / np.log(classes)
    np.testing.assert_allclose(entropy(probability), expected, atol=2e-6)


@pytest.mark.parametrize(
    ("bytes_of_a_voxel", "expected"),
    [
        pytest.param([255, 0], 0, id="sure"),
        pytest.param([0, 255, 0], 0, id="sure of three"),
        pytest.param([85, 85, 85], 1, id="no idea"),
        pytest.param([0, 0, 0, 0], 0, id="not predicted"),
    ],
)
def test_extremes(bytes_of_a_voxel: list[int], expected: float) -> None:
    voxel = np.array(bytes_of_a_voxel, np.uint8).reshape(-1, 1, 1, 1)
    assert entropy(voxel).item() == pytest.approx(expected, abs=1e-6)


def test_it_is_never_above_one() -> None:
    # Each byte is rounded by itself, so that those of a voxel may add up to more than 255.
    p = 86 / 255
    assert -3 * p * np.log(p) / np.log(3) > 1
    assert entropy(np.full((3, 1, 1, 1), 86, np.uint8)).item() == 1
