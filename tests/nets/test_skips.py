"""The way down joins the way up as the settings say."""

import pytest
import torch

from unetpipe.nets.skips import Skips, channels_joined, join

DOWN, UP = torch.tensor([[[[2.0]], [[3.0]]]]), torch.tensor([[[[5.0]], [[7.0]]]])


@pytest.mark.parametrize(
    ("skips", "wanted"),
    [
        pytest.param("concatenate", [2, 3, 5, 7], id="concatenate"),
        pytest.param("add", [7, 10], id="add"),
        pytest.param("multiply", [10, 21], id="multiply"),
        pytest.param("none", [5, 7], id="none"),
    ],
)
def test_what_is_joined(skips: Skips, wanted: list[float]) -> None:
    found = join(skips, DOWN, UP)
    assert found.flatten().tolist() == wanted
    assert found.shape[1] == channels_joined(skips, 2)
