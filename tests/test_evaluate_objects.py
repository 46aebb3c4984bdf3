"""Objects of a volume on disk are scored as in memory, however it is cut, and where it was predicted and labelled."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells import moving_cells
from skimage.measure import label
from stores import make_store

from unetpipe import config
from unetpipe.arrays import open_array
from unetpipe.evaluate import _without_objects
from unetpipe.grid import Shape
from unetpipe.metrics.streaming import Cut, Task, Totals, count
from unetpipe.metrics.summary import summary
from unetpipe.volume import IGNORE, VolumeFile

SHAPE = (5, 40, 52)
CLASSES = ["background", "cell"]


@pytest.fixture(scope="module")
def stored(make_volume: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A volume, of which frames 1 and 4 and the last columns have no labels, and the address of its probabilities."""
    folder = tmp_path_factory.mktemp("cells")
    grey, ids = moving_cells(SHAPE, 12, 9.0)
    classes = (ids > 0).astype(np.uint8)
    classes[[1, 4]] = IGNORE
    classes[..., 45:] = IGNORE
    address = folder / "instances.zarr"
    size = (1.0, 1.0, 1.0)
    layout: dict[str, Any] = {"chunk": (2, 20, 26), "shard": (2, 40, 52), "voxel_size_nm": size}
    make_store(address, shape=SHAPE, dtype="uint16", **layout)[...] = np.where(classes == IGNORE, 0, ids)
    volume = make_volume(grey, classes, folder=folder, instances=str(address / "0"))
    layout = {"chunk": (1, 2, 20, 26), "shard": (2, 2, 20, 26), "voxel_size_nm": size, "channels": CLASSES}
    array = make_store(folder / "probability.zarr", shape=(2, *SHAPE), dtype="uint8", **layout)
    array[...] = np.stack([255 - grey, grey])
    return volume, str(folder / "probability.zarr" / "0")


def scored(volume: Path, probability: str, cut: Cut) -> dict[str, Any]:
    runs = [count(Task(volume, probability, 1, 1.0, cut, region, None, True)) for region in cut.runs()]
    totals = Totals.of(runs[::-1], cut, 2)
    return summary(VolumeFile.read(volume), totals, CLASSES, "cell", config.Evaluate(), {}, None)


@pytest.mark.parametrize(
    ("slab", "at_once", "slabs"),
    [
        pytest.param((5, 40, 52), 5, 1, id="whole"),
        pytest.param((4, 20, 26), 2, 1, id="quarters"),
        pytest.param((1, 17, 19), 1, 3, id="small pieces"),
    ],
)
def test_objects_score_by_definition_however_sections_are_cut(
    stored: tuple[Path, str], slab: Shape, at_once: int, slabs: int
) -> None:
    volume, probability = stored
    found = scored(volume, probability, Cut(SHAPE, slab, at_once, slabs, thinned=slab[1:] == SHAPE[1:]))
    file = VolumeFile.read(volume)
    ids, truth = open_array(str(file.instances))[...], open_array(str(file.labels))[...]
    certain = open_array(probability)[1].astype(int)
    for k, value in enumerate(found["instances"]["curve"], start=1):
        scores = {z: one_by_one(ids[z], truth[z] != IGNORE, certain[z] * 10 > 255 * k) for z in (0, 2, 3)}
        every = [value for each in scores.values() for value in each]
        assert value == pytest.approx(np.mean(every), abs=1e-15)
        if k == round(10 * found["instances"]["shown_at"]):
            sections = [item["seg"] for item in found["per_section"]]
            assert sections[1] is sections[4] is None
            assert [sections[z] for z in scores] == [pytest.approx(np.mean(each)) for each in scores.values()]
    assert found["instances"]["objects"] == len(every)
    assert found["seg"] == max(found["instances"]["curve"]) == found["instances"]["best"]["value"]


def one_by_one(ids: Any, known: Any, mask: Any) -> list[float]:
    segments, result = label(mask, connectivity=1), []
    for number in np.unique(ids[known & (ids > 0)]):
        mine = (ids == number) & known
        sizes = np.bincount(segments[mine], minlength=2)
        best = int(sizes[1:].argmax()) + 1
        theirs = (segments == best) & known
        result.append(sizes[best] / (mine | theirs).sum() if 2 * sizes[best] > mine.sum() else 0.0)
    return result


def test_why_objects_are_not_compared(make_volume: Callable[..., Path], stored: tuple[Path, str]) -> None:
    numbered = VolumeFile.read(stored[0])
    plain = VolumeFile.read(make_volume(*[np.zeros((1, 8, 8), np.uint8)] * 2))
    assert _without_objects(numbered, "cell", "cell") is None
    assert "labels are classes" in str(_without_objects(plain, None, "cell"))
    told = _without_objects(numbered, "cell", "background")
    assert told == "The labels number objects of the class cell, and the segments are those of background."
