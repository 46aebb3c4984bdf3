"""Samples are centred on labelled voxels, each as likely as any other."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from distributed import Client
from numpy.typing import NDArray

from unetpipe.arrays import open_array
from unetpipe.data.positions import Census, take_census
from unetpipe.errors import UserError
from unetpipe.volume import IGNORE, VolumeFile

CLASSES = ["membrane", "inside", "unused"]
MakeVolume = Callable[..., Path]


def some_labels(seed: int, shape: tuple[int, int, int], ignored: float) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < ignored, IGNORE, rng.integers(0, 2, shape)).astype(np.uint8)


@pytest.fixture
def labelled(make_volume: MakeVolume) -> tuple[list[Path], list[NDArray[np.uint8]]]:
    """A volume labelled everywhere that has a missing section, and one with few labels in several shards."""
    dense = some_labels(1, (9, 20, 30), 0.0)
    sparse = some_labels(2, (2, 40, 1300), 0.9)
    images = [np.random.default_rng(0).integers(0, 255, labels.shape).astype(np.uint8) for labels in (dense, sparse)]
    images[0][4] = 0
    paths = [
        make_volume(image, labels, name=name) for image, labels, name in zip(images, (dense, sparse), "ab", strict=True)
    ]
    dense[4] = IGNORE
    return paths, [dense, sparse]


def voxel_of(census: Census, paths: Sequence[Path], place: int, rank: int) -> tuple[int, int, int, int]:
    patch = census.patches[place]
    volume = VolumeFile.read(paths[patch.volume])
    return patch.volume, *patch.find(rank, open_array(str(volume.labels)), volume.shape)


def test_every_labelled_voxel_has_one_rank(
    client: Client, labelled: tuple[list[Path], list[NDArray[np.uint8]]]
) -> None:
    paths, labels = labelled
    census = take_census(client, paths, CLASSES)
    expected = {(v, *map(int, where)) for v, plane in enumerate(labels) for where in np.argwhere(plane != IGNORE)}
    assert sum(patch.labelled for patch in census.patches) == len(expected)
    rng = np.random.default_rng(0)
    for place, patch in enumerate(census.patches):
        ranks = rng.integers(patch.labelled, size=5) if patch.labelled > 200 else range(patch.labelled)
        found = [voxel_of(census, paths, place, int(rank)) for rank in ranks]
        assert len(set(found)) == len(set(map(int, ranks)))
        assert set(found) <= expected


def test_classes_are_counted_without_missing_sections(
    client: Client, labelled: tuple[list[Path], list[NDArray[np.uint8]]]
) -> None:
    paths, labels = labelled
    everything = np.concatenate([plane.ravel() for plane in labels])
    counts = tuple(int((everything == index).sum()) for index in range(3))
    assert take_census(client, paths, CLASSES).voxels == counts


def test_sections_known_to_have_no_labels_need_not_be_read(
    client: Client, make_volume: MakeVolume, tmp_path: Path
) -> None:
    labels = some_labels(3, (40, 20, 30), 0.5)
    labels[:17] = labels[18:] = IGNORE
    image = np.random.default_rng(0).integers(0, 255, labels.shape).astype(np.uint8)
    expected = take_census(client, [make_volume(image, labels)], CLASSES)
    counts = (labels != IGNORE).sum(axis=(1, 2)).tolist()
    path = make_volume(image, labels, folder=tmp_path, source={"labelled": counts})
    for lost in (0, 1, 3, 4):
        (tmp_path / "volumes" / "v" / "labels.zarr" / "0" / "c" / str(lost) / "0" / "0").unlink()
    found = take_census(client, [path], CLASSES)
    assert found == expected
    assert sum(patch.labelled for patch in found.patches) == counts[17] == sum(found.voxels)


def test_voxels_are_drawn_with_equal_chances(
    client: Client, labelled: tuple[list[Path], list[NDArray[np.uint8]]]
) -> None:
    census = take_census(client, labelled[0], CLASSES)
    rng = np.random.default_rng(7)
    drawn = [census.draw(rng) for _ in range(20000)]
    assert all(0 <= rank < patch.labelled for patch, rank in drawn)
    total = sum(patch.labelled for patch in census.patches)
    for patch in census.patches:
        share = patch.labelled / total
        found = sum(other is patch for other, _ in drawn) / len(drawn)
        assert found == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / len(drawn)))
    within = [rank / patch.labelled for patch, rank in drawn]
    assert np.mean(within) == pytest.approx(0.5, abs=5 / np.sqrt(12 * len(drawn)))


def test_all_workers_see_the_same_census(client: Client, labelled: tuple[list[Path], list[NDArray[np.uint8]]]) -> None:
    first = take_census(client, labelled[0], CLASSES)
    assert first == take_census(client, labelled[0], CLASSES)
    order = [(patch.volume, patch.region.start) for patch in first.patches]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param(IGNORE, "not one voxel is labelled", id="nothing"),
        pytest.param(1, "all 600 labelled voxels are of one class, inside", id="one-class"),
        pytest.param(7, r"the class indices \[7\]; there are the classes membrane, inside, unused", id="strange"),
    ],
)
def test_labels_from_which_nothing_can_be_learnt_are_refused(
    client: Client, make_volume: MakeVolume, value: int, message: str
) -> None:
    image = np.random.default_rng(0).integers(0, 255, (1, 20, 30)).astype(np.uint8)
    path = make_volume(image, np.full(image.shape, value, np.uint8))
    with pytest.raises(UserError, match=message):
        take_census(client, [path], CLASSES)
