"""The watershed is the one minimum spanning forest of voxels that is rooted in the seeds."""

import numpy as np
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from segmenting import flooded_in_memory

from unetpipe.grid import Region, triple
from unetpipe.segmentation.flood import flood, forest

VALUES = arrays(np.uint8, st.tuples(*(st.integers(1, n) for n in (4, 6, 6))), elements=st.integers(0, 9))


@given(VALUES, st.integers(0, 4), st.integers(0, 5))
@how(max_examples=300)
def test_basins_of_one_piece_give_the_forest_of_voxels(values: np.ndarray, low: int, more: int) -> None:
    high = low + more
    shape = triple(values.shape)
    found = flood(np.pad(values, 1), low, high, Region((0, 0, 0), shape), shape)
    assert len(found.exits.places) == 0
    seeds = np.zeros(found.basins + 1, np.bool_)
    seeds[1 : found.seeds + 1] = True
    objects = forest(seeds, found.edges)[found.labels]
    expected = flooded_in_memory(values, low, high)
    np.testing.assert_array_equal(_renumbered(objects), expected)


def _renumbered(objects: np.ndarray) -> np.ndarray:
    numbers, first, inverse = np.unique(objects, return_index=True, return_inverse=True)
    order = np.argsort(np.where(numbers == 0, -1, first))
    new = np.zeros(len(numbers), np.int64)
    new[order] = np.arange(len(numbers)) + (numbers[0] != 0)
    return new[inverse].reshape(objects.shape)
