"""ONNX files are read with what they say of themselves; others are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from unetpipe.config import Network
from unetpipe.engines import onnx_file
from unetpipe.errors import UserError


def test_a_network_is_read_with_its_description(small: Path) -> None:
    model, described = onnx_file.read(small)
    assert model == onnx.load(small)
    assert described.geometry == Network(depth=2).geometry
    assert described.classes == ("membrane", "inside", "outside")
    assert (described.precision, described.form) == ("fp32", "fp32")
    assert described.metadata["checkpoint_digest"] == "0" * 64


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"sections": 3}, id="2.5D"),
        pytest.param({"kernel": [(1, 3, 3), (3, 3, 3)], "pooling": (1, 2, 2)}, id="3D"),
    ],
)
def test_the_geometry_is_that_of_the_network(make_network: Callable[..., Path], settings: dict[str, Any]) -> None:
    _, described = onnx_file.read(make_network(4, 6, **settings))
    assert described.geometry == Network(depth=1, **settings).geometry


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no ONNX file(.|\n)*exports the network again"):
        onnx_file.read(tmp_path / "model.onnx")


def test_a_truncated_file(small: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(small.read_bytes()[:-10])
    with pytest.raises(UserError, match="no ONNX file"):
        onnx_file.read(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("classes", None, id="no classes"),
        pytest.param("precision", None, id="no precision"),
        pytest.param("precision", json.dumps("fp8"), id="unknown precision"),
        pytest.param("form", None, id="no form"),
        pytest.param("geometry", json.dumps({"border": [0, 8, 8]}), id="half a geometry"),
        pytest.param("geometry", "{", id="no JSON"),
    ],
)
def test_a_network_of_other_origin(small: Path, tmp_path: Path, key: str, value: str | None) -> None:
    model = onnx.load(small)
    kept = [item for item in model.metadata_props if item.key != key]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    if value is not None:
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(UserError, match="does not describe a network of this version"):
        onnx_file.read(tmp_path / "model.onnx")


def test_another_form_than_the_library_takes_is_refused(small: Path) -> None:
    assert onnx_file.read_form(small, lambda precision: precision)[1].form == "fp32"
    with pytest.raises(UserError, match=r"has the form fp32; the library takes fp32-other(.|\n)*rule quantize"):
        onnx_file.read_form(small, lambda precision: f"{precision}-other")
