"""TIFF stacks: plain, BigTIFF, ImageJ and OME, compressed or not."""

import json
import math
import struct
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.data.sources.contract import DECODING_ERRORS, SectionSource, VoxelSize, listing_digest, refusal, some
from unetpipe.data.sources.units import in_nm
from unetpipe.errors import UserError
from unetpipe.grid import Shape

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import tifffile

TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8")

_TRUNCATED = "write or copy the file again: it was cut short or damaged"
_UNIFORM = "write the sections alone to one file: all of one shape and type"


class TiffSource(SectionSource):
    """A TIFF file whose pages are sections. Values are those in the file, not the colours that a palette gives them."""

    def __init__(self, address: str, path: Path, threads: int) -> None:
        self.threads = threads
        self._path = path
        first = _File(address, path)
        # A file, once open, serves one thread: its position, and what it has read of its pages, are its own.
        self._idle: SimpleQueue[_File] = SimpleQueue()
        self._idle.put(first)
        with ExitStack() as stack:
            stack.callback(self.close)
            super().__init__(address, first.shape, first.dtype, first.voxel_size_nm)
            self.rows_at_once = first.rows_at_once
            first.refuse_cut(first.shape[0] - 1)
            stack.pop_all()

    def section(self, z: int) -> NDArray[Any]:
        """Section ``z``: (y, x)."""
        with self._file() as file:
            return file.section(z)

    def rows(self, z: int, low: int, high: int) -> NDArray[Any]:
        """The rows from ``low`` to ``high`` of section ``z``: (y, x)."""
        with self._file() as file:
            return file.rows(z, low, high)

    @contextmanager
    def _file(self) -> "Iterator[_File]":
        try:
            file = self._idle.get_nowait()
        except Empty:
            file = _File(self.address, self._path)
        try:
            yield file
        finally:
            self._idle.put(file)

    def listing(self) -> str:
        """SHA-256 over name, size and time of the file."""
        return listing_digest([self._path], self._path.parent)

    def close(self) -> None:
        """Close the file."""
        while not self._idle.empty():
            self._idle.get().close()


class _File:
    """An open TIFF file as a stack of sections."""

    def __init__(self, address: str, path: Path) -> None:
        import tifffile

        self._address, self._path = address, path
        with ExitStack() as stack:
            try:
                tif = stack.enter_context(tifffile.TiffFile(path))
                promised, found = _promised_pages(tif), len(tif.pages)
                # To find series among thousands of pages takes seconds; these are the files that need them.
                series = tif.series if tif.is_imagej or tif.is_ome or found == 1 else None
                self.voxel_size_nm = _voxel_size_nm(tif)
            except DECODING_ERRORS as error:
                raise self._refusal(f"it is no whole TIFF file ({error})", _TRUNCATED) from None
            if promised > found:
                pages = promised if math.isfinite(promised) else "more"
                raise self._refusal(f"it tells of {pages} pages, but only {found} can be found", _TRUNCATED)
            first = tif.pages.first
            if series is None:
                self._pages: Sequence[Any] = tif.pages
                self.shape = self._stack_shape(*_axes_of_pages(first, found))
            elif len(series) == 1:
                self._pages = series[0]
                self.shape = self._stack_shape(series[0].get_axes(squeeze=False), series[0].get_shape(squeeze=False))
            else:
                shapes = some(str(one.shape) for one in series)
                raise self._refusal(f"it holds {len(series)} images, of the shapes {shapes}", _UNIFORM)
            if first.dtype is None:
                raise self._refusal(f"pixels of {first.bitspersample} bits", "convert it to 8 or 16 bits")
            self.dtype = first.dtype
            self._stored = first.dtype.newbyteorder(tif.byteorder)
            # ImageJ writes one page for a stack of more than 4 GB, and the sections one after the other.
            self._offset = series[0].dataoffset if series and len(self._pages) == 1 < self.shape[0] else None
            if self._offset is None and len(self._pages) != self.shape[0]:
                raise self._refusal(
                    f"it tells of {self.shape[0]} sections and holds {len(self._pages)} as pages",
                    "write all sections to one file, one page each, such as with ImageJ: File > Save As > Tiff",
                )
            self._tif = tif
            self.rows_at_once = 1 if self._offset is not None else _rows_at_once(first)
            stack.pop_all()

    def section(self, z: int) -> NDArray[Any]:
        """Section ``z``: (y, x)."""
        self.refuse_cut(z)
        ny, nx = self.shape[1:]
        try:
            if self._offset is None:
                voxels: NDArray[Any] = self._page(z).asarray(maxworkers=1)
            else:
                offset = self._offset + z * ny * nx * self._stored.itemsize
                voxels = np.fromfile(self._path, self._stored, ny * nx, offset=offset)
            return voxels.reshape(ny, nx)
        except DECODING_ERRORS as error:
            raise self._refusal(f"section {z} cannot be decoded ({error})", _TRUNCATED) from None

    def rows(self, z: int, low: int, high: int) -> NDArray[Any]:
        """The rows from ``low`` to ``high`` of section ``z``: (y, x)."""
        self.refuse_cut(z)
        ny, nx = self.shape[1:]
        try:
            start = self._offset
            if start is None:
                page = self._page(z)
                if not _is_raw(page.keyframe):
                    return _decoded_rows(page, low, high)
                start = page.dataoffsets[0]
            else:
                start += z * ny * nx * self._stored.itemsize
            offset = start + low * nx * self._stored.itemsize
            return np.fromfile(self._path, self._stored, (high - low) * nx, offset=offset).reshape(-1, nx)
        except DECODING_ERRORS as error:
            raise self._refusal(f"section {z} cannot be decoded ({error})", _TRUNCATED) from None

    def refuse_cut(self, z: int) -> None:
        """UserError if the file ends within section ``z``: tifffile does not always say so."""
        if self._offset is None:
            page = self._page(z)
            end = max((a + n for a, n in zip(page.dataoffsets, page.databytecounts, strict=False)), default=0)
        else:
            end = self._offset + (z + 1) * math.prod(self.shape[1:]) * self._stored.itemsize
        size = self._path.stat().st_size
        if not 0 < end <= size:
            raise self._refusal(f"section {z} ends at byte {end}, the file at byte {size}", _TRUNCATED)

    def close(self) -> None:
        self._tif.close()

    def _page(self, z: int) -> Any:
        try:
            page = self._pages[z]
        except DECODING_ERRORS as error:
            raise self._refusal(f"page {z} cannot be read ({error})", _TRUNCATED) from None
        if page is None or page.parent is not self._tif:
            raise self._refusal(
                f"section {z} lies in another file, of which it tells", "write all sections to one file"
            )
        if page.shape != self.shape[1:] or page.dtype != self.dtype:
            raise self._refusal(
                f"section {z} has the shape {page.shape} and the type {page.dtype}, "
                f"the first one {self.shape[1:]} (y, x) and {self.dtype}",
                _UNIFORM,
            )
        return page

    def _stack_shape(self, axes: str, shape: tuple[int, ...]) -> Shape:
        """(z, y, x) of an image with ``axes``; UserError for channels, colours and several stacks."""
        sizes = list(zip(axes, shape, strict=True))
        plane = [(axis, size) for axis, size in sizes if axis in "YX"]
        stack = [(axis, size) for axis, size in sizes if axis not in "YX" and size > 1]
        if [axis for axis, _ in plane] != ["Y", "X"] or len(stack) > 1 or any(axis in "CS" for axis, _ in stack):
            found = ", ".join(f"{axis}: {size}" for axis, size in (*stack, *plane))
            raise self._refusal(
                f"the axes {found} (S: samples per pixel, C: channels, T: time, Z: depth)",
                "give a stack with one value per pixel: one channel, one time point, no colours; sections along Z",
            )
        return (stack[0][1] if stack else 1, plane[0][1], plane[1][1])

    def _refusal(self, found: str, repair: str) -> UserError:
        if str(self._path) != self._address:
            found = f"in {self._path.name}, {found}"
        return refusal(self._address, found, repair)


def _is_raw(page: "tifffile.TiffPage") -> bool:
    """Whether the rows of a page lie in the file one after the other, as they are."""
    plain = page.compression == page.predictor == page.fillorder == page.samplesperpixel == 1
    whole = page.dtype is not None and page.bitspersample == 8 * page.dtype.itemsize
    return bool(plain and whole and page.is_contiguous)


def _rows_at_once(page: "tifffile.TiffPage") -> int:
    """Rows that are decoded together: those of a strip or tile."""
    if _is_raw(page):
        return 1
    if page.imagedepth != 1 or page.samplesperpixel != 1 or page.jpegheader is not None:
        return page.imagelength
    return min(page.imagelength, page.tilelength if page.is_tiled else page.rowsperstrip)


def _decoded_rows(page: Any, low: int, high: int) -> NDArray[Any]:
    """The rows from ``low`` to ``high`` of a page, of which only the strips or tiles that hold them are decoded."""
    key = page.keyframe
    height, width = key.imagelength, key.imagewidth
    if _rows_at_once(key) == height:
        rows: NDArray[Any] = page.asarray(maxworkers=1).reshape(height, width)[low:high]
        return rows
    tall = key.tilelength if key.is_tiled else key.rowsperstrip
    across = math.ceil(width / key.tilewidth) if key.is_tiled else 1
    wanted = range(low // tall * across, math.ceil(high / tall) * across)
    file = page.parent.filehandle
    key.init_decode()
    how = {"jpegtables": page.jpegtables} if page.jpegtables is not None else {}
    found = np.empty((high - low, width), key.dtype)
    for index in wanted:
        data = None
        if page.databytecounts[index]:
            file.seek(page.dataoffsets[index])
            data = file.read(page.databytecounts[index])
        segment, (_, _, y, x, _), shape = key.decode(data, index, **how)
        start, stop = max(low, y), min(high, y + shape[1], height)
        here = found[start - low : stop - low, x : x + shape[2]]
        here[...] = key.nodata if segment is None else segment[0, start - y : stop - y, : here.shape[1], 0]
    return found


def _promised_pages(tif: "tifffile.TiffFile") -> float:
    """How many pages the file should have: tifffile takes what it finds for the whole, and only logs what it missed.

    Infinity where the last page that was found names a further one.
    """
    layout, count = tif.tiff, len(tif.pages)
    if not count:
        raise ValueError("no pages")
    file = tif.filehandle
    last = tif.pages[count - 1].offset
    if last is None:
        return count
    file.seek(last)
    (tags,) = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))
    file.seek(tags * layout.tagsize, 1)
    try:
        (following,) = struct.unpack(layout.offsetformat, file.read(layout.offsetsize))
    except struct.error:
        return math.inf
    if following:
        return math.inf
    if tif.is_imagej and tif.series[0].kind != "imagej":
        # The one page of a large stack does not name others.
        return int((tif.imagej_metadata or {}).get("images", count))
    return count


def _axes_of_pages(first: "tifffile.TiffPage", count: int) -> tuple[str, tuple[int, ...]]:
    """Axes and shape of ``count`` pages like ``first``: along one axis, unless tifffile itself has noted several."""
    axes, outer = "I", (count,)
    try:
        noted = json.loads(first.description)
        shape = tuple(noted["shape"])
        names = noted.get("axes", "Q" * len(shape))
        if math.prod(shape[: -len(first.shape)]) == count and len(names) == len(shape):
            axes, outer = names[: -len(first.shape)], shape[: -len(first.shape)]
    except (ValueError, LookupError, TypeError):
        pass
    return axes + first.axes, outer + first.shape


def _voxel_size_nm(tif: "tifffile.TiffFile") -> VoxelSize | None:
    """From the metadata of OME or ImageJ; plain resolution tags tell of paper, not of tissue."""
    import tifffile

    if tif.is_ome and tif.ome_metadata:
        image = tifffile.xml2dict(tif.ome_metadata).get("OME", {}).get("Image", {})
        pixels = (image[0] if isinstance(image, list) else image).get("Pixels", {})
        # The schema's default unit is the micrometre.
        return in_nm(
            [pixels.get(f"PhysicalSize{axis}") for axis in "ZYX"],
            [pixels.get(f"PhysicalSize{axis}Unit", "µm") for axis in "ZYX"],
        )
    if tif.is_imagej and tif.imagej_metadata:
        meta = tif.imagej_metadata
        tags = tif.pages.first.tags
        lengths = [meta.get("spacing"), _per_pixel(tags, "YResolution"), _per_pixel(tags, "XResolution")]
        unit = meta.get("unit")
        return in_nm(lengths, [meta.get("zunit", unit), meta.get("yunit", unit), unit])
    return None


def _per_pixel(tags: Any, name: str) -> float | None:
    pixels, units = tags[name].value if name in tags else (0, 0)
    return units / pixels if pixels else None
