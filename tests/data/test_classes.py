"""Label values become class indices, and none is guessed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetpipe.data.classes import Classes, UndeclaredError
from unetpipe.volume import IGNORE

DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]


@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_encoding_is_a_look_up(data: st.DataObject, dtype: str) -> None:
    limits = np.iinfo(dtype)
    anything = st.integers(-(2**31), 2**32 - 1)
    here = st.integers(max(limits.min, -(2**31)), min(limits.max, 2**32 - 1))
    occurring = data.draw(st.lists(here, min_size=1, max_size=6, unique=True))
    absent = data.draw(st.lists(anything.filter(lambda value: value not in occurring), max_size=3, unique=True))
    owners = data.draw(st.lists(st.integers(0, 3), min_size=len(occurring + absent), max_size=len(occurring + absent)))
    values: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    ignore: list[int] = []
    for value, owner in zip(occurring + absent, owners, strict=True):
        (ignore if owner == 3 else values["abc"[owner]]).append(value)
    expected = {value: IGNORE if owner == 3 else owner for value, owner in zip(occurring + absent, owners, strict=True)}
    labels = np.array(data.draw(st.lists(st.sampled_from(occurring), min_size=12, max_size=12)), dtype).reshape(3, 4)

    encoded = Classes(values, ignore).encode(labels)

    assert encoded.dtype == np.uint8
    assert encoded.tolist() == [[expected[int(value)] for value in row] for row in labels]


@pytest.mark.parametrize("dtype", DTYPES)
def test_undeclared_values_are_counted(dtype: str) -> None:
    labels = np.array([[0, 1, 1], [9, 9, 9], [100, 0, 0]], dtype)
    with pytest.raises(UndeclaredError) as caught:
        Classes({"a": [0], "b": [1, 300, -5]}, []).encode(labels)
    assert list(caught.value.counts.items()) == [(9, 3), (100, 1)]


def test_values_that_the_type_cannot_hold_stand_for_nothing() -> None:
    with pytest.raises(UndeclaredError) as caught:
        Classes({"a": [300], "b": [-1]}, [70000]).encode(np.array([[44, 255]], np.uint8))
    assert caught.value.counts == {44: 1, 255: 1}


def test_large_values_are_told_apart() -> None:
    # As floating-point numbers they would be the same.
    labels = np.array([[2**53, 2**53 + 1]], np.uint64)
    with pytest.raises(UndeclaredError) as caught:
        Classes({"a": [2**53], "b": [-1]}, []).encode(labels)
    assert caught.value.counts == {2**53 + 1: 1}
