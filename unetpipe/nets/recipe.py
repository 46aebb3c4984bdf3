"""What a step of training is made of: the loss, the optimiser, and the learning rate."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from unetpipe import config
from unetpipe.nets.layers import SegmentationNetwork

# A cycle as in Smith and Topin 2017 (arXiv:1708.07120): up in the first part, then down to almost nothing.
_UP = 0.3
_FIRST, _LAST = 1 / 25, 1e-4


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
    losses = cross_entropy(logits.float(), label, reduction="none")
    return (losses * weight.flatten(1, 2)).sum() / weight.sum().clamp_min(torch.finfo(torch.float32).tiny)


def cross_entropy(logits: Tensor, label: Tensor, **how: Any) -> Tensor:
    """Of logits (n, classes, z, y, x) and labels (n, z, y, x); where not reduced, (n, z * y, x)."""
    # For an image PyTorch keeps the order in memory that convolutions are fast with, for a stack it copies everything.
    return functional.cross_entropy(logits.flatten(2, 3), label.flatten(1, 2), **how)


def _between(first: float, last: float, share: float) -> float:
    """From ``first`` to ``last`` along half a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2
