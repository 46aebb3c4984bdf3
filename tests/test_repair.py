"""A repair ends in the bytes of an unbroken run, touches nothing else, and can be killed at any moment."""

import logging
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import make_engine_in
from onnx_unet import unet
from prediction import (
    ENGINE,
    PREDICTION,
    blocks,
    cut,
    damage,
    extend,
    files,
    flip,
    forget,
    plan_run,
    rewrite,
    shard,
)
from stores import open_writable

import unetpipe
from unetpipe.cli import main
from unetpipe.engines import device_class
from unetpipe.errors import UserError
from unetpipe.files import read_json, write_json
from unetpipe.fsck import Report, Store, check
from unetpipe.predict import predict
from unetpipe.progress import Record
from unetpipe.repair import Repair
from unetpipe.volume import VolumeFile


@dataclass(frozen=True)
class Unbroken:
    """A run folder, the files of its store, and the digests that were recorded."""

    folder: Path
    files: dict[str, bytes]
    digests: dict[str, str]


def digests(prediction: Path) -> dict[str, str]:
    return {name: entry["written"] for name, entry in Record(prediction / "progress").done().items()}


def finish() -> dict[str, Any]:
    done = PREDICTION / "job-0.json"
    predict(PREDICTION / "allocated.json", ENGINE / "certificate.json", done, job="job-0", workers=1, cores=1)
    return dict(read_json(done))


@pytest.fixture(scope="session")
def unbroken(make_volume: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    folder = tmp_path_factory.mktemp("unbroken")
    network = folder / "model.onnx"
    network.write_bytes(unet([4, 6]).SerializeToString(deterministic=True))
    engine = folder / "engine"
    make_engine_in(folder, network, "openvino", batch=4)
    (folder / ENGINE).mkdir(parents=True)
    shutil.copy(folder / "build.json", folder / ENGINE)
    prediction = plan_run(folder, make_volume, engine.read_bytes(), device_class("openvino"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        finish()
    (prediction / "job-0.json").unlink()
    return Unbroken(folder, files(prediction), digests(prediction))


@pytest.fixture
def prediction(unbroken: Unbroken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy in the working directory, to be damaged."""
    shutil.copytree(unbroken.folder / "results", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    return tmp_path / PREDICTION


def mend(prediction: Path) -> Report:
    store = Store(prediction)
    repair = Repair(store, threads=1)
    return repair.mend(check(store))


def identities(prediction: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every file, by its path."""
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in prediction.rglob("*")}


def test_a_repair_gives_the_unbroken_bytes_and_touches_the_faulty_shards_alone(
    unbroken: Unbroken, prediction: Path
) -> None:
    expected = damage(prediction, seed=5, each=3)
    before = identities(prediction / "probability.zarr" / "0" / "c")
    left = mend(prediction)
    assert left.faults == []
    assert left.counts["sound"] == len(unbroken.digests)
    assert files(prediction) == unbroken.files
    assert digests(prediction) == unbroken.digests
    after = identities(prediction / "probability.zarr" / "0" / "c")
    faulty = {str(shard(prediction, name)) for name in expected if name in unbroken.digests}
    changed = {path for path, identity in after.items() if before.get(path) != identity and Path(path).is_file()}
    assert changed == faulty
    again = check(Store(prediction))
    assert again.faults == []
    rounds = {name: entry.get("round", 0) for name, entry in Record(prediction / "progress").done().items()}
    recorded = {name for name, state in expected.items() if state != "orphaned" and name in rounds}
    assert {name for name, number in rounds.items() if number == 1} == recorded


def test_a_second_repair_finds_nothing_to_do(prediction: Path) -> None:
    flip(shard(prediction, "0.0.0"), random.Random(0))
    mend(prediction)
    before = identities(prediction)
    assert mend(prediction).faults == []
    assert identities(prediction) == before


def test_a_shard_is_repaired_as_often_as_it_breaks(unbroken: Unbroken, prediction: Path) -> None:
    for number in (1, 2, 3):
        flip(shard(prediction, "0.0.0"), random.Random(number))
        assert mend(prediction).faults == []
        assert Record(prediction / "progress").done()["0.0.0"]["round"] == number
    assert files(prediction) == unbroken.files


def test_a_mirrored_prediction_is_repaired_as_it_was_predicted(unbroken: Unbroken, prediction: Path) -> None:
    description = read_json(prediction / "allocated.json")
    description["key"]["mirror"] = ["y", "x"]
    write_json(prediction / "allocated.json", description)
    shutil.rmtree(prediction / "progress")
    Record.open(prediction / "progress", description["key"], "refuse", "it")
    finish()
    mirrored = files(prediction)
    name = next(iter(blocks()))
    assert shard(prediction, name).read_bytes() != shard(unbroken.folder / PREDICTION, name).read_bytes()
    flip(shard(prediction, name), random.Random(0))
    assert mend(prediction).faults == []
    assert files(prediction) == mirrored


def test_unfinished_blocks_stay_unfinished(prediction: Path) -> None:
    names = list(blocks())[5:25]
    forget(prediction, *names)
    for name in names:
        shard(prediction, name).unlink()
    shard(prediction, "2.2.2").unlink()
    left = mend(prediction)
    assert left.faults == []
    assert left.counts["unfinished"] == 20
    assert not any(shard(prediction, name).exists() for name in names)


def test_a_file_that_is_not_temporary_is_left(prediction: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(shard(prediction, "1.1.1"), random.Random(0))
    note = prediction / "probability.zarr" / "0" / "c" / "note"
    note.touch()
    assert main(["fsck", str(prediction), "--repair", "--cores", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[-3:]] == ["not repaired", f"          {note}", "after the repair"]
    assert lines[-3].endswith("0/c/note: no shard, so no repair touches it: delete it by hand")
    assert lines[-1].startswith("after the repair: 75 blocks: 75 sound; besides, 1 files")
    assert note.exists()
    note.unlink()
    shard(prediction, "1.1.1").unlink()
    assert main(["fsck", str(prediction), "--repair", "--cores", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "after the repair: 75 blocks: 75 sound"
    assert main(["fsck", str(prediction), "--repair", "--cores", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{prediction}: 75 blocks: 75 sound"]


def test_an_entry_that_was_wrong_is_replaced_and_told(
    unbroken: Unbroken, prediction: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rewrite(prediction, lambda entry: entry | {"written": "1" * 32} if entry["name"] == "1.1.1" else entry)
    with caplog.at_level(logging.WARNING):
        assert mend(prediction).faults == []
    assert f"the block 1.1.1 came out with the digest {unbroken.digests['1.1.1']}; {'1' * 32}" in caplog.text
    assert digests(prediction) == unbroken.digests
    assert files(prediction) == unbroken.files


KILLED = """
import os, signal, sys
from pathlib import Path

def replace(*arguments):
    global calls
    calls += 1
    if (calls, when) == (number, "before"):
        os.kill(os.getpid(), signal.SIGKILL)
    original(*arguments)
    if (calls, when) == (number, "after"):
        os.kill(os.getpid(), signal.SIGKILL)

from unetpipe.fsck import Store, check
from unetpipe.repair import Repair

store = Store(Path("results/run/predictions/v"))
repair = Repair(store, threads=1)
found = check(store)
calls, number, when, original = 0, int(sys.argv[1]), sys.argv[2], Path.replace
Path.replace = replace
repair.mend(found)
"""


def killed(prediction: Path, number: int, when: str) -> None:
    """Repair in a process of its own that is killed before or after its so many-th shard takes its place."""
    process = subprocess.run(
        [sys.executable, "-c", KILLED, str(number), when],
        cwd=prediction.parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr


@pytest.mark.long
def test_killed_in_the_middle_and_repeated_it_ends_in_the_same(unbroken: Unbroken, prediction: Path) -> None:
    chance = random.Random(7)
    forget(prediction, "0.0.0", "0.0.1", "0.0.2", "0.0.3")
    for name, spoil in (("0.0.1", flip), ("0.1.0", flip), ("0.1.1", cut), ("1.0.0", extend), ("2.4.4", cut)):
        spoil(shard(prediction, name), chance)
    shard(prediction, "1.1.1").unlink()
    faults = {"0.0.0", "0.0.1", "0.0.2", "0.0.3", "0.1.0", "0.1.1", "1.0.0", "1.1.1", "2.4.4"}
    # A shard was written to a temporary file that has not taken its place; that of an orphan, the first one.
    killed(prediction, 1, "before")
    found = check(Store(prediction))
    assert {fault.name for fault in found.faults if fault.block} == faults
    assert sum(fault.block is None for fault in found.faults) == 1
    # It is in its place, and not recorded.
    killed(prediction, 1, "after")
    assert {fault.name for fault in check(Store(prediction)).faults} == faults
    killed(prediction, 6, "before")
    faults -= {"0.0.0", "0.0.1", "0.0.2", "0.0.3", "0.1.0"}
    assert {fault.name for fault in check(Store(prediction)).faults if fault.block} == faults
    # What was recorded of this one was right.
    killed(prediction, 1, "after")
    assert {fault.name for fault in check(Store(prediction)).faults} == faults - {"0.1.1"}
    assert mend(prediction).faults == []
    assert files(prediction) == unbroken.files
    assert digests(prediction) == unbroken.digests


def test_a_prediction_goes_on_where_a_repair_was_killed(unbroken: Unbroken, prediction: Path) -> None:
    forget(prediction, "0.0.0")
    flip(shard(prediction, "0.0.0"), random.Random(1))
    shard(prediction, "0.0.1").unlink()
    killed(prediction, 1, "before")
    assert finish()["computed"] == 2
    assert files(prediction) == unbroken.files
    assert digests(prediction) == unbroken.digests
    assert check(Store(prediction)).faults == []


def change_key(prediction: Path, **changes: object) -> None:
    description = read_json(prediction / "allocated.json")
    description["key"] |= changes
    write_json(prediction / "allocated.json", description)
    write_json(prediction / "progress" / "key.json", description["key"])


def another_image(prediction: Path) -> None:
    path = prediction.parents[1] / "volumes" / "v" / "volume.json"
    write_json(path, read_json(path) | {"image_digest": "1" * 64})


def other_files(prediction: Path) -> None:
    path = prediction.parents[1] / "volumes" / "v" / "volume.json"
    image = str(path.with_name("image.zarr"))
    write_json(path, read_json(path) | {"source": {"in_place": True, "image": image}})


def other_voxels(prediction: Path) -> None:
    # Within what the network reads for the block 1.1.1, which is damaged.
    image = open_writable(VolumeFile.read(prediction.parents[1] / "volumes" / "v" / "volume.json").image)
    image[8, 30, 30] = 255 - np.asarray(image[8, 30, 30])


def other_engine(prediction: Path) -> None:
    engine = prediction.parents[3] / ENGINE / "engine"
    engine.write_bytes(engine.read_bytes() + b" ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda prediction: change_key(prediction, device_class={"processor": "another"}),
            r"made on another class of device: \{'processor': 'another'\}; this is ",
            id="device class",
        ),
        pytest.param(
            lambda prediction: change_key(prediction, engine="e" * 64),
            r"(?s)the digest \(SHA-256\) eeee.*none of those in .*is that: openvino-fp32",
            id="certified engine",
        ),
        pytest.param(other_engine, r"none of those in .*is that: openvino-fp32", id="engine file"),
        pytest.param(
            lambda prediction: change_key(prediction, version="0.0.1"),
            rf"made by unetpipe 0\.0\.1; this is {unetpipe.__version__}",
            id="version",
        ),
        pytest.param(another_image, r"volume\.json describes another image", id="image"),
        pytest.param(other_files, r"(?s)image\.zarr, which is used in place.*its files are others", id="files"),
        pytest.param(other_voxels, r"image\.zarr/0 has other voxels around the block 1\.1\.1", id="voxels"),
    ],
)
def test_where_voxels_could_differ_it_is_refused_and_nothing_is_touched(
    change: Callable[[Path], None], message: str, prediction: Path
) -> None:
    flip(shard(prediction, "1.1.1"), random.Random(0))
    forget(prediction, "0.0.0")
    change(prediction)
    before = identities(prediction)
    with pytest.raises(UserError, match=message):
        mend(prediction)
    assert identities(prediction) == before


def test_elsewhere_it_says_where_to_go(prediction: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    with pytest.raises(UserError, match=r"(?s)which from here is /results/run.*change into the folder"):
        mend(prediction)


def test_beside_a_prediction_it_is_refused(prediction: Path) -> None:
    shard(prediction, "1.1.1").unlink()
    store = Store(prediction)
    repair = Repair(store, threads=1)
    found = check(store)
    store.record.append("another", {"name": "0.0.0"})
    with pytest.raises(UserError, match=r"(?s)a prediction is going on.*wait until it has ended"):
        repair.mend(found)
    assert not shard(prediction, "1.1.1").exists()
