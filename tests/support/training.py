"""Samples that are quick to learn, recipes to learn them by, and a run that breaks where it is told to."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

import unetpipe.train
from unetpipe import config
from unetpipe.data import samples as samples_module
from unetpipe.data.samples import encode
from unetpipe.files import write_json
from unetpipe.train import train

CLASSES = ["membrane", "inside"]

Recipe = dict[str, Any]

MODERN: Recipe = {
    "network": config.Network(width=4, depth=1, normalisation="batch", dropout=0.2),
    "settings": config.Train(
        steps=24, batch=2, optimiser="adamw", learning_rate=1e-2, momentum=0.9, schedule="one_cycle", precision="bf16",
        validate_every=6, checkpoint_every=5, threads=1,
    ),
}  # fmt: skip
PAPER: Recipe = {
    "network": config.Network(width=4, depth=1, normalisation="none", dropout=0.2),
    "settings": config.Train(
        steps=24, batch=1, optimiser="sgd", learning_rate=1e-2, momentum=0.99, schedule="constant", precision="fp32",
        weight_decay=0.0, validate_every=6, checkpoint_every=5, threads=1,
    ),
}  # fmt: skip
RECIPES = [pytest.param(MODERN, id="modern"), pytest.param(PAPER, id="paper")]


def of_network(recipe: Recipe, **changes: Any) -> Recipe:
    return {**recipe, "network": recipe["network"].model_copy(update=changes)}


# Every way of learning faster at once, and those that leave batch normalisation alone.
FASTER: Recipe = {
    **MODERN, "settings": MODERN["settings"].model_copy(update={"loss": "both", "average": 4, "focus": 0.5})
}  # fmt: skip
FASTER_PAPER: Recipe = {
    **PAPER, "settings": PAPER["settings"].model_copy(update={"loss": "dice", "average": 4, "focus": 0.9})
}  # fmt: skip

FLAT_SECTIONS, DEEP = {"sections": 3}, {"kernel": [(1, 3, 3), (3, 3, 3)]}
DIMENSIONS = [
    *RECIPES,
    pytest.param(of_network(MODERN, **FLAT_SECTIONS), id="modern-2.5D"),
    pytest.param(of_network(MODERN, **DEEP), id="modern-3D"),
    pytest.param(of_network(PAPER, **DEEP), id="paper-3D"),
]

OTHERS = [
    pytest.param(of_network(MODERN, upsampling="max_unpooling", skips="none"), id="max-unpooling"),
    pytest.param(of_network(PAPER, upsampling="nearest", skips="add"), id="nearest, added"),
    pytest.param(of_network(MODERN, upsampling="bed_of_nails", skips="multiply"), id="bed of nails, multiplied"),
    pytest.param(of_network(MODERN, name="full_resolution"), id="full resolution"),
    pytest.param(of_network(MODERN, name="patch_classifier"), id="patches"),
]


def with_settings(recipe: Recipe, **changes: Any) -> Recipe:
    return {**recipe, "settings": recipe["settings"].model_copy(update=changes)}


class Toy:
    """Samples of smooth noise, in which what is dark is membrane: easy to learn."""

    def __init__(self, folder: Path, recipe: Recipe = MODERN, count: int = 6, tiles: int = 2) -> None:
        self.folder = folder
        self.geometry = recipe["network"].geometry
        self.tile = self.geometry.tile_for((2, 20, 20))
        self.output = self.geometry.output(self.tile)
        self.arrays = self._draw(count, 1) | {"weight": np.ones((count, *self.output), np.float16)}
        self.validation = self._draw(tiles, 2)

    def _draw(self, count: int, seed: int) -> dict[str, NDArray[Any]]:
        noise = np.random.default_rng(seed).standard_normal((count, *self.tile))
        image = gaussian_filter(noise, (0, 0, 3, 3)) * 10
        inner = tuple(slice(b, n - b) for b, n in zip(self.geometry.border, self.tile, strict=True))
        return {
            "image": encode(image.astype(np.float32)),
            "label": (image[(slice(None), *inner)] > -0.3).astype(np.uint8),
            "source": np.ones((count, 5), np.int64),
        }

    def write(self, name: str = "a") -> Path:
        """Write store and description, as the rule augment does; gives the folder."""
        folder = self.folder / name
        store = folder / "samples.zarr"
        count = len(self.arrays["image"])
        samples_module.create(store, count, self.tile, self.output, "key")
        for start in range(0, count, samples_module.SHARD):
            part = {key: data[start : start + samples_module.SHARD] for key, data in self.arrays.items()}
            samples_module.write_shard(store, "train", start, part)
        samples_module.write_validation(store, self.tile, self.output, self.validation)
        write_json(folder / "samples.json", {"digest": "0" * 64})
        return folder


def run(folder: Path, recipe: Recipe, *, name: str = "model", seed: int = 1, **further: Any) -> Path:
    """Train in ``folder``; gives the checkpoint."""
    model = folder / name
    train(
        folder / "samples.json", folder / "samples.zarr", model / "checkpoint.safetensors", model / "history.csv",
        **{"classes": CLASSES, "seed": seed, **recipe, **further},
    )  # fmt: skip
    return model / "checkpoint.safetensors"


def history_of(checkpoint: Path) -> list[dict[str, str]]:
    with (checkpoint.parent / "history.csv").open() as file:
        return list(csv.DictReader(file))


def without_seconds(checkpoint: Path) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history_of(checkpoint)]


class Killed(BaseException):
    """In place of a signal that no handler sees."""


def break_in(patch: pytest.MonkeyPatch, step: int, error: type[BaseException], done: list[int]) -> None:
    """Let ``step``, counted from 0, fail after the weights have changed; ``done`` gets the steps that do not fail."""
    whole_step = getattr(unetpipe.train.one_step, "__wrapped__", unetpipe.train.one_step)

    def broken_step(*arguments: Any) -> unetpipe.train.Losses:
        losses: unetpipe.train.Losses = whole_step(*arguments)
        if arguments[-1] == step:
            raise error
        done.append(arguments[-1])
        return losses

    broken_step.__wrapped__ = whole_step  # type: ignore[attr-defined]
    patch.setattr(unetpipe.train, "one_step", broken_step)
