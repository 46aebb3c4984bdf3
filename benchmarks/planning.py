"""What was predicted of a prediction, over what it took."""

from pathlib import Path
from typing import Any

from benchmarks.rows import Row, Rows
from benchmarks.running import run
from benchmarks.setting import CORES, Setting
from benchmarks.timing import spread
from unetpipe.config import Precision
from unetpipe.files import read_json
from unetpipe.grid import Shape

SHAPES = ((12, 512, 512), (24, 640, 512), (6, 1300, 900))
"""Small volumes (z, y, x): one tile a section, the same for longer, and four tiles a section."""


def predicted_over_actual(
    setting: Setting, backend: str, precision: Precision, *, shapes: tuple[Shape, ...] = SHAPES, turns: int = 3
) -> Rows:
    """Of each volume, the ratios of seconds and of the memory of a worker."""
    rows: Rows = []
    for shape in shapes:
        volume = setting.volume(shape)
        certificate = setting.engine(backend, precision)
        seconds, memory = [], []
        for turn in range(turns):
            # Each turn measures anew, as the first prediction of an engine does.
            (certificate.parent / "rates.json").unlink(missing_ok=True)
            told, took, plan = _turn(setting, volume, certificate, f"planning-{volume.parent.name}-{turn}")
            seconds.append(told["seconds"] / took["seconds"])
            memory.append(told["memory_mb_per_worker"] / max(took["peak_memory_mb"]))
        what = f"plan of {volume.parent.name}, {setting.name}, {precision}"
        kept = f"keeps {plan['kept_fraction']:.0%} of what the network reads"
        rows += [
            Row(
                f"{what}: seconds",
                "what it took",
                spread(seconds),
                1.0,
                kept,
                f"plan over actual, {volume.parent.name},",
            ),
            Row(f"{what}: memory of a worker", "what it took", spread(memory), 1.0),
        ]
    return rows


def _turn(
    setting: Setting, volume: Path, certificate: Path, name: str
) -> tuple[dict[str, float], dict[str, Any], dict[str, Any]]:
    allocated = setting.allocate(volume, certificate, name)
    took = run(allocated, certificate, workers=None, cores=CORES).done
    description = read_json(allocated)
    return description["predicted"], took, description["plan"]
