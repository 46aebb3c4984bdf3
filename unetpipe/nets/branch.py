"""Where the network branches: features go down through a max-pooling and across, cropped, to the way up.

::

    features --+-- max-pool -- pooled
               |
               +-- crop ------ skip
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_POOL: dict[int, Any] = {2: torch.nn.functional.max_pool2d, 3: torch.nn.functional.max_pool3d}
_POOL_BACKWARD: dict[int, Any] = {
    2: torch.ops.aten.max_pool2d_with_indices_backward,
    3: torch.ops.aten.max_pool3d_with_indices_backward,
}


def pool(features: Tensor, pooling: Sequence[int]) -> Tensor:
    """The features, max-pooled: the maximum of each window of ``pooling`` voxels, which is also the stride."""
    pooled: Tensor = _POOL[len(pooling)](features, tuple(pooling))
    return pooled


def branch(features: Tensor, pooling: Sequence[int], crop: Sequence[slice], *, training: bool) -> tuple[Tensor, Tensor]:
    """The features, max-pooled, and a cropped view of them.

    Parameters
    ----------
    features:
        (n, channels, y, x) or (n, channels, z, y, x).
    pooling, crop:
        For each axis in space.
    training:
        Values and gradients do not depend on it, the time of the backward pass does: of a crop alone PyTorch makes a
        gradient of full size, of zeros, in an order of memory that slows down whatever comes after it.
    """
    inner: tuple[Any, ...] = (..., *crop)
    if training:
        pooled, skip = _Branch.apply(features, tuple(pooling), inner)  # type: ignore[no-untyped-call]
    else:
        pooled, skip = pool(features, pooling), features[inner]
    return pooled, skip


class _Branch(torch.autograd.Function):
    """Adds the gradient of the crop to that of the pooling, in place and in the order of memory of the features."""

    @staticmethod
    def forward(
        context: Any, features: Tensor, pooling: tuple[int, ...], inner: tuple[Any, ...]
    ) -> tuple[Tensor, Tensor]:
        pooled, places = _POOL[len(pooling)](features, pooling, return_indices=True)
        context.save_for_backward(features, places)
        context.pooling, context.inner = pooling, inner
        return pooled, features[inner]

    @staticmethod
    @once_differentiable
    def backward(context: Any, pooled: Tensor, skip: Tensor) -> tuple[Tensor, None, None]:
        features, places = context.saved_tensors
        axes, size = len(context.pooling), context.pooling
        backward = _POOL_BACKWARD[axes]
        # Stride as the size, no padding, no dilation, sizes rounded down.
        gradient: Tensor = backward(pooled, features, size, size, [0] * axes, [1] * axes, False, places)
        gradient[context.inner] += skip
        return gradient, None, None
