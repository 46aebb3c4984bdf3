"""Fragments of pieces, joined in memory: the objects of the whole, however it is cut and in whatever order."""

from itertools import pairwise, product

import numpy as np
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from segmenting import in_memory

from unetpipe.grid import Region, triple
from unetpipe.metrics.components import facing, merged
from unetpipe.segmentation.fragments import Table, labelled, sides
from unetpipe.segmentation.objects import number, offsets_of

SIZES = (5, 8, 9)


@given(
    mask=arrays(np.bool_, st.tuples(*(st.integers(1, n) for n in SIZES))),
    where=st.tuples(*(st.sets(st.integers(1, n - 1)) for n in SIZES)),
    within_sections=st.booleans(),
    min_voxels=st.integers(1, 6),
    seed=st.integers(0, 9),
)
@how(max_examples=200)
def test_pieces_cut_anywhere_give_the_objects_of_the_whole(
    mask: np.ndarray, where: tuple[set[int], ...], within_sections: bool, min_voxels: int, seed: int
) -> None:
    cuts = [sorted({0, size, *(at for at in cut if at < size)}) for cut, size in zip(where, mask.shape, strict=True)]
    spans = [list(pairwise(cut)) for cut in cuts]
    grid = triple([len(each) for each in spans])
    rng = np.random.default_rng(seed)
    indices = list(product(*map(range, grid)))
    rng.shuffle(indices)
    order = {tuple(index): place for place, index in enumerate(indices)}
    found, tables, faces, regions = [], [], [], []
    for index in order:
        region = Region.between([spans[axis][i] for axis, i in enumerate(index)])
        labels, count = labelled(mask[region.slices], within_sections=within_sections)
        found.append((labels, count))
        regions.append(region)
        tables.append(Table.of(labels, count, region, triple(mask.shape)))
        faces.append(sides(labels, within_sections=within_sections))
    offsets = offsets_of(np.array([count for _, count in found]))
    links = []
    for index, place in order.items():
        for axis in (1, 2) if within_sections else (0, 1, 2):
            other = order.get(tuple(i + (a == axis) for a, i in enumerate(index)))
            if other is not None:
                pairs = facing(faces[place][axis, -1], faces[other][axis, 0])
                links.append((pairs + np.array([offsets[place], offsets[other]])).astype(np.int32))
    of_pieces = [np.arange(low + 1, high + 1) for low, high in pairwise(offsets)]
    parts = merged(int(offsets[-1]), np.concatenate([np.zeros((0, 2), np.int32), *links]))
    objects = number(parts, zip(of_pieces, tables, strict=True), min_voxels)
    result = np.zeros(mask.shape, np.uint64)
    for piece, (labels, _) in enumerate(found):
        result[regions[piece].slices] = objects.of(of_pieces[piece])[labels]
    method = "components_2d" if within_sections else "components"
    expected = in_memory(mask, method, min_voxels)
    np.testing.assert_array_equal(result, expected)
    assert objects.dropped == in_memory(mask, method).max(initial=0) - expected.max(initial=0)
