"""One seed, the same bytes: again, and after a kill at any moment."""

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
from safetensors.numpy import load_file
from training import (
    CLASSES,
    DEEP,
    DIMENSIONS,
    FASTER,
    FASTER_PAPER,
    MODERN,
    OTHERS,
    PAPER,
    RECIPES,
    Killed,
    Recipe,
    Toy,
    break_in,
    history_of,
    of_network,
    run,
    with_settings,
    without_seconds,
)  # fmt: skip

import unetpipe.train
from unetpipe.files import digest


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


@pytest.mark.parametrize("threads", [1, 2], ids="{}_threads".format)
@pytest.mark.parametrize("recipe", DIMENSIONS)
def test_one_seed_gives_the_same_bytes(tmp_path: Path, recipe: Recipe, threads: int) -> None:
    folder = Toy(tmp_path, recipe).write()
    recipe = with_settings(recipe, threads=threads, steps=12)
    first, again, other = (run(folder, recipe, name=name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert digest(first) == digest(again)
    assert without_seconds(first) == without_seconds(again)
    assert not np.array_equal(load_file(first)["head.weight"], load_file(other)["head.weight"])


@pytest.mark.parametrize("recipe", OTHERS)
def test_so_it_does_in_other_networks(tmp_path: Path, recipe: Recipe) -> None:
    folder = Toy(tmp_path, recipe).write()
    recipe = with_settings(recipe, threads=2, steps=6)
    first, again = (run(folder, recipe, name=name) for name in ("a", "b"))
    assert digest(first) == digest(again)
    assert without_seconds(first) == without_seconds(again)


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


@pytest.fixture(scope="module")
def unbroken_faster(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same of the recipes that learn faster."""
    folder = Toy(tmp_path_factory.mktemp("unbroken"), tiles=1).write()
    recipes = (FASTER, FASTER_PAPER)
    return {recipe["settings"].loss: run(folder, recipe, name=recipe["settings"].loss) for recipe in recipes}


@pytest.mark.parametrize("recipe", [FASTER, FASTER_PAPER], ids=["modern", "paper"])
@pytest.mark.parametrize("step", [3, 5, 12, 16, 23], ids="killed_in_step_{}".format)
def test_a_killed_run_that_learns_faster_ends_in_the_same_bytes(
    tmp_path: Path, unbroken_faster: dict[str, Path], monkeypatch: pytest.MonkeyPatch, recipe: Recipe, step: int
) -> None:
    folder = Toy(tmp_path, tiles=1).write()
    whole = unbroken_faster[recipe["settings"].loss]
    with monkeypatch.context() as patch:
        break_in(patch, step, Killed, [])
        with pytest.raises(Killed):
            run(folder, recipe)
    broken = run(folder, recipe)
    assert digest(broken) == digest(whole)
    assert without_seconds(broken) == without_seconds(whole)


def test_so_it_does_without_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Toy(tmp_path, tiles=0).write()
    whole = run(folder, FASTER, name="whole")
    with monkeypatch.context() as patch:
        patch.setattr(unetpipe.train, "save_checkpoint", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run(folder, with_settings(FASTER, checkpoint_every=24))
    assert digest(run(folder, with_settings(FASTER, checkpoint_every=24))) == digest(whole)


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


@pytest.mark.long
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
        *(
            pytest.param({"settings": MODERN["settings"].model_copy(update={key: value})}, id=key)
            for key, value in (("loss", "dice"), ("average", 3), ("focus", 0.1))
        ),
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


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", DIMENSIONS)
def test_one_seed_gives_the_same_bytes_on_a_gpu(tmp_path: Path, recipe: Recipe) -> None:
    if not torch.cuda.is_available():
        pytest.skip("PyTorch finds no GPU")
    folder = Toy(tmp_path, recipe).write()
    recipe = with_settings(recipe, device="cuda", steps=12, precision="fp32")
    first, again = (run(folder, recipe, name=name) for name in ("a", "b"))
    assert digest(first) == digest(again)
    losses = [
        float(history_of(checkpoint)[0]["loss"])
        for checkpoint in (first, run(folder, with_settings(recipe, device="cpu"), name="c"))
    ]
    # Dropout draws other channels there.
    assert losses[0] == pytest.approx(losses[1], rel=1e-4 if recipe["network"].dropout == 0 else 0.5)
