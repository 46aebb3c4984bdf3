"""Curves as SVG pictures that follow the reader's colour scheme."""

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

# Stands for the colour of text and axes, which depends on the reader's colour scheme.
_INK = "#010203"
_SCHEMES = ":root{--ink:#1f2328}@media(prefers-color-scheme:dark){:root{--ink:#d7dbe0}}"
_FIRST, _SECOND = "#2f86c9", "#d55e00"
_MOST_POINTS = 400
_MOST_WITH_MARKERS = 60

_STYLE: Any = {
    "axes.edgecolor": _INK,
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "grid.alpha": 0.15,
    "grid.color": _INK,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.4,
    "svg.fonttype": "none",
    "svg.hashsalt": "unetpipe",
    "text.color": _INK,
    # Names of classes are text, whatever signs they hold.
    "text.parse_math": False,
    "xtick.color": _INK,
    "xtick.major.width": 0.6,
    "ytick.color": _INK,
    "ytick.major.width": 0.6,
}


@dataclass(frozen=True)
class Drawing:
    """A picture by its address (a data URI), and what it shows in words."""

    picture: str
    description: str


def per_section(score: Mapping[str, Any]) -> Drawing:
    """Mean IoU of each section of one volume, the baseline's mean beside it; missing sections are shaded."""
    sections = np.array([item["section"] for item in score["per_section"]])
    values = _numbers([item["mean_iou"] for item in score["per_section"]])
    missing = np.array([item["missing"] for item in score["per_section"]], bool)

    def draw(axes: Axes) -> None:
        marker = "o" if len(sections) <= _MOST_WITH_MARKERS else ""
        axes.plot(
            sections, np.where(missing, np.nan, values), color=_FIRST, marker=marker, markersize=3, label="network"
        )
        baseline = score["baseline"]["mean_iou"]
        if baseline is not None:
            axes.axhline(
                baseline, color=_INK, alpha=0.6, linewidth=1, linestyle=(0, (4, 3)), label="baseline, whole volume"
            )
        if missing.any():
            edges = np.stack([sections - 0.5, sections + 0.5], axis=1).ravel()
            axes.fill_between(
                edges,
                0,
                1,
                where=np.repeat(missing, 2).tolist(),
                transform=axes.get_xaxis_transform(),
                color=_INK,
                alpha=0.18,
                linewidth=0,
                label="missing section",
            )
        axes.set(xlabel="section", ylabel="mean IoU", ylim=(0, 1.02))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(x=0.02)
        _legend(axes)

    return _drawn(draw, f"Mean IoU of each section of {score['volume']}")


def training(
    history: Sequence[Mapping[str, float | None]], best_step: int | None, colours: Mapping[str, str]
) -> list[Drawing]:
    """Loss, IoU on the validation volumes (if any was measured), and learning rate, over the steps.

    ``colours`` are those of the classes, as CSS writes them; a class without one is drawn in that of the text.
    """
    steps = _numbers([row["step"] for row in history])
    columns = {key: _numbers([row[key] for row in history]) for key in history[0]} if history else {}
    columns = {key: values for key, values in columns.items() if np.isfinite(values).any()}

    def curve(axes: Axes, key: str, label: str, color: str = _FIRST, **style: Any) -> None:
        x, y = thinned(steps, columns[key])
        axes.plot(
            x, y, label=label, color=color, marker="o" if len(x) <= _MOST_WITH_MARKERS else "", markersize=2.5, **style
        )

    def mark_best(axes: Axes) -> None:
        if best_step is not None:
            axes.axvline(best_step, color=_INK, alpha=0.6, linewidth=1, linestyle=(0, (1, 2)), label="step kept")

    def draw_loss(axes: Axes) -> None:
        curve(axes, "loss", "training")
        if "validation_loss" in columns:
            curve(axes, "validation_loss", "validation", _SECOND)
        if all(
            (columns[key][np.isfinite(columns[key])] > 0).all() for key in ("loss", "validation_loss") if key in columns
        ):
            axes.set_yscale("log")
            # A loss seldom falls by a power of ten: the steps between are marked too, and as plain numbers.
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        mark_best(axes)
        axes.set(xlabel="step", ylabel="loss")
        _legend(axes)

    def draw_iou(axes: Axes) -> None:
        curve(axes, "validation_mean_iou", "mean", linewidth=2)
        for key in columns:
            if key.startswith("iou_"):
                name = key.removeprefix("iou_")
                curve(axes, key, name, colours.get(name, _INK), alpha=1.0 if name in colours else 0.55)
        mark_best(axes)
        axes.set(xlabel="step", ylabel="IoU on the validation volumes", ylim=(0, 1.02))
        _legend(axes)

    def draw_rate(axes: Axes) -> None:
        curve(axes, "learning_rate", "learning rate")
        axes.set(xlabel="step", ylabel="learning rate", ylim=(0, None))

    figures = []
    if "loss" in columns:
        figures.append(_drawn(draw_loss, "Training and validation loss over the steps"))
    if "validation_mean_iou" in columns:
        figures.append(_drawn(draw_iou, "IoU on the validation volumes over the steps"))
    if "learning_rate" in columns:
        figures.append(_drawn(draw_rate, "Learning rate over the steps"))
    return figures


def thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The finite points, as means of equal parts where there are more than a figure can show."""
    there = np.isfinite(x) & np.isfinite(y)
    x, y = x[there], y[there]
    parts = math.ceil(len(x) / max(1, math.ceil(len(x) / _MOST_POINTS)))
    if parts == len(x):
        return x, y
    return tuple(np.array([part.mean() for part in np.array_split(values, parts)]) for values in (x, y))  # type: ignore[return-value]


def _numbers(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([math.nan if value is None else value for value in values], np.float64)


def _legend(axes: Axes) -> None:
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(loc="best")


def _drawn(draw: Callable[[Axes], None], description: str) -> Drawing:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.8, 2.5), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        text = io.StringIO()
        # The metadata hold the date, which would make every report another.
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = text.getvalue().replace("<defs>", f"<defs><style>{_SCHEMES}</style>", 1).replace(_INK, "var(--ink)")
    return Drawing("data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii"), description)
