"""Processes that learn together learn what one would, and none of them outlives the others."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.numpy import load_file
from training import (
    FASTER,
    FASTER_PAPER,
    MODERN,
    PAPER,
    Killed,
    Recipe,
    Toy,
    break_in,
    history_of,
    run,
    with_settings,
    without_seconds,
)  # fmt: skip

from unetpipe.files import digest
from unetpipe.nets.layers import Convolutions
from unetpipe.nets.together import ALONE, Team, share_statistics

BATCH = 4


def recipe_of(recipe: Recipe, processes: int) -> Recipe:
    # In fp32, so that what differs is the order of sums alone; dropout draws for each process by itself.
    network = recipe["network"].model_copy(update={"dropout": 0.0})
    changed = with_settings(recipe, precision="fp32", processes=processes, batch=BATCH, steps=8, validate_every=4)
    return {**changed, "network": network}


def test_every_sample_is_for_one_process() -> None:
    for size in (1, 2, 3, 4):
        shares = [Team(rank, size, ALONE.device).share(12) for rank in range(size)]
        assert [n for share in shares for n in range(12)[share]] == list(range(12))
        assert {len(range(12)[share]) for share in shares} == {12 // size}


@pytest.mark.parametrize("axes", [2, 3], ids=["2D", "3D"])
def test_statistics_of_one_process_are_those_of_pytorch(axes: int) -> None:
    torch.manual_seed(0)
    kernel = (3,) * axes
    ours, theirs = (Convolutions(2, 6, kernel, normalise=True) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    share_statistics(ours, ALONE)
    for _ in range(3):
        features = 5 + 3 * torch.randn(4, 2, *(12,) * axes)
        mine, yours = (features.clone().requires_grad_() for _ in range(2))
        (got, expected) = ours(mine), theirs(yours)
        torch.testing.assert_close(got, expected)
        torch.manual_seed(1)
        weight = torch.randn_like(got)
        (got * weight).sum().backward()
        (expected * weight).sum().backward()
        torch.testing.assert_close(mine.grad, yours.grad, rtol=1e-4, atol=1e-4)
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor)
    torch.testing.assert_close(ours.eval()(features), theirs.eval()(features))


@pytest.mark.parametrize(
    ("recipe", "bound"),
    [
        # What AdamW divides by can be a rounding: its steps are as long whether the gradient is small or large.
        pytest.param(MODERN, 1e-2, id="batch normalisation, AdamW"),
        pytest.param(FASTER_PAPER, 1e-4, id="Dice, focus and average, momentum"),
        pytest.param(FASTER, 1e-2, id="all of these"),
    ],
)
@pytest.mark.long
def test_two_processes_learn_what_one_does(tmp_path: Path, recipe: Recipe, bound: float) -> None:
    folder = Toy(tmp_path, recipe, count=12).write()
    alone, both, again = (
        run(folder, recipe_of(recipe, processes), name=name) for name, processes in (("1", 1), ("2", 2), ("3", 2))
    )
    assert digest(both) == digest(again)
    assert without_seconds(both) == without_seconds(again)
    expected, found = load_file(alone), load_file(both)
    assert expected.keys() == found.keys()
    for name, weights in expected.items():
        assert np.abs(found[name] - weights).max() <= bound * max(1, np.abs(weights).max()), name
    for ours, theirs in zip(history_of(both), history_of(alone), strict=True):
        assert float(ours["loss"]) == pytest.approx(float(theirs["loss"]), rel=bound)


CALL = """
    from pathlib import Path
    from training import PAPER, run, with_settings
    from test_together import recipe_of

    if __name__ == "__main__":
        run(Path({folder!r}), with_settings(recipe_of(PAPER, 2), steps=100_000, checkpoint_every=4))
"""


def start(folder: Path, script: Path) -> tuple[subprocess.Popen[bytes], psutil.Process]:
    """A training by two processes that has stored a state: the first process, and the other."""
    script.write_text(textwrap.dedent(CALL).format(folder=str(folder)))
    here = Path(__file__).parents[1]
    paths = os.pathsep.join([str(here / "support"), str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while not list(folder.glob("model/resume/*/state.safetensors")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (other,) = (child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline()))
    return process, other


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.long
@pytest.mark.parametrize("killed", ["first", "other"])
def test_none_outlives_the_others(tmp_path: Path, killed: str) -> None:
    folder = Toy(tmp_path, PAPER, count=12).write()
    process, other = start(folder, tmp_path / "call.py")
    try:
        (process if killed == "first" else other).send_signal(signal.SIGKILL)
        _, said = process.communicate(timeout=60)
        deadline = time.monotonic() + 60
        while not gone(other):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        process.kill()
        if other.is_running():
            other.kill()
    assert process.returncode != 0
    if killed == "other":
        assert "process 1 of them was ended, by signal SIGKILL" in said.decode()
        assert "goes on from the last state" in said.decode()
    assert list(folder.glob("model/resume/*/state.safetensors"))


def test_two_that_were_broken_off_end_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Toy(tmp_path, MODERN, count=12).write()
    recipe = with_settings(recipe_of(MODERN, 2), checkpoint_every=3)
    whole = run(folder, recipe, name="whole")
    done: list[int] = []
    with monkeypatch.context() as patch:
        break_in(patch, 5, Killed, done)
        with pytest.raises(Killed):
            run(folder, recipe)
        break_in(patch, -1, Killed, done)
        broken = run(folder, recipe)
    assert done == [*range(5), *range(3, 8)]
    assert digest(broken) == digest(whole)
    assert without_seconds(broken) == without_seconds(whole)
