"""One seed, the same bytes: again, and after a kill at any moment. Learning, stopping, and what goes wrong."""

import csv
import hashlib
import itertools
import logging
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.ndimage import gaussian_filter

import unetpipe.train
from unetpipe import config
from unetpipe.data import samples as samples_module
from unetpipe.data.samples import decode, encode
from unetpipe.errors import UserError
from unetpipe.files import digest, write_json
from unetpipe.metrics.confusion import count, mean_iou
from unetpipe.nets.checkpoint import load_checkpoint, read_metadata, save_checkpoint
from unetpipe.nets.unet import UNet
from unetpipe.train import learning_rate, train, weighted_loss

CLASSES = ["membrane", "inside"]

MODERN = {
    "network": config.Network(width=4, depth=1, normalisation="batch", dropout=0.2),
    "settings": config.Train(
        steps=24, batch=2, optimiser="adamw", learning_rate=1e-2, momentum=0.9, schedule="one_cycle", precision="bf16",
        validate_every=6, checkpoint_every=5, threads=1,
    ),
}  # fmt: skip
PAPER = {
    "network": config.Network(width=4, depth=1, normalisation="none", dropout=0.2),
    "settings": config.Train(
        steps=24, batch=1, optimiser="sgd", learning_rate=1e-2, momentum=0.99, schedule="constant", precision="fp32",
        weight_decay=0.0, validate_every=6, checkpoint_every=5, threads=1,
    ),
}  # fmt: skip
RECIPES = [pytest.param(MODERN, id="modern"), pytest.param(PAPER, id="paper")]

Recipe = dict[str, Any]


def of_network(recipe: Recipe, **changes: Any) -> Recipe:
    return {**recipe, "network": recipe["network"].model_copy(update=changes)}


FLAT_SECTIONS, DEEP = {"sections": 3}, {"kernel": [(1, 3, 3), (3, 3, 3)]}
DIMENSIONS = [
    *RECIPES,
    pytest.param(of_network(MODERN, **FLAT_SECTIONS), id="modern-2.5D"),
    pytest.param(of_network(MODERN, **DEEP), id="modern-3D"),
    pytest.param(of_network(PAPER, **DEEP), id="paper-3D"),
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


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


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


@pytest.mark.parametrize("threads", [1, 2], ids="{}_threads".format)
@pytest.mark.parametrize("recipe", DIMENSIONS)
def test_one_seed_gives_the_same_bytes(tmp_path: Path, recipe: Recipe, threads: int) -> None:
    folder = Toy(tmp_path, recipe).write()
    recipe = with_settings(recipe, threads=threads, steps=12)
    first, again, other = (run(folder, recipe, name=name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert digest(first) == digest(again)
    assert without_seconds(first) == without_seconds(again)
    assert not np.array_equal(load_file(first)["head.weight"], load_file(other)["head.weight"])


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The checkpoint of an unbroken run of each recipe, by the name of its optimiser."""
    folder = Toy(tmp_path_factory.mktemp("unbroken")).write()
    return {
        recipe["settings"].optimiser: run(folder, recipe, name=name) for name, recipe in (("m", MODERN), ("p", PAPER))
    }


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("step", [3, 5, 12, 23], ids="killed_in_step_{}".format)
def test_a_killed_run_ends_in_the_same_bytes(
    toy: Toy, unbroken: dict[str, Path], monkeypatch: pytest.MonkeyPatch, recipe: Recipe, step: int
) -> None:
    folder = toy.write()
    whole = unbroken[recipe["settings"].optimiser]
    done: list[int] = []
    with monkeypatch.context() as patch:
        break_in(patch, step, Killed, done)
        with pytest.raises(Killed):
            run(folder, recipe)
        assert done == list(range(step))
        done.clear()
        break_in(patch, -1, Killed, done)
        broken = run(folder, recipe)
    # States were stored after 5, 10, 15 and 20 steps, and no more is done than has to be.
    assert done == list(range(step // 5 * 5, 24))
    assert digest(broken) == digest(whole)
    assert without_seconds(broken) == without_seconds(whole)
    assert sorted(path.name for path in broken.parent.iterdir()) == ["checkpoint.safetensors", "history.csv"]


def break_in(patch: pytest.MonkeyPatch, step: int, error: type[BaseException], done: list[int]) -> None:
    """Let ``step``, counted from 0, fail after the weights have changed; ``done`` gets the steps that do not fail."""
    whole_step = (
        unetpipe.train._step.__wrapped__ if hasattr(unetpipe.train._step, "__wrapped__") else unetpipe.train._step
    )

    def broken_step(*arguments: Any) -> float:
        loss: float = whole_step(*arguments)
        if arguments[-1] == step:
            raise error
        done.append(arguments[-1])
        return loss

    broken_step.__wrapped__ = whole_step  # type: ignore[attr-defined]
    patch.setattr(unetpipe.train, "_step", broken_step)


@pytest.mark.parametrize("recipe", [of_network(MODERN, **DEEP), of_network(PAPER, **DEEP)], ids=["modern", "paper"])
def test_a_killed_run_in_3d_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Recipe
) -> None:
    folder = Toy(tmp_path, recipe).write()
    whole = run(folder, recipe, name="whole")
    with monkeypatch.context() as patch:
        break_in(patch, 12, Killed, [])
        with pytest.raises(Killed):
            run(folder, recipe)
    assert list((folder / "model").glob("resume/*/state.safetensors"))
    assert digest(run(folder, recipe)) == digest(whole)


@pytest.mark.parametrize("what", ["_write_history", "save_checkpoint"])
def test_a_run_killed_at_the_very_end_ends_in_the_same_bytes(
    toy: Toy, unbroken: dict[str, Path], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    folder = toy.write()

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(unetpipe.train, what, die)
        with pytest.raises(Killed):
            run(folder, MODERN)
    assert not (folder / "model" / "checkpoint.safetensors").exists()
    assert digest(run(folder, MODERN)) == digest(unbroken["adamw"])


def test_a_process_killed_by_the_system_ends_in_the_same_bytes(toy: Toy) -> None:
    folder = toy.write()
    recipe = with_settings(MODERN, steps=240, validate_every=40, checkpoint_every=10)
    script = textwrap.dedent(
        f"""
        from pathlib import Path
        from unetpipe import config
        from unetpipe.train import train
        folder = Path({str(folder)!r})
        train(
            folder / "samples.json", folder / "samples.zarr",
            folder / "model" / "checkpoint.safetensors", folder / "model" / "history.csv",
            network=config.{recipe["network"]!r}, settings=config.{recipe["settings"]!r}, classes={CLASSES!r}, seed=1,
        )
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    while not list((folder / "model").glob("resume/*/state.safetensors")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(random.random() / 5)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "model" / "checkpoint.safetensors").exists()
    assert digest(run(folder, recipe)) == digest(run(folder, recipe, name="whole"))


def test_an_interruption_says_where_a_rerun_goes_on(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = toy.write()
    caplog.set_level(logging.INFO, "unetpipe")
    with monkeypatch.context() as patch:
        break_in(patch, 12, KeyboardInterrupt, [])
        with pytest.raises(KeyboardInterrupt):
            run(folder, MODERN)
    assert "goes on from step 10" in caplog.text
    run(folder, MODERN)
    assert "going on from step 10" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"seed": 2}, id="seed"),
        pytest.param({"settings": MODERN["settings"].model_copy(update={"learning_rate": 2e-2})}, id="learning rate"),
        pytest.param({"network": MODERN["network"].model_copy(update={"dropout": 0.1})}, id="dropout"),
        pytest.param({"classes": ["inside", "membrane"]}, id="classes"),
    ],
)
def test_a_state_of_another_training_is_not_taken(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    folder = toy.write()
    with monkeypatch.context() as patch:
        break_in(patch, 12, Killed, [])
        with pytest.raises(Killed):
            run(folder, MODERN)
    done: list[int] = []
    with monkeypatch.context() as patch:
        break_in(patch, -1, Killed, done)
        run(folder, {**MODERN, **change})
    assert done[0] == 0


def test_how_often_states_are_stored_changes_nothing(toy: Toy, unbroken: dict[str, Path]) -> None:
    folder = toy.write()
    for every in (1, 100):
        checkpoint = run(folder, with_settings(MODERN, checkpoint_every=every), name=f"every {every}")
        assert digest(checkpoint) == digest(unbroken["adamw"])


@pytest.mark.parametrize(
    ("flags", "wanted", "taken"),
    [
        pytest.param("avx2 avx512f avx512_bf16", "auto", "bf16", id="with instructions for bf16"),
        pytest.param("avx2 avx512f", "auto", "fp32", id="without"),
        pytest.param("avx2 avx512f avx512_bf16", "fp32", "fp32", id="fp32 is fp32"),
        pytest.param("avx2", "bf16", "bf16", id="bf16 is bf16"),
    ],
)
def test_the_precision_follows_from_the_processor(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, flags: str, wanted: str, taken: str
) -> None:
    monkeypatch.setattr(unetpipe.train, "_processor", lambda: {"flags": flags})
    checkpoint = run(toy.write(), with_settings(MODERN, precision=wanted, steps=2))
    assert read_metadata(checkpoint)["training"]["settings"]["precision"] == taken
    assert ("no instructions for bf16" in caplog.text) == (flags == "avx2")


@pytest.mark.parametrize("recipe", DIMENSIONS)
def test_it_learns(tmp_path: Path, recipe: Recipe) -> None:
    rows = history_of(run(Toy(tmp_path, recipe).write(), with_settings(recipe, steps=200, validate_every=50)))
    losses = [float(row["loss"]) for row in rows]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])
    assert float(rows[-1]["validation_mean_iou"]) > 0.75


@pytest.mark.parametrize("recipe", DIMENSIONS)
def test_the_best_weights_are_kept(tmp_path: Path, recipe: Recipe) -> None:
    toy = Toy(tmp_path, recipe)
    checkpoint = run(toy.write(), recipe)
    scored = [row for row in history_of(checkpoint) if row["validation_mean_iou"]]
    assert [int(row["step"]) for row in scored] == [6, 12, 18, 24]
    best = max(scored, key=lambda row: float(row["validation_mean_iou"]))  # the first of equals
    network, metadata = load_checkpoint(checkpoint)
    assert metadata["training"]["best_step"] == int(best["step"])
    assert metadata["training"]["validated"] is True
    with torch.no_grad():
        logits = network(torch.from_numpy(decode(toy.validation["image"])))
    table = count(toy.validation["label"], logits.argmax(1).numpy().astype(np.uint8), len(CLASSES))
    assert mean_iou(table) == float(best["validation_mean_iou"])


def test_without_validation_the_last_weights_are_kept(tmp_path: Path) -> None:
    toy = Toy(tmp_path, tiles=0)
    checkpoint = run(toy.write(), with_settings(MODERN, patience=1))
    training = read_metadata(checkpoint)["training"]
    assert (training["steps"], training["best_step"], training["validated"]) == (24, 24, False)
    assert not any(row["validation_mean_iou"] or row["validation_loss"] for row in history_of(checkpoint))


def test_training_ends_when_nothing_gets_better(toy: Toy) -> None:
    # At this rate nothing changes, so the first validation stays the best.
    recipe = with_settings(PAPER, learning_rate=1e-30, patience=2, steps=200)
    checkpoint = run(toy.write(), recipe)
    training = read_metadata(checkpoint)["training"]
    assert (training["best_step"], training["steps"]) == (6, 18)
    assert len(history_of(checkpoint)) == 18


@pytest.mark.parametrize("recipe", RECIPES)
def test_ignored_voxels_teach_nothing(toy: Toy, recipe: Recipe) -> None:
    toy.arrays["label"][..., :7] = 255
    weights = []
    for name, weight in (("a", 0), ("b", 60_000)):
        toy.arrays["weight"][..., :7] = weight
        weights.append(load_file(run(toy.write(name), recipe)))
    assert all(np.array_equal(weights[0][key], weights[1][key]) for key in weights[0])
    toy.arrays["weight"][..., 7:9] = 3
    assert not np.array_equal(load_file(run(toy.write("c"), recipe))["head.weight"], weights[0]["head.weight"])


def test_validation_needs_a_labelled_voxel(toy: Toy) -> None:
    toy.validation["label"][:] = 255
    with pytest.raises(UserError, match="no voxel of the validation volumes has a label"):
        run(toy.write(), MODERN)


def test_the_history_has_a_row_for_each_step(toy: Toy) -> None:
    rows = history_of(run(toy.write(), MODERN))
    columns = ["step", "seconds", "loss", "learning_rate", "validation_loss", "validation_mean_iou"]
    assert list(rows[0]) == [*columns, "iou_membrane", "iou_inside"]
    assert [int(row["step"]) for row in rows] == list(range(1, 25))
    seconds = [float(row["seconds"]) for row in rows]
    assert all(a <= b for a, b in itertools.pairwise(seconds))
    for row in rows:
        assert float(row["learning_rate"]) == learning_rate(int(row["step"]) - 1, MODERN["settings"])
        assert all(bool(row[key]) == (int(row["step"]) % 6 == 0) for key in list(row)[4:])


def test_the_checkpoint_describes_itself(toy: Toy) -> None:
    metadata = read_metadata(run(toy.write(), MODERN))
    assert metadata["classes"] == CLASSES
    assert metadata["geometry"] == {"border": [0, 8, 8], "pooling": [1, 2, 2], "base": [0, 0, 0], "dimensions": 2}
    assert metadata["network"] == MODERN["network"].model_dump(mode="json")
    training = metadata["training"]
    assert (training["seed"], training["samples_digest"]) == (1, "0" * 64)
    assert training["settings"]["learning_rate"] == 1e-2
    assert "seconds" not in str(metadata)


def test_a_loss_that_is_no_number_ends_training(toy: Toy) -> None:
    with pytest.raises(UserError, match=r"the loss at step \d+ is (nan|inf), at a learning rate of 1e\+18") as caught:
        run(toy.write(), with_settings(PAPER, learning_rate=1e18, validate_every=24))
    assert "lower train.learning_rate" in caught.value.repair


@pytest.mark.parametrize(
    ("network", "classes", "found"),
    [
        pytest.param({"width": 2}, CLASSES, "a unet of width 2 and depth 1", id="width"),
        pytest.param({"depth": 2}, CLASSES, "a unet of width 4 and depth 2", id="depth"),
        pytest.param({"normalisation": "none"}, CLASSES, "normalisation none", id="normalisation"),
        pytest.param({"kernel": (1, 5, 5)}, CLASSES, "kernels 1 x 5 x 5,", id="kernel"),
        pytest.param({"kernel": [(1, 3, 3), (3, 3, 3)]}, CLASSES, "kernels 1 x 3 x 3, 3 x 3 x 3,", id="3D"),
        pytest.param({"pooling": (1, 2, 3)}, CLASSES, "poolings 1 x 2 x 3,", id="pooling"),
        pytest.param({"sections": 3}, CLASSES, "sections 3", id="sections"),
        pytest.param({}, ["inside", "membrane"], "for the classes inside, membrane", id="classes"),
    ],
)
def test_the_start_must_be_of_the_same_architecture(
    toy: Toy, network: dict[str, Any], classes: list[str], found: str
) -> None:
    other = UNet(MODERN["network"].model_copy(update=network), 2)
    path = toy.folder / "other.safetensors"
    save_checkpoint(path, other, {"classes": classes})
    with pytest.raises(UserError, match="training was to start from") as caught:
        run(toy.write(), MODERN, init=path)
    assert found in caught.value.found
    wanted = (
        "a unet of width 4 and depth 1, kernels 1 x 3 x 3, poolings 1 x 2 x 2, sections 1, normalisation batch, "
        "for the classes membrane, inside"
    )
    assert wanted in caught.value.asked


def test_training_starts_from_a_checkpoint(toy: Toy) -> None:
    folder = toy.write()
    first = run(folder, with_settings(MODERN, steps=60))
    second = run(folder, MODERN, name="second", init=first)
    assert float(history_of(second)[0]["loss"]) < 0.7 * float(history_of(first)[0]["loss"])
    assert read_metadata(second)["training"]["settings"]["init"] == digest(first)


def test_pytorch_is_left_as_it_was(toy: Toy) -> None:
    def state() -> tuple[Any, ...]:
        generator = hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest()
        return torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), generator

    before = state()
    run(toy.write(), with_settings(MODERN, steps=2, threads=3))
    assert state() == before


@given(
    logits=st.lists(st.floats(-20, 20, width=32), min_size=12, max_size=12),
    weights=st.lists(st.floats(0.125, 10, width=32), min_size=4, max_size=4),
    labels=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    shape=st.sampled_from([(1, 2, 2), (2, 1, 2), (4, 1, 1), (2, 2, 1)]),
)
def test_the_loss_is_that_of_the_paper(
    logits: list[float], weights: list[float], labels: list[int], shape: tuple[int, int, int]
) -> None:
    # Equation 1: the sum over voxels of w log p, here with a sign and divided by the sum of w.
    energies = np.array(logits).reshape(3, 4)
    p = np.exp(energies) / np.exp(energies).sum(axis=0)
    expected = -sum(w * np.log(p[k, i]) for i, (w, k) in enumerate(zip(weights, labels, strict=True))) / sum(weights)
    loss = weighted_loss(
        torch.tensor(logits).reshape(1, 3, *shape),
        torch.tensor(labels).reshape(1, *shape),
        torch.tensor(weights).reshape(1, *shape),
    )
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_batch_without_labels_has_no_loss() -> None:
    logits = torch.randn(1, 2, 2, 3, 3, requires_grad=True)
    loss = weighted_loss(logits, torch.zeros(1, 2, 3, 3, dtype=torch.long), torch.zeros(1, 2, 3, 3))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@given(steps=st.integers(1, 3000), step=st.integers(0, 2999))
def test_the_rate_rises_and_falls(steps: int, step: int) -> None:
    settings = config.Train(steps=steps, learning_rate=3e-3)
    rates = [learning_rate(k, settings) for k in range(steps)]
    top = rates.index(max(rates))
    assert 0 < min(rates) <= max(rates) <= 3e-3
    assert all(a < b for a, b in itertools.pairwise(rates[: top + 1]))
    assert all(a > b for a, b in itertools.pairwise(rates[top:]))
    if steps > 10:
        assert max(rates) > 0.9 * 3e-3
        assert rates[-1] == pytest.approx(3e-7)
    assert learning_rate(step, settings.model_copy(update={"schedule": "constant"})) == 3e-3
