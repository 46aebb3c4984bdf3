"""The peak of memory is that of this process, and that of a worker does not follow the size of the volume (law 4)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import predicting
import pytest
from predicting import GEOMETRY

from unetpipe.grid import Plan
from unetpipe.memory import forget_peak_memory, peak_memory_mb


def test_the_peak_of_memory_is_counted_anew() -> None:
    forget_peak_memory()
    before = peak_memory_mb()
    assert np.ones(100_000_000 // 8).sum() > 0
    assert 90 < peak_memory_mb() - before < 150
    forget_peak_memory()
    assert peak_memory_mb() < before + 50


@pytest.mark.long
def test_a_worker_needs_no_more_memory_for_a_volume_that_is_16_times_as_large(
    make_volume: Callable[..., Path], tmp_path: Path
) -> None:
    certificate = predicting.make_engine("openvino", tmp_path)
    small = (8, 256, 384)
    tile = GEOMETRY.tile_for((1, 128, 128))
    block = (8, *GEOMETRY.kept(tile)[1:])
    peaks = {}
    for name, shape in {"small": small, "z": (128, 256, 384), "x": (8, 256, 6144)}.items():
        image = np.zeros(shape, np.uint8)
        # Not all is noise, for seconds: what has no contrast is not computed, but read, held and written alike.
        image[:8, :, :384] = predicting.noise(small)
        plan = Plan(shape, tile, block, block, 1, GEOMETRY)
        allocated = predicting.start(certificate, make_volume(image), tmp_path / name, plan=plan)
        (peaks[name],) = predicting.finish(certificate, allocated)["peak_memory_mb"]
    # Grey values alone, as they are held for the network, would be so much more.
    more_mb = 4 * 15 * np.prod(small) / 2**20
    assert more_mb > 40
    assert peaks["z"] - peaks["small"] < more_mb / 2, peaks
    assert peaks["x"] - peaks["small"] < more_mb / 2, peaks
