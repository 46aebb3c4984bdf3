"""Labels of a time series in the layout of the Cell Tracking Challenge: a file for each frame that was labelled.

    01/t000.tif  01/t001.tif  01/t002.tif  …           frames
    01_GT/SEG/man_seg001.tif  …                        what people outlined in some of them
    01_ST/SEG/man_seg000.tif  …                        what programs agree on

The numbers in the names pair files, never their order. Maška et al. 2014, doi:10.1093/bioinformatics/btu080.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.data.sources.contract import SectionSource, refusal, some
from unetpipe.data.sources.folder import FolderSource, section_files

_LABELS = re.compile(r"man_seg([0-9]+)\.tiff?", re.IGNORECASE)
_OF_A_VOLUME = re.compile(r"man_seg_[0-9]+_[0-9]+\.tiff?", re.IGNORECASE)
_MARKERS = re.compile(r"man_track[0-9]+\.tiff?", re.IGNORECASE)
_FRAME = re.compile(r"t([0-9]+)\.tiff?", re.IGNORECASE)


def is_series(folder: Path) -> bool:
    """Whether ``folder`` holds labels that are named by their frames."""
    return any(entry.name.lower().startswith(("man_seg", "man_track")) for entry in folder.iterdir())


class SeriesLabels(SectionSource):
    """Labels of some of the sections of an image; those of all others are 0, and :meth:`labelled` tells them apart.

    Parameters
    ----------
    address, folder:
        Of the labels.
    image, sections:
        Where the image is, and how many sections it has. Of a folder of frames ``t000.tif``, … the numbers in the names
        count; the sections of another image are the frames from 0 on.

    Raises
    ------
    UserError
        If a file is not named by its frame, a frame is missing or there twice, or labels are of no frame.
    """

    def __init__(self, address: str, folder: Path, image: str, sections: int, threads: int) -> None:
        files = section_files(address, folder)
        if volumes := [file.name for file in files if _OF_A_VOLUME.fullmatch(file.name)]:
            raise refusal(
                address,
                f"{some(volumes, 3)}: labels of single planes of a volume at a time point, by time and depth",
                "give labels of a series of 2D frames, man_segNNN.tif; of 3D series, write each time point to a file "
                "of its own, with its labels as a volume of the same shape",
            )
        if markers := [file.name for file in files if _MARKERS.fullmatch(file.name)]:
            raise refusal(
                address,
                f"{some(markers, 3)}: they mark where cells are, to track them, and do not outline them",
                "give the outlines, in SEG instead of TRA",
            )
        files_by_frame = _by_number(address, files, _LABELS, "man_seg000.tif")
        section_of = _sections(address, image, sections)
        if alone := [files_by_frame[frame].name for frame in files_by_frame.keys() - section_of.keys()]:
            raise refusal(
                address,
                f"the image {image} has the frames {min(section_of)} to {max(section_of)}, and none for "
                f"{some(sorted(alone))}",
                "give the labels of this series: those of the folder 01 lie in 01_GT",
            )
        self._given = FolderSource(address, folder, threads)
        place = {file: at for at, file in enumerate(files)}
        self._at = {section_of[frame]: place[file] for frame, file in files_by_frame.items()}
        self.threads = threads
        super().__init__(address, (sections, *self._given.shape[1:]), self._given.dtype, None)
        self.rows_at_once = self._given.rows_at_once

    @property
    def labelled_sections(self) -> tuple[int, ...]:
        """Those for which there is a file, in their order."""
        return tuple(sorted(self._at))

    def labelled(self, z: int) -> bool:
        """Whether there is a file for section ``z``."""
        return z in self._at

    def section(self, z: int) -> NDArray[Any]:
        """Labels of section ``z``: (y, x)."""
        return self.rows(z, 0, self.shape[1])

    def rows(self, z: int, low: int, high: int) -> NDArray[Any]:
        """The rows from ``low`` to ``high`` of section ``z``: (y, x)."""
        if z not in self._at:
            return np.zeros((high - low, self.shape[2]), self.dtype)
        return self._given.rows(self._at[z], low, high)

    def listing(self) -> str:
        """SHA-256 over names, sizes and times of the files."""
        return self._given.listing()


def _sections(address: str, image: str, sections: int) -> dict[int, int]:
    """The section of each frame."""
    folder = Path(image)
    if not folder.is_dir() or not any(_FRAME.fullmatch(entry.name) for entry in folder.iterdir()):
        return {frame: frame for frame in range(sections)}
    files = section_files(image, folder)
    by_frame = _by_number(image, files, _FRAME, "t000.tif")
    frames = sorted(by_frame)
    if missing := sorted(set(range(frames[0], frames[-1])) - by_frame.keys()):
        raise refusal(
            address,
            f"frames of the image {image} are missing: {some(map(str, missing))}, between {by_frame[frames[0]].name} "
            f"and {by_frame[frames[-1]].name}",
            "copy the series again: sections follow each other in time, and a gap would join what lies apart",
        )
    place = {file: z for z, file in enumerate(files)}
    return {frame: place[file] for frame, file in by_frame.items()}


def _by_number(address: str, files: Sequence[Path], pattern: re.Pattern[str], example: str) -> dict[int, Path]:
    """The file of each frame."""
    found: dict[int, Path] = {}
    for file in files:
        match = pattern.fullmatch(file.name)
        if match is None:
            raise refusal(
                address,
                f"in {file.parent}, {file.name} beside files that are named by their frame, such as {example}",
                "move it elsewhere, or name it likewise",
            )
        other = found.setdefault(int(match[1]), file)
        if other != file:
            raise refusal(
                address,
                f"in {file.parent}, {other.name} and {file.name} are both of frame {int(match[1])}",
                "keep one of them",
            )
    return found
