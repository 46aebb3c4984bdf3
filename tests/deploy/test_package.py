"""The package says of the network what is true, in a form that other programs check and run."""

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_unet
import onnxruntime
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from unetpipe.cli import main
from unetpipe.config import Network
from unetpipe.deploy.package import normalised, package
from unetpipe.errors import UserError
from unetpipe.files import write_json
from unetpipe.grid import AXES

MakeVolume = Callable[..., Path]


NETWORKS: dict[str, dict[str, Any]] = {
    "2D": {},
    "2.5D": {"sections": 3},
    "3D": {"kernel": (3, 3, 3), "pooling": (2, 2, 2)},
    "thick sections": {"kernel": [(1, 3, 3), (1, 3, 3), (3, 3, 3)], "pooling": [(1, 2, 2), (1, 2, 2)]},
}


def run_of(folder: Path, make_volume: MakeVolume, name: str = "2D", **changes: Any) -> Path:
    """The folder of a run with a network, and one volume to test."""
    # Shorter than the name of a model may be.
    run = folder / "results" / "mine"
    (run / "model").mkdir(parents=True)
    model = onnx_unet.unet([4, 6, 8], **NETWORKS[name])
    (run / "model" / "model.onnx").write_bytes(model.SerializeToString())
    told = {
        "classes": list(onnx_unet.CLASSES),
        "opset": 18,
        "network": {},
        "checkpoint_digest": "0" * 64,
        "parameters": 9,
    }
    write_json(run / "model" / "model.json", told)
    (run / "model" / "checkpoint.safetensors").write_bytes(b"weights")
    image = np.random.default_rng(4).integers(0, 256, (12, 90, 130)).astype(changes.pop("dtype", np.uint8))
    make_volume(image, folder=run, **changes)
    scores = {"volume": "v", "role": "test", "mean_iou": 0.5, "classes": {"a": {"iou": 0.5}}}
    write_json(run / "scores" / "v.json", scores)
    return run


def content(out: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
        files = {name: archive.read(name) for name in archive.namelist()}
    return yaml.safe_load(files["rdf.yaml"]), files


def made(run: Path, folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    package(run, folder / "out.zip", authors=["A. Name"], license="CC-BY-4.0", name=None)
    return content(folder / "out.zip")


@pytest.mark.parametrize("name", list(NETWORKS))
def test_it_is_true_of_the_network(name: str, make_volume: MakeVolume, tmp_path: Path) -> None:
    described, files = made(run_of(tmp_path, make_volume, name), tmp_path)
    geometry = Network.model_validate({"depth": 2, **NETWORKS[name]}).geometry
    session = onnxruntime.InferenceSession(files["model.onnx"], providers=["CPUExecutionProvider"])
    image, wanted = (np.load(io.BytesIO(files[f"test_{name}.npy"])) for name in ("input", "output"))

    def run(grey: NDArray[np.float32]) -> NDArray[np.float32]:
        (found,) = session.run(["probability"], {"image": grey})
        return np.asarray(found)

    # By the words of the specification: mean and variance over the named axes, which are y and x.
    (step,) = (step for step in described["inputs"][0]["preprocessing"] if step["id"] == "zero_mean_unit_variance")
    assert step["kwargs"]["axes"] == ["y", "x"]
    grey = image.astype(np.float64)
    grey = (grey - grey.mean((2, 3), keepdims=True)) / (grey.std((2, 3), keepdims=True) + step["kwargs"]["eps"])
    np.testing.assert_allclose(run(grey.astype(np.float32)), wanted, atol=1e-5)

    # Every size that the axes allow is legal, and gives what they say.
    first = [axis for axis in described["inputs"][0]["axes"] if axis["type"] == "space"]
    last = {axis["id"]: axis for axis in described["outputs"][0]["axes"] if axis["type"] == "space"}
    for count in ([0, 0, 0], [1, 0, 2], [0, 3, 1]):
        sizes = {
            axis["id"]: axis["size"]["min"] + n * axis["size"]["step"] for axis, n in zip(first, count, strict=False)
        }
        tile = [sizes.get(axis, image.shape[1]) for axis in AXES]
        assert geometry.is_legal(tile)
        result = run(np.zeros((2, *tile), np.float32)).shape[2:]
        for axis, size in zip(AXES, result, strict=True):
            told = last[axis]["size"]
            assert size == (told if isinstance(told, int) else sizes[told["axis_id"]] + told["offset"])
            assert "halo" not in last[axis]
    assert described["outputs"][0]["axes"][1]["channel_names"] == ["membrane", "inside", "outside"]


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("2D", [None, ["section"], "y", "x"]),
        ("2.5D", [None, ["section -1", "section", "section +1"], "y", "x"]),
        ("3D", [None, "z", "y", "x"]),
    ],
)
def test_sections_of_a_2d_network_are_channels(
    name: str, axes: list[Any], make_volume: MakeVolume, tmp_path: Path
) -> None:
    described, _ = made(run_of(tmp_path, make_volume, name), tmp_path)
    assert [axis.get("id", axis.get("channel_names")) for axis in described["inputs"][0]["axes"]] == axes


def test_every_file_is_described(make_volume: MakeVolume, tmp_path: Path) -> None:
    described, files = made(run_of(tmp_path, make_volume), tmp_path)
    named = [
        described["weights"]["onnx"], described["documentation"], *described["covers"], *described["attachments"],
        described["inputs"][0]["test_tensor"], described["outputs"][0]["test_tensor"],
    ]  # fmt: skip
    digests = {source["source"]: source["sha256"] for source in named}
    assert digests == {name: hashlib.sha256(files[name]).hexdigest() for name in files.keys() - {"rdf.yaml"}}
    assert Image.open(io.BytesIO(files["cover.png"])).size == (512, 256)
    assert "border (y: 20, x: 20)" in files["README.md"].decode()
    assert "- v (test): mean IoU 0.500" in files["README.md"].decode()


@pytest.mark.long
@pytest.mark.parametrize("name", ["2D", "2.5D", "3D"])
def test_it_passes_the_tests_of_bioimage_io(name: str, make_volume: MakeVolume, tmp_path: Path) -> None:
    pytest.importorskip("bioimageio.spec", reason="bioimageio.core is not installed")
    made(run_of(tmp_path, make_volume, name, range=(0.0, 255.0)), tmp_path)
    # It reads the format, reproduces the test, and runs other sizes and batches.
    code = (
        "import json, sys; from bioimageio.core import test_description; found = test_description(sys.argv[1]);"
        "print(json.dumps([found.status, [[each.status, each.name] for each in found.details]]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out.zip")],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path), "BIOIMAGEIO_CACHE_PATH": str(tmp_path)},
        capture_output=True, text=True, timeout=250, check=True,
    )  # fmt: skip
    status, details = json.loads(ran.stdout.splitlines()[-1])
    assert status == "passed", ran.stdout
    names = [name for _, name in details]
    assert any("Reproduce test outputs from test inputs (onnx)" in name for name in names)
    assert sum("Run onnx inference" in name for name in names) >= 6


def test_it_holds_no_pickle_and_no_path(make_volume: MakeVolume, tmp_path: Path) -> None:
    _, files = made(run_of(tmp_path, make_volume), tmp_path)
    assert set(files) == {
        "rdf.yaml", "model.onnx", "test_input.npy", "test_output.npy", "cover.png", "README.md",
        "checkpoint.safetensors",
    }  # fmt: skip
    for name, data in files.items():
        assert str(tmp_path).encode() not in data, name
        if name.endswith(".npy"):
            np.load(io.BytesIO(data), allow_pickle=False)


def test_grey_values_are_clipped_as_the_volume_says(make_volume: MakeVolume, tmp_path: Path) -> None:
    run = run_of(tmp_path, make_volume, dtype=np.uint16, range=(20.0, 200.0))
    described, files = made(run, tmp_path)
    steps = [step["id"] for step in described["inputs"][0]["preprocessing"]]
    assert steps == ["ensure_dtype", "clip", "zero_mean_unit_variance", "ensure_dtype"]
    assert described["inputs"][0]["preprocessing"][1]["kwargs"] == {"min": 20.0, "max": 200.0}
    image = np.load(io.BytesIO(files["test_input.npy"]))
    assert image.dtype == np.uint16
    clipped = normalised(image, (20.0, 200.0))
    np.testing.assert_allclose(clipped, normalised(np.clip(image, 20, 200), None), rtol=1e-6)


@pytest.mark.parametrize(
    ("gone", "said"),
    [("model/model.onnx", "there is no network"), ("volumes", "no volume in")],
    ids=["network", "volume"],
)
def test_what_is_missing_is_told(
    gone: str, said: str, make_volume: MakeVolume, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path, make_volume)
    (run / gone).rename(tmp_path / "gone")
    words = ["package", str(run), str(tmp_path / "out.zip"), "--author", "A", "--license", "MIT"]
    assert main(words) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out.zip").exists()


@pytest.mark.parametrize(
    ("file", "key"),
    [("model/model.json", key) for key in ("classes", "opset", "network", "checkpoint_digest", "parameters")]
    + [("scores/v.json", key) for key in ("volume", "role", "mean_iou", "classes")],
)
def test_files_of_another_version_are_refused(file: str, key: str, make_volume: MakeVolume, tmp_path: Path) -> None:
    run = run_of(tmp_path, make_volume)
    content = json.loads((run / file).read_text())
    del content[key]
    write_json(run / file, content)
    with pytest.raises(UserError, match=rf"{file} was to be read\n.*{key}: field required"):
        made(run, tmp_path)
    assert not (tmp_path / "out.zip").exists()


@pytest.mark.parametrize("file", ["model/model.json", "scores/v.json"])
@pytest.mark.parametrize("content", ["[]", "null", '{"role": '])
def test_damaged_files_are_refused(content: str, file: str, make_volume: MakeVolume, tmp_path: Path) -> None:
    run = run_of(tmp_path, make_volume)
    (run / file).write_text(content)
    with pytest.raises(UserError, match=rf"{file} was to be read"):
        made(run, tmp_path)


def test_it_is_called_by_the_run_or_as_asked(make_volume: MakeVolume, tmp_path: Path) -> None:
    run = run_of(tmp_path, make_volume)
    assert made(run, tmp_path)[0]["name"] == "mine (unetpipe)"
    package(run, tmp_path / "out.zip", authors=["A. Name"], license="MIT", name="Membranes (EM)")
    assert content(tmp_path / "out.zip")[0]["name"] == "Membranes (EM)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "mine"}, "does not take the name 'mine'"),
        ({"name": "a: <b>"}, "does not take the name 'a: <b>'"),
        ({"name": "Zellwände"}, "does not take the name"),
        ({"name": "x" * 129}, "5 to 128 letters"),
        ({"authors": ["A. Name", "A/B"]}, "does not take the author 'A/B'"),
        ({"authors": ["A\\B"]}, "does not take the author"),
        ({"authors": [" "]}, "does not take the author ' '"),
        ({"license": "as you like"}, "'as you like' is no licence"),
        ({"license": ""}, "'' is no licence"),
    ],
    ids=str,
)
def test_words_that_the_format_does_not_take_are_refused(
    changes: dict[str, Any], message: str, make_volume: MakeVolume, tmp_path: Path
) -> None:
    run = run_of(tmp_path, make_volume)
    given: dict[str, Any] = {"authors": ["A. Name"], "license": "CC-BY-4.0", "name": None}
    with pytest.raises(UserError, match=message):
        package(run, tmp_path / "out.zip", **(given | changes))
    assert not (tmp_path / "out.zip").exists()


def test_another_suffix_is_refused(make_volume: MakeVolume, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not end in \.zip"):
        package(tmp_path, tmp_path / "out.tar", authors=["A"], license="MIT", name=None)


@pytest.mark.parametrize("missing", ["--author", "--license"])
def test_author_and_license_are_asked_for(missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"--author": "A", "--license": "MIT"}
    del options[missing]
    with pytest.raises(SystemExit, match="2"):
        main(["package", "run", "out.zip", *(word for pair in options.items() for word in pair)])
    assert missing in capsys.readouterr().err
