"""Networks with random weights, drawn for properties that hold for all of them."""

import math
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from unetpipe.combinations import network_problems
from unetpipe.config import Network
from unetpipe.grid import Shape
from unetpipe.nets.build import build
from unetpipe.nets.layers import SegmentationNetwork

Case = tuple[SegmentationNetwork, Shape]

_KERNELS, _POOLINGS = st.sampled_from([1, 3, 5]), st.sampled_from([1, 2, 3])
_SKIPS = st.sampled_from(["concatenate", "add", "multiply", "none"])
_UPSAMPLINGS = st.sampled_from(["transposed", "nearest", "bed_of_nails", "max_unpooling"])
_MOST_VOXELS = 60_000


@st.composite
def networks(draw: st.DrawFn, *, plain: bool) -> Network:
    """Of any dimension, with a kernel and a pooling for each level and axis.

    ``plain``: a U-Net with the skips and the upsampling of the paper; else of any name, with any of both.
    """
    name = "unet" if plain else draw(st.sampled_from(["unet", "unet", "full_resolution", "patch_classifier"]))
    along_z = draw(st.booleans())
    depth = draw(st.integers(1, 3 if plain and not along_z else 2))

    def shape(sizes: st.SearchStrategy[int]) -> Shape:
        return draw(sizes) if along_z else 1, draw(sizes), draw(sizes)

    how: dict[str, Any] = {}
    if name == "unet" and not plain:
        how = {"skips": draw(_SKIPS), "upsampling": draw(_UPSAMPLINGS)}
    if name != "full_resolution":
        how["pooling"] = [shape(_POOLINGS) for _ in range(depth)]
    how |= {"name": name, "kernel": [shape(_KERNELS) for _ in range(depth + 1)]}
    network = Network(width=1 if plain else 2, depth=depth, normalisation="none", **how)
    if network.geometry.dimensions == 2:
        network = network.model_copy(update={"sections": draw(st.sampled_from([1, 3, 5]))})
    assert network_problems(network) == []
    return network


@st.composite
def cases(draw: st.DrawFn, *, plain: bool = False) -> Case:
    """A network with random weights in double precision, and a tile that it can take."""
    small = networks(plain=plain).filter(
        lambda network: math.prod(network.geometry.tile_for((1, 1, 1))) <= _MOST_VOXELS
    )
    network = draw(small)
    tile = network.geometry.tile_for([draw(st.integers(1, 6)) for _ in range(3)])
    if math.prod(tile) > _MOST_VOXELS:
        tile = network.geometry.tile_for((1, 1, 1))
    torch.manual_seed(draw(st.integers(0, 99)))
    return build(network, 2).double().eval(), tile


def random(shape: tuple[int, ...]) -> Tensor:
    """An image of noise."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
