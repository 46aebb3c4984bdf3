"""Fragments of one piece: their numbers, what is known of each, and what shows at the faces."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import find_objects, sum_labels

from unetpipe.grid import Region
from unetpipe.metrics.components import THRESHOLDS, above
from unetpipe.segmentation import fragments
from unetpipe.segmentation.fragments import (
    Table,
    brightest_below,
    labelled,
    sides,
    sides_from_bytes,
    sides_to_bytes,
)

MASKS = arrays(np.bool_, st.tuples(*(st.integers(1, n) for n in (4, 7, 9))))
BYTES = np.arange(256, dtype=np.uint8)


@given(st.decimals(0, 1, places=4).map(float).filter(lambda t: t < 1))
def test_a_byte_is_above_a_threshold_as_a_fraction_is(threshold: float) -> None:
    exact = [Fraction(int(v), 255) > Fraction(repr(threshold)) for v in BYTES]
    assert (brightest_below(threshold) < BYTES).tolist() == exact


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_thresholds_of_the_scores_are_the_same_here(threshold: float) -> None:
    np.testing.assert_array_equal(brightest_below(threshold) < BYTES, above(BYTES, threshold))


@given(MASKS)
def test_sections_by_themselves_are_not_joined(mask: np.ndarray) -> None:
    labels, count = labelled(mask, within_sections=True)
    assert sorted(set(labels[mask].tolist())) == list(range(1, count + 1))
    assert not labels[~mask].any()
    for below, section in pairwise(labels):
        assert not set(below[below > 0].tolist()) & set(section[section > 0].tolist())


def test_a_piece_of_too_many_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fragments, "MOST", 7)
    with pytest.raises(ValueError, match="more than 7 voxels"):
        labelled(np.zeros((2, 2, 2), np.bool_), within_sections=False)


@how(max_examples=50)
@given(MASKS, st.tuples(*[st.integers(0, 10**6)] * 3), st.integers(1, 40))
def test_what_is_known_of_each_fragment(mask: np.ndarray, start: tuple[int, int, int], at_once: int) -> None:
    labels, count = labelled(mask, within_sections=False)
    region = Region.of(start, mask.shape)
    shape = (10**6 + 4, 10**6 + 7, 10**6 + 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fragments, "_AT_ONCE", at_once)
        table = Table.of(labels, count, region, shape)
    places = np.indices(mask.shape) + np.array(start)[:, None, None, None]
    index = range(1, count + 1)
    np.testing.assert_array_equal(table.voxels, sum_labels(mask, labels, index))
    for axis in range(3):
        assert table.sums[:, axis].tolist() == [int(places[axis][labels == number].sum()) for number in index]
    for row, box in enumerate(find_objects(labels)):
        assert table.start[row].tolist() == [a.start + b for a, b in zip(box, start, strict=True)]
        assert table.stop[row].tolist() == [a.stop + b for a, b in zip(box, start, strict=True)]
        z, y, x = (int(found[0]) + a for found, a in zip(np.nonzero(labels == row + 1), start, strict=True))
        assert table.first[row] == (z * shape[1] + y) * shape[2] + x
    again = Table.from_bytes(table.to_bytes())
    for one, other in zip(table.arrays(), again.arrays(), strict=True):
        np.testing.assert_array_equal(one, other)


@given(MASKS, st.booleans())
def test_faces_come_back_from_bytes(mask: np.ndarray, within_sections: bool) -> None:
    labels, _ = labelled(mask, within_sections=within_sections)
    found = sides_from_bytes(sides_to_bytes(sides(labels, within_sections=within_sections)))
    assert sorted(found) == [(axis, place) for axis in ((1, 2) if within_sections else (0, 1, 2)) for place in (-1, 0)]
    for (axis, place), face in found.items():
        numbers = np.take(labels, place, axis).reshape(-1)
        np.testing.assert_array_equal(np.repeat(face.fragments, np.diff(face.ends, prepend=0)), numbers)
