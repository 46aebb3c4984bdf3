"""Volumes in a bucket, and predictions into it, through the whole chain, interrupted."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import buckets
import numpy as np
import pytest
import zarr
from formats import as_n5, as_precomputed, as_sharded_zarr
from running import call, command, watched, write
from uploading import upload

from unetpipe.data.phantom import make_phantom
from unetpipe.storage import folder_at

pytestmark = [pytest.mark.workflow, pytest.mark.long]

BUCKET = "lab"
SHAPE = (10, 128, 128)


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with buckets.server_on_disk(tmp_path / "s3", BUCKET) as found:
        for name, value in buckets.environment(found).items():
            monkeypatch.setenv(name, value)
        buckets.forget()
        yield found
    buckets.forget()


def test_a_run_from_and_into_a_bucket_ends_as_on_disk(endpoint: str, settings: dict[str, Any], tmp_path: Path) -> None:
    made = make_phantom(SHAPE, (40, 4, 4), seed=3)
    volumes = settings["volumes"]
    for name, write_format in {"zarr": as_sharded_zarr, "n5": as_n5, "precomputed": as_precomputed}.items():
        folder = tmp_path / "made" / name
        folder.mkdir(parents=True)
        address = write_format(folder, made.image)
        volumes[name] = {
            "role": "predict",
            "image": upload(folder, endpoint, BUCKET, name) + address.removeprefix(str(folder)),
        }
        volumes[name]["voxel_size_nm"] = [40.0, 4.0, 4.0]
    np.save(tmp_path / "there.npy", made.image)
    volumes["there"] = {"role": "predict", "image": str(tmp_path / "there.npy"), "voxel_size_nm": [40.0, 4.0, 4.0]}
    settings["predict"] |= {"tile": [104, 104], "batch": 1, "store": f"s3://{BUCKET}/results"}
    configuration = write(tmp_path, settings)

    # Killed as soon as something is predicted.
    place = folder_at(f"s3://{BUCKET}/results/small")
    with subprocess.Popen(
        command(tmp_path, "--configfile", configuration), env=watched(tmp_path / "calls"),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    ) as first:  # fmt: skip
        while not any("/c/0/" in entry.name for entry in place.entries()):
            assert first.poll() is None
            time.sleep(0.3)
        os.killpg(first.pid, signal.SIGKILL)
    time.sleep(1)
    assert call(tmp_path, "--unlock", "--configfile", configuration).returncode == 0
    result = call(tmp_path, "--rerun-incomplete", "--configfile", configuration)
    assert result.returncode == 0, result.stdout

    results = tmp_path / "results" / "small"
    jobs = {
        name: json.loads((results / "predictions" / name / "job-0.json").read_text())
        for name in volumes
        if name != "train"
    }
    assert len({jobs[name]["digest"] for name in ("zarr", "n5", "precomputed", "there")}) == 1
    assert not list(results.rglob("probability.zarr"))
    described = json.loads((results / "predictions" / "n5" / "allocated.json").read_text())
    assert described["probability"] == f"s3://{BUCKET}/results/small/n5/probability.zarr"
    assert "Nothing to be done" in call(tmp_path, "--configfile", configuration).stdout
    assert "mean IoU" in (results / "report.html").read_text()

    # What is there is what other readers find, and nowhere is a secret.
    names = [entry.name for entry in place.entries()]
    for name in (each for each in names if each.startswith("zarr/probability.zarr/")):
        path = tmp_path / "copy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(place.read(name))
    stored = zarr.open_array(tmp_path / "copy" / "zarr" / "probability.zarr" / "0", mode="r")
    assert stored.shape == (2, *SHAPE)
    assert len(np.unique(np.asarray(stored))) > 10
    texts = [path.read_bytes() for path in results.rglob("*") if path.is_file()] + [place.read(name) for name in names]
    for text in (*texts, result.stdout.encode()):
        assert buckets.SECRET.encode() not in text
        assert buckets.KEY_ID.encode() not in text
