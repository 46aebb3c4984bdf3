"""The course of a training as pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from unetpipe.report.drawing import DOTTED, FIRST, INK, SECOND, Drawing, drawn, legend, marker, numbers, thinned


def training(
    history: Sequence[Mapping[str, float | None]], best_step: int | None, colours: Mapping[str, str]
) -> dict[str, Drawing]:
    """The course of a training over its steps: ``loss``, ``iou`` on the validation volumes, ``learning_rate``.

    What was not measured is left out.

    ``colours`` are those of the classes, as CSS writes them; a class without one is drawn in that of the text.
    """
    steps = numbers([row["step"] for row in history])
    columns = {key: numbers([row[key] for row in history]) for key in history[0]} if history else {}
    columns = {key: values for key, values in columns.items() if np.isfinite(values).any()}

    def curve(axes: Axes, key: str, label: str, color: str = FIRST, **style: Any) -> None:
        x, y = thinned(steps, columns[key])
        axes.plot(x, y, label=label, color=color, marker=marker(x), markersize=2.5, **style)

    def mark_best(axes: Axes) -> None:
        if best_step is not None:
            axes.axvline(best_step, color=INK, alpha=0.6, linewidth=1, linestyle=DOTTED, label="step kept")

    def draw_loss(axes: Axes) -> None:
        curve(axes, "loss", "training")
        if "validation_loss" in columns:
            curve(axes, "validation_loss", "validation", SECOND)
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
        legend(axes)

    def draw_iou(axes: Axes) -> None:
        curve(axes, "validation_mean_iou", "mean", linewidth=2)
        for key in columns:
            if key.startswith("iou_"):
                name = key.removeprefix("iou_")
                curve(axes, key, name, colours.get(name, INK), alpha=1.0 if name in colours else 0.55)
        mark_best(axes)
        axes.set(xlabel="step", ylabel="IoU on the validation volumes", ylim=(0, 1.02))
        legend(axes)

    def draw_rate(axes: Axes) -> None:
        curve(axes, "learning_rate", "learning rate")
        axes.set(xlabel="step", ylabel="learning rate", ylim=(0, None))

    figures = {}
    if "loss" in columns:
        figures["loss"] = drawn(draw_loss, "Training and validation loss over the steps")
    if "validation_mean_iou" in columns:
        figures["iou"] = drawn(draw_iou, "IoU on the validation volumes over the steps")
    if "learning_rate" in columns:
        figures["learning_rate"] = drawn(draw_rate, "Learning rate over the steps")
    return figures
