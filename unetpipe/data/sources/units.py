"""Lengths in nm, from the units that file formats write."""

from collections.abc import Sequence

import numpy as np

from unetpipe.data.sources.contract import VoxelSize

_NM = {
    "pm": 1e-3,
    "picometer": 1e-3,
    "å": 0.1,
    "angstrom": 0.1,
    "nm": 1.0,
    "nanometer": 1.0,
    "nanometre": 1.0,
    "um": 1e3,
    "μm": 1e3,  # Greek letter mu
    "µm": 1e3,  # micro sign
    "\\u00b5m": 1e3,  # as ImageJ writes it in ASCII
    "micron": 1e3,
    "micrometer": 1e3,
    "micrometre": 1e3,
    "mm": 1e6,
    "millimeter": 1e6,
    "millimetre": 1e6,
    "m": 1e9,
    "meter": 1e9,
    "metre": 1e9,
}


def in_nm(lengths: Sequence[object], units: Sequence[object], *, positive: bool = True) -> VoxelSize | None:
    """Three lengths (z, y, x) in nm; None unless all are numbers in known units, and ``positive`` if asked."""
    found = []
    for length, unit in zip(lengths, units, strict=True):
        name = str(unit).strip().lower()
        factor = _NM.get(name) or _NM.get(name.removesuffix("s"))
        if factor is None or not isinstance(length, int | float | np.number):
            return None
        # Voxel sizes have few digits; what the conversion adds behind them is noise.
        nm = float(f"{float(length) * factor:.9g}")
        if not np.isfinite(nm) or (positive and nm <= 0):
            return None
        found.append(nm)
    z, y, x = found
    return z, y, x
