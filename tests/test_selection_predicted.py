"""What is predicted of a part comes out as in the whole run, and nothing else is stored or scored."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from masks import Voxels, as_npy, as_zarr
from onnx_unet import CLASSES
from predicting import make_engine
from rates import allocate

from unetpipe import config
from unetpipe.allocate import read_plan
from unetpipe.arrays import open_array
from unetpipe.errors import UserError
from unetpipe.evaluate import evaluate
from unetpipe.files import read_json, write_json
from unetpipe.grid import Region
from unetpipe.metrics.streaming import Cut, Task, Totals, count
from unetpipe.metrics.summary import summary
from unetpipe.predict import predict
from unetpipe.progress import Record
from unetpipe.selection import Selection
from unetpipe.volume import VolumeFile

IMAGE = np.random.default_rng(3).integers(0, 256, (20, 90, 75), np.uint8)
LABELS = np.random.default_rng(4).integers(0, 3, IMAGE.shape).astype(np.uint8)
TILE = [1, 64, 64]
SOURCE = {"sections": [0, 20], "image_sections": 20}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_engine("openvino", tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def volume(make_volume: Callable[..., Path]) -> Path:
    return make_volume(IMAGE, LABELS, source=SOURCE)


def start(certificate: Path, volume: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    arguments = {"classes": list(CLASSES), "tile": TILE, "batch": 1, "on_change": "refuse"}
    allocate(volume, certificate, folder / "allocated.json", **(arguments | changes))
    return read_json(folder / "allocated.json")


def finish(certificate: Path, folder: Path) -> dict[str, Any]:
    predict(folder / "allocated.json", certificate, folder / "job-0.json", job="job-0", workers=1, cores=1)
    return read_json(folder / "job-0.json")


def stored(allocated: dict[str, Any]) -> Voxels:
    return np.asarray(open_array(f"{allocated['probability']}/{allocated['array']}")[...])


def shards(folder: Path) -> dict[str, bytes]:
    found = (folder / "probability.zarr" / "0" / "c").rglob("*")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if path.is_file()}


@pytest.fixture(scope="module")
def whole(certificate: Path, volume: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the unrestricted prediction."""
    folder = tmp_path_factory.mktemp("whole")
    start(certificate, volume, folder)
    finish(certificate, folder)
    return folder


def some(whole: Path) -> Voxels:
    """A mask that selects two blocks of the prediction: one voxel of the first, and one of the last."""
    plan = read_plan(read_json(whole / "allocated.json"))
    assert math.prod(plan.block_counts) > 2
    mask = np.zeros(plan.shape, np.uint8)
    mask[0, 0, 0] = mask[-1, -1, -1] = 9
    return mask


def test_blocks_of_a_part_are_those_of_the_whole_bit_for_bit(
    certificate: Path, volume: Path, whole: Path, tmp_path: Path
) -> None:
    mask = some(whole)
    allocated = start(certificate, volume, tmp_path, region=[[0, 20], [0, 89], [1, 75]], mask=as_npy(tmp_path, mask))
    chosen = Selection.read(allocated)
    facts = finish(certificate, tmp_path)
    assert (facts["blocks"], facts["computed"], facts["skipped"]) == (2, 2, chosen.total - 2)
    assert {key: allocated["selection"][key] for key in ("blocks", "of")} == {"blocks": 2, "of": chosen.total}
    assert chosen.total == allocated["plan"]["blocks"]
    wanted = chosen.voxels(Region((0, 0, 0), IMAGE.shape))
    # The region ends within a block: what lies beside it in the block is computed too, and from its neighbours.
    assert wanted[-1, -1, -1]
    assert wanted[0, 0, 0]
    expected = stored(read_json(whole / "allocated.json"))
    np.testing.assert_array_equal(stored(allocated), np.where(wanted, expected, 0))
    assert shards(tmp_path).items() <= shards(whole).items()
    assert len(shards(tmp_path)) == 2
    assert finish(certificate, tmp_path)["computed"] == 0


def test_another_part_is_refused_or_begun_anew(certificate: Path, volume: Path, tmp_path: Path) -> None:
    mask = np.zeros((6, 9, 9), np.uint8)
    mask[0, 0, 0] = 1
    address = as_npy(tmp_path, mask)
    start(certificate, volume, tmp_path, mask=address)
    finish(certificate, tmp_path)
    before = shards(tmp_path)
    start(certificate, volume, tmp_path, mask=address)
    mask[0, 0, 0], mask[5, 8, 8] = 0, 1
    as_npy(tmp_path, mask)
    for change, what in (
        ({"mask": address}, r"selection\.mask: was"),
        ({"region": [[0, 1], [0, 9], [0, 7]]}, r"(?s)selection\.mask: was .*selection\.region: was null"),
        ({}, "selection: was"),
    ):
        with pytest.raises(UserError, match=what):
            start(certificate, volume, tmp_path, **change)
    assert shards(tmp_path) == before
    start(certificate, volume, tmp_path, mask=address, on_change="restart")
    # Nothing would overwrite what is not wanted any more.
    assert shards(tmp_path) == {}
    assert finish(certificate, tmp_path)["computed"] == len(shards(tmp_path)) > 0
    assert before.keys().isdisjoint(shards(tmp_path))


def test_a_mask_that_says_the_same_with_another_date_is_the_same(
    certificate: Path, volume: Path, tmp_path: Path
) -> None:
    address = as_npy(tmp_path, np.ones((1, 1, 3), np.uint8))
    start(certificate, volume, tmp_path, mask=address)
    Record(tmp_path / "progress").append("w", {"name": "0.0.0"})
    os.utime(address, ns=(1, 1))
    start(certificate, volume, tmp_path, mask=address)
    assert Record(tmp_path / "progress").done()


def test_a_mask_that_changed_since_the_blocks_were_chosen_is_refused(
    certificate: Path, volume: Path, tmp_path: Path
) -> None:
    address = as_zarr(tmp_path, np.ones((6, 9, 9), np.uint8))
    start(certificate, volume, tmp_path, mask=address)
    zarr.open_array(address, mode="r+")[0, 0, 0] = 0
    with pytest.raises(UserError, match=r"(?s)m\.zarr is not 0.*delete the allocated\.json"):
        finish(certificate, tmp_path)


def test_a_mask_covers_the_image_and_not_the_sections_that_are_used(
    certificate: Path, make_volume: Callable[..., Path], tmp_path: Path
) -> None:
    volume = make_volume(IMAGE, source={"sections": [20, 40], "image_sections": 60})
    mask = np.zeros((3, 1, 1), np.uint8)
    mask[1] = 1
    assert start(certificate, volume, tmp_path, mask=as_npy(tmp_path, mask))["selection"]["blocks"] > 0
    with pytest.raises(UserError, match=r"m\.npy.*\n.*all its voxels are 0 in every block"):
        start(certificate, volume, tmp_path, mask=as_npy(tmp_path, 1 - mask))
    with pytest.raises(UserError, match="how many sections the image has"):
        start(certificate, make_volume(IMAGE), tmp_path / "old", mask=as_npy(tmp_path, mask))


@pytest.mark.long
def test_voxels_that_were_not_to_be_predicted_are_not_scored(
    certificate: Path, volume: Path, whole: Path, make_volume: Callable[..., Path], tmp_path: Path
) -> None:
    allocated = start(certificate, volume, tmp_path / "part", mask=as_npy(tmp_path, some(whole)))
    finish(certificate, tmp_path / "part")
    wanted = Selection.read(allocated).voxels(Region((0, 0, 0), IMAGE.shape))
    # The same prediction, of a volume whose labels end where it ends.
    labels = np.where(wanted, LABELS, 255).astype(np.uint8)
    other = read_json(tmp_path / "part" / "allocated.json") | {"selection": None}
    write_json(tmp_path / "other" / "allocated.json", other)
    unlabelled = make_volume(IMAGE, labels, source=SOURCE)
    for largest in (2**24, 0):
        expected = counted(unlabelled, tmp_path / "other" / "allocated.json", largest)
        assert counted(volume, tmp_path / "part" / "allocated.json", largest) == expected
    scores = tmp_path / "scores.json"
    evaluate(
        volume, tmp_path / "part" / "allocated.json", [], [], scores,
        role="test", classes=list(CLASSES), objects="inside", settings=config.Evaluate(largest_section=0), cores=1,
    )  # fmt: skip
    found = read_json(scores)
    assert {key: found[key] for key in expected} == expected
    assert found["scored_voxels"] == wanted.sum() < wanted.size


def counted(volume: Path, allocated: Path, largest_section: int) -> dict[str, Any]:
    """The scores without a cluster."""
    description = read_json(allocated)
    cut = Cut.of(read_plan(description), largest_section, workers=1)
    address = f"{description['probability']}/{description['array']}"
    runs = [count(Task(volume, address, 1, 2.0, cut, region, allocated)) for region in cut.runs()]
    given = config.Evaluate(largest_section=largest_section)
    return summary(VolumeFile.read(volume), Totals.of(runs, cut, 3), list(CLASSES), "inside", given, {})
