"""What was labelled is the union of the sections and boxes that the settings name."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unetpipe.data.annotation import Annotated

SHAPE = (4, 5, 6)


def spans(size: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(0, size), st.integers(0, size)).map(lambda ends: (min(ends), max(ends)))


parts = st.lists(st.integers(0, SHAPE[0] - 1) | st.tuples(*map(spans, SHAPE)), min_size=1, max_size=4)


@given(parts)
def test_a_voxel_is_known_that_lies_in_a_part(parts: list[int | tuple[tuple[int, int], ...]]) -> None:
    expected = np.zeros(SHAPE, bool)
    for part in parts:
        expected[part if isinstance(part, int) else tuple(slice(*span) for span in part)] = True
    annotated = Annotated(parts, SHAPE)  # type: ignore[arg-type]
    np.testing.assert_array_equal([annotated.known(z) for z in range(SHAPE[0])], expected)
