"""How far an engine is from PyTorch in fp32, on the same tiles."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.data.tiles import LabelledTile
from unetpipe.errors import UserError
from unetpipe.metrics import confusion

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From normalised grey values (n, z, y, x) to probabilities (n, classes, z', y', x')."""

STEP = 1 / 255
"""Of the probabilities that a prediction stores, as bytes."""


class RefusedError(UserError):
    """An engine has not passed. ``findings``: in numbers, JSON data."""

    def __init__(self, asked: str, found: str, repair: str, findings: dict[str, Any] | None = None) -> None:
        super().__init__(asked, found, repair)
        self.findings = findings or {}


@dataclass
class Comparison:
    """What was counted on the tiles that were added.

    The tables are (classes, classes) int64, as :func:`unetpipe.metrics.confusion.count` gives them: ``pytorch`` and
    ``engine`` against the labels, ``agreement`` has PyTorch's classes in place of the truth. ``absolute`` is the
    largest difference of a probability; ``relative`` the largest as a share of PyTorch's probability, where that is at
    least 1/255: the prediction cannot store a smaller one. ``sources`` are those of the tiles.
    """

    classes: int
    pytorch: confusion.Table = field(init=False)
    engine: confusion.Table = field(init=False)
    agreement: confusion.Table = field(init=False)
    absolute: float = 0.0
    relative: float = 0.0
    sources: list[tuple[int, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pytorch, self.engine, self.agreement = (np.zeros((self.classes, self.classes), np.int64) for _ in range(3))
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        """SHA-256 of images and labels, hexadecimal."""
        return self._hash.hexdigest()

    @property
    def has_truth(self) -> bool:
        """Whether a voxel was labelled."""
        return bool(self.pytorch.any())

    @property
    def changed(self) -> float:
        """Share of all voxels to which the engine gives another class than PyTorch."""
        return confusion.pixel_error(self.agreement) or 0.0

    def ious(self) -> tuple[list[float | None], list[float | None]]:
        """IoU of each class, of PyTorch and of the engine.

        Against the labels; without any, against the classes that PyTorch gives.
        """
        if self.has_truth:
            return confusion.iou(self.pytorch), confusion.iou(self.engine)
        return confusion.iou(np.diag(self.agreement.sum(axis=1))), confusion.iou(self.agreement)

    def falls(self) -> list[float | None]:
        """By how much the IoU of each class is lower with the engine.

        None for a class that is neither labelled nor given by PyTorch: the voxels in which the engine sees it are
        missing in other classes.
        """
        return [
            None if ours is None else ours - (0.0 if theirs is None else theirs)
            for ours, theirs in zip(*self.ious(), strict=True)
        ]

    def findings(self, classes: Sequence[str]) -> dict[str, Any]:
        """The numbers as JSON data, with the names of the classes."""
        columns = zip(classes, *self.ious(), self.falls(), strict=True)
        return {
            "largest_absolute_error": self.absolute,
            "largest_relative_error": self.relative,
            "changed_labels": self.changed,
            "iou": {name: {"pytorch": ours, "engine": theirs, "fall": fall} for name, ours, theirs, fall in columns},
        }

    def add(self, tile: LabelledTile, pytorch: NDArray[np.float32], engine: NDArray[np.float32]) -> None:
        """Count a tile with its two results (classes, z', y', x')."""
        difference = np.abs(engine - pytorch)
        self.absolute = max(self.absolute, float(difference.max()))
        # Where PyTorch's probability is too small to be stored, the quotient is 0.
        quotient = np.divide(difference, pytorch, out=np.zeros_like(pytorch), where=pytorch >= STEP)
        self.relative = max(self.relative, float(quotient.max()))
        ours, theirs = (confusion.most_likely(_stored(probability)) for probability in (pytorch, engine))
        self.agreement += confusion.count(ours, theirs, self.classes)
        if tile.label is not None:
            self.pytorch += confusion.count(tile.label, ours, self.classes)
            self.engine += confusion.count(tile.label, theirs, self.classes)
        self.sources.append(tuple(tile.source))
        self._hash.update(np.ascontiguousarray(tile.image).data)
        self._hash.update(b"" if tile.label is None else np.ascontiguousarray(tile.label).data)


def compare(
    tiles: Iterable[LabelledTile], pytorch: Run, engine: Run, classes: int, batch: int, asked: str
) -> Comparison:
    """Run both on all tiles.

    Parameters
    ----------
    tiles:
        All of one shape.
    batch:
        Tiles per call, always so many: a short batch is filled up with zeros, as in prediction.
    asked:
        For the message.

    Raises
    ------
    RefusedError
        If the engine gives another shape than PyTorch, or something that is no probability.
    """
    result = Comparison(classes)
    for group in _groups(tiles, batch):
        images = np.zeros((batch, *group[0].image.shape), np.float32)
        for slot, tile in enumerate(group):
            images[slot] = tile.image
        ours, theirs = pytorch(images)[: len(group)], engine(images)[: len(group)]
        _check(ours, theirs, asked)
        for tile, one, other in zip(group, ours, theirs, strict=True):
            result.add(tile, one, other)
    return result


def judge(comparison: Comparison, classes: Sequence[str], bound: float, asked: str) -> None:
    """RefusedError, with the numbers, if the IoU of a class falls by more than ``bound``."""
    fallen = [
        f"\n    {name}: {fall:.4f}, from {ours:.4f} to {theirs or 0.0:.4f}"
        for name, ours, theirs, fall in zip(classes, *comparison.ious(), comparison.falls(), strict=True)
        if fall is not None and fall > bound
    ]
    if not fallen:
        return
    truth = "the labels" if comparison.has_truth else "PyTorch's own classes, for lack of labels"
    raise RefusedError(
        asked,
        f"the IoU against {truth}, on {len(comparison.sources)} tiles, falls by{''.join(fallen)}\n    "
        f"{100 * comparison.changed:.2f} % of the voxels have another class; the largest error of a probability is "
        f"{comparison.absolute:.3g}",
        "choose another engine.backend or engine.precision; raise certify.iou_bound only if this loss is acceptable",
        comparison.findings(classes),
    )


def _check(pytorch: NDArray[np.float32], engine: NDArray[np.float32], asked: str) -> None:
    repair = "build the engine again, or choose another engine.backend; its log may tell more"
    if engine.shape != pytorch.shape:
        found = f"it gives the shape {engine.shape}, PyTorch {pytorch.shape} (n, class, z, y, x)"
        raise RefusedError(asked, found, repair)
    # A comparison with NaN is false.
    wrong = np.count_nonzero(~((engine > -STEP / 2) & (engine < 1 + STEP / 2)))
    if wrong:
        raise RefusedError(
            asked, f"{wrong} of {engine.size} values that it gives are no probabilities (NaN, or beyond 0 to 1)", repair
        )


def _stored(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """As a prediction stores it: 255 for 1."""
    return np.asarray(np.rint(probability * np.float32(255)), np.uint8)


def _groups(tiles: Iterable[LabelledTile], size: int) -> Iterator[list[LabelledTile]]:
    rest = iter(tiles)
    while group := list(islice(rest, size)):
        yield group
