"""What of a volume can be looked at: its image, the truth, the prediction and the numbered objects, at each resolution.

All layers of a volume have its voxels: the first voxel of its first section is (0, 0, 0), wherever it lies in the array
that it is a part of, and a voxel of a coarser resolution covers whole voxels of the volume.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unetpipe.arrays import Array
from unetpipe.grid import Region, Shape, triple

Kind = Literal["image", "probability", "truth", "classes", "segments"]

_LEAST, _MOST_VOXELS = (8, 64, 64), 1 << 20
"""Of a chunk: voxels (z, y, x) at least, where there are so many, and in all at most."""

_AS_FLOAT = {"float16", "float64", "int64"}
"""What the viewer has no type for, and shows as grey values."""


@dataclass(frozen=True, eq=False)
class Resolution:
    """One resolution of a layer.

    Attributes
    ----------
    array:
        (z, y, x), or (c, z, y, x).
    shape:
        Voxels (z, y, x).
    scale:
        How many voxels of the volume one of these stands for, along each axis.
    first:
        The section of the array with which it begins.
    step:
        Each how many-th voxel of the array is shown, where nothing coarser is stored.
    """

    array: Array
    shape: Shape
    scale: Shape = (1, 1, 1)
    first: int = 0
    step: Shape = (1, 1, 1)

    @cached_property
    def chunk(self) -> Shape:
        """Voxels that are handed out at a time: those that are decoded at a time, unless they are few or very many."""
        found = [max(1, c // s) for c, s in zip(self.array.chunk[-3:], self.step, strict=True)]
        for axis, size in enumerate(self.shape):
            while found[axis] < min(_LEAST[axis], size) and 2 * np.prod(found) <= _MOST_VOXELS:
                found[axis] *= 2
        found = [min(c, n) for c, n in zip(found, self.shape, strict=True)]
        while np.prod(found) > _MOST_VOXELS:
            longest = int(np.argmax(found))
            found[longest] = -(-found[longest] // 2)
        return triple(found)

    def is_chunk(self, region: Region) -> bool:
        """Whether ``region`` is one of those that are handed out."""
        return all(
            0 <= a < b and a % c == 0 and b == min(a + c, n)
            for a, b, c, n in zip(region.start, region.stop, self.chunk, self.shape, strict=True)
        )

    def read(self, region: Region) -> NDArray[Any]:
        """The voxels of ``region``, which lies within :attr:`shape`: (z, y, x) or (c, z, y, x).

        Raises
        ------
        ValueError
            If they cannot be read or decoded.
        """
        offsets = (self.first, 0, 0)
        box = [
            # Not beyond the last one: there may be no voxel of the array.
            slice(o + a * s, o + (b - 1) * s + 1, s)
            for a, b, o, s in zip(region.start, region.stop, offsets, self.step, strict=True)
        ]
        return self.array[(..., *box)]


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer of a volume; ``resolutions`` from the finest on."""

    kind: Kind
    voxel_size_nm: Sequence[float]
    resolutions: tuple[Resolution, ...]

    @property
    def channels(self) -> int:
        """Values of a voxel."""
        array = self.resolutions[0].array
        return array.shape[0] if array.ndim > 3 else 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """In which the voxels are handed out, little-endian."""
        found = self.resolutions[0].array.dtype
        if found.name in _AS_FLOAT:
            return np.dtype("<f4")
        return np.dtype(np.uint8) if found.kind == "b" else found.newbyteorder("<")

    @property
    def info(self) -> dict[str, Any]:
        """The metadata of the layer as a precomputed volume, whose axes are (x, y, z) and whose lengths are in nm.

        https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/volume.md
        """
        return {
            "@type": "neuroglancer_multiscale_volume",
            "type": "segmentation" if self.kind == "segments" else "image",
            "data_type": self.dtype.name,
            "num_channels": self.channels,
            "scales": [
                {
                    "key": str(number),
                    "size": each.shape[::-1],
                    "resolution": [
                        n * size for n, size in zip(each.scale[::-1], list(self.voxel_size_nm)[::-1], strict=True)
                    ],
                    "voxel_offset": [0, 0, 0],
                    "chunk_sizes": [each.chunk[::-1]],
                    "encoding": "raw",
                }
                for number, each in enumerate(self.resolutions)
            ],
        }

    def encoded(self, resolution: Resolution, region: Region) -> bytes:
        """The voxels of ``region`` in the encoding ``raw``: x changes fastest, then y, z and the channel.

        Raises
        ------
        ValueError
            If they cannot be read or decoded.
        """
        return resolution.read(region).astype(self.dtype, order="C", copy=False).tobytes()
