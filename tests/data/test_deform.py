"""Where the voxels of a sample come from."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from unetpipe.config import Augment
from unetpipe.data.deform import Deformation, cubic, cubic_weights, enclosing, nearest

STILL: dict[str, Any] = {"elastic_sigma": 0.0, "rotation": 0.0, "shift": 0.0, "scale": 0.0}
NO_DISPLACEMENT = np.zeros((2, 3, 3))

tiles = st.tuples(st.integers(2, 40), st.integers(2, 40))


def drawn(seed: int = 0, **changes: Any) -> Deformation:
    return Deformation.draw(Augment(**({"elastic_sigma": 3.0} | changes)), np.random.default_rng(seed))


def resampled(source: NDArray[np.float32], deformation: Deformation, tile: tuple[int, int]) -> NDArray[np.float32]:
    """``tile`` of ``source``, deformed about the source's centre voxel."""
    y, x = (n // 2 for n in source.shape)
    region, places = enclosing(deformation.coordinates(tile), (0, y, x), 1)
    return cubic(source[None][region.slices], places)[0]


@given(tiles, st.integers(0, 2**32))
def test_without_any_change_voxels_are_the_source_bit_for_bit(tile: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    source = rng.standard_normal((5, 60, 70)).astype(np.float32)
    still = Deformation.draw(Augment(**STILL), rng)
    region, places = enclosing(still.coordinates(tile), (2, 30, 35), 3)
    y, x = 30 - tile[0] // 2, 35 - tile[1] // 2
    assert region.start == (1, y - 1, x - 1)
    box = source[region.slices]
    np.testing.assert_array_equal(cubic(box, places), source[1:4, y : y + tile[0], x : x + tile[1]])
    np.testing.assert_array_equal(nearest(box, places), source[1:4, y : y + tile[0], x : x + tile[1]])


@pytest.mark.parametrize("size", [20, 21])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_are_those_of_numpy(size: int, turns: int) -> None:
    source = np.random.default_rng(turns).standard_normal((31, 31)).astype(np.float32)
    turned = resampled(source, Deformation(turns * math.pi / 2, 1.0, (0.0, 0.0), NO_DISPLACEMENT), (size, size))
    first = 15 - size // 2
    cut = source[first : first + size, first : first + size]
    np.testing.assert_allclose(turned, np.rot90(cut, -turns), atol=1e-4)


def test_a_shift_moves_along_its_axis() -> None:
    source = np.random.default_rng(0).standard_normal((40, 40)).astype(np.float32)
    moved = resampled(source, Deformation(0.0, 1.0, (3.0, -2.0), NO_DISPLACEMENT), (10, 12))
    np.testing.assert_array_equal(moved, source[18:28, 12:24])


@pytest.mark.parametrize("scale", [0.8, 1.25])
def test_a_scale_above_one_shows_things_larger(scale: float) -> None:
    y, x = np.indices((80, 80)).astype(np.float32)
    disc = (np.hypot(y - 40, x - 40) < 15).astype(np.float32)
    area = resampled(disc, Deformation(0.0, scale, (0.0, 0.0), NO_DISPLACEMENT), (51, 51)).sum()
    assert area / disc.sum() == pytest.approx(scale**2, rel=0.02)


@pytest.mark.parametrize("points", [2, 3, 4, 7])
def test_interpolation_is_exact_at_control_points(points: int) -> None:
    weights = cubic_weights((points - 1) * 5 + 1, points)
    np.testing.assert_array_equal(weights[::5], np.eye(points))


@pytest.mark.parametrize(("points", "degree"), [(2, 1), (3, 2), (5, 2)])
@given(st.integers(2, 50))
def test_interpolation_is_exact_for_polynomials(points: int, degree: int, size: int) -> None:
    at, between = np.linspace(-1, 1, points), np.linspace(-1, 1, size)
    for power in range(degree + 1):
        np.testing.assert_allclose(cubic_weights(size, points) @ at**power, between**power, atol=1e-12)


@pytest.mark.parametrize("points", [4, 6])
def test_interpolation_is_smooth_across_control_points(points: int) -> None:
    values = np.random.default_rng(points).standard_normal(points)
    slopes = np.diff(cubic_weights((points - 1) * 1000 + 1, points) @ values) * 1000
    for joint in range(1, points - 1):
        assert slopes[joint * 1000] == pytest.approx(slopes[joint * 1000 - 1], abs=0.05)


def test_displacements_of_control_points_are_those_drawn() -> None:
    deformation = drawn(**(STILL | {"elastic_sigma": 10.0}))
    tile = (41, 61)
    moved = deformation.coordinates(tile) - Deformation(0.0, 1.0, (0.0, 0.0), NO_DISPLACEMENT).coordinates(tile)
    np.testing.assert_allclose(moved[:, ::20, ::30], deformation.displacements, atol=1e-5)


def test_displacements_are_gaussian_as_set() -> None:
    rng = np.random.default_rng(1)
    many = np.stack([Deformation.draw(Augment(elastic_sigma=10.0), rng).displacements for _ in range(2000)])
    values = many.reshape(2000, 18)
    # Five standard errors of mean, standard deviation and correlation over 2000 drawings.
    assert abs(values.mean(axis=0)).max() < 5 * 10 / math.sqrt(2000)
    assert abs(values.std(axis=0) - 10).max() < 5 * 10 / math.sqrt(4000)
    correlation = np.corrcoef(values.T) - np.eye(18)
    assert abs(correlation).max() < 5 / math.sqrt(2000)


@given(st.integers(0, 2**32))
def test_drawings_stay_within_their_bounds(seed: int) -> None:
    deformation = drawn(seed, rotation=30.0, shift=4.0, scale=0.2)
    assert abs(deformation.angle) <= math.radians(30)
    assert 0.8 <= deformation.scale <= 1.2
    assert max(map(abs, deformation.shift)) <= 4


def keys(section: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cubic convolution as Keys defines it, with a = -3/4: a sum over the 4 x 4 voxels around each place."""

    def kernel(distance: NDArray[np.float64]) -> NDArray[np.float64]:
        a, d = -0.75, np.abs(distance)
        near = (a + 2) * d**3 - (a + 3) * d**2 + 1
        far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
        return np.where(d <= 1, near, np.where(d < 2, far, 0.0))

    first = np.floor(places).astype(int)
    found = np.zeros(places.shape[1:])
    for step in np.ndindex(4, 4):
        y, x = (corner + number - 1 for corner, number in zip(first, step, strict=True))
        found += section[y, x] * kernel(places[0] - y) * kernel(places[1] - x)
    return found


@given(st.integers(0, 2**32), tiles)
def test_values_are_those_of_an_independent_interpolation(seed: int, tile: tuple[int, int]) -> None:
    source = np.random.default_rng(seed).standard_normal((3, 200, 200)).astype(np.float32)
    region, places = enclosing(drawn(seed).coordinates(tile), (1, 100, 100), 3)
    for section, found in zip(source[region.slices], cubic(source[region.slices], places), strict=True):
        np.testing.assert_allclose(found, keys(section.astype(float), places.astype(float)), atol=1e-4)


@given(st.integers(0, 2**32), tiles, st.integers(1, 5))
def test_every_section_is_sampled_as_if_it_were_alone(seed: int, tile: tuple[int, int], depth: int) -> None:
    source = np.random.default_rng(seed).standard_normal((depth, 200, 200)).astype(np.float32)
    region, places = enclosing(drawn(seed).coordinates(tile), (0, 100, 100), 1)
    _, rows, columns = region.slices
    # A view with a stride, as mirroring can give it.
    for box in (source[:, rows, columns], source[::-1, rows, columns]):
        for sample in (cubic, nearest):
            whole = sample(box, places)
            assert whole.shape == (depth, *tile)
            for number, section in enumerate(whole):
                np.testing.assert_array_equal(section, sample(box[number : number + 1], places)[0])


@given(st.integers(0, 2**32), tiles)
def test_image_and_label_come_from_the_same_place(seed: int, tile: tuple[int, int]) -> None:
    # Where values rise by 1 a voxel, the nearest is at most half a step off.
    for ramp in np.indices((1, 200, 200))[1:]:
        region, places = enclosing(drawn(seed).coordinates(tile), (0, 100, 100), 1)
        grey = cubic(ramp[region.slices].astype(np.float32), places)
        label = nearest(ramp[region.slices].astype(np.uint8), places)
        assert abs(grey - label).max() <= 0.5001


@given(st.integers(0, 2**32), tiles)
def test_a_part_of_enclosed_coordinates_is_enclosed_again(seed: int, tile: tuple[int, int]) -> None:
    coordinates = drawn(seed).coordinates(tile)
    part = np.s_[:, tile[0] // 3 :, : tile[1] // 2 + 1]
    expected, _ = enclosing(coordinates[part], (3, 1000, 2000), 1)
    region, places = enclosing(coordinates, (3, 1000, 2000), 4, out=coordinates)
    assert places is coordinates
    # Relative to the region now, of which the parts are parts.
    found, inside = enclosing(places[part], (3, *region.start[1:]), 1)
    assert found == expected
    source = np.random.default_rng(seed).integers(0, 255, (4, *region.shape[1:]), np.uint8)
    within = tuple(slice(a - b, c - b) for a, b, c in zip(found.start, region.start, found.stop, strict=True))
    np.testing.assert_array_equal(nearest(source, places)[within[0]][part], nearest(source[within], inside))


@given(st.integers(0, 2**32), tiles, st.integers(1, 6))
def test_the_enclosing_region_is_the_smallest(seed: int, tile: tuple[int, int], depth: int) -> None:
    coordinates = drawn(seed).coordinates(tile)
    region, places = enclosing(coordinates, (3, 1000, 2000), depth)
    assert (region.start[0], region.shape[0]) == (3 - depth // 2, depth)
    assert (places >= 0).all()
    for axis, size in enumerate(region.shape[1:]):
        assert 1 <= places[axis].min() < 2
        assert size - 3 <= places[axis].max() < size - 2
        np.testing.assert_allclose(
            places[axis] + region.start[axis + 1], coordinates[axis] + 1000 * (axis + 1), atol=1e-3
        )
