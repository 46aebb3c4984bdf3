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
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import unetpipe
from unetpipe import config
from unetpipe.data.batches import Batch, Samples
from unetpipe.errors import UserError
from unetpipe.files import digest, digest_of, read_json, write_bytes
from unetpipe.grid import Shape
from unetpipe.metrics import confusion
from unetpipe.nets.checkpoint import load_checkpoint, save_checkpoint
from unetpipe.nets.state import State, restore_state, save_state
from unetpipe.nets.unet import UNet
from unetpipe.progress_bar import track
from unetpipe.volume import IGNORE

NORMALISATION = "each section has mean 0 and standard deviation 1, by the constants of its volume.json"

# A cycle as in Smith and Topin 2017 (arXiv:1708.07120): up in the first part, then down to almost nothing.
_UP = 0.3
_FIRST, _LAST = 1 / 25, 1e-4

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
    processor = _processor()
    settings = settings.model_copy(update={"precision": _precision(settings.precision, processor)})
    data = Samples(store)
    samples_digest = read_json(samples)["digest"]
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
    with _repeatable(settings.threads, seed):
        model = UNet(network, len(classes))
        model.to(memory_format=model.memory_format)  # type: ignore[call-overload]
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


def learning_rate(step: int, settings: config.Train) -> float:
    """Of the step ``step``, counted from 0."""
    if settings.schedule == "constant":
        return settings.learning_rate
    top = _UP * (settings.steps - 1)
    if step < top:
        share = _between(_FIRST, 1, step / top)
    else:
        share = _between(1, _LAST, (step - top) / max(settings.steps - 1 - top, 1))
    return settings.learning_rate * share


def make_optimiser(model: UNet, settings: config.Train) -> torch.optim.Optimizer:
    """Of the settings; only the weights of convolutions decay, not shifts and scales."""
    kernels = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if settings.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(settings.momentum, 0.999))


def weighted_loss(logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Softmax cross-entropy, weighted by voxel and divided by the sum of weights, in fp32.

    Parameters
    ----------
    logits:
        (n, classes, z, y, x).
    label:
        (n, z, y, x) int64.
    weight:
        (n, z, y, x) float32; where it is 0, the label does not count. If it is 0 everywhere, so is the loss.
    """
    losses = _cross_entropy(logits.float(), label, reduction="none")
    return (losses * weight.flatten(1, 2)).sum() / weight.sum().clamp_min(torch.finfo(torch.float32).tiny)


def _cross_entropy(logits: Tensor, label: Tensor, **how: Any) -> Tensor:
    """Of logits (n, classes, z, y, x) and labels (n, z, y, x); where not reduced, (n, z * y, x)."""
    # For an image PyTorch keeps the order in memory that convolutions are fast with, for a stack it copies everything.
    return functional.cross_entropy(logits.flatten(2, 3), label.flatten(1, 2), **how)


def _train(
    model: UNet,
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
            loss = _step(model, optimiser, batch, rate, settings, seed, state.step)
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


def _step(
    model: UNet,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    rate: float,
    settings: config.Train,
    seed: int,
    step: int,
) -> float:
    """One step of the optimiser; gives the loss before it."""
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
def _validate(model: UNet, data: Samples, classes: list[str], step: int) -> dict[str, Any]:
    """Loss and IoU on all validation tiles together, in fp32: the columns of the history."""
    model.eval()
    table = np.zeros((len(classes), len(classes)), np.int64)
    losses = []
    for image, label in data.validation():
        logits = model(torch.from_numpy(image))  # (1, classes, z, y, x)
        truth = torch.from_numpy(label.astype(np.int64))
        losses.append(_cross_entropy(logits, truth, ignore_index=IGNORE, reduction="sum").item())
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


def _keep_if_best(model: UNet, state: State, mean_iou: float) -> None:
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


def _start_from(path: Path, model: UNet, classes: list[str]) -> None:
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


def _description(model: UNet, classes: list[str]) -> str:
    """All that must agree for the weights of one network to mean the same in another."""
    network = model.settings
    return (
        f"a {network.name} of width {network.width} and depth {network.depth}, kernels {_listed(network.kernels)}, "
        f"poolings {_listed(network.poolings)}, sections {network.sections}, normalisation {network.normalisation}, "
        f"for the classes {', '.join(classes)}"
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


def _between(first: float, last: float, share: float) -> float:
    """From ``first`` to ``last`` along half a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def _processor() -> dict[str, str]:
    """What makes PyTorch compute in one order or another: the instructions that it uses, and those that there are."""
    facts = {"machine": platform.machine(), "capability": torch.backends.cpu.get_cpu_capability()}
    with suppress(FileNotFoundError):  # Linux alone has it
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        facts |= dict(re.findall(r"^(model name|flags|Features)\s*: (.*)$", text, re.MULTILINE))
    return facts


def _precision(wanted: str, processor: dict[str, str]) -> str:
    """``bf16`` or ``fp32``. On x86-64 without instructions for it bf16 took 2.5 to 7 times as long as fp32."""
    fast = not {"avx512_bf16", "amx_bf16"}.isdisjoint(processor.get("flags", "").split())
    if wanted == "bf16" and not fast:
        log.warning("this processor has no instructions for bf16: train.precision fp32 would be several times as fast")
    return wanted if wanted != "auto" else "bf16" if fast else "fp32"


@contextmanager
def _repeatable(threads: int, seed: int) -> Iterator[None]:
    """PyTorch with ``threads`` threads, deterministic operations and a seeded generator; all as before afterwards."""
    filling: Any = torch.utils.deterministic
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), filling.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[]):
        try:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(True)
            # It would write every tensor twice; nothing here reads what it has not written.
            filling.fill_uninitialized_memory = False
            torch.default_generator.manual_seed(seed)
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.use_deterministic_algorithms(before[1])
            filling.fill_uninitialized_memory = before[2]
