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
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import unetpipe
from unetpipe import config
from unetpipe.config.types import Loss
from unetpipe.data.batches import Batch, Samples
from unetpipe.data.focus import Focus
from unetpipe.errors import UserError
from unetpipe.files import digest, digest_of, read_json, write_bytes
from unetpipe.grid import Shape
from unetpipe.nets.average import BATCHES, Average
from unetpipe.nets.build import build
from unetpipe.nets.checkpoint import load_checkpoint, save_checkpoint
from unetpipe.nets.layers import SegmentationNetwork
from unetpipe.nets.recipe import diverged, learning_rate, loss_of, make_optimiser
from unetpipe.nets.repeatable import processor_facts, repeatable, usable_precision
from unetpipe.nets.state import State, restore_state, save_state
from unetpipe.progress_bar import track
from unetpipe.validate import validate
from unetpipe.watch import Board, forget

NORMALISATION = "each section has mean 0 and standard deviation 1, by the constants of its volume.json"

_DROPOUT = 2
"""The stream of random numbers for dropout; batches have others."""

_OFF = {"loss": "cross_entropy", "average": 0, "focus": 0.0}
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
    processor = processor_facts()
    settings = settings.model_copy(update={"precision": usable_precision(settings.precision, processor)})
    data = Samples(store)
    described = read_json(samples)
    samples_digest = described["digest"]
    # What does not change the result must not change its description either.
    recipe = settings.model_dump(mode="json", exclude={"init", "checkpoint_every", "tensorboard"})
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
    folder = checkpoint.parent / "resume"
    path = folder / digest_of(key)[:16] / "state.safetensors"
    with repeatable(settings.threads, seed):
        model = build(network, len(classes))
        model.lay_channels_last()
        if init is not None:
            _start_from(init, model, classes)
        optimiser = make_optimiser(model, settings)
        state = restore_state(path, model, optimiser)
        if state is None:
            state = State()
            if folder.exists():
                log.info(
                    "%s holds a training with other settings, samples, software or processor; it is not used", folder
                )
        else:
            log.info("going on from step %d, which an unfinished run has stored", state.step)
        average = Average(model, settings.average, state.average) if settings.average else None
        focus = None
        if settings.focus:
            kept = {name: losses.numpy() for name, losses in state.focus.items()}
            focus = Focus(data.count, settings.batch, settings.focus, seed, kept)
        with ExitStack() as stack:
            board = None
            if settings.tensorboard:
                board = stack.enter_context(Board(checkpoint.parent / "tensorboard", classes, state.rows))
            elif state.step == 0:
                forget(checkpoint.parent / "tensorboard")
            parts = _Parts(model, optimiser, data, state, settings, classes, seed, average, focus, board)
            _train(parts, partial(save_state, path, model, optimiser, state))
        if state.best:
            model.load_state_dict(state.best)
        elif average is not None:
            model.load_state_dict(parts.kept().state_dict())
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
class _Parts:
    """What a training is made of; ``average``, ``focus`` and ``board`` are None where they are not asked for."""

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
        return self.average.settled((torch.from_numpy(batch.image) for batch in batches), self.seed)


def _train(parts: _Parts, store: Callable[[], None]) -> None:
    """Do the steps that the state lacks; what changes is the model, the optimiser and the state."""
    data, state, settings, average, focus = parts.data, parts.state, parts.settings, parts.average, parts.focus
    stored = state.step
    begin = time.monotonic() - (state.rows[-1]["seconds"] if state.rows else 0.0)
    order = None if focus is None else focus.order
    batches = data.batches(range(state.step, settings.steps), settings.batch, parts.seed, order)
    try:
        for batch in track(batches, "training", settings.steps, "steps", done=state.step):
            if state.best and 0 < settings.patience * settings.validate_every <= state.step - state.best_step:
                log.info("no better mean IoU since step %d: training ends at %d", state.best_step, state.step)
                break
            rate = learning_rate(state.step, settings)
            losses = one_step(parts.model, parts.optimiser, batch, rate, settings, parts.seed, state.step)
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
            if state.step % settings.checkpoint_every == 0:
                if average is not None:
                    state.average = average.state
                if focus is not None:
                    state.focus = {name: torch.from_numpy(kept) for name, kept in focus.state.items()}
                store()
                stored = state.step
    except KeyboardInterrupt:
        log.warning("interrupted in step %d; a rerun with the same settings goes on from step %d", state.step, stored)
        raise


def _validate(parts: _Parts) -> dict[str, Any]:
    """The columns of the history after a validation; the best weights are remembered."""
    state, kept = parts.state, parts.kept()
    show = None if parts.board is None else partial(parts.board.show, state.step)
    scores = validate(kept, parts.data, parts.classes, parts.settings.loss, state.step, show)
    if state.best_iou is None or scores["validation_mean_iou"] > state.best_iou:
        state.best_step, state.best_iou = state.step, scores["validation_mean_iou"]
        state.best = {name: tensor.clone() for name, tensor in kept.state_dict().items()}
    return scores


class Losses(NamedTuple):
    """Of a step: that of the batch, and those that each sample alone would have had; empty where nobody asks."""

    batch: float
    samples: tuple[float, ...]


def one_step(
    model: SegmentationNetwork,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    rate: float,
    settings: config.Train,
    seed: int,
    step: int,
) -> Losses:
    """One step of the optimiser, at the learning rate ``rate``; gives the losses before it.

    ``settings.precision`` says what to compute in, ``auto`` is fp32 here. Dropout follows from ``seed`` and ``step``.

    Raises
    ------
    UserError
        If the loss is no number.
    """
    # The generator itself: torch.manual_seed would also queue a call for a GPU that is never used, at every step.
    torch.default_generator.manual_seed(int(np.random.SeedSequence([seed, _DROPOUT, step]).generate_state(1)[0]))
    model.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
        logits = model(torch.from_numpy(batch.image))
    answer = logits, torch.from_numpy(batch.label), torch.from_numpy(batch.weight)
    loss = loss_of(settings.loss, *answer)
    value = loss.item()
    if not math.isfinite(value):
        raise diverged(f"the loss at step {step + 1} is {value}, at a learning rate of {rate:.3g}")
    samples = _losses_of_samples(settings.loss, *answer) if settings.focus else ()
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return Losses(value, samples)


@torch.no_grad()
def _losses_of_samples(kind: Loss, *answer: Tensor) -> tuple[float, ...]:
    """Of each sample, as if it were a batch by itself, from the logits, labels and weights of a batch."""
    return tuple(loss_of(kind, *(part[None] for part in parts)).item() for parts in zip(*answer, strict=True))


def _start_from(path: Path, model: SegmentationNetwork, classes: list[str]) -> None:
    """Give ``model`` the weights of a checkpoint; UserError if it is of another architecture or for other classes."""
    other, metadata = load_checkpoint(path)
    found, wanted = _description(other, metadata["classes"]), _description(model, classes)
    if found != wanted:
        raise UserError(
            f"training was to start from {path}, with {wanted}",
            f"it holds {found}",
            "set network and classes to those of the checkpoint, or leave train.init out",
        )
    model.load_state_dict(other.state_dict())


def _description(model: SegmentationNetwork, classes: list[str]) -> str:
    """All that must agree for the weights of one network to mean the same in another."""
    network = model.settings
    return (
        f"a {network.name} of width {network.width} and depth {network.depth}, kernels {_listed(network.kernels)}, "
        f"poolings {_listed(network.poolings)}, sections {network.sections}, skips {network.skips}, "
        f"upsampling {network.upsampling}, normalisation {network.normalisation}, for the classes {', '.join(classes)}"
    )


def _listed(shapes: Sequence[Shape]) -> str:
    """Of each level, (z, y, x); once where all are the same."""
    alike = shapes[:1] if len(set(shapes)) == 1 else shapes
    return ", ".join(" x ".join(map(str, shape)) for shape in alike)


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
