"""Before samples are taken farther apart than voxels, what lies between is averaged."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from unetpipe.data.resample import read_smoothed, stride
from unetpipe.grid import Region
from unetpipe.volume import Image, VolumeFile

Make = Callable[..., Path]
CONSTANTS = {"mean": (0.0,) * 2, "std": (1.0,) * 2, "missing_sections": ()}


def noise(make_volume: Make) -> Image:
    image = np.random.default_rng(0).integers(0, 255, (2, 300, 300)).astype(np.uint8)
    return Image(VolumeFile.read(make_volume(image, **CONSTANTS)))


@pytest.mark.parametrize("steps", [(1.0, 1.0), (0.5, 1.0), (0.3, 0.3)], ids=str)
def test_samples_that_are_no_farther_apart_than_voxels_show_their_values(
    make_volume: Make, steps: tuple[float, float]
) -> None:
    image = noise(make_volume)
    region = Region((0, -3, 20), (2, 60, 70))
    np.testing.assert_array_equal(read_smoothed(image, region, steps), image.read(region))


@pytest.mark.parametrize("steps", [(2.0, 2.0), (3.0, 1.0), (1.0, 4.0)], ids=str)
def test_what_is_smoothed_does_not_depend_on_the_region(make_volume: Make, steps: tuple[float, float]) -> None:
    image = noise(make_volume)
    whole = read_smoothed(image, Region((0, 0, 0), (2, 300, 300)), steps)
    part = Region((1, 40, 100), (2, 90, 130))
    np.testing.assert_allclose(read_smoothed(image, part, steps), whole[part.slices], rtol=1e-6)


@pytest.mark.parametrize("step", [2.0, 3.0, 5.0])
def test_noise_falls_as_that_of_means_over_voxels_does(make_volume: Make, step: float) -> None:
    image = noise(make_volume)
    region = Region((0, 0, 0), (2, 300, 300))
    found = read_smoothed(image, region, (step, step)).std() / image.read(region).std()
    # A box of s x s voxels leaves 1/s of the noise. The Gaussian is narrower by one voxel, which counts if s is small.
    assert 0.95 / step <= found <= 1.3 / step


def test_a_stride_is_in_voxels_of_the_volume(make_volume: Make) -> None:
    volume = VolumeFile.read(make_volume(np.zeros((2, 9, 9), np.uint8), voxel_size_nm=(40.0, 4.0, 5.0)))
    assert stride(volume, None) == (1.0, 1.0)
    assert stride(volume, (8.0, 2.5)) == (2.0, 0.5)
