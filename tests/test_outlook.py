"""`unetpipe plan` tells what `allocate` will plan, before anything runs, and keeps to what is planned already."""

import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
import zarr
from engines import make_engine_in
from onnx_unet import CLASSES, unet
from rates import allocate, measuring

from unetpipe import config, measure
from unetpipe.allocate import read_plan
from unetpipe.cli import main
from unetpipe.engines import device_class
from unetpipe.files import digest, read_json, write_json
from unetpipe.forecast import told
from unetpipe.progress import Record

SETTINGS: dict[str, Any] = {
    "run": "small",
    "classes": {name: [number] for number, name in enumerate(CLASSES)},
    "phantom": {"shape": [12, 130, 100], "seed": 3},
    "volumes": {
        "train": {"role": "train", "image": "phantom", "labels": "phantom", "sections": [0, 5]},
        "validate": {"role": "validate", "image": "phantom", "labels": "phantom", "sections": [5, 8]},
        "rest": {"role": "predict", "image": "phantom"},
    },
    "network": {"width": 4, "depth": 2},
    "augment": {"tile": [104, 104]},
    "engine": {"backend": "openvino", "precision": "fp32"},
}


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(SETTINGS, sort_keys=False))
    return tmp_path / "c.yaml"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an engine, with its certificate."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "model.onnx").write_bytes(unet([4, 6, 8]).SerializeToString(deterministic=True))
    make_engine_in(folder, folder / "model.onnx", "openvino")
    write_json(
        folder / "certificate.json",
        {
            "geometry": asdict(config.Network(depth=2).geometry),
            "classes": list(CLASSES),
            "engine_digest": digest(folder / "engine"),
            "device_class": device_class("openvino"),
            "device": "some processor",
            "backend": "openvino",
            "precision": "fp32",
            "versions": {},
            "profile": None,
        },
    )
    return folder


@pytest.fixture
def certificate(built: Path, configuration: Path) -> Path:
    """The engine of the run."""
    place = configuration.parent / "results" / "small" / "engine" / "openvino-fp32"
    place.parent.mkdir(parents=True)
    place.symlink_to(built)
    return place / "certificate.json"


@pytest.fixture
def made_up_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "measuring", measuring)


def parts(text: str) -> dict[str, dict[str, str]]:
    """By the name of the volume, the lines of it."""
    found = {}
    for part in text.split("\n\n")[1:-1]:
        title, *lines = part.splitlines()
        found[title.partition(" ")[0]] = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in lines)
    return found


@pytest.mark.long
def test_before_training_a_network_with_random_weights_is_measured(configuration: Path) -> None:
    command = [sys.executable, "-m", "unetpipe", "plan", str(configuration), "--cores", "1", "--config", "run=other"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=configuration.parent, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("run other: no engine yet; openvino in fp32 with random weights stands in\n")
    volumes = parts(result.stdout)
    assert list(volumes) == ["validate", "rest"]
    for name, sections in (("validate", 3), ("rest", 12)):
        lines = volumes[name]
        assert lines["voxels"] == f"{sections} x 130 x 100 (z, y, x)"
        assert lines["tiles"].startswith(f"{sections} of 1 x 172 x 140 that keep 1 x 132 x 100 (55 %)")
        # Three classes; what the chunks hold that ingest will write.
        assert lines["writes"].startswith(f"{3 * sections * 130 * 100 / 1e3:.3g} kB before compression")
        assert re.fullmatch(r"\d+ MB for each of 1 workers", lines["memory"])
        assert re.match(r"[\d.]+ s: [\d.]+ s to start, [\d.]+ s to compute, [\d.]+ s a block", lines["time"])
        assert re.search(r"openvino [\d.]+ on \S+, \d{4}-\d\d-\d\d", lines["basis"])
    assert result.stdout.splitlines()[-1].startswith("all 2, one after another: ")
    # Nothing is left behind, and nothing runs on.
    assert [path.name for path in configuration.parent.iterdir()] == ["c.yaml"]
    assert not [child for child in psutil.Process().children() if "unetpipe.measure" in child.cmdline()]


@pytest.mark.long
def test_a_network_that_is_not_written_in_bytes_stands_in_with_the_next_precision(
    configuration: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {
        "network": {"width": 4, "depth": 2, "skips": "add"},
        "engine": {"backend": "openvino", "precision": ["int8", "fp32"]},
        "predict": {"tile": [172, 140]},
    }
    configuration.write_text(yaml.safe_dump(SETTINGS | changes, sort_keys=False))
    assert main(["plan", str(configuration), "--cores", "1"]) == 0
    assert capsys.readouterr().out.startswith("run small: no engine yet; openvino in fp32 with random weights")


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_an_engine_that_cannot_run_here_says_where_to_plan(
    precision: str, configuration: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the package tensorrt-rtx is not installed")
    monkeypatch.setattr("unetpipe.engines.tensorrt.gpu", lambda: None)
    changes = {
        "network": {"width": 2, "depth": 1},
        "engine": {"backend": "tensorrt_rtx", "precision": precision, "compute_capabilities": ["8.6"]},
    }
    configuration.write_text(yaml.safe_dump(SETTINGS | changes, sort_keys=False))
    assert main(["plan", str(configuration), "--cores", "1"]) == 1
    printed, told = capsys.readouterr()
    assert printed == ""
    assert "found: no NVIDIA GPU with its driver is visible\n" in told
    assert "to do: plan on the machine that will predict\n" in told
    assert "Traceback" not in told
    # Nothing is left behind.
    assert [path.name for path in configuration.parent.iterdir()] == ["c.yaml"]


def ingested(configuration: Path, make_volume: Any, name: str, sections: int) -> Path:
    """A volume as ingest leaves it, of the shape in the settings."""
    image = np.random.default_rng(sections).integers(0, 255, (sections, 130, 100), np.uint8)
    path: Path = make_volume(image, name=name, folder=configuration.parent / "results" / "small")
    return path


def allocated(certificate: Path, volume: Path, **changes: Any) -> dict[str, Any]:
    path = volume.parents[2] / "predictions" / volume.parent.name / "allocated.json"
    given: dict[str, Any] = {"tile": None, "batch": None, "on_change": "refuse", "cores": 2}
    allocate(volume, certificate, path, classes=list(CLASSES), **(given | changes))
    description: dict[str, Any] = read_json(path)
    return description


@pytest.mark.usefixtures("made_up_rates")
def test_what_is_told_is_what_allocate_plans(
    configuration: Path, certificate: Path, make_volume: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(configuration), "--cores", "2"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("run small: its engine is there, openvino in fp32 on some processor\n")
    for name, sections in (("validate", 3), ("rest", 12)):
        planned = allocated(certificate, ingested(configuration, make_volume, name, sections))
        assert parts(printed)[name] == told(read_plan(planned), planned["predicted"])
    # What is planned stays so, with other cores too.
    assert main(["plan", str(configuration), "--cores", "1"]) == 0
    assert parts(capsys.readouterr().out) == parts(printed)


@pytest.mark.usefixtures("made_up_rates")
def test_a_plan_with_other_mirror_images_is_not_the_one_that_is_there(
    configuration: Path, certificate: Path, make_volume: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = ingested(configuration, make_volume, "rest", 12)
    plain = allocated(certificate, volume)
    configuration.write_text(yaml.safe_dump({**SETTINGS, "predict": {"mirror": ["x", "y"]}}, sort_keys=False))
    assert main(["plan", str(configuration), "--cores", "2"]) == 0
    printed = parts(capsys.readouterr().out)["rest"]
    assert printed["tiles"].endswith("in 4 mirror images (along y, x)")
    planned = allocated(certificate, volume, mirror=["y", "x"], on_change="restart")
    assert printed == told(read_plan(planned), planned["predicted"]) != told(read_plan(plain), plain["predicted"])
    assert main(["plan", str(configuration), "--cores", "1"]) == 0
    assert parts(capsys.readouterr().out)["rest"] == printed


@pytest.mark.usefixtures("made_up_rates")
def test_what_is_done_is_told(
    configuration: Path, certificate: Path, make_volume: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = ingested(configuration, make_volume, "rest", 12)
    allocated(certificate, volume)
    Record(volume.parents[2] / "predictions" / "rest" / "progress").append("w", {"name": "0.0.0"})
    assert main(["plan", str(configuration), "--cores", "2"]) == 0
    printed = parts(capsys.readouterr().out)
    assert printed["rest"]["done"] == "1 blocks of an earlier run, whose plan is kept"
    assert "done" not in printed["validate"]


@pytest.mark.usefixtures("made_up_rates", "certificate")
def test_settings_count(configuration: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = yaml.safe_load(configuration.read_text())
    settings["predict"] = {"tile": [84, 84], "batch": 3, "workers": 1}
    settings["volumes"]["rest"] |= {"sections": [2, 10], "region": [[0, 8], [0, 5], [0, 5]]}
    configuration.write_text(yaml.safe_dump(settings, sort_keys=False))
    assert main(["plan", str(configuration), "--cores", "2"]) == 0
    lines = parts(capsys.readouterr().out)["rest"]
    # 84 - 2 * 20 = 44 voxels are kept: three tiles along y and along x.
    assert lines["voxels"] == "8 x 130 x 100 (z, y, x)"
    assert lines["tiles"] == "8 of 1 x 84 x 84 that keep 1 x 44 x 44 (27 %), 3 a call"
    assert lines["blocks"].startswith("1 of 9, the others are not wanted, each a shard of 8 x 44 x 44")
    assert "1 workers of 2 threads" in lines["basis"]


@pytest.mark.usefixtures("made_up_rates", "certificate")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"mask": "none.npy"}, "nothing would be predicted", id="mask of zeros"),
        pytest.param(
            {"mask": "ends.npy", "sections": [4, 8]}, "nothing would be predicted", id="mask of other sections"
        ),
        pytest.param({"mask": "ends.npy", "region": [[5, 6], [0, 5], [0, 5]]}, "that meets the region", id="both"),
        pytest.param({"region": [[5, 5], [0, 5], [0, 5]]}, "[5, 5) along z holds no voxel", id="empty region"),
    ],
)
def test_a_part_without_a_block_is_a_users_mistake(
    change: dict[str, Any], message: str, configuration: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = np.zeros((12, 3, 3), np.uint8)
    np.save("none.npy", mask)
    mask[[0, -1]] = 1
    np.save("ends.npy", mask)
    settings = yaml.safe_load(configuration.read_text())
    settings["volumes"]["rest"] |= change
    # Blocks of a section each, so that the region has blocks of its own.
    settings["predict"] = {"tile": [172, 140], "block_seconds": 0.03}
    configuration.write_text(yaml.safe_dump(settings, sort_keys=False))
    assert main(["plan", str(configuration), "--cores", "2"]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("made_up_rates", "certificate")
def test_a_zarr_that_is_used_in_place_is_read_in_its_own_chunks(
    configuration: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zarr.create_array("image.zarr", shape=(20, 130, 100), chunks=(20, 130, 100), dtype="uint16")
    settings = yaml.safe_load(configuration.read_text())
    settings["volumes"]["rest"] |= {"image": "image.zarr", "sections": [4, 8]}
    configuration.write_text(yaml.safe_dump(settings, sort_keys=False))
    assert main(["plan", str(configuration), "--cores", "2"]) == 0
    # Two blocks, and each decodes the one chunk of 520 kB.
    lines = parts(capsys.readouterr().out)["rest"]
    assert lines["blocks"].startswith("2, each a shard of 2 x 132 x 100")
    assert lines["reads"].startswith("1.04 MB")


@pytest.mark.usefixtures("made_up_rates", "certificate")
def test_limits_that_no_layout_keeps_are_a_users_mistake(
    configuration: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = yaml.safe_load(configuration.read_text())
    settings["predict"] = {"memory_mb": 100}
    configuration.write_text(yaml.safe_dump(settings, sort_keys=False))
    assert main(["plan", str(configuration), "--cores", "2"]) == 1
    assert "predict.memory_mb allows 100" in capsys.readouterr().err


def test_mistakes_are_those_of_check(configuration: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(configuration), "--config", "rum=x"]) == 1
    assert "rum: is no setting" in capsys.readouterr().err
