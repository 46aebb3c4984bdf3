"""What several tests of training data need: one Dask client for all, since starting workers takes seconds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from distributed import Client

from unetpipe.data import augment
from unetpipe.processes import connect
from unetpipe.volume import IGNORE


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """A client of two worker processes."""
    with connect(2) as connected:
        yield connected


@pytest.fixture
def volumes(make_volume: Callable[..., Path]) -> dict[str, list[Path]]:
    """Two volumes to train with, one of them with a missing section, and one to validate with."""
    rng = np.random.default_rng(0)
    paths = []
    for name, shape in (("a", (4, 60, 70)), ("b", (2, 50, 90)), ("v", (3, 48, 48))):
        image = rng.integers(0, 255, shape).astype(np.uint8)
        image[1, :, :] = 0 if name == "a" else image[1]
        labels = (rng.random(shape) < 0.7).astype(np.uint8)
        labels[0, :, :20] = IGNORE
        paths.append(make_volume(image, labels, name=name))
    return {"train": paths[:2], "validate": paths[2:]}


@pytest.fixture
def at_hand(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let samples be drawn by workers that are there already."""

    @contextmanager
    def connected(workers: int) -> Iterator[Client]:
        yield client

    monkeypatch.setattr(augment, "connect", connected)
