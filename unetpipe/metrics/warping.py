"""The warping error: which voxels are wrong because objects are merged, split, missing or invented.

Where exactly a membrane runs is a matter of taste; what it parts is not. So the truth is first bent towards the
prediction as far as its topology allows (Jain et al. 2010, doi:10.1109/CVPR.2010.5539950): a voxel where the two
differ is flipped if it is *simple*, that is if flipping it neither merges, splits, makes nor removes an object or a
hole. What differs when no such voxel is left is the error.

Objects are 4-connected, everything else is 8-connected, as the segments of the other scores are. A voxel is simple if
its eight neighbours hold exactly one 4-connected piece of objects that touches it along an edge, and exactly one
8-connected piece of the rest (Kong and Rosenfeld 1989, doi:10.1016/0734-189X(89)90147-3).

Beyond the section nothing is object, as in Fiji's implementation, which pads with zeros: membranes that reach the edge
are joined out there. So a membrane may retreat from the edge or grow out of it where that parts no object, but it
cannot come off the edge where two cells would become one, and an object at the edge may be eaten away from there. Were
the outside object, all cells at the edge would be one cell, and membranes that end there would part nothing.

What it costs, in voxels: a gap in a membrane its length, a membrane that cuts an object its width, an invented object
or hole its area, but a missing one a single voxel, to which it shrinks. So a prediction without any object comes off
well: this error ranks predictions that are good by other scores, and is none to choose a threshold by alone.

The least error that any order of flips can reach is not known; here the order is fixed, and so is the result. First
the rest grows, then the objects do: a membrane that runs elsewhere is first joined by the new one, and then taken away
from the old side. The other way round it would wear thin where it is, and could not move.
"""

import functools

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_STEPS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
"""The neighbours of a voxel, (y, x); neighbour k has the bit k, and 7 - k lies opposite."""


@functools.cache
def simple() -> NDArray[np.bool_]:
    """Whether a voxel is simple, by the objects among its neighbours.

    Returns
    -------
    (256,) bool; bit k of the index is set where the k-th neighbour, row by row without the centre, is of an object.
    Whether the voxel itself is of an object plays no part.
    """
    edges, corners = ndimage.generate_binary_structure(2, 1), ndimage.generate_binary_structure(2, 2)
    table = np.empty(256, bool)
    for code in range(256):
        objects, rest = np.zeros((2, 3, 3), bool)
        for bit, (y, x) in enumerate(_STEPS):
            objects[1 + y, 1 + x] = code >> bit & 1
            rest[1 + y, 1 + x] = not objects[1 + y, 1 + x]
        pieces, _ = ndimage.label(objects, edges)
        _, rests = ndimage.label(rest, corners)
        # A piece that lies at a corner alone is no 4-neighbour; every piece of the rest is an 8-neighbour.
        table[code] = len(np.unique(pieces[edges & objects])) == 1 and rests == 1
    return table


def warp(truth: NDArray[np.bool_], predicted: NDArray[np.bool_], scored: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Bend the truth towards the prediction without a change of topology.

    Parameters
    ----------
    truth, predicted:
        (y, x) bool, True within objects.
    scored:
        (y, x) bool; the truth is not changed elsewhere.

    Returns
    -------
    (y, x) bool: equal to the prediction or to the truth at each voxel, with as many objects and as many holes as the
    truth, and without a scored simple voxel that differs from the prediction.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if not truth.shape == predicted.shape == scored.shape:
        raise ValueError(f"truth of shape {truth.shape}, prediction {predicted.shape}, scored voxels {scored.shape}")
    grown = _flipped(truth, truth & ~predicted & scored)
    return _flipped(grown, (grown != predicted) & scored)


def error(truth: NDArray[np.bool_], predicted: NDArray[np.bool_], scored: NDArray[np.bool_]) -> float | None:
    """Share of the scored voxels that differ from the prediction after :func:`warp`; None if no voxel is scored.

    Parameters
    ----------
    truth, predicted, scored:
        As of :func:`warp`.
    """
    voxels = int(np.count_nonzero(scored))
    differ = (warp(truth, predicted, scored) != predicted) & scored
    return int(np.count_nonzero(differ)) / voxels if voxels else None


def _flipped(objects: NDArray[np.bool_], differ: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Flip simple voxels among those that ``differ``, each at most once, until none of them is simple.

    Voxels whose y and x have the same parities are not neighbours: all the simple ones among them are flipped at once,
    as if one after the other. The four parities take turns until nothing flips. A voxel is looked at again only after
    a neighbour has flipped, so the work is proportional to the voxels that differ and those that flip.
    """
    # A frame of one voxel: all that is done to it has no effect. In C order, whatever order the array is in.
    result = np.zeros((objects.shape[0] + 2, objects.shape[1] + 2), bool)
    result[1:-1, 1:-1] = objects
    stride = result.shape[1]
    around = _codes(result)
    queues: list[list[NDArray[np.intp]]] = []
    for parity in range(4):
        first_y, first_x = divmod(parity, 2)
        y, x = np.nonzero(differ[first_y::2, first_x::2])
        queues.append([(2 * y + first_y + 1) * stride + 2 * x + first_x + 1])
    # What differs and is in no queue.
    waiting = np.zeros(result.shape, bool)

    flat, around, waiting = result.reshape(-1), around.reshape(-1), waiting.reshape(-1)
    table = simple()
    while any(queues):
        for parity in range(4):
            if not queues[parity]:
                continue
            voxels = np.concatenate(queues[parity])
            queues[parity].clear()
            flips = table[around[voxels]]
            waiting[voxels[~flips]] = True
            flipped = voxels[flips]
            flat[flipped] ^= True
            for bit, (y_step, x_step) in enumerate(_STEPS):
                near = flipped + (y_step * stride + x_step)
                around[near] ^= np.uint8(1 << (7 - bit))
                near = near[waiting[near]]
                if near.size:
                    waiting[near] = False
                    queues[parity ^ (2 * (y_step & 1) + (x_step & 1))].append(near)
    return result[1:-1, 1:-1]


def _codes(objects: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The objects among the neighbours of each voxel, as :func:`simple` has them; 0 at the edge of the array."""
    height, width = objects.shape
    codes = np.zeros(objects.shape, np.uint8)
    inner = codes[1:-1, 1:-1]
    for bit, (y, x) in enumerate(_STEPS):
        inner |= objects[1 + y : height - 1 + y, 1 + x : width - 1 + x].view(np.uint8) << np.uint8(bit)
    return codes
