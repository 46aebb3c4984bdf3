"""What is refused before anything is made, what becomes of the settings, and how voxels are compared."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from unetpipe.cli import main
from unetpipe.errors import UserError
from unetpipe.reproduce.again import _predicted as predicted
from unetpipe.reproduce.again import differing, moved, reproduce
from unetpipe.reproduce.recorded import Input, altered, read_report


def written(folder: Path, report: dict[str, Any]) -> Path:
    """The file of a report, in a run below ``folder``."""
    path = folder / "results" / "small" / "report.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(report))
    return path


def with_images(folder: Path) -> None:
    """What the settings name."""
    (folder / "data").mkdir()
    for name in ("a", "b"):
        tifffile.imwrite(folder / "data" / f"{name}.tif", np.zeros((3, 200, 200), np.uint8), photometric="minisblack")


def test_a_report_is_found_by_its_page_and_its_folder(report: dict[str, Any], tmp_path: Path) -> None:
    path = written(tmp_path, report)
    for given in (path, path.with_name("report.html"), path.parent):
        assert read_report(given) == (path, read_report(path)[1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"schema": 2}, "schema: input should be 1", id="another version"),
        pytest.param({"digests": {}}, "digests.checkpoint: field required", id="damaged"),
    ],
)
def test_another_report_is_refused(change: dict[str, Any], said: str, report: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        read_report(written(tmp_path, report | change))


def test_a_report_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", str(tmp_path / "report.json")]) == 2
    assert "there is no such file" in capsys.readouterr().err


def test_a_folder_that_holds_something_is_refused(report: dict[str, Any], tmp_path: Path) -> None:
    path = written(tmp_path, report)
    with pytest.raises(UserError, match="is there already"):
        reproduce(path, tmp_path / "results", None, 1, print)


def test_inputs_that_are_gone_are_named_before_anything_is_made(report: dict[str, Any], tmp_path: Path) -> None:
    path, folder = written(tmp_path, report), tmp_path / "new"
    with pytest.raises(UserError, match=r"volumes\.test\.image.*a\.tif"):
        reproduce(path, folder, None, 1, print)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "volumes"),
        ({"volumes": []}, "volumes"),
        ({"volumes": {"train": None}}, r"volumes\.train"),
        ({"train": "long"}, "train"),
        ({"run": "a/../../outside"}, "run: "),
    ],
    ids=["none", "no volumes", "an empty one", "text", "a run elsewhere"],
)
def test_settings_that_are_none_are_refused_before_anything_is_made(
    settings: dict[str, Any], said: str, report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report["settings"] = settings and report["settings"] | settings
    report["run"] = settings.get("run", report["run"])
    path = written(tmp_path, report)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match=rf"(?s)cannot be used.*\n +{said}"):
        reproduce(path, None, None, 1, print)
    assert {each.name for each in tmp_path.iterdir()} == {"here", "results"}
    assert not any((tmp_path / "here").iterdir())


def test_the_folder_has_the_name_that_the_settings_give(
    report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # That of the report is nothing but text.
    with_images(tmp_path)
    path = written(tmp_path, report | {"run": "a/../../outside"})
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def refuse(*_: object) -> None:
        raise UserError("asked", "found", "repair")

    monkeypatch.setattr("unetpipe.reproduce.again._run", refuse)
    with pytest.raises(UserError, match="asked"):
        reproduce(path, None, None, 1, print)
    assert [each.name for each in (tmp_path / "here").iterdir()] == ["reproduced-small"]


def test_inputs_that_are_not_those_of_the_settings_are_refused(report: dict[str, Any], tmp_path: Path) -> None:
    report["inputs"]["../test"] = report["inputs"].pop("test")
    with_images(tmp_path)
    with pytest.raises(UserError, match=r"the volumes train, test, its inputs train, \.\./test"):
        reproduce(written(tmp_path, report), tmp_path / "new", None, 1, print)
    assert not (tmp_path / "new").exists()


def test_other_circumstances_are_told_before_anything_is_made(
    report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report |= {"version": "0.0.1", "versions": {"torch": "0.1"}, "device_class": {"processor": "another"}}
    with_images(tmp_path)
    told: list[str] = []

    def refuse(*_: object) -> None:
        raise UserError("asked", "found", "repair")

    monkeypatch.setattr("unetpipe.reproduce.again._run", refuse)
    with pytest.raises(UserError, match="asked"):
        reproduce(written(tmp_path, report), tmp_path / "new", None, 1, told.append)
    assert "that was 0.0.1" in told[0]
    assert "torch" in told[1]
    assert "(was 0.1)" in told[1]
    assert "another class of device" in told[2]
    assert "processor another" in told[2]


@pytest.mark.parametrize(
    ("place", "data", "base"),
    [("results/small", None, "."), ("elsewhere", None, "here"), ("elsewhere", "there", "there")],
    ids=["in its results", "moved", "told"],
)
def test_inputs_are_looked_for_where_they_were(
    place: str, data: str | None, base: str, report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "report.json").write_text(json.dumps(report))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError) as refused:
        reproduce(tmp_path / place, Path("new"), None if data is None else tmp_path / data, 1, print)
    assert str((tmp_path / base / "data" / "a.tif").resolve().parent.parent) in str(refused.value)


def test_settings_find_what_was_there_and_write_nothing_again(tmp_path: Path) -> None:
    settings = {
        "model": "m.safetensors",
        "train": {"init": "i.safetensors"},
        "predict": {
            "store": "s3://bucket/results",
            "cluster": "tcp://stranger:8786",
            "slurm": {"options": ["--wrap=true"]},
            "batch": 2,
        },
        "volumes": {
            "a": {"image": "phantom", "labels": "phantom", "mask": None},
            "b": {"image": "s3://bucket/b.zarr", "labels": "/data/b.tif", "mask": "m.h5:/mask"},
        },
    }
    before = json.dumps(settings)
    found = moved(settings, tmp_path)
    assert json.dumps(settings) == before
    assert found == {
        "model": str(tmp_path / "m.safetensors"),
        "train": {"init": str(tmp_path / "i.safetensors")},
        "predict": {"batch": 2},
        "volumes": {
            "a": {"image": "phantom", "labels": "phantom", "mask": None},
            "b": {"image": "s3://bucket/b.zarr", "labels": "/data/b.tif", "mask": str(tmp_path / "m.h5:/mask")},
        },
    }


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"image_digest": "a", "labels_digest": "b"}, []),
        ({"image_digest": "c", "labels_digest": "b"}, ["volumes.v.image, i.tif: its voxels"]),
        ({"image_digest": "a", "labels_digest": None}, ["volumes.v.labels, l.tif: its voxels"]),
    ],
)
def test_an_altered_input_is_named(found: dict[str, Any], said: list[str]) -> None:
    volume = Input(image="i.tif", labels="l.tif", image_digest="a", labels_digest="b", in_place=False)
    lines = altered({"v": volume}, {"v": found})
    assert [line.partition(" have changed")[0] for line in lines] == said


def test_voxels_are_compared_whatever_their_shards(tmp_path: Path) -> None:
    voxels = np.random.default_rng(1).integers(0, 255, (2, 9, 70, 80)).astype(np.uint8)
    other = voxels.copy()
    other[1, 8, 69, 79] += 1
    for name, content, chunks in (
        ("a", voxels, (1, 4, 32, 32)),
        ("b", voxels, (2, 3, 16, 50)),
        ("c", other, (1, 9, 70, 80)),
    ):
        zarr.create_array(tmp_path / name, shape=content.shape, dtype=content.dtype, chunks=chunks)[...] = content
    a, b, c = (str(tmp_path / name) for name in "abc")
    assert differing(a, b) == 0
    assert differing(a, c) == 1
    assert differing(a, str(tmp_path / "d")) is None
    assert differing(None, a) is None
    torn = next(path for path in (tmp_path / "b" / "c").rglob("*") if path.is_file())
    torn.write_bytes(torn.read_bytes()[:20])
    assert differing(a, b) is None


@pytest.mark.parametrize("content", [None, "{}", "[]", '"text"', '{"probability": '])
def test_a_file_that_tells_where_a_prediction_is_may_be_damaged(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "results" / "small" / "predictions" / "v" / "allocated.json"
    path.parent.mkdir(parents=True)
    if content is not None:
        path.write_text(content)
    assert predicted(tmp_path / "results" / "small", "v") is None
    path.write_text('{"probability": "results/small/p.zarr", "array": "0"}')
    assert predicted(tmp_path / "results" / "small", "v") == str(tmp_path / "results" / "small" / "p.zarr" / "0")
