"""The running mean of the weights: what the last steps agree on, without the noise of each."""

from collections.abc import Iterable, Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, update_bn

from unetpipe.nets.layers import SegmentationNetwork

BATCHES = 16
"""Batches from which the statistics of batch normalisation are estimated, the first of the training."""

_STATISTICS = 4
"""The stream of random numbers for dropout meanwhile; steps have another."""


class Average:
    """An exponential moving average of the weights of ``model``.

    After step t it is the mean of the weights after the steps k = 1 … t, each weighted by d^(t - k), d = 1 - 1 / steps:
    a moving average that begins at 0, divided by 1 - d^t (Kingma and Ba 2015, arXiv:1412.6980, section 3), so that what
    the network was before the first step has no part in it.

    A mean of statistics is not the statistics of a network with mean weights: those of batch normalisation are
    estimated anew (:meth:`settled`), as Izmailov et al. 2018 do (arXiv:1803.05407, section 3).

    Parameters
    ----------
    steps:
        The time constant.
    kept:
        What :attr:`state` was after the steps that are done; empty before the first.
    """

    def __init__(self, model: SegmentationNetwork, steps: int, kept: Mapping[str, Tensor]) -> None:
        decay = 1 - 1 / steps

        def mean(before: Tensor, weights: Tensor, taken: Tensor | int) -> Tensor:
            return torch.lerp(before, weights, (1 - decay) / (1 - decay ** (int(taken) + 1)))

        self._averaged = AveragedModel(model, avg_fn=mean)
        if kept:
            self._averaged.load_state_dict(kept)

    @property
    def state(self) -> dict[str, Tensor]:
        """All that is remembered: the tensors themselves, which change with every step."""
        return self._averaged.state_dict()

    def take(self, model: SegmentationNetwork) -> None:
        """Take in the weights of ``model`` after a step."""
        self._averaged.update_parameters(model)

    def settled(self, images: Iterable[Tensor], seed: int) -> SegmentationNetwork:
        """The network with the mean weights, its batch normalisation estimated on ``images``, batches (n, z, y, x).

        Mean and variance are plain means over the batches, in training as otherwise: with dropout, which follows from
        ``seed``. So the same weights give the same statistics. Not a copy: it changes with the next step.
        """
        torch.default_generator.manual_seed(int(np.random.SeedSequence([seed, _STATISTICS]).generate_state(1)[0]))
        update_bn(images, self._averaged.module)
        return cast("SegmentationNetwork", self._averaged.module)
