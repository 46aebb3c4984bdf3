"""The losses are those of the papers, and the learning rate goes up once and down once."""

import itertools
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unetpipe import config
from unetpipe.nets.recipe import dice_loss, dice_sums, learning_rate, loss_of, weighted_loss

KINDS: list[Literal["cross_entropy", "dice", "both"]] = ["cross_entropy", "dice", "both"]


@given(
    logits=st.lists(st.floats(-20, 20, width=32), min_size=12, max_size=12),
    weights=st.lists(st.floats(0.125, 10, width=32), min_size=4, max_size=4),
    labels=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    shape=st.sampled_from([(1, 2, 2), (2, 1, 2), (4, 1, 1), (2, 2, 1)]),
)
def test_the_loss_is_that_of_the_paper(
    logits: list[float], weights: list[float], labels: list[int], shape: tuple[int, int, int]
) -> None:
    # Equation 1: the sum over voxels of w log p, here with a sign and divided by the sum of w.
    energies = np.array(logits).reshape(3, 4)
    p = np.exp(energies) / np.exp(energies).sum(axis=0)
    expected = -sum(w * np.log(p[k, i]) for i, (w, k) in enumerate(zip(weights, labels, strict=True))) / sum(weights)
    loss = weighted_loss(
        torch.tensor(logits).reshape(1, 3, *shape),
        torch.tensor(labels).reshape(1, *shape),
        torch.tensor(weights).reshape(1, *shape),
    )
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_batch_without_labels_has_no_loss() -> None:
    logits = torch.randn(1, 2, 2, 3, 3, requires_grad=True)
    loss = weighted_loss(logits, torch.zeros(1, 2, 3, 3, dtype=torch.long), torch.zeros(1, 2, 3, 3))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def dice_in_numpy(logits: np.ndarray, label: np.ndarray, weight: np.ndarray) -> float:
    """One minus the mean of 2 Σ w p g / (Σ w p² + Σ w g²) over the classes that weigh."""
    energies = np.exp(logits.astype(np.float64))
    coefficients = []
    for k in range(logits.shape[1]):
        p, g, w = energies[:, k] / energies.sum(axis=1), label == k, weight.astype(np.float64)
        if (w * g).any():
            coefficients.append(2 * (w * p * g).sum() / ((w * p**2).sum() + (w * g).sum()))
    return 1 - float(np.mean(coefficients)) if coefficients else 0.0


def drawn(seed: int, classes: int, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (shape[0], classes, *shape[1:])).astype(np.float32)
    weight = random.gamma(1, 3, shape).astype(np.float32) * (random.random(shape) < 0.7)
    return torch.from_numpy(logits), torch.from_numpy(random.integers(0, classes, shape)), torch.from_numpy(weight)


@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 1, 4, 5), (2, 3, 3, 2)], ids=["one row", "images", "stacks"])
@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(2, 4))
def test_dice_is_that_of_the_formula(shape: tuple[int, ...], seed: int, classes: int) -> None:
    answer = drawn(seed, classes, shape)
    expected = dice_in_numpy(*(part.numpy() for part in answer))
    assert 0 <= expected <= 1
    assert loss_of("dice", *answer).item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    both = weighted_loss(*answer).item() + expected
    assert loss_of("both", *answer).item() == pytest.approx(both, rel=1e-4, abs=1e-6)
    assert loss_of("cross_entropy", *answer).item() == weighted_loss(*answer).item()


def test_dice_of_parts_adds_up() -> None:
    logits, label, weight = drawn(3, 3, (4, 1, 6, 6))
    parts = [dice_sums(logits[n : n + 1], label[n : n + 1], weight[n : n + 1]).double() for n in range(4)]
    assert dice_loss(torch.stack(parts).sum(0)).item() == pytest.approx(loss_of("dice", logits, label, weight).item())


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_answer_loses_nothing(kind: Literal["cross_entropy", "dice", "both"]) -> None:
    # Of the third class there is no voxel: it has no part in the mean.
    _, label, weight = drawn(1, 2, (2, 1, 5, 5))
    logits = 200 * torch.nn.functional.one_hot(label, 3).permute(0, 4, 1, 2, 3).float()
    assert loss_of(kind, logits, label, weight).item() == pytest.approx(0, abs=1e-6)
    assert loss_of(kind, -logits, label, weight).item() > 0.9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ignored", ["some", "all"])
def test_ignored_voxels_have_no_influence(kind: Literal["cross_entropy", "dice", "both"], ignored: str) -> None:
    logits, label, weight = drawn(2, 3, (2, 1, 6, 6))
    weight *= ignored == "some"
    there = weight == 0
    assert there.any()
    others = torch.where(there[:, None], 5 * torch.randn_like(logits), logits)
    labels = torch.where(there, (label + 1) % 3, label)
    logits.requires_grad_()
    loss = loss_of(kind, logits, label, weight)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == loss_of(kind, others, labels, weight).item()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad.movedim(1, -1)[there].any()
    assert logits.grad.any() == (ignored == "some")


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_fp32_whatever_the_network_computes_in(kind: Literal["cross_entropy", "dice", "both"]) -> None:
    logits, label, weight = drawn(4, 2, (2, 1, 32, 32))
    logits = logits.bfloat16()
    expected = loss_of(kind, logits.float(), label, weight)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss_of(kind, logits, label, weight)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@given(steps=st.integers(1, 3000), step=st.integers(0, 2999))
def test_the_rate_rises_and_falls(steps: int, step: int) -> None:
    settings = config.Train(steps=steps, learning_rate=3e-3)
    rates = [learning_rate(k, settings) for k in range(steps)]
    top = rates.index(max(rates))
    assert 0 < min(rates) <= max(rates) <= 3e-3
    assert all(a < b for a, b in itertools.pairwise(rates[: top + 1]))
    assert all(a > b for a, b in itertools.pairwise(rates[top:]))
    if steps > 10:
        assert max(rates) > 0.9 * 3e-3
        assert rates[-1] == pytest.approx(3e-7)
    assert learning_rate(step, settings.model_copy(update={"schedule": "constant"})) == 3e-3
