"""Folders on disk and in a bucket."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import buckets
import pytest

from unetpipe.storage import Folder, folder_at

_numbers = itertools.count()


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """Of a server with buckets."""
    with buckets.server() as found:
        yield found


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that lets S3 be at an endpoint."""

    def use(endpoint: str) -> None:
        for name, value in buckets.environment(endpoint).items():
            monkeypatch.setenv(name, value)
        buckets.forget()

    return use


@pytest.fixture
def bucket(endpoint: str, aws: Callable[[str], None]) -> str:
    """The name of an empty bucket, which the package finds."""
    aws(endpoint)
    name = f"bucket-{next(_numbers)}"
    buckets.make_bucket(endpoint, name)
    return name


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """An empty folder."""
    if request.param == "local":
        return folder_at(tmp_path / "results" / "x")
    return folder_at(f"s3://{request.getfixturevalue('bucket')}/results/x")
