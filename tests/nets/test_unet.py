"""The network is that of the paper, in 2D, 2.5D and 3D."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import Case, cases, random
from torch import nn

from unetpipe.config import Network
from unetpipe.grid import Shape
from unetpipe.nets.unet import UNet


@settings(max_examples=25)
@given(cases(plain=True), st.data())
@torch.inference_mode()
def test_sizes_between_the_legal_ones_cannot_be_taken(case: Case, data: st.DataObject) -> None:
    network, tile = case
    pooling = network.geometry.pooling
    # Of a 2D network the sections are channels: there is one legal number of them.
    axes = [axis for axis in range(3) if pooling[axis] > 1 or (axis == 0 and network.dimensions == 2)]
    assume(axes)
    axis = data.draw(st.sampled_from(axes))
    more = data.draw(st.integers(1, max(1, pooling[axis] - 1)))
    other = tuple(n + more * (i == axis) for i, n in enumerate(tile))
    assert not network.geometry.is_legal(other)
    with pytest.raises(RuntimeError):
        network(random((1, *other)))


def test_the_papers_network() -> None:
    # arXiv:1505.04597, figure 1: channels before and after each 3x3 convolution, each 2x2 up-convolution, and the last.
    convolutions = [
        (1, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512), (512, 1024),
        (1024, 1024), (1024, 512), (512, 512), (512, 256), (256, 256), (256, 128), (128, 128), (128, 64), (64, 64),
    ]  # fmt: skip
    ups = [(1024, 512), (512, 256), (256, 128), (128, 64)]
    expected = sum(9 * a * b + b for a, b in convolutions) + sum(4 * a * b + b for a, b in ups) + 64 * 2 + 2
    with torch.device("meta"):
        network = UNet(Network(width=64, depth=4, normalisation="none"), 2)
        assert network(torch.empty(1, 1, 572, 572)).shape == (1, 2, 1, 388, 388)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    assert 31_000_000 < expected < 31_100_000


@pytest.mark.parametrize("kernel", [(1, 3, 3), (3, 3, 3)], ids=["2D", "3D"])
def test_weights_are_drawn_as_in_the_paper(kernel: Shape) -> None:
    # Section 3: standard deviation sqrt(2 / N), with N the incoming nodes of one neuron.
    torch.manual_seed(0)
    network = UNet(Network(width=32, depth=1, kernel=kernel), 2)
    layer = network.down[1][3]
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (64 * math.prod(kernel))), rel=0.02)
    # One voxel of the level below gives each voxel of the level above.
    assert network.up[0].weight.std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.05)
    assert not network.head.bias.any()


@torch.inference_mode()
def test_a_3d_network_with_flat_kernels_is_the_2d_one_section_by_section() -> None:
    torch.manual_seed(0)
    flat = UNet(Network(width=4, depth=2), 2).eval()
    deep = UNet(Network(width=4, depth=2, kernel=[(1, 3, 3), (1, 3, 3), (3, 3, 3)]), 2).eval()
    weights = {}
    for name, wanted in deep.state_dict().items():
        given_ = flat.state_dict()[name]
        weights[name] = torch.zeros_like(wanted)
        # Of a kernel along z, the middle alone counts.
        place = (slice(None), slice(None), wanted.shape[2] // 2) if wanted.ndim == 5 else ...
        weights[name][place] = given_
    deep.load_state_dict(weights)
    border = deep.geometry.border[0]
    assert border == 2
    image = torch.randn(1, 11, 44, 52)
    found = deep(image)
    for z in range(7):
        expected = flat(image[:, z + border, None])
        torch.testing.assert_close(found[:, :, z : z + 1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "format_"),
    [
        pytest.param(Network(width=4, depth=1), torch.channels_last, id="2D"),
        pytest.param(Network(width=4, depth=1, sections=3), torch.channels_last, id="2.5D"),
        pytest.param(Network(width=4, depth=1, kernel=(3, 3, 3)), torch.channels_last_3d, id="3D"),
    ],
)
def test_how_it_lies_in_memory_changes_no_result(network: Network, format_: torch.memory_format) -> None:
    torch.manual_seed(0)
    model = UNet(network, 2).eval()
    image = torch.randn(2, *model.geometry.tile_for((3, 9, 9)))
    with torch.inference_mode():
        before = model(image)
        model.lay_channels_last()
        torch.testing.assert_close(model(image), before, rtol=1e-4, atol=1e-5)
    assert model.down[1][0].weight.is_contiguous(memory_format=format_)


def test_channels_double_on_the_way_down() -> None:
    network = UNet(Network(width=6, depth=3), 2)
    widths = [level[0].out_channels for level in network.down]
    assert all(below == 2 * above for above, below in pairwise(widths))
    assert [isinstance(module, nn.BatchNorm2d) for module in network.down[0]] == [
        False,
        True,
        False,
        False,
        True,
        False,
    ]
