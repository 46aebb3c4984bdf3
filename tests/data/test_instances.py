"""Object numbers as classes: the rule against its definition, whatever the numbers and their type."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from unetpipe.config import Instances as Settings
from unetpipe.data.instances import Instances
from unetpipe.data.weights import BorderTerm
from unetpipe.volume import IGNORE

CLASSES = ["inside", "other", "membrane"]
INSIDE, MEMBRANE = 0, 2

# Few objects, so that they touch; 9 is the one to ignore.
planes = arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.sampled_from([0, 1, 1, 2, 9]))


def rule(reach: int = 1, ignore: tuple[int, ...] = (9,)) -> Instances:
    return Instances(CLASSES, Settings(boundary="membrane", object="inside", reach=reach, ignore=list(ignore)))


def by_definition(labels: NDArray[Any], reach: int, unknown: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Voxel by voxel, with all distances."""
    objects = (labels != 0) & ~unknown
    result = np.full(labels.shape, IGNORE, np.uint8)
    for y, x in np.argwhere(~unknown):
        others = np.argwhere(objects & (labels != labels[y, x]))
        near = len(others) and abs(others - (y, x)).sum(axis=1).min() <= reach
        result[y, x] = MEMBRANE if labels[y, x] == 0 or near else INSIDE
    return result


@given(planes, st.integers(1, 4))
def test_boundary_is_0_and_what_lies_near_another_object(labels: NDArray[np.uint8], reach: int) -> None:
    np.testing.assert_array_equal(rule(reach).encode(labels), by_definition(labels, reach, labels == 9))


@given(planes, st.data())
def test_what_is_not_known_is_ignored_and_no_object(labels: NDArray[np.uint8], data: st.DataObject) -> None:
    known = data.draw(arrays(bool, labels.shape))
    expected = by_definition(labels, 2, (labels == 9) | ~known)
    np.testing.assert_array_equal(rule(2).encode(labels, known), expected)


@given(labels=planes)
@pytest.mark.parametrize(
    ("dtype", "numbers"),
    [
        pytest.param("uint8", (255, 1, 9), id="uint8"),
        pytest.param("int8", (-128, 127, -1), id="int8"),
        pytest.param("uint16", (65535, 65534, 9), id="uint16"),
        pytest.param("int64", (-(2**63), 2**63 - 1, -1), id="int64"),
        # Neighbours that are one and the same as floating-point numbers.
        pytest.param("uint64", (2**64 - 1, 2**64 - 2, 2**64 - 3), id="uint64"),
    ],
)
def test_numbers_and_their_type_do_not_matter(labels: NDArray[np.uint8], dtype: str, numbers: tuple[int, ...]) -> None:
    renumbered = np.zeros(labels.shape, dtype)
    for old, new in zip((1, 2, 9), numbers, strict=True):
        renumbered[labels == old] = new
    found = rule(1, (numbers[2],)).encode(renumbered)
    np.testing.assert_array_equal(found, rule().encode(labels))


def test_a_number_that_the_type_cannot_hold_ignores_nothing() -> None:
    labels = np.array([[0, 255, 255]], np.uint8)
    found = rule(1, (-1, 2**64 - 1)).encode(labels)
    np.testing.assert_array_equal(found, [[MEMBRANE, INSIDE, INSIDE]])


def test_0_can_be_ignored() -> None:
    labels = np.array([[0, 5, 5, 6]], np.int32)
    np.testing.assert_array_equal(rule(1, (0,)).encode(labels), [[IGNORE, INSIDE, MEMBRANE, MEMBRANE]])


@pytest.mark.parametrize("reach", [1, 2])
def test_what_parts_touching_objects_weighs_more(reach: int) -> None:
    """The ridge lies within the reach of both: d1 + d2 is its width and 1, the same all across."""
    ids = np.repeat(np.array([[1] * 20 + [2] * 20], np.uint8), 30, axis=0)
    classes = rule(reach).encode(ids)
    ridge = np.abs(np.arange(40) - 19.5) < reach
    np.testing.assert_array_equal(classes, np.where(ridge, MEMBRANE, INSIDE) + np.zeros_like(ids))
    term = BorderTerm(MEMBRANE, 10.0, 5.0).of(classes)
    np.testing.assert_allclose(term[:, ridge], 10 * np.exp(-((2 * reach + 1) ** 2) / 50), rtol=1e-6)
    assert not term[:, ~ridge].any()


def test_labels_stay_as_they_are() -> None:
    labels = np.array([[3, 3, 7]], np.uint32)
    rule(3).encode(labels)
    np.testing.assert_array_equal(labels, [[3, 3, 7]])
