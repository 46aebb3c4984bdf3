"""Two slots take turns; the rest of this module needs a GPU, and is held to the contract of all engines there."""

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("cuda.bindings.runtime", reason="the package cuda-bindings is not installed")

from unetpipe.engines.cuda import CudaEngine


class Slot:
    """Stands for buffers, stream and context: a call that is started must be collected before the next one."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name, self.batch = log, name, None

    def start(self, batch: NDArray[np.float32]) -> None:
        assert self.batch is None
        self.batch = batch.copy()
        self.log.append(f"{self.name} starts {batch.flat[0]:.0f}")

    def result(self) -> NDArray[np.float32]:
        assert self.batch is not None
        result, self.batch = self.batch, None
        self.log.append(f"{self.name} gives {result.flat[0]:.0f}")
        return result


def test_slots_take_turns_and_results_keep_their_order() -> None:
    log: list[str] = []
    engine = CudaEngine.__new__(CudaEngine)
    engine.shape = (1, 3, 2, 2)
    engine._slots = [Slot(log, "a"), Slot(log, "b")]  # type: ignore[list-item]
    calls = [np.full((1, 3, 2, 2), value, np.float32) for value in range(5)]
    results = [int(result[0, 0, 0, 0]) for result in engine.stream(calls)]
    assert results == [0, 1, 2, 3, 4]
    assert log == [
        "a starts 0", "b starts 1", "a gives 0", "a starts 2", "b gives 1", "b starts 3", "a gives 2", "a starts 4",
        "b gives 3", "a gives 4",
    ]  # fmt: skip
    assert int(engine.run(calls[3])[0, 0, 0, 0]) == 3
