"""What a worker needs does not follow from the size of a volume."""

import tracemalloc
from pathlib import Path

import pytest
from stores import make_store

import unetpipe
from unetpipe.config import Network
from unetpipe.grid import Plan, Shape
from unetpipe.quality.look import Look, look
from unetpipe.quality.squares import Sample
from unetpipe.selection import Selection
from unetpipe.volume import VolumeFile


def peak(place: Path, shape: Shape) -> tuple[int, int]:
    """Bytes that one look at a volume of ``shape`` takes at most, and voxels that all looks see."""
    block = (8, 1024, 1024)
    chunk = (8, 128, 128)
    for name, channels in (("image", None), ("probability", ["a", "b"])):
        first = [] if channels is None else [2]
        make_store(
            place / f"{name}.zarr",
            shape=(*first, *shape), dtype="uint8", chunk=(*[1 for _ in first], *chunk), shard=(*first, *block),
            voxel_size_nm=(40, 4, 4), channels=channels,
        )  # fmt: skip
    VolumeFile(
        name="v", image=str(place / "image.zarr" / "0"), labels=None, shape=shape, first_section=0, dtype="uint8",
        voxel_size_nm=(40.0, 4.0, 4.0), origin_nm=(0.0, 0.0, 0.0), range=None, mean=(0.0,) * shape[0],
        std=(1.0,) * shape[0], missing_sections=(), image_digest="", labels_digest=None, extent=None,
        source={"in_place": True}, version=unetpipe.__version__,
    ).write(place / "volume.json")  # fmt: skip
    geometry = Network(depth=1).geometry
    plan = Plan(shape, geometry.tile_for((1, 1024, 1024)), block, block, 1, geometry)
    sample = Sample.of_selection(Selection.of(plan), 16)
    first, end, squares = sample.looks[0]
    task = Look(place / "volume.json", str(place / "probability.zarr" / "0"), first, end, squares, 0.8, 1)
    tracemalloc.start()
    try:
        look(task)
        return tracemalloc.get_traced_memory()[1], sample.voxels
    finally:
        tracemalloc.stop()


def test_a_look_at_a_volume_a_thousand_times_as_large_takes_as_much(tmp_path: Path) -> None:
    small, few = peak(tmp_path / "small", (64, 1024, 1024))
    large, many = peak(tmp_path / "large", (640, 10_240, 10_240))
    assert large == pytest.approx(small, rel=0.1)
    assert large < 250e6
    # As many voxels of each section.
    assert many == pytest.approx(10 * few, rel=0.05)
