"""Tiles for validation: aligned, evenly spread, each once, with the labels that belong to them."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from unetpipe.config import Network
from unetpipe.data.tiles import NO_SEED, LabelledTile, labelled_tiles
from unetpipe.grid import Geometry, Region, Shape
from unetpipe.volume import IGNORE, VolumeFile

GEOMETRY = Network(depth=1).geometry  # border 8, pooling 2
TILE = (1, 30, 26)
KEPT = (14, 10)
MakeVolume = Callable[..., Path]


def noise(shape: tuple[int, int, int], seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)


def tiles_of(
    *volumes: Path, limit: int = 10**6, geometry: Geometry = GEOMETRY, tile: Shape = TILE
) -> list[LabelledTile]:
    return list(labelled_tiles([VolumeFile.read(path) for path in volumes], geometry, tile, limit))


def write_origin(tile: LabelledTile, geometry: Geometry = GEOMETRY) -> Shape:
    z, y, x = (c - n // 2 + b for c, n, b in zip(tile.source[1:4], tile.image.shape, geometry.border, strict=True))
    return z, y, x


def outside(origin: Shape, shape: Shape, tile: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which voxels of ``tile`` at ``origin`` lie beyond a volume of ``shape``."""
    z, y, x = (np.arange(n) + start >= end for n, start, end in zip(tile.shape, origin, shape, strict=True))
    return z[:, None, None] | y[:, None] | x


@dataclass(frozen=True)
class Case:
    """A network, what it reads, and what tiles of it keep."""

    network: Network
    tile: Shape
    kept: Shape


CASES = [
    pytest.param(Case(Network(depth=1), TILE, (1, *KEPT)), id="2D"),
    pytest.param(Case(Network(depth=1, sections=3), (3, 30, 26), (1, *KEPT)), id="2.5D"),
    # Border (8, 8, 8), pooling (2, 2, 2).
    pytest.param(Case(Network(depth=1, kernel=(3, 3, 3), pooling=(2, 2, 2)), (20, 30, 26), (4, *KEPT)), id="3D"),
    # Border (2, 8, 8), pooling (1, 2, 2): thick sections.
    pytest.param(Case(Network(depth=1, kernel=[(1, 3, 3), (3, 3, 3)]), (7, 30, 26), (3, *KEPT)), id="3D-thick"),
    # Border (44, 44, 44), pooling (8, 8, 8); of the output (12, 12, 20) a part is dropped.
    pytest.param(
        Case(Network(depth=3, kernel=(3, 3, 3), pooling=(2, 2, 2)), (100, 100, 108), (8, 8, 16)), id="3D-dropped"
    ),
]


@pytest.mark.parametrize("case", CASES)
def test_all_tiles_cover_every_labelled_voxel_with_its_label(make_volume: MakeVolume, case: Case) -> None:
    geometry = case.network.geometry
    assert geometry.is_legal(case.tile)
    assert geometry.kept(case.tile) == case.kept
    image, labels = noise((11, 33, 41)), noise((11, 33, 41), 1)
    labels[labels == IGNORE] = 0
    missing = [0, 4, 5, 6, 7]
    image[missing] = 0
    covered = np.zeros(labels.shape, int)
    for tile in tiles_of(make_volume(image, labels), geometry=geometry, tile=case.tile):
        assert tile.label is not None
        assert tile.image.shape == case.tile
        assert tile.label.shape == geometry.output(case.tile)
        origin = write_origin(tile, geometry)
        assert not any(a % p for a, p in zip(origin, geometry.pooling, strict=True))
        assert tile.source[4] == NO_SEED
        beyond = outside(origin, (11, 33, 41), tile.label)
        whole = Region.of(origin, tile.label.shape).clip(labels.shape)
        expected = labels[whole.slices].copy()
        expected[[z in missing for z in range(whole.start[0], whole.stop[0])]] = IGNORE
        np.testing.assert_array_equal(tile.label[~beyond], expected.ravel())
        assert (tile.label[beyond] == IGNORE).all()
        covered[Region.of(origin, case.kept).clip(labels.shape).slices] += 1
    there = [z for z in range(11) if z not in missing]
    assert (covered[there] == 1).all()
    assert (covered <= 1).all()


@pytest.mark.parametrize("case", CASES)
def test_the_image_is_that_around_the_label_mirrored(make_volume: MakeVolume, case: Case) -> None:
    image = noise((11, 33, 41))
    normalised = (image - image.mean(axis=(1, 2), keepdims=True)) / image.std(axis=(1, 2), keepdims=True)
    mirrored = np.pad(normalised, 64, mode="reflect")
    geometry = case.network.geometry
    for tile in tiles_of(make_volume(image, image), geometry=geometry, tile=case.tile):
        start = [a - b + 64 for a, b in zip(write_origin(tile, geometry), geometry.border, strict=True)]
        np.testing.assert_allclose(tile.image, mirrored[Region.of(start, case.tile).slices], atol=1e-4)
        # A voxel of the label belongs to the voxel of the image that lies a border further in.
        assert tile.label is not None
        at = tuple(slice(b, b + n) for b, n in zip(geometry.border, tile.label.shape, strict=True))
        known = tile.label != IGNORE
        sections = np.broadcast_to(
            (np.arange(known.shape[0]) + write_origin(tile, geometry)[0])[:, None, None], known.shape
        )
        std, mean = image.std(axis=(1, 2))[sections[known]], image.mean(axis=(1, 2))[sections[known]]
        np.testing.assert_allclose(tile.image[at][known] * std + mean, tile.label[known], atol=0.01)


def test_missing_sections_and_tiles_without_labels_are_left_out(make_volume: MakeVolume) -> None:
    image, labels = noise((4, 28, 20)), np.full((4, 28, 20), IGNORE, np.uint8)
    image[1] = 0
    labels[1] = 0
    labels[2, 15, 3] = 0
    labels[3, 0, 10] = 1
    found = {write_origin(tile) for tile in tiles_of(make_volume(image, labels))}
    assert found == {(2, 14, 0), (3, 0, 10)}


def test_a_stack_of_nothing_but_missing_sections_is_left_out(make_volume: MakeVolume) -> None:
    geometry = Network(depth=1, kernel=(3, 3, 3), pooling=(2, 2, 2)).geometry
    image = noise((12, 28, 20))
    # Tiles keep four sections.
    image[3:8] = 0
    tiles = tiles_of(make_volume(image), geometry=geometry, tile=(20, 44, 36))
    assert {write_origin(tile, geometry)[0] for tile in tiles} == {0, 8}


def test_a_volume_without_labels_gives_tiles_without_labels(make_volume: MakeVolume) -> None:
    tiles = tiles_of(make_volume(noise((2, 28, 20))))
    assert len(tiles) == 2 * 2 * 2
    assert all(tile.label is None for tile in tiles)


@settings(max_examples=20)
@given(st.integers(1, 12), st.integers(1, 3), st.integers(1, 3), st.integers(1, 40))
def test_tiles_are_spread_evenly(
    make_volume: MakeVolume,
    tmp_path_factory: pytest.TempPathFactory,
    sections: int,
    rows: int,
    columns: int,
    limit: int,
) -> None:
    shape = (sections, rows * KEPT[0], columns * KEPT[1])
    tiles = tiles_of(make_volume(noise(shape), folder=tmp_path_factory.mktemp("v")), limit=limit)
    origins = [write_origin(tile) for tile in tiles]
    total = sections * rows * columns
    assert len(origins) == len(set(origins)) == min(limit, total)
    # Positions within a section: all of them before one comes again.
    positions = Counter(dict.fromkeys(product(range(0, shape[1], KEPT[0]), range(0, shape[2], KEPT[1])), 0))
    positions.update((y, x) for _, y, x in origins)
    assert max(positions.values()) - min(positions.values()) <= 1
    # Sections: no gap much longer than the mean one (three gaps theorem; the golden section bounds their ratio).
    used = [-1, *sorted({z for z, _, _ in origins}), sections]
    assert max(np.diff(used)) <= 3 * max(1, sections / len(origins)) + 1


def test_fewer_tiles_are_the_first_of_more_and_the_same_every_time(make_volume: MakeVolume) -> None:
    volumes = [make_volume(noise((3, 28, 20)), name="a"), make_volume(noise((2, 56, 30)), name="b")]
    all_of_them = [tile.source for tile in tiles_of(*volumes)]
    assert len(all_of_them) == 3 * 4 + 2 * 12
    assert {source[0] for source in all_of_them[:10]} == {0, 1}
    for limit in (0, 1, 7):
        assert [tile.source for tile in tiles_of(*volumes, limit=limit)] == all_of_them[:limit]


@pytest.mark.parametrize("case", CASES)
def test_sections_known_to_have_no_labels_are_not_read(make_volume: MakeVolume, tmp_path: Path, case: Case) -> None:
    image = noise((40, 45, 50))
    labels = np.full(image.shape, IGNORE, np.uint8)
    labels[17, 5:9, 40:] = labels[20, 20:30] = 1
    geometry = case.network.geometry
    # Not those whose labels lie in what they drop alone: the next tile has them.
    expected = {
        tile.source
        for tile in tiles_of(make_volume(image, labels), geometry=geometry, tile=case.tile)
        if {17, 20} & set(range(start := write_origin(tile, geometry)[0], start + case.kept[0]))
    }
    counts = (labels != IGNORE).sum(axis=(1, 2)).tolist()
    sparse = make_volume(image, labels, folder=tmp_path, source={"labelled": counts})
    for lost in (0, 4):
        (tmp_path / "volumes" / "v" / "labels.zarr" / "0" / "c" / str(lost) / "0" / "0").unlink()
    found = tiles_of(sparse, geometry=geometry, tile=case.tile)
    assert {tile.source for tile in found} == expected != set()
