"""Voxels as PNG pictures within the page: grey values, classes as transparent overlays, weights."""

import base64
import io
from collections.abc import Mapping

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unetpipe.colours import Colour

WRONG: Colour = (213, 94, 0)
"""Voxels whose class is wrong; no class has this colour."""

IGNORED: Colour = (128, 128, 128)
"""Voxels that are not scored."""


def grey(values: NDArray[np.uint8]) -> str:
    """The address (data URI) of a grey picture of ``values`` (y, x)."""
    return _uri(Image.fromarray(np.ascontiguousarray(values)))


def overlay(index: NDArray[np.uint8], paint: Mapping[int, Colour]) -> str:
    """The address (data URI) of a picture of ``index`` (y, x) that is transparent where ``paint`` has no colour.

    What is ignored is half transparent.
    """
    palette = np.zeros((256, 3), np.uint8)
    opacity = bytearray(256)
    for value, colour in paint.items():
        palette[value] = colour
        opacity[value] = 128 if colour == IGNORED else 255
    picture = Image.fromarray(np.ascontiguousarray(index))
    picture.putpalette(palette.tobytes())
    return _uri(picture, transparency=bytes(opacity))


def heat(values: NDArray[np.floating], highest: float) -> str:
    """The address (data URI) of a picture of ``values`` (y, x), from 0, dark, to ``highest``, bright."""
    table = (matplotlib.colormaps["cividis"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    share = np.clip(values.astype(np.float32) / (highest or 1.0), 0, 1)
    picture = Image.fromarray(np.rint(share * 255).astype(np.uint8))
    picture.putpalette(table.tobytes())
    return _uri(picture)


def css(colour: Colour) -> str:
    """As CSS writes it."""
    return "#" + bytes(colour).hex()


def _uri(picture: Image.Image, **options: bytes) -> str:
    data = io.BytesIO()
    picture.save(data, "PNG", optimize=True, **options)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode("ascii")
