"""Calls are measured as workers will make them, and what was found is kept for the same engine and device alone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from engines import make_engine_in
from onnx_unet import unet
from rates import made_up

from unetpipe.engines import device_class
from unetpipe.errors import UserError
from unetpipe.files import read_json, write_json
from unetpipe.layout import Call
from unetpipe.measure import RATES, Rates, measuring, split_cores

SMALL, LARGE = Call((1, 64, 64), 2), Call((1, 640, 640), 1)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small engine."""
    folder = tmp_path_factory.mktemp("engine")
    (folder / "model.onnx").write_bytes(unet([6, 8, 12]).SerializeToString(deterministic=True))
    make_engine_in(folder, folder / "model.onnx", "openvino")
    return folder


@pytest.fixture
def no_rates(engine: Path) -> Iterator[None]:
    """Nothing was measured before."""
    (engine / RATES).unlink(missing_ok=True)
    yield
    (engine / RATES).unlink(missing_ok=True)


def processes() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "unetpipe.measure" in child.cmdline()]


@pytest.mark.usefixtures("no_rates")
def test_calls_are_measured_side_by_side_and_only_once(engine: Path) -> None:
    here = device_class("openvino")
    with measuring(engine, here, 2, 1) as measure:
        assert processes() == []
        small = measure(SMALL)
        assert len(processes()) == 2
        large = measure(LARGE)
    assert processes() == []
    assert (small.call, small.workers, small.threads) == (SMALL, 2, 1)
    assert 0 < small.seconds_per_call < large.seconds_per_call
    assert 0 < large.seconds_per_voxel < 1e-4
    assert small.start_seconds > 0
    # Python with its libraries, and no more than this process has by now.
    assert 50 < small.memory_mb < large.memory_mb < 2000
    assert small.library.startswith("openvino")
    assert not small.overlaps
    # Nothing but the rates is left beside the engine.
    assert {path.name for path in engine.iterdir()} == {"model.onnx", "engine", "build.json", RATES}
    with measuring(engine, here, 2, 1) as measure:
        assert (measure(LARGE), measure(SMALL)) == (large, small)
        assert processes() == []


@pytest.mark.usefixtures("no_rates")
def test_mirror_images_are_measured_with_the_tile(engine: Path) -> None:
    here = device_class("openvino")
    found = {}
    for mirror in ("", "yx"):
        with measuring(engine, here, 1, 1, tuple(mirror)) as measure:
            found[mirror] = measure(LARGE)
    assert found["yx"].mirror == ("y", "x")
    # Four times the calls; the least of them is a whole one more.
    assert found["yx"].seconds_per_call > 1.5 * found[""].seconds_per_call
    with measuring(engine, here, 1, 1) as measure:
        assert measure(LARGE) == found[""]


@pytest.mark.usefixtures("no_rates")
def test_what_cannot_be_measured_says_why_and_what_can_still_is(engine: Path) -> None:
    with measuring(engine, device_class("openvino"), 1, 1) as measure:
        with pytest.raises(UserError, match="openvino"):
            # The network takes multiples of 4.
            measure(Call((1, 63, 63), 1))
        measure(SMALL)
        processes()[0].kill()
        with pytest.raises(UserError, match="ended with status -9") as caught:
            measure(LARGE)
        assert "predict.tile" in caught.value.repair
        # A new process takes the place of the one that has died.
        assert measure(Call((1, 68, 64), 1)).seconds_per_call > 0


@pytest.mark.usefixtures("no_rates")
def test_a_damaged_engine_is_refused(engine: Path) -> None:
    file = engine / "engine"
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[:-1])
        with measuring(engine, device_class("openvino"), 1, 1) as measure, pytest.raises(UserError, match="SHA-256"):
            measure(SMALL)
    finally:
        file.write_bytes(whole)
    assert not (engine / RATES).exists()


@pytest.mark.usefixtures("no_rates")
def test_another_class_of_device_is_refused(engine: Path) -> None:
    other = {**device_class("openvino"), "processor": "another"}
    with measuring(engine, other, 1, 1) as measure, pytest.raises(UserError, match="another class of device"):
        measure(SMALL)


def test_an_engine_that_is_not_there_is_named(tmp_path: Path) -> None:
    with measuring(tmp_path, {}, 1, 1) as measure, pytest.raises(UserError, match=r"build\.json"):
        measure(SMALL)


DEVICE = {"library": "some 1.0", "features": ["a", "b"]}


def test_a_rate_is_found_again(tmp_path: Path) -> None:
    rates = Rates(tmp_path, "e", DEVICE)
    assert rates.find(SMALL, 2, 1) is None
    kept = [made_up(SMALL, workers=2), made_up(replace(SMALL, batch=1), workers=2), made_up(SMALL, workers=3)]
    for rate in kept:
        rates.add(rate)
    assert [Rates(tmp_path, "e", DEVICE).find(rate.call, rate.workers, 1) for rate in kept] == kept


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"engine_digest": "f"}, id="engine"),
        pytest.param({"device_class": {**DEVICE, "features": ["a"]}}, id="device class"),
        pytest.param({"call": replace(SMALL, batch=1)}, id="batch"),
        pytest.param({"call": replace(SMALL, tile=(1, 64, 68))}, id="tile"),
        pytest.param({"workers": 3}, id="workers"),
        pytest.param({"threads": 2}, id="threads"),
        pytest.param({"mirror": ("y", "x")}, id="mirror images"),
    ],
)
def test_a_rate_is_that_of_its_engine_device_and_call_alone(other: dict[str, Any], tmp_path: Path) -> None:
    Rates(tmp_path, "e", DEVICE).add(made_up(SMALL, workers=2))
    asked = {"engine_digest": "e", "device_class": DEVICE, "call": SMALL, "workers": 2, "threads": 1}

    def find(engine_digest: str, device_class: Any, **call: Any) -> object:
        return Rates(tmp_path, engine_digest, device_class).find(**call)

    assert find(**asked) is not None
    assert find(**(asked | other)) is None


def test_a_rate_with_mirror_images_is_that_of_its_axes_alone(tmp_path: Path) -> None:
    rates = Rates(tmp_path, "e", DEVICE)
    kept = [made_up(SMALL), made_up(SMALL, mirror=("x",)), made_up(SMALL, mirror=("y", "x"))]
    for rate in kept:
        rates.add(rate)
    assert [rates.find(SMALL, 1, 1, rate.mirror) for rate in kept] == kept
    assert rates.find(SMALL, 1, 1, ["x"]) == kept[1]
    assert rates.find(SMALL, 1, 1, ("y",)) is None


def test_rates_of_a_version_without_mirror_images_are_found(tmp_path: Path) -> None:
    Rates(tmp_path, "e", DEVICE).add(made_up(SMALL))
    (entry,) = read_json(tmp_path / RATES)
    write_json(tmp_path / RATES, [{name: value for name, value in entry.items() if name != "mirror"}])
    assert Rates(tmp_path, "e", DEVICE).find(SMALL, 1, 1) == made_up(SMALL)
    assert Rates(tmp_path, "e", DEVICE).find(SMALL, 1, 1, ("x",)) is None


def test_rates_of_an_engine_that_is_gone_go_and_those_of_other_devices_stay(tmp_path: Path) -> None:
    other = {"library": "some 2.0"}
    for digest, device in (("old", DEVICE), ("e", other), ("e", DEVICE)):
        Rates(tmp_path, digest, device).add(made_up(SMALL))
    assert [(entry["engine"], entry["device_class"]) for entry in read_json(tmp_path / RATES)] == [
        ("e", other),
        ("e", DEVICE),
    ]


def test_rates_of_a_file_that_is_empty_are_none(tmp_path: Path) -> None:
    write_json(tmp_path / RATES, [])
    assert Rates(tmp_path, "e", DEVICE).find(SMALL, 1, 1) is None


@pytest.mark.parametrize(
    ("workers", "cores", "split"), [(None, 4, (4, 1)), (2, 5, (2, 2)), (3, 2, (3, 1)), (1, 8, (1, 8))]
)
def test_cores_are_split(workers: int | None, cores: int, split: tuple[int, int]) -> None:
    assert split_cores(workers, cores) == split
