"""`python -m benchmarks.minutes DATA_DIR`: scores by minutes of training, beside MONAI's BasicUNet.

Both learn from the training sections of the ISBI 2012 stacks, and the same code scores them on the validation sections.
What a step takes is measured first, of both; then minutes are steps, so that only the first two minutes must find the
machine quiet. To be called where snakemake is. What is finished is kept: a second call goes on.
"""

import argparse
import base64
import csv
import logging
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
from torch import nn

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
_PACE_STEPS = basic_unet.FIRST + 50
MEASURES = {"mean_iou": "mean IoU", "v_rand": "V_rand", "v_info": "V_info"}


@dataclass(frozen=True)
class Outcome:
    """Of one training. ``minutes``: so many steps, without the drawing of samples and the prediction."""

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
    parser.add_argument("--configuration", type=Path, default=Path("config/isbi2012-long.yaml"))
    parser.add_argument("--ours", type=float, nargs="*", default=OURS, metavar="MINUTES")
    parser.add_argument("--theirs", type=float, nargs="*", default=THEIRS, metavar="MINUTES")
    parser.add_argument("--folder", type=Path, default=Path("results/minutes"), help="where table and figure go")
    asked = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = read(asked.configuration, {"data_dir": asked.data_dir})
    pace = _pace(asked.folder, settings)
    outcomes = []
    for minutes in asked.ours:
        outcomes.append(_ours(asked.folder, settings, minutes, _steps(minutes, pace["unetpipe"])))
        print(_line(outcomes[-1]), flush=True)
    for minutes in asked.theirs:
        steps = _steps(minutes, pace["BasicUNet"])
        outcomes.append(_theirs(asked.folder, _results(asked.ours[0]), settings, minutes, steps))
        print(_line(outcomes[-1]), flush=True)
    head = f"| trained | minutes | steps | {' | '.join(MEASURES.values())} |\n|---|---|---|---|---|---|\n"
    write_bytes(asked.folder / "minutes.md", (head + "".join(f"{_line(outcome)}\n" for outcome in outcomes)).encode())
    write_bytes(asked.folder / "minutes.svg", _figure(outcomes))


def _line(outcome: Outcome) -> str:
    scores = " | ".join(f"{getattr(outcome, measure):.3f}" for measure in MEASURES)
    return f"| {outcome.name} | {outcome.minutes:.1f} | {outcome.steps:,} | {scores} |"


def _steps(minutes: float, pace: float) -> int:
    return max(1, round(60 * minutes / pace))


def _pace(folder: Path, settings: dict[str, Any]) -> dict[str, float]:
    """Seconds of a step of both: of ours with its share of validation.

    Measured once: the pace of another day would be another number of steps.
    """
    kept = folder / "pace.json"
    if not kept.exists():
        steps = settings["train"]["validate_every"]
        _snakemake(folder, settings, "minutes-pace", steps, "model/history.csv")
        results = Path("results/minutes-pace")
        with (results / "model" / "history.csv").open(newline="") as file:
            seconds = float(list(csv.DictReader(file))[-1]["seconds"])
        _, theirs = _learnt(results, settings, _PACE_STEPS)
        write_json(kept, {"unetpipe": seconds / steps, "BasicUNet": theirs})
    found: dict[str, float] = read_json(kept)
    return found


def _ours(folder: Path, settings: dict[str, Any], minutes: float, steps: int) -> Outcome:
    results = _results(minutes)
    _snakemake(folder, settings, results.name, steps, "scores/validate.json")
    return _outcome("unetpipe", minutes, steps, results / "scores" / "validate.json")


def _results(minutes: float) -> Path:
    return Path("results") / f"minutes-{minutes:g}".replace(".", "_")


def _snakemake(folder: Path, settings: dict[str, Any], run: str, steps: int, target: str) -> None:
    configuration = folder / f"{run}.yaml"
    changed = {**settings, "run": run, "train": {**settings["train"], "steps": steps}}
    write_bytes(configuration, yaml.safe_dump(changed, sort_keys=False).encode())
    command = [sys.executable, "-m", "snakemake", "--cores", str(CORES), "--rerun-incomplete"]
    subprocess.run([*command, "--configfile", str(configuration), "--", f"results/{run}/{target}"], check=True)


def _theirs(folder: Path, ours: Path, settings: dict[str, Any], minutes: float, steps: int) -> Outcome:
    """``ours``: a finished run, for its volumes."""
    place = folder / f"basic-unet-{minutes:g}"
    scores = place / "scores.json"
    classes = list(settings["classes"])
    if not scores.exists():
        network, _ = _learnt(ours, settings, steps)
        validate = VolumeFile.read(ours / "volumes" / "validate" / "volume.json")
        probability = np.rint(255 * basic_unet.predict(network, _image(validate))).astype(np.uint8)
        _score(place, ours, probability, classes, scores)
    return _outcome("MONAI BasicUNet", minutes, steps, scores)


def _learnt(ours: Path, settings: dict[str, Any], steps: int) -> tuple[nn.Module, float]:
    """Their network after so many steps on the training volume of a run of ours, and the seconds of one."""
    torch.set_num_threads(CORES)
    volume = VolumeFile.read(ours / "volumes" / "train" / "volume.json")
    labels = np.asarray(open_array(str(volume.labels))[...])
    return basic_unet.train(_image(volume), labels, len(settings["classes"]), steps, SEED)


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
