"""Every network does to shapes what its geometry says, whatever its name and settings."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Case, cases, random

from unetpipe.config import Network

any_of_both = pytest.mark.parametrize(
    "drawn", [pytest.param(cases(plain=True), id="the plain U-Net"), pytest.param(cases(), id="any network")]
)


@any_of_both
@settings(max_examples=40)
@given(st.data())
@torch.inference_mode()
def test_the_output_is_what_the_geometry_says(drawn: st.SearchStrategy[Case], data: st.DataObject) -> None:
    network, tile = data.draw(drawn)
    assert network.geometry.is_legal(tile)
    assert network(random((2, *tile))).shape == (2, 2, *network.geometry.output(tile))


@any_of_both
@settings(max_examples=40)
@given(st.data())
@torch.inference_mode()
def test_moved_by_the_pooling_the_image_gives_the_same(drawn: st.SearchStrategy[Case], data: st.DataObject) -> None:
    network, tile = data.draw(drawn)
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


@any_of_both
@settings(max_examples=30)
@given(st.data())
@torch.inference_mode()
def test_the_border_is_the_same_on_both_sides(drawn: st.SearchStrategy[Case], data: st.DataObject) -> None:
    # Where all kernels are symmetric, a mirrored image gives the mirrored result, and with any uneven crop it does not.
    network, tile = data.draw(drawn.filter(lambda case: has_a_middle(case[0].settings)))
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
