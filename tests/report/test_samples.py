"""The samples that are shown are those in the store."""

import base64
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from PIL import Image

from unetpipe.data.samples import SamplesFile, create, write_shard
from unetpipe.report import pictures
from unetpipe.report.samples import sample_pictures
from unetpipe.volume import IGNORE


def test_samples_are_spread_and_whole(make_run: Callable[..., dict[str, Any]]) -> None:
    path = make_run({"train": "train", "test": "test"})["samples"]
    samples = SamplesFile.read(path)
    shown = sample_pictures(samples, {0: (1, 2, 3)})
    assert [sample.number for sample in shown] == [0, 2, 3, 5]
    group = zarr.open_group(samples.store, mode="r")
    for sample in shown:
        data = base64.b64decode(sample.image.partition(",")[2])
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), group["train/image"][sample.number][0])  # type: ignore[index]
        assert sample.highest_weight == np.max(group["train/weight"][sample.number])  # type: ignore[index]
        y, x, height, width = sample.inside
        # Labels and weights lie in the middle.
        assert (2 * y + height, 2 * x + width) == sample.shape == samples.tile[1:]
        assert (sample.volume, sample.section) == ("train", 0)


def test_a_large_sample_is_thinned(make_run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unetpipe.report.samples._MOST_EDGE", 25)
    samples = SamplesFile.read(make_run({"train": "train", "test": "test"})["samples"])
    (first, *_) = sample_pictures(samples, {})
    picture = Image.open(io.BytesIO(base64.b64decode(first.image.partition(",")[2])))
    assert max(picture.size) <= 25
    assert first.shape == samples.tile[1:]


def test_of_a_stack_the_section_of_the_centre_is_shown(make_run: Callable[..., dict[str, Any]]) -> None:
    samples = SamplesFile.read(make_run({"train": "train", "test": "test"})["samples"])
    rng = np.random.default_rng(0)
    # The network loses two sections at the top and at the bottom: the centre is section 4 of 8, and 2 of the labels.
    image = rng.integers(0, 256, (6, 8, 20, 24)).astype(np.uint8)
    label = rng.integers(0, 2, (6, 4, 10, 14)).astype(np.uint8)
    weight = rng.random((6, 4, 10, 14)).astype(np.float16)
    source = np.tile(np.array([0, 3, 12, 12, 7], np.int64), (6, 1))
    create(Path(samples.store), 6, (8, 20, 24), (4, 10, 14), "key")
    write_shard(Path(samples.store), "train", 0, {"image": image, "label": label, "weight": weight, "source": source})
    shown = sample_pictures(replace(samples, tile=(8, 20, 24), border=(2, 5, 5)), {0: (1, 2, 3), 1: (4, 5, 6)})
    for sample in shown:
        assert (sample.section, sample.shape, sample.inside) == (3, (20, 24), (5, 5, 10, 14))
        assert sample.image == pictures.grey(image[sample.number, 4])
        paint = {0: (1, 2, 3), 1: (4, 5, 6), IGNORE: pictures.IGNORED}
        assert sample.label == pictures.overlay(label[sample.number, 2], paint)
        shown_weight = weight[sample.number, 2].astype(np.float32)
        assert sample.highest_weight == shown_weight.max()
        assert sample.weight == pictures.heat(shown_weight, float(shown_weight.max()))
