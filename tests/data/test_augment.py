"""Samples follow from the seed alone, whatever the workers and whatever was killed."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from distributed import Client
from drawing import CHANNELS, CLASSES, FLAT, IN_3D, SETTINGS, STACK, Make, content, run

import unetpipe.data.augment as module
from unetpipe.cluster import for_each
from unetpipe.config import Network
from unetpipe.data.samples import SHARD, SamplesFile
from unetpipe.errors import UserError


def assert_same(folder: Path, other: Path) -> None:
    left, right = content(folder), content(other)
    for name, data in left.items():
        np.testing.assert_array_equal(data, right[name], err_msg=name)


@pytest.mark.usefixtures("at_hand")
@pytest.mark.parametrize(("network", "changes"), [pytest.param(FLAT, {}, id="2D"), pytest.param(STACK, IN_3D, id="3D")])
def test_samples_do_not_depend_on_workers_or_crashes(
    tmp_path: Path,
    volumes: dict[str, list[Path]],
    monkeypatch: pytest.MonkeyPatch,
    network: Network,
    changes: dict[str, Any],
) -> None:
    asked: dict[str, Any] = {"network": network, "settings": SETTINGS.model_copy(update=changes)}
    two = run(tmp_path / "two", volumes, **asked)

    # Killed after the first shard.
    def stopping(*arguments: Any) -> Iterator[Any]:
        yield next(for_each(*arguments))
        raise KeyboardInterrupt

    killed = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(module, "for_each", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(killed, volumes, **asked)
    assert not (killed / "samples.json").exists()
    assert run(killed, volumes, **asked) == SamplesFile(**{**vars(two), "store": str(killed / "samples.zarr")})
    assert_same(killed, tmp_path / "two")

    # One worker, started for it.
    monkeypatch.undo()
    assert run(tmp_path / "one", volumes, cores=1, **asked).digest == two.digest
    assert_same(tmp_path / "one", tmp_path / "two")


@pytest.mark.usefixtures("at_hand")
def test_a_resumed_run_draws_only_what_is_not_recorded(tmp_path: Path, volumes: dict[str, list[Path]]) -> None:
    before = run(tmp_path, volumes)
    expected = content(tmp_path)
    lost = str(SHARD)
    for log in (tmp_path / "samples.progress").glob("*.jsonl"):
        lines = log.read_text().splitlines()
        log.write_text("\n".join(line for line in lines if f'"name":"{lost}"' not in line) + "\n")
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "samples.zarr").rglob("*") if path.is_file()}
    shutil.rmtree(tmp_path / "samples.zarr" / "train" / "image" / "c" / "1")
    (tmp_path / "samples.json").unlink()
    assert run(tmp_path, volumes) == before
    for name, data in content(tmp_path).items():
        np.testing.assert_array_equal(data, expected[name])
    written = {path for path, time in shards.items() if path.stat().st_mtime_ns != time}
    assert written == {
        path for path in shards if "train" in path.parts and path.relative_to(tmp_path).parts[4:5] == ("1",)
    }


@pytest.mark.usefixtures("at_hand")
@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"seed": 2}, id="seed"),
        pytest.param({"settings": SETTINGS.model_copy(update={"noise": 0.2})}, id="settings"),
        pytest.param({"settings": SETTINGS.model_copy(update={"samples": 5})}, id="count"),
        pytest.param({"validate": []}, id="volumes"),
        pytest.param({"network": CHANNELS}, id="network"),
    ],
)
def test_a_change_draws_all_samples_anew(
    tmp_path: Path, volumes: dict[str, list[Path]], change: dict[str, Any]
) -> None:
    before = run(tmp_path / "there", volumes)
    after = run(tmp_path / "there", volumes, **change)
    assert after.digest != before.digest
    assert run(tmp_path / "fresh", volumes, **change).digest == after.digest
    assert_same(tmp_path / "there", tmp_path / "fresh")


@pytest.mark.usefixtures("at_hand")
def test_a_worker_keeps_to_one_core(tmp_path: Path, volumes: dict[str, list[Path]], client: Client) -> None:
    client.run(cv2.setNumThreads, 2)
    run(tmp_path, volumes)
    assert 1 in client.run(cv2.getNumThreads).values()


@pytest.mark.usefixtures("at_hand")
def test_samples_fit_every_network_of_the_same_geometry(
    tmp_path: Path, volumes: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run(tmp_path, volumes)
    monkeypatch.setattr(module, "draw_shard", None)
    assert run(tmp_path, volumes, network=FLAT.model_copy(update={"width": 64, "dropout": 0.5})) == before


@pytest.mark.usefixtures("at_hand")
def test_a_record_without_its_store_is_not_believed(tmp_path: Path, volumes: dict[str, list[Path]]) -> None:
    before = run(tmp_path, volumes)
    expected = content(tmp_path)
    shutil.rmtree(tmp_path / "samples.zarr")
    assert run(tmp_path, volumes) == before
    for name, data in content(tmp_path).items():
        np.testing.assert_array_equal(data, expected[name])


@pytest.mark.usefixtures("at_hand")
def test_weights_beyond_float16_are_refused(tmp_path: Path, volumes: dict[str, list[Path]]) -> None:
    with pytest.raises(UserError, match="voxels of the class membrane were to weigh"):
        run(tmp_path, volumes, settings=SETTINGS.model_copy(update={"border_weight": 1e5}))


def test_volumes_without_labels_are_refused(tmp_path: Path, make_volume: Make) -> None:
    path = make_volume(np.ones((1, 40, 40), np.uint8))
    with pytest.raises(UserError, match="volume v was to train"):
        run(tmp_path, {"train": [path], "validate": []})


@pytest.mark.usefixtures("at_hand")
def test_a_class_that_does_not_occur_is_told(
    tmp_path: Path, volumes: dict[str, list[Path]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    described = run(tmp_path, volumes, classes=[*CLASSES, "vesicle"])
    assert "the class vesicle does not occur" in caplog.text
    assert described.weight["vesicle"] == 0
