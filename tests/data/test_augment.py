"""Samples follow from the seed alone, whatever the workers and whatever was killed, and show what the volumes hold."""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from distributed import Client
from numpy.typing import NDArray

import unetpipe.data.augment as module
from unetpipe.cluster import for_each
from unetpipe.config import Augment
from unetpipe.data.augment import Recipe, augment, draw_sample
from unetpipe.data.samples import SHARD, SamplesFile, decode
from unetpipe.data.weights import BorderTerm
from unetpipe.errors import UserError
from unetpipe.grid import unet_geometry
from unetpipe.volume import IGNORE, Image, VolumeFile, open_array

CLASSES = ["membrane", "inside"]
COUNT = 2 * SHARD + 3
SETTINGS = Augment(samples=COUNT, tile=(40, 36), border_class="membrane", elastic_sigma=2.0)
STILL = Augment(
    samples=COUNT, tile=(40, 36), elastic_sigma=0, rotation=0, shift=0, scale=0,
    brightness=0, contrast=0, gamma=0, noise=0, blur=0, class_balance=0.0,
)  # fmt: skip
DEPTH = 1  # border 8
Make = Callable[..., Path]


@pytest.fixture
def volumes(make_volume: Make) -> dict[str, list[Path]]:
    """Two volumes to train with, one of them with a missing section, and one to validate with."""
    rng = np.random.default_rng(0)
    paths = []
    for name, shape in (("a", (4, 60, 70)), ("b", (2, 50, 90)), ("v", (3, 48, 48))):
        image = rng.integers(0, 255, shape).astype(np.uint8)
        image[1, :, :] = 0 if name == "a" else image[1]
        labels = (rng.random(shape) < 0.7).astype(np.uint8)
        labels[0, :, :20] = IGNORE
        paths.append(make_volume(image, labels, name=name))
    return {"train": paths[:2], "validate": paths[2:]}


@pytest.fixture
def at_hand(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let samples be drawn by workers that are there already."""

    @contextmanager
    def connect(workers: int) -> Iterator[Client]:
        yield client

    monkeypatch.setattr(module, "connect", connect)


def run(folder: Path, volumes: dict[str, list[Path]], **changes: Any) -> SamplesFile:
    arguments: dict[str, Any] = {
        **volumes, "samples": folder / "samples.json", "store": folder / "samples.zarr",
        "settings": SETTINGS, "depth": DEPTH, "classes": CLASSES, "seed": 1, "cores": 2,
    }  # fmt: skip
    augment(**(arguments | changes))
    return SamplesFile.read(folder / "samples.json")


def content(folder: Path) -> dict[str, NDArray[Any]]:
    group = zarr.open_group(folder / "samples.zarr", mode="r")
    names = [f"train/{name}" for name in ("image", "label", "weight", "source")]
    names += [f"validate/{name}" for name in ("image", "label", "source")]
    return {name: np.asarray(group[name]) for name in names}


def assert_same(folder: Path, other: Path) -> None:
    left, right = content(folder), content(other)
    for name, data in left.items():
        np.testing.assert_array_equal(data, right[name], err_msg=name)


def recipe(settings: Augment, term: BorderTerm | None = None) -> Recipe:
    return Recipe(settings, unet_geometry(DEPTH), (1.0,) * 200, term, seed=0)


@pytest.mark.usefixtures("at_hand")
def test_samples_do_not_depend_on_workers_or_crashes(
    tmp_path: Path, volumes: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    two = run(tmp_path / "two", volumes)

    # Killed after the first shard.
    def stopping(*arguments: Any) -> Iterator[Any]:
        yield next(for_each(*arguments))
        raise KeyboardInterrupt

    killed = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(module, "for_each", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(killed, volumes)
    assert not (killed / "samples.json").exists()
    assert run(killed, volumes) == SamplesFile(**{**vars(two), "store": str(killed / "samples.zarr")})
    assert_same(killed, tmp_path / "two")

    # One worker, started for it.
    monkeypatch.undo()
    assert run(tmp_path / "one", volumes, cores=1).digest == two.digest
    assert_same(tmp_path / "one", tmp_path / "two")


@pytest.mark.usefixtures("at_hand")
def test_a_resumed_run_draws_only_what_is_not_recorded(tmp_path: Path, volumes: dict[str, list[Path]]) -> None:
    before = run(tmp_path, volumes)
    expected = content(tmp_path)
    lost = str(SHARD)
    for log in (tmp_path / "samples.progress").glob("*.jsonl"):
        lines = log.read_text().splitlines()
        log.write_text("\n".join(line for line in lines if f'"name":"{lost}"' not in line) + "\n")
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "samples.zarr").rglob("*") if path.is_file()}
    shutil.rmtree(tmp_path / "samples.zarr" / "train" / "image" / "c" / "1")
    (tmp_path / "samples.json").unlink()
    assert run(tmp_path, volumes) == before
    for name, data in content(tmp_path).items():
        np.testing.assert_array_equal(data, expected[name])
    written = {path for path, time in shards.items() if path.stat().st_mtime_ns != time}
    assert written == {
        path for path in shards if "train" in path.parts and path.relative_to(tmp_path).parts[4:5] == ("1",)
    }


@pytest.mark.usefixtures("at_hand")
@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"seed": 2}, id="seed"),
        pytest.param({"settings": SETTINGS.model_copy(update={"noise": 0.2})}, id="settings"),
        pytest.param({"settings": SETTINGS.model_copy(update={"samples": 5})}, id="count"),
        pytest.param({"validate": []}, id="volumes"),
    ],
)
def test_a_change_draws_all_samples_anew(
    tmp_path: Path, volumes: dict[str, list[Path]], change: dict[str, Any]
) -> None:
    before = run(tmp_path / "there", volumes)
    after = run(tmp_path / "there", volumes, **change)
    assert after.digest != before.digest
    assert run(tmp_path / "fresh", volumes, **change).digest == after.digest
    assert_same(tmp_path / "there", tmp_path / "fresh")


@pytest.mark.usefixtures("at_hand")
def test_a_record_without_its_store_is_not_believed(tmp_path: Path, volumes: dict[str, list[Path]]) -> None:
    before = run(tmp_path, volumes)
    expected = content(tmp_path)
    shutil.rmtree(tmp_path / "samples.zarr")
    assert run(tmp_path, volumes) == before
    for name, data in content(tmp_path).items():
        np.testing.assert_array_equal(data, expected[name])


@pytest.mark.usefixtures("at_hand")
def test_without_changes_samples_are_cut_out_of_the_volumes(tmp_path: Path, volumes: dict[str, list[Path]]) -> None:
    described = run(tmp_path, volumes, settings=STILL)
    found = content(tmp_path)
    paths = [*volumes["train"], *volumes["validate"]]
    assert [v["name"] for v in described.volumes] == ["a", "b", "v"]
    assert (described.train, described.validate) == (COUNT, len(found["validate/image"]))
    centres = set()
    for group in ("train", "validate"):
        for image, label, source in zip(
            *(found[f"{group}/{name}"] for name in ("image", "label", "source")), strict=True
        ):
            index, z, y, x, seed = map(int, source)
            volume = VolumeFile.read(paths[index])
            assert volume.name in ("ab" if group == "train" else "v")
            assert z not in volume.missing_sections
            truth, grey = (np.asarray(open_array(str(a))[z]) for a in (volume.labels, volume.image))
            grey = (grey - grey.mean()) / grey.std()
            # (y, x) of the tile's first voxel in the padded section
            top, left = y - 20 + 64, x - 18 + 64
            whole = np.pad(grey, 64, mode="reflect")[top : top + 40, left : left + 36]
            np.testing.assert_allclose(decode(image), np.clip(whole, -5.12, 5.08), atol=0.0201)
            cut = slice(top + 8, top + 32), slice(left + 8, left + 28)
            if group == "train":
                centres.add((index, z, y, x))
                assert seed >= 0
                assert truth[y, x] != IGNORE
                np.testing.assert_array_equal(label, np.pad(truth, 64, mode="reflect")[cut])
            else:
                np.testing.assert_array_equal(label, np.pad(truth, 64, constant_values=IGNORE)[cut])
    assert len(centres) > COUNT // 2
    np.testing.assert_array_equal(found["train/weight"], found["train/label"] != IGNORE)


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


@pytest.mark.parametrize("axis", ["y", "x"])
@pytest.mark.parametrize("seed", range(8))
def test_labels_stay_where_the_image_is(make_volume: Make, axis: str, seed: int) -> None:
    ramp = np.indices((1, 120, 120))["zyx".index(axis)].astype(np.uint8)
    volume = VolumeFile.read(make_volume(ramp, ramp))
    settings = STILL.model_copy(update={"elastic_sigma": 3.0, "rotation": 180.0, "shift": 10.0, "scale": 0.2})
    image, label, _ = draw_sample(Image(volume), open_array(str(volume.labels)), (0, 60, 60), seed, recipe(settings))
    back = decode(image)[8:-8, 8:-8] * volume.std[0] + volume.mean[0]
    # Half a voxel to the nearest, half a step of the encoding.
    assert abs(back - label).max() <= 0.5 + 0.0201 * volume.std[0]
    assert len(np.unique(label)) > 10


def test_the_border_term_sees_cells_beyond_the_output(make_volume: Make) -> None:
    labels = np.zeros((1, 80, 80), np.uint8)
    # The output is 24 x 20 about (40, 40), columns 30 to 49: one cell within, the other 3 columns beyond it.
    labels[0, :, 45], labels[0, :, 53] = 1, 1
    image = np.random.default_rng(0).integers(0, 255, labels.shape).astype(np.uint8)
    volume = VolumeFile.read(make_volume(image, labels))
    term = BorderTerm(0, 10.0, 5.0)
    _, label, weight = draw_sample(Image(volume), open_array(str(volume.labels)), (0, 40, 40), 0, recipe(STILL, term))
    np.testing.assert_array_equal(label, labels[0, 28:52, 30:50])
    np.testing.assert_allclose(weight[:, 47 - 30], 1 + 10 * np.exp(-((2 + 6) ** 2) / 50), rtol=2**-10)


@pytest.mark.usefixtures("at_hand")
def test_weights_beyond_float16_are_refused(tmp_path: Path, volumes: dict[str, list[Path]]) -> None:
    with pytest.raises(UserError, match="voxels of the class membrane were to weigh"):
        run(tmp_path, volumes, settings=SETTINGS.model_copy(update={"border_weight": 1e5}))


def test_volumes_without_labels_are_refused(tmp_path: Path, make_volume: Make) -> None:
    path = make_volume(np.ones((1, 40, 40), np.uint8))
    with pytest.raises(UserError, match="volume v was to train"):
        run(tmp_path, {"train": [path], "validate": []})


@pytest.mark.usefixtures("at_hand")
def test_a_class_that_does_not_occur_is_told(
    tmp_path: Path, volumes: dict[str, list[Path]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    described = run(tmp_path, volumes, classes=[*CLASSES, "vesicle"])
    assert "the class vesicle does not occur" in caplog.text
    assert described.weight["vesicle"] == 0
