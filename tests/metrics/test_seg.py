"""SEG against its definition, object by object, and the same for every cut of the volume."""

import dataclasses
import itertools
import math
from random import Random
from typing import Any

import numpy as np
import pytest
from cells import moving_cells
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from skimage.measure import label

from unetpipe.errors import UserError
from unetpipe.grid import Shape, triple
from unetpipe.metrics import seg, segments
from unetpipe.metrics.components import THRESHOLDS
from unetpipe.metrics.segments import Segments
from unetpipe.volume import IGNORE

OBJECTS = 1
Voxels = NDArray[np.uint8]
Volume = tuple[NDArray[Any], Voxels, Voxels]
"""Numbers of objects, class indices, and probabilities."""


def by_definition(ids: NDArray[Any], known: NDArray[np.bool_], mask: NDArray[np.bool_]) -> list[float]:
    """Of one section: every object of the truth with every object of the prediction."""
    predicted = label(mask, connectivity=1)
    result = []
    for number in np.unique(ids[known & (ids != 0)]):
        mine, score = (ids == number) & known, 0.0
        for other in range(1, predicted.max() + 1):
            theirs = (predicted == other) & known
            both = np.count_nonzero(mine & theirs)
            if both > 0.5 * np.count_nonzero(mine):
                score = both / np.count_nonzero(mine | theirs)
        result.append(score)
    return result


def merged(volume: Volume, block: Shape, random: Random | None = None) -> Segments:
    """What all blocks give together, in any order."""
    ids, truth, probability = volume
    grid = [math.ceil(n / b) for n, b in zip(truth.shape, block, strict=True)]
    counted = []
    for index in itertools.product(*map(range, grid)):
        z, y, x = (i * b for i, b in zip(index, block, strict=True))
        below = z > 0
        beside = slice(y, y + block[1]), slice(x, x + block[2])
        box = slice(z - below, z + block[0]), *beside
        counts = segments.count(
            truth[box],
            probability[box],
            OBJECTS,
            below=below,
            open_faces=grid[1] * grid[2] > 1,
            instances=ids[z : z + block[0], *beside],
        )
        counted.append((triple(index), z, counts))
    if random is not None:
        random.shuffle(counted)
    found = Segments(len(truth))
    for each in counted:
        found.add(*each)
    return found


def lists(found: Segments) -> list[list[list[float]]]:
    return [[section.tolist() for section in at] for at in found.objects()]


@st.composite
def volumes(draw: st.DrawFn) -> Volume:
    """Few objects with numbers that floating-point numbers cannot tell apart, so that they touch, merge and split."""
    shape = draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=5))
    numbers = st.sampled_from([0, 1, 7, 2**64 - 1, 2**64 - 2])
    ids = draw(hnp.arrays(np.uint64, shape, elements=numbers))
    truth = draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, OBJECTS, OBJECTS, IGNORE])))
    values = st.sampled_from([0, 25, 26, 76, 77, 127, 128, 229, 230, 255])
    return ids, truth, draw(hnp.arrays(np.uint8, shape, elements=values))


@given(volumes())
@settings(max_examples=20)
def test_each_object_scores_as_by_definition(volume: Volume) -> None:
    ids, truth, probability = volume
    found = lists(merged(volume, triple(truth.shape)))
    for k, at in enumerate(found, start=1):
        for z, section in enumerate(at):
            expected = by_definition(ids[z], truth[z] != IGNORE, probability[z].astype(int) * 10 > 255 * k)
            assert section == expected


@given(volumes(), st.tuples(*[st.integers(1, 5)] * 3), st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_any_cut_in_any_order_scores_exactly_as_the_whole(volume: Volume, block: Shape, random: Random) -> None:
    assert lists(merged(volume, block, random)) == lists(merged(volume, triple(volume[1].shape)))


@pytest.mark.parametrize("block", [(1, 12, 13), (2, 40, 16), (3, 16, 52)], ids=str)
def test_cells_that_are_cut_score_exactly_as_whole_ones(block: Shape) -> None:
    grey, ids = moving_cells((4, 40, 52), 12, 9.0)
    truth = (ids > 0).astype(np.uint8)
    truth[1] = IGNORE
    volume = ids, truth, grey
    found = lists(merged(volume, block))
    assert found == lists(merged(volume, triple(ids.shape)))
    assert found[4][1] == []
    for z in (0, 2, 3):
        assert found[4][z] == by_definition(ids[z], truth[z] != IGNORE, grey[z].astype(int) * 2 > 255)


def drawn(truth: list[list[int]], predicted: list[list[int]]) -> Volume:
    ids = np.array([truth], np.uint16)
    return ids, (ids > 0).astype(np.uint8), 255 * np.array([predicted], np.uint8)


@pytest.mark.parametrize(
    ("truth", "predicted", "expected"),
    [
        pytest.param([[1, 1, 0, 2, 2]], [[1, 1, 0, 1, 1]], [1.0, 1.0], id="equal"),
        pytest.param([[1, 1, 1, 1, 0]], [[1, 1, 0, 0, 0]], [0.0], id="just half is no match"),
        pytest.param([[1, 1, 1, 0, 0]], [[1, 1, 0, 0, 0]], [2 / 3], id="more than half"),
        pytest.param([[1, 1, 0, 2, 2]], [[1, 1, 1, 1, 1]], [2 / 5, 2 / 5], id="merged"),
        pytest.param([[1, 1, 2, 2, 2]], [[0, 0, 1, 1, 1]], [0.0, 1.0], id="missed"),
        pytest.param([[1, 1, 1, 1, 1]], [[1, 1, 1, 0, 1]], [3 / 5], id="split"),
        pytest.param([[1, 1, 0, 0, 0]], [[1, 1, 0, 1, 1]], [1.0], id="what matches none costs nothing"),
        pytest.param([[0, 0, 0, 0, 0]], [[1, 1, 0, 1, 1]], [], id="no object"),
    ],
)
def test_what_a_match_is(truth: list[list[int]], predicted: list[list[int]], expected: list[float]) -> None:
    volume = drawn(truth, predicted)
    assert lists(merged(volume, triple(volume[1].shape)))[4][0] == expected


def test_a_block_without_numbers_is_refused() -> None:
    volume = drawn([[1, 1]], [[1, 0]])
    found = Segments(2)
    counts = segments.count(*volume[1:], OBJECTS, below=False, open_faces=False, instances=volume[0])
    found.add((0, 0, 0), 0, counts)
    both = [np.concatenate([one, one]) for one in volume[1:]]
    bare = segments.count(both[0], both[1], OBJECTS, below=True, open_faces=False)
    found.add((1, 0, 0), 1, bare)
    with pytest.raises(ValueError, match="without the numbers"):
        found.objects()
    assert dataclasses.replace(counts, objects=None).objects is None


def of_sections(*sections: list[float]) -> list[list[seg.Scores]]:
    """Alike at all thresholds, but that the eighth is best."""
    return [[np.array(values) * (1.0 if k == 7 else 0.5) for values in sections] for k in range(len(THRESHOLDS))]


def test_every_object_counts_alike_wherever_it_is() -> None:
    found = seg.summary(of_sections([0.2], [], [0.4, 0.9, 0.5]), None, {})
    assert found["seg"] == 0.5
    assert found["instances"]["objects"] == 4
    assert found["instances"]["best"] == {"threshold": 0.8, "value": 0.5}
    assert found["instances"]["shown_at"] == 0.8
    assert found["instances"]["curve"] == [0.25] * 7 + [0.5, 0.25]


def test_a_threshold_is_chosen_over_all_objects_of_the_validation_volumes() -> None:
    many = {"instances": {"objects": 30, "curve": [0.5, 0.6, *[0.1] * 7]}}
    few = {"instances": {"objects": 10, "curve": [0.9, 0.7, *[0.1] * 7]}}
    none = {"instances": {"objects": 0, "curve": None}}
    # (30 * 0.5 + 10 * 0.9) / 40 = 0.6, and 0.625 at the second.
    chosen = seg.choose_threshold({"many": many, "few": few, "none": none})
    assert chosen == {"threshold": 0.2, "volumes": ["many", "few"]}
    assert seg.summary(of_sections([1.0]), None, {"many": many, "few": few})["seg"] == 0.5
    assert seg.choose_threshold({"none": none}) is None
    with pytest.raises(UserError, match="another version wrote them"):
        seg.choose_threshold({"old": {}})


@pytest.mark.parametrize(
    ("found", "why", "told"),
    [
        pytest.param(None, "The labels are classes.", "The labels are classes.", id="classes"),
        pytest.param(of_sections([], []), None, "No object of the truth", id="no object"),
    ],
)
def test_without_objects_there_is_a_reason(found: Any, why: str | None, told: str) -> None:
    result = seg.summary(found, why, {})
    assert result["seg"] is None
    assert result["instances"]["left_out"].startswith(told)
    assert result["instances"]["curve"] is result["instances"]["shown_at"] is None
