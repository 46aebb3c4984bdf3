"""The wanted blocks are those that meet region and mask, whatever the resolution, and come out as in the whole run."""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from engines import make_engine_in
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx_unet import CLASSES, unet
from rates import allocate

from unetpipe import config, selection
from unetpipe.allocate import read_plan
from unetpipe.config import Network
from unetpipe.data.sources.contract import Source
from unetpipe.engines import device_class
from unetpipe.errors import UserError
from unetpipe.evaluate import evaluate
from unetpipe.files import digest, read_json, write_json
from unetpipe.grid import Block, Plan, Region, Shape
from unetpipe.metrics.streaming import Cut, Task, Totals, count
from unetpipe.metrics.summary import summary
from unetpipe.predict import predict
from unetpipe.progress import Record
from unetpipe.selection import Frame, Selection
from unetpipe.volume import VolumeFile, open_array

GEOMETRY = Network(depth=1).geometry

Voxels = NDArray[Any]


def planned(shape: Shape, tiles: Shape) -> Plan:
    """Blocks of so many tiles that keep (1, 4, 6) voxels each."""
    tile = GEOMETRY.tile_for((1, 4, 6))
    block = (tiles[0], tiles[1] * 4, tiles[2] * 6)
    return Plan(shape, tile, block, block, 1, GEOMETRY)


def meets(region: Region, other: Region) -> bool:
    return all(a < d and c < b for (a, b), (c, d) in zip(region.spans, other.spans, strict=True))


def wanted_by(plan: Plan, mask: Voxels, frame: Frame) -> set[Shape]:
    """The definition: for each mask voxel that is not 0 the box of image that it covers, in exact fractions."""
    image = (frame.sections, *plan.shape[1:])
    found = set()
    for index in zip(*np.nonzero(mask), strict=True):
        covered = [
            (Fraction(int(i) * n, m), Fraction((int(i) + 1) * n, m))
            for i, n, m in zip(index, image, mask.shape, strict=True)
        ]
        for block in plan.blocks():
            write = block.write
            places = [(a + o, b + o) for (a, b), o in zip(write.spans, (frame.first, 0, 0), strict=True)]
            if all(a < d and c < b for (a, b), (c, d) in zip(places, covered, strict=True)):
                found.add(block.index)
    return found


@contextmanager
def reading_at_most(count: int) -> Iterator[None]:
    before = selection._BYTES_AT_ONCE
    selection._BYTES_AT_ONCE = count
    try:
        yield
    finally:
        selection._BYTES_AT_ONCE = before


def small(low: int, high: int) -> st.SearchStrategy[Shape]:
    return st.tuples(*[st.integers(low, high)] * 3)


@settings(max_examples=70)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 70)),
    tiles=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 2)),
    mask_shape=small(1, 12),
    share=st.sampled_from([0.02, 0.3]),
    around=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    corners=st.none() | st.tuples(small(0, 90), small(0, 90)),
    at_once=st.sampled_from([1, 30, 1 << 20]),
    chunk=small(1, 5),
    seed=st.integers(0, 99),
)
def test_a_block_is_wanted_if_it_meets_the_region_and_a_voxel_of_the_mask(
    shape: Shape,
    tiles: Shape,
    mask_shape: Shape,
    share: float,
    around: tuple[int, int],
    corners: tuple[Shape, Shape] | None,
    at_once: int,
    chunk: Shape,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    rng = np.random.default_rng(seed)
    plan, frame = planned(shape, tiles), Frame(around[0], sum(around) + shape[0])
    mask = rng.random(mask_shape) < share
    region = None
    if corners is not None:
        a, b = ([i % n for i, n in zip(corner, shape, strict=True)] for corner in corners)
        region = Region.between([(min(i, j), max(i, j) + 1) for i, j in zip(a, b, strict=True)])
    expected = {
        index for index in wanted_by(plan, mask, frame) if region is None or meets(Block(plan, index).write, region)
    }
    address = str(tmp_path_factory.mktemp("mask") / "mask.zarr")
    zarr.create_array(address, shape=mask_shape, chunks=chunk, dtype="uint8")[...] = mask * 7
    with reading_at_most(at_once):
        if not expected:
            with pytest.raises(UserError, match="nothing would be predicted"):
                Selection.of(plan, region, address, frame)
            return
        found = Selection.of(plan, region, address, frame)
    again = Selection.read(json.loads(json.dumps({"plan": dataclasses.asdict(plan), "selection": found.as_json()})))
    every = np.zeros(plan.shape, np.bool_)
    for index in expected:
        every[Block(plan, index).write.slices] = True
    for chosen in (found, again):
        assert [block.index for block in chosen.blocks(plan)] == sorted(expected)
        assert {block.index for block in plan.blocks() if chosen.wants(block)} == expected
        assert chosen.count == len(expected)
        assert chosen.total == math.prod(plan.block_counts)
        assert chosen.key == found.key
        low = [int(rng.integers(0, n)) for n in shape]
        some = Region.between([(a, int(rng.integers(a + 1, n + 1))) for a, n in zip(low, shape, strict=True)])
        np.testing.assert_array_equal(chosen.voxels(some), every[some.slices])


def test_without_region_and_mask_all_blocks_are_wanted() -> None:
    plan = planned((5, 30, 30), (2, 1, 2))
    found = Selection.of(plan)
    assert list(found.blocks(plan)) == list(plan.blocks())
    assert (found.is_part, found.key, found.count) == (False, {}, found.total)
    # What an earlier version allocated says nothing of a selection.
    assert Selection.read({"plan": dataclasses.asdict(plan)}).count == found.total


def as_zarr(folder: Path, mask: Voxels) -> str:
    zarr.create_array(folder / "m.zarr", shape=mask.shape, chunks=(2, 3, 3), dtype=mask.dtype)[...] = mask
    return str(folder / "m.zarr")


def as_tiff(folder: Path, mask: Voxels) -> str:
    tifffile.imwrite(folder / "m.tif", mask, photometric="minisblack")
    return str(folder / "m.tif")


def as_npy(folder: Path, mask: Voxels) -> str:
    np.save(folder / "m.npy", mask)
    return str(folder / "m.npy")


def as_h5(folder: Path, mask: Voxels) -> str:
    with h5py.File(folder / "m.h5", "w") as file:
        file["mask"] = mask
    return f"{folder}/m.h5:/mask"


FORMATS: dict[str, Callable[[Path, Voxels], str]] = {"Zarr": as_zarr, "TIFF": as_tiff, "npy": as_npy, "h5": as_h5}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_mask_is_read_from_any_format_slab_by_slab(
    form: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned((12, 40, 60), (2, 2, 2))
    mask = (np.random.default_rng(1).random((6, 7, 8)) < 0.05).astype(dtype)
    most = 2 * mask[0].nbytes
    sizes = []

    def counting(source: Source, piece: Region) -> Voxels:
        sizes.append(piece.voxels * mask.itemsize)
        return read(source, piece)

    read = selection._piece
    monkeypatch.setattr(selection, "_piece", counting)
    with reading_at_most(most):
        found = Selection.of(plan, mask=FORMATS[form](tmp_path, mask))
    assert {block.index for block in found.blocks(plan)} == wanted_by(plan, mask, Frame(0, 12))
    assert max(sizes) <= most
    assert sum(sizes) == mask.nbytes, "every voxel is read once"


def test_of_a_mask_only_what_meets_the_region_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned((12, 40, 60), (2, 1, 1))
    address = as_zarr(tmp_path, np.ones((12, 40, 60), np.uint8))
    boxes: list[Region] = []
    read = selection._piece
    monkeypatch.setattr(selection, "_piece", lambda source, piece: boxes.append(piece) or read(source, piece))
    Selection.of(plan, Region((3, 5, 7), (4, 6, 8)), address)
    assert sum(box.voxels for box in boxes) == math.prod(plan.block)


def test_a_flat_mask_holds_for_all_sections(tmp_path: Path) -> None:
    plan = planned((7, 8, 12), (2, 1, 1))
    found = Selection.of(plan, mask=as_tiff(tmp_path, np.array([[0, 0], [1, 0]], np.uint8)))
    assert {block.index for block in found.blocks(plan)} == {(z, 1, 0) for z in range(4)}


@pytest.mark.parametrize(
    ("region", "message"),
    [
        pytest.param(Region((0, 2, 0), (5, 2, 9)), r"\[2, 2\) along y holds no voxel", id="empty"),
        pytest.param(Region((0, 0, 0), (6, 8, 9)), r"\[0, 6\) along z reaches beyond .* 5 voxels there", id="beyond"),
        pytest.param(Region((0, 0, -1), (5, 8, 9)), r"\[-1, 9\) along x reaches beyond", id="before"),
    ],
)
def test_a_region_that_the_volume_does_not_have_is_refused(region: Region, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Selection.of(planned((5, 8, 9), (1, 1, 1)), region)


# With a prediction.

IMAGE = np.random.default_rng(3).integers(0, 256, (20, 90, 75), np.uint8)
LABELS = np.random.default_rng(4).integers(0, 3, IMAGE.shape).astype(np.uint8)
TILE = [1, 64, 64]
SOURCE = {"sections": [0, 20], "image_sections": 20}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    (folder / "model.onnx").write_bytes(unet([4, 6, 8]).SerializeToString(deterministic=True))
    make_engine_in(folder, folder / "model.onnx", "openvino")
    write_json(
        folder / "certificate.json",
        {
            "geometry": dataclasses.asdict(Network(depth=2).geometry),
            "engine_digest": digest(folder / "engine"),
            "device_class": device_class("openvino"),
            "backend": "openvino",
            "precision": "fp32",
            "versions": {},
            "profile": None,
        },
    )
    return folder / "certificate.json"


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
