"""How a layer is cut into what is handed out at a time."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import zarr

from unetpipe.arrays import open_array
from unetpipe.grid import Region, Shape
from unetpipe.viewer.coarser import thinned
from unetpipe.viewer.layers import Resolution


def resolutions(folder: Path, shape: Shape, chunk: Shape) -> list[Resolution]:
    """Of an empty array."""
    zarr.create_array(folder / "a.zarr", shape=shape, dtype="uint8", chunks=chunk)
    return thinned(open_array(str(folder / "a.zarr")), shape, (40.0, 4.0, 4.0))


@pytest.mark.parametrize(
    ("shape", "chunk", "cut"),
    [
        pytest.param((64, 2048, 2048), (8, 128, 128), (8, 128, 128), id="as it is stored"),
        pytest.param((64, 2048, 2048), (1, 4, 16), (8, 64, 64), id="not in crumbs"),
        pytest.param((5, 20, 30), (1, 4, 16), (5, 20, 30), id="at most all of it"),
        pytest.param((3, 5000, 5000), (1, 5000, 5000), (1, 625, 1250), id="large sections"),
    ],
)
def test_chunks_are_those_that_are_stored_unless_they_are_tiny_or_huge(
    shape: Shape, chunk: Shape, cut: Shape, tmp_path: Path
) -> None:
    for resolution in resolutions(tmp_path, shape, chunk):
        assert math.prod(resolution.chunk) <= 2**20
        spans = [
            [(a, min(a + c, n)) for a in range(0, n, c)]
            for c, n in zip(resolution.chunk, resolution.shape, strict=True)
        ]
        for corner in itertools.product(*(span[:: max(1, len(span) - 1)] for span in spans)):
            assert resolution.is_chunk(Region.between(corner))
    assert resolutions(tmp_path / "again", shape, chunk)[0].chunk == cut


@pytest.mark.parametrize(
    "spans",
    [
        pytest.param([(0, 8), (0, 128), (0, 256)], id="two"),
        pytest.param([(0, 8), (0, 128), (64, 192)], id="between"),
        pytest.param([(0, 8), (0, 128), (128, 128)], id="empty"),
        pytest.param([(0, 8), (0, 128), (128, 0)], id="the other way round"),
        pytest.param([(0, 8), (0, 128), (256, 384)], id="beyond"),
        pytest.param([(0, 8), (0, 128), (0, 10**12)], id="very large"),
    ],
)
def test_what_is_no_chunk_is_not_read(spans: list[tuple[int, int]], tmp_path: Path) -> None:
    (resolution, *_) = resolutions(tmp_path, (16, 256, 256), (8, 128, 128))
    assert not resolution.is_chunk(Region.between(spans))


def test_coarser_ones_stop_where_too_much_would_be_read(tmp_path: Path) -> None:
    found = resolutions(tmp_path, (600, 9000, 9000), (8, 128, 128))
    assert [each.scale for each in found] == [(1, 1, 1), (1, 2, 2), (1, 4, 4), (1, 8, 8)]


@pytest.mark.parametrize("shape", [(16, 257, 300), (9, 256, 131)])
def test_the_last_voxel_of_a_coarser_one_is_there(shape: Shape, tmp_path: Path) -> None:
    voxels = np.random.default_rng(1).integers(0, 255, shape).astype(np.uint8)
    coarse = resolutions(tmp_path, shape, (8, 64, 64))
    zarr.open_array(tmp_path / "a.zarr")[...] = voxels
    for each in coarse:
        whole = each.read(Region((0, 0, 0), each.shape))
        np.testing.assert_array_equal(whole, voxels[:: each.scale[0], :: each.scale[1], :: each.scale[2]])
