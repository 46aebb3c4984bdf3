"""A certificate is written for an engine that agrees with PyTorch, and for no other."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from unetpipe import config
from unetpipe.deploy.build_engine import build_engine
from unetpipe.deploy.certify import certify, pytorch
from unetpipe.deploy.export import export
from unetpipe.errors import UserError
from unetpipe.files import digest, read_json, write_json
from unetpipe.nets.checkpoint import load_checkpoint, save_checkpoint
from unetpipe.nets.unet import UNet

CLASSES = ["membrane", "mitochondrion", "inside"]
DEVICE_CLASS = {"processor": "x86-64"}

TILE = [1, 28, 36]

NETWORKS = {
    "2D": config.Network(width=4, depth=1, normalisation="none"),
    "2.5D": config.Network(width=4, depth=1, normalisation="none", sections=3),
    "3D": config.Network(width=4, depth=1, normalisation="none", kernel=[(1, 3, 3), (3, 3, 3)]),
}

Batch = NDArray[np.float32]
Spoil = Callable[[Batch], Batch]


@dataclass
class FakeEngine:
    """The network in PyTorch behind the contract of an engine, with its result spoilt."""

    run: Callable[[Batch], Batch]
    device = "a processor"
    library = "fake 1.2"
    closed = False

    def close(self) -> None:
        self.closed = True


@dataclass
class Case:
    """The inputs of the rule."""

    folder: Path
    network: UNet
    monkeypatch: pytest.MonkeyPatch
    calls: list[dict[str, Any]]
    engines: list[FakeEngine]
    build: dict[str, Any]
    """Of the only candidate, unless a test says more."""

    @property
    def certificate(self) -> Path:
        return self.folder / "certificate.json"

    def certify(
        self,
        volumes: list[Path],
        role: str = "validate",
        spoil: Spoil | dict[str, Spoil] = lambda result: result,
        tile: list[int] | None = TILE,
        **bounds: Any,
    ) -> Any:
        def load(folder: Path, **how: Any) -> FakeEngine:
            assert folder.parent == self.folder / "candidates"
            self.calls.append(how)
            spoils = spoil[folder.name] if isinstance(spoil, dict) else spoil
            self.engines.append(FakeEngine(lambda images: spoils(pytorch(self.network)(images).copy())))
            return self.engines[-1]

        self.monkeypatch.setattr("unetpipe.deploy.certify.load_engine", load)
        self.monkeypatch.setattr("unetpipe.deploy.certify.device_class", lambda backend: DEVICE_CLASS | {"of": backend})
        offered = []
        for precision in spoil if isinstance(spoil, dict) else [self.build["precision"]]:
            place = self.folder / "candidates" / precision
            place.mkdir(parents=True, exist_ok=True)
            (place / "engine").write_bytes(f"an engine in {precision}".encode())
            write_json(
                place / "build.json",
                {**self.build, "precision": precision, "engine_digest": digest(place / "engine")},
            )
            offered.append({"precision": precision, "backend": "fake", "folder": f"candidates/{precision}"})
        skipped = [{"precision": "fp16", "why": "the processor does not know it"}]
        write_json(self.folder / "candidates.json", {"candidates": offered, "skipped": skipped})
        certify(
            self.folder / "checkpoint.safetensors",
            self.folder / "candidates.json",
            volumes,
            self.folder / "engine",
            self.folder / "build.json",
            self.certificate,
            role=role,
            tile=tile,
            batch=2,
            settings=config.Certify(**{"iou_bound": 0.01, "tiles": 5, **bounds}),
            cores=1,
        )
        return read_json(self.certificate)


@pytest.fixture
def network(request: pytest.FixtureRequest) -> config.Network:
    """Of ``NETWORKS``, by its name; 2D where a test does not say."""
    return NETWORKS[getattr(request, "param", "2D")]


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: config.Network) -> Iterator[Case]:
    threads = torch.get_num_threads()
    torch.manual_seed(2)
    save_checkpoint(tmp_path / "checkpoint.safetensors", UNet(network, len(CLASSES)), {"classes": CLASSES})
    build = {
        "backend": "fake",
        "precision": "fp32",
        "profile": None,
        "onnx_digest": "onnx's",
        "binding": {},
        "capabilities": None,
        "versions": {"fake": "1.2"},
    }
    yield Case(tmp_path, load_checkpoint(tmp_path / "checkpoint.safetensors")[0], monkeypatch, [], [], build)
    torch.set_num_threads(threads)


def grey(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(1, 256, (3, 40, 44)).astype(np.uint8)


def labels(seed: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).choice(np.array([0, 1, 2, 255], np.uint8), (3, 40, 44))


@pytest.mark.parametrize("role", ["validate", "train"])
def test_an_exact_engine_gets_a_certificate(case: Case, make_volume: Callable[..., Path], role: str) -> None:
    proof = case.certify([make_volume(grey(), labels())], role)
    assert proof["verdict"] == "passed"
    assert proof["bound"] == 0.01
    assert proof["tiles_from"] == role
    assert proof["tiles"]["count"] == len(proof["tiles"]["sources"]) == 5
    assert proof["tiles"]["volumes"] == ["v"]
    assert (proof["tiles"]["shape"], proof["tiles"]["batch"]) == ([1, 28, 36], 2)
    assert (proof["largest_absolute_error"], proof["largest_relative_error"], proof["changed_labels"]) == (0, 0, 0)
    assert list(proof["iou"]) == proof["classes"] == CLASSES
    assert all(iou["pytorch"] == iou["engine"] and iou["fall"] == 0 for iou in proof["iou"].values())
    assert 0 < max(iou["pytorch"] for iou in proof["iou"].values()) < 1
    assert proof["device"] == "a processor"
    assert proof["device_class"] == {"processor": "x86-64", "of": "fake"}
    assert (proof["backend"], proof["precision"]) == ("fake", "fp32")
    assert proof["geometry"] == {"border": [0, 8, 8], "pooling": [1, 2, 2], "base": [0, 0, 0], "dimensions": 2}
    assert proof["versions"] == {"fake": "1.2"}
    assert proof["pytorch"] == torch.__version__
    assert proof["engine_digest"] == digest(case.folder / "engine")
    assert proof["checkpoint_digest"] == digest(case.folder / "checkpoint.safetensors")
    assert proof["onnx_digest"] == "onnx's"
    assert case.calls == [{"tile": (1, 28, 36), "batch": 2, "threads": 1}]
    assert torch.get_num_threads() == 1
    assert all(engine.closed for engine in case.engines)


@pytest.mark.parametrize(
    ("network", "tile", "used"),
    [
        pytest.param("2.5D", [3, 28, 36], [3, 28, 36], id="2.5D"),
        pytest.param("2.5D", None, [3, 56, 60], id="2.5D, chosen"),
        pytest.param("3D", [6, 28, 36], [6, 28, 36], id="3D"),
        # The volume has 3 sections: with a border of 2 a tile reads 7.
        pytest.param("3D", None, [7, 56, 60], id="3D, chosen"),
    ],
    indirect=["network"],
)
def test_an_exact_engine_gets_one_in_every_dimension(
    case: Case, network: config.Network, make_volume: Callable[..., Path], tile: list[int] | None, used: list[int]
) -> None:
    proof = case.certify([make_volume(grey(), labels())], tile=tile)
    assert proof["tiles"]["shape"] == used
    assert proof["geometry"] == json.loads(json.dumps(dataclasses.asdict(network.geometry)))
    assert (proof["largest_absolute_error"], proof["changed_labels"]) == (0, 0)
    assert case.calls == [{"tile": tuple(used), "batch": 2, "threads": 1}]
    with pytest.raises(UserError, match="falls by"):
        case.certify([make_volume(grey(), labels())], spoil=swapped, tile=tile)


def swapped(result: Batch) -> Batch:
    return result[:, ::-1]


def not_a_number(result: Batch) -> Batch:
    result[0, 0, 0, 3, 4] = np.nan
    return result


@pytest.mark.parametrize(
    ("spoil", "found"), [(swapped, "5 tiles, falls by"), (not_a_number, "are no probabilities")], ids=["swapped", "NaN"]
)
@pytest.mark.parametrize("role", ["validate", "test"])
def test_a_spoilt_engine_gets_none_and_loses_an_old_one(
    case: Case, make_volume: Callable[..., Path], spoil: Spoil, found: str, role: str
) -> None:
    volumes = [make_volume(grey(), labels())]
    case.certify(volumes, role)
    with pytest.raises(UserError, match=found) as refusal:
        case.certify(volumes, role, spoil)
    assert str(case.folder / "candidates" / "fp32" / "engine") in refusal.value.asked
    assert "(fake, fp32) was to be certified" in refusal.value.asked
    assert "by more than 0.01" in refusal.value.asked
    assert not case.certificate.exists()


def test_a_small_error_passes_and_is_written_down(case: Case, make_volume: Callable[..., Path]) -> None:
    def nudged(result: Batch) -> Batch:
        result[:, 0] += np.float32(1e-3)
        return result

    proof = case.certify([make_volume(grey(), labels())], spoil=nudged, iou_bound=0.05)
    assert proof["largest_absolute_error"] == pytest.approx(1e-3, rel=1e-3)
    assert 0 < proof["largest_relative_error"] < 1


@pytest.mark.parametrize("role", ["test", "predict"])
def test_labels_of_other_roles_are_not_looked_at(case: Case, make_volume: Callable[..., Path], role: str) -> None:
    proofs = [
        case.certify([make_volume(grey(), labels(seed), folder=case.folder / str(seed))], role) for seed in (1, 2)
    ]
    assert proofs[0] == proofs[1]
    assert proofs[0]["tiles_from"] == "unlabelled"
    assert {iou["pytorch"] for iou in proofs[0]["iou"].values()} <= {1.0, None}


def test_where_all_labels_are_ignored_agreement_is_asked_for(case: Case, make_volume: Callable[..., Path]) -> None:
    proof = case.certify([make_volume(grey(), np.full_like(labels(), 255))])
    assert proof["tiles_from"] == "unlabelled"
    assert proof["tiles"]["count"] == 5


def test_without_a_tile_nothing_is_certified(case: Case, make_volume: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="v: all sections are missing"):
        case.certify([make_volume(np.zeros((2, 40, 44), np.uint8))])
    assert not case.certificate.exists()


def test_the_reference_gives_probabilities_in_fp32(case: Case) -> None:
    images = np.random.default_rng(0).normal(size=(2, 1, 28, 36)).astype(np.float32)
    probability = pytorch(case.network)(images)
    with torch.no_grad():
        exact = case.network.double()(torch.from_numpy(images).double()).softmax(dim=1).numpy()
    assert probability.dtype == np.float32
    assert probability.shape == (2, 3, 1, 12, 20)
    # TF32 and bf16 have 10 and 7 bits of mantissa: they would miss this by far.
    assert np.abs(probability - exact).max() < 2e-6


@pytest.mark.parametrize(
    ("profile", "tile", "used"),
    [
        pytest.param({"tile": [1, 44, 20], "batch": [1, 2, 8]}, None, [1, 44, 20], id="built-for-one"),
        pytest.param({"tile": [1, 44, 20], "batch": [1, 2, 8]}, TILE, [1, 44, 20], id="built-for-one-before-settings"),
        pytest.param(None, TILE, TILE, id="settings"),
        pytest.param(None, None, [1, 56, 60], id="whole-sections"),
    ],
)
def test_the_tile_is_one_that_the_engine_takes(
    case: Case,
    make_volume: Callable[..., Path],
    profile: dict[str, Any] | None,
    tile: list[int] | None,
    used: list[int],
) -> None:
    case.build["profile"] = profile
    proof = case.certify([make_volume(grey(), labels())], tile=tile)
    assert proof["tiles"]["shape"] == used
    assert case.calls == [{"tile": tuple(used), "batch": 2, "threads": 1}]
    assert proof["profile"] == profile


def same(result: Batch) -> Batch:
    return result


def test_the_first_that_passes_predicts_and_the_others_are_named(
    case: Case, make_volume: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    volumes = [make_volume(grey(), labels())]
    proof = case.certify(volumes, spoil={"int8": swapped, "bf16": same, "fp32": same})
    assert proof["precision"] == "bf16"
    assert (case.folder / "engine").read_bytes() == b"an engine in bf16"
    assert read_json(case.folder / "build.json") == read_json(case.folder / "candidates" / "bf16" / "build.json")
    assert proof["engine_digest"] == digest(case.folder / "engine")
    (refused,) = proof["refused"]
    assert refused["precision"] == "int8"
    assert "falls by" in refused["why"]
    assert max(values["fall"] for values in refused["iou"].values()) > proof["bound"]
    assert proof["skipped"] == [{"precision": "fp16", "why": "the processor does not know it"}]
    assert "int8) was to be certified" in caplog.text
    assert [engine.closed for engine in case.engines] == [True, True]


@pytest.mark.parametrize("content", ["{}", "[]", '{"candidates": [], "skipped": []}'])
def test_a_damaged_list_of_candidates_is_refused(case: Case, content: str) -> None:
    (case.folder / "candidates.json").write_text(content)
    places = [case.folder / name for name in ("engine", "build.json", "certificate.json")]
    with pytest.raises(UserError, match=r"candidates\.json were to be certified(.|\n)*delete it"):
        certify(
            case.folder / "checkpoint.safetensors", case.folder / "candidates.json", [], *places,
            role="train", tile=None, batch=1, settings=config.Certify(), cores=1,
        )  # fmt: skip


def test_where_none_passes_the_last_says_why(case: Case, make_volume: Callable[..., Path]) -> None:
    def nothing(result: Batch) -> Batch:
        return np.full_like(result, np.nan)

    with pytest.raises(UserError, match=r"\(fake, fp32\)(.|\n)*are no probabilities"):
        case.certify([make_volume(grey(), labels())], spoil={"int8": swapped, "fp32": nothing})
    assert not case.certificate.exists()
    assert not (case.folder / "engine").exists()


@pytest.fixture(scope="module", params=["2D", "3D"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint and its ONNX file."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(3)
    network = UNet(NETWORKS[request.param].model_copy(update={"normalisation": "batch"}), len(CLASSES))
    save_checkpoint(folder / "checkpoint.safetensors", network, {"classes": CLASSES})
    export(folder / "checkpoint.safetensors", folder / "model.onnx", folder / "model.json")
    return folder


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_real_engines_pass(model: Path, tmp_path: Path, make_volume: Callable[..., Path], backend: Any) -> None:
    candidates, engine, build, certificate = (
        tmp_path / name for name in ("candidates.json", "engine", "build.json", "certificate.json")
    )
    tile = list(load_checkpoint(model / "checkpoint.safetensors")[0].geometry.tile_for((3, 12, 20)))
    settings = config.Engine(backend=backend, precision="fp32")
    build_engine(model / "model.onnx", candidates, settings=settings, tile=tile, batch=2)
    certify(
        model / "checkpoint.safetensors",
        candidates,
        [make_volume(grey(), labels())],
        engine,
        build,
        certificate,
        role="validate",
        tile=tile,
        batch=2,
        settings=config.Certify(iou_bound=1e-3, tiles=3),
        cores=1,
    )
    proof = read_json(certificate)
    assert proof["backend"] == backend
    assert 0 < proof["largest_absolute_error"] < 1e-4
    assert proof["engine_digest"] == read_json(build)["engine_digest"]
