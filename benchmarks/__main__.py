"""`make bench`: what it measures as a table, and a line of summary. Shared machines drift: read the ratios first."""

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from benchmarks import engines, overhead, planning, scale, scores, sections, shards, storage
from benchmarks.rows import Row, Rows, Skipped, summary, table
from benchmarks.setting import Setting, precisions, prepare
from benchmarks.timing import once
from benchmarks.training import WIDTHS, training_against_plain_fp32
from unetpipe.errors import UserError
from unetpipe.files import write_bytes

WIDTH = 32
ALL_WIDTHS = (16, 32, 64)

BACKEND = "openvino"
"""The fastest on processors, wherever it was measured."""

_EXPECTED_OF_TRAINING = 2.2
_AUGMENTATION = (
    ("against_grid_sample", "grid_sample of PyTorch alone, its grid given", 1.0),
    ("against_batchgenerators", "SpatialTransform of batchgeneratorsv2", 3.0),
    ("against_monai", "Rand2DElastic of MONAI", 6.0),
)


def training() -> Rows:
    """Steps a second against the plain loop."""
    return [
        Row(
            what,
            "the plain loop in fp32",
            found,
            _EXPECTED_OF_TRAINING,
            brief=f"training over plain fp32, width {width},",
        )
        for width, (what, found) in zip(WIDTHS, training_against_plain_fp32(), strict=True)
    ]


def augmentation() -> Rows:
    """Deformed samples a second against the libraries that others draw them with."""
    what = "elastic deformation of image and labels, 572 x 572, one core"
    if missing := [name for name in ("batchgeneratorsv2", "monai") if find_spec(name) is None]:
        return [Skipped(what, f"{' and '.join(missing)} not installed")]
    from benchmarks import augmentation as measured  # Not everybody has what it imports.

    return [
        Row(what, peer, getattr(measured, name)(), expected, brief=f"augmentation over {peer.split()[0]}")
        for name, peer, expected in _AUGMENTATION
    ]


def works(setting: Setting, *, full: bool) -> Iterator[Callable[[], Rows]]:
    """What is measured of a network; ``full``: with all engines."""
    known = precisions(BACKEND)
    yield partial(sections.against_peers, setting, BACKEND, known)
    for backend in engines.EXPECTED:
        for precision in precisions(backend) if full else ("fp32",):
            yield partial(engines.against_pytorch, setting, backend, precision)
    if setting.network.settings.width == WIDTH:
        yield partial(storage.against_engine, setting, BACKEND, "bf16" if "bf16" in known else "fp32")
        yield partial(planning.predicted_over_actual, setting, BACKEND, known[-1])


def main() -> None:
    """Run all, print the table, and write it to a file where one is named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--full", action="store_true", help=f"widths {ALL_WIDTHS} and every precision of every engine")
    parser.add_argument("--write", type=Path, metavar="FILE", help="where the table goes, too")
    asked = parser.parse_args()
    rows: Rows = []

    def measure(work: Callable[[], Rows]) -> None:
        called = getattr(work, "func", work)
        name = f"{called.__module__}.{called.__name__}"

        def add() -> None:
            try:
                rows.extend(work())
            except UserError as error:
                # What was measured so far took long: it is not lost for the want of one.
                rows.append(Skipped(name, error.found))

        print(f"{name}: {once(add):.0f} s", file=sys.stderr)

    for width in ALL_WIDTHS if asked.full else (WIDTH,):
        with tempfile.TemporaryDirectory() as folder:
            for work in works(prepare(Path(folder), width), full=asked.full):
                measure(work)
    for work in (training, augmentation, scores.counting, shards.against_tensorstore, scale.blocks, overhead.of_rules):
        measure(work)
    if asked.full:
        measure(scale.memory)
    text = table(rows)
    if asked.write:
        write_bytes(asked.write, text.encode())
    print(f"{text}\n{summary(rows)}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main()
