"""Arrays in one file: NumPy and HDF5."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.data.sources.contract import DECODING_ERRORS, Source, as_volume, listing_digest, refusal, some
from unetpipe.data.sources.units import in_nm

HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")

_CACHE_BYTES = 2**28


class NumpySource(Source):
    """A ``.npy`` file, mapped into memory: the system reads the pages that are asked for."""

    def __init__(self, address: str, path: Path) -> None:
        self._path = path
        try:
            array = np.lib.format.open_memmap(path, mode="r")
        except DECODING_ERRORS as error:
            raise refusal(
                address, f"{path} is no whole .npy file ({error})", "write it with numpy.save, or copy it again"
            ) from None
        shape = as_volume(address, array.shape)
        super().__init__(address, shape, array.dtype, None)
        self._array = array.reshape(shape)
        self.rows_at_once = 1

    def read(self, first: int, end: int) -> NDArray[Any]:
        """The sections from ``first`` to ``end``, without ``end``."""
        return self.read_rows(first, end, 0, self.shape[1])

    def read_rows(self, first: int, end: int, low: int, high: int) -> NDArray[Any]:
        """The rows from ``low`` to ``high`` of the sections from ``first`` to ``end``."""
        return np.array(self._array[first:end, low:high], self.dtype, order="C")

    def listing(self) -> str:
        """SHA-256 over name, size and time of the file."""
        return listing_digest([self._path], self._path.parent)


class Hdf5Source(Source):
    """A dataset of an HDF5 file.

    Its voxel size is the attribute ``element_size_um``, (z, y, x) in micrometres.
    """

    def __init__(self, address: str, path: Path, dataset: str) -> None:
        import h5py

        self._path = path
        with ExitStack() as stack:
            try:
                # Slabs of sections cut through chunks: those in this cache are decompressed once.
                file = stack.enter_context(h5py.File(path, "r", rdcc_nbytes=_CACHE_BYTES))
                item = file.get(dataset) if dataset else None
                datasets = [] if isinstance(item, h5py.Dataset) else _datasets(file)
            except DECODING_ERRORS as error:
                raise refusal(address, f"{path} is no whole HDF5 file ({error})", "write or copy it again") from None
            if not isinstance(item, h5py.Dataset):
                raise refusal(
                    address,
                    f"no dataset {dataset} in {path}" if dataset else "a file, but which of its datasets?",
                    f"name one as {path}:/DATASET; the file holds {some(datasets) or 'none'}",
                )
            size = np.ravel(item.attrs.get("element_size_um", ()))
            voxel_size_nm = in_nm(list(size), ["um"] * 3) if size.size == 3 else None
            super().__init__(address, as_volume(address, item.shape), item.dtype, voxel_size_nm)
            self.rows_at_once = 1 if item.chunks is None else item.chunks[-2]
            self._dataset = item
            self._file = file
            stack.pop_all()

    def read(self, first: int, end: int) -> NDArray[Any]:
        """The sections from ``first`` to ``end``, without ``end``."""
        return self.read_rows(first, end, 0, self.shape[1])

    def read_rows(self, first: int, end: int, low: int, high: int) -> NDArray[Any]:
        """The rows from ``low`` to ``high`` of the sections from ``first`` to ``end``."""
        try:
            voxels = self._dataset[first:end, low:high] if self._dataset.ndim == 3 else self._dataset[low:high][None]
        except DECODING_ERRORS as error:
            raise refusal(
                self.address, f"sections {first} to {end - 1} cannot be decoded ({error})", "write or copy it again"
            ) from None
        return np.asarray(voxels, self.dtype)

    def listing(self) -> str:
        """SHA-256 over name, size and time of the file."""
        return listing_digest([self._path], self._path.parent)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _datasets(file: Any) -> list[str]:
    import h5py

    names: list[str] = []

    def note(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            names.append(f"/{name}")

    file.visititems(note)
    return names
