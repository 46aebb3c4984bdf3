"""The choice of a library, and the refusal of engines that were not built for here."""

from pathlib import Path
from typing import Any

import pytest

from unetpipe import config
from unetpipe.deploy.build_engine import build_engine
from unetpipe.engines import load_engine, select
from unetpipe.engines.tensorrt import TensorRT
from unetpipe.errors import UserError
from unetpipe.files import digest, read_json
from unetpipe.grid import Shape


def build(network: Path, folder: Path, backend: Any, tile: list[int] | None = None) -> Any:
    settings = config.Engine(backend=backend, max_batch=4)
    build_engine(network, folder / "engine", folder / "build.json", settings=settings, tile=tile, batch=2)
    return read_json(folder / "build.json")


def test_auto_takes_tensorrt_where_it_can_run(monkeypatch: pytest.MonkeyPatch, small: Path) -> None:
    monkeypatch.setattr(
        TensorRT, "unavailable", lambda self, purpose: None if self.name == "tensorrt_rtx" else "not installed"
    )
    choice = select.choose("auto", small, select.Profile((1, 1, 1), (1, 60, 60)), ["8.6"])
    assert choice.backend == TensorRT("tensorrt_rtx", ("8.6",))
    assert choice.candidates == {"tensorrt": {"unavailable": "not installed"}, "tensorrt_rtx": {"unavailable": None}}


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        pytest.param({"openvino": 1.0, "onnxruntime": 2.0}, "openvino", id="faster"),
        pytest.param({"openvino": 1.09, "onnxruntime": 1.0}, "openvino", id="as good as equal"),
        pytest.param({"openvino": 1.2, "onnxruntime": 1.0}, "onnxruntime", id="clearly slower"),
        pytest.param({"onnxruntime": 1.0}, "onnxruntime", id="alone"),
    ],
)
def test_noise_does_not_turn_the_choice(seconds: dict[str, float], wanted: str) -> None:
    assert select.prefer(seconds) == wanted


class TestLoading:
    """An engine that is not the one that was built here is refused before any library sees it."""

    @pytest.fixture
    def folder(self, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr("unetpipe.engines.onnxruntime.gpu", lambda: None)
        build(small, tmp_path, "onnxruntime")
        return tmp_path

    def load(self, folder: Path) -> None:
        load_engine(folder, tile=(1, 44, 44), batch=1, threads=1).close()

    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param(lambda data: data[:-1], id="truncated"),
            pytest.param(lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:], id="one bit"),
            pytest.param(lambda data: b"", id="empty"),
        ],
    )
    def test_a_damaged_engine(self, folder: Path, damage: Any) -> None:
        file = folder / "engine"
        wanted = digest(file)
        file.write_bytes(damage(file.read_bytes()))
        with pytest.raises(UserError, match=rf"{digest(file)}(.|\n)*{wanted}(.|\n)*delete {folder}"):
            self.load(folder)

    def test_another_version(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("onnxruntime.__version__", "0.1.2")
        with pytest.raises(UserError, match=r"built with library onnxruntime (?!0.1.2)(.|\n)*here is .*0\.1\.2"):
            self.load(folder)

    def test_a_library_that_is_gone(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("unetpipe.engines.select.OnnxRuntime.unavailable", lambda self, purpose: "not installed")
        with pytest.raises(UserError, match="not installed"):
            self.load(folder)

    def test_no_engine(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"there is no build\.json"):
            self.load(tmp_path)

    @pytest.mark.parametrize(
        ("tile", "batch", "message"),
        [
            pytest.param(
                (1, 44, 44), 2, r"of \[1, 44, 44\] \(z, y, x\)(.|\n)*built for tiles of \[1, 60, 52\]", id="tile"
            ),
            pytest.param(
                (1, 60, 52), 5, r"for 5 tiles a call(.|\n)*built for 1 to 4(.|\n)*engine\.max_batch", id="batch"
            ),
        ],
    )
    def test_calls_that_it_was_not_built_for(
        self,
        small: Path,
        tmp_path: Path,
        tile: Shape,
        batch: int,
        message: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        pytest.importorskip("tensorrt_rtx")
        assert build(small, tmp_path, "tensorrt_rtx", [1, 60, 52])["profile"] == {
            "batch": [1, 2, 4],
            "tile": [1, 60, 52],
        }
        monkeypatch.setattr(TensorRT, "unavailable", lambda self, purpose: None)
        with pytest.raises(UserError, match=message):
            load_engine(tmp_path, tile=tile, batch=batch, threads=1)
