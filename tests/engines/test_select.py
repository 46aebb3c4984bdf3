"""The choice of a library, and the refusal of engines that were not built for here."""

from pathlib import Path
from typing import Any

import pytest
from engines import make_engine_in

from unetpipe import config
from unetpipe.engines import load_engine, select
from unetpipe.engines.tensorrt import TensorRT
from unetpipe.errors import UserError
from unetpipe.files import digest, write_json
from unetpipe.grid import Shape


def build(network: Path, folder: Path, backend: Any, tile: list[int] | None = None) -> Any:
    return make_engine_in(folder, network, backend, tile=tile, batch=2, max_batch=4)


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-RTX can run, TensorRT cannot."""

    def unavailable(library: TensorRT, purpose: str, precision: str) -> str | None:
        return None if library.name == "tensorrt_rtx" else "not installed"

    monkeypatch.setattr(TensorRT, "unavailable", unavailable)


def test_auto_takes_tensorrt_where_it_can_run(one_gpu: None, small: Path) -> None:
    settings = config.Engine(compute_capabilities=["8.6"])
    profile = select.Profile((1, 1, 1), (1, 60, 60))
    choice = select.choose(settings, "fp32", select.Networks(small), profile)
    assert choice.backend == TensorRT("tensorrt_rtx", ("8.6",))
    assert choice.candidates["tensorrt"] == {"unavailable": "not installed"}


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        pytest.param({"precision": "int8"}, ["int8"], id="one"),
        pytest.param({"precision": ["bf16", "fp32", "bf16"]}, ["bf16", "fp32"], id="a list, each once"),
        pytest.param({"backend": "openvino"}, ["int8", "bf16", "fp32"], id="auto on a processor"),
        pytest.param({"backend": "tensorrt"}, ["fp16", "bf16", "fp32"], id="auto on a GPU"),
    ],
)
def test_a_ladder_of_precisions(settings: dict[str, Any], wanted: list[str]) -> None:
    assert list(select.ladder(config.Engine(**settings))) == wanted


def test_with_a_gpu_auto_takes_its_precisions(one_gpu: None) -> None:
    assert select.ladder(config.Engine()) == ("fp16", "bf16", "fp32")


def test_without_a_gpu_auto_takes_those_of_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TensorRT, "unavailable", lambda self, purpose, precision: "no GPU")
    assert select.ladder(config.Engine()) == ("int8", "bf16", "fp32")


def test_a_library_that_was_chosen_is_not_measured_again(monkeypatch: pytest.MonkeyPatch, small: Path) -> None:
    monkeypatch.setattr(TensorRT, "unavailable", lambda self, purpose, precision: "no GPU")
    monkeypatch.setattr(select, "measure", lambda *_: pytest.fail("measured"))
    profile = select.Profile((1, 1, 1), (1, 60, 60))
    chosen = select.Choice(select.backend("onnxruntime"), "it was faster")
    choice = select.choose(config.Engine(), "fp32", select.Networks(small), profile, like=chosen)
    assert "it was faster" in choice.why
    assert choice.backend.name == "onnxruntime"


def test_a_form_that_is_not_there_is_named(small: Path, tmp_path: Path) -> None:
    library = select.backend("openvino")
    form = library.form("int8")
    networks = select.Networks(small, tmp_path / "quantized")
    with pytest.raises(select.DamagedError, match=r"in int8(.|\n)*quantized\.json is not there(.|\n)*rule quantize"):
        networks.of(library, "int8")
    write_json(tmp_path / "quantized.json", {"refused": {}, "forms": {form: {"digest": digest(small)}}})
    with pytest.raises(select.DamagedError, match=rf"in int8(.|\n)*{form}\.onnx(.|\n)*rule quantize"):
        networks.of(library, "int8")
    (tmp_path / "quantized").mkdir()
    path = tmp_path / "quantized" / f"{form}.onnx"
    path.write_bytes(small.read_bytes())
    assert networks.of(library, "int8") == path
    path.write_bytes(small.read_bytes()[:-1])
    with pytest.raises(select.DamagedError, match=r"changed: its digest(.|\n)*delete .*quantized\.json"):
        networks.of(library, "int8")
    write_json(tmp_path / "quantized.json", {"refused": {"int8": "it has loops"}, "forms": {}})
    with pytest.raises(UserError, match="it has loops"):
        networks.of(library, "int8")


def test_a_damaged_candidate_is_made_again_by_deleting_what_names_it(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "candidates" / "fp32"
    make_engine_in(folder, small, "onnxruntime")
    (folder / "engine").write_bytes(b"another")
    with pytest.raises(UserError, match=rf"delete {tmp_path}/candidates\.json and run snakemake again"):
        load_engine(folder, tile=(1, 60, 52), batch=1, threads=1)
    (folder / "build.json").write_text("{}")
    with pytest.raises(UserError, match=rf"it lacks backend(.|\n)*delete {tmp_path}/candidates\.json"):
        load_engine(folder, tile=(1, 60, 52), batch=1, threads=1)


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
        monkeypatch.setattr(
            "unetpipe.engines.select.OnnxRuntime.unavailable", lambda self, purpose, precision: "not installed"
        )
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
        monkeypatch.setattr(TensorRT, "unavailable", lambda self, purpose, precision: None)
        with pytest.raises(UserError, match=message):
            load_engine(tmp_path, tile=tile, batch=batch, threads=1)
