"""Normalisation follows the section, not the damage to a part of it."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from unetpipe.data.statistics import mean_and_std, patches

Section = NDArray[np.uint8]


def _tissue(seed: int, size: int = 512) -> Section:
    """A bright ground with dark lines, as membranes are: (y, x)."""
    rng = np.random.default_rng(seed)
    cells = gaussian_filter(rng.standard_normal((size, size)), 9)
    lines = np.abs(cells) < 0.2 * cells.std()
    grey = 150 - 70 * gaussian_filter(lines.astype(float), 1.5) + rng.normal(0, 14, cells.shape)
    return np.clip(grey, 0, 255).astype(np.uint8)


def _measure(section: NDArray[np.generic], grey_range: tuple[float, float] | None = None) -> tuple[float, float]:
    return mean_and_std([section[box] for box in patches(*section.shape)], grey_range)


def _fold(section: Section) -> Section:
    y, x = np.indices(section.shape)
    return np.where(np.abs(y - 0.4 * x - 150) < 28, section * 0.35, section).astype(np.uint8)


def _charging(section: Section) -> Section:
    damaged = section.copy()
    damaged[:110, :120] = 255
    return damaged


def _surroundings(section: Section) -> Section:
    damaged = section.copy()
    damaged[:, :130] = 0
    return damaged


def _resin(section: Section) -> Section:
    damaged = section.copy()
    damaged[:, :200] = np.random.default_rng(5).normal(200, 6, (512, 200)).clip(0, 255)
    return damaged


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(_fold, id="fold"),
        pytest.param(_charging, id="charging"),
        pytest.param(_surroundings, id="black-surroundings"),
        pytest.param(_resin, id="bare-resin"),
    ],
)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_damage_hardly_moves_the_statistics(damage: Callable[[Section], Section], seed: int) -> None:
    intact = _tissue(seed)
    damaged = damage(intact)
    mean, std = _measure(intact)
    moved_mean, moved_std = _measure(damaged)
    shift, ratio = abs(moved_mean - mean) / std, moved_std / std
    # Plain statistics, for comparison: the damage is real.
    plain = abs(float(damaged.mean()) - float(intact.mean())) / std
    assert plain > 0.2
    assert shift < 0.4 * plain
    assert shift < 0.2
    assert 0.8 < ratio < 1.2


@given(
    seed=st.integers(0, 1000),
    gain=st.floats(0.1, 10),
    offset=st.floats(-100, 100),
    shape=st.tuples(st.integers(1, 150), st.integers(1, 150)),
)
def test_brightness_and_contrast_pass_through(seed: int, gain: float, offset: float, shape: tuple[int, int]) -> None:
    section = np.random.default_rng(seed).normal(100, 20, shape)
    mean, std = _measure(section)
    moved = _measure(gain * section + offset)
    np.testing.assert_allclose(moved, (gain * mean + offset, gain * std), rtol=1e-6, atol=1e-6)


def test_of_an_even_texture_they_are_mean_and_std() -> None:
    section = np.random.default_rng(0).normal(100, 20, (400, 700))
    np.testing.assert_allclose(_measure(section), (100, 20), rtol=0.01)


@given(st.sampled_from([0.1, 7.0, 255.0, 1e-30, 1e30]), st.tuples(st.integers(1, 80), st.integers(1, 80)))
def test_std_is_zero_exactly_where_nothing_is_seen(value: float, shape: tuple[int, int]) -> None:
    section = np.full(shape, value, np.float32)
    assert _measure(section, (-1e31, 1e31))[1] == 0
    if section.size > 1:
        section[0, 0] += 0.5 * value
        assert _measure(section, (-1e31, 1e31))[1] > 0


def test_what_is_no_number_does_not_count() -> None:
    section = _tissue(1).astype(np.float32)
    holed = section.copy()
    holed[::7, ::3] = np.nan
    mean, std = _measure(section, (0, 255))
    np.testing.assert_allclose(_measure(holed, (0, 255)), (mean, std), rtol=0.02)
    assert _measure(np.full((50, 50), np.nan), (0, 255)) == (0, 0)


def test_values_are_clipped_first() -> None:
    section = np.linspace(0, 1, 60 * 60, dtype=np.float32).reshape(60, 60)
    wild = section.copy()
    wild[section > 0.9], wild[section < 0.1] = np.inf, -1e20
    np.testing.assert_allclose(_measure(wild, (0.1, 0.9)), _measure(np.clip(section, 0.1, 0.9), (0.0, 1.0)), rtol=1e-6)


@given(st.integers(1, 200_000), st.integers(1, 200_000))
def test_patches_lie_apart_and_within_a_million_voxels(ny: int, nx: int) -> None:
    boxes = patches(ny, nx)
    rows = sorted({(box[0].start, box[0].stop) for box in boxes})
    columns = sorted({(box[1].start, box[1].stop) for box in boxes})
    assert len(boxes) == len(rows) * len(columns) == len({(str(a), str(b)) for a, b in boxes})
    for intervals, size in ((rows, ny), (columns, nx)):
        ends = [0, *(value for interval in intervals for value in interval), size]
        assert ends == sorted(ends)
        assert all(start < stop for start, stop in intervals)
        if size <= 1024:
            assert sum(stop - start for start, stop in intervals) == size
    assert sum((a.stop - a.start) * (b.stop - b.start) for a, b in boxes) <= 1024**2
