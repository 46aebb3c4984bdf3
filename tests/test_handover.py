"""What an earlier version wrote, or what is damaged, is refused wherever it is read."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from predicting import GEOMETRY
from prediction import PLAN, PREDICTION, plan_run

from unetpipe.compute import Task, compute_block
from unetpipe.errors import UserError
from unetpipe.files import read_json, write_json
from unetpipe.fsck import Store
from unetpipe.handover import prediction_digest, read_allocated, read_certificate
from unetpipe.repair import Repair
from unetpipe.status import status

CERTIFICATE: dict[str, Any] = {
    "geometry": asdict(GEOMETRY),
    "engine_digest": "e",
    "device_class": {},
    "backend": "openvino",
    "precision": "fp32",
    "versions": {},
    "profile": {"tile": [1, 64, 64], "batch": [1, 2, 4]},
}


@pytest.fixture
def prediction(make_volume: Callable[..., Path], tmp_path: Path) -> Path:
    return plan_run(tmp_path, make_volume, b"an engine", {})


def parts(data: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where each part of it stands."""
    for name, value in data.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from parts(value, (*path, name))


def without(data: Any, path: tuple[str, ...]) -> Any:
    rest = deepcopy(data)
    inner = rest
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return rest


def test_each_part_that_others_count_on_is_missed(prediction: Path, tmp_path: Path) -> None:
    whole = read_json(prediction / "allocated.json")
    assert read_allocated(prediction / "allocated.json") == whole
    # What the image and the machine are is compared as a whole, and a plan stands a second time in the key.
    free = [("key", "input"), ("key", "plan"), ("selection",), ("selection", "digest")]
    needed = [path for path in parts(whole) if path not in free and path[:2] not in free[:2]]
    assert len(needed) > 25
    for file, reader, data, paths in (
        ("allocated.json", read_allocated, whole, [*needed, ("key", "input")]),
        ("certificate.json", read_certificate, CERTIFICATE, list(parts(CERTIFICATE))),
    ):
        for path in paths:
            write_json(tmp_path / file, without(data, path))
            with pytest.raises(UserError, match=rf"(?s){file} was .*{path[-1]}: field required\).*delete it and run"):
                reader(tmp_path / file)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '"a"'])
@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda folder: read_allocated(folder / PREDICTION / "allocated.json"), id="reader"),
        pytest.param(lambda folder: Store(folder / PREDICTION), id="fsck"),
        pytest.param(lambda folder: status(folder / "results/run", 0.0), id="status"),
        pytest.param(
            lambda folder: compute_block(Task(folder / PREDICTION / "allocated.json", folder, 1, (0, 0, 0))),
            id="worker",
        ),
    ],
)
def test_whoever_reads_a_damaged_file_says_what_to_do(
    content: str, read: Callable[[Path], Any], prediction: Path, tmp_path: Path
) -> None:
    (prediction / "allocated.json").write_text(content)
    with pytest.raises(UserError, match=r"(?s)allocated\.json was to be read.*delete it and run snakemake again"):
        read(tmp_path)


def test_a_repair_says_which_certificate_is_damaged(
    prediction: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(PREDICTION)
    monkeypatch.setattr("unetpipe.repair.device_class", lambda name: {})
    (certificate,) = tmp_path.glob("results/run/engine/*/certificate.json")
    write_json(certificate, {"engine_digest": "e"})
    with pytest.raises(UserError, match=r"(?s)certificate\.json was to be read.*certify the engine anew"):
        Repair(store, threads=1)


def test_what_an_earlier_version_predicted_as_a_whole_is_known(prediction: Path) -> None:
    path = prediction / "allocated.json"
    for change in ({"selection": None}, None):
        description = read_json(path) | (change or {})
        if change is None:
            del description["selection"]
        write_json(path, description)
        assert read_allocated(path) == description
        assert Store(prediction).selection.count == len(list(PLAN.blocks()))


def test_only_the_jobs_of_one_run_make_a_prediction(tmp_path: Path) -> None:
    def jobs(*shares: tuple[int, int] | None) -> list[Path]:
        paths = [tmp_path / f"job-{number}.json" for number in range(len(shares))]
        for path, share in zip(paths, shares, strict=True):
            write_json(path, {"digest": f"{2**256 - 1:064x}"} | ({} if share is None else {"share": list(share)}))
        return paths

    # An earlier version knew of one job alone.
    assert prediction_digest(jobs(None)) == f"{2**256 - 1:064x}"
    assert prediction_digest(jobs((1, 2), (0, 2))) == f"{2**256 - 2:064x}"
    for wrong in ([(0, 2)], [(0, 2), (0, 2)], [(0, 2), (1, 3)], [None, None]):
        with pytest.raises(UserError, match=r"not the shares of one run \(job-0.json: 0 of.*\n.*job-\*\.json"):
            prediction_digest(jobs(*wrong))
