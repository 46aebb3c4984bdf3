"""The branch gives what pooling and slicing give, and the same gradients bit for bit, as fast memory has them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unetpipe.nets.branch import branch

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, list[int], list[slice]]:
    """Features full of ties, as after ReLU, with a pooling that divides them and a crop that leaves something."""
    pooling = draw(st.lists(st.integers(1, 3), min_size=2, max_size=3))
    sizes = [size * draw(st.integers(1, 3)) for size in pooling]
    margins = [draw(st.integers(0, (size - 1) // 2)) for size in sizes]
    shape = (draw(st.integers(1, 2)), draw(st.integers(2, 3)), *sizes)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    features = torch.randint(-2, 3, shape, generator=generator).relu()
    if draw(st.booleans()):
        features = features.contiguous(memory_format=FORMATS[features.ndim])
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    return features.to(dtype), pooling, [slice(margin, -margin or None) for margin in margins]


def gradient(case: tuple[Tensor, list[int], list[slice]], *, training: bool, of: tuple[float, float]) -> Tensor:
    """Of the sum of both results, each weighted by noise times ``of``, by the features."""
    features, pooling, crop = case
    leaf = features.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    generator = torch.Generator().manual_seed(1)
    total = torch.zeros(())
    for result, factor in zip(branch(leaf, pooling, crop, training=training), of, strict=True):
        noise = torch.randn(result.shape, generator=generator).to(result.dtype)
        total = total + factor * (result * noise).sum()
    total.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    return leaf.grad


@settings(max_examples=30)
@given(cases())
def test_training_changes_no_value(case: tuple[Tensor, list[int], list[slice]]) -> None:
    features, pooling, crop = case
    for result, expected in zip(
        branch(features.clone().requires_grad_(), pooling, crop, training=True),
        branch(features, pooling, crop, training=False),
        strict=True,
    ):
        assert torch.equal(result, expected)


@pytest.mark.parametrize(
    "of", [pytest.param((1, 1), id="both"), pytest.param((1, 0), id="pooled"), pytest.param((0, 1), id="skip")]
)
@settings(max_examples=30)
@given(case=cases())
def test_training_changes_no_gradient(case: tuple[Tensor, list[int], list[slice]], of: tuple[float, float]) -> None:
    assert torch.equal(gradient(case, training=True, of=of), gradient(case, training=False, of=of))


@pytest.mark.parametrize("place", [0, 1], ids=["pooled", "skip"])
@settings(max_examples=30)
@given(case=cases())
def test_one_result_is_enough(case: tuple[Tensor, list[int], list[slice]], place: int) -> None:
    features, pooling, crop = case
    first, second = (features.clone().requires_grad_() for _ in range(2))
    for leaf, training in ((first, True), (second, False)):
        branch(leaf, pooling, crop, training=training)[place].float().square().sum().backward()  # type: ignore[no-untyped-call]
    assert first.grad is not None
    assert second.grad is not None
    assert torch.equal(first.grad, second.grad)


@pytest.mark.parametrize("axes", [2, 3])
def test_the_gradient_lies_in_memory_as_the_features_do(axes: int) -> None:
    # Of a slice alone PyTorch makes a contiguous gradient, and what meets it is slow: ReLU took four times as long.
    seen: list[Tensor] = []
    features = torch.randn(2, 3, *[8] * axes).contiguous(memory_format=FORMATS[axes + 2]).requires_grad_()
    passed = features * 1
    passed.register_hook(seen.append)  # type: ignore[no-untyped-call]
    pooled, skip = branch(passed, [2] * axes, [slice(2, -2)] * axes, training=True)
    (pooled.sum() + skip.sum()).backward()  # type: ignore[no-untyped-call]
    assert seen[0].is_contiguous(memory_format=FORMATS[axes + 2])
