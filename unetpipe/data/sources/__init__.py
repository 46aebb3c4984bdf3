"""Volumes as users have them, opened lazily behind one contract.

An address is a TIFF stack, a folder of TIFF or PNG sections, ``FILE.h5:/DATASET`` or a ``.npy`` file; or an array that
is used in place: a Zarr, an OME-Zarr, an N5 or a precomputed volume of Neuroglancer, on disk or at
``s3://BUCKET/PREFIX``. The libraries that read them are imported when a file of theirs is opened.
"""

import difflib
import itertools
from pathlib import Path, PurePosixPath

from unetpipe.data.sources.arrays import HDF5_SUFFIXES, Hdf5Source, NumpySource
from unetpipe.data.sources.contract import Source, refusal, some
from unetpipe.data.sources.folder import PNG_SUFFIX, FolderSource, PngSource, section_files
from unetpipe.data.sources.series import SeriesLabels, is_series
from unetpipe.data.sources.tiff import TIFF_SUFFIXES, TiffSource
from unetpipe.errors import UserError
from unetpipe.storage import LocalFolder, folder_at, is_remote

__all__ = ["FORMS", "Source", "file_of", "missing", "open_labels", "open_source", "watched"]

IN_PLACE = "a Zarr, an N5 or a precomputed volume"

FORMS = f"a TIFF stack, a folder of TIFF or PNG sections, FILE.h5:/DATASET, a .npy file, {IN_PLACE}"

_FILES = (*TIFF_SUFFIXES, *HDF5_SUFFIXES, PNG_SUFFIX, ".npy")


def file_of(address: str) -> Path:
    """The file or folder of a local address: ``FILE.h5`` of ``FILE.h5:/DATASET``."""
    return Path(address.partition(":/")[0])


def watched(address: str) -> list[str]:
    """The files whose change changes the volume at ``address``; of one that is used in place, the metadata.

    On S3 are none that Snakemake could look at.

    Raises
    ------
    UserError
        If there is a folder that holds no sections.
    """
    if is_remote(address):
        return []
    path = file_of(address)
    if not path.is_dir():
        return [str(path)]
    from unetpipe.data.sources import in_place

    if in_place.is_in_place(LocalFolder(path)):
        return [str(file) for file in in_place.watched(path)]
    return [str(file) for file in section_files(address, path)]


def open_source(address: str, threads: int = 1) -> Source:
    """Open the volume at ``address``; only its metadata are read.

    Parameters
    ----------
    threads:
        Sections that are decoded at the same time, where a format stores them one by one.

    Raises
    ------
    UserError
        If there is no such file, if it is of another format or damaged, or has more than one value per voxel.
    """
    if is_remote(address):
        return _open_remote(address)
    path, suffix = file_of(address), file_of(address).suffix.lower()
    if not path.exists():
        raise missing(f"the volume {address} was to be read", path)
    if path.is_dir():
        if ":/" in address:
            raise refusal(address, f"{path} is a folder, no HDF5 file", "name an array in a Zarr as FOLDER.zarr/ARRAY")
        return _open_folder(address, path, threads)
    if suffix in HDF5_SUFFIXES or ":/" in address:
        return Hdf5Source(address, path, address.partition(":")[2])
    if suffix in TIFF_SUFFIXES:
        return TiffSource(address, path, threads)
    if suffix == PNG_SUFFIX:
        return PngSource(address, path)
    if suffix == ".npy":
        return NumpySource(address, path)
    raise refusal(address, f"a file of the kind {suffix or 'without a suffix'}", f"convert it: give {FORMS}")


def open_labels(address: str, image: str, sections: int, threads: int = 1) -> Source:
    """Open the labels at ``address`` of an image with so many ``sections``, as :func:`open_source` does.

    Those of a series of frames (:class:`~unetpipe.data.sources.series.SeriesLabels`) have a file for some sections
    alone.
    """
    folder = file_of(address)
    if not is_remote(address) and folder.is_dir() and is_series(folder):
        return SeriesLabels(address, folder, image, sections, threads)
    return open_source(address, threads)


def missing(asked: str, path: Path) -> UserError:
    """The error for a path that does not exist: where it ends, and what there is of a similar name."""
    folder, name = path.parent, path.name
    while not folder.exists():
        folder, name = folder.parent, folder.name
    what = "there is no such file" if folder == path.parent else f"there is no folder {folder / name}"
    if not folder.is_dir():
        return UserError(asked, f"{what}: {folder} is a file", "mend the path")
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.75)
    if near:
        return UserError(asked, what, f"mend the path; {folder} holds {', '.join(near)}: is one of these meant?")
    return UserError(asked, what, f"mend the path; {folder} holds {some(names) or 'nothing'}")


def _open_remote(address: str) -> Source:
    from unetpipe.data.sources import in_place

    kind = PurePosixPath(address.partition("://")[2].partition(":/")[0]).suffix
    if kind.lower() in _FILES:
        raise refusal(
            address,
            f"a {kind} file in a bucket, of which parts cannot be read",
            f"copy it here, or convert it to {IN_PLACE}",
        )
    place = folder_at(address)
    try:
        if in_place.is_in_place(place):
            return in_place.InPlaceSource(address)
        names = [entry.name for entry in itertools.islice(place.entries(), 4)]
    except OSError as error:
        raise refusal(
            address, f"it cannot be looked at ({error})", "see whether the storage answers, and allows it"
        ) from None
    if not names:
        raise refusal(address, "there is nothing of that name", f"mend the address: of {IN_PLACE}")
    raise refusal(
        address,
        f"no metadata of {IN_PLACE}; it holds {', '.join(names)}",
        f"give the address of {IN_PLACE}; sections and other files copy here, or convert",
    )


def _open_folder(address: str, folder: Path, threads: int) -> Source:
    # Imports TensorStore, which files of sections do not need.
    from unetpipe.data.sources import in_place

    if in_place.is_in_place(LocalFolder(folder)):
        return in_place.InPlaceSource(address)
    if folder.suffix.lower() in (".zarr", ".n5", ".precomputed"):
        names = sorted(entry.name for entry in folder.iterdir())
        raise refusal(
            address,
            "a folder without zarr.json, .zarray, .zgroup, attributes.json or info of an array: no Zarr, N5 or "
            f"precomputed volume; it holds {some(names) or 'nothing'}",
            f"give {in_place.FORMATS}; copy it again if it was not copied whole",
        )
    return FolderSource(address, folder, threads)
