"""How features of the way down are joined to those of the way up."""

from typing import Literal

import torch
from torch import Tensor

Skips = Literal["concatenate", "add", "multiply", "none"]


def channels_joined(skips: Skips, channels: int) -> int:
    """Channels that :func:`join` gives, where each side has ``channels``."""
    return 2 * channels if skips == "concatenate" else channels


def join(skips: Skips, down: Tensor, up: Tensor) -> Tensor:
    """Features of the way down (arXiv:1505.04597 concatenates them) with those of the way up, of the same shape."""
    if skips == "concatenate":
        return torch.cat([down, up], dim=1)
    if skips == "add":
        return down + up
    return down * up if skips == "multiply" else up
