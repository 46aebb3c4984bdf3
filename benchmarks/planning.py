"""What was predicted of a prediction, over what it took."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.setting import CLASSES, Setting
from benchmarks.timing import Range, spread
from unetpipe.allocate import allocate
from unetpipe.data.ingest import ingest
from unetpipe.files import read_json
from unetpipe.volume import VolumeFile, open_array

SHAPES = ((12, 512, 512), (24, 640, 512), (6, 1300, 900))
"""Small volumes (z, y, x): one tile a section, the same for longer, and four tiles a section."""

TURNS = 3
CORES = 2


def predicted_over_actual(setting: Setting, backend: str) -> list[tuple[str, Range, Range]]:
    """For each volume its name, and the ratios of seconds and of the memory of a worker."""
    section = np.asarray(open_array(VolumeFile.read(setting.folder / "volume" / "volume.json").image)[0])
    return [_ratios(setting, backend, shape, section) for shape in SHAPES]


def _ratios(
    setting: Setting, backend: str, shape: tuple[int, int, int], section: "np.typing.NDArray[np.uint8]"
) -> tuple[str, Range, Range]:
    name = " x ".join(map(str, shape))
    place = setting.folder / "planning" / name.replace(" ", "")
    place.mkdir(parents=True)
    # No section is like another: a tile that is computed once for many would be no measure.
    noise = np.random.default_rng(0).integers(0, 8, shape, np.uint8)
    repeats = [-(-n // m) for n, m in zip(shape[1:], section.shape, strict=True)]
    np.save(place / "image.npy", np.tile(section // 2, repeats)[: shape[1], : shape[2]] + noise)
    ingest(
        image=str(place / "image.npy"), labels=None, volume=place / "volume.json", name=name, sections=None,
        voxel_size_nm=(40.0, 4.0, 4.0), range=None, label_values={"membrane": [0], "inside": [255]}, ignore=[],
        cores=CORES,
    )  # fmt: skip
    certificate = setting.engine(backend) / "certificate.json"
    seconds, memory = [], []
    for turn in range(TURNS):
        # Each turn measures anew, as the first prediction of an engine does.
        (certificate.parent / "rates.json").unlink(missing_ok=True)
        told, took = _turn(place / "volume.json", certificate, place / str(turn) / "allocated.json")
        seconds.append(told["seconds"] / took["seconds"])
        memory.append(told["memory_mb_per_worker"] / max(took["peak_memory_mb"]))
    return name, spread(seconds), spread(memory)


def _turn(volume: Path, certificate: Path, allocated: Path) -> tuple[dict[str, float], dict[str, Any]]:
    allocate(volume, certificate, allocated, classes=CLASSES, tile=None, batch=None, on_change="refuse", cores=CORES)
    done = allocated.parent / "job-0.json"
    # In a process of its own: workers import what the process that starts them was called with.
    subprocess.run([sys.executable, "-c", _PREDICT, allocated, certificate, done, str(CORES)], check=True)
    return read_json(allocated)["predicted"], read_json(done)


_PREDICT = """
import sys
from pathlib import Path
from unetpipe.predict import predict
predict(*map(Path, sys.argv[1:4]), job="job-0", workers=None, cores=int(sys.argv[4]))
"""
