"""Changes of grey values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetpipe.config import Augment
from unetpipe.data.grey import Grey, bend
from unetpipe.data.samples import BLACK

NONE = Augment(brightness=0.0, contrast=0.0, gamma=0.0, noise=0.0, blur=0.0)

gammas = st.floats(0.25, 4.0)


def image(seed: int = 0, size: int = 64, depth: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((depth, size, size)).astype(np.float32)


@given(st.integers(0, 2**32))
def test_without_any_change_values_stay_bit_for_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    np.testing.assert_array_equal(Grey.draw(NONE, rng).apply(image(), rng), image())


def test_the_source_is_left_alone() -> None:
    given_image = image()
    Grey(0.5, 1.3, 1.2, 0.1, 0.1).apply(given_image, np.random.default_rng(0))
    np.testing.assert_array_equal(given_image, image())


def test_contrast_is_a_factor_and_brightness_is_added() -> None:
    changed = Grey(0.0, 1.0, 2.0, -0.5, 0.0).apply(image(), np.random.default_rng(0))
    np.testing.assert_allclose(changed, 2 * image() - 0.5, atol=1e-6)


def test_noise_has_the_standard_deviation_that_was_drawn() -> None:
    noise = Grey(0.0, 1.0, 3.0, 0.0, 0.25).apply(image(size=300), np.random.default_rng(5)) - 3 * image(size=300)
    assert noise.std() == pytest.approx(0.25, rel=5 / np.sqrt(2 * 300**2))
    assert abs(noise.mean()) < 5 * 0.25 / 300


def test_blur_is_the_gaussian_of_its_sigma() -> None:
    point = np.zeros((3, 41, 41), np.float32)
    point[1, 20, 20] = 1
    before, blurred, after = Grey(1.5, 1.0, 1.0, 0.0, 0.0).apply(point, np.random.default_rng(0))
    assert not before.any()
    assert not after.any()
    y, x = np.indices(blurred.shape) - 20
    assert blurred.sum() == pytest.approx(1, abs=1e-4)
    assert (blurred * y**2).sum() == pytest.approx(1.5**2, rel=0.01)
    assert (blurred * x**2).sum() == pytest.approx(1.5**2, rel=0.01)


def test_every_section_is_changed_alike_and_has_its_own_noise() -> None:
    several = image(depth=4)
    still = Grey(0.7, 1.3, 1.2, 0.1, 0.0)
    changed = still.apply(several, np.random.default_rng(0))
    for section, expected in zip(changed, several, strict=True):
        np.testing.assert_array_equal(section, still.apply(expected[None], np.random.default_rng(1))[0])
    noise = Grey(0.7, 1.3, 1.2, 0.1, 0.5).apply(several, np.random.default_rng(0)) - changed
    between = np.corrcoef(noise.reshape(4, -1)) - np.eye(4)
    assert abs(between).max() < 5 / 64


@given(gammas)
def test_gamma_leaves_the_mean_and_its_contrast(gamma: float) -> None:
    grey = np.array([-0.01, 0.0, 0.01], np.float32)
    bent = bend(grey, gamma)
    assert bent[1] == 0
    assert (bent[2] - bent[0]) / 0.02 == pytest.approx(1, abs=1e-3)


@given(gammas)
def test_gamma_keeps_the_order_of_grey_values_and_clips_at_black(gamma: float) -> None:
    bent = bend(np.linspace(BLACK, 6, 200, dtype=np.float32), gamma)
    assert (np.diff(bent) >= 0).all()
    # Next to black a steep power is flat in float32.
    assert (np.diff(bent[20:]) > 0).all()
    beyond = bend(np.array([BLACK, BLACK - 1, BLACK - 100], np.float32), gamma)
    assert (beyond == beyond[0]).all()


@given(gammas.filter(lambda gamma: abs(gamma - 1) > 0.01))
def test_gamma_is_a_power_law_from_black(gamma: float) -> None:
    # Ratios of distances from black become their powers.
    bent = bend(np.array([BLACK, BLACK / 2, 0, -BLACK], np.float32), gamma).astype(float)
    ratios = (bent - bent[0]) / (bent[2] - bent[0])
    np.testing.assert_allclose(ratios, np.array([0, 0.5, 1, 2]) ** gamma, rtol=1e-4)


def test_drawings_follow_the_settings() -> None:
    rng = np.random.default_rng(3)
    settings = Augment(brightness=0.3, contrast=0.2, gamma=0.1, noise=0.4, blur=0.5)
    drawn = [Grey.draw(settings, rng) for _ in range(4000)]
    tolerance = 5 / np.sqrt(2 * 4000)
    for values, sigma in (
        ([grey.brightness for grey in drawn], 0.3),
        (np.log([grey.contrast for grey in drawn]), 0.2),
        (np.log([grey.gamma for grey in drawn]), 0.1),
    ):
        assert np.std(values) == pytest.approx(sigma, rel=tolerance)
        assert abs(np.mean(values)) < 5 * sigma / np.sqrt(4000)
    for values, most in (([grey.noise for grey in drawn], 0.4), ([grey.blur for grey in drawn], 0.5)):
        assert 0 <= min(values) < 0.01 * most * 5
        assert 0.95 * most < max(values) <= most
