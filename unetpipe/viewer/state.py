"""The state in which the viewer shows a volume: its layers, how each is drawn, and where one looks.

Neuroglancer names the axes (x, y, z), and places the corner of the first voxel at 0. What can be set is described in
https://github.com/google/neuroglancer/blob/master/python/neuroglancer/viewer_state.py and, for the colours,
https://github.com/google/neuroglancer/blob/master/src/sliceview/image_layer_rendering.md.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from unetpipe.colours import Colour, colours
from unetpipe.grid import Shape
from unetpipe.viewer.layers import Kind
from unetpipe.viewer.run import Shown

_ACROSS = 600
"""Pixels of a panel, about."""

_NEAR = 512
"""Voxels along the longest axis of a section that are seen at once, at most, when the viewer opens."""

_SPREAD = 3.0
"""Standard deviations around the mean grey value that are shown from black to white."""


def state(shown: Shown, data: str, at: Shape | None = None) -> dict[str, Any]:
    """What the viewer is to show.

    Parameters
    ----------
    shown:
        The volume.
    data:
        The address below which its layers are served.
    at:
        The voxel (z, y, x) in the middle; that of the volume if None.
    """
    size = shown.volume.voxel_size_nm
    where = shown.middle if at is None else at
    seen = min(_NEAR, max(shown.volume.shape[1:]))
    layers = [
        {
            "name": name,
            "source": f"precomputed://{data}/{quote(shown.name, safe='')}/{kind}",
            **draw(shown),
        }
        for kind, (name, draw) in _DRAWN.items()
        if kind in shown.layers
    ]
    return {
        "title": shown.name,
        "dimensions": {axis: [length * 1e-9, "m"] for axis, length in zip("xyz", size[::-1], strict=True)},
        "position": [n + 0.5 for n in where[::-1]],
        "crossSectionScale": seen / _ACROSS,
        "projectionScale": math.ceil(max(shown.volume.shape) * 1.5),
        "layers": layers,
        "selectedLayer": {"visible": False, "layer": layers[0]["name"]},
        # A single section has nothing to be seen from its side.
        "layout": "4panel" if shown.volume.shape[0] > 1 else "xy",
    }


def fragment(shown: Shown, data: str, at: Shape) -> str:
    """What of the address of the viewer says :func:`state`."""
    return "#!" + quote(json.dumps(state(shown, data, at), separators=(",", ":")))


def _image(shown: Shown) -> dict[str, Any]:
    low, high = _grey_range(shown)
    return {
        "type": "image",
        "shader": "#uicontrol invlerp normalized\nvoid main() {\n  emitGrayscale(normalized());\n}\n",
        "shaderControls": {"normalized": {"range": [low, high]}},
    }


def _grey_range(shown: Shown) -> tuple[float, float]:
    """The grey values that are shown as black and white."""
    volume = shown.volume
    if volume.range is not None:
        return volume.range
    there = np.array(volume.std) > 0
    if not there.any():
        return 0.0, 1.0
    mean, std = np.array(volume.mean)[there], np.array(volume.std)[there]
    low, high = float((mean - _SPREAD * std).min()), float((mean + _SPREAD * std).max())
    dtype = np.dtype(volume.dtype)
    if dtype.kind in "ui":
        # Where there is no such value, the viewer has no use for it.
        limits = np.iinfo(dtype)
        return float(max(math.floor(low), limits.min)), float(min(math.ceil(high), limits.max))
    return low, high


def _probability(shown: Shown) -> dict[str, Any]:
    # The colours of all classes, mixed by their probabilities. What was not predicted is 0 for each: transparent.
    paint = list(zip(_identifiers(shown.classes), colours(len(shown.classes)), strict=True))
    lines = [
        *(f'#uicontrol vec3 {name} color(default="{_hex(colour)}")' for name, colour in paint),
        *(f"#uicontrol bool show_{name} checkbox(default=true)" for name, _ in paint),
        "void main() {",
        "  vec3 mixed = vec3(0.0);",
        "  float sum = 0.0;",
        "  float p;",
    ]
    for index, (name, _) in enumerate(paint):
        lines += [
            f"  p = show_{name} ? toNormalized(getDataValue({index})) : 0.0;",
            f"  mixed += p * {name};",
            "  sum += p;",
        ]
    lines += ["  emitRGBA(vec4(mixed / max(sum, 0.001), min(sum, 1.0)));", "}", ""]
    return {"type": "image", "shader": "\n".join(lines), "opacity": 0.4}


def _classes(shown: Shown) -> dict[str, Any]:
    lines = ["void main() {", "  uint value = toRaw(getDataValue());"]
    for index, colour in enumerate(colours(len(shown.classes))):
        channels = ", ".join(f"{part / 255:.4f}" for part in colour)
        lines.append(f"  if (value == {index}u) {{ emitRGB(vec3({channels})); return; }}")
    # What is to be ignored, or was not predicted.
    lines += ["  emitTransparent();", "}", ""]
    return {"type": "image", "shader": "\n".join(lines), "opacity": 0.4, "visible": False}


def _segments(_: Shown) -> dict[str, Any]:
    return {"type": "segmentation", "selectedAlpha": 0.4, "notSelectedAlpha": 0.4, "visible": False}


_DRAWN: dict[Kind, tuple[str, Callable[[Shown], dict[str, Any]]]] = {
    "image": ("image", _image),
    "probability": ("probability", _probability),
    "truth": ("truth", _classes),
    "classes": ("predicted classes", _classes),
    "segments": ("objects", _segments),
}
"""How each layer is called and drawn, from the lowest on."""


def _identifiers(names: Sequence[str]) -> list[str]:
    """Names for the shader, each another: letters and digits alone, and no word of its language."""
    plain = (re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_") for name in names)
    return [f"class{index}{f'_{name}' if name else ''}" for index, name in enumerate(plain)]


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
