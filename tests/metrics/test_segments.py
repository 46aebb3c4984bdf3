"""Scores of segments are those of the whole volume, however it is cut into blocks."""

import itertools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random

import cc3d
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from partitions_reference import by_definition, by_libraries
from scipy.ndimage import gaussian_filter

from unetpipe.grid import Shape, triple
from unetpipe.metrics import segments
from unetpipe.metrics.components import THRESHOLDS
from unetpipe.metrics.partitions import MEASURES
from unetpipe.metrics.segments import Counts, Scores, Segments
from unetpipe.volume import IGNORE

Voxels = NDArray[np.uint8]

OBJECTS = 1
NONE = dict.fromkeys(MEASURES)


def cut(truth: Voxels, probability: Voxels, block: Shape, faces: bool = True) -> list[tuple[Shape, int, Counts]]:
    """What all blocks of a volume give, with open faces where there is more than one block in a section."""
    grid = [math.ceil(n / b) for n, b in zip(truth.shape, block, strict=True)]
    result = []
    for index in itertools.product(*map(range, grid)):
        z, y, x = (i * b for i, b in zip(index, block, strict=True))
        below = z > 0
        box = slice(z - below, z + block[0]), slice(y, y + block[1]), slice(x, x + block[2])
        open_faces = faces and grid[1] * grid[2] > 1
        counts = segments.count(truth[box], probability[box], OBJECTS, below=below, open_faces=open_faces)
        result.append((triple(index), z, counts))
    return result


def merged(sections: int, blocks: list[tuple[Shape, int, Counts]]) -> Segments:
    found = Segments(sections)
    for block in blocks:
        found.add(*block)
    return found


def whole(truth: Voxels, probability: Voxels) -> Segments:
    return merged(len(truth), cut(truth, probability, triple(truth.shape)))


def assert_as_by(
    reference: Callable[..., Scores],
    found: Segments,
    truth: Voxels,
    probability: Voxels,
    *,
    tenths: Iterable[int] = range(1, 10),
    tolerance: float = 1e-12,
) -> None:
    """2D and 3D scores are those of cc3d's components by ``reference``."""
    sections, volume = found.sections(), found.volume()
    assert len(sections) == len(volume) == len(THRESHOLDS)
    objects = truth == OBJECTS
    for k in tenths:
        mask = probability.astype(int) * 10 > 255 * k
        cases = [(sections[k - 1][z], objects[z], mask[z], 4) for z in range(len(truth))]
        for scores, a, b, connectivity in [*cases, (volume[k - 1], objects, mask, 6)]:
            # An array of one voxel is beyond cc3d.
            labels = [cc3d.connected_components(np.pad(m, 1), connectivity=connectivity) for m in (a, b)]
            expected = reference(*labels)
            if expected:
                assert {name: scores[name] for name in expected} == pytest.approx(expected, rel=0, abs=tolerance)
            else:
                assert scores == NONE


@st.composite
def volumes(draw: st.DrawFn) -> tuple[Voxels, Voxels]:
    """Labels with objects, others and voxels to ignore, and probabilities, of which few values are different."""
    shape = draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=4))
    truth = draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from([OBJECTS, OBJECTS, 0, 2, IGNORE])))
    values = st.sampled_from([0, 25, 26, 76, 77, 127, 128, 229, 230, 255])
    return truth, draw(hnp.arrays(np.uint8, shape, elements=values))


@given(volumes(), st.tuples(*[st.integers(1, 5)] * 3), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_any_cut_in_any_order_scores_exactly_as_the_whole(
    volume: tuple[Voxels, Voxels], block: Shape, random: Random
) -> None:
    blocks = cut(*volume, block)
    random.shuffle(blocks)
    found, expected = merged(len(volume[0]), blocks), whole(*volume)
    assert found.sections() == expected.sections()
    assert found.volume() == expected.volume()


@pytest.mark.parametrize(
    "block",
    [(1, 1, 1), (2, 1, 3), (1, 9, 9), (9, 1, 1), (3, 4, 2), (100, 100, 100)],
    ids=lambda block: "x".join(map(str, block)),
)
def test_cuts_of_winding_segments_score_exactly_as_the_whole(block: Shape) -> None:
    rng = np.random.default_rng(7)
    truth = (rng.random((3, 6, 7)) < 0.6).astype(np.uint8)
    probability = rng.integers(0, 256, truth.shape).astype(np.uint8)
    blocks = cut(truth, probability, block)
    rng.shuffle(blocks)
    found, expected = merged(3, blocks), whole(truth, probability)
    assert found.sections() == expected.sections()
    assert found.volume() == expected.volume()
    assert_as_by(by_definition, found, truth, probability)


@given(volumes())
@settings(max_examples=40)
def test_a_volume_scores_as_by_definition(volume: tuple[Voxels, Voxels]) -> None:
    assert_as_by(by_definition, whole(*volume), *volume)


def winding() -> NDArray[np.bool_]:
    """One line that winds through all of a section, with a wall between its turns."""
    line = np.zeros((13, 13), np.bool_)
    line[::2] = True
    line[1::4, -1] = line[3::4, 0] = True
    return line


@pytest.mark.parametrize("block", [(1, 3, 4), (2, 1, 13), (3, 13, 1), (1, 13, 13)], ids=str)
def test_a_segment_that_leaves_and_comes_back_many_times_is_one(block: Shape) -> None:
    # In the middle section only a single voxel joins the lines of the other two.
    truth = np.zeros((3, 13, 13), np.uint8)
    truth[0], truth[2] = winding(), winding().T
    truth[1, 6, 0] = 1
    found = merged(3, cut(truth, truth * np.uint8(255), block))
    one = dict(zip(MEASURES, [1.0] * 6 + [0.0] * 5, strict=True))
    assert found.volume() == [one] * 9
    assert found.sections() == [[one] * 3] * 9


@pytest.mark.isbi
def test_real_sections_score_in_blocks_as_by_other_implementations(isbi_dir: Path) -> None:
    image, labels = (tifffile.imread(isbi_dir / f"train-{name}.tif")[16:20] for name in ("volume", "labels"))
    truth = (labels > 0).astype(np.uint8)
    blurred = gaussian_filter(image.astype(np.float32), (0, 2, 2))
    probability = np.clip((blurred - 60) * (255 / 140), 0, 255).astype(np.uint8)
    expected = whole(truth, probability)
    # A sum of a million terms, rounded at each: the references lose a digit.
    for reference, tenths in ((by_definition, (4, 5, 6)), (by_libraries, (5,))):
        assert_as_by(reference, expected, truth, probability, tenths=tenths, tolerance=1e-11)
    for block in ((3, 100, 512), (1, 512, 512), (2, 129, 200)):
        found = merged(4, cut(truth, probability, block)[::-1])
        assert found.sections() == expected.sections()
        assert found.volume() == expected.volume()
    # Neither all nor nothing: the thresholds differ, and one in the middle is the best.
    means = [np.mean([scores["v_rand"] for scores in sections]) for sections in expected.sections()]
    assert 0 < np.argmax(means) < 8
    assert max(means) > 0.4


@pytest.mark.parametrize("block", [(1, 2, 2), (9, 9, 9)], ids=["blocks", "whole"])
@pytest.mark.parametrize(
    ("truth", "probability", "expected"),
    [
        pytest.param(0, 255, NONE, id="no-objects"),
        pytest.param(IGNORE, 255, NONE, id="all-ignored"),
        pytest.param(1, 255, {"v_rand": 1.0, "v_info": 1.0, "voi": 0.0, "rand_error": 0.0}, id="one-class"),
        pytest.param(
            # Of 12 voxels each is a segment of its own.
            1, 0,
            {"v_rand": 2 * 12 / (144 + 12), "v_rand_split": 12 / 144, "v_rand_merge": 1.0, "v_info": 0.0,
             "rand_error": 1.0, "adapted_rand_error": 1.0, "voi": math.log2(12), "voi_merge": 0.0},
            id="nothing-predicted",
        ),
    ],
)  # fmt: skip
def test_uniform_volumes_are_defined(truth: int, probability: int, expected: Scores, block: Shape) -> None:
    shape = (2, 3, 4)
    found = merged(2, cut(np.full(shape, truth, np.uint8), np.full(shape, probability, np.uint8), block))
    for sections in found.sections():
        for scores in sections:
            assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("block", [(1, 2, 3), (2, 5, 4), (3, 6, 7)], ids=str)
def test_one_segment_for_all_scores_as_a_prediction_that_is_one(block: Shape) -> None:
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 3, (3, 6, 7), np.uint8)
    truth[1] = 0
    found = merged(3, cut(truth, rng.integers(0, 256, truth.shape, np.uint8), block))
    expected = whole(truth, np.full_like(truth, 255)).sections()[0]
    assert found.one_segment() == expected
    assert expected[1] == NONE
    assert expected[0]["v_info"] == 0 < expected[0]["v_rand"] < 1


def test_a_section_without_truth_has_no_score_and_the_others_have() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, (3, 6, 7)).astype(np.uint8)
    truth[1] = IGNORE
    probability = rng.integers(0, 256, truth.shape).astype(np.uint8)
    for sections in merged(3, cut(truth, probability, (2, 4, 4))).sections():
        assert sections[1] == NONE
        assert None not in {*sections[0].values(), *sections[2].values()}


@pytest.mark.parametrize("truth", [0, 1, IGNORE])
def test_a_volume_of_one_voxel_is_scored(truth: int) -> None:
    found = whole(np.full((1, 1, 1), truth, np.uint8), np.full((1, 1, 1), 100, np.uint8))
    expected = dict(zip(MEASURES, [1.0] * 6 + [0.0] * 5, strict=True)) if truth == OBJECTS else NONE
    assert found.volume() == [expected] * 9
    assert found.sections() == [[expected]] * 9


def test_voxels_to_ignore_part_segments_of_the_truth() -> None:
    truth = np.array([[[1, 1, IGNORE, 1, 1]]], np.uint8)
    (scores,) = {tuple(scores.values()) for scores in whole(truth, np.full(truth.shape, 255, np.uint8)).volume()}
    # Two segments of two voxels in one: S_n = S_a = 8, S_b = 16.
    assert dict(zip(MEASURES, scores, strict=True))["v_rand_merge"] == 0.5


def test_segments_meet_by_faces_and_not_by_edges_or_corners() -> None:
    truth = np.ones((2, 4, 4), np.uint8)
    probability = np.zeros_like(truth)
    probability[0, :2, :2] = probability[0, 2:, 2:] = probability[1, :2, 2:] = 255
    found, expected = merged(2, cut(truth, probability, (1, 2, 2))), whole(truth, probability)
    assert found.volume() == expected.volume()
    # Three segments of 4 voxels and 20 single voxels in one segment of 32.
    assert found.volume()[0]["v_rand_split"] == (3 * 16 + 20) / 32**2


def test_memory_grows_with_the_fragments_and_not_with_the_voxels() -> None:
    sizes = []
    for scale in (1, 8):
        truth = np.zeros((4, 16, 16), np.uint8)
        truth[:, 2:9, 3:13] = 1
        truth = truth.repeat(scale, 1).repeat(scale, 2)
        block = (2, 8 * scale, 8 * scale)
        found = merged(4, cut(truth, truth * np.uint8(200), block))
        sizes.append((found.sizes, found.nbytes))
    assert sizes[0] == sizes[1]
    # Two objects' halves a section, at 8 masks of 10: those of 0.8 and 0.9 are empty.
    assert sizes[0][0][0] == 4 * 4 * 8


def test_faces_are_let_go_when_both_sides_have_come() -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 2, (1, 3, 64)).astype(np.uint8)
    blocks = cut(truth, rng.integers(0, 256, truth.shape).astype(np.uint8), (1, 3, 8))
    for index, _, counts in blocks:
        assert counts.faces is not None, index
    found = merged(1, [blocks[i] for i in (0, 2, 4, 6)])
    waiting = len(found._waiting)
    for i in (1, 3, 5, 7):
        found.add(*blocks[i])
    # Along y each block has its last row to the end; along x the gaps are closed and the volume's edge remains.
    assert (waiting, len(found._waiting)) == (4 + 7, 8 + 1)
    assert all(counts.faces is None for counts in found._blocks.values())


def blocks_of(shape: Shape, block: Shape, faces: bool = True) -> list[tuple[Shape, int, Counts]]:
    ones = np.ones(shape, np.uint8)
    return cut(ones, ones * np.uint8(255), block, faces)


def test_a_block_that_comes_twice_is_refused() -> None:
    (block,) = blocks_of((1, 2, 2), (1, 2, 2))
    with pytest.raises(ValueError, match=r"block \(0, 0, 0\) comes twice"):
        merged(1, [block, block])


@pytest.mark.parametrize("first", [-1, 1, 2])
def test_a_block_beyond_the_volume_is_refused(first: int) -> None:
    ((index, _, counts),) = blocks_of((2, 2, 2), (2, 2, 2))
    with pytest.raises(ValueError, match=f"with the sections from {first} to {first + 1} does not fit"):
        Segments(2).add(index, first, counts)


def test_blocks_beside_each_other_have_the_same_sections() -> None:
    one, other = blocks_of((2, 2, 4), (2, 2, 2))
    with pytest.raises(ValueError, match=r"block \(0, 0, 1\) with the sections from 1 to 2 does not fit"):
        merged(3, [one, (other[0], 1, other[2])])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["first-in-front", "last-in-front"])
def test_a_block_without_its_open_faces_is_refused(order: tuple[int, int]) -> None:
    closed, open_ = (blocks_of((1, 2, 4), (1, 2, 2), faces) for faces in (False, True))
    found = Segments(1)
    with pytest.raises(ValueError, match=r"block \(0, 0, 1\) comes without its open faces"):
        found.add(*closed[1])
    for i in order:
        found.add(*(closed, open_)[i][i])
    with pytest.raises(ValueError, match=r"block \(0, 0, 0\) came without its open faces"):
        found.sections()


def test_a_block_comes_with_the_section_below_unless_it_is_the_lowest() -> None:
    lower, upper = blocks_of((2, 2, 2), (1, 2, 2))
    with pytest.raises(ValueError, match=r"block \(1, 0, 0\) comes without the section below"):
        merged(2, [((1, 0, 0), 1, lower[2])])
    with pytest.raises(ValueError, match=r"block \(0, 0, 0\) comes with a section below"):
        merged(2, [((0, 0, 0), 0, upper[2])])


@pytest.mark.parametrize("score", [Segments.sections, Segments.volume], ids=["sections", "volume"])
@pytest.mark.parametrize("left_out", [(0, 0, 0), (1, 1, 1)], ids=["first", "last"])
def test_a_missing_block_is_noticed(score: Callable[[Segments], object], left_out: Shape) -> None:
    blocks = [block for block in blocks_of((2, 2, 2), (1, 1, 1)) if block[0] != left_out]
    with pytest.raises(ValueError, match=r"7 blocks in a grid of \(2, 2, 2\)"):
        score(merged(2, blocks))


def test_missing_sections_are_noticed() -> None:
    blocks = blocks_of((3, 2, 2), (1, 2, 2))
    with pytest.raises(ValueError, match=r"blocks with the sections from \(0, 1\) to before \(1, 2\), of 3"):
        merged(3, blocks[:2]).volume()
    (first, second, _) = blocks
    with pytest.raises(ValueError, match=r"from \(0, 2\) to before \(1, 3\), of 3"):
        merged(3, [first, (second[0], 2, second[2])]).sections()
    with pytest.raises(ValueError, match=r"from \(\) to before \(\), of 3"):
        Segments(3).volume()


def test_another_section_than_that_of_the_block_below_is_noticed() -> None:
    truth = np.ones((2, 1, 3), np.uint8)
    lower, _ = cut(truth, truth, (1, 1, 3))
    truth[0, 0, 1] = 0
    _, upper = cut(truth, truth, (1, 1, 3))
    with pytest.raises(ValueError, match=r"the section below block \(1, 0, 0\) is not the last one of the block below"):
        merged(2, [lower, upper]).volume()


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"truth of shape \(1, 2, 3\), probability of shape \(1, 3, 2\)"):
        segments.count(
            np.ones((1, 2, 3), np.uint8), np.ones((1, 3, 2), np.uint8), OBJECTS, below=False, open_faces=False
        )


@pytest.mark.parametrize("shape", [(1, 2, 3), (2, 2**16, 2**15)], ids=["no-section-of-its-own", "too-large"])
def test_blocks_that_cannot_be_counted_are_refused(shape: Shape) -> None:
    nothing = np.broadcast_to(np.uint8(0), shape)
    with pytest.raises(ValueError, match=r"a block of \(.*\) \(z, y, x\), of which 1 sections lie below"):
        segments.count(nothing, nothing, OBJECTS, below=True, open_faces=False)
