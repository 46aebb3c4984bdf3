"""A finished pyramid, and how the work for one is divided."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from levelled import fill, make, plan

from unetpipe import levels as levels_module
from unetpipe import pyramid as module

MakeVolume = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def in_this_process() -> Iterator[None]:
    """Processes take longer to start than such volumes take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FEW", 999)
        yield


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several shards, of levels of a small volume too."""
    monkeypatch.setattr(levels_module, "_SHARD", 1 << 15)


@pytest.fixture
def with_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few shards there are, processes make them."""
    monkeypatch.setattr(module, "_FEW", 0)
    monkeypatch.setattr(module, "_ENOUGH", 1)


@pytest.fixture(scope="module")
def finished(in_this_process: None, make_volume: MakeVolume, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all levels and a label map, of many shards."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(levels_module, "_SHARD", 1 << 15)
        allocated = plan(folder, make_volume, labels=True)
    fill(allocated)
    make(allocated)
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The allocated.json of a copy of it."""
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    for name in ("allocated.json", "progress/key.json", "volumes/v/volume.json"):
        (folder / name).write_text((folder / name).read_text().replace(str(finished), str(folder)))
    return folder / "allocated.json"
