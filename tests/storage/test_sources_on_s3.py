"""Volumes in a bucket are read as those on disk are, and no message holds a secret."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import buckets
import numpy as np
import pytest
from checking import good_settings, problems_of
from formats import COPIED, IN_PLACE, Voxels, as_n5_pyramid, as_zarr_array, each_of, some_voxels, write_precomputed
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from ingesting import ingested, some_grey, some_labels
from uploading import upload

from unetpipe.check import check
from unetpipe.config import Network
from unetpipe.data.sources import open_source, watched
from unetpipe.data.sources.in_place import InPlaceSource
from unetpipe.errors import UserError
from unetpipe.grid import Plan
from unetpipe.selection import Selection
from unetpipe.storage.aws import RETRIES


@each_of(IN_PLACE)
def test_a_volume_in_a_bucket_is_that_on_disk(
    tmp_path: Path, write: Callable[[Path, Voxels], str], endpoint: str, bucket: str
) -> None:
    voxels = some_voxels("uint16")
    local = write(tmp_path, voxels)
    top = next(path for path in tmp_path.iterdir() if path.is_dir())
    address = upload(top, endpoint, bucket, f"in/{top.name}") + local.removeprefix(str(top))
    with open_source(local) as here, open_source(address) as there:
        assert isinstance(here, InPlaceSource)
        assert isinstance(there, InPlaceSource)
        assert there.array_address == here.array_address.replace(str(top), f"s3://{bucket}/in/{top.name}")
        assert (there.shape, there.dtype) == (here.shape, here.dtype)
        assert (there.voxel_size_nm, there.origin_nm) == (here.voxel_size_nm, here.origin_nm)
        np.testing.assert_array_equal(there.read(0, 5), voxels[:5])
        np.testing.assert_array_equal(
            there.read_box((slice(3, 9), slice(4, 30), slice(20, 43))), voxels[3:9, 4:30, 20:]
        )
        one, other = here.stored(), there.stored()
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            np.testing.assert_array_equal(one.bits, other.bits)
            assert one.grid == other.grid
    assert watched(address) == []


def test_a_level_in_a_bucket_has_the_voxel_size_that_stands_above_it(
    tmp_path: Path, endpoint: str, bucket: str
) -> None:
    as_n5_pyramid(tmp_path, some_voxels("uint8"))
    with open_source(upload(tmp_path / "p.n5", endpoint, bucket, "p.n5") + "/raw/s1/") as level:
        assert level.voxel_size_nm == (40, 8, 8)
    IN_PLACE["ome-zarr-0.4"](tmp_path, some_voxels("uint8"))
    with open_source(upload(tmp_path / "ome.zarr", endpoint, bucket, "deep/ome.zarr") + "/s0") as level:
        assert (level.voxel_size_nm, level.origin_nm) == ((40, 4, 4), (80, 0, 8))
    write_precomputed(tmp_path / "c", some_voxels("uint8"))
    # At the top of a bucket there is nothing above.
    assert upload(tmp_path / "c", endpoint, bucket, "4") == f"s3://{bucket}/4"
    with open_source(f"s3://{bucket}/4/4_4_40") as level:
        assert level.voxel_size_nm == (40, 4, 4)


def test_the_listing_changes_with_the_objects_alone(tmp_path: Path, endpoint: str, bucket: str) -> None:
    as_zarr_array(3)(tmp_path, some_voxels("uint8"))
    address = upload(tmp_path / "plain.zarr", endpoint, bucket, "a.zarr")

    def listing() -> str:
        with open_source(address) as source:
            return source.listing()

    first = listing()
    assert upload(tmp_path / "plain.zarr", endpoint, bucket, "a.zarr") == address
    # Written again with the same content, an object has the same ETag.
    assert listing() == first
    content = bytearray((tmp_path / "plain.zarr" / "c" / "1" / "1" / "1").read_bytes())
    content[-1] ^= 1
    buckets.client(endpoint).put_object(Bucket=bucket, Key="a.zarr/c/1/1/1", Body=bytes(content))
    assert listing() != first


@examples(max_examples=5)
@given(keep=st.sets(st.integers(0, 35), max_size=36))
def test_stored_in_a_bucket_is_what_is_there(
    keep: set[int], tmp_path_factory: pytest.TempPathFactory, endpoint: str, bucket: str
) -> None:
    folder = tmp_path_factory.mktemp("s3")
    as_zarr_array(3)(folder, some_voxels("uint8"))
    chunks = sorted(path for path in (folder / "plain.zarr" / "c").rglob("*") if path.is_file())
    for number, path in enumerate(chunks):
        if number not in keep:
            path.unlink()
    name = f"v{len(keep)}-{sum(keep)}-{folder.name}"
    with open_source(upload(folder / "plain.zarr", endpoint, bucket, name)) as source:
        assert isinstance(source, InPlaceSource)
        stored = source.stored()
    assert stored is not None
    assert len(chunks) == 36
    there = np.unpackbits(stored.bits, axis=-1)[..., :3].ravel()
    assert set(np.flatnonzero(there)) == keep


def test_image_labels_and_mask_can_lie_in_a_bucket(
    tmp_path: Path, endpoint: str, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    grey, labels = some_grey(shape=(12, 40, 40)), some_labels(shape=(12, 40, 40))
    labels[:, 0, 0] = 1
    addresses = {}
    for name, voxels in (("image", grey), ("labels", labels), ("mask", (labels > 0).astype(np.uint8))):
        write_precomputed(tmp_path / name, voxels)
        addresses[name] = upload(tmp_path / name, endpoint, bucket, name)
    np.save(tmp_path / "i.npy", grey)
    np.save(tmp_path / "l.npy", labels)
    with caplog.at_level(logging.INFO):
        there = ingested(addresses["image"], tmp_path / "a" / "volume.json", addresses["labels"])
        here = ingested(tmp_path / "i.npy", tmp_path / "b" / "volume.json", tmp_path / "l.npy")
        geometry = Network(depth=1).geometry
        plan = Plan((12, 40, 40), geometry.tile_for((1, 4, 6)), (4, 8, 6), (4, 8, 6), 1, geometry)
        selection = Selection.of(plan, mask=addresses["mask"])
    assert there.image == f"s3://{bucket}/image/4_4_40"
    assert (there.mean, there.std, there.labels_digest) == (here.mean, here.std, here.labels_digest)
    assert there.source["in_place"] is True
    assert selection.count > 0
    written = [path.read_text() for path in (tmp_path / "a").rglob("*.json*") if path.is_file()]
    assert len(written) >= 3
    for text in [*written, caplog.text, json.dumps(selection.as_json())]:
        assert buckets.SECRET not in text
        assert buckets.KEY_ID not in text


def test_settings_are_checked_against_what_lies_in_a_bucket(tmp_path: Path, endpoint: str, bucket: str) -> None:
    settings = good_settings(tmp_path)
    write_precomputed(tmp_path / "c" / "image", np.ones((6, 70, 80), np.uint8))
    write_precomputed(tmp_path / "c" / "labels", np.ones((6, 70, 79), np.uint8))
    address = upload(tmp_path / "c", endpoint, bucket, "c")
    settings["volumes"]["train"] |= {"image": f"{address}/image"}
    settings["volumes"]["test"] |= {"mask": f"{address}/labels"}
    assert check(settings, "x").volumes["train"].image == f"{address}/image"
    settings["volumes"]["train"] |= {"labels": f"{address}/labels"}
    settings["volumes"]["test"] |= {"image": f"{address}/image.tif", "mask": f"{address}/mask"}
    assert {path: text.partition(";")[0] for path, text in problems_of(settings).items()} == {
        "volumes.train.labels": "have the shape (6, 70, 79) (z, y, x), the image has (6, 70, 80)",
        "volumes.test.mask": f"{address}/mask: there is nothing of that name",
        "volumes.test.image": f"{address}/image.tif: a .tif file in a bucket, of which parts cannot be read",
    }


@pytest.mark.parametrize("name", ["a.tif", "x/a.TIFF", "a.png", "a.npy", "a.h5", "a.h5:/raw"])
def test_files_in_a_bucket_are_refused(name: str, bucket: str) -> None:
    with pytest.raises(UserError, match=r"in a bucket, of which parts cannot be read\n.*copy it here, or convert"):
        open_source(f"s3://{bucket}/{name}")


def test_sections_in_a_bucket_are_refused(tmp_path: Path, endpoint: str, bucket: str) -> None:
    COPIED["png-folder"](tmp_path, some_voxels("uint8"))
    address = upload(tmp_path, endpoint, bucket, "sections")
    with pytest.raises(UserError, match=r"it holds s1\.png, s10\.png, s11\.png, s2\.png\n.*copy here, or convert"):
        open_source(address)


def test_an_address_without_anything_is_refused(bucket: str) -> None:
    with pytest.raises(UserError, match=r"there is nothing of that name\n.*mend the address"):
        open_source(f"s3://{bucket}/nothing")
    with pytest.raises(UserError, match=r"there is no bucket not-there"):
        open_source("s3://not-there/a.zarr")


def test_a_group_in_a_bucket_tells_which_arrays_it_has(tmp_path: Path, endpoint: str, bucket: str) -> None:
    as_zarr_array(3)(tmp_path / "g.zarr", some_voxels("uint8"))
    (tmp_path / "g.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    address = upload(tmp_path / "g.zarr", endpoint, bucket, "g.zarr")
    with pytest.raises(UserError, match=r"no OME-Zarr image; arrays and groups in it: plain\.zarr"):
        open_source(address)


def test_a_bucket_that_refuses_is_told_without_secrets(
    tmp_path: Path, endpoint: str, bucket: str, aws: Callable[[str], None]
) -> None:
    as_zarr_array(3)(tmp_path, some_voxels("uint8"))
    address = upload(tmp_path / "plain.zarr", endpoint, bucket, "a.zarr")
    with open_source(address) as source, pytest.MonkeyPatch.context() as patch:
        patch.setattr("unetpipe.storage.aws.RETRIES", {**RETRIES, "max_retries": 1})
        buckets.client(endpoint).delete_object(Bucket=bucket, Key="a.zarr/c/0/0/0")
        buckets.client(endpoint).put_object(Bucket=bucket, Key="a.zarr/c/0/0/1", Body=b"nonsense")
        with pytest.raises(UserError, match=r"sections 0 to 2 cannot be read") as damaged:
            source.read(0, 3)
        with buckets.stumbling(endpoint, buckets.Stumbles(("503 SlowDown",), every=1)) as front:
            aws(front)
            with pytest.raises(UserError, match=r"it cannot be looked at .*\n.*whether the storage answers") as refused:
                open_source(f"s3://{bucket}/b.zarr")
    for failure in (damaged, refused):
        text = f"{failure.value} {failure.value.__cause__!r}"
        assert buckets.SECRET not in text
        assert buckets.KEY_ID not in text
        assert "tensorstore_spec" not in text
