"""The anatomy of the phantom: what must hold in every section."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from unetpipe.data.tissue import LABEL_VALUES, MEMBRANE_NM, Anatomy, Noise, Tissue, stream

VOXEL_NM = (40.0, 4.0, 4.0)
SHAPE = (6, 224, 256)
MEMBRANE, MITOCHONDRION, INSIDE = LABEL_VALUES["membrane"], LABEL_VALUES["mitochondrion"], LABEL_VALUES["inside"]


@pytest.fixture(scope="module", params=[1, 2], ids=["seed 1", "seed 2"])
def sections(request: pytest.FixtureRequest) -> list[Anatomy]:
    tissue = Tissue(SHAPE, VOXEL_NM, request.param)
    return [tissue.section(z) for z in range(SHAPE[0])]


def noise(seed: int) -> Noise:
    return Noise(stream(seed), (0, 0, 0), (2000, 4000, 4000), (100, 50, 80))


def test_the_numbers_in_the_labels() -> None:
    # Settings and other volumes are written against these.
    assert dict(LABEL_VALUES) == {"membrane": 0, "mitochondrion": 128, "inside": 255}


def test_noise_has_mean_0_and_variance_1() -> None:
    at = np.arange(0, 4000, 20.0)
    planes = np.stack([noise(0).plane(z, at, at) for z in range(0, 2000, 100)])
    assert abs(planes.mean()) < 0.05
    assert 0.9 < planes.var() < 1.1


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), z=st.floats(0, 2000), first=st.integers(0, 50), step=st.integers(1, 9))
def test_noise_at_a_point_does_not_depend_on_the_grid(seed: int, z: float, first: int, step: int) -> None:
    at = np.arange(0, 400, 4.0)
    whole = noise(seed).plane(z, at, at)
    np.testing.assert_array_equal(noise(seed).plane(z, at[first::step], at[step:]), whole[first::step, step:])


def test_noise_is_smooth() -> None:
    """A cubic spline: over a hundredth of the lattice it moves by a few hundredths, along every axis."""
    at = np.arange(0, 4000, 25.0)
    here = noise(0).plane(1000, at, at)
    for dz, dy, dx in ((1, 0, 0), (0, 0.5, 0), (0, 0, 0.8)):
        moved = noise(0).plane(1000 + dz, at + dy, at + dx)
        assert 0 < np.abs(moved - here).max() < 0.06


def test_a_section_does_not_depend_on_those_drawn_before() -> None:
    shape = (4, 80, 96)
    forwards, backwards = Tissue(shape, VOXEL_NM, 5), Tissue(shape, VOXEL_NM, 5)
    one = [forwards.section(z).labels for z in range(4)]
    other = [backwards.section(z).labels for z in reversed(range(4))]
    np.testing.assert_array_equal(one, other[::-1])


def test_neighbours_in_different_cells_are_both_membrane(sections: list[Anatomy]) -> None:
    for anatomy in sections:
        for axis in (0, 1):
            cell, labels = np.moveaxis(anatomy.cell, axis, 0), np.moveaxis(anatomy.labels, axis, 0)
            differ = cell[1:] != cell[:-1]
            assert differ.any()
            assert (labels[1:][differ] == MEMBRANE).all()
            assert (labels[:-1][differ] == MEMBRANE).all()


def test_membranes_close_many_cells_of_many_sizes(sections: list[Anatomy]) -> None:
    for anatomy in sections:
        component, count = ndimage.label(anatomy.labels != MEMBRANE)  # 4-connected
        assert count > 25
        for number, (rows, columns) in enumerate(ndimage.find_objects(component), start=1):
            spans = [s.stop - s.start == n for s, n in zip((rows, columns), component.shape, strict=True)]
            assert not any(spans), f"component {number} reaches from one side of the section to the other"
            assert np.unique(anatomy.cell[component == number]).size == 1
        areas = np.sort(np.bincount(component.ravel())[1:])
        assert areas[-1] > 10 * areas[count // 4]


def test_membranes_are_as_thick_as_promised(sections: list[Anatomy]) -> None:
    for anatomy in sections:
        labels = anatomy.labels
        # Twice the distance from the middle of a membrane to its edge. A ridge pixel lies up to half a pixel from the
        # middle, and distances are to centres of pixels outside: half a pixel each way.
        depth_nm = 4.0 * ndimage.distance_transform_edt(labels == MEMBRANE)
        thickness_nm = 2 * depth_nm[(anatomy.border_nm < 4) & (labels == MEMBRANE)]
        assert MEMBRANE_NM - 6 < np.median(thickness_nm) < MEMBRANE_NM + 6


def test_a_mitochondrion_lies_within_one_cell_and_off_its_membrane(sections: list[Anatomy]) -> None:
    seen = 0
    for anatomy in sections:
        component, count = ndimage.label(anatomy.labels == MITOCHONDRION)
        seen += count
        for number in range(1, count + 1):
            assert np.unique(anatomy.cell[component == number]).size == 1
        assert (anatomy.border_nm[component > 0] > 0.5 * 0.75 * MEMBRANE_NM).all()
    assert seen >= 2 * len(sections)


def test_mitochondria_run_through_sections(sections: list[Anatomy]) -> None:
    here = [anatomy.labels == MITOCHONDRION for anatomy in sections]
    shared = sum((a & b).sum() for a, b in pairwise(here))
    assert shared > 0.5 * sum(a.sum() for a in here[:-1])


def test_outlines_move_a_little_from_section_to_section(sections: list[Anatomy]) -> None:
    """The nearer two sections are, the more alike; none is a copy of the one before."""
    labels = np.stack([anatomy.labels != MEMBRANE for anatomy in sections])
    same = [np.mean([(a == b).mean() for a, b in zip(labels, labels[step:], strict=False)]) for step in (1, 2, 5)]
    assert 0.98 > same[0] > same[1] > same[2]
    assert same[0] > 0.75


def test_oblique_membranes_are_grey(sections: list[Anatomy]) -> None:
    share = np.stack([anatomy.membrane for anatomy in sections])
    assert share.min() == 0
    assert math.isclose(share.max(), 1, abs_tol=1e-6)
    grey = ((share > 0.2) & (share < 0.8)).sum() / (share > 0.2).sum()
    assert 0.1 < grey < 0.6


@pytest.mark.parametrize("pixel_nm", [3.0, 4.0, 8.0], ids="{:g} nm".format)
def test_anatomy_has_its_size_in_nm(pixel_nm: float) -> None:
    extent_nm = 1200
    tissue = Tissue((2, round(extent_nm / pixel_nm), round(extent_nm / pixel_nm)), (40.0, pixel_nm, pixel_nm), 3)
    membrane = np.mean([tissue.section(z).labels == MEMBRANE for z in (0, 1)])
    assert 0.15 < membrane < 0.4
