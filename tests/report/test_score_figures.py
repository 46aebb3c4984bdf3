"""The points of the figures are the scores; a figure shows nothing that was not measured."""

import base64
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, precision_recall_curve

from unetpipe.metrics import thresholds
from unetpipe.report import score_figures
from unetpipe.report.drawing import Drawing

COLOURS = {"membrane": "#009e73"}
HISTOGRAMS = st.lists(st.tuples(st.integers(0, 255), st.booleans()), min_size=1, max_size=300)

Captured = Callable[[Drawing], Axes]


def kind(v_rand: float | None, v_info: float | None) -> dict[str, Any]:
    """Scores of segments over three thresholds."""
    curve = {
        name: [None] * 3 if value is None else [value, value / 2, value / 3]
        for name, value in (("v_rand", v_rand), ("v_info", v_info))
    }
    best = {
        name: None if values[0] is None else {"threshold": 0.1, "value": values[0]} for name, values in curve.items()
    }
    return {"curve": curve, "best": best, "at_validation": None}


def score(
    values: tuple[float | None, ...] = (0.5, 0.6),
    missing: frozenset[int] = frozenset(),
    v_rand: float | None = None,
    **segments: Any,
) -> dict[str, Any]:
    random = np.random.default_rng(1)
    truth = random.integers(0, 2, 400, np.uint8)
    probability = np.clip(truth * 60 + random.integers(0, 196, 400), 0, 255)
    counts = thresholds.count(truth, np.stack([255 - probability, probability]).astype(np.uint8))
    names = ["membrane", "<b>$x$&"]
    section = {"mean_iou": 0.5, "missing": False, "v_rand": v_rand}
    return {
        "volume": "<v>&",
        "mean_iou": 0.5,
        "classes": thresholds.summary(counts, names),
        "histograms": {
            name: {"others": others.tolist(), "own": own.tolist()}
            for name, (others, own) in zip(names, counts, strict=True)
        },
        "per_section": [
            section | {"section": z, "mean_iou": value, "missing": z in missing} for z, value in enumerate(values)
        ],
        "baseline": {"mean_iou": 0.4},
        "segments": {
            "objects": "<b>$x$&",
            "thresholds": [0.1, 0.5, 0.9],
            "validation": None,
            "thinned": kind(0.9, 0.8),
            "sections": kind(0.7, 0.6),
            **segments,
        },
    }


def expanded(pairs: list[tuple[int, bool]]) -> tuple[dict[str, list[int]], Any, Any]:
    """A histogram, and the same voxels one by one: their probabilities, and whether they are of the class."""
    said, own = np.array([value for value, _ in pairs]), np.array([true for _, true in pairs])
    sides = {"own": said[own], "others": said[~own]}
    return {name: np.bincount(side, minlength=256).tolist() for name, side in sides.items()}, said / 255, own


def svg(drawing: Drawing) -> str:
    return base64.b64decode(drawing.picture.partition(",")[2]).decode()


@pytest.fixture
def axes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Axes]:
    """A function that gives the axes of a figure instead of its picture."""

    def capture(figure: Callable[..., Any], *arguments: Any) -> Axes:
        def only_axes(draw: Callable[[Axes], None], description: str, height: float = 2.5) -> Axes:
            plane = Figure().add_subplot()
            draw(plane)
            return plane

        monkeypatch.setattr(score_figures, "drawn", only_axes)
        plane: Axes = figure(*arguments)
        return plane

    return capture


def lines(plane: Axes) -> Mapping[str, Any]:
    """Points (n, 2) of the curves that the legend names."""
    return {
        str(line.get_label()): line.get_xydata() for line in plane.lines if not str(line.get_label()).startswith("_")
    }


@given(HISTOGRAMS.filter(lambda pairs: any(own for _, own in pairs)))
def test_precision_and_recall_are_those_of_all_thresholds(pairs: list[tuple[int, bool]]) -> None:
    histogram, said, own = expanded(pairs)
    recall, precision = score_figures.precision_recall_points(histogram)
    # Theirs are at the probabilities that occur, and end with the recall 0 and the precision 1.
    expected_precision, expected_recall, _ = precision_recall_curve(own, said)
    shown = set(zip(recall[1:].tolist(), precision[1:].tolist(), strict=True))
    assert shown == set(zip(expected_recall[:-1].tolist(), expected_precision[:-1].tolist(), strict=True))
    assert (recall[0], precision[0]) == (0, precision[1])
    assert (np.diff(recall) >= 0).all()
    # The area below the steps that are drawn.
    area = np.sum(np.diff(recall) * precision[1:])
    assert area == pytest.approx(average_precision_score(own, said))
    assert area == pytest.approx(thresholds.average_precision(np.array([histogram["others"], histogram["own"]])))


def test_a_class_that_is_not_in_the_truth_has_no_precision_recall_curve() -> None:
    recall, precision = score_figures.precision_recall_points(expanded([(3, False), (200, False)])[0])
    assert len(recall) == len(precision) == 0


@given(HISTOGRAMS)
def test_reliability_is_that_of_the_voxels_in_each_tenth(pairs: list[tuple[int, bool]]) -> None:
    histogram, said, own = expanded(pairs)
    mean, true, share = score_figures.reliability_points(histogram)
    tenths = [np.floor(np.round(said * 255) * 10 / 255).clip(0, 9) == part for part in range(10)]
    there = [part for part in tenths if part.any()]
    assert len(mean) == len(there)
    assert np.allclose(mean, [said[part].mean() for part in there])
    assert np.allclose(true, [own[part].mean() for part in there])
    assert np.allclose(share, [part.mean() for part in there])
    assert share.sum() == pytest.approx(1)


def test_curves_of_classes_hold_their_points(axes: Callable[..., Axes]) -> None:
    shown = score()
    drawn = lines(axes(score_figures.precision_recall, shown, COLOURS))
    reliable = lines(axes(score_figures.reliability, shown, COLOURS))
    assert list(drawn) == list(shown["classes"])
    assert list(reliable) == ["as likely as said", *shown["classes"]]
    for name, histogram in shown["histograms"].items():
        points = score_figures.precision_recall_points(histogram)
        assert np.array_equal(drawn[name], np.stack(points, axis=1))
        assert np.array_equal(reliable[name], np.stack(score_figures.reliability_points(histogram)[:2], axis=1))


def test_the_best_threshold_is_marked_on_its_curve(axes: Callable[..., Axes]) -> None:
    shown = score()
    plane = axes(score_figures.precision_recall, shown, COLOURS)
    marks = [line.get_xydata()[0].tolist() for line in plane.lines if line.get_marker() == "o"]
    assert marks == [[values["best"]["recall"], values["best"]["precision"]] for values in shown["classes"].values()]
    for mark, curve in zip(marks, lines(plane).values(), strict=True):
        assert mark in curve.tolist()
    shown["classes"]["membrane"]["best"] = None
    assert len(axes(score_figures.precision_recall, shown, COLOURS).lines) == 3


def test_scores_over_the_threshold_are_the_curves(axes: Callable[..., Axes]) -> None:
    shown = score()["segments"]
    drawn = lines(axes(score_figures.over_thresholds, score()))
    for name, key in (("thinned", "thinned"), ("as predicted", "sections")):
        for measure, told in (("v_rand", "V_rand"), ("v_info", "V_info")):
            points = zip(shown["thresholds"], shown[key]["curve"][measure], strict=True)
            assert drawn.pop(f"{told}, {name}").tolist() == [list(point) for point in points]
    assert not drawn


def test_the_threshold_from_validation_is_marked(axes: Callable[..., Axes]) -> None:
    chosen = score(validation={"threshold": 0.5, "volumes": ["v"]})
    assert lines(axes(score_figures.over_thresholds, chosen))["chosen on validation"][:, 0].tolist() == [0.5, 0.5]


def test_without_thinned_scores_there_is_no_curve_of_them(axes: Callable[..., Axes]) -> None:
    assert list(lines(axes(score_figures.over_thresholds, score(thinned=None)))) == [
        "V_rand, as predicted",
        "V_info, as predicted",
    ]


@pytest.mark.parametrize(
    ("shown", "names"),
    [
        pytest.param(score(), ["thresholds", "precision_recall", "reliability", "per_section"], id="all"),
        pytest.param(
            score(sections=kind(None, None)), ["precision_recall", "reliability", "per_section"], id="no segments"
        ),
        pytest.param(score() | {"mean_iou": None}, [], id="nothing scored"),
    ],
)
def test_there_is_no_empty_figure(shown: dict[str, Any], names: list[str]) -> None:
    assert list(score_figures.of(shown, COLOURS)) == names


@pytest.mark.parametrize("v_rand", [None, 0.75], ids=["not thinned", "thinned"])
def test_each_section_has_its_points(axes: Callable[..., Axes], v_rand: float | None) -> None:
    drawn = lines(axes(score_figures.per_section, score((0.9, 0.8, None, 0.7), frozenset({1}), v_rand)))
    nan = np.nan
    assert np.array_equal(drawn.pop("mean IoU"), [[0, 0.9], [1, nan], [2, nan], [3, 0.7]], equal_nan=True)
    if v_rand is not None:
        expected = [[0, v_rand], [1, nan], [2, v_rand], [3, v_rand]]
        assert np.array_equal(drawn.pop("V_rand, thinned"), expected, equal_nan=True)
    assert list(drawn) == ["mean IoU, blur + Otsu"]
    assert {*drawn["mean IoU, blur + Otsu"][:, 1]} == {0.4}


@pytest.mark.parametrize(
    ("values", "missing", "shaded"),
    [
        pytest.param((0.9, 0.8, 0.7), frozenset(), False, id="whole"),
        pytest.param((0.9, None, 0.7), frozenset({1}), True, id="missing"),
        pytest.param((0.9, None, 0.7), frozenset(), False, id="not scored"),
        pytest.param((None,), frozenset({0}), True, id="nothing there"),
    ],
)
def test_missing_sections_are_shaded(values: tuple[float | None, ...], missing: frozenset[int], shaded: bool) -> None:
    picture = svg(score_figures.per_section(score(values, missing)))
    assert ("missing section" in picture) is shaded
    assert "NaN" not in picture
    assert "nan" not in picture


def test_one_section_is_a_whole_number(axes: Callable[..., Axes]) -> None:
    ticks = axes(score_figures.per_section, score((0.5,))).get_xticks()
    assert all(tick == round(tick) for tick in ticks)


def test_names_leave_room_for_what_is_drawn() -> None:
    # Where there is none, Matplotlib warns, and that fails.
    name = {part: part + 58 * "x" + "y" for part in "abcd"}
    one = {"classes": {name[part]: {"iou": 0.5} for part in "cd"}, "mean_iou": 0.5, "baseline": {"mean_iou": 0.4}}
    found = svg(score_figures.by_class({name["a"]: one, name["b"]: one}, {}))
    for part in "abcd":
        assert f">{part}xxxxxxxxxxxx…xxxxxxxxxxxy<" in found


def test_a_figure_of_many_sections_is_small() -> None:
    random = np.random.default_rng(1)
    values = tuple(random.uniform(0.5, 1, 20_000).tolist())
    shown = score(values, frozenset(range(0, 20_000, 100)), 0.5)
    for section, v_rand in zip(shown["per_section"], random.uniform(0.5, 1, 20_000).tolist(), strict=True):
        section["v_rand"] = v_rand
    assert len(score_figures.per_section(shown).picture) < 700_000


def test_text_in_a_figure_is_text() -> None:
    for name, drawing in score_figures.of(score(), COLOURS).items():
        picture = svg(drawing)
        assert "<b>" not in picture
        assert ("&lt;b&gt;$x$&amp;" in picture) is (name != "per_section")
        assert "<v>&" in drawing.description


def test_the_same_numbers_give_the_same_pictures() -> None:
    assert score_figures.of(score(), COLOURS) == score_figures.of(score(), COLOURS)
