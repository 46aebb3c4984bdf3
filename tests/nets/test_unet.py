"""The network is that of the paper, and does to shapes what its geometry says: in 2D, 2.5D and 3D."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unetpipe.config import Network
from unetpipe.nets.unet import UNet

KERNELS, POOLINGS = st.sampled_from([1, 3, 5]), st.sampled_from([1, 2, 3])
MOST_VOXELS = 60_000

Triple = tuple[int, int, int]


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Of any dimension, with a kernel and a pooling for each level and axis."""
    dimensions = draw(st.sampled_from([2, 3]))
    depth = draw(st.integers(1, 3 if dimensions == 2 else 2))
    along_z = dimensions == 3

    def shape(sizes: st.SearchStrategy[int]) -> Triple:
        return draw(sizes) if along_z else 1, draw(sizes), draw(sizes)

    network = Network(
        width=1,
        depth=depth,
        normalisation="none",
        kernel=[shape(KERNELS) for _ in range(depth + 1)],
        pooling=[shape(POOLINGS) for _ in range(depth)],
    )
    if network.geometry.dimensions == 2:
        network = network.model_copy(update={"sections": draw(st.sampled_from([1, 3, 5]))})
    return network


@st.composite
def cases(draw: st.DrawFn) -> tuple[UNet, Triple]:
    """A network with random weights in double precision, and a tile that it can take."""
    network = draw(networks().filter(lambda network: math.prod(network.geometry.tile_for((1, 1, 1))) <= MOST_VOXELS))
    tile = network.geometry.tile_for([draw(st.integers(1, 6)) for _ in range(3)])
    if math.prod(tile) > MOST_VOXELS:
        tile = network.geometry.tile_for((1, 1, 1))
    torch.manual_seed(draw(st.integers(0, 99)))
    return UNet(network, 2).double().eval(), tile


def random(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@settings(max_examples=40)
@given(cases())
@torch.inference_mode()
def test_the_output_is_what_the_geometry_says(case: tuple[UNet, Triple]) -> None:
    network, tile = case
    assert network.geometry.is_legal(tile)
    assert network(random((2, *tile))).shape == (2, 2, *network.geometry.output(tile))


@settings(max_examples=25)
@given(cases(), st.data())
@torch.inference_mode()
def test_sizes_between_the_legal_ones_cannot_be_taken(case: tuple[UNet, Triple], data: st.DataObject) -> None:
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


@settings(max_examples=25)
@given(cases(), st.data())
@torch.inference_mode()
def test_moved_by_the_pooling_the_image_gives_the_same(case: tuple[UNet, Triple], data: st.DataObject) -> None:
    network, tile = case
    geometry = network.geometry
    axis = data.draw(st.sampled_from(range(3 - network.dimensions, 3)))
    step = geometry.pooling[axis]
    image = random((1, *(n + step * (i == axis) for i, n in enumerate(tile))))
    here, there = (image.narrow(axis + 1, start, tile[axis]) for start in (0, step))
    common = geometry.output(tile)[axis] - step
    if common > 0:
        torch.testing.assert_close(
            network(here).narrow(axis + 2, step, common), network(there).narrow(axis + 2, 0, common)
        )


@settings(max_examples=25)
@given(cases(), st.data())
@torch.inference_mode()
def test_the_border_is_the_same_on_both_sides(case: tuple[UNet, Triple], data: st.DataObject) -> None:
    # Where all kernels are symmetric, a mirrored image gives the mirrored result, and with any uneven crop it does not.
    network, tile = case
    axis = data.draw(st.sampled_from(range(3 - network.dimensions, 3)))
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.copy_((parameter + parameter.flip(axis - 3)) / 2)
    image = random((1, *tile))
    torch.testing.assert_close(network(image.flip(axis + 1)), network(image).flip(axis + 2))


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
def test_weights_are_drawn_as_in_the_paper(kernel: Triple) -> None:
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
