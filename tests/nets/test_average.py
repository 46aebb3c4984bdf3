"""The mean is that of the formula, counts nothing from before the first step, and has statistics of its own."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from unetpipe import config
from unetpipe.nets.average import Average
from unetpipe.nets.unet import UNet

BATCH = config.Network(width=2, depth=1, normalisation="batch", dropout=0.2)
NONE = config.Network(width=2, depth=1, normalisation="none")


def changed(model: UNet, seed: int) -> UNet:
    """``model`` with other weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(torch.randn(weights.shape, generator=generator))
    return model


def images(model: UNet, count: int = 3) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return (3 * torch.randn(2, *model.geometry.tile_for((1, 8, 8)), generator=generator) for _ in range(count))


@given(steps=st.integers(1, 50), taken=st.integers(1, 12))
def test_the_mean_is_that_of_the_formula(steps: int, taken: int) -> None:
    model = UNet(NONE, 2)
    before = changed(model, 99).head.weight.detach().clone()
    average = Average(model, steps, {})
    after = []
    for step in range(taken):
        average.take(changed(model, step))
        after.append(model.head.weight.detach().numpy().astype(np.float64))
    factors = np.array([(1 - 1 / steps) ** (taken - 1 - k) for k in range(taken)])
    expected = np.tensordot(factors / factors.sum(), np.array(after), 1)
    found = average.settled(iter(()), 1).head.weight.detach().numpy()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert not np.allclose(found, before.numpy())


def test_the_statistics_are_those_of_the_mean_weights() -> None:
    model = UNet(BATCH, 2)
    average = Average(model, 10, {})
    for step in range(3):
        average.take(changed(model, step))
        model.train()
        for image in images(model):
            model(image)
    settled = average.settled(images(model), 1)
    first = next(module for module in settled.modules() if isinstance(module, torch.nn.BatchNorm2d))
    convolution = next(module for module in settled.modules() if isinstance(module, torch.nn.Conv2d))
    with torch.no_grad():
        features = [convolution(image) for image in images(model)]
    mean = torch.stack([part.mean((0, 2, 3)) for part in features]).mean(0)
    variance = torch.stack([part.var((0, 2, 3)) for part in features]).mean(0)
    assert torch.allclose(first.running_mean, mean, atol=1e-5)
    assert torch.allclose(first.running_var, variance, rtol=1e-4)
    # What the trained network has is a mean of the statistics after each step.
    of_model = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    assert not torch.allclose(of_model.running_var, variance, rtol=0.05)


def test_settling_changes_no_weights_and_comes_out_the_same_again() -> None:
    model = UNet(BATCH, 2)
    average = Average(model, 10, {})
    average.take(changed(model, 1))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(1)
    first = {name: tensor.clone() for name, tensor in average.settled(images(model), 1).state_dict().items()}
    torch.manual_seed(2)
    again = average.settled(images(model), 1).state_dict()
    assert all(torch.equal(again[name], first[name]) for name in first)
    assert all(torch.equal(first[name], tensor) for name, tensor in model.named_parameters())
    assert all(torch.equal(model.state_dict()[name], weights[name]) for name in weights)


def test_without_batch_normalisation_no_image_is_looked_at() -> None:
    model = UNet(NONE, 2)
    average = Average(model, 10, {})
    average.take(model)

    def none() -> Iterator[Tensor]:
        raise AssertionError("an image was read")
        yield

    average.settled(none(), 1)


@pytest.mark.parametrize("network", [BATCH, NONE], ids=["batch", "none"])
def test_it_goes_on_from_its_state(network: config.Network) -> None:
    model = UNet(network, 2)
    model.lay_channels_last()
    whole = Average(model, 5, {})
    for step in range(4):
        whole.take(changed(model, step))
    kept = {name: tensor.clone().contiguous() for name, tensor in whole.state.items()}
    resumed = Average(changed(model, 50), 5, kept)
    for average in (whole, resumed):
        average.take(changed(model, 60))
    assert all(torch.equal(resumed.state[name], tensor) for name, tensor in whole.state.items())
    strides = [
        [weights.stride() for weights in average.settled(iter(()), 1).parameters()] for average in (whole, resumed)
    ]
    assert strides[0] == strides[1]
