"""Curves show the numbers that they are given, as pictures that need nothing from elsewhere."""

import base64
import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unetpipe.report import figures
from unetpipe.report.drawing import INK, MOST_POINTS, Drawing, thinned

COLOURS = {"membrane": "#009e73"}


def svg(drawing: Drawing) -> str:
    kind, _, data = drawing.picture.partition(",")
    assert kind == "data:image/svg+xml;base64"
    return base64.b64decode(data).decode()


def row(step: int, **measured: float) -> dict[str, float | None]:
    columns = ("validation_loss", "validation_mean_iou", "iou_membrane", "iou_<b>$x$&")
    return {"step": step, "loss": 1 / step, "learning_rate": 1e-3, **dict.fromkeys(columns), **measured}


@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(allow_infinity=True, allow_nan=True)), max_size=2000))
def test_thinning_keeps_finite_points_or_their_means(points: list[tuple[int, float]]) -> None:
    bounded = [(x, y) for x, y in points if not np.isfinite(y) or abs(y) < 1e9]
    x = np.array([x for x, _ in bounded], float)
    y = np.array([y for _, y in bounded], float)
    few_x, few_y = thinned(x, y)
    finite = np.isfinite(y)
    assert len(few_x) == len(few_y) <= MOST_POINTS
    if finite.sum() <= MOST_POINTS:
        assert np.array_equal(few_x, x[finite])
        assert np.array_equal(few_y, y[finite])
    else:
        assert np.isfinite(few_y).all()
        assert y[finite].min() - 1e-3 <= few_y.min()
        assert few_y.max() <= y[finite].max() + 1e-3
        assert (np.diff(few_x) >= 0).all() or (np.diff(x[finite]) < 0).any()


def test_text_in_a_figure_is_text() -> None:
    names = ["loss", "validation_loss", "validation_mean_iou", "iou_membrane", "iou_<b>$x$&"]
    drawings = figures.training([row(step, **dict.fromkeys(names, 0.5)) for step in range(1, 20)], 10, COLOURS)
    pictures = {name: svg(drawing) for name, drawing in drawings.items()}
    assert list(pictures) == ["loss", "iou", "learning_rate"]
    assert ">&lt;b&gt;$x$&amp;</text>" in pictures["iou"]
    assert COLOURS["membrane"] in pictures["iou"]
    for picture in pictures.values():
        assert "<b>" not in picture
        # Names of XML dialects are no addresses that a browser loads.
        assert not re.search(r"(href|src)=\"(?!#)|url\((?!#)|@import", picture)
        # Stands for the colour of the text.
        assert INK not in picture


def test_without_validation_there_is_no_curve_of_it() -> None:
    drawings = figures.training([row(step) for step in range(1, 20)], None, COLOURS)
    assert list(drawings) == ["loss", "learning_rate"]
    assert "validation" not in svg(drawings["loss"])


def test_nothing_trained_is_no_figure() -> None:
    assert figures.training([], None, COLOURS) == {}
