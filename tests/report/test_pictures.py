"""Pictures hold the voxels that they were made of."""

import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from unetpipe.colours import colours
from unetpipe.report import pictures

PLANES = arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20)))


def opened(uri: str, mode: str) -> NDArray[np.uint8]:
    kind, _, data = uri.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert(mode))


@given(PLANES)
def test_grey_values_come_back(values: NDArray[np.uint8]) -> None:
    assert np.array_equal(opened(pictures.grey(values), "L"), values)


@given(PLANES, st.dictionaries(st.integers(0, 255), st.tuples(*[st.integers(0, 255)] * 3), max_size=8))
def test_an_overlay_is_transparent_but_where_it_is_painted(
    index: NDArray[np.uint8], paint: dict[int, pictures.Colour]
) -> None:
    picture = opened(pictures.overlay(index, paint), "RGBA")
    painted = np.isin(index, list(paint))
    assert not picture[~painted, 3].any()
    for value, colour in paint.items():
        here = picture[index == value]
        assert (here[:, :3] == colour).all()
        assert (here[:, 3] == (128 if colour == pictures.IGNORED else 255)).all()


def test_weights_run_from_dark_to_bright() -> None:
    ramp = np.linspace(0, 11, 200, dtype=np.float16)[None]
    luminance = opened(pictures.heat(ramp, 11.0), "L")[0].astype(int)
    assert (np.diff(luminance) >= -1).all()
    assert luminance[-1] - luminance[0] > 150
    assert np.array_equal(opened(pictures.heat(ramp * 0, 0.0), "L"), np.full((1, 200), luminance[0]))


@pytest.mark.parametrize("count", [2, 6, 7, 254])
def test_no_two_classes_share_a_colour(count: int) -> None:
    found = colours(count)
    assert len({*found, pictures.WRONG, pictures.IGNORED}) == count + 2
