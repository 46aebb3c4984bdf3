"""Un-pooling puts values where its name says, and max-unpooling is PyTorch's own, bit for bit, ties included."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from unetpipe.nets.upsampling import unpool

UNPOOL: dict[int, Callable[..., Tensor]] = {2: functional.max_unpool2d, 3: functional.max_unpool3d}
POOL: dict[int, Callable[..., Any]] = {2: functional.max_pool2d, 3: functional.max_pool3d}


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, list[int]]:
    """Features full of ties, as after ReLU, values of any sign for their windows, and the size of those."""
    window = draw(st.lists(st.integers(1, 3), min_size=2, max_size=3))
    counts = [draw(st.integers(1, 3)) for _ in window]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    shape = [size * count for size, count in zip(window, counts, strict=True)]
    features = torch.randint(-2, 3, (2, 2, *shape), generator=generator).float().relu()
    return features, torch.randn((2, 2, *counts), generator=generator), window


def pytorch(values: Tensor, features: Tensor, window: list[int]) -> Tensor:
    _, places = POOL[len(window)](features, window, return_indices=True)
    return UNPOOL[len(window)](values, places, window)


def bits(values: Tensor) -> Tensor:
    """Zeros of different signs are not the same."""
    return values.detach().contiguous().view(torch.int32)


@given(cases())
def test_max_unpooling_is_that_of_pytorch(case: tuple[Tensor, Tensor, list[int]]) -> None:
    features, values, window = case
    found = unpool("max_unpooling", values, window, features)
    assert torch.equal(bits(found), bits(pytorch(values, features, window)))


@settings(max_examples=30)
@given(cases())
def test_so_is_its_gradient(case: tuple[Tensor, Tensor, list[int]]) -> None:
    features, values, window = case
    gradients = []
    for ours in (True, False):
        leaf = values.clone().requires_grad_()
        found = unpool("max_unpooling", leaf, window, features) if ours else pytorch(leaf, features, window)
        noise = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
        gradients.append(torch.autograd.grad((found * noise).sum(), leaf)[0])
    assert torch.equal(*gradients)


@given(cases())
def test_nearest_fills_the_window(case: tuple[Tensor, Tensor, list[int]]) -> None:
    features, values, window = case
    found = unpool("nearest", values, window, features)
    assert torch.equal(bits(found), bits(functional.interpolate(values, scale_factor=tuple(map(float, window)))))


@given(cases())
def test_a_nail_is_the_first_voxel_of_the_window(case: tuple[Tensor, Tensor, list[int]]) -> None:
    features, values, window = case
    found = unpool("bed_of_nails", values, window, features)
    assert found.shape == features.shape
    nails: tuple[Any, ...] = (..., *(slice(None, None, size) for size in window))
    assert torch.equal(bits(found[nails]), bits(values))
    assert torch.count_nonzero(found) == torch.count_nonzero(values)


class _Unpooling(nn.Module):
    """What max-unpooling does to windows, and to values that may be negative."""

    def __init__(self, window: list[int]) -> None:
        super().__init__()
        self.window = window

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = image.relu()
        # Never 0, whose sign ONNX Runtime loses.
        values = POOL[len(self.window)](0.5 - image, self.window)
        return unpool("max_unpooling", values, self.window, features), values


# The exporter warns of its own use of PyTorch's parts.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("window", [[2, 2], [1, 3], [2, 2, 2]], ids=str)
def test_it_is_the_same_in_the_engines_without_an_operation_of_its_own(window: list[int]) -> None:
    shape = (2, 3, *(6 * size for size in window))
    image = torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(1)).float()
    with torch.no_grad():
        program = torch.onnx.export(
            _Unpooling(window).eval(), (image,), dynamo=True, input_names=["image"], opset_version=18, verbose=False
        )
    assert program is not None
    model = program.model_proto
    assert "MaxUnpool" not in {node.op_type for node in model.graph.node}
    data = model.SerializeToString()
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(data), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for found, values in (session.run(None, {"image": image.numpy()}), list(compiled(image.numpy()).values())):
        wanted = pytorch(torch.from_numpy(np.array(values)), image.relu(), window)
        assert torch.count_nonzero(wanted) > 0
        np.testing.assert_array_equal(np.array(found).view(np.int32), wanted.numpy().view(np.int32))
