"""The samples that are shown are those in the store."""

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import zarr
from PIL import Image

from unetpipe.data.samples import SamplesFile
from unetpipe.report.samples import sample_pictures


def test_samples_are_spread_and_whole(make_run: Callable[..., dict[str, Any]]) -> None:
    path = make_run({"train": "train", "test": "test"})["samples"]
    samples = SamplesFile.read(path)
    shown = sample_pictures(samples, {0: (1, 2, 3)})
    assert [sample.number for sample in shown] == [0, 2, 3, 5]
    group = zarr.open_group(samples.store, mode="r")
    for sample in shown:
        data = base64.b64decode(sample.image.partition(",")[2])
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), group["train/image"][sample.number])  # type: ignore[index]
        assert sample.highest_weight == np.max(group["train/weight"][sample.number])  # type: ignore[index]
        y, x, height, width = sample.inside
        # Labels and weights lie in the middle.
        assert (2 * y + height, 2 * x + width) == sample.shape == samples.tile
        assert (sample.volume, sample.section) == ("train", 0)


def test_a_large_sample_is_thinned(make_run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unetpipe.report.samples._MOST_EDGE", 25)
    samples = SamplesFile.read(make_run({"train": "train", "test": "test"})["samples"])
    (first, *_) = sample_pictures(samples, {})
    picture = Image.open(io.BytesIO(base64.b64decode(first.image.partition(",")[2])))
    assert max(picture.size) <= 25
    assert first.shape == samples.tile
