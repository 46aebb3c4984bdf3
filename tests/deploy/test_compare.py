"""The gate measures what it says, lets an exact engine pass, and stops a spoilt one."""

import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from unetpipe.data.tiles import NO_SEED, LabelledTile
from unetpipe.deploy.compare import Comparison, compare, judge
from unetpipe.errors import UserError
from unetpipe.metrics import confusion

IGNORE = 255
CLASSES = ["membrane", "mitochondrion", "inside"]
TILE, BORDER = (4, 12, 14), (1, 2, 2)
CENTRE = (2, 6, 7)
BOUND = 0.01

INNER = tuple(slice(b, -b) for b in BORDER)

Batch = NDArray[np.float32]


def network(images: Batch) -> Batch:
    """Stands for PyTorch: grey values are dark, medium or bright; (n, z, y, x) to (n, 3, z - 2, y - 4, x - 4)."""
    grey = images[(slice(None), *INNER)]
    logits = -8 * (grey[:, None] - np.float32([-1, 0, 1]).reshape(1, 3, 1, 1, 1)) ** 2
    exponentials = np.exp(logits)
    return (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)


def tiles(count: int, *, labelled: bool = True, classes: int = 3) -> Iterator[LabelledTile]:
    """Tiles whose labels the network gets right for the most part; a row of each is ignored."""
    rng = np.random.default_rng(1)
    for number in range(count):
        truth = rng.integers(0, classes, TILE)
        image = (truth - 1 + 0.3 * rng.normal(size=truth.shape)).astype(np.float32)
        label = truth[INNER].astype(np.uint8)
        label[:, 3] = IGNORE
        yield LabelledTile(image, label if labelled else None, (number, *CENTRE, NO_SEED))


def compared(engine: Callable[[Batch], Batch], *, batch: int = 2, **kind: int) -> Comparison:
    return compare(tiles(5, **kind), network, engine, 3, batch, "to be certified")


def shifted(images: Batch) -> Batch:
    """One voxel off: what a wrong crop does."""
    return np.roll(network(images), 1, axis=4)


def swapped(images: Batch) -> Batch:
    """Two channels changed places."""
    return network(images)[:, [1, 0, 2]]


def coarse(images: Batch) -> Batch:
    """A grey value with few bits: what a bad quantisation does."""
    return network(np.rint(images / 0.7).astype(np.float32) * np.float32(0.7))


def constant(images: Batch) -> Batch:
    """Always the same answer, whatever the image."""
    return np.broadcast_to(np.float32([0.2, 0.2, 0.6]).reshape(1, 3, 1, 1, 1), network(images).shape)


@pytest.mark.parametrize("labelled", [True, False], ids=["labelled", "unlabelled"])
@pytest.mark.parametrize("batch", [1, 2, 5, 7])
def test_an_exact_engine_passes(batch: int, labelled: bool) -> None:
    comparison = compared(network, batch=batch, labelled=labelled)
    judge(comparison, CLASSES, bound=1e-12, asked="")
    findings = comparison.findings(CLASSES)
    assert (comparison.absolute, comparison.relative, comparison.changed) == (0, 0, 0)
    assert {iou["fall"] for iou in findings["iou"].values()} == {0}
    assert all(iou["pytorch"] == iou["engine"] for iou in findings["iou"].values())
    assert comparison.has_truth == labelled
    assert comparison.sources == [(number, *CENTRE, NO_SEED) for number in range(5)]


@pytest.mark.parametrize("labelled", [True, False], ids=["labelled", "unlabelled"])
@pytest.mark.parametrize("engine", [shifted, swapped, coarse, constant], ids=lambda engine: engine.__name__)
def test_a_spoilt_engine_is_refused_with_its_numbers(engine: Callable[[Batch], Batch], labelled: bool) -> None:
    comparison = compared(engine, labelled=labelled)
    against = "the labels" if labelled else "PyTorch's own classes, for lack of labels"
    with pytest.raises(UserError, match=f"against {against}, on 5 tiles, falls by") as refusal:
        judge(comparison, CLASSES, BOUND, "the engine was to be certified")
    message = str(refusal.value)
    assert message.startswith("the engine was to be certified\n")
    assert "certify.iou_bound" in refusal.value.repair
    told = {name: numbers for name, *numbers in re.findall(r"(\w+): (\S+), from (\S+) to (\S+)", message)}
    ious = comparison.findings(CLASSES)["iou"]
    assert told.keys() == {name for name, iou in ious.items() if iou["fall"] > BOUND}
    for name, numbers in told.items():
        expected = [ious[name][key] for key in ("fall", "pytorch", "engine")]
        assert list(map(float, numbers)) == pytest.approx(expected, abs=5e-5)
    assert f"{100 * comparison.changed:.2f} % of the voxels" in message


def with_value(value: float) -> Callable[[Batch], Batch]:
    def engine(images: Batch) -> Batch:
        result = network(images)
        result[0, 1, 1, 2, 3] = value
        return result

    return engine


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.01, 1.01])
def test_what_is_no_probability_is_refused(value: float) -> None:
    with pytest.raises(UserError, match=r"to be certified\n  found: 1 of 960 values .* are no probabilities"):
        compared(with_value(value), batch=2)


def test_rounding_beyond_one_is_a_probability() -> None:
    assert compared(with_value(1.0 + 1e-6)).absolute > 0


@pytest.mark.parametrize(
    "cut",
    [np.s_[:, :2], np.s_[:, :, 1:], np.s_[:, :, :, 1:], np.s_[..., :-1], np.s_[:, :, 0]],
    ids=["classes", "z", "y", "x", "no z"],
)
def test_another_shape_is_refused(cut: tuple[slice, ...]) -> None:
    with pytest.raises(UserError, match=r"gives the shape \(2, .* PyTorch \(2, 3, 2, 8, 10\)"):
        compared(lambda images: network(images)[cut])


def test_what_fills_a_batch_up_does_not_count() -> None:
    def engine(images: Batch) -> Batch:
        assert images.shape == (4, *TILE)
        result = network(images)
        result[~images.any(axis=(1, 2, 3))] = np.nan
        return result

    assert compared(engine, batch=4).absolute == 0


@given(st.integers(1, 4), st.booleans())
def test_the_scores_are_those_of_the_stored_probabilities(batch: int, labelled: bool) -> None:
    comparison = compared(coarse, batch=batch, labelled=labelled)
    ours, theirs, truth = [], [], []
    for tile in tiles(5, labelled=labelled):
        for engine, results in ((network, ours), (coarse, theirs)):
            results.append(np.argmax(np.rint(255 * engine(tile.image[None])[0]), axis=0).astype(np.uint8))
        truth.append(ours[-1] if tile.label is None else tile.label)
    for results, values in zip((ours, theirs), comparison.ious(), strict=True):
        assert values == confusion.iou(confusion.count(np.stack(truth), np.stack(results), 3))
    assert comparison.changed == np.mean(np.stack(ours) != np.stack(theirs))


def test_errors_are_the_largest_of_all_tiles() -> None:
    comparison = compared(coarse)
    pairs = [(network(tile.image[None]), coarse(tile.image[None])) for tile in tiles(5)]
    differences = [np.abs(engine - pytorch) for pytorch, engine in pairs]
    assert comparison.absolute == max(float(difference.max()) for difference in differences)
    quotients = [
        (difference / pytorch)[pytorch >= 1 / 255] for difference, (pytorch, _) in zip(differences, pairs, strict=True)
    ]
    assert comparison.relative == pytest.approx(max(float(quotient.max()) for quotient in quotients))


def test_the_bound_is_the_largest_fall_that_passes() -> None:
    comparison = compared(coarse)
    largest = max(fall for fall in comparison.falls() if fall is not None)
    assert largest > 0
    judge(comparison, CLASSES, largest, "")
    with pytest.raises(UserError, match="falls by"):
        judge(comparison, CLASSES, np.nextafter(largest, 0), "")


def test_a_class_that_nobody_sees_does_not_count() -> None:
    comparison = compare(tiles(3, classes=2), lacking, lacking, 3, 1, "")
    assert comparison.falls() == [0, 0, None]
    judge(comparison, CLASSES, BOUND, "")


def lacking(images: Batch) -> Batch:
    """Without the last class."""
    result = network(images)
    result[:, 2] = 0
    return result


def test_a_class_that_the_engine_alone_sees_is_missed_in_the_others() -> None:
    def engine(images: Batch) -> Batch:
        result = lacking(images)
        result[..., :2] = np.float32([0, 0, 1]).reshape(3, 1, 1, 1)
        return result

    comparison = compare(tiles(3, classes=2), lacking, engine, 3, 1, "")
    assert comparison.falls()[2] is None
    with pytest.raises(UserError, match=r"membrane: 0\.\d+, .*\n.* mitochondrion: 0\.\d+, "):
        judge(comparison, CLASSES, BOUND, "")


def test_the_digest_is_of_images_and_labels() -> None:
    digests = {
        compared(network, batch=batch, labelled=labelled).digest for batch in (1, 3) for labelled in (True, False)
    }
    assert len(digests) == 2
