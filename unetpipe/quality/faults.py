"""Which sections are not as their neighbours are.

Each section is compared with the median of up to ten neighbours, five on either side, so that nothing that changes
slowly along a volume is taken for a fault, and no fault of a few sections hides another.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SIDE = 5
_LEAST_OTHERS = 3
"""Neighbours without which nothing is said of a section."""

LEAST = 0.5
"""Of the median of its neighbours: a section with less contrast or sharpness is told of."""

FOLD_NM = 350.0
"""Length of a dark band that is told of: longer than the end of a mitochondrion, which lies in one section as well."""

MORE_EMPTY = 0.05
"""Share of the voxels without contrast, above that of the neighbours, from which a section lacks a part."""


def ratios(values: Sequence[float | None]) -> list[float | None]:
    """Of each value to the median of its neighbours; None for what is None, or has too few of them."""
    found: list[float | None] = []
    for place, value in enumerate(values):
        around = others(values, place)
        usual = float(np.median(around)) if len(around) >= _LEAST_OTHERS else 0.0
        found.append(None if value is None or usual <= 0 else value / usual)
    return found


def others(values: Sequence[float | None], place: int) -> list[float]:
    """The values of the five places before and the five behind that have one; more on a side where one lacks some."""
    before = [value for value in values[max(0, place - 2 * _SIDE) : place] if value is not None]
    behind = [value for value in values[place + 1 : place + 1 + 2 * _SIDE] if value is not None]
    left = max(_SIDE, 2 * _SIDE - len(behind))
    right = max(_SIDE, 2 * _SIDE - len(before))
    return before[-left:] + behind[:right]


def faults(
    *,
    first: int,
    missing: Sequence[int],
    contrast: Sequence[float | None],
    sharpness: Sequence[float | None],
    empty: Sequence[float | None],
    band_nm: Sequence[float | None],
    digest: Sequence[str | None],
) -> dict[str, list[int]]:
    """Sections by what is wrong with them.

    ``missing``: no contrast at all, so that another section stands in their place. ``repeated``: the grey values are
    those of the section before. ``incomplete``: without contrast in a part in which its neighbours have some.
    ``low_contrast``, ``blurred``: less than half as much contrast, or a variance of the Laplacian less than half as
    large, as the median of the neighbours. ``folded``: a broad dark band that is in neither neighbour, unless the
    section is blurred.

    Parameters
    ----------
    first:
        The section of the first values; ``missing`` counts from the volume's first.
    """

    def where(bad: Sequence[bool]) -> list[int]:
        return [first + place for place, is_bad in enumerate(bad) if is_bad]

    blurred = where([ratio is not None and ratio < LEAST for ratio in ratios(sharpness)])
    folded = where([length is not None and length >= FOLD_NM for length in band_nm])
    return {
        "missing": sorted(missing),
        "repeated": where(_repeated(digest)),
        "incomplete": where(_incomplete(empty)),
        "low_contrast": where([ratio is not None and ratio < LEAST for ratio in ratios(contrast)]),
        "blurred": blurred,
        # Where membranes run together, they are a band as well.
        "folded": [section for section in folded if section not in blurred],
    }


def _repeated(digest: Sequence[str | None]) -> list[bool]:
    found, last = [], None
    for value in digest:
        found.append(value is not None and value == last)
        last = value if value is not None else last
    return found


def _incomplete(empty: Sequence[float | None]) -> list[bool]:
    found = []
    for place, value in enumerate(empty):
        around = others(empty, place)
        usual = float(np.median(around)) if len(around) >= _LEAST_OTHERS else None
        found.append(value is not None and usual is not None and value > usual + MORE_EMPTY)
    return found


def drift(shares: NDArray[np.float64], parts: int = 10) -> dict[str, Any]:
    """How the shares of classes change along z.

    Parameters
    ----------
    shares:
        (sections, classes); NaN in sections of which nothing was predicted.

    Returns
    -------
    ``parts``: mean shares in equal parts of the sections, as many as there are sections at most; None where nothing
    was predicted. ``largest``: by class, the largest less the smallest of them.
    """
    count = min(parts, len(shares))
    cut = [part[~np.isnan(part).any(axis=1)] for part in np.array_split(shares, count)]
    means = [part.mean(axis=0) if len(part) else None for part in cut]
    known = np.array([mean for mean in means if mean is not None])
    return {
        "parts": [None if mean is None else mean.tolist() for mean in means],
        "largest": (known.max(axis=0) - known.min(axis=0)).tolist() if len(known) else None,
    }
