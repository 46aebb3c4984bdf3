"""Labels become classes, and those that cannot are refused."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ingesting import CLASSES, ingested, some_grey, some_labels, zarr_in_place

from unetpipe.arrays import open_array
from unetpipe.config import Instances
from unetpipe.data import instances as data_instances
from unetpipe.errors import UserError
from unetpipe.volume import IGNORE


def test_the_digest_of_labels_is_of_the_classes(tmp_path: Path) -> None:
    labels = some_labels()
    np.save(tmp_path / "i.npy", some_grey())
    np.save(tmp_path / "a.npy", labels)
    np.save(tmp_path / "b.npy", labels.astype(np.int32) + 10)
    np.save(tmp_path / "c.npy", labels[::-1])
    shifted = {"membrane": [10], "inside": [11, 265]}
    digests = [
        ingested(tmp_path / "i.npy", tmp_path / name / "volume.json", tmp_path / f"{name}.npy", **changes).labels_digest
        for name, changes in (("a", {}), ("b", {"label_values": shifted, "ignore": [17]}), ("c", {}))
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("kind", ["npy", "zarr"])
def test_labels_outside_the_annotated_parts_are_not_looked_at(tmp_path: Path, kind: str) -> None:
    labels, known = some_labels(), np.zeros((20, 50, 60), bool)
    # From the first section used, the fourth of the file.
    parts = [2, [[5, 14], [10, 30], [0, 25]], [[5, 6], [20, 50], [20, 60]]]
    known[5] = known[8:17, 10:30, :25] = known[8, 20:, 20:] = True
    labels[~known] = 99
    np.save(tmp_path / "i.npy", some_grey())
    np.save(tmp_path / "l.npy", labels)
    zarr_in_place(tmp_path / "l.zarr", labels, (7, 20, 60))
    volume = ingested(
        tmp_path / "i.npy", tmp_path / "v" / "volume.json", tmp_path / f"l.{kind}", sections=(3, 20), annotated=parts
    )
    found = open_array(str(volume.labels))[...]
    expected = np.select([~known | (labels == 7), labels == 0], [IGNORE, 0], 1)[3:]
    np.testing.assert_array_equal(found, expected)
    assert volume.source["labelled"] == (expected != IGNORE).sum(axis=(1, 2)).tolist()
    assert volume.learnt_sections().tolist() == [2, *range(5, 14)]


def test_annotated_parts_beyond_the_volume_are_refused_together(tmp_path: Path) -> None:
    np.save(tmp_path / "i.npy", some_grey())
    np.save(tmp_path / "l.npy", some_labels())
    message = (
        r"annotated\.0 there is no section 17: 17 are used, from 0 on; "
        r"annotated\.2 \[0, 51\) along y reaches beyond the volume, which has 50 voxels there"
    )
    parts = [17, 16, [[0, 1], [0, 51], [0, 1]]]
    with pytest.raises(UserError, match=message):
        ingested(
            tmp_path / "i.npy", tmp_path / "v" / "volume.json", tmp_path / "l.npy", sections=(3, 20), annotated=parts
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"ignore": [0, 1, 7, 255], "label_values": {"a": [2], "b": [3]}}, "all label values are", id="all"
        ),
        pytest.param({"annotated": [4]}, "all label values in the parts that are annotated are", id="annotated"),
        pytest.param({"sections": (4, 5)}, "all label values are", id="sections"),
    ],
)
def test_labels_of_which_none_has_a_class_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    labels = some_labels()
    labels[4] = 7
    np.save(tmp_path / "i.npy", some_grey())
    np.save(tmp_path / "l.npy", labels)
    volume = tmp_path / "v" / "volume.json"
    with pytest.raises(UserError, match=f"not one voxel is labelled: {message} to be ignored"):
        ingested(tmp_path / "i.npy", volume, tmp_path / "l.npy", **changes)
    assert not volume.exists()


@pytest.mark.parametrize("dtype", ["uint64", "int32"])
def test_instances_become_classes_section_by_section(tmp_path: Path, dtype: str) -> None:
    ids = np.random.default_rng(0).integers(0, 4, (20, 13, 15)).repeat(5, axis=1).repeat(4, axis=2).astype(dtype)
    ids[ids == 3] = np.iinfo(dtype).max
    np.save(tmp_path / "i.npy", some_grey(shape=ids.shape))
    np.save(tmp_path / "l.npy", ids)
    rule = Instances(boundary="membrane", object="inside", reach=2, ignore=[2])
    volume = ingested(
        tmp_path / "i.npy", tmp_path / "v" / "volume.json", tmp_path / "l.npy", instances=rule, annotated=[3, 9, 17]
    )
    found = open_array(str(volume.labels))[...]
    encoded = data_instances.Instances(list(CLASSES), rule)
    for z, section in enumerate(ids):
        expected = encoded.encode(section) if z in (3, 9, 17) else np.full(section.shape, IGNORE)
        np.testing.assert_array_equal(found[z], expected)
    assert set(np.unique(found)) == {0, 1, IGNORE}


def test_memory_of_instances_is_that_of_a_slab(tmp_path: Path) -> None:
    peaks, rule = [], Instances(boundary="membrane", object="inside")
    for sections in (16, 96):
        np.save(tmp_path / "i.npy", np.zeros((sections, 256, 256), np.uint8))
        np.save(tmp_path / "l.npy", np.ones((sections, 256, 256), np.uint64))
        tracemalloc.start()
        ingested(
            tmp_path / "i.npy", tmp_path / str(sections) / "volume.json", tmp_path / "l.npy", instances=rule, cores=1
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    slab_bytes = 8 * 256 * 256 * 8
    assert peaks[1] - peaks[0] < slab_bytes / 2
    assert peaks[1] < 3 * slab_bytes


def test_labels_may_be_a_zarr_and_are_copied(tmp_path: Path) -> None:
    np.save(tmp_path / "i.npy", some_grey())
    zarr_in_place(tmp_path / "l.zarr", some_labels(), (7, 20, 60))
    volume = ingested(tmp_path / "i.npy", tmp_path / "v" / "volume.json", tmp_path / "l.zarr")
    assert volume.labels == str(tmp_path / "v" / "labels.zarr" / "0")
