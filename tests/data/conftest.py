"""What several tests of training data need: one Dask client for all, since starting workers takes seconds."""

from collections.abc import Iterator

import pytest
from distributed import Client

from unetpipe.processes import connect


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """A client of two worker processes."""
    with connect(2) as connected:
        yield connected
