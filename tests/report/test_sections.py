"""What is shown of a volume is what lies there, and its cost does not follow from the volume's size."""

import base64
import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from stores import make_store

import unetpipe
from unetpipe.errors import UserError
from unetpipe.report import crops, pictures, sections
from unetpipe.volume import IGNORE, VolumeFile

MakeVolume = Callable[..., Path]


def opened(uri: str, mode: str = "RGBA") -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert(mode))


def volume_file(**changes: Any) -> VolumeFile:
    facts: dict[str, Any] = {
        "name": "v", "image": "", "labels": None, "shape": (1, 1, 1), "first_section": 0, "dtype": "uint8",
        "voxel_size_nm": (40.0, 4.0, 4.0), "origin_nm": (0.0, 0.0, 0.0), "range": None, "mean": (), "std": (),
        "missing_sections": (), "image_digest": "0" * 64, "labels_digest": None, "extent": None, "source": {},
        "version": unetpipe.__version__,
    }  # fmt: skip
    return VolumeFile(**(facts | changes))


def stored(folder: Path, name: str, probability: NDArray[np.uint8]) -> dict[str, Any]:
    """allocated.json, as far as it is needed, of a prediction (c, z, y, x)."""
    array = make_store(
        folder / f"{name}.zarr",
        shape=probability.shape,
        dtype="uint8",
        chunk=(1, *probability.shape[1:]),
        shard=probability.shape,
        voxel_size_nm=(40, 4, 4),
        channels=[f"c{number}" for number in range(len(probability))],
    )
    array[...] = probability
    return {"probability": str(folder / f"{name}.zarr"), "array": "0"}


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)), st.integers(1, 5))))
def test_sections_are_there_and_evenly_spread(drawn: tuple[int, set[int], int]) -> None:
    size, missing, count = drawn
    chosen = sections.middle_sections(volume_file(shape=(size, 1, 1), missing_sections=tuple(missing)), count)
    there = sorted({*range(size)} - missing)
    assert len(chosen) == min(count, len(there))
    assert not missing & {*chosen}
    for part, section in enumerate(chosen):
        # Of as many equal parts as there are crops, each shows the middle of one.
        middle = (2 * part + 1) * len(there) / (2 * len(chosen))
        assert there.index(section) <= middle < there.index(section) + 1
    if count == 1 and there:
        assert chosen == [there[len(there) // 2]]


@given(st.integers(0, 12))
def test_all_crops_together_are_bounded(count: int) -> None:
    edge = sections.crop_edge(count)
    assert edge <= 512
    assert count * edge**2 * 4 * 4 / 3 <= 7_500_000
    assert sections.crop_edge(1) == 512


@given(st.integers(8, 512), st.floats(0.5, 500))
def test_the_scale_bar_is_round_and_fits(width: int, nm: float) -> None:
    bar = crops.scale_bar(width, nm)
    number, unit = bar.text.split()
    length = float(number) * {"nm": 1, "µm": 1000}[unit]
    assert bar.voxels * nm == pytest.approx(length)
    assert number.strip("0.") in {"1", "2", "5"}
    assert width / 3 / 2.5 <= bar.voxels * (1 + 1e-9)
    assert bar.voxels <= width / 3


def test_panels_show_labels_prediction_and_errors(make_volume: MakeVolume, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    labels = random.choice(np.array([0, 1, 2, IGNORE], np.uint8), (3, 40, 50), p=[0.2, 0.5, 0.2, 0.1])
    image = random.integers(0, 255, labels.shape, np.uint8)
    predicted = np.where(random.random(labels.shape) < 0.1, 0, np.where(labels == IGNORE, 1, labels))
    volume = VolumeFile.read(make_volume(image, labels))
    probability = (200 * (predicted == np.arange(3)[:, None, None, None])).astype(np.uint8)
    shown = sections.gallery([volume], {"v": stored(tmp_path, "p", probability)}, ["a", "b", "c"])
    assert shown.background == "b"
    assert set(shown.paint) == {0, 2}
    found = shown.crops["v"]
    assert [crop.section for crop in found] == [0, 1, 2]
    for crop in found:
        z = crop.section
        panels = {panel.caption: panel for panel in crop.panels}
        assert list(panels) == ["Image", "Truth", "Prediction", "Errors"]
        for caption, values in (("Truth", labels[z]), ("Prediction", predicted[z])):
            picture = opened(str(panels[caption].picture))
            for value, colour in {**shown.paint, IGNORE: pictures.IGNORED}.items():
                assert np.array_equal((picture[..., :3] == colour).all(-1) & (picture[..., 3] > 0), values == value)
        wrong = (labels[z] != predicted[z]) & (labels[z] != IGNORE)
        errors = opened(str(panels["Errors"].picture))
        assert np.array_equal((errors == (*pictures.WRONG, 255)).all(-1), wrong)
        assert crop.wrong == wrong.sum() / (labels[z] != IGNORE).sum()
        grey = opened(crop.image, "L").astype(float)
        assert np.corrcoef(grey.ravel(), image[z].ravel())[0, 1] > 0.99


def test_without_labels_the_certainty_is_shown(make_volume: MakeVolume, tmp_path: Path) -> None:
    volume = VolumeFile.read(make_volume(np.random.default_rng(1).integers(0, 255, (1, 4, 256), np.uint8)))
    first = np.broadcast_to(np.arange(256, dtype=np.uint8), (1, 4, 256))
    crop = sections.gallery([volume], {"v": stored(tmp_path, "p", np.stack([first, 255 - first]))}, ["a", "b"])
    (shown,) = crop.crops["v"]
    assert [panel.caption for panel in shown.panels] == ["Image", "Prediction", "Probability of the prediction"]
    certainty = opened(str(shown.panels[2].picture), "L")[0]
    assert certainty[0] == certainty[-1] == 255
    assert certainty[127] == certainty[128] <= 1
    assert (np.diff(certainty[128:].astype(int)) >= 0).all()
    assert shown.wrong is None


def test_a_volume_without_a_section_shows_none(make_volume: MakeVolume, tmp_path: Path) -> None:
    volume = VolumeFile.read(make_volume(np.zeros((2, 16, 16), np.uint8)))
    found = sections.gallery([volume], {"v": stored(tmp_path, "p", np.zeros((2, 2, 16, 16), np.uint8))}, ["a", "b"])
    assert found.crops == {"v": []}


def test_the_first_volumes_alone_are_shown(
    make_volume: MakeVolume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sections, "MOST_VOLUMES", 2)
    volumes = [VolumeFile.read(make_volume(np.eye(16, dtype=np.uint8)[None], name=name)) for name in "abc"]
    allocated = {name: stored(tmp_path, name, np.zeros((2, 1, 16, 16), np.uint8)) for name in "abc"}
    assert list(sections.gallery(volumes, allocated, ["x", "y"]).crops) == ["a", "b"]


def test_the_worst_pictures_stay_within_the_bound(make_volume: MakeVolume, tmp_path: Path) -> None:
    """Noise cannot be compressed; with more than 16 classes an overlay has a byte for each voxel."""
    random = np.random.default_rng(1)
    volumes, allocated = [], {}
    for name in "abcd":
        image = random.integers(0, 255, (3, 420, 420), np.uint8)
        volumes.append(VolumeFile.read(make_volume(image, random.integers(0, 17, image.shape, np.uint8), name)))
        allocated[name] = stored(tmp_path, name, random.integers(0, 255, (17, *image.shape), np.uint8))
    found = sections.gallery(volumes, allocated, [f"c{number}" for number in range(17)])
    drawn = [crop for items in found.crops.values() for crop in items]
    assert len(drawn) == 12
    size = sum(len(crop.image) + sum(len(panel.picture or "") for panel in crop.panels) for crop in drawn)
    assert 2_000_000 < size < 7_600_000


def test_a_large_volume_is_not_read_whole(tmp_path: Path) -> None:
    shape = (1000, 1000, 1000)
    chunk = (1, 250, 250)
    image = make_store(
        tmp_path / "image.zarr", shape=shape, dtype="uint8", chunk=chunk, shard=chunk, voxel_size_nm=(8,) * 3
    )
    probability = make_store(
        tmp_path / "p.zarr", shape=(2, *shape), dtype="uint8", chunk=(1, *chunk), shard=(2, *chunk),
        voxel_size_nm=(8,) * 3, channels=["a", "b"],
    )  # fmt: skip
    # Noise where it is shown; everywhere else nothing is stored.
    random = np.random.default_rng(1)
    for z in (166, 500, 833):
        image[z, 200:800, 200:800] = random.integers(0, 255, (600, 600), np.uint8)
        probability[:, z, 200:800, 200:800] = random.integers(0, 255, (2, 600, 600), np.uint8)
    volume = volume_file(
        image=str(tmp_path / "image.zarr" / "0"), shape=shape, mean=(127.0,) * 1000, std=(70.0,) * 1000
    )
    tracemalloc.start()
    try:
        found = sections.gallery([volume], {"v": {"probability": str(tmp_path / "p.zarr"), "array": "0"}}, ["a", "b"])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [crop.section for crop in found.crops["v"]] == [166, 500, 833]
    assert {crop.shape for crop in found.crops["v"]} == {(512, 512)}
    assert {crop.origin for crop in found.crops["v"]} == {(244, 244)}
    assert all(opened(crop.image, "L").std() > 20 for crop in found.crops["v"])
    # A section has 1 MB, the volume 1 GB.
    assert peak < 64e6


def test_a_prediction_that_is_gone_is_named(make_volume: MakeVolume, tmp_path: Path) -> None:
    volume = VolumeFile.read(make_volume(np.eye(16, dtype=np.uint8)[None]))
    allocated = {"v": {"probability": str(tmp_path / "gone.zarr"), "array": "0"}}
    with pytest.raises(UserError, match=r"gone\.zarr/0 was to be read"):
        sections.gallery([volume], allocated, ["a", "b"])
