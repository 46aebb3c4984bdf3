"""Samples show what the volumes hold: voxels, labels and weights stay together through every change."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawing import CHANNELS, CLASSES, COUNT, FLAT, IN_3D, SETTINGS, STACK, Make, content, run
from numpy.typing import NDArray

from unetpipe.arrays import open_array
from unetpipe.config import Augment, Network
from unetpipe.data.augment import Recipe, draw_sample
from unetpipe.data.samples import SamplesFile, decode
from unetpipe.data.weights import BorderTerm
from unetpipe.errors import UserError
from unetpipe.grid import Region, Shape
from unetpipe.volume import IGNORE, Image, VolumeFile

STILL = Augment(
    samples=COUNT, tile=(40, 36), elastic_sigma=0, rotation=0, shift=0, scale=0,
    brightness=0, contrast=0, gamma=0, noise=0, blur=0, class_balance=0.0,
)  # fmt: skip


networks = pytest.mark.parametrize(
    ("network", "changes"),
    [
        pytest.param(FLAT, {}, id="2D"),
        pytest.param(CHANNELS, {}, id="2.5D"),
        pytest.param(STACK, IN_3D, id="3D"),
    ],
)


def recipe(settings: Augment, term: BorderTerm | None = None, network: Network = FLAT) -> Recipe:
    return Recipe(settings, network.geometry, network.tile(settings.tile), (1.0,) * 200, term, seed=0)


def padded(volume: VolumeFile, beyond: dict[str, Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Grey values and labels to learn from, with 64 voxels around; of labels, as ``beyond`` tells np.pad."""
    truth, grey = (np.asarray(open_array(str(address))[...]) for address in (volume.labels, volume.image))
    missing = list(volume.missing_sections)
    truth[missing] = IGNORE
    std = grey.std(axis=(1, 2), keepdims=True)
    grey = (grey - grey.mean(axis=(1, 2), keepdims=True)) / np.where(std, std, 1)
    # Single ones within the volume: the earlier neighbour is shown.
    grey[missing] = grey[[z - 1 for z in missing]]
    return np.pad(grey, 64, mode="reflect"), np.pad(truth, 64, **beyond)


def mirrored(z: int, count: int) -> int:
    """The section that stands at ``z``, which may lie beyond a volume of ``count`` sections."""
    while not 0 <= z < count:
        z = -z if z < 0 else 2 * (count - 1) - z
    return z


@pytest.mark.usefixtures("at_hand")
@networks
def test_without_changes_samples_are_cut_out_of_the_volumes(
    tmp_path: Path, volumes: dict[str, list[Path]], network: Network, changes: dict[str, Any]
) -> None:
    settings = STILL.model_copy(update=changes)
    described = run(tmp_path, volumes, settings=settings, network=network)
    found = content(tmp_path)
    paths = [*volumes["train"], *volumes["validate"]]
    assert [v["name"] for v in described.volumes] == ["a", "b", "v"]
    assert (described.train, described.validate) == (COUNT, len(found["validate/image"]))
    tile, border = network.tile(settings.tile), network.geometry.border
    assert (described.tile, described.border) == (tile, border)
    centres, gaps = set(), 0
    volumes_of = [VolumeFile.read(path) for path in paths]
    for group, names in (("train", "ab"), ("validate", "v")):
        beyond: dict[str, Any] = {"mode": "reflect"} if group == "train" else {"constant_values": IGNORE}
        voxels = [padded(volume, beyond) for volume in volumes_of]
        for image, label, (index, *centre, seed) in zip(
            *(found[f"{group}/{name}"] for name in ("image", "label", "source")), strict=True
        ):
            volume, (grey, truth) = volumes_of[index], voxels[index]
            assert volume.name in names
            first = [int(c) - n // 2 + 64 for c, n in zip(centre, tile, strict=True)]
            whole = grey[Region.of(first, tile).slices]
            np.testing.assert_allclose(decode(image), np.clip(whole, -5.12, 5.08), atol=0.0201)
            output = Region.of([a + b for a, b in zip(first, border, strict=True)], network.geometry.output(tile))
            np.testing.assert_array_equal(label, truth[output.slices])
            gaps += sum(
                mirrored(z - 64, volume.shape[0]) in volume.missing_sections
                for z in range(output.start[0], output.stop[0])
            )
            if group == "train":
                centres.add((int(index), *map(int, centre)))
                assert seed >= 0
                assert truth[tuple(np.add(centre, 64))] != IGNORE
    assert len(centres) > COUNT // 2
    # One section at a time is never a missing one; a stack has some.
    assert (gaps > 0) == (network is STACK)
    np.testing.assert_array_equal(found["train/weight"], found["train/label"] != IGNORE)


@pytest.mark.usefixtures("at_hand")
@networks
def test_where_few_voxels_are_labelled_every_sample_shows_one(
    tmp_path: Path, make_volume: Make, network: Network, changes: dict[str, Any]
) -> None:
    rng = np.random.default_rng(0)
    paths = []
    for name, shape in (("a", (9, 80, 90)), ("b", (3, 60, 200))):
        labels = np.full(shape, IGNORE, np.uint8)
        labels[shape[0] // 2, 30, 40:42] = 0, 1
        paths.append(make_volume(rng.integers(0, 255, shape).astype(np.uint8), labels, name=name))
    # As far as half of what the network gives: without another attempt many samples would show none.
    settings = SETTINGS.model_copy(update={"shift": 12.0, "elastic_sigma": 6.0, "border_class": None, **changes})
    described = run(tmp_path, {"train": paths, "validate": paths[1:]}, network=network, settings=settings)
    found = content(tmp_path)
    assert described.voxels == {"membrane": 2, "inside": 2}
    labelled = found["train/label"] != IGNORE
    assert labelled.any(axis=(1, 2, 3)).all()
    assert labelled.mean() < 0.02
    np.testing.assert_array_equal(found["train/weight"] > 0, labelled)
    assert set(found["train/source"][:, 0]) == {0, 1}
    # Of the tiles of a volume to validate, those with a labelled voxel alone.
    assert (found["validate/label"] != IGNORE).any(axis=(1, 2, 3)).all()
    assert (found["validate/label"] != IGNORE).sum() == 2


@pytest.mark.usefixtures("at_hand")
def test_a_label_that_no_deformation_keeps_is_told(tmp_path: Path, make_volume: Make) -> None:
    labels = np.full((1, 400, 400), IGNORE, np.uint8)
    labels[0, 200, 200:202] = 0, 1
    path = make_volume(np.random.default_rng(0).integers(0, 255, labels.shape).astype(np.uint8), labels)
    settings = STILL.model_copy(update={"shift": 1e6})
    message = r"about the labelled voxel \[0, 200, 20[01]\] .* of the volume v\n.*100 deformations.*\n.*augment\.shift"
    with pytest.raises(UserError, match=message):
        run(tmp_path, {"train": [path], "validate": []}, settings=settings)


@pytest.mark.usefixtures("at_hand")
def test_class_weights_of_the_settings_count_beside_the_frequencies(
    tmp_path: Path, volumes: dict[str, list[Path]]
) -> None:
    plain = run(tmp_path / "plain", volumes)
    weighted = run(
        tmp_path / "weighted", volumes, settings=SETTINGS.model_copy(update={"class_weights": {"membrane": 3.0}})
    )
    ratios = {name: weighted.weight[name] / plain.weight[name] for name in CLASSES}
    assert ratios["membrane"] == pytest.approx(3 * ratios["inside"])
    assert sum(weighted.frequency[name] * weighted.weight[name] for name in CLASSES) == pytest.approx(1)


@pytest.mark.usefixtures("at_hand")
def test_weights_balance_the_classes_and_skip_what_is_ignored(tmp_path: Path, volumes: dict[str, list[Path]]) -> None:
    described = run(tmp_path, volumes, settings=SETTINGS.model_copy(update={"border_class": None}))
    found = content(tmp_path)
    for index, name in enumerate(CLASSES):
        here = found["train/weight"][found["train/label"] == index]
        assert (here == np.float16(described.weight[name])).all()
    assert (found["train/weight"][found["train/label"] == IGNORE] == 0).all()
    assert sum(described.frequency.values()) == pytest.approx(1)
    assert sum(described.frequency[name] * described.weight[name] for name in CLASSES) == pytest.approx(1)


@pytest.mark.parametrize(
    ("network", "tile"),
    [
        pytest.param(CHANNELS, (5, 40, 36), id="2.5D"),
        pytest.param(STACK, (16, 40, 36), id="3D"),
        pytest.param(STACK, (13, 40, 36), id="3D-odd"),
    ],
)
@pytest.mark.parametrize("centre", [(0, 30, 35), (3, 8, 60), (6, 59, 0)], ids=str)
@pytest.mark.parametrize("missing", [(), (1,), (0, 4, 5)], ids=str)
def test_every_section_is_what_a_draw_of_that_section_alone_gives(
    make_volume: Make, network: Network, tile: Shape, centre: Shape, missing: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 255, (7, 60, 70)).astype(np.uint8)
    grey[list(missing)] = 0
    truth = rng.integers(0, 3, grey.shape).astype(np.uint8)
    truth[:, ::9] = IGNORE
    volume = VolumeFile.read(make_volume(grey, truth))
    image, labels = Image(volume), open_array(str(volume.labels))
    # All but the noise, of which each voxel has its own.
    settings = SETTINGS.model_copy(update={"noise": 0.0, "tile": tile if network is STACK else tile[1:]})
    alone = settings.model_copy(update={"tile": tile[1:]})
    term, border = BorderTerm(0, 10.0, 2.0), network.geometry.border[0]
    found = draw_sample(image, labels, centre, 5, recipe(settings, term, network))
    assert found[0].shape == tile
    assert found[1].shape == found[2].shape == (tile[0] - 2 * border, 24, 20)
    for number in range(tile[0]):
        z = mirrored(centre[0] - tile[0] // 2 + number, 7)
        section = draw_sample(image, labels, (z, *centre[1:]), 5, recipe(alone, term))
        np.testing.assert_array_equal(found[0][number], section[0][0])
        if border <= number < tile[0] - border:
            np.testing.assert_array_equal(found[1][number - border], section[1][0])
            np.testing.assert_array_equal(found[2][number - border], section[2][0])
            assert (section[1] == IGNORE).all() == (z in missing)


@networks
@pytest.mark.parametrize("axis", ["z", "y", "x"])
@pytest.mark.parametrize("seed", range(4))
def test_labels_stay_where_the_image_is(
    make_volume: Make, axis: str, seed: int, network: Network, changes: dict[str, Any]
) -> None:
    ramp = np.indices((9, 120, 120))["zyx".index(axis)].astype(np.uint8)
    constants = {"mean": (60.0,) * 9, "std": (20.0,) * 9, "missing_sections": ()}
    volume = VolumeFile.read(make_volume(ramp, ramp, **constants))
    settings = STILL.model_copy(
        update={"elastic_sigma": 3.0, "rotation": 180.0, "shift": 10.0, "scale": 0.2, **changes}
    )
    with_border = recipe(settings, network=network)
    image, label, _ = draw_sample(Image(volume), open_array(str(volume.labels)), (4, 60, 60), seed, with_border)
    inner = tuple(slice(b, n - b) for b, n in zip(network.geometry.border, image.shape, strict=True))
    back = decode(image)[inner] * 20 + 60
    # Half a voxel to the nearest within a section, none between sections; half a step of the encoding.
    assert abs(back - label).max() <= (0 if axis == "z" else 0.5) + 0.0201 * 20
    assert len(np.unique(label)) > (10 if axis != "z" else len(label) // 2)


@pytest.mark.parametrize("finer", [(2, 2), (3, 1), (1, 2)], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_a_finer_volume_gives_the_samples_of_a_coarser_one(
    make_volume: Make, finer: tuple[int, int], seed: int
) -> None:
    """Of the same tissue, a wave along each axis; the voxel (y, x) of one is the voxel (y fy, x fx) of the other."""

    def seen(size: tuple[int, int], nm: tuple[float, float]) -> VolumeFile:
        y, x = (np.arange(n) * edge for n, edge in zip(size, nm, strict=True))
        wave = np.sin(y[:, None] / 50) + np.cos(x / 40)
        image = np.stack([127 + 60 * wave, 127 - 50 * wave]).astype(np.uint8)
        truth = np.stack([wave > 0, wave > 0.5]).astype(np.uint8)
        constants: dict[str, Any] = {"mean": (127.0,) * 2, "std": (50.0,) * 2, "missing_sections": ()}
        return VolumeFile.read(make_volume(image, truth, voxel_size_nm=(40.0, *nm), **constants))

    coarse = seen((90, 100), (8.0, 8.0))
    fine = seen((90 * finer[0], 100 * finer[1]), (8 / finer[0], 8 / finer[1]))
    moved = STILL.model_copy(update={"elastic_sigma": 2.0, "rotation": 180.0, "shift": 5.0, "scale": 0.1})
    samples = []
    for volume, centre, settings in (
        (coarse, (1, 45, 50), moved),
        (coarse, (1, 45, 50), moved.model_copy(update={"voxel_size_nm": (8.0, 8.0)})),
        (fine, (1, 45 * finer[0], 50 * finer[1]), moved.model_copy(update={"voxel_size_nm": (8.0, 8.0)})),
    ):
        samples.append(draw_sample(Image(volume), open_array(str(volume.labels)), centre, seed, recipe(settings)))
    for at_its_size, resampled_to_its_size in zip(*samples[:2], strict=True):
        np.testing.assert_array_equal(at_its_size, resampled_to_its_size)
    # Steps of grey values in the file, 1/50, and of the encoding, 1/25.
    assert abs(decode(samples[2][0]) - decode(samples[0][0])).max() <= 0.1
    assert (samples[2][1] != samples[0][1]).mean() < 0.05
    assert len(np.unique(samples[0][1])) == 2


@pytest.mark.usefixtures("at_hand")
def test_samples_of_two_voxel_sizes_come_with_the_one_they_have(
    tmp_path: Path, volumes: dict[str, list[Path]], make_volume: Make
) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (2, 100, 110)).astype(np.uint8)
    finer = make_volume(noise * 200, noise, name="finer", voxel_size_nm=(40.0, 2.0, 2.0))
    unknown = make_volume(noise * 200, noise, name="unknown", source={"voxel_size_known": False})
    both = {"train": [volumes["train"][0], finer], "validate": []}
    resampled = SETTINGS.model_copy(update={"voxel_size_nm": (4.0, 4.0)})
    assert run(tmp_path / "first", both).voxel_size_nm == (4.0, 4.0)
    assert run(tmp_path / "asked", both, settings=resampled).voxel_size_nm == (4.0, 4.0)
    found = [content(tmp_path / folder) for folder in ("first", "asked")]
    same = [(a == b).all() for a, b in zip(*(samples["train/image"] for samples in found), strict=True)]
    assert same == (found[0]["train/source"][:, 0] == 0).tolist()
    # The voxel size of a volume then changes what is drawn.
    wrong = make_volume(noise * 200, noise, name="finer", voxel_size_nm=(40.0, 3.0, 2.0))
    assert run(tmp_path / "asked", both | {"train": [both["train"][0], wrong]}, settings=resampled).digest not in {
        SamplesFile.read(tmp_path / "first" / "samples.json").digest
    }
    again = content(tmp_path / "asked")["train/image"]
    assert not np.array_equal(again, found[1]["train/image"])

    alone = {"train": [unknown], "validate": []}
    assert run(tmp_path / "alone", alone).voxel_size_nm is None
    with pytest.raises(UserError, match=r"volume unknown were to be resampled to \[4\.0, 4\.0\] nm"):
        run(tmp_path / "alone", alone, settings=resampled)


def test_the_border_term_sees_cells_beyond_the_output(make_volume: Make) -> None:
    labels = np.zeros((1, 80, 80), np.uint8)
    # The output is 24 x 20 about (40, 40), columns 30 to 49: one cell within, the other 3 columns beyond it.
    labels[0, :, 45], labels[0, :, 53] = 1, 1
    image = np.random.default_rng(0).integers(0, 255, labels.shape).astype(np.uint8)
    volume = VolumeFile.read(make_volume(image, labels))
    term = BorderTerm(0, 10.0, 5.0)
    _, label, weight = draw_sample(Image(volume), open_array(str(volume.labels)), (0, 40, 40), 0, recipe(STILL, term))
    np.testing.assert_array_equal(label, labels[:, 28:52, 30:50])
    np.testing.assert_allclose(weight[0, :, 47 - 30], 1 + 10 * np.exp(-((2 + 6) ** 2) / 50), rtol=2**-10)
