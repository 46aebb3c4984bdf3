"""All voxels at once are the patches around them, one by one."""

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from unetpipe.config import Network
from unetpipe.nets.cost import fully_convolutional, sliding_window
from unetpipe.nets.patches import PatchClassifier

NETWORKS = [
    pytest.param({"depth": 1}, id="2D, depth 1"),
    pytest.param({"depth": 3, "kernel": [(1, 3, 3), (1, 3, 3), (1, 3, 3), (1, 1, 3)]}, id="2D, depth 3"),
    pytest.param({"depth": 2, "pooling": (1, 3, 2)}, id="2D, one axis with a middle"),
    pytest.param({"depth": 2, "pooling": (1, 3, 3), "kernel": (1, 3, 1)}, id="2D, all axes with a middle"),
    pytest.param({"depth": 2, "sections": 3, "normalisation": "none"}, id="2.5D"),
    pytest.param({"depth": 2, "kernel": (3, 3, 3), "pooling": [(1, 2, 2), (2, 2, 2)]}, id="3D"),
]


def make(settings: dict[str, Any]) -> tuple[PatchClassifier, PatchClassifier]:
    """A network for all voxels at once and one for patches, with the same weights, in double precision."""
    torch.manual_seed(1)
    network = Network(name="patch_classifier", width=2, **settings)
    dense, sliding = PatchClassifier(network, 3), PatchClassifier(network, 3, sliding=True)
    for module in dense.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            assert module.running_mean is not None
            nn.init.normal_(module.running_mean, std=0.3)
    sliding.load_state_dict(dense.state_dict())
    return dense.double().eval(), sliding.double().eval()


@pytest.mark.parametrize("settings", NETWORKS)
@torch.inference_mode()
def test_all_voxels_at_once_are_the_patches_one_by_one(settings: dict[str, Any]) -> None:
    dense, sliding = make(settings)
    geometry = dense.geometry
    kept = (2, 3, 4) if dense.dimensions == 3 else (1, 4, 5)
    image = torch.randn(1, *geometry.tile_for(kept), dtype=torch.float64)
    found = dense(image)
    assert found.shape == (1, 3, *kept)
    patch = geometry.tile_for((1, 1, 1))
    assert patch == tuple(2 * border + 1 for border in geometry.border)
    for place in itertools.product(*(range(n) for n in kept)):
        slices = tuple(slice(start, start + n) for start, n in zip(place, patch, strict=True))
        alone = sliding(image[(slice(None), *slices)])
        assert alone.shape == (1, 3, 1, 1, 1)
        torch.testing.assert_close(found[(..., *(slice(n, n + 1) for n in place))], alone)


@pytest.mark.parametrize("settings", NETWORKS)
def test_the_voxel_is_in_the_middle_of_what_it_depends_on(settings: dict[str, Any]) -> None:
    dense, _ = make(settings)
    patch = dense.geometry.tile_for((1, 1, 1))
    # Averages would see all that pooling can choose from, and weights that cancel out would hide it.
    for parameter in dense.parameters():
        nn.init.ones_(parameter)
    seen = torch.zeros(patch, dtype=torch.bool)
    for seed in range(30):
        image = torch.rand(1, *patch, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).mul(9)
        image = image.requires_grad_()
        dense(image).sum().backward()
        assert image.grad is not None
        seen |= image.grad[0] != 0
    for axis in range(3):
        along = seen.any(dim=tuple(other for other in range(3) if other != axis)).nonzero().flatten()
        border = dense.geometry.border[axis]
        assert along[0] == 0
        # At most one voxel less on the other side.
        assert along[-1] in (2 * border, 2 * border - 1)


@pytest.mark.parametrize("settings", NETWORKS)
@torch.inference_mode()
def test_the_cost_is_what_pytorch_counts(settings: dict[str, Any]) -> None:
    dense, sliding = make(settings)
    network, geometry = dense.settings, dense.geometry
    patch, tile = geometry.tile_for((1, 1, 1)), geometry.tile_for((3, 5, 6))
    counted = []
    for model, shape in ((sliding, patch), (dense, tile)):
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, *shape, dtype=torch.float64))
        counted.append(counter.get_total_flops() / 2)  # a multiplication and an addition
    kept = geometry.kept(tile)
    assert sliding_window(network, 3) == counted[0]
    assert fully_convolutional(network, 3, tile) == pytest.approx(counted[1] / (kept[0] * kept[1] * kept[2]))


def test_of_one_voxel_the_window_is_cheaper_and_of_many_all_at_once_is() -> None:
    network = Network(name="patch_classifier", width=16, depth=3)
    geometry = network.geometry
    window = sliding_window(network, 2)
    assert fully_convolutional(network, 2, geometry.tile_for((1, 1, 1))) > window
    assert fully_convolutional(network, 2, geometry.tile_for((1, 512, 512))) < window / 50


@pytest.mark.parametrize("width", [12, 16, 20])
def test_gradients_in_bf16_are_those_in_fp32_but_for_rounding(width: int) -> None:
    torch.manual_seed(0)
    model = PatchClassifier(Network(name="patch_classifier", width=width, depth=2), 2)
    model.lay_channels_last()
    image = torch.randn(2, 1, 60, 60)
    gradients = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = model(image).float().square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        gradients.append([p.grad.float() for p in model.parameters() if p.grad is not None and p.ndim > 1])
    for exact, rounded in zip(*gradients, strict=True):
        assert (exact - rounded).norm() < 0.3 * exact.norm()
