"""The synthetic volume: deterministic, damaged only where it says, and neither trivial nor hopeless to segment."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from unetpipe.data.phantom import LABEL_VALUES, MISSING_VALUE, Phantom, make_phantom, phantom
from unetpipe.errors import UserError

VOXEL_NM = (40.0, 4.0, 4.0)
SHAPE = (5, 96, 112)
MEMBRANE, MITOCHONDRION, INSIDE = LABEL_VALUES["membrane"], LABEL_VALUES["mitochondrion"], LABEL_VALUES["inside"]


@pytest.fixture(scope="module")
def small() -> Phantom:
    return make_phantom(SHAPE, VOXEL_NM, seed=1, missing=1, fold=3)


@pytest.fixture(scope="module", params=[1, 3, 5], ids="seed {}".format)
def large(request: pytest.FixtureRequest) -> Phantom:
    return make_phantom((5, 320, 320), VOXEL_NM, seed=request.param, missing=0, fold=1)


@settings(max_examples=6, deadline=None)
@given(
    shape=st.tuples(st.integers(2, 4), st.integers(64, 100), st.integers(64, 100)),
    voxel_size_nm=st.tuples(st.floats(10, 60), st.floats(4, 8), st.floats(4, 8)),
    seed=st.integers(0, 2**64),
)
def test_any_volume_has_the_shape_asked_for_and_only_known_labels(
    shape: tuple[int, int, int], voxel_size_nm: tuple[float, float, float], seed: int
) -> None:
    made = make_phantom(shape, voxel_size_nm, seed)
    for stack in (made.image, made.labels):
        assert stack.shape == shape
        assert stack.dtype == np.uint8
    assert {MEMBRANE, INSIDE} <= set(np.unique(made.labels).tolist()) <= set(LABEL_VALUES.values())
    assert made.missing in range(shape[0])
    assert made.fold in set(range(shape[0])) - {made.missing}
    constant = [z for z in range(shape[0]) if np.ptp(made.image[z]) == 0]
    assert constant == [made.missing]


def test_same_seed_same_bytes_in_another_process_with_other_threads(small: Phantom) -> None:
    code = (
        "import hashlib; from unetpipe.data.phantom import make_phantom;"
        f"made = make_phantom({SHAPE}, {VOXEL_NM}, seed=1, missing=1, fold=3);"
        "print(hashlib.sha256(made.image.tobytes() + made.labels.tobytes()).hexdigest())"
    )
    expected = hashlib.sha256(small.image.tobytes() + small.labels.tobytes()).hexdigest()
    for threads in ("1", "4"):
        env = os.environ | {f"{name}_NUM_THREADS": threads for name in ("OMP", "OPENBLAS", "MKL")}
        done = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True)
        assert done.stdout.strip() == expected


def test_another_seed_is_another_volume(small: Phantom) -> None:
    other = make_phantom(SHAPE, VOXEL_NM, seed=2, missing=1, fold=3)
    assert (other.image[0] != small.image[0]).mean() > 0.9
    assert (other.labels != small.labels).mean() > 0.1


def test_damage_changes_neither_the_truth_nor_other_sections(small: Phantom) -> None:
    other = make_phantom(SHAPE, VOXEL_NM, seed=1, missing=0, fold=2)
    np.testing.assert_array_equal(other.labels, small.labels)
    np.testing.assert_array_equal(other.image[4], small.image[4])


def test_the_missing_section_is_constant_but_its_anatomy_is_known(small: Phantom) -> None:
    assert (small.image[1] == MISSING_VALUE).all()
    assert all(np.ptp(small.image[z]) > 50 for z in (0, 2, 3, 4))
    assert {MEMBRANE, INSIDE} <= set(np.unique(small.labels[1]).tolist())


@pytest.mark.parametrize("seed", [1, 2, 3, 4], ids="seed {}".format)
def test_the_fold_is_a_dark_band_from_side_to_side(seed: int) -> None:
    flat = make_phantom((3, 128, 128), VOXEL_NM, seed, missing=0, fold=1).image[2].astype(float)
    folded = make_phantom((3, 128, 128), VOXEL_NM, seed, missing=0, fold=2).image[2].astype(float)
    change = ndimage.gaussian_filter(folded - flat, 4)
    band = change < -20
    assert 0.05 < band.mean() < 0.5
    assert np.abs(change[ndimage.distance_transform_edt(~band) > 20]).max() < 15, "beside the fold all is as before"
    component, _ = ndimage.label(band)
    sides = [(component[0], component[-1]), (component[:, 0], component[:, -1])]
    assert any(set(a[a > 0]) & set(b[b > 0]) for a, b in sides)


def test_damaged_sections_are_drawn_from_the_seed_and_never_coincide() -> None:
    drawn = {(made.missing, made.fold) for seed in range(4) for made in [make_phantom((3, 64, 64), VOXEL_NM, seed)]}
    assert len(drawn) > 1
    assert all(missing != fold for missing, fold in drawn)
    assert make_phantom((2, 64, 64), VOXEL_NM, seed=0, fold=1).missing == 0
    assert make_phantom((2, 64, 64), VOXEL_NM, seed=0, missing=1).fold == 0


def test_brightness_and_contrast_drift() -> None:
    image = make_phantom((14, 72, 72), VOXEL_NM, seed=1, missing=0, fold=1).image[2:].astype(float)
    assert np.ptp(image.mean(axis=(1, 2))) > 15
    deviation = image.std(axis=(1, 2))
    assert deviation.max() > 1.15 * deviation.min()


def test_membranes_and_mitochondria_are_dark(large: Phantom) -> None:
    for image, labels in zip(large.image[2:], large.labels[2:], strict=True):
        membrane, mitochondrion, inside = (image[labels == k].mean() for k in (MEMBRANE, MITOCHONDRION, INSIDE))
        assert membrane < inside - 30
        assert mitochondrion < inside - 20


def mean_iou(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    pairs = ((found, truth), (~found, ~truth))
    return float(np.mean([(a & b).sum() / (a | b).sum() for a, b in pairs]))


@pytest.mark.parametrize("sigma", [2.0, 3.0], ids="sigma {:g} px".format)
def test_a_threshold_does_not_find_the_membranes(large: Phantom, sigma: float) -> None:
    """Blur and Otsu's threshold: on ISBI 2012 they reach a mean IoU of 0.57, and a phantom must be no easier."""
    scores = []
    for image, labels in zip(large.image[2:], large.labels[2:], strict=True):
        smooth = ndimage.gaussian_filter((image - image.mean()) / image.std(), sigma)
        dark = smooth < threshold_otsu(smooth)
        scores += [max(mean_iou(dark, labels == MEMBRANE), mean_iou(~dark, labels == MEMBRANE))]
    assert np.mean(scores) <= 0.60


def test_the_truth_is_what_can_be_seen(large: Phantom) -> None:
    """Averaged along each border the membrane stands out where the labels have it, so a network can learn it."""
    for image, labels in zip(large.image[2:], large.labels[2:], strict=True):
        membrane = labels == MEMBRANE
        inwards = ndimage.distance_transform_edt(membrane)
        outwards = ndimage.distance_transform_edt(labels == INSIDE)
        grey = image.astype(float)
        core, edge = grey[inwards >= 2].mean(), grey[inwards == 1].mean()
        beside, far = grey[outwards == 1].mean(), grey[(outwards > 3) & (outwards < 6)].mean()
        assert core < edge < beside < far
        # The steepest step lies on the border of the labels.
        assert edge < (core + far) / 2 + 5
        assert beside > (core + far) / 2 - 5


def test_the_files_hold_the_volume_and_its_voxel_size(tmp_path: Path) -> None:
    paths = tmp_path / "image.tif", tmp_path / "labels.tif"
    phantom(*paths, shape=[2, 64, 72], voxel_size_nm=[45.0, 4.0, 5.0], seed=3, missing=0)
    made = make_phantom((2, 64, 72), (45.0, 4.0, 5.0), seed=3, missing=0)
    for path, expected in zip(paths, (made.image, made.labels), strict=True):
        with tifffile.TiffFile(path) as tif:
            np.testing.assert_array_equal(tif.asarray(), expected)
            assert tif.series[0].axes == "ZYX"
            assert tif.imagej_metadata is not None
            assert tif.imagej_metadata["unit"] == "nm"
            assert tif.imagej_metadata["spacing"] == 45.0
            x, y = (tif.pages.first.tags[name].value for name in ("XResolution", "YResolution"))
            assert (x[1] / x[0], y[1] / y[0]) == pytest.approx((5.0, 4.0), rel=1e-6)
            assert json.loads(tif.imagej_metadata["Info"]) == {"phantom": {"seed": 3, "missing": 0, "fold": 1}}
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_writing_twice_gives_the_same_files(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        phantom(tmp_path / folder / "i.tif", tmp_path / folder / "l.tif", (2, 64, 64), VOXEL_NM, seed=4)
    for name in ("i.tif", "l.tif"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "image.tif"
    image.write_bytes(b"old")

    def fail(path: Path, *args: object, **kwargs: object) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(tifffile, "imwrite", fail)
    with pytest.raises(OSError, match="disk full"):
        phantom(image, tmp_path / "labels.tif", (2, 64, 64), VOXEL_NM, seed=4)
    assert image.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [image]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"missing": 5}, r"missing = 5[\s\S]*sections 0 to 4", id="missing outside"),
        pytest.param({"fold": -1}, r"fold = -1[\s\S]*sections 0 to 4", id="fold outside"),
        pytest.param({"missing": 2, "fold": 2}, r"missing = 2 and fold = 2[\s\S]*choose two", id="the same section"),
        pytest.param({"shape": (1, 96, 96)}, r"found: 1 section\(s\)[\s\S]*at least 2", id="one section"),
        pytest.param({"shape": (5, 62, 96)}, r"248 x 384 nm, too small[\s\S]*at least 250 nm", id="too small"),
        pytest.param({"voxel_size_nm": (40, 4, 12)}, r"pixels of 12 nm[\s\S]*at most 10 nm", id="too coarse"),
    ],
)
def test_a_mistake_is_refused_with_its_repair(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_phantom(**({"shape": SHAPE, "voxel_size_nm": VOXEL_NM, "seed": 1} | change))  # type: ignore[arg-type]
