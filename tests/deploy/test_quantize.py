"""The same tiles give the same forms; labels are never seen."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unetpipe import config
from unetpipe.deploy.quantize import quantize
from unetpipe.engines import onnx_file
from unetpipe.errors import UserError
from unetpipe.files import digest


def run(onnx: Path, volumes: list[Path], folder: Path, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "role": "train", "precisions": ["int8"], "tile": None, "settings": config.Quantize(tiles=3), "cores": 1,
    }  # fmt: skip
    quantize(onnx, volumes, folder / "quantized", folder / "quantized.json", **(settings | changes))
    return json.loads((folder / "quantized.json").read_text())


def grey(*shape: int) -> Any:
    return np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)


def test_each_form_of_each_precision_is_written(exported: Any, make_volume: Any, tmp_path: Path) -> None:
    found = run(exported.onnx, [make_volume(grey(4, 64, 64))], tmp_path, precisions=["fp32", "bf16", "fp16", "int8"])
    forms = ["bf16", "bf16-hint", "fp16", "int8-asymmetric", "int8-symmetric"]
    assert sorted(found["forms"]) == sorted(path.stem for path in (tmp_path / "quantized").iterdir()) == forms
    for form, facts in found["forms"].items():
        path = tmp_path / "quantized" / f"{form}.onnx"
        assert facts == {"digest": digest(path), "bytes": path.stat().st_size}
        assert onnx_file.read(path)[1].form == form
    assert found["onnx_digest"] == digest(exported.onnx)
    assert found["calibration"]["role"] == "train"
    assert found["calibration"]["volumes"] == ["v"]
    assert found["calibration"]["tiles"]["count"] == len(found["calibration"]["tiles"]["sources"]) == 3


@pytest.mark.long
def test_networks_of_other_dimensions(exported_further: Any, make_volume: Any, tmp_path: Path) -> None:
    found = run(exported_further.onnx, [make_volume(grey(24, 48, 48))], tmp_path)
    assert set(found["forms"]) == {"int8-asymmetric", "int8-symmetric"}


def test_the_same_tiles_give_the_same_bytes(exported: Any, make_volume: Any, tmp_path: Path) -> None:
    image = grey(4, 64, 64)
    plain, labelled = make_volume(image), make_volume(image, np.zeros(image.shape, np.uint8))
    one = run(exported.onnx, [plain], tmp_path / "one", cores=1)
    assert run(exported.onnx, [labelled], tmp_path / "other", cores=3) == one


def test_what_is_left_of_other_settings_goes(exported: Any, make_volume: Any, tmp_path: Path) -> None:
    volume = make_volume(grey(4, 64, 64))
    run(exported.onnx, [volume], tmp_path, precisions=["fp16"])
    found = run(exported.onnx, [volume], tmp_path, precisions=["bf16"])
    assert found["calibration"] is None
    assert sorted(path.stem for path in (tmp_path / "quantized").iterdir()) == ["bf16", "bf16-hint"]


def test_the_tile_of_prediction_is_the_tile(exported: Any, make_volume: Any, tmp_path: Path) -> None:
    found = run(exported.onnx, [make_volume(grey(4, 64, 64))], tmp_path, tile=[1, 60, 44])
    assert found["calibration"]["tiles"]["shape"] == [1, 60, 44]


def test_without_a_section_there_is_nothing_to_calibrate_on(exported: Any, make_volume: Any, tmp_path: Path) -> None:
    (tmp_path / "quantized.json").write_text("{}")
    with pytest.raises(UserError, match=r"all sections are missing(.|\n)*leave int8 out of engine\.precision"):
        run(exported.onnx, [make_volume(np.zeros((2, 64, 64), np.uint8))], tmp_path)
    assert not (tmp_path / "quantized.json").exists()
