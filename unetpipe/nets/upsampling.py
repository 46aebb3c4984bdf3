"""Going up a level: each voxel becomes a window of voxels.

A transposed convolution whose stride is its kernel gives each voxel of the window weights of its own. The others have
one convolution of a single voxel, which halves the channels as well, and then put what it gives into the window::

    nearest     bed of nails     max-unpooling
     v v          v 0             0 0    where the maximum of the window was on the way down
     v v          0 0             v 0    (the first of equals, in the order of memory)
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unetpipe.nets.layers import CONVOLUTION, TRANSPOSED

Unpooling = Literal["nearest", "bed_of_nails", "max_unpooling"]
Upsampling = Literal["transposed"] | Unpooling


def make_upsampling(kind: Upsampling, below: int, above: int, window: Sequence[int]) -> nn.Module:
    """The convolution with which ``below`` channels become ``above``; :func:`unpool` follows all but ``transposed``.

    ``window``: voxels for each axis in space.
    """
    if kind == "transposed":
        return TRANSPOSED[len(window)](below, above, kernel_size=window, stride=window)
    return CONVOLUTION[len(window)](below, above, kernel_size=1)


def unpool(kind: Unpooling, values: Tensor, window: Sequence[int], pooled: Tensor) -> Tensor:
    """Each of ``values`` (n, channels, y, x), or with z, in a window: (n, channels, y * size, x * size).

    Parameters
    ----------
    pooled:
        What the windows held on the way down, of the shape of the result; read for ``max_unpooling`` alone. That is
        ``torch.nn.functional.max_unpool2d`` with the places from ``max_pool2d``, and in 3D likewise, bit for bit.
    """
    if kind == "max_unpooling":
        return _windows([torch.where(place, values, 0.0) for place in _first_maxima(pooled.detach(), window)], window)
    if kind == "nearest":
        return _windows([values] * len(_phases(window)), window)
    nothing = torch.zeros_like(values)
    return _windows([values, *[nothing] * (len(_phases(window)) - 1)], window)


def _phases(window: Sequence[int]) -> list[tuple[int, ...]]:
    """The places in a window, in the order of memory."""
    return list(itertools.product(*(range(size) for size in window)))


def _first_maxima(features: Tensor, window: Sequence[int]) -> list[Tensor]:
    """For each place in the window, where it holds the maximum of the window and none before it does.

    After ReLU many windows are zeros alone: all their voxels are maxima, and pooling remembers the first. TensorRT has
    no operation for places, but all of these.
    """
    phases = []
    for place in _phases(window):
        voxels: tuple[Any, ...] = (..., *(slice(a, None, step) for a, step in zip(place, window, strict=True)))
        phases.append(features[voxels])
    maximum = functools.reduce(torch.maximum, phases)
    places, before = [], None
    for phase in phases:
        here = phase == maximum
        places.append(here if before is None else here & ~before)
        before = here if before is None else before | here
    return places


def _windows(phases: list[Tensor], window: Sequence[int]) -> Tensor:
    """Put the voxels of each place in the windows, given in the order of memory, beside each other."""
    for axis in reversed(range(len(window))):
        size, dim = window[axis], axis - len(window)
        phases = [
            # (…, y, x) times size -> (…, y, x, size) -> (…, y, x * size)
            torch.stack(phases[start : start + size], dim=dim).flatten(dim - 1, dim)
            for start in range(0, len(phases), size)
        ]
    return phases[0]
