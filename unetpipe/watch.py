"""A training to look at while it runs: its curves, and what it makes of a few tiles, for TensorBoard.

The folder holds the history as one file of events, and pictures as ``<step>-tile-<number>.png``, which are among the
events too. A training that goes on writes the events anew, from the rows and pictures up to the step from which it goes
on: every point is there once, and those of steps that are done again are not there before they are.
"""

import io
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unetpipe.errors import UserError
from unetpipe.files import write_bytes
from unetpipe.volume import IGNORE

_TILES = 3
_SPREAD = 2.5  # standard deviations of the grey values that are black and white, either way
_GAP = 4  # voxels between views
_GAP_GREY = 128
_FLUSH_SECONDS = 10

IGNORED = (213, 94, 0)
"""Voxels whose label is ignored."""


def forget(folder: Path) -> None:
    """Remove what another training has left in ``folder``."""
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)


class Board:
    """Writes what happens into ``folder``; a context, at whose end all is written.

    Parameters
    ----------
    classes:
        In the order of the channels.
    rows:
        The history of the steps that are done.

    Raises
    ------
    UserError
        If the package tensorboard is not installed.
    """

    def __init__(self, folder: Path, classes: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        if find_spec("tensorboard") is None:
            raise UserError(
                "training was to be watched (train.tensorboard)",
                "the package tensorboard is not installed",
                "pip install 'unetpipe[watch]', or set train.tensorboard: false",
            )
        # For those alone who ask for it: the package need not be there.
        from torch.utils.tensorboard import SummaryWriter

        if not rows:
            forget(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._folder, self._classes = folder, classes
        self._begin = time.time() - (rows[-1]["seconds"] if rows else 0.0)
        # A TensorBoard that is open then forgets what it has read of the file that is gone.
        self._writer = SummaryWriter(str(folder), purge_step=0, flush_secs=_FLUSH_SECONDS)
        seconds = {row["step"]: row["seconds"] for row in rows}
        for path in sorted(folder.glob("[0-9]*.png")):
            step, tile = map(int, path.stem.split("-tile-"))
            if step in seconds:
                with Image.open(path) as picture:
                    self._add_picture(step, tile, np.asarray(picture), self._begin + seconds[step])
            else:
                path.unlink()
        for row in rows:
            self.add(row)

    def __enter__(self) -> "Board":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def add(self, row: Mapping[str, Any]) -> None:
        """A row of the history; what was not measured or is not defined is left out."""
        names = {
            "loss": "loss/training",
            "validation_loss": "loss/validation",
            "learning_rate": "learning_rate",
            "validation_mean_iou": "IoU/mean",
        } | {f"iou_{name}": f"IoU/{name}" for name in self._classes}
        for key, name in names.items():
            if row.get(key) is not None:
                self._writer.add_scalar(name, row[key], row["step"], self._begin + row["seconds"])

    def show(
        self,
        step: int,
        tile: int,
        image: NDArray[np.float32],
        label: NDArray[np.uint8],
        probability: NDArray[np.float32],
    ) -> None:
        """A picture of a validation tile, of the first few of them; others are left out.

        Side by side, in the middle section of what comes out of the network: the image, the truth (the first class
        black, the last white, what is ignored orange), and the probability of each class, 1 being white.

        Parameters
        ----------
        image:
            (z, y, x), normalised grey values.
        label, probability:
            (z', y', x') class indices, and (classes, z', y', x').
        """
        if tile >= _TILES:
            return
        voxels = strip(image, label, probability)
        png = io.BytesIO()
        Image.fromarray(voxels).save(png, "png")
        write_bytes(self._folder / f"{step:08d}-tile-{tile}.png", png.getvalue())
        self._add_picture(step, tile, voxels, time.time())

    def _add_picture(self, step: int, tile: int, voxels: NDArray[np.uint8], moment: float) -> None:
        self._writer.add_image(f"validation/tile-{tile}", voxels, step, moment, dataformats="HWC")


def strip(image: NDArray[np.float32], label: NDArray[np.uint8], probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The picture that :meth:`Board.show` describes: (y', columns, 3), the views 4 columns apart."""
    classes, *inner = probability.shape
    region = tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(image.shape, inner, strict=True))
    middle = inner[0] // 2
    grey = np.clip((image[region][middle] / _SPREAD + 1) / 2, 0, 1)
    truth = label[middle]
    views = [grey, np.minimum(truth / (classes - 1), 1), *probability[:, middle]]
    coloured = [np.repeat(np.rint(255 * view).astype(np.uint8)[..., None], 3, 2) for view in views]
    coloured[1][truth == IGNORE] = IGNORED
    gap = np.full((inner[1], _GAP, 3), _GAP_GREY, np.uint8)
    return np.concatenate([part for view in coloured for part in (view, gap)][:-1], 1)
