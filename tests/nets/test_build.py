"""Every network does to shapes what its geometry says, whatever its name and settings."""

import math
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unetpipe.combinations import network_problems
from unetpipe.config import Network
from unetpipe.grid import Shape
from unetpipe.nets.build import build
from unetpipe.nets.layers import SegmentationNetwork

KERNELS, POOLINGS = st.sampled_from([1, 3, 5]), st.sampled_from([1, 2, 3])
SKIPS = st.sampled_from(["concatenate", "add", "multiply", "none"])
UPSAMPLINGS = st.sampled_from(["transposed", "nearest", "bed_of_nails", "max_unpooling"])
MOST_VOXELS = 60_000

Case = tuple[SegmentationNetwork, Shape]


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Of any name and dimension, with a kernel and a pooling for each level and axis."""
    name = draw(st.sampled_from(["unet", "unet", "full_resolution", "patch_classifier"]))
    along_z = draw(st.booleans())
    depth = draw(st.integers(1, 2))

    def shape(sizes: st.SearchStrategy[int]) -> Shape:
        return draw(sizes) if along_z else 1, draw(sizes), draw(sizes)

    how: dict[str, Any] = {"skips": draw(SKIPS), "upsampling": draw(UPSAMPLINGS)} if name == "unet" else {}
    if name != "full_resolution":
        how["pooling"] = [shape(POOLINGS) for _ in range(depth)]
    how |= {"name": name, "kernel": [shape(KERNELS) for _ in range(depth + 1)]}
    network = Network(width=2, depth=depth, normalisation="none", **how)
    if network.geometry.dimensions == 2:
        network = network.model_copy(update={"sections": draw(st.sampled_from([1, 3]))})
    assert network_problems(network) == []
    return network


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A network with random weights in double precision, and a tile that it can take."""
    network = draw(networks().filter(lambda network: math.prod(network.geometry.tile_for((1, 1, 1))) <= MOST_VOXELS))
    tile = network.geometry.tile_for([draw(st.integers(1, 6)) for _ in range(3)])
    if math.prod(tile) > MOST_VOXELS:
        tile = network.geometry.tile_for((1, 1, 1))
    torch.manual_seed(draw(st.integers(0, 99)))
    return build(network, 2).double().eval(), tile


def random(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@settings(max_examples=40)
@given(cases())
@torch.inference_mode()
def test_the_output_is_what_the_geometry_says(case: Case) -> None:
    network, tile = case
    assert network.geometry.is_legal(tile)
    assert network(random((2, *tile))).shape == (2, 2, *network.geometry.output(tile))


@settings(max_examples=40)
@given(cases(), st.data())
@torch.inference_mode()
def test_moved_by_the_pooling_the_image_gives_the_same(case: Case, data: st.DataObject) -> None:
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


def has_a_middle(network: Network) -> bool:
    """Whether nothing in it tells one end of an axis from the other: no nails, no first of equals, no even patch."""
    if network.name == "patch_classifier":
        return all(n % 2 for pooling in network.poolings for n in pooling)
    return network.upsampling in ("transposed", "nearest")


@settings(max_examples=30)
@given(cases().filter(lambda case: has_a_middle(case[0].settings)), st.data())
@torch.inference_mode()
def test_the_border_is_the_same_on_both_sides(case: Case, data: st.DataObject) -> None:
    # Where all kernels are symmetric, a mirrored image gives the mirrored result, and with any uneven crop it does not.
    network, tile = case
    axis = data.draw(st.sampled_from(range(3 - network.dimensions, 3)))
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.copy_((parameter + parameter.flip(axis - 3)) / 2)
    image = random((1, *tile))
    torch.testing.assert_close(network(image.flip(axis + 1)), network(image).flip(axis + 2))


@settings(max_examples=20)
@given(cases())
@torch.inference_mode()
def test_training_changes_no_value_and_memory_no_result(case: Case) -> None:
    # Without normalisation and dropout.
    network, tile = case
    image = random((1, *tile))
    before = network(image)
    assert torch.equal(network.train()(image), before)
    network.lay_channels_last()
    torch.testing.assert_close(network(image), before)


@settings(max_examples=20)
@given(cases())
def test_every_weight_learns(case: Case) -> None:
    network, tile = case
    network.train()(random((2, *tile))).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
