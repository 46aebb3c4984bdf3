"""Train the network, by the paper's recipe (arXiv:1505.04597, section 3) or a modern one.

Everything counts steps, and what is random follows from the seed and the step alone. So the same seed gives the same
bytes, on the same machine and with the same number of threads, also when training was killed and went on from the last
state that it had stored::

    step    0 ........ 100 ........ 200 ... killed at 263
    states              |            |
    rerun                            200 ........ 300 ...     201 to 263 are done again, and come out the same
"""

import csv
import io
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import unetpipe
from unetpipe import config
from unetpipe.config.types import Loss
from unetpipe.data.batches import Batch, Samples
from unetpipe.data.focus import Focus
from unetpipe.errors import StoppedError
from unetpipe.files import digest, digest_of, read_json, write_bytes
from unetpipe.nets.average import BATCHES, Average
from unetpipe.nets.build import build
from unetpipe.nets.checkpoint import save_checkpoint, start_from
from unetpipe.nets.layers import SegmentationNetwork
from unetpipe.nets.recipe import diverged, learning_rate, loss_of, make_optimiser
from unetpipe.nets.repeatable import (
    device_facts,
    manual_seed,
    processor_facts,
    repeatable,
    usable_device,
    usable_precision,
)
from unetpipe.nets.state import State, restore_state, save_state
from unetpipe.nets.together import Team, together
from unetpipe.progress_bar import track
from unetpipe.validate import validate
from unetpipe.watch import Board, forget

NORMALISATION = "each section has mean 0 and standard deviation 1, by the constants of its volume.json"

_DROPOUT = 2
"""The stream of random numbers for dropout; batches have others."""

_OFF = {"loss": "cross_entropy", "average": 0, "focus": 0.0, "processes": 1}
"""Settings that belong to the description of a training only where they are used, as if there were none of them."""

log = logging.getLogger(__name__)


def train(
    samples: Path,
    store: Path,
    checkpoint: Path,
    history: Path,
    *,
    network: config.Network,
    settings: config.Train,
    classes: list[str],
    seed: int,
    init: Path | None = None,
) -> None:
    """Back the rule ``train``: learn from the samples, and keep the weights with the best mean IoU on validation.

    The usual loss of a step is the softmax cross-entropy of each voxel times its weight, divided by the sum of weights:
    the energy of arXiv:1505.04597, equation 1, but for the divisor; :func:`unetpipe.nets.recipe.loss_of` has others.
    The loss on validation is of the same kind and counts all voxels alike. Without validation volumes the last weights
    are kept. With ``settings.average``, the weights that are validated and kept are a mean of those of the last steps.

    A state is stored every ``settings.checkpoint_every`` steps in ``resume/`` beside the checkpoint, in a folder named
    after everything that changes the result. It goes when the checkpoint is written. With ``settings.tensorboard``,
    events to watch are in ``tensorboard/`` there, and remain; without it, those of another training are removed.

    Parameters
    ----------
    samples:
        ``samples.json``.
    store:
        ``samples.zarr``.
    checkpoint:
        Where the weights go, with their description.
    history:
        Where the table of steps goes.
    init:
        A checkpoint to start from; ``settings.init`` does not count here.

    Raises
    ------
    UserError
        If the loss is no number, if ``init`` has another architecture or other classes, if a state cannot be read,
        or if TensorBoard is asked for and not installed.
    """
    processor, device = processor_facts(), usable_device(settings.device, settings.processes)
    settings = settings.model_copy(update={"precision": usable_precision(settings.precision, processor, device)})
    described = read_json(samples)
    samples_digest = described["digest"]
    # What does not change the result must not change its description either.
    recipe = settings.model_dump(mode="json", exclude={"init", "checkpoint_every", "tensorboard", "device"})
    recipe = {name: value for name, value in recipe.items() if name not in _OFF or value != _OFF[name]}
    recipe["init"] = None if init is None else digest(init)
    key = {
        "network": network.model_dump(mode="json"),
        "settings": recipe,
        "classes": classes,
        "seed": seed,
        "samples": samples_digest,
        "version": unetpipe.__version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "processor": processor,
    }
    if device.type != "cpu":
        key["device"] = recipe["device"] = device_facts(device)
    folder, events = checkpoint.parent / "resume", checkpoint.parent / "tensorboard"
    path = folder / digest_of(key)[:16] / "state.safetensors"
    if folder.exists() and not path.exists():
        log.info("%s holds a training with other settings, samples, software or processor; it is not used", folder)
    task = _Task(store, path, events, network, settings, classes, seed, init)
    with together(device, settings.processes, _learn, task) as team:
        model, state = _learn(team, task)
    _write_history(history, state.rows, classes)
    metadata = {
        "classes": classes,
        "geometry": asdict(model.geometry),
        "normalisation": NORMALISATION,
        "voxel_size_nm": described.get("voxel_size_nm"),
        "version": unetpipe.__version__,
        "training": {
            "steps": state.step,
            "best_step": state.best_step if state.best else state.step,
            "seed": seed,
            "samples_digest": samples_digest,
            "settings": recipe,
            "validated": bool(state.best),
        },
    }
    save_checkpoint(checkpoint, model, metadata)
    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class _Task:
    """What is to be learnt, for every process.

    ``state``: the file of the state that an unfinished run has stored. ``events``: the folder for what is to be
    watched.
    """

    store: Path
    state: Path
    events: Path
    network: config.Network
    settings: config.Train
    classes: list[str]
    seed: int
    init: Path | None


@dataclass(frozen=True)
class _Parts:
    """What a training is made of; ``average``, ``focus`` and ``board`` are None where they are not asked for.

    ``network``: through which batches go in training; ``model``, or around it.
    """

    team: Team
    network: nn.Module
    model: SegmentationNetwork
    optimiser: torch.optim.Optimizer
    data: Samples
    state: State
    settings: config.Train
    classes: list[str]
    seed: int
    average: Average | None
    focus: Focus | None
    board: Board | None

    def kept(self) -> SegmentationNetwork:
        """The network that is validated and kept after this step."""
        if self.average is None:
            return self.model
        batches = (self.data.batch(step, self.settings.batch, self.seed) for step in range(BATCHES))
        images = (torch.from_numpy(batch.image).to(self.team.device) for batch in batches)
        return self.average.settled(images, self.seed)


def _learn(team: Team, task: _Task) -> tuple[SegmentationNetwork, State]:
    """The part of one process; gives the weights to keep, and how far it has come."""
    settings, classes, seed = task.settings, task.classes, task.seed
    data = Samples(task.store)
    with repeatable(settings.threads, seed, team.device), ExitStack() as stack:
        model = build(task.network, len(classes))
        model.lay_channels_last()
        if task.init is not None:
            start_from(task.init, model, classes)
        optimiser = make_optimiser(model.to(team.device), settings)
        state = restore_state(task.state, model, optimiser)
        if state is None:
            state = State()
        else:
            log.info("going on from step %d, which an unfinished run has stored", state.step)
        focus = None
        if settings.focus:
            kept = {name: losses.numpy() for name, losses in state.focus.items()}
            focus = Focus(data.count, settings.batch, settings.focus, seed, kept)
        average = board = None
        if team.leads:
            average = Average(model, settings.average, state.average) if settings.average else None
            if settings.tensorboard:
                board = stack.enter_context(Board(task.events, classes, state.rows))
            elif state.step == 0:
                forget(task.events)
        # Last: what the average is a copy of asks no other process for its statistics.
        network = team.joined(model)
        parts = _Parts(
            team, network, model, optimiser, data, state, settings, classes, seed, average, focus, board
        )  # fmt: skip
        _train(parts, partial(save_state, task.state, model, optimiser, state))
        if state.best:
            model.load_state_dict(state.best)
        elif average is not None:
            model.load_state_dict(parts.kept().state_dict())
    return model, state


def _train(parts: _Parts, store: Callable[[], None]) -> None:
    """Do the steps that the state lacks; what changes is the model, the optimiser and the state."""
    team, data, state, settings = parts.team, parts.data, parts.state, parts.settings
    average, focus = parts.average, parts.focus
    stored = state.step
    begin = time.monotonic() - (state.rows[-1]["seconds"] if state.rows else 0.0)
    order = None if focus is None else focus.order
    batches: Iterable[Batch] = data.batches(
        range(state.step, settings.steps), settings.batch, parts.seed, order, team.share(settings.batch)
    )
    if team.leads:
        batches = track(batches, "training", settings.steps, "steps", done=state.step)
    try:
        for batch in batches:
            since = state.step - state.best_step
            if state.best_iou is not None and 0 < settings.patience * settings.validate_every <= since:
                log.info("no better mean IoU since step %d: training ends at %d", state.best_step, state.step)
                break
            rate = learning_rate(state.step, settings)
            losses = one_step(team, parts.network, parts.optimiser, batch, rate, settings, parts.seed, state.step)
            if average is not None:
                average.take(parts.model)
            if focus is not None:
                focus.learn(state.step, batch.samples, losses.samples)
            state.step += 1
            row: dict[str, Any] = {"step": state.step, "loss": losses.batch, "learning_rate": rate}
            state.rows.append(row)
            if state.step % settings.validate_every == 0 or state.step == settings.steps:
                if data.tiles:
                    row |= _validate(parts)
                _log_losses(state.rows[-settings.validate_every :])
            row["seconds"] = round(time.monotonic() - begin, 3)
            if parts.board is not None:
                parts.board.add(row)
            if team.leads and state.step % settings.checkpoint_every == 0:
                if average is not None:
                    state.average = average.state
                if focus is not None:
                    state.focus = {name: torch.from_numpy(kept) for name, kept in focus.state.items()}
                store()
                stored = state.step
    except (KeyboardInterrupt, StoppedError):
        log.warning("interrupted in step %d; a rerun with the same settings goes on from step %d", state.step, stored)
        raise


def _validate(parts: _Parts) -> dict[str, Any]:
    """The columns of the history after a validation, which the first process does; it remembers the best weights."""
    team, state, scores = parts.team, parts.state, None
    if team.leads:
        kept = parts.kept()
        show = None if parts.board is None else partial(parts.board.show, state.step)
        scores = validate(kept, parts.data, parts.classes, parts.settings.loss, state.step, show)
    found: dict[str, Any] = team.told(scores)
    if state.best_iou is None or found["validation_mean_iou"] > state.best_iou:
        state.best_step, state.best_iou = state.step, found["validation_mean_iou"]
        if team.leads:
            state.best = {name: tensor.clone() for name, tensor in kept.state_dict().items()}
    return found


class Losses(NamedTuple):
    """Of a step: that of the batch, and those that each sample alone would have had; empty where nobody asks."""

    batch: float
    samples: tuple[float, ...]


def one_step(
    team: Team,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    rate: float,
    settings: config.Train,
    seed: int,
    step: int,
) -> Losses:
    """One step of the optimiser, at the learning rate ``rate``; gives the losses before it, of the whole batch.

    ``batch`` holds the voxels of this process's share. ``settings.precision`` says what to compute in, ``auto`` is fp32
    here. Dropout follows from ``seed``, ``step`` and the process.

    Raises
    ------
    UserError
        If the loss is no number.
    """
    manual_seed([seed, _DROPOUT, step, *([team.rank] if team.rank else [])], team.device)
    network.train()
    image, label, weight = (
        torch.from_numpy(array).to(team.device) for array in (batch.image, batch.label, batch.weight)
    )
    with torch.autocast(team.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        logits = network(image)
    loss = loss_of(settings.loss, logits, label, weight, team.total)
    value = loss.item()
    if not math.isfinite(value):
        raise diverged(f"the loss at step {step + 1} is {value}, at a learning rate of {rate:.3g}")
    samples = team.gathered(_losses_of_samples(settings.loss, logits, label, weight)) if settings.focus else ()
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return Losses(value, tuple(samples))


@torch.no_grad()
def _losses_of_samples(kind: Loss, *answer: Tensor) -> list[float]:
    """Of each sample, as if it were a batch by itself, from the logits, labels and weights of a batch."""
    return [loss_of(kind, *(part[None] for part in parts)).item() for parts in zip(*answer, strict=True)]


def _write_history(path: Path, rows: list[dict[str, Any]], classes: list[str]) -> None:
    columns = ["step", "seconds", "loss", "learning_rate", "validation_loss", "validation_mean_iou"]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*columns, *(f"iou_{name}" for name in classes)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def _log_losses(rows: list[dict[str, Any]]) -> None:
    last = rows[-1]
    text = f"step {last['step']}: loss {math.fsum(row['loss'] for row in rows) / len(rows):.4f}"
    if "validation_loss" in last:
        text += f"; validation: loss {last['validation_loss']:.4f}, mean IoU {last['validation_mean_iou']:.4f}"
    log.info("%s", text)
