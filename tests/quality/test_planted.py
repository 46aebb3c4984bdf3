"""Faults that were planted are found, and sections without one are not accused."""

from collections.abc import Callable
from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from unetpipe.config import Quality
from unetpipe.data.phantom import Phantom, make_phantom
from unetpipe.data.statistics import mean_and_std, patches
from unetpipe.files import read_json
from unetpipe.quality.measure import quality

MakePredicted = Callable[..., dict[str, Any]]
Voxels = NDArray[np.uint8]

SEEDS = range(1, 6)


@cache
def drawn(seed: int) -> Phantom:
    return make_phantom((9, 256, 256), (40.0, 4.0, 4.0), seed)


@pytest.fixture
def told(make_predicted: MakePredicted) -> Callable[[Voxels], dict[str, list[int]]]:
    """A function that gives the faults that are told of an image, measured as ingest does."""

    def tell(image: Voxels) -> dict[str, list[int]]:
        cut = patches(*image.shape[1:])
        measured = [mean_and_std([section[patch] for patch in cut], None) for section in image]
        mean, std = zip(*measured, strict=True)
        given = make_predicted(
            image, mean=mean, std=std, missing_sections=tuple(z for z, value in enumerate(std) if value == 0)
        )
        quality(**given, settings=Quality(), cores=1)
        faults: dict[str, list[int]] = read_json(given["quality"])["faults"]
        return {kind: sections for kind, sections in faults.items() if sections}

    return tell


@pytest.mark.parametrize("seed", SEEDS)
def test_the_missing_and_the_folded_section_are_told_and_no_other(
    seed: int, told: Callable[[Voxels], dict[str, list[int]]]
) -> None:
    phantom = drawn(seed)
    assert told(phantom.image) == {"missing": [phantom.missing], "folded": [phantom.fold]}


def clean(seed: int) -> tuple[Voxels, list[int]]:
    """Sections of a phantom without those that have a fault, and those in the middle of them."""
    phantom = drawn(seed)
    image = np.delete(phantom.image, [phantom.missing, phantom.fold], axis=0)
    return image, list(range(2, len(image) - 1))


@pytest.mark.parametrize("seed", SEEDS)
def test_of_clean_sections_nothing_is_told(seed: int, told: Callable[[Voxels], dict[str, list[int]]]) -> None:
    assert told(clean(seed)[0]) == {}


def blurred(section: Voxels) -> Voxels:
    """Out of focus: blurred before the camera adds its noise."""
    noise = np.random.default_rng(0).normal(0, 6, section.shape)
    soft = cv2.GaussianBlur(section.astype(np.float32), (0, 0), 4)
    return np.clip(soft + noise, 0, 255).astype(np.uint8)


def faint(section: Voxels) -> Voxels:
    return (128 + (section.astype(np.float32) - 128) * 0.3).astype(np.uint8)


@pytest.mark.parametrize(
    ("harm", "kind"),
    [pytest.param(blurred, "blurred", id="out of focus"), pytest.param(faint, "low_contrast", id="faint")],
)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_section_that_is_harmed_is_told(
    harm: Callable[[Voxels], Voxels], kind: str, seed: int, told: Callable[[Voxels], dict[str, list[int]]]
) -> None:
    image, places = clean(seed)
    place = places[seed % len(places)]
    image[place] = harm(image[place])
    found = told(image)
    assert found[kind] == [place]
    # What is blurred is faint as well: fine texture is a part of the contrast.
    assert found.keys() <= {kind, "low_contrast"}
    assert all(sections == [place] for sections in found.values())


def test_a_section_that_stands_there_twice_is_told(told: Callable[[Voxels], dict[str, list[int]]]) -> None:
    image, _ = clean(1)
    image[4] = image[3]
    assert told(image) == {"repeated": [4]}


def test_a_part_that_was_lost_is_told(told: Callable[[Voxels], dict[str, list[int]]]) -> None:
    image = np.concatenate([clean(1)[0]] * 2, axis=2)
    image[3, :, 256:] = 0
    assert told(image) == {"incomplete": [3]}


def test_the_border_of_sections_that_were_moved_is_no_fold(told: Callable[[Voxels], dict[str, list[int]]]) -> None:
    image, _ = clean(2)
    for z, width in enumerate([0, 30, 5, 60, 0, 25, 10]):
        image[z, :, :width] = 0
    assert told(image) == {}


def test_nothing_is_told_of_sections_from_a_microscope(
    isbi_dir: Any, told: Callable[[Voxels], dict[str, list[int]]]
) -> None:
    assert told(tifffile.imread(isbi_dir / "train-volume.tif")[:12]) == {}
