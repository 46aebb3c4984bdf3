"""What a step of training is made of: the losses, the optimiser, and the learning rate."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from unetpipe import config
from unetpipe.config.types import Loss
from unetpipe.errors import UserError
from unetpipe.nets.layers import SegmentationNetwork

# A cycle as in Smith and Topin 2017 (arXiv:1708.07120): up in the first part, then down to almost nothing.
_UP = 0.3
_FIRST, _LAST = 1 / 25, 1e-4

Total = Callable[[Tensor], Tensor]


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


def make_optimiser(model: SegmentationNetwork, settings: config.Train) -> torch.optim.Optimizer:
    """Of the settings; only the weights of convolutions decay, not shifts and scales."""
    kernels = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if settings.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)
    # In one pass over the weights: a twentieth of a step of a narrow network.
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(settings.momentum, 0.999), fused=True)


def loss_of(kind: Loss, logits: Tensor, label: Tensor, weight: Tensor, total: Total = lambda part: part) -> Tensor:
    """:func:`weighted_loss`, :func:`dice_loss` or their sum, as Isensee et al. 2018 (arXiv:1809.10486) have it.

    ``total`` makes of a sum over these voxels the sum over all that the loss is of.
    """
    if kind == "cross_entropy":
        return weighted_loss(logits, label, weight, total)
    dice = dice_loss(total(dice_sums(logits, label, weight)))
    return dice if kind == "dice" else weighted_loss(logits, label, weight, total) + dice


def weighted_loss(logits: Tensor, label: Tensor, weight: Tensor, total: Total = lambda part: part) -> Tensor:
    """Softmax cross-entropy, weighted by voxel and divided by the sum of weights, in fp32.

    Parameters
    ----------
    logits:
        (n, classes, z, y, x).
    label:
        (n, z, y, x) int64.
    weight:
        (n, z, y, x) float32; where it is 0, the label does not count. If it is 0 everywhere, so is the loss.
    total:
        As for :func:`loss_of`.
    """
    losses = cross_entropy(logits.float(), label, reduction="none")
    weights = total(weight.sum()).clamp_min(torch.finfo(torch.float32).tiny)
    return total((losses * weight.flatten(1, 2)).sum()) / weights


def dice_sums(logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """What :func:`dice_loss` needs to know of some voxels; the sums of parts add up to those of the whole.

    Takes what :func:`weighted_loss` takes, and gives (3, classes) float32: with p the softmax of the logits, g 1 for
    the class of the label and else 0, and w the weights, the sums of w p g, w p² and w g² over all voxels of the batch.
    """
    p = torch.softmax(logits.float(), 1)
    g = torch.zeros_like(p).scatter_(1, label[:, None], 1.0)
    w = weight.float()[:, None]
    return torch.stack([(w * product).sum((0, 2, 3, 4)) for product in (p * g, p * p, g)])


def dice_loss(sums: Tensor) -> Tensor:
    """One minus the soft Dice coefficient, from :func:`dice_sums`: 0 for a perfect answer, at most 1.

    The coefficient of a class is 2 Σ w p g / (Σ w p² + Σ w g²), the form with squares of Milletari et al. 2016
    (arXiv:1606.04797, section 3), here with the weights of voxels, over all samples of the batch together, as a mean
    over the classes. A class of which no label counts has no coefficient; without any, the loss is 0.
    """
    both, squares, truth = sums
    there = truth > 0
    coefficients = 2 * both / torch.where(there, squares + truth, 1.0)
    mean: Tensor = torch.where(there, 1 - coefficients, 0.0).sum() / there.sum().clamp_min(1)
    return mean


def diverged(found: str) -> UserError:
    """What to say of a loss that is no number."""
    return UserError(
        "the network was to be trained",
        found,
        "lower train.learning_rate, to a third for a start; with train.precision bf16 try fp32, and with "
        "network.normalisation none try batch",
    )


def cross_entropy(logits: Tensor, label: Tensor, **how: Any) -> Tensor:
    """Of logits (n, classes, z, y, x) and labels (n, z, y, x); where not reduced, (n, z * y, x)."""
    # For an image PyTorch keeps the order in memory that convolutions are fast with, for a stack it copies everything.
    return functional.cross_entropy(logits.flatten(2, 3), label.flatten(1, 2), **how)


def _between(first: float, last: float, share: float) -> float:
    """From ``first`` to ``last`` along half a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2
