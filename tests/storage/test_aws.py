"""Where the storage is and who asks: found as Amazon's tools find it, and told where that cannot be."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import buckets
import numpy as np
import pytest
from checking import good_settings, problems_of
from formats import as_zarr_array, some_voxels
from uploading import upload

from unetpipe.data.sources import open_source
from unetpipe.errors import UserError
from unetpipe.storage import folder_at

SOMEBODY = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """A user without any configuration of AWS."""
    for name in (*buckets.environment(""), "AWS_PROFILE", "AWS_SKIP_SIGNATURE", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    buckets.forget()
    yield monkeypatch
    buckets.forget()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        pytest.param({}, r"there are no credentials.*\n.*AWS_SKIP_SIGNATURE=true", id="nothing"),
        pytest.param({"AWS_ACCESS_KEY_ID": "x"}, r"Partial credentials.*\n.*mend", id="half of the credentials"),
        pytest.param({"AWS_PROFILE": "nope"}, r"profile \(nope\).*\n.*AWS_PROFILE", id="a profile that is none"),
        pytest.param(
            SOMEBODY | {"AWS_ENDPOINT_URL": "host:9000"}, r"Invalid endpoint: host:9000\n.*http://", id="no scheme"
        ),
        pytest.param(SOMEBODY | {"AWS_REGION": "us east"}, r"'us east' doesn't match", id="a region that is none"),
        pytest.param({"AWS_SKIP_SIGNATURE": "perhaps"}, r"AWS_SKIP_SIGNATURE is 'perhaps'\n.*unset it", id="perhaps"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_told(
    variables: dict[str, str], message: str, nobody: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        nobody.setenv(name, value)
    with pytest.raises(UserError, match=message):
        folder_at("s3://bucket/nobody")


def test_a_file_that_cannot_be_parsed_is_told(nobody: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[nonsense")
    nobody.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(UserError, match="Unable to parse config file"):
        folder_at("s3://bucket/unparsed")


def test_a_public_bucket_is_read_by_who_has_no_credentials(
    tmp_path: Path, endpoint: str, bucket: str, nobody: pytest.MonkeyPatch
) -> None:
    voxels = some_voxels("uint8")
    as_zarr_array(3)(tmp_path, voxels)
    address = upload(tmp_path / "plain.zarr", endpoint, bucket, "public/a.zarr")
    owner = buckets.client(endpoint)
    owner.put_bucket_acl(Bucket=bucket, ACL="public-read")
    for each in owner.list_objects_v2(Bucket=bucket)["Contents"]:
        owner.put_object_acl(Bucket=bucket, Key=each["Key"], ACL="public-read")
    stumbles = buckets.Stumbles()
    with buckets.stumbling(endpoint, stumbles) as front:
        nobody.setenv("AWS_ENDPOINT_URL", front)
        nobody.setenv("AWS_SKIP_SIGNATURE", "true")
        with open_source(address) as source:
            np.testing.assert_array_equal(source.read(0, 11), voxels)
            assert len(source.listing()) == 64
    assert stumbles.signed == 0
    # What is open to all to be read, nobody may write without a name, whatever this storage would allow.
    place = folder_at(f"s3://{bucket}/public")
    for change in (
        lambda: place.write("b", b"1"),
        lambda: place.append("b", b"1"),
        lambda: place.remove("a.zarr/zarr.json"),
        place.clear,
    ):
        with pytest.raises(UserError, match=r"requests are not signed.*\n.*give credentials"):
            change()
    settings = good_settings(tmp_path)
    settings["predict"] = {"store": f"s3://{bucket}/new"}
    assert "requests are not signed" in problems_of(settings)["predict.store"]


def test_requests_are_signed_unless_they_are_not_to_be(endpoint: str, bucket: str, aws: Callable[[str], None]) -> None:
    stumbles = buckets.Stumbles()
    with buckets.stumbling(endpoint, stumbles) as front:
        aws(front)
        folder_at(f"s3://{bucket}/signed").write("a", b"1")
    assert stumbles.signed == 1


@pytest.mark.parametrize("answer", ["400 ExpiredToken", "403 InvalidAccessKeyId", "403 AccessDenied"])
def test_why_a_storage_refuses_is_told(
    answer: str, endpoint: str, bucket: str, aws: Callable[[str], None], tmp_path: Path
) -> None:
    code = answer.split()[1]
    with buckets.stumbling(endpoint, buckets.Stumbles((answer,), every=1)) as front:
        aws(front)
        place = folder_at(f"s3://{bucket}/refused-{code}")
        for ask in (
            lambda: place.read("a"),
            # The answer to this has no text.
            lambda: place.size("a"),
            lambda: place.write("a", b"1"),
            lambda: place.remove("a"),
            lambda: list(place.entries()),
        ):
            with pytest.raises(PermissionError, match=rf"does not allow it \({code}: {buckets.ANSWERS}\)") as refused:
                ask()
            assert buckets.KEY_ID not in str(refused.value)
        settings = good_settings(tmp_path)
        settings["predict"] = {"store": place.address}
        settings["volumes"]["test"] |= {"image": f"{place.address}/image"}
        problems = problems_of(settings)
    for setting in ("predict.store", "volumes.test.image"):
        assert f"({code}: {buckets.ANSWERS})" in problems[setting]
    assert buckets.KEY_ID not in json.dumps(problems)


def test_why_voxels_are_refused_is_told_without_secrets(
    tmp_path: Path, endpoint: str, bucket: str, aws: Callable[[str], None]
) -> None:
    as_zarr_array(3)(tmp_path, some_voxels("uint8"))
    address = upload(tmp_path / "plain.zarr", endpoint, bucket, "a.zarr")
    stumbles = buckets.Stumbles(every=1)
    with buckets.stumbling(endpoint, stumbles) as front:
        aws(front)
        with open_source(address) as source:
            stumbles.plan = ("403 AccessDenied",)
            with pytest.raises(UserError, match=rf"AccessDenied: {buckets.ANSWERS}\)\n") as refused:
                source.read(0, 3)
    assert buckets.KEY_ID not in str(refused.value)


def test_a_store_in_a_bucket_that_is_not_there_is_told_at_once(bucket: str, tmp_path: Path) -> None:
    settings = good_settings(tmp_path)
    settings["predict"] = {"store": "s3://no-such-bucket/results"}
    assert "there is no bucket no-such-bucket" in problems_of(settings)["predict.store"]
