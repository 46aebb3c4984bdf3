"""Integer convolutions give what the rounding in the file says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from unetpipe.engines.integers import convolve_bytes


def test_bytes_are_those_of_the_file(case: Any, in_form: Callable[[Path, str], Path]) -> None:
    if case.tile[0] > 3:
        pytest.skip("the evaluator has no QLinearConv in 3D; the contract of engines is tested there")
    model = onnx.load(in_form(case.network, "int8-asymmetric"))
    found = convolve_bytes(model)
    onnx.checker.check_model(found, full_check=True)
    for one in (model, found):
        # The evaluator does not know quantisation of the opset that the engines read; the newer one says the same.
        one.opset_import[0].version = 21
    image = np.random.default_rng(2).standard_normal((1, *case.tile)).astype(np.float32)
    wanted, result = (np.asarray(ReferenceEvaluator(one).run(None, {"image": image})[0]) for one in (model, found))
    # A value that lies in the middle between two bytes may become the other one.
    assert np.abs(result - wanted).max() < 0.1
    assert np.abs(result - wanted).mean() < 0.005


def test_biases_beyond_32_bits_do_not_wrap_around(small: Path, in_form: Callable[[Path, str], Path]) -> None:
    model = onnx.load(in_form(small, "int8-asymmetric"))
    item = next(item for item in model.graph.initializer if item.name.endswith(".bias"))
    item.CopyFrom(numpy_helper.from_array(np.full(tuple(item.dims), 1e9, np.float32), item.name))
    stored = {one.name: one for one in convolve_bytes(model).graph.initializer}
    assert set(numpy_helper.to_array(stored[f"{item.name}.steps"]).tolist()) == {np.iinfo(np.int32).max}
