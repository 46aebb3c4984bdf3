"""The state of an unfinished training: all that a rerun needs to end in the same bytes as an unbroken run."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from unetpipe.errors import UserError
from unetpipe.files import write_bytes
from unetpipe.nets.layers import SegmentationNetwork

_KEY = "unetpipe"


@dataclass
class State:
    """How far a training has come.

    ``step``: steps done. ``best_step``, ``best_iou``, ``best``: where the mean IoU on validation was best, and the
    weights then; 0, None and empty before the first validation. ``rows``: the history, one row per step. ``average``
    and ``focus``: what the running mean of the weights and the choice of samples remember, empty where there is none.
    """

    step: int = 0
    best_step: int = 0
    best_iou: float | None = None
    best: dict[str, Tensor] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    average: dict[str, Tensor] = field(default_factory=dict)
    focus: dict[str, Tensor] = field(default_factory=dict)


_TENSORS = ("best", "average", "focus")
"""What of a state is no plain data."""


def save_state(path: Path, model: SegmentationNetwork, optimiser: torch.optim.Optimizer, state: State) -> None:
    """Store the weights, what the optimiser remembers, and ``state``, atomically."""
    tensors = {f"network.{name}": tensor for name, tensor in model.state_dict().items()}
    for part in _TENSORS:
        tensors |= {f"{part}.{name}": tensor for name, tensor in getattr(state, part).items()}
    for number, kept in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": tensor for name, tensor in kept.items()}
    plain = {name: value for name, value in vars(state).items() if name not in _TENSORS}
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(contiguous, metadata={_KEY: json.dumps(plain)}))


def restore_state(path: Path, model: SegmentationNetwork, optimiser: torch.optim.Optimizer) -> State | None:
    """Give the model and the optimiser what :func:`save_state` stored; None, with nothing touched, if there is none.

    Raises
    ------
    UserError
        If the file is damaged.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            plain = json.loads(file.metadata()[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 – it is no mapping
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"training was to go on from {path}",
            f"it is no whole safetensors file ({error})",
            f"delete {path.parent}: training begins anew",
        ) from None
    model.load_state_dict(_part(tensors, "network"))
    kept: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for name, tensor in _part(tensors, "optimiser").items():
        number, _, what = name.partition(".")
        parameter = parameters[int(number)]
        # In memory as an unbroken run has it: another order of the same numbers is computed in other steps.
        like = torch.empty_like(parameter) if tensor.shape == parameter.shape else torch.empty_like(tensor)
        kept.setdefault(int(number), {})[what] = like.copy_(tensor)
    optimiser.load_state_dict({**optimiser.state_dict(), "state": kept})
    whole: dict[str, Any] = plain | {part: _part(tensors, part) for part in _TENSORS}
    return State(**whole)


def _part(tensors: dict[str, Tensor], first: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{first}."): tensor for name, tensor in tensors.items() if name.startswith(f"{first}.")}
