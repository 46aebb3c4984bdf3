"""What is told of a run, whether it goes on, has stopped or is finished."""

import os
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from unetpipe.errors import UserError
from unetpipe.files import write_json
from unetpipe.progress import Record
from unetpipe.status import status
from unetpipe.volume import VolumeFile

NOW = 1_800_000_000.0


def volume(run: Path, name: str, labels: str | None = "labels.zarr/0") -> None:
    facts = dict.fromkeys(field.name for field in fields(VolumeFile))
    shape = dict.fromkeys(("shape", "voxel_size_nm", "origin_nm", "mean", "std", "missing_sections"), ())
    write_json(run / "volumes" / name / "volume.json", {**facts, **shape, "labels": labels})


def plan(run: Path, name: str, of: int, **further: Any) -> Record:
    """A prediction of so many blocks, and its record."""
    folder = run / "predictions" / name
    geometry = {"border": [0, 8, 8], "pooling": [1, 2, 2], "base": [0, 0, 0], "dimensions": 2}
    shapes = {"shape": [of, 24, 24], "tile": [1, 40, 40], "block": [1, 24, 24], "chunk": [1, 24, 24]}
    described = {
        "volume": name,
        "volume_file": "volume.json",
        "probability": "probability.zarr",
        "array": "0",
        "classes": ["membrane"],
        "key": {"input": {}, "engine": "e", "backend": "openvino", "device_class": {}, "version": "1"},
        "plan": {**shapes, "batch": 1, "geometry": geometry, "blocks": of},
    }
    write_json(folder / "allocated.json", described | further)
    return Record.open(folder / "progress", {}, "refuse", "it")


def selected(blocks: int) -> dict[str, Any]:
    """So many of ten blocks."""
    return {"blocks": blocks, "of": 10, "region": None, "mask": None, "box": [[0, 0, 0], [blocks, 1, 1]], "bits": None}


def row(run: Path, name: str, now: float = NOW) -> str:
    """The line of a volume, its columns one blank apart."""
    (line,) = [line for line in status(run, now).splitlines() if line.startswith(f"{name} ")]
    return " ".join(line.split())


def clock(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(when))


def test_a_run_on_its_way_on_one_screen(tmp_path: Path) -> None:
    run = tmp_path / "demo"
    write_json(run / "samples.json", {"volumes": [{"name": "a", "role": "train"}, {"name": "b", "role": "validate"}]})
    for name in ("a", "b", "c"):
        volume(run, name)
    volume(run, "cortex", labels=None)
    record = plan(run, "b", 2)
    for number in range(2):
        record.append("one", {"name": f"0.0.{number}", "finished": NOW - 7200 + number})
    record = plan(run, "cortex", 1000)
    for number in range(101):
        record.append(f"writer{number % 3}", {"name": f"0.0.{number}", "finished": NOW - 5 - 3 * number})
    scores = {"volume": "b", "role": "validate", "mean_iou": 0.5, "baseline": {"mean_iou": 0.25}}
    write_json(run / "scores" / "b.json", scores | {"v_rand": 0.75, "v_info": None, "shown_at": {"chosen_on": []}})
    state = f"seems to run: last block 5 s ago, ends in 45 min ({clock(NOW + 899 * 3 - 5)})"
    assert status(run, NOW).splitlines() == [
        f"run demo in {run}",
        "",
        "volume  role      blocks    of  skipped           blocks/min  state",
        "a       train          –     –        –        –           –  for training alone",
        "b       validate       2     2        –  100.0 %          60  finished",
        "c       –              –     –        –        –           –  no prediction planned yet",
        f"cortex  predict      101  1000        –   10.1 %          20  {state}",
        "",
        "volume  role      mean IoU  baseline  V_rand  V_info  threshold",
        "b       validate    0.5000    0.2500  0.7500       –       best",
        "",
        "there is no report yet: the run is not finished",
    ]


def test_the_rate_is_that_of_the_last_minutes(tmp_path: Path) -> None:
    record = plan(tmp_path, "v", 100)
    for number in range(50):
        record.append("fast", {"name": f"0.0.{number}", "finished": NOW - 10_000 + number})
    for number in range(10):
        record.append("slow", {"name": f"0.1.{number}", "finished": NOW - 30 * number})
    assert row(tmp_path, "v") == (
        f"v – 60 100 – 60.0 % 2 seems to run: last block 0 s ago, ends in 20 min ({clock(NOW + 1200)})"
    )


@pytest.mark.parametrize(
    ("idle", "said"),
    [
        pytest.param(100, "seems to run: last block 2 min ago, ends in 13 min", id="soon"),
        pytest.param(290, "seems to run: last block 5 min ago, ends in 10 min", id="ten blocks"),
        pytest.param(310, "stopped: no block for 5 min; a rerun goes on from there", id="more than ten blocks"),
        pytest.param(3 * 3600 + 120, "stopped: no block for 3 h 2 min; a rerun", id="hours"),
        pytest.param(50 * 3600, "stopped: no block for 2 d 2 h; a rerun", id="days"),
    ],
)
def test_stopped_where_no_block_comes_for_the_time_of_ten(idle: float, said: str, tmp_path: Path) -> None:
    record = plan(tmp_path, "v", 40)
    for number in range(10):
        record.append("one", {"name": f"0.0.{number}", "finished": NOW - idle - 30 * number})
    assert said in row(tmp_path, "v")


def test_the_last_block_is_not_rounded_away(tmp_path: Path) -> None:
    record = plan(tmp_path, "v", 3000)
    for number in range(2999):
        with (Path(record.place.address) / "one.jsonl").open("a") as log:
            log.write(f'{{"name":"0.0.{number}","finished":{NOW - number}}}\n')
    assert row(tmp_path, "v").startswith("v – 2999 3000 – 99.9 % 60 seems to run")


def test_blocks_are_counted_once_and_void_ones_not_at_all(tmp_path: Path) -> None:
    record = plan(tmp_path, "v", 10)
    for _ in range(3):
        record.append("one", {"name": "0.0.0"})
    record.append("two", {"name": "0.0.1", "void": True})
    assert row(tmp_path, "v").startswith("v – 1 10 – 10.0 %")


def test_skipped_blocks_are_told_apart(tmp_path: Path) -> None:
    record = plan(tmp_path, "v", 10, selection=selected(4))
    for number in range(4):
        record.append("one", {"name": f"0.0.{number}", "finished": NOW})
    assert row(tmp_path, "v") == "v – 4 4 6 100.0 % – finished"


@pytest.mark.parametrize(("seconds", "rate"), [(0.001, "–"), (1.0, "60"), (0.03 * 99, "2,000")])
def test_a_rate_takes_time_to_show(seconds: float, rate: str, tmp_path: Path) -> None:
    count = 2 if seconds < 2 else 100
    record = plan(tmp_path, "v", count)
    for number in range(count):
        record.append("one", {"name": f"0.0.{number}", "finished": NOW + number * seconds / (count - 1)})
    assert row(tmp_path, "v") == f"v – {count} {count} – 100.0 % {rate} finished"


def test_nothing_selected_is_finished(tmp_path: Path) -> None:
    plan(tmp_path, "v", 10, selection=selected(0))
    assert row(tmp_path, "v") == "v – 0 0 10 100.0 % – finished"


def test_without_times_the_log_tells_when_the_last_block_came(tmp_path: Path) -> None:
    record = plan(tmp_path, "v", 10)
    for number in range(5):
        record.append("one", {"name": f"0.0.{number}"})
    os.utime(Path(record.place.address) / "one.jsonl", (NOW - 60, NOW - 60))
    assert row(tmp_path, "v") == "v – 5 10 – 50.0 % – seems to run: last block 1 min ago"
    assert row(tmp_path, "v", NOW + 600).endswith("stopped: no block for 11 min; a rerun goes on from there")


def test_before_the_first_block(tmp_path: Path) -> None:
    plan(tmp_path, "v", 10)
    assert row(tmp_path, "v") == "v – 0 10 – 0.0 % – not begun"
    assert status(tmp_path, NOW).endswith("nothing is scored yet")


def test_before_any_prediction(tmp_path: Path) -> None:
    volume(tmp_path, "v")
    assert row(tmp_path, "v") == "v – – – – – – no prediction planned yet"


def test_a_clock_that_lags_behind_is_no_matter(tmp_path: Path) -> None:
    record = plan(tmp_path, "v", 10)
    for number in range(2):
        record.append("one", {"name": f"0.0.{number}", "finished": NOW + 10 + number})
    assert "last block 0 s ago, ends in 8 s" in row(tmp_path, "v")


def test_a_run_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    volume(Path("results") / "demo", "v")
    assert status(Path("demo"), NOW) == status(Path("results/demo"), NOW)
    assert status(Path("demo"), NOW).startswith("run demo in results/demo")


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)neither volumes nor scores in results/absent"):
        status(Path("absent"), NOW)
    with pytest.raises(UserError, match="neither volumes nor scores"):
        status(tmp_path, NOW)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        pytest.param("predictions/v/allocated.json", r"allocated\.json was to be read.*delete it and run", id="plan"),
        pytest.param("volumes/v/volume.json", r"volume\.json was to be read.*delete it and run snakemake", id="volume"),
        pytest.param("samples.json", r"roles of the volumes .*samples\.json.*KeyError\('volumes'\)", id="samples"),
        pytest.param("scores/v.json", r"roles of the volumes .*scores is damaged.*'volume'", id="scores"),
        pytest.param("predictions/v/progress/key.json", None, id="not the key of a record"),
    ],
)
def test_a_file_of_another_version_is_named(file: str, message: str | None, tmp_path: Path) -> None:
    plan(tmp_path, "v", 10)
    volume(tmp_path, "v")
    write_json(tmp_path / file, {"some": "thing"})
    if message is None:
        assert row(tmp_path, "v").startswith("v – 0 10")
        return
    with pytest.raises(UserError, match=f"(?s){message}"):
        status(tmp_path, NOW)
