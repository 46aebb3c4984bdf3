"""A run whose volumes lie in a bucket is looked at through the process that has the credentials."""

import logging
from collections.abc import Callable
from pathlib import Path

import buckets
import numpy as np
import pytest
from formats import as_n5_pyramid, some_voxels
from ingesting import ingested
from levelled import fill, make, plan
from uploading import upload
from viewing import run_of, serving

from unetpipe.arrays import open_array
from unetpipe.files import read_json
from unetpipe.viewer.run import look


def test_layers_in_a_bucket_are_shown_and_no_secret(
    make_volume: Callable[..., Path],
    endpoint: str,
    bucket: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    voxels = some_voxels("uint8")
    as_n5_pyramid(tmp_path, voxels)
    run = run_of(tmp_path)
    address = upload(tmp_path / "p.n5", endpoint, bucket, "p.n5") + "/raw"
    ingested(address, run / "volumes" / "v" / "volume.json")
    allocated = plan(run / "predictions" / "v", make_volume, voxels.shape, store=f"s3://{bucket}/out")
    fill(allocated)
    make(allocated)
    _, volumes = look(run)
    assert volumes["v"].problems == []
    with caplog.at_level(logging.WARNING), serving(volumes) as served:
        np.testing.assert_array_equal(served.read("v", "image")[0], voxels)
        np.testing.assert_array_equal(served.read("v", "image", 1)[0], voxels[:, ::2, ::2])
        store = read_json(allocated)["probability"]
        assert store.startswith(f"s3://{bucket}/")
        np.testing.assert_array_equal(served.read("v", "probability"), open_array(f"{store}/0")[...])
        pages = [served.get(path) for path in ("/", "/at/v/0/0/0", "/data/v/image/info")]
        # What is gone is said, and not where it was.
        client = buckets.client(endpoint)
        for entry in client.list_objects_v2(Bucket=bucket, Prefix="p.n5/raw/s0/")["Contents"]:
            client.put_object(Bucket=bucket, Key=entry["Key"], Body=b"torn")
        chunk = volumes["v"].layers["image"].resolutions[0].chunk
        lost = served.get("/data/v/image/0/{}".format("_".join(f"0-{n}" for n in chunk[::-1])))
        assert lost.status == 500
    told = caplog.text + "".join(str(page.headers) + page.body.decode() for page in [*pages, lost])
    for secret in (buckets.KEY_ID, buckets.SECRET):
        assert secret not in told
    assert endpoint not in "".join(page.body.decode() for page in [*pages, lost])
