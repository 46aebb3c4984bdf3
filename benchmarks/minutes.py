"""`python -m benchmarks.minutes DATA_DIR`: scores by minutes of training, beside MONAI's BasicUNet.

Both learn from the training sections of the ISBI 2012 stacks, and the same code scores them on the validation sections.
To be called where snakemake is. What is finished is kept: a second call goes on.
"""

import argparse
import base64
import csv
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from matplotlib.axes import Axes
from numpy.typing import NDArray

from benchmarks import basic_unet
from unetpipe import config
from unetpipe.allocate import allocate
from unetpipe.arrays import open_array
from unetpipe.evaluate import evaluate
from unetpipe.files import digest_of, read_json, write_bytes, write_json
from unetpipe.grid import Region
from unetpipe.parse import read
from unetpipe.report.drawing import FIRST, SECOND, drawn, legend
from unetpipe.volume import Image, VolumeFile, open_writable

OURS = (5.0, 15.0, 30.0, 60.0)
THEIRS = (5.0, 15.0, 30.0)
CORES = 2
SEED = 1
MEASURES = {"mean_iou": "mean IoU", "v_rand": "V_rand", "v_info": "V_info"}


@dataclass(frozen=True)
class Outcome:
    """Of one training. ``minutes``: as measured, without the drawing of samples and the prediction."""

    name: str
    minutes: float
    steps: int
    mean_iou: float
    v_rand: float
    v_info: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, score, and write the table and the figure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.minutes", description=__doc__)
    parser.add_argument("data_dir", help="the folder of the ISBI 2012 stacks")
    parser.add_argument("--configuration", type=Path, default=Path("config/isbi2012.yaml"))
    parser.add_argument("--ours", type=float, nargs="*", default=OURS, metavar="MINUTES")
    parser.add_argument("--theirs", type=float, nargs="*", default=THEIRS, metavar="MINUTES")
    parser.add_argument("--folder", type=Path, default=Path("results/minutes"), help="where table and figure go")
    asked = parser.parse_args(arguments)
    settings = read(asked.configuration, {"data_dir": asked.data_dir})
    pace = _pace(asked.folder, settings)
    outcomes = []
    for minutes in asked.ours:
        outcomes.append(_ours(asked.folder, settings, minutes, max(1, round(60 * minutes / pace))))
        print(_line(outcomes[-1]), flush=True)
    for minutes in asked.theirs:
        outcomes.append(_theirs(asked.folder, _results(asked.ours[0]), minutes, settings))
        print(_line(outcomes[-1]), flush=True)
    head = f"| trained | minutes | steps | {' | '.join(MEASURES.values())} |\n|---|---|---|---|---|---|\n"
    write_bytes(asked.folder / "minutes.md", (head + "".join(f"{_line(outcome)}\n" for outcome in outcomes)).encode())
    write_bytes(asked.folder / "minutes.svg", _figure(outcomes))


def _line(outcome: Outcome) -> str:
    scores = " | ".join(f"{getattr(outcome, measure):.3f}" for measure in MEASURES)
    return f"| {outcome.name} | {outcome.minutes:.1f} | {outcome.steps:,} | {scores} |"


def _pace(folder: Path, settings: dict[str, Any]) -> float:
    """Seconds of a step, with its share of validation."""
    steps = settings["train"]["validate_every"]
    _snakemake(folder, settings, "minutes-pace", steps, "model/history.csv")
    return 60 * _minutes(Path("results/minutes-pace")) / steps


def _ours(folder: Path, settings: dict[str, Any], minutes: float, steps: int) -> Outcome:
    results = _results(minutes)
    # The pace of another day would be another number of steps.
    steps = len(_history(results)) if (results / "model" / "history.csv").exists() else steps
    _snakemake(folder, settings, results.name, steps, "scores/validate.json")
    return _outcome("unetpipe", _minutes(results), steps, results / "scores" / "validate.json")


def _results(minutes: float) -> Path:
    return Path("results") / f"minutes-{minutes:g}".replace(".", "_")


def _snakemake(folder: Path, settings: dict[str, Any], run: str, steps: int, target: str) -> None:
    configuration = folder / f"{run}.yaml"
    changed = {**settings, "run": run, "train": {**settings["train"], "steps": steps}}
    write_bytes(configuration, yaml.safe_dump(changed, sort_keys=False).encode())
    command = [sys.executable, "-m", "snakemake", "--cores", str(CORES), "--rerun-incomplete"]
    subprocess.run([*command, "--configfile", str(configuration), "--", f"results/{run}/{target}"], check=True)


def _history(folder: Path) -> list[dict[str, str]]:
    with (folder / "model" / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _minutes(folder: Path) -> float:
    return float(_history(folder)[-1]["seconds"]) / 60


def _theirs(folder: Path, ours: Path, minutes: float, settings: dict[str, Any]) -> Outcome:
    """``ours``: a finished run, for its volumes."""
    place = folder / f"basic-unet-{minutes:g}"
    scores, trained = place / "scores.json", place / "training.json"
    classes = list(settings["classes"])
    if not scores.exists():
        torch.set_num_threads(CORES)
        train, validate = (VolumeFile.read(ours / "volumes" / name / "volume.json") for name in ("train", "validate"))
        images, labels = _image(train), np.asarray(open_array(str(train.labels))[...])
        network, steps = basic_unet.train(images, labels, len(classes), minutes, SEED)
        write_json(trained, {"minutes": minutes, "steps": steps})
        probability = np.rint(255 * basic_unet.predict(network, _image(validate))).astype(np.uint8)
        _score(place, ours, probability, classes, scores)
    found = read_json(trained)
    return _outcome("MONAI BasicUNet", found["minutes"], found["steps"], scores)


def _image(volume: VolumeFile) -> NDArray[np.float32]:
    return Image(volume).read(Region.of((0, 0, 0), volume.shape))


def _score(place: Path, ours: Path, probability: NDArray[np.uint8], classes: list[str], scores: Path) -> None:
    """As the rule ``evaluate`` does: the prediction takes the place of one of ours."""
    volume, allocated = ours / "volumes" / "validate" / "volume.json", place / "allocated.json"
    (certificate,) = ours.glob("engine/*/certificate.json")
    allocate(
        volume, certificate, allocated, classes=classes, tile=None, batch=None, on_change="restart", workers=1, cores=1
    )
    described = read_json(allocated)
    open_writable(f"{described['probability']}/{described['array']}")[...] = probability
    write_json(place / "job-0.json", {"digest": digest_of({"minutes": place.name})})
    evaluate(
        volume, allocated, [place / "job-0.json"], [], scores, role="validate", classes=classes, objects=classes[-1],
        settings=config.Evaluate(), cores=CORES,
    )  # fmt: skip


def _outcome(name: str, minutes: float, steps: int, scores: Path) -> Outcome:
    found = read_json(scores)
    return Outcome(name, minutes, steps, **{measure: found[measure] for measure in MEASURES})


def _figure(outcomes: Sequence[Outcome]) -> bytes:
    """SVG: V_rand over minutes."""

    def draw(axes: Axes) -> None:
        for name, colour in zip(dict.fromkeys(outcome.name for outcome in outcomes), (FIRST, SECOND), strict=False):
            points = [asdict(outcome) for outcome in outcomes if outcome.name == name]
            for measure, style in (("v_rand", "-"), ("v_info", "--")):
                axes.plot(
                    [point["minutes"] for point in points], [point[measure] for point in points],
                    style, color=colour, marker="o", markersize=3, label=f"{name}, {MEASURES[measure]}",
                )  # fmt: skip
        axes.set(xlabel="minutes of training on two cores", ylabel="score on validation sections")
        legend(axes)

    _, _, data = drawn(draw, "scores by minutes of training", 3.0).picture.partition(",")
    return base64.b64decode(data)


if __name__ == "__main__":
    main()
