"""A folder with one file per section, and PNG files."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.data.sources.contract import DECODING_ERRORS, SectionSource, Source, listing_digest, refusal, some
from unetpipe.data.sources.tiff import TIFF_SUFFIXES, TiffSource

PNG_SUFFIX = ".png"

# Pillow calls 16 bits I in older versions.
_PNG_DTYPES = {"1": np.uint8, "L": np.uint8, "I;16": np.uint16, "I;16B": np.uint16, "I": np.uint16}


class PngSource(Source):
    """One PNG file: one section."""

    def __init__(self, address: str, path: Path) -> None:
        from PIL import Image

        # Pillow takes large images for an attack; sections of a microscope are large.
        Image.MAX_IMAGE_PIXELS = None
        self._path = path
        try:
            with Image.open(path, formats=["PNG"]) as image:
                mode, (width, height) = image.mode, image.size
        except DECODING_ERRORS as error:
            raise refusal(address, f"{path} is no whole PNG file ({error})", "write or copy it again") from None
        if mode not in _PNG_DTYPES:
            what = "colours from a palette" if mode == "P" else f"channels {mode}"
            raise refusal(address, f"{path} has {what}, not one value per pixel", "convert it to greyscale")
        super().__init__(address, (1, height, width), np.dtype(_PNG_DTYPES[mode]), None)

    def read(self, first: int, end: int) -> NDArray[Any]:
        """The section: (1, y, x), or none of it."""
        from PIL import Image

        try:
            with Image.open(self._path, formats=["PNG"]) as image:
                return np.asarray(image)[None].astype(self.dtype, copy=False)[first:end]
        except DECODING_ERRORS as error:
            raise refusal(
                self.address, f"{self._path} cannot be decoded ({error})", "write or copy it again: it may be cut short"
            ) from None

    def listing(self) -> str:
        """SHA-256 over name, size and time of the file."""
        return listing_digest([self._path], self._path.parent)


class FolderSource(SectionSource):
    """A folder of TIFF or PNG sections, in natural order of their names: s2 before s10.

    The first file stands for all; each is compared with it when it is read.
    """

    def __init__(self, address: str, folder: Path, threads: int) -> None:
        self.threads = threads
        self._folder = folder
        self._files = section_files(address, folder)
        with _open_file(address, self._files[0]) as first:
            # A file of one section does not tell how far apart two sections are.
            super().__init__(address, (len(self._files), *first.shape[1:]), first.dtype, None)
            self.rows_at_once = first.rows_at_once

    def section(self, z: int) -> NDArray[Any]:
        """Section ``z``: (y, x); UserError if it differs from the first one in shape or type."""
        return self.rows(z, 0, self.shape[1])

    def rows(self, z: int, low: int, high: int) -> NDArray[Any]:
        """The rows from ``low`` to ``high`` of section ``z``, likewise."""
        file, first = self._files[z], self._files[0]
        with _open_file(self.address, file) as source:
            if source.shape != (1, *self.shape[1:]) or source.dtype != self.dtype:
                raise refusal(
                    self.address,
                    f"{file.name} holds {source.shape[1:]} pixels (y, x) of {source.dtype}, "
                    f"{first.name} holds {self.shape[1:]} of {self.dtype}",
                    "sections of one volume have one shape and one type: mend this one, or move it elsewhere",
                )
            whole = (low, high) == (0, self.shape[1])
            rows: NDArray[Any] = (source.read(0, 1) if whole else source.read_rows(0, 1, low, high))[0]
            return rows

    def listing(self) -> str:
        """SHA-256 over names, sizes and times of the sections."""
        return listing_digest(self._files, self._folder)


def section_files(address: str, folder: Path) -> list[Path]:
    """The sections in ``folder`` in natural order; UserError if there are none, or of two kinds."""
    names = sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=_natural)
    tiffs = [path for path in names if path.suffix.lower() in TIFF_SUFFIXES]
    pngs = [path for path in names if path.suffix.lower() == PNG_SUFFIX]
    if tiffs and pngs:
        raise refusal(
            address,
            f"{len(tiffs)} TIFF and {len(pngs)} PNG files in one folder",
            "keep the sections of one volume in a folder of their own",
        )
    if not tiffs and not pngs:
        raise refusal(
            address,
            f"a folder without TIFF or PNG files; it holds {some(path.name for path in names) or 'nothing'}",
            "give the folder that holds the sections, or the address of a volume in it",
        )
    return tiffs or pngs


def _natural(path: Path) -> tuple[list[str | int], str]:
    parts = re.split(r"([0-9]+)", path.name)
    # Every second part is a number, so that text is compared with text alone.
    return [int(part) if i % 2 else part.lower() for i, part in enumerate(parts)], path.name


def _open_file(address: str, file: Path) -> Source:
    if file.suffix.lower() == PNG_SUFFIX:
        return PngSource(address, file)
    source = TiffSource(address, file, threads=1)
    if source.shape[0] != 1:
        source.close()
        raise refusal(
            address,
            f"{file.name} holds {source.shape[0]} sections",
            "in a folder each file is one section; give the address of a TIFF stack without its folder",
        )
    return source
