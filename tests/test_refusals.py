"""What would mix two predictions in one store is refused, and a refusal touches nothing."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import predicting
import pytest
import tifffile
from distributed import Client
from predicting import finish, shards, stored
from rates import allocate

from unetpipe import compute, spread
from unetpipe.data.ingest import ingest
from unetpipe.errors import UserError
from unetpipe.files import read_json, write_json
from unetpipe.fsck import Store, check

SHAPE = (6, 70, 60)


@dataclass(frozen=True)
class Inputs:
    """All that a prediction is made of."""

    volume: Path
    certificate: Path
    tile: tuple[int, int, int] = (1, 64, 64)
    mirror: tuple[str, ...] = ()

    def allocate(self, folder: Path, on_change: str = "refuse") -> Path:
        allocate(
            self.volume, self.certificate, folder / "allocated.json",
            classes=list(predicting.CLASSES), tile=list(self.tile), batch=2, on_change=on_change,
            mirror=self.mirror,
        )  # fmt: skip
        return folder / "allocated.json"

    def predict(self, folder: Path, on_change: str = "refuse") -> dict[str, Any]:
        return finish(self.certificate, self.allocate(folder, on_change))


def brought_in(folder: Path, seed: int) -> Path:
    """A volume from a file."""
    folder.mkdir()
    tifffile.imwrite(folder / "image.tif", predicting.noise(SHAPE, seed), photometric="minisblack")
    ingest(
        image=str(folder / "image.tif"), labels=None, volume=folder / "volumes" / "v" / "volume.json", name="v",
        sections=None, voxel_size_nm=(40, 4, 4), range=None, label_values={"a": [0]}, ignore=[], cores=1,
    )  # fmt: skip
    return folder / "volumes" / "v" / "volume.json"


@pytest.fixture(scope="module", autouse=True)
def at_hand() -> Iterator[None]:
    with predicting.at_hand():
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    engine, folder = tmp_path_factory.mktemp("engine"), tmp_path_factory.mktemp("inputs")
    return Inputs(brought_in(folder / "source", 1), predicting.make_engine("openvino", engine))


def new_weights(inputs: Inputs, folder: Path) -> Inputs:
    folder.mkdir()
    return replace(inputs, certificate=predicting.make_engine("openvino", folder, seed=1))


def another_tile(inputs: Inputs, folder: Path) -> Inputs:
    return replace(inputs, tile=(1, 84, 68))


@contextmanager
def threads_alone(workers: int, threads: int = 1, gpus: Sequence[str] = ()) -> Iterator[Client]:
    with Client(n_workers=workers, threads_per_worker=threads, processes=False, dashboard_address=":0") as client:
        yield client


def mirror_images(inputs: Inputs, folder: Path) -> Inputs:
    return replace(inputs, mirror=("y", "x"))


def another_device_class(inputs: Inputs, folder: Path) -> Inputs:
    other = Path(shutil.copytree(inputs.certificate.parent, folder)) / "certificate.json"
    write_json(other, read_json(inputs.certificate) | {"device_class": {"processor": "another"}})
    return replace(inputs, certificate=other)


def a_changed_input_file(inputs: Inputs, folder: Path) -> Inputs:
    return replace(inputs, volume=brought_in(folder, 2))


def all_of(folder: Path) -> dict[str, tuple[int, int, bytes | None]]:
    """Inode, time and bytes of everything below it."""
    return {
        str(path): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in [folder, *folder.rglob("*")]
    }


CHANGES: dict[str, tuple[Callable[[Inputs, Path], Inputs], str]] = {
    "new weights": (new_weights, r"\n    engine: was \"[0-9a-f]{64}\", is \"[0-9a-f]{64}\"\n"),
    "another tile": (another_tile, r"\n    plan\.tile: was \[1, 64, 64\], is \[1, 84, 68\]\n"),
    "mirror images": (mirror_images, r"\n    mirror: was null, is \[\"y\", \"x\"\]\n"),
    "another device class": (another_device_class, r"\n    device_class\.processor: was .*, is \"another\""),
    "a changed input file": (
        a_changed_input_file,
        r"\n    input\.image_digest: was \"[0-9a-f]{64}\", is \"[0-9a-f]{64}\"",
    ),
}


@pytest.mark.parametrize("whole", [True, False], ids=["finished", "broken off"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_refused_untouched_undone_at_no_cost_and_restarted_in_full(
    name: str, whole: bool, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "predictions" / "v"
    before = inputs.predict(folder)
    voxels = np.asarray(stored(folder)[...])
    if not whole:
        # As far as the record knows, the last block was never computed.
        (folder / "job-0.json").unlink()
        log = next((folder / "progress").glob("*.jsonl"))
        log.write_text(log.read_text().rsplit("\n{", 1)[0] + "\n")
    change, differs = CHANGES[name]
    changed = change(inputs, tmp_path / "changed")
    untouched = all_of(tmp_path / "predictions")
    with pytest.raises(UserError, match=differs) as caught:
        changed.allocate(folder)
    for way_out in ("set predict.on_change to `restart`", "undo the change", "give the run another name"):
        assert way_out in caught.value.repair
    assert all_of(tmp_path / "predictions") == untouched
    # Without the change it goes on.
    again = inputs.predict(folder)
    assert (again["computed"], again["digest"]) == (0 if whole else 1, before["digest"])
    if name == "another device class":
        # What was planned elsewhere is refused here too.
        with pytest.raises(UserError, match=r"(?s)certified on another class of device.*'another'.*predict where"):
            finish(changed.certificate, changed.allocate(tmp_path / "elsewhere"))
        assert not list((tmp_path / "elsewhere").rglob("*.jsonl"))
        # Each worker asks for its own machine: here they are threads, which believe what is pretended.
        monkeypatch.setattr(compute, "device_class", lambda backend: {"processor": "another"})
        monkeypatch.setattr(spread, "connect", threads_alone)
    restarted = changed.predict(folder, "restart")
    fresh = changed.predict(tmp_path / "fresh")
    assert restarted["computed"] == restarted["blocks"] == fresh["blocks"]
    assert restarted["digest"] == fresh["digest"]
    assert shards(folder) == shards(tmp_path / "fresh")
    # No voxel depends on the tile, nor on a device that is only pretended.
    same = np.array_equal(np.asarray(stored(folder)[...]), voxels)
    assert same == (name in ("another tile", "another device class"))
    assert check(Store(folder)).faults == []
