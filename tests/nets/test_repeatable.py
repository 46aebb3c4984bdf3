"""What makes a run repeatable is set while it runs, and PyTorch is left as it was."""

import hashlib
from typing import Any

import pytest
import torch

from unetpipe.nets.repeatable import processor_facts, repeatable


def state() -> tuple[Any, ...]:
    filling: Any = torch.utils.deterministic
    generator = hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest()
    return (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        filling.fill_uninitialized_memory,
        generator,
    )


def test_it_is_set_within() -> None:
    with repeatable(threads=3, seed=5):
        assert state()[:3] == (3, True, False)
        first = torch.randn(4)
    with repeatable(threads=1, seed=5):
        assert torch.get_num_threads() == 1
        assert torch.equal(torch.randn(4), first)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt], ids=["done", "interrupted"])
def test_pytorch_is_left_as_it_was(error: type[BaseException] | None) -> None:
    before = state()
    if error is None:
        with repeatable(threads=3, seed=5):
            torch.randn(4)
    else:
        with pytest.raises(error), repeatable(threads=3, seed=5):
            raise error
    assert state() == before


def test_the_processor_tells_its_instructions() -> None:
    facts = processor_facts()
    assert {"machine", "capability"} <= set(facts)
    assert all(isinstance(value, str) for value in facts.values())
    assert facts == processor_facts()
