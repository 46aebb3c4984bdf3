"""Tiles for validation: aligned, evenly spread, each once, with the labels that belong to them."""

from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from unetpipe.data.tiles import NO_SEED, LabelledTile, labelled_tiles
from unetpipe.grid import unet_geometry
from unetpipe.volume import IGNORE, VolumeFile

GEOMETRY = unet_geometry(1)  # border 8, pooling 2
TILE = (1, 30, 26)
KEPT = (14, 10)
MakeVolume = Callable[..., Path]


def noise(shape: tuple[int, int, int], seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)


def tiles_of(*volumes: Path, limit: int = 10**6) -> list[LabelledTile]:
    return list(labelled_tiles([VolumeFile.read(path) for path in volumes], GEOMETRY, TILE, limit))


def write_origin(tile: LabelledTile) -> tuple[int, int, int]:
    _, z, y, x, _ = tile.source
    return z, y - TILE[1] // 2 + 8, x - TILE[2] // 2 + 8


def test_all_tiles_cover_every_labelled_voxel_with_its_label(make_volume: MakeVolume) -> None:
    labels = noise((3, 33, 41), 1)
    covered = np.zeros(labels.shape, int)
    for tile in tiles_of(make_volume(noise(labels.shape), labels)):
        assert tile.label is not None
        z, y, x = write_origin(tile)
        assert (y % 2, x % 2) == (0, 0)
        assert tile.source[4] == NO_SEED
        inside = tile.label[: labels.shape[1] - y, : labels.shape[2] - x]
        np.testing.assert_array_equal(inside, labels[z, y : y + KEPT[0], x : x + KEPT[1]])
        assert (tile.label[inside.shape[0] :] == IGNORE).all()
        assert (tile.label[:, inside.shape[1] :] == IGNORE).all()
        covered[z, y : y + KEPT[0], x : x + KEPT[1]] += 1
    assert (covered == 1).all()


def test_the_image_is_that_around_the_label_mirrored(make_volume: MakeVolume) -> None:
    image = noise((2, 33, 41))
    normalised = (image - image.mean(axis=(1, 2), keepdims=True)) / image.std(axis=(1, 2), keepdims=True)
    mirrored = np.pad(normalised, ((0, 0), (32, 32), (32, 32)), mode="reflect")
    for tile in tiles_of(make_volume(image, image)):
        z, y, x = (a - b + c for a, b, c in zip(write_origin(tile), (0, 8, 8), (0, 32, 32), strict=True))
        np.testing.assert_allclose(tile.image, mirrored[z, y : y + TILE[1], x : x + TILE[2]], atol=1e-4)


def test_missing_sections_and_tiles_without_labels_are_left_out(make_volume: MakeVolume) -> None:
    image, labels = noise((4, 28, 20)), np.full((4, 28, 20), IGNORE, np.uint8)
    image[1] = 0
    labels[1] = 0
    labels[2, 15, 3] = 0
    labels[3, 0, 10] = 1
    found = {write_origin(tile) for tile in tiles_of(make_volume(image, labels))}
    assert found == {(2, 14, 0), (3, 0, 10)}


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
