"""Volumes as users have them, opened lazily behind one contract.

An address is a TIFF stack, a folder of TIFF or PNG sections, ``FILE.h5:/DATASET``, a ``.npy`` file or a Zarr. The
libraries that read them are imported when a file of theirs is opened.
"""

import difflib
import os
from pathlib import Path

from unetpipe.data.sources.arrays import HDF5_SUFFIXES, Hdf5Source, NumpySource
from unetpipe.data.sources.contract import PARENTS, ZARR_METADATA, Source, refusal, some
from unetpipe.data.sources.folder import PNG_SUFFIX, FolderSource, PngSource, section_files
from unetpipe.data.sources.tiff import TIFF_SUFFIXES, TiffSource
from unetpipe.errors import UserError

__all__ = ["FORMS", "Source", "file_of", "missing", "open_source", "watched"]

_ZARR = ("zarr.json", ".zarray", ".zgroup")

FORMS = "a TIFF stack, a folder of TIFF or PNG sections, FILE.h5:/DATASET, a .npy file or a Zarr"


def file_of(address: str) -> Path:
    """The file or folder of an address: ``FILE.h5`` of ``FILE.h5:/DATASET``."""
    return Path(address.partition(":/")[0])


def watched(address: str) -> list[str]:
    """The files whose change changes the volume at ``address``; of a Zarr, which can be of any size, the metadata.

    Raises
    ------
    UserError
        If there is a folder that holds no sections.
    """
    path = file_of(address)
    if not path.is_dir():
        return [str(path)]
    if _is_zarr(path):
        # Of an array in a pyramid, the voxel size lies above it.
        above = path.absolute().parents[:PARENTS]
        folders = [path, *(above if path.is_absolute() else map(Path, map(os.path.relpath, above)))]
        return [str(folder / name) for folder in folders for name in ZARR_METADATA if (folder / name).is_file()]
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
    if "://" in address:
        raise refusal(address, "the address of a remote store", f"copy it here and give {FORMS}")
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


def _open_folder(address: str, folder: Path, threads: int) -> Source:
    if _is_zarr(folder):
        # Imports Zarr, which takes half a second.
        from unetpipe.data.sources.zarr import ZarrSource

        return ZarrSource(address, folder)
    if folder.suffix.lower() == ".zarr":
        names = sorted(entry.name for entry in folder.iterdir())
        raise refusal(
            address,
            f"a folder without zarr.json, .zarray or .zgroup: no Zarr; it holds {some(names) or 'nothing'}",
            "give an OME-Zarr 0.4 or 0.5, or a Zarr array of version 2 or 3; copy it again if it was not copied whole",
        )
    return FolderSource(address, folder, threads)


def _is_zarr(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _ZARR)
