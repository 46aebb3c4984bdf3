"""What was stored comes back bit for bit, and as it lay in memory."""

from pathlib import Path
from typing import Any

import pytest
import torch

from unetpipe import config
from unetpipe.errors import UserError
from unetpipe.nets.state import State, restore_state, save_state
from unetpipe.nets.unet import UNet

NETWORKS = {
    "2D": config.Network(width=2, depth=1, normalisation="batch"),
    "2.5D": config.Network(width=2, depth=1, sections=3),
    "3D": config.Network(width=2, depth=1, kernel=(3, 3, 3)),
}


def make(kind: str, network: str = "2D") -> tuple[UNet, torch.optim.Optimizer]:
    model = UNet(NETWORKS[network], 2)
    model.lay_channels_last()
    if kind == "sgd":
        return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def step(model: UNet, optimiser: torch.optim.Optimizer, seed: int) -> None:
    image = torch.randn(1, *model.geometry.tile_for((1, 4, 4)), generator=torch.Generator().manual_seed(seed))
    optimiser.zero_grad()
    model(image).square().mean().backward()
    optimiser.step()


def remembered(model: UNet, optimiser: torch.optim.Optimizer) -> list[tuple[Any, ...]]:
    """All numbers, and how they lie in memory."""
    tensors = dict(model.state_dict())
    for number, kept in optimiser.state_dict()["state"].items():
        tensors |= {f"{number} {name}": tensor for name, tensor in kept.items()}

    def order(tensor: torch.Tensor) -> list[int]:
        # Along an axis of one voxel there is no step.
        return [step for step, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]

    return [(name, tensor.dtype, order(tensor), tensor.tolist()) for name, tensor in sorted(tensors.items())]


@pytest.mark.parametrize("network", list(NETWORKS))
@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_what_was_stored_comes_back(tmp_path: Path, kind: str, network: str) -> None:
    path = tmp_path / "key" / "state.safetensors"
    model, optimiser = make(kind, network)
    step(model, optimiser, 1)
    best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step(model, optimiser, 2)
    rows = [{"step": 1, "loss": 0.1 + 0.2, "iou_membrane": None}, {"step": 2, "loss": 1e-17}]
    further = {
        "average": {"module.a": torch.tensor([1 / 3]), "n": torch.tensor(5)},
        "focus": {"now": torch.rand(3).double()},
    }
    save_state(path, model, optimiser, State(step=2, best_step=1, best_iou=1 / 3, best=best, rows=rows, **further))

    other, other_optimiser = make(kind, network)
    state = restore_state(path, other, other_optimiser)
    assert state is not None
    assert (state.step, state.best_step, state.best_iou, state.rows) == (2, 1, 1 / 3, rows)
    assert state.best.keys() == best.keys()
    assert all(torch.equal(state.best[name], best[name]) for name in best)
    for part, tensors in further.items():
        found = getattr(state, part)
        assert {name: (kept.dtype, kept.tolist()) for name, kept in found.items()} == {
            name: (kept.dtype, kept.tolist()) for name, kept in tensors.items()
        }
    assert remembered(other, other_optimiser) == remembered(model, optimiser)
    step(model, optimiser, 3)
    step(other, other_optimiser, 3)
    assert remembered(other, other_optimiser) == remembered(model, optimiser)


def test_nothing_is_touched_where_no_state_is(tmp_path: Path) -> None:
    model, optimiser = make("adamw")
    before = remembered(model, optimiser)
    assert restore_state(tmp_path / "state.safetensors", model, optimiser) is None
    assert remembered(model, optimiser) == before


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key" / "state.safetensors"
    model, optimiser = make("adamw")
    save_state(path, model, optimiser, State())
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UserError, match="no whole safetensors file") as caught:
        restore_state(path, model, optimiser)
    assert str(path.parent) in caught.value.repair
