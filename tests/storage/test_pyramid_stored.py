"""Levels and label map lie on disk as in a bucket."""

from collections.abc import Callable
from pathlib import Path

import levelled
import numpy as np
import pytest
import zarr
from levelled import fill, levels, made, make, objects, plan, recorded

from unetpipe import fsck
from unetpipe import pyramid as module
from unetpipe.files import read_json
from unetpipe.storage import Folder, is_remote


@pytest.mark.long
def test_levels_are_the_same_wherever_they_lie(
    place: Folder, make_volume: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In processes, which find the bucket by themselves.
    monkeypatch.setattr(module, "_FEW", 0)
    allocated = plan(tmp_path, make_volume, labels=True, store=place.address)
    fill(allocated)
    found = make(allocated, workers=1)
    beside = tmp_path / "beside"
    fill(plan(beside, make_volume, labels=True))
    assert found["digest"] == make(beside / "allocated.json")["digest"]
    assert objects(allocated) == objects(beside / "allocated.json")
    assert sorted(recorded(allocated)) == sorted(made(allocated))
    assert fsck.check(fsck.Store(allocated)).faults == []

    place.below("probability.zarr").remove("1/c/0/0/0/0")
    again = make(allocated)
    assert (again["computed"], again["digest"]) == (1, found["digest"])
    fill(allocated, seed=3)
    assert make(allocated)["computed"] == found["shards"]
    plan(tmp_path, make_volume, store=place.address)
    assert not [name for name in objects(allocated) if name.startswith("labels")]


def test_another_library_reads_levels_of_a_bucket(
    bucket: str, make_volume: Callable[..., Path], tmp_path: Path
) -> None:
    from unetpipe.storage import aws

    allocated = plan(tmp_path, make_volume, labels=True, store=f"s3://{bucket}/p")
    fill(allocated)
    make(allocated)
    assert is_remote(read_json(allocated)["probability"])
    store = zarr.storage.ObjectStore(aws.store(bucket), read_only=True)
    for group in ("", "/labels/classes"):
        for number, voxels in enumerate(levels(allocated, group.strip("/"))):
            array = zarr.open_array(store, path=f"p/probability.zarr{group}/{number}", mode="r")
            np.testing.assert_array_equal(np.asarray(array), voxels)
            assert array.shape[-3:] == tuple(read_json(allocated)["levels"][number]["shape"])
    assert len(levels(allocated)) == 3
    assert levels(allocated)[0].shape[1:] == levelled.SHAPE
