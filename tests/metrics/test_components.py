"""Fragments and their links make up the connected components of the whole."""

from fractions import Fraction
from typing import Any

import cc3d
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from unetpipe.metrics import components
from unetpipe.metrics.components import THRESHOLDS

Mask = NDArray[np.bool_]

masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=3, max_dims=3, max_side=7))


def noise(seed: int, shape: tuple[int, int, int] = (9, 60, 70), sigma: float = 1.0) -> Mask:
    """Components of all sizes."""
    return scipy.ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma) > 0


def same_partition(one: NDArray[np.integer[Any]], other: NDArray[np.integer[Any]]) -> bool:
    """Whether two labellings agree but for the numbers, 0 being the background in both."""
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return all(len(np.unique(side)) == pairs.shape[1] for side in pairs) and not (pairs[0] == 0)[pairs[1] > 0].any()


def test_thresholds_are_tenths() -> None:
    assert THRESHOLDS == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_above_is_exact_for_every_probability(threshold: float) -> None:
    values = np.arange(256, dtype=np.uint8)
    limit = Fraction(str(threshold))
    found = components.above(values, threshold)
    assert found.dtype == np.bool_
    assert found.tolist() == [Fraction(v, 255) > limit for v in range(256)]


@pytest.mark.parametrize("threshold", [0.0, 1.0, 0.25])
def test_another_threshold_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=f"a threshold of {threshold}, expected one of"):
        components.above(np.zeros(1, np.uint8), threshold)


@pytest.mark.parametrize("sigma", [0.0, 0.7, 2.0], ids=lambda sigma: f"sigma-{sigma}")
def test_sections_are_labelled_as_by_cc3d_and_scipy(sigma: float) -> None:
    mask = noise(3, sigma=sigma)
    labels, counts = components.labelled(mask)
    assert labels.dtype == np.int32
    for section, found, count in zip(mask, labels, counts, strict=True):
        assert same_partition(found, cc3d.connected_components(section, connectivity=4))
        assert np.array_equal(found, scipy.ndimage.label(section)[0])
        assert count == found.max()


@given(masks)
def test_a_section_is_labelled_alike_whatever_lies_beside_it(mask: Mask) -> None:
    labels, counts = components.labelled(mask)
    for z in range(len(mask)):
        alone, count = components.labelled(mask[z : z + 1])
        assert np.array_equal(alone[0], labels[z])
        assert count[0] == counts[z]


@pytest.mark.parametrize("below", [False, True], ids=["own-sections", "with-the-section-below"])
@pytest.mark.parametrize("sigma", [0.0, 0.7, 2.0], ids=lambda sigma: f"sigma-{sigma}")
def test_bodies_of_a_block_are_those_of_cc3d_and_scipy(below: bool, sigma: float) -> None:
    mask = noise(4, sigma=sigma)
    labels, counts = components.labelled(mask)
    found = components.fragments(labels, counts, below=below)
    own = slice(int(below), None)
    assert np.array_equal(np.diff(found.starts), counts[own])
    assert np.array_equal(found.sections(), np.repeat(np.arange(len(mask[own])), counts[own]))
    fragments = np.where(labels[own] > 0, labels[own] + found.starts[:-1, None, None], 0)
    assert found.count == fragments.max() == len(found.bodies) - 1
    bodies = found.bodies[fragments]
    assert same_partition(bodies, cc3d.connected_components(mask[own], connectivity=6))
    assert same_partition(bodies, scipy.ndimage.label(mask[own])[0])
    assert found.fragments_below == (counts[0] if below else None)
    links = {(int(a), int(b)) for a, b in zip(labels[0].ravel(), bodies[0].ravel(), strict=True) if a and b}
    assert set(map(tuple, found.below.tolist())) == (links if below else set())
    assert len(found.below) == len(links) * below


@given(masks)
def test_all_links_make_the_components_of_the_volume(mask: Mask) -> None:
    labels, counts = components.labelled(mask)
    found = components.fragments(labels, counts, below=False)
    fragments = np.where(labels > 0, labels + found.starts[:-1, None, None], 0)
    assert same_partition(found.bodies[fragments], scipy.ndimage.label(mask)[0])


@given(hnp.arrays(np.int32, (2, 3, 7), elements=st.integers(0, 5)))
def test_touching_gives_each_pair_once(arrays: NDArray[np.int32]) -> None:
    one, other = arrays
    expected = {(a, b) for a, b in zip(one.ravel().tolist(), other.ravel().tolist(), strict=True) if a and b}
    assert list(map(tuple, components.touching(one, other).tolist())) == sorted(expected)


@given(masks, st.integers(1, 2), st.data())
def test_faces_that_lie_against_each_other_link_what_touches(mask: Mask, axis: int, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, mask.shape[axis]))
    sides = np.split(mask, [cut], axis)
    if 0 in sides[0].shape + sides[1].shape:
        return
    found, expected = [], []
    for side, place in zip(sides, (-1, 0), strict=True):
        labels, counts = components.labelled(side)
        starts = components.fragments(labels, counts, below=False).starts
        found.append(components.faces(labels, starts)[axis, place])
        fragments = np.where(labels > 0, labels + starts[:-1, None, None], 0)
        expected.append(np.take(fragments, place, axis))
    assert np.array_equal(components.facing(*found), components.touching(*expected))


def test_a_face_holds_runs_not_voxels() -> None:
    mask = np.zeros((2, 5, 1000), np.bool_)
    mask[0, :, 300:600] = True
    labels, counts = components.labelled(mask)
    first_row = components.faces(labels, components.fragments(labels, counts, below=False).starts)[1, 0]
    assert first_row.ends.tolist() == [300, 600, 2000]
    assert first_row.fragments.tolist() == [0, 1, 0]


def test_faces_of_different_lengths_are_refused() -> None:
    one, other = (components.Face(np.array([n], np.int32), np.array([1], np.int32)) for n in (5, 6))
    with pytest.raises(ValueError, match="a face of 5 voxels against one of 6"):
        components.facing(one, other)


@given(st.integers(0, 12), st.data())
def test_merged_nodes_are_the_components_of_the_graph(nodes: int, data: st.DataObject) -> None:
    node = st.integers(1, max(nodes, 1))
    links = data.draw(st.lists(st.tuples(node, node), max_size=15)) if nodes else []
    found = components.merged(nodes, np.array(links, np.int64).reshape(-1, 2))
    group = list(range(nodes + 1))
    for a, b in links:
        group = [group[a] if g == group[b] else g for g in group]
    assert len(found) == nodes + 1
    assert found[0] == 0
    assert set(found[1:].tolist()) == set(range(1, len(set(group[1:])) + 1))
    assert same_partition(found, np.array(group))


def test_more_fragments_than_32_bits_count_are_refused() -> None:
    with pytest.raises(ValueError, match=f"{2**31} fragments, at most {2**31 - 1} can be merged"):
        components.merged(2**31, np.zeros((0, 2), np.int64))
