"""Learning, which weights are kept, when it stops, what it writes, and what goes wrong."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from training import (
    CLASSES,
    DIMENSIONS,
    MODERN,
    PAPER,
    RECIPES,
    Recipe,
    Toy,
    history_of,
    run,
    with_settings,
)  # fmt: skip

import unetpipe.train
from unetpipe.data.samples import decode
from unetpipe.errors import UserError
from unetpipe.files import digest
from unetpipe.metrics.confusion import count, mean_iou
from unetpipe.nets.build import build
from unetpipe.nets.checkpoint import load_checkpoint, read_metadata, save_checkpoint
from unetpipe.nets.recipe import learning_rate, loss_of


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


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
    monkeypatch.setattr(unetpipe.train, "processor_facts", lambda: {"flags": flags})
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


@pytest.mark.parametrize("change", [{"loss": "dice"}, {"loss": "both"}, {"average": 10}, {"focus": 0.7}], ids=str)
def test_so_it_does_in_other_ways(toy: Toy, change: dict[str, Any]) -> None:
    rows = history_of(run(toy.write(), with_settings(MODERN, steps=150, validate_every=50, **change)))
    losses = [float(row["loss"]) for row in rows]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])
    assert float(rows[-1]["validation_mean_iou"]) > 0.75


@pytest.mark.parametrize("tiles", [0, 2], ids="{}_tiles".format)
def test_the_mean_of_the_last_weights_is_kept(tmp_path: Path, tiles: int) -> None:
    folder = Toy(tmp_path, tiles=tiles).write()
    # One validation, at the end: what is kept are the weights after the last step, or their mean.
    recipe = with_settings(MODERN, steps=8, validate_every=8, schedule="constant")
    settings = recipe["settings"]
    after = [
        load_file(run(folder, with_settings(recipe, steps=step, validate_every=step), name=str(step)))["head.weight"]
        for step in range(1, 9)
    ]
    kept = load_file(run(folder, with_settings(recipe, average=4), name="mean"))
    factors = np.array([0.75 ** (8 - step) for step in range(1, 9)])
    expected = np.tensordot(factors / factors.sum(), np.array(after, np.float64), 1)
    assert kept["head.weight"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert not np.allclose(kept["head.weight"], after[-1], atol=1e-4)
    assert settings.average == 0


def test_an_average_of_one_step_keeps_the_weights(toy: Toy) -> None:
    folder = toy.write()
    usual = load_file(run(folder, with_settings(PAPER, steps=8), name="usual"))
    same = load_file(run(folder, with_settings(PAPER, steps=8, average=1), name="same"))
    assert all(np.array_equal(same[name], usual[name]) for name in usual)


def test_samples_with_a_high_loss_come_more_often(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    # Labels of noise cannot be learnt.
    toy.arrays["label"][0] = np.random.default_rng(5).integers(0, 2, toy.arrays["label"][0].shape)
    folder = toy.write()
    often = {}
    for focus in (0.0, 0.9):
        seen: list[int] = []
        with monkeypatch.context() as patch:
            whole_step = unetpipe.train.one_step

            def step(*arguments: Any, whole: Any = whole_step, seen: list[int] = seen) -> Any:
                seen += arguments[3].samples
                return whole(*arguments)

            patch.setattr(unetpipe.train, "one_step", step)
            run(folder, with_settings(MODERN, steps=90, validate_every=90, focus=focus), name=str(focus))
        often[focus] = np.bincount(seen, minlength=6)
    assert often[0.0].tolist() == [30] * 6
    assert often[0.9][0] > 45
    assert often[0.9].min() > 0


def test_what_is_off_is_not_in_the_description(toy: Toy) -> None:
    folder = toy.write()
    described = read_metadata(run(folder, MODERN))["training"]["settings"]
    assert described.keys().isdisjoint({"loss", "average", "focus", "tensorboard"})
    described = read_metadata(run(folder, with_settings(MODERN, loss="both", average=3, focus=0.5), name="b"))
    settings = described["training"]["settings"]
    assert (settings["loss"], settings["average"], settings["focus"]) == ("both", 3, 0.5)


@pytest.mark.parametrize("kind", ["dice", "both"])
def test_the_loss_on_validation_is_of_the_same_kind(toy: Toy, kind: str) -> None:
    toy.validation["label"][0, 0, :3] = 255
    checkpoint = run(toy.write(), with_settings(MODERN, loss=kind, steps=6))
    network, _ = load_checkpoint(checkpoint)
    label = torch.from_numpy(toy.validation["label"].astype(np.int64))
    known = (label != 255).float()
    with torch.no_grad():
        logits = network(torch.from_numpy(decode(toy.validation["image"])))
    expected = loss_of(kind, logits, label * known.long(), known).item()  # type: ignore[arg-type]
    assert float(history_of(checkpoint)[-1]["validation_loss"]) == pytest.approx(expected, rel=1e-5)


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
        pytest.param({"skips": "add"}, CLASSES, "skips add", id="skips"),
        pytest.param({"upsampling": "nearest"}, CLASSES, "upsampling nearest", id="upsampling"),
        pytest.param({"name": "patch_classifier"}, CLASSES, "a patch_classifier of width 4", id="name"),
        pytest.param({}, ["inside", "membrane"], "for the classes inside, membrane", id="classes"),
    ],
)
def test_the_start_must_be_of_the_same_architecture(
    toy: Toy, network: dict[str, Any], classes: list[str], found: str
) -> None:
    other = build(MODERN["network"].model_copy(update=network), 2)
    path = toy.folder / "other.safetensors"
    save_checkpoint(path, other, {"classes": classes})
    with pytest.raises(UserError, match="training was to start from") as caught:
        run(toy.write(), MODERN, init=path)
    assert found in caught.value.found
    wanted = (
        "a unet of width 4 and depth 1, kernels 1 x 3 x 3, poolings 1 x 2 x 2, sections 1, skips concatenate, "
        "upsampling transposed, normalisation batch, for the classes membrane, inside"
    )
    assert wanted in caught.value.asked


def test_training_starts_from_a_checkpoint(toy: Toy) -> None:
    folder = toy.write()
    first = run(folder, with_settings(MODERN, steps=60))
    second = run(folder, MODERN, name="second", init=first)
    assert float(history_of(second)[0]["loss"]) < 0.7 * float(history_of(first)[0]["loss"])
    assert read_metadata(second)["training"]["settings"]["init"] == digest(first)


def test_training_leaves_pytorch_as_it_was(toy: Toy) -> None:
    before = torch.get_num_threads(), torch.get_rng_state()
    run(toy.write(), with_settings(MODERN, steps=2, threads=3))
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
