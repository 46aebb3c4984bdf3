"""The peak of memory is that of this process, since it was last forgotten."""

import numpy as np

from unetpipe.memory import forget_peak_memory, peak_memory_mb


def test_the_peak_of_memory_is_counted_anew() -> None:
    forget_peak_memory()
    before = peak_memory_mb()
    assert np.ones(100_000_000 // 8).sum() > 0
    assert 90 < peak_memory_mb() - before < 150
    forget_peak_memory()
    assert peak_memory_mb() < before + 50
