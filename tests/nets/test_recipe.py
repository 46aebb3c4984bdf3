"""The loss is that of the paper, and the learning rate goes up once and down once."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unetpipe import config
from unetpipe.nets.recipe import learning_rate, weighted_loss


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
