"""Scores of a volume are those of the whole volume in memory, however it is cut."""

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

import unetpipe
from unetpipe import config
from unetpipe.allocate import read_plan
from unetpipe.errors import UserError
from unetpipe.evaluate import Task, add_up, count_block, evaluate, summary
from unetpipe.files import read_json, write_json
from unetpipe.grid import Plan, Shape, unet_geometry
from unetpipe.metrics import baseline, confusion
from unetpipe.volume import VolumeFile, create

IGNORE = 255
CLASSES = ["membrane", "mitochondrion", "inside"]
SHAPE = (5, 43, 38)
MISSING = 3
SIGMA = 1.5

Labels = NDArray[np.uint8]


def drawn(shape: Shape = SHAPE) -> tuple[Labels, Labels, Labels]:
    """Image, labels with ignored voxels, and probabilities with many ties."""
    rng = np.random.default_rng(5)
    smooth = gaussian_filter(rng.normal(size=shape), (0, 2, 2))
    labels = np.digitize(smooth, [-0.1, 0.1]).astype(np.uint8)
    image = np.clip(128 + 400 * smooth + 20 * rng.normal(size=shape), 0, 255).astype(np.uint8)
    image[MISSING] = 0
    probability = 100 * (labels == np.arange(3)[:, None, None, None]) + 50 * rng.integers(0, 4, (3, *shape))
    labels[:, 10:20, :7] = IGNORE
    labels[1] = IGNORE
    return image, labels, probability.astype(np.uint8)


Store = Callable[..., tuple[Path, Path]]


@pytest.fixture
def stored(make_volume: Callable[..., Path], tmp_path: Path) -> Store:
    """A function that gives ``volume.json`` and ``allocated.json`` of a finished prediction, cut into ``block``."""

    def store(
        block: Shape, image: Labels, labels: Labels | None, probability: Labels, folder: Path = tmp_path
    ) -> tuple[Path, Path]:
        volume = make_volume(image, labels, name="cube", folder=folder, image_digest="image's", labels_digest="labels'")
        geometry = unet_geometry(1)
        tile = geometry.tile_for((1, *block[1:]))
        plan = Plan(image.shape, tile, block, chunk=(block[0], 2, block[2]), batch=1, geometry=geometry)
        array = create(
            folder / "probability.zarr",
            shape=probability.shape,
            dtype="uint8",
            chunk=(1, *plan.chunk),
            shard=(3, *block),
            voxel_size_nm=(40, 4, 4),
            channels=CLASSES,
        )
        array[:] = probability
        allocated = {
            "probability": str(folder / "probability.zarr"),
            "array": "0",
            "classes": CLASSES,
            "key": {"engine": "engine's"},
            "plan": {**asdict(plan), "blocks": math.prod(plan.block_counts)},
        }
        write_json(folder / "allocated.json", allocated)
        write_json(folder / "job-0.json", {"digest": "prediction's"})
        return volume, folder / "allocated.json"

    return store


def in_memory(image: Labels, labels: Labels, probability: Labels) -> tuple[NDArray[Any], NDArray[Any]]:
    """The tables of :func:`unetpipe.evaluate.add_up`, from whole arrays."""
    predicted = np.argmax(probability, axis=0)
    confusion = np.zeros((len(labels), 3, 3), np.int64)
    for z, t, p in zip(
        np.nonzero(labels != IGNORE)[0], labels[labels != IGNORE], predicted[labels != IGNORE], strict=True
    ):
        confusion[z, t, p] += 1
    grey = np.zeros((4, baseline.BINS), np.int64)
    edges = np.linspace(baseline.LOW, baseline.HIGH, baseline.BINS + 1)
    mean = image.mean(axis=(1, 2)).astype(np.float32)
    with np.errstate(divide="ignore"):
        scale = (1 / image.std(axis=(1, 2))).astype(np.float32)
    scale[MISSING] = 0
    for z, section in enumerate(image.astype(np.float32)):
        normalised = (section - mean[z]) * scale[z]
        blurred = np.clip(gaussian_filter(normalised, SIGMA, mode="mirror"), edges[0], edges[-1])
        for row, value in enumerate([0, 1, 2, IGNORE]):
            grey[row] += np.histogram(blurred[labels[z] == value], edges)[0]
    return confusion, grey


BLOCKS = [(1, 44, 38), (2, 16, 16), (3, 6, 38), (5, 44, 38), (8, 64, 64), (4, 10, 14)]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_the_counts_are_those_of_the_whole_volume_in_memory(stored: Store, block: Shape) -> None:
    voxels = drawn()
    volume, allocated = stored(block, *voxels)
    plan = read_plan(read_json(allocated))
    counts = (count_block(Task(volume, allocated, SIGMA, block.index)) for block in plan.blocks())
    confusion, grey = add_up(counts, plan, 3)
    expected_confusion, expected_grey = in_memory(*voxels)
    assert np.array_equal(confusion, expected_confusion)
    assert np.array_equal(grey, expected_grey)


def run(volume: Path, allocated: Path, classes: list[str]) -> Path:
    """What the rule does."""
    scores = allocated.parent / "scores.json"
    evaluate(
        volume,
        allocated,
        [allocated.parent / "job-0.json"],
        scores,
        role="test",
        classes=classes,
        settings=config.Evaluate(baseline_sigma=SIGMA),
        cores=2,
    )
    return scores


def test_the_scores_follow_from_the_counts(stored: Store) -> None:
    voxels = drawn()
    scores = read_json(run(*stored((2, 16, 16), *voxels), CLASSES))
    sections, grey = in_memory(*voxels)
    table = sections.sum(axis=0)
    expected = confusion.summary(table, CLASSES)
    assert {key: scores[key] for key in expected} == expected
    assert scores["baseline"] == baseline.summary(grey, CLASSES, SIGMA)
    assert scores["confusion"] == table.tolist()
    assert scores["per_section"] == [
        {"section": z, "mean_iou": confusion.mean_iou(section), "missing": z == MISSING}
        for z, section in enumerate(sections)
    ]
    assert scores["per_section"][1]["mean_iou"] is None, "a section without scored voxels"
    assert scores["per_section"][MISSING]["mean_iou"] > 0, "a missing section is scored"
    assert (scores["volume"], scores["role"], scores["shape"], scores["sections"]) == ("cube", "test", [*SHAPE], 5)
    assert scores["version"] == unetpipe.__version__
    assert scores["digests"] == {
        "image": "image's",
        "labels": "labels'",
        "engine": "engine's",
        "prediction": {"job-0": "prediction's"},
    }


def scored(volume: Path, allocated: Path) -> dict[str, Any]:
    """The scores without a cluster."""
    plan = read_plan(read_json(allocated))
    counts = (count_block(Task(volume, allocated, SIGMA, block.index)) for block in plan.blocks())
    return summary(VolumeFile.read(volume), "test", CLASSES, *add_up(counts, plan, 3), SIGMA)


def test_the_score_of_the_volume_is_not_the_mean_over_sections(stored: Store) -> None:
    labels = np.zeros((2, 4, 4), np.uint8)
    labels[0, 0] = 1
    probability = np.zeros((3, 2, 4, 4), np.uint8)
    probability[0] = 200
    probability[1, 0, 0, :2] = 255
    image = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    result = scored(*stored((2, 4, 4), image, labels, probability))
    assert result["classes"]["membrane"]["iou"] == 28 / 30
    assert result["classes"]["mitochondrion"]["iou"] == 2 / 4
    assert result["classes"]["inside"]["iou"] is None
    assert result["left_out"] == ["inside"]
    assert result["mean_iou"] == pytest.approx((28 / 30 + 2 / 4) / 2)
    assert [section["mean_iou"] for section in result["per_section"]] == [pytest.approx((12 / 14 + 2 / 4) / 2), 1.0]


def test_a_volume_without_a_scored_voxel_has_no_scores(stored: Store) -> None:
    image, labels, probability = drawn()
    result = scored(*stored((5, 44, 38), image, np.full_like(labels, IGNORE), probability))
    assert result["scored_voxels"] == 0
    assert result["mean_iou"] is result["pixel_error"] is result["baseline"]["mean_iou"] is None
    assert result["left_out"] == CLASSES
    assert {section["mean_iou"] for section in result["per_section"]} == {None}


def without_labels(stored: Store, _: Path) -> None:
    image, _labels, probability = drawn()
    run(*stored((5, 44, 38), image, None, probability), CLASSES)


def with_other_classes(stored: Store, _: Path) -> None:
    run(*stored((5, 44, 38), *drawn()), CLASSES[::-1])


def of_another_shape(stored: Store, folder: Path) -> None:
    _, allocated = stored((5, 44, 38), *drawn(), folder / "one")
    volume, _ = stored((5, 44, 38), *drawn((5, 43, 40)), folder / "other")
    run(volume, allocated, CLASSES)


@pytest.mark.parametrize(
    ("ask", "found"),
    [
        pytest.param(without_labels, "the volume has no labels", id="without-labels"),
        pytest.param(
            with_other_classes, r"inside, mitochondrion, membrane, its prediction .* membrane, mito", id="other-classes"
        ),
        pytest.param(of_another_shape, r"shape \(5, 43, 40\) .* its prediction \(5, 43, 38\)", id="another-shape"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    stored: Store, tmp_path: Path, ask: Callable[[Store, Path], None], found: str
) -> None:
    with pytest.raises(UserError, match=found):
        ask(stored, tmp_path)
    assert not list(tmp_path.rglob("scores.json"))
