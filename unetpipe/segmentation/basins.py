"""The basins of a watershed across pieces: where the ascents that leave a piece end, and which edges lead out of it."""

import functools
import io

import numpy as np
from numpy.typing import NDArray

from unetpipe.grid import Shape, triple
from unetpipe.metrics.components import Face
from unetpipe.segmentation.flood import Edges, Known, rank
from unetpipe.segmentation.pieces import Places, Task, objects_of, open_places, read_sides
from unetpipe.storage import Folder

OFFSETS = "offsets.npy"
"""In the folder of fragments: how many basins the pieces before each have."""

Links = NDArray[np.int64]


def settle(task: Task) -> tuple[Links, Edges]:
    """Find the basin of each label of a piece, store it, and see what joins basins here and at the faces beyond.

    Returns
    -------
    (n, 2): basins that are parts of one seed; and the first edges between others. Basins count through all pieces.
    """
    places, region = task.places, task.region
    if (beside_seeds := places.brightest_beside_seeds) is None:
        raise ValueError("there are basins in a watershed alone")
    basins, known = _basins(places, task.index), _known(places, task.index)
    open_places(places).fragments.write(_stored(task.index), to_npy(basins[1:]))
    links = [np.zeros((0, 2), np.int64)]
    pairs, ranks = [basins[known.edges.pairs]], [known.edges.ranks]
    sides = read_sides(places, task.index)
    for axis, other in task.beyond:
        values = [plane.reshape(-1) for plane in known.faces[axis]]
        there = _basins(places, other)[_voxels(read_sides(places, other)[axis, 0])]
        touching = np.stack([basins[_voxels(sides[axis, -1])], there], axis=1)
        both = (touching > 0).all(axis=1)
        seeds = both & np.all([plane > beside_seeds for plane in values], axis=0)
        links.append(np.unique(touching[seeds], axis=0))
        both &= ~seeds
        plane = [range(a, b) for a, b in zip(region.start, region.stop, strict=True)]
        ends = []
        for step, bytes_ in enumerate(values):
            plane[axis] = range(region.stop[axis] - 1 + step, region.stop[axis] + step)
            z, y, x = (index.reshape(-1) for index in np.meshgrid(*plane, indexing="ij"))
            ends.append(rank(bytes_[both], ((z * places.shape[1] + y) * places.shape[2] + x)[both]))
        pairs.append(touching[both])
        ranks.append(np.stack(ends, axis=1))
    return np.concatenate(links), Edges.first(np.concatenate(pairs), np.concatenate(ranks))


def read_basins(fragments: Folder, index: Shape) -> NDArray[np.int64]:
    """(labels,): the basin of each label of a piece, as :func:`settle` has stored it."""
    found: NDArray[np.int64] = np.load(io.BytesIO(fragments.read(_stored(index))), allow_pickle=False)
    return found


def to_npy(numbers: NDArray[np.int64]) -> bytes:
    """NumPy's format npy."""
    file = io.BytesIO()
    np.save(file, numbers, allow_pickle=False)
    return file.getvalue()


def _stored(index: Shape) -> str:
    return objects_of(index)["nodes"]


def _voxels(face: Face) -> NDArray[np.int32]:
    """The number at each voxel of a face."""
    return np.repeat(face.fragments, np.diff(face.ends, prepend=0))


@functools.lru_cache(maxsize=16)
def _known(places: Places, index: Shape) -> Known:
    return Known.from_bytes(open_places(places).fragments.read(objects_of(index)["basins"]))


@functools.lru_cache(maxsize=1)
def _offsets(places: Places) -> NDArray[np.int64]:
    found: NDArray[np.int64] = np.load(io.BytesIO(open_places(places).fragments.read(OFFSETS)), allow_pickle=False)
    return found


@functools.lru_cache(maxsize=16)
def _basins(places: Places, index: Shape) -> NDArray[np.int64]:
    """(labels + 1,): the basin of each label of a piece; 0 for label 0.

    An exit is followed into the piece where it leads, and on from there while it comes to another exit: upwards, so
    that it ends.
    """
    known = _known(places, index)
    exits = len(known.exits.places)
    result = np.zeros(1 + known.basins + exits, np.int64)
    result[1 : known.basins + 1] = _offset(places, index) + np.arange(1, known.basins + 1)
    # By the piece in which they are now: which exits of this piece, and at which exits of that one.
    ways = {index: (np.arange(exits), np.arange(exits))}
    while ways:
        here, (whose, at) = ways.popitem()
        there = _known(places, here).exits
        for axis in range(3):
            for step in (-1, 1):
                through = (there.axes[at] == axis) & (there.steps[at] == step)
                if not through.any():
                    continue
                beyond = triple([i + step * (a == axis) for a, i in enumerate(here)])
                face = read_sides(places, beyond)[axis, 0 if step == 1 else -1]
                labels = face.fragments[np.searchsorted(face.ends, there.places[at[through]], side="right")]
                basins = _known(places, beyond).basins
                ended = labels <= basins
                result[1 + known.basins + whose[through][ended]] = _offset(places, beyond) + labels[ended]
                if not ended.all():
                    more = whose[through][~ended], labels[~ended] - basins - 1
                    before = ways.get(beyond, (more[0][:0], more[1][:0]))
                    ways[beyond] = np.concatenate([before[0], more[0]]), np.concatenate([before[1], more[1]])
    return result


def _offset(places: Places, index: Shape) -> int:
    counts = [-(-n // p) for n, p in zip(places.shape, places.piece, strict=True)]
    return int(_offsets(places)[np.ravel_multi_index(index, counts)])
