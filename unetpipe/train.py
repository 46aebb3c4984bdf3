"""Train the network: weighted cross-entropy, by the paper's recipe (arXiv:1505.04597, section 3) or a modern one.

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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import unetpipe
from unetpipe import config
from unetpipe.data.batches import Batch, Samples
from unetpipe.errors import UserError
from unetpipe.files import digest, digest_of, read_json, write_bytes
from unetpipe.grid import Shape
from unetpipe.metrics import confusion
from unetpipe.nets.build import build
from unetpipe.nets.checkpoint import load_checkpoint, save_checkpoint
from unetpipe.nets.layers import SegmentationNetwork
from unetpipe.nets.recipe import cross_entropy, learning_rate, make_optimiser, weighted_loss
from unetpipe.nets.repeatable import processor_facts, repeatable, usable_precision
from unetpipe.nets.state import State, restore_state, save_state
from unetpipe.progress_bar import track
from unetpipe.volume import IGNORE

NORMALISATION = "each section has mean 0 and standard deviation 1, by the constants of its volume.json"

_DROPOUT = 2
"""The stream of random numbers for dropout; batches have others."""

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

    The loss of a step is the softmax cross-entropy of each voxel times its weight, divided by the sum of weights: the
    energy of arXiv:1505.04597, equation 1, but for the divisor. The loss on validation counts all voxels alike. Without
    validation volumes the last weights are kept.

    A state is stored every ``settings.checkpoint_every`` steps in ``resume/`` beside the checkpoint, in a folder named
    after everything that changes the result. It goes when the checkpoint is written.

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
        If the loss is no number, if ``init`` has another architecture or other classes, or if a state cannot be read.
    """
    processor = processor_facts()
    settings = settings.model_copy(update={"precision": usable_precision(settings.precision, processor)})
    data = Samples(store)
    described = read_json(samples)
    samples_digest = described["digest"]
    # What does not change the result must not change its description either.
    recipe = settings.model_dump(mode="json", exclude={"init", "checkpoint_every"})
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
        _train(
            model, optimiser, data, state, settings, classes, seed, lambda: save_state(path, model, optimiser, state)
        )
        if state.best:
            model.load_state_dict(state.best)
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


def _train(
    model: SegmentationNetwork,
    optimiser: torch.optim.Optimizer,
    data: Samples,
    state: State,
    settings: config.Train,
    classes: list[str],
    seed: int,
    store: Callable[[], None],
) -> None:
    """Do the steps that ``state`` lacks; what changes is the model, the optimiser and the state."""
    stored = state.step
    begin = time.monotonic() - (state.rows[-1]["seconds"] if state.rows else 0.0)
    batches = data.batches(range(state.step, settings.steps), settings.batch, seed)
    try:
        for batch in track(batches, "training", settings.steps, "steps", done=state.step):
            if state.best and 0 < settings.patience * settings.validate_every <= state.step - state.best_step:
                log.info("no better mean IoU since step %d: training ends at %d", state.best_step, state.step)
                break
            rate = learning_rate(state.step, settings)
            loss = one_step(model, optimiser, batch, rate, settings, seed, state.step)
            state.step += 1
            row: dict[str, Any] = {"step": state.step, "loss": loss, "learning_rate": rate}
            state.rows.append(row)
            if state.step % settings.validate_every == 0 or state.step == settings.steps:
                if data.tiles:
                    row |= _validate(model, data, classes, state.step)
                    _keep_if_best(model, state, row["validation_mean_iou"])
                _log_losses(state.rows[-settings.validate_every :])
            row["seconds"] = round(time.monotonic() - begin, 3)
            if state.step % settings.checkpoint_every == 0:
                store()
                stored = state.step
    except KeyboardInterrupt:
        log.warning("interrupted in step %d; a rerun with the same settings goes on from step %d", state.step, stored)
        raise


def one_step(
    model: SegmentationNetwork,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    rate: float,
    settings: config.Train,
    seed: int,
    step: int,
) -> float:
    """One step of the optimiser, at the learning rate ``rate``; gives the loss before it.

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
    loss = weighted_loss(logits, torch.from_numpy(batch.label), torch.from_numpy(batch.weight))
    value = loss.item()
    if not math.isfinite(value):
        raise _diverged(f"the loss at step {step + 1} is {value}, at a learning rate of {rate:.3g}")
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return value


@torch.no_grad()
def _validate(model: SegmentationNetwork, data: Samples, classes: list[str], step: int) -> dict[str, Any]:
    """Loss and IoU on all validation tiles together, in fp32: the columns of the history."""
    model.eval()
    table = np.zeros((len(classes), len(classes)), np.int64)
    losses = []
    for image, label in data.validation():
        logits = model(torch.from_numpy(image))  # (1, classes, z, y, x)
        truth = torch.from_numpy(label.astype(np.int64))
        losses.append(cross_entropy(logits, truth, ignore_index=IGNORE, reduction="sum").item())
        table += confusion.count(label, logits.argmax(1).numpy().astype(np.uint8), len(classes))
    voxels = int(table.sum())
    if voxels == 0:
        raise UserError(
            "the network was to be validated",
            "no voxel of the validation volumes has a label that is not ignored",
            "give the validation volumes labels, or another role",
        )
    loss = math.fsum(losses) / voxels
    if not math.isfinite(loss):
        raise _diverged(f"the loss on validation after step {step} is {loss}")
    scores = {f"iou_{name}": value for name, value in zip(classes, confusion.iou(table), strict=True)}
    return {"validation_loss": loss, "validation_mean_iou": confusion.mean_iou(table), **scores}


def _keep_if_best(model: SegmentationNetwork, state: State, mean_iou: float) -> None:
    if state.best_iou is None or mean_iou > state.best_iou:
        state.best_step, state.best_iou = state.step, mean_iou
        state.best = {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _diverged(found: str) -> UserError:
    return UserError(
        "the network was to be trained",
        found,
        "lower train.learning_rate, to a third for a start; with train.precision bf16 try fp32, and with "
        "network.normalisation none try batch",
    )


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
