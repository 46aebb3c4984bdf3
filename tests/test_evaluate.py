"""Scores of a volume are those of the whole volume in memory, however it is cut."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.metrics import adapted_rand_error
from skimage.segmentation import watershed
from sklearn.metrics import average_precision_score, jaccard_score
from stores import make_store

import unetpipe
from unetpipe import config
from unetpipe.allocate import read_plan
from unetpipe.arrays import Array
from unetpipe.config import Network
from unetpipe.errors import UserError
from unetpipe.evaluate import evaluate
from unetpipe.files import read_json, write_json
from unetpipe.grid import Plan, Region, Shape
from unetpipe.metrics import baseline, confusion, segments, streaming, thinned, thresholds
from unetpipe.metrics.components import THRESHOLDS
from unetpipe.metrics.streaming import Cut, Task, Totals, count
from unetpipe.metrics.summary import summary
from unetpipe.volume import Image, VolumeFile

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
        block: Shape,
        image: Labels,
        labels: Labels | None,
        probability: Labels,
        folder: Path = tmp_path,
        classes: list[str] = CLASSES,
    ) -> tuple[Path, Path]:
        volume = make_volume(image, labels, name="cube", folder=folder, image_digest="image's", labels_digest="labels'")
        geometry = Network(depth=1).geometry
        tile = geometry.tile_for((1, *block[1:]))
        plan = Plan(image.shape, tile, block, chunk=(block[0], 2, block[2]), batch=1, geometry=geometry)
        array = make_store(
            folder / "probability.zarr",
            shape=probability.shape,
            dtype="uint8",
            chunk=(1, *plan.chunk),
            shard=(len(classes), *block),
            voxel_size_nm=(40, 4, 4),
            channels=classes,
        )
        array[:] = probability
        allocated = {
            "probability": str(folder / "probability.zarr"),
            "array": "0",
            "classes": classes,
            "key": {"engine": "engine's"},
            "plan": {**dataclasses.asdict(plan), "blocks": math.prod(plan.block_counts)},
        }
        write_json(folder / "allocated.json", allocated)
        write_json(folder / "job-0.json", {"digest": "prediction's"})
        return volume, folder / "allocated.json"

    return store


def run(volume: Path, allocated: Path, classes: list[str], **changes: Any) -> dict[str, Any]:
    """What the rule does, and what it writes."""
    scores = allocated.parent / "scores.json"
    arguments: dict[str, Any] = {
        "validation": [],
        "role": "test",
        "classes": classes,
        "objects": classes[-1],
        "settings": config.Evaluate(baseline_sigma=SIGMA, largest_section=10**6),
        "cores": 2,
    }
    evaluate(volume, allocated, [allocated.parent / "job-0.json"], scores=scores, **(arguments | changes))
    found: dict[str, Any] = read_json(scores)
    return found


def counted(volume: Path, allocated: Path, largest_section: int, slabs: int = 1) -> dict[str, Any]:
    """The scores without a cluster, of runs of so many slabs, in no order."""
    description = read_json(allocated)
    cut = dataclasses.replace(Cut.of(read_plan(description), largest_section, workers=1), slabs=slabs)
    address = f"{description['probability']}/{description['array']}"
    runs = [count(Task(volume, address, 2, SIGMA, cut, region)) for region in cut.runs()]
    np.random.default_rng(0).shuffle(runs)
    settings = config.Evaluate(baseline_sigma=SIGMA, largest_section=largest_section)
    return summary(VolumeFile.read(volume), Totals.of(runs, cut, 3), CLASSES, "inside", settings, {})


BLOCKS = [(1, 44, 38), (2, 16, 16), (3, 6, 38), (5, 44, 38), (8, 64, 64), (4, 10, 14)]


@pytest.fixture(scope="module")
def expected(make_volume: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[bool, dict[str, Any]]:
    """The scores of the volume as one block, read as a whole or not; from each part of the package by itself."""
    image, labels, probability = drawn()
    volume = VolumeFile.read(make_volume(image, labels, name="cube", image_digest="image's", labels_digest="labels'"))
    predicted = np.argmax(probability, axis=0).astype(np.uint8)
    blurred = baseline.blurred(Image(volume), Region((0, 0, 0), SHAPE), SIGMA)
    found = segments.Segments(SHAPE[0])
    found.add((0, 0, 0), 0, segments.count(labels, probability[2], 2, below=False, open_faces=False))
    totals = Totals(
        tables=np.stack([confusion.count(a, b, 3) for a, b in zip(labels, predicted, strict=True)]),
        histograms=thresholds.count(labels, probability),
        grey=baseline.count(blurred, labels, 3),
        segments=found,
        thinned=[thinned.section_scores(a, b, 2) for a, b in zip(labels, probability[2], strict=True)],
    )
    cut = dataclasses.replace(totals, thinned=None)
    settings = config.Evaluate(baseline_sigma=SIGMA, largest_section=10**6)
    smaller = config.Evaluate(baseline_sigma=SIGMA, largest_section=0)
    return {
        True: summary(volume, totals, CLASSES, "inside", settings, {}),
        False: summary(volume, cut, CLASSES, "inside", smaller, {}),
    }


@pytest.mark.parametrize("whole", [True, False], ids=["whole sections", "cut sections"])
@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_the_scores_are_those_of_the_whole_volume_in_memory(
    stored: Store, expected: dict[bool, dict[str, Any]], block: Shape, whole: bool
) -> None:
    found = counted(*stored(block, *drawn()), largest_section=10**6 if whole else 0)
    assert found == expected[whole]


def test_workers_and_blocks_change_nothing(stored: Store, expected: dict[bool, dict[str, Any]], tmp_path: Path) -> None:
    found = run(*stored((1, 16, 16), *drawn()), CLASSES)
    assert {key: found[key] for key in expected[True]} == expected[True]
    again = run(*stored((2, 10, 14), *drawn(), tmp_path / "again"), CLASSES, cores=1)
    assert again == found
    assert (found["volume"], found["role"], found["shape"], found["sections"]) == ("cube", "test", [*SHAPE], 5)
    assert found["version"] == unetpipe.__version__
    assert found["digests"] == {
        "image": "image's",
        "labels": "labels'",
        "engine": "engine's",
        "prediction": {"job-0": "prediction's"},
    }


def test_a_section_counts_by_itself_and_in_the_volume(expected: dict[bool, dict[str, Any]]) -> None:
    scores = expected[True]
    assert scores["per_section"][1]["mean_iou"] is None, "a section without scored voxels"
    assert scores["per_section"][1]["v_rand"] is None
    assert scores["segments"]["sections"]["scored_sections"] == 4
    assert scores["per_section"][MISSING]["missing"], "a missing section is scored"
    assert scores["per_section"][MISSING]["mean_iou"] > 0
    tables = sum(section["scored_voxels"] for section in scores["per_section"])
    assert tables == scores["scored_voxels"] == np.sum(scores["confusion"])
    best = scores["segments"]["thinned"]["best"]["v_rand"]
    sections = [section["v_rand"] for section in scores["per_section"] if section["v_rand"] is not None]
    assert scores["v_rand"] == best["value"] == pytest.approx(np.mean(sections))


def test_large_sections_go_without_thinned_scores_and_say_so(expected: dict[bool, dict[str, Any]]) -> None:
    whole, cut = expected[True], expected[False]
    assert whole["segments"]["left_out"] is None
    assert "43 × 38 voxels is larger than evaluate.largest_section, 0" in cut["segments"]["left_out"]
    assert cut["v_rand"] is cut["v_info"] is cut["warping_error"] is None
    assert cut["segments"]["thinned"] is cut["segments"]["warping"] is None
    for kind in ("sections", "volume"):
        assert cut["segments"][kind] == whole["segments"][kind]


def test_labels_and_probabilities_are_read_once(stored: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    volume, allocated = stored((2, 16, 16), *drawn())
    read: Counter[str] = Counter()
    get = Array.__getitem__

    def counting(array: Array, box: Any) -> Any:
        result = get(array, box)
        for name in ("labels", "probability"):
            read[name] += result.size if f"{name}.zarr" in array.address else 0
        return result

    monkeypatch.setattr(Array, "__getitem__", counting)
    streaming._open.cache_clear()
    counted(volume, allocated, largest_section=10**6)
    voxels = math.prod(SHAPE)
    section = SHAPE[1] * SHAPE[2]
    # Three slabs of two sections, each a run of its own: one section is read again where two runs meet.
    assert read["labels"] == voxels + 2 * section
    assert read["probability"] == 3 * voxels + 2 * section
    read.clear()
    streaming._open.cache_clear()
    counted(volume, allocated, largest_section=10**6, slabs=3)
    assert read["labels"] == voxels
    assert read["probability"] == 3 * voxels


def test_a_threshold_chosen_on_validation_is_used_elsewhere(stored: Store, tmp_path: Path) -> None:
    first = run(*stored((5, 44, 38), *drawn(), tmp_path / "validate"), CLASSES, role="validate")
    assert first["segments"]["validation"] is None
    assert first["segments"]["thinned"]["at_validation"] is None
    chosen = first["segments"]["thinned"]["best"]["v_rand"]["threshold"]
    image, labels, probability = drawn()
    place = stored((5, 44, 38), image, labels, probability // 2, tmp_path / "test")
    second = run(*place, CLASSES, validation=[tmp_path / "validate" / "scores.json"])
    assert second["segments"]["validation"] == {"threshold": chosen, "volumes": ["cube"]}
    assert second["shown_at"] == {
        "thresholds": dict.fromkeys(("v_rand", "v_info", "warping_error"), chosen),
        "chosen_on": ["cube"],
    }
    assert first["shown_at"]["chosen_on"] == []
    assert second["v_rand"] == second["segments"]["thinned"]["at_validation"]["v_rand"]
    assert second["warping_error"] == second["segments"]["warping"]["at_validation"]["warping_error"]
    at = THRESHOLDS.index(chosen)
    for kind in ("thinned", "warping", "sections", "volume"):
        found = second["segments"][kind]
        assert found["at_validation"] == {measure: values[at] for measure, values in found["curve"].items()}
    # Half as probable: what is best there lies elsewhere.
    assert (
        second["segments"]["thinned"]["best"]["v_rand"]["value"]
        > second["segments"]["thinned"]["at_validation"]["v_rand"]
    )


@pytest.mark.parametrize("spoil", [{}, {"segments": {}}, {"segments": {"objects": "membrane"}}], ids=str)
def test_scores_of_another_version_or_class_choose_nothing(
    stored: Store, tmp_path: Path, spoil: dict[str, Any]
) -> None:
    validation = tmp_path / "v.json"
    write_json(validation, {"volume": "v"} | spoil)
    with pytest.raises(UserError, match=r"not of inside at \[0.1, .* 0.9\]"):
        run(*stored((5, 44, 38), *drawn()), CLASSES, validation=[validation])


def test_validation_without_a_scored_section_chooses_nothing(stored: Store, tmp_path: Path) -> None:
    image, labels, probability = drawn()
    run(*stored((5, 44, 38), image, np.zeros_like(labels), probability, tmp_path / "validate"), CLASSES)
    scores = run(
        *stored((5, 44, 38), *drawn(), tmp_path / "test"), CLASSES, validation=[tmp_path / "validate" / "scores.json"]
    )
    assert scores["segments"]["validation"] is None


def test_the_score_of_the_volume_is_not_the_mean_over_sections(stored: Store) -> None:
    labels = np.zeros((2, 4, 4), np.uint8)
    labels[0, 0] = 1
    probability = np.zeros((3, 2, 4, 4), np.uint8)
    probability[0] = 200
    probability[1, 0, 0, :2] = 255
    image = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    result = counted(*stored((2, 4, 4), image, labels, probability), largest_section=10**6)
    assert result["classes"]["membrane"]["iou"] == 28 / 30
    assert result["classes"]["mitochondrion"]["iou"] == 2 / 4
    assert result["classes"]["inside"]["iou"] is None
    assert result["left_out"] == ["inside"]
    assert result["mean_iou"] == pytest.approx((28 / 30 + 2 / 4) / 2)
    assert [section["mean_iou"] for section in result["per_section"]] == [pytest.approx((12 / 14 + 2 / 4) / 2), 1.0]


def numbers(data: Any) -> Iterator[float]:
    """All numbers in JSON data."""
    if isinstance(data, dict):
        for value in data.values():
            yield from numbers(value)
    elif isinstance(data, list):
        for value in data:
            yield from numbers(value)
    elif isinstance(data, float):
        yield data


@pytest.mark.parametrize(
    ("truth", "predicted"),
    [
        pytest.param(IGNORE, 0, id="nothing scored"),
        pytest.param(0, 0, id="one class, no objects"),
        pytest.param(2, 2, id="objects alone"),
        pytest.param(2, 0, id="no object predicted"),
        pytest.param(0, 2, id="objects predicted that are none"),
    ],
)
def test_uniform_volumes_are_scored_without_a_nan(stored: Store, truth: int, predicted: int) -> None:
    image, labels, probability = drawn()
    probability = np.where(np.arange(3)[:, None, None, None] == predicted, 255, 0) * np.ones_like(probability)
    place = stored((2, 16, 16), image, np.full_like(labels, truth), probability.astype(np.uint8))
    for largest in (0, 10**6):
        result = counted(*place, largest_section=largest)
        assert all(math.isfinite(value) for value in numbers(result))
    perfect = truth == predicted
    assert result["mean_iou"] == (None if truth == IGNORE else float(perfect))
    assert result["scored_voxels"] == (0 if truth == IGNORE else math.prod(SHAPE))
    if truth == 2:
        assert (result["v_rand"] == result["v_info"] == 1) == perfect
        assert result["one_class"]["v_rand"] == 1
    else:
        assert result["v_rand"] is result["v_info"] is result["one_class"]["v_rand"] is None
    assert (result["warping_error"] == 0) == (perfect and truth == 2)
    assert (result["segments"]["warping"]["best"]["warping_error"] is None) == (truth == IGNORE)


def test_real_sections_score_as_by_other_implementations(
    isbi_dir: Path, make_volume: Callable[..., Path], stored: Store
) -> None:
    """Sections 16-19 with a blurred image for a prediction: the table that the report shows."""
    image = tifffile.imread(isbi_dir / "train-volume.tif")[16:20, :300, :260]
    truth = (tifffile.imread(isbi_dir / "train-labels.tif")[16:20, :300, :260] > 0).astype(np.uint8)
    inside = gaussian_filter(image.astype(np.float32), (0, 2, 2)).astype(np.uint8)
    probability = np.stack([255 - inside, inside])
    volume, allocated = stored((2, 96, 96), image, truth, probability, classes=["membrane", "inside"])
    settings = config.Evaluate(baseline_sigma=2.0)
    found = {
        largest: run(
            volume, allocated, ["membrane", "inside"], settings=settings.model_copy(update={"largest_section": largest})
        )
        for largest in (2**24, 0)
    }
    scores = found[2**24]
    for kind in ("sections", "volume"):
        assert found[0]["segments"][kind] == scores["segments"][kind]
    predicted = (inside > 255 - inside).astype(np.uint8)
    assert scores["mean_iou"] == pytest.approx(jaccard_score(truth.ravel(), predicted.ravel(), average="macro"))
    assert scores["pixel_error"] == np.mean(predicted != truth)
    assert scores["classes"]["inside"]["average_precision"] == pytest.approx(
        average_precision_score(truth.ravel(), inside.ravel())
    )
    at = 4  # threshold 0.5
    errors = []
    for section, section_truth in zip(inside, truth, strict=True):
        markers = cc3d.connected_components(section > 127, connectivity=4).astype(np.int32)
        filled = watershed(255 - section, markers)
        segments_ = cc3d.connected_components(section_truth, connectivity=4)
        error, _, _ = adapted_rand_error(segments_, filled, ignore_labels=(0,))
        errors.append(error)
    assert scores["segments"]["thinned"]["curve"]["adapted_rand_error"][at] == pytest.approx(np.mean(errors))


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
