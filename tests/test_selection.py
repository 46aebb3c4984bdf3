"""The wanted blocks are those that meet region and mask, whatever the resolution."""

import dataclasses
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from masks import FORMATS, Voxels, as_tiff, as_zarr

from unetpipe import selection
from unetpipe.config import Network
from unetpipe.data.sources.contract import Source
from unetpipe.errors import UserError
from unetpipe.grid import Block, Plan, Region, Shape
from unetpipe.selection import Frame, Selection

GEOMETRY = Network(depth=1).geometry


def planned(shape: Shape, tiles: Shape) -> Plan:
    """Blocks of so many tiles that keep (1, 4, 6) voxels each."""
    tile = GEOMETRY.tile_for((1, 4, 6))
    block = (tiles[0], tiles[1] * 4, tiles[2] * 6)
    return Plan(shape, tile, block, block, 1, GEOMETRY)


def meets(region: Region, other: Region) -> bool:
    return all(a < d and c < b for (a, b), (c, d) in zip(region.spans, other.spans, strict=True))


def wanted_by(plan: Plan, mask: Voxels, frame: Frame) -> set[Shape]:
    """The definition: for each mask voxel that is not 0 the box of image that it covers, in exact fractions."""
    image = (frame.sections, *plan.shape[1:])
    found = set()
    for index in zip(*np.nonzero(mask), strict=True):
        covered = [
            (Fraction(int(i) * n, m), Fraction((int(i) + 1) * n, m))
            for i, n, m in zip(index, image, mask.shape, strict=True)
        ]
        for block in plan.blocks():
            write = block.write
            places = [(a + o, b + o) for (a, b), o in zip(write.spans, (frame.first, 0, 0), strict=True)]
            if all(a < d and c < b for (a, b), (c, d) in zip(places, covered, strict=True)):
                found.add(block.index)
    return found


@contextmanager
def reading_at_most(count: int) -> Iterator[None]:
    before = selection._BYTES_AT_ONCE
    selection._BYTES_AT_ONCE = count
    try:
        yield
    finally:
        selection._BYTES_AT_ONCE = before


def small(low: int, high: int) -> st.SearchStrategy[Shape]:
    return st.tuples(*[st.integers(low, high)] * 3)


@settings(max_examples=70)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 70)),
    tiles=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 2)),
    mask_shape=small(1, 12),
    share=st.sampled_from([0.02, 0.3]),
    around=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    corners=st.none() | st.tuples(small(0, 90), small(0, 90)),
    at_once=st.sampled_from([1, 30, 1 << 20]),
    chunk=small(1, 5),
    seed=st.integers(0, 99),
)
def test_a_block_is_wanted_if_it_meets_the_region_and_a_voxel_of_the_mask(
    shape: Shape,
    tiles: Shape,
    mask_shape: Shape,
    share: float,
    around: tuple[int, int],
    corners: tuple[Shape, Shape] | None,
    at_once: int,
    chunk: Shape,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    rng = np.random.default_rng(seed)
    plan, frame = planned(shape, tiles), Frame(around[0], sum(around) + shape[0])
    mask = rng.random(mask_shape) < share
    region = None
    if corners is not None:
        a, b = ([i % n for i, n in zip(corner, shape, strict=True)] for corner in corners)
        region = Region.between([(min(i, j), max(i, j) + 1) for i, j in zip(a, b, strict=True)])
    expected = {
        index for index in wanted_by(plan, mask, frame) if region is None or meets(Block(plan, index).write, region)
    }
    address = str(tmp_path_factory.mktemp("mask") / "mask.zarr")
    zarr.create_array(address, shape=mask_shape, chunks=chunk, dtype="uint8")[...] = mask * 7
    with reading_at_most(at_once):
        if not expected:
            with pytest.raises(UserError, match="nothing would be predicted"):
                Selection.of(plan, region, address, frame)
            return
        found = Selection.of(plan, region, address, frame)
    again = Selection.read(json.loads(json.dumps({"plan": dataclasses.asdict(plan), "selection": found.as_json()})))
    every = np.zeros(plan.shape, np.bool_)
    for index in expected:
        every[Block(plan, index).write.slices] = True
    for chosen in (found, again):
        assert [block.index for block in chosen.blocks(plan)] == sorted(expected)
        assert {block.index for block in plan.blocks() if chosen.wants(block)} == expected
        assert chosen.count == len(expected)
        assert chosen.total == math.prod(plan.block_counts)
        assert chosen.key == found.key
        low = [int(rng.integers(0, n)) for n in shape]
        some = Region.between([(a, int(rng.integers(a + 1, n + 1))) for a, n in zip(low, shape, strict=True)])
        np.testing.assert_array_equal(chosen.voxels(some), every[some.slices])


def test_without_region_and_mask_all_blocks_are_wanted() -> None:
    plan = planned((5, 30, 30), (2, 1, 2))
    found = Selection.of(plan)
    assert list(found.blocks(plan)) == list(plan.blocks())
    assert (found.is_part, found.key, found.count) == (False, {}, found.total)
    # What an earlier version allocated says nothing of a selection.
    assert Selection.read({"plan": dataclasses.asdict(plan)}).count == found.total


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_mask_is_read_from_any_format_slab_by_slab(
    form: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned((12, 40, 60), (2, 2, 2))
    mask = (np.random.default_rng(1).random((6, 7, 8)) < 0.05).astype(dtype)
    most = 2 * mask[0].nbytes
    sizes = []

    def counting(source: Source, piece: Region) -> Voxels:
        sizes.append(piece.voxels * mask.itemsize)
        return read(source, piece)

    read = selection._piece
    monkeypatch.setattr(selection, "_piece", counting)
    with reading_at_most(most):
        found = Selection.of(plan, mask=FORMATS[form](tmp_path, mask))
    assert {block.index for block in found.blocks(plan)} == wanted_by(plan, mask, Frame(0, 12))
    assert max(sizes) <= most
    assert sum(sizes) == mask.nbytes, "every voxel is read once"


def test_of_a_mask_only_what_meets_the_region_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned((12, 40, 60), (2, 1, 1))
    address = as_zarr(tmp_path, np.ones((12, 40, 60), np.uint8))
    boxes: list[Region] = []
    read = selection._piece
    monkeypatch.setattr(selection, "_piece", lambda source, piece: boxes.append(piece) or read(source, piece))
    Selection.of(plan, Region((3, 5, 7), (4, 6, 8)), address)
    assert sum(box.voxels for box in boxes) == math.prod(plan.block)


def test_a_flat_mask_holds_for_all_sections(tmp_path: Path) -> None:
    plan = planned((7, 8, 12), (2, 1, 1))
    found = Selection.of(plan, mask=as_tiff(tmp_path, np.array([[0, 0], [1, 0]], np.uint8)))
    assert {block.index for block in found.blocks(plan)} == {(z, 1, 0) for z in range(4)}


@pytest.mark.parametrize(
    ("region", "message"),
    [
        pytest.param(Region((0, 2, 0), (5, 2, 9)), r"\[2, 2\) along y holds no voxel", id="empty"),
        pytest.param(Region((0, 0, 0), (6, 8, 9)), r"\[0, 6\) along z reaches beyond .* 5 voxels there", id="beyond"),
        pytest.param(Region((0, 0, -1), (5, 8, 9)), r"\[-1, 9\) along x reaches beyond", id="before"),
    ],
)
def test_a_region_that_the_volume_does_not_have_is_refused(region: Region, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Selection.of(planned((5, 8, 9), (1, 1, 1)), region)
