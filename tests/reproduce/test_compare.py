"""Two runs are the same only where every step is, and the first that differs is named."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pytest

from unetpipe.reproduce.compare import Comparison, compare, differences
from unetpipe.reproduce.recorded import Report


def compared(
    was: dict[str, Any], now: dict[str, Any], predicted: int | None = 0, numbered: int | None = 0
) -> Comparison:
    reports = [Report.model_validate(each) for each in (was, now)]
    return compare(reports[0], reports[1], lambda _: predicted, lambda _: numbered)


def change(data: dict[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    changed = deepcopy(data)
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return changed


def test_the_same_is_the_same(report: dict[str, Any]) -> None:
    found = compared(report, change(report, ["scores", "test", "version"], "1"))
    assert found.same
    assert found.first is None
    assert str(found).endswith("the same")
    assert [step.name for step in found.steps] == [
        "samples", "checkpoint", "ONNX file", "engine",
        "mask of test", "prediction of test", "objects of test", "scores of test",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        (["digests", "samples"], "0" * 64, "samples"),
        (["digests", "checkpoint"], "0" * 64, "checkpoint"),
        (["digests", "onnx"], "0" * 64, "ONNX file"),
        (["digests", "engine"], "0" * 64, "engine"),
        (["inputs", "test", "mask_digest"], "0" * 64, "mask of test"),
        (["digests", "predictions", "test", "digest"], "0" * 64, "prediction of test"),
        (["digests", "segments", "test"], "0" * 64, "objects of test"),
        (["scores", "test", "mean_iou"], 0.25, "scores of test"),
        (["scores", "test", "classes", "inside", "iou"], None, "scores of test"),
        (["scores", "test", "thresholds"], [0.1, 0.3], "scores of test"),
    ],
)
def test_each_step_is_looked_at(path: list[str], value: Any, name: str, report: dict[str, Any]) -> None:
    found = compared(report, change(report, path, value))
    assert not found.same
    assert found.first is not None
    assert found.first.name == name
    assert str(found).endswith(f"differs first: {name}")


@pytest.mark.parametrize(("kind", "name"), [("predictions", "prediction"), ("segments", "objects")])
def test_what_was_not_made_again_differs(kind: str, name: str, report: dict[str, Any]) -> None:
    found = compared(report, change(report, ["digests", kind], {}))
    assert found.first is not None
    assert found.first.name == f"{name} of test"
    assert "is absent" in found.first.told


def test_what_comes_first_in_the_chain_is_named(report: dict[str, Any]) -> None:
    now = change(change(report, ["scores", "test", "mean_iou"], 0.7), ["digests", "checkpoint"], "0" * 64)
    found = compared(report, now)
    assert found.first is not None
    assert found.first.name == "checkpoint"
    assert "mean_iou was 0.75, is 0.7" in str(found)


@pytest.mark.parametrize(
    ("differing", "same", "told"),
    [(0, True, "all voxels are equal"), (3, False, "3 voxels differ"), (None, None, "are not there to be compared")],
)
def test_a_prediction_that_was_cut_otherwise_is_compared_by_its_voxels(
    differing: int | None, same: bool | None, told: str, report: dict[str, Any]
) -> None:
    now = change(report, ["digests", "predictions", "test", "digest"], "0" * 64)
    now = change(now, ["digests", "predictions", "test", "plan", "block"], [8, 128, 64])
    now = change(now, ["digests", "segments", "test"], "7" * 64)
    found = compared(report, now, differing, differing)
    for step in (found.steps[5], found.steps[6]):
        assert step.same is same
        assert told in step.told
    assert "8 × 128 × 64 instead of 8 × 64 × 64" in found.steps[5].told
    # The scores tell of what cannot be compared.
    assert found.same is (same is not False)
    del report["scores"]["test"], now["scores"]["test"]
    assert compared(report, now, differing, differing).same is (same is True)


def test_a_model_from_elsewhere_has_no_samples(report: dict[str, Any]) -> None:
    report["digests"]["samples"] = None
    assert compared(report, report).steps[0].name == "checkpoint"


@pytest.mark.parametrize(
    ("was", "now", "found"),
    [
        ({"a": 1}, {"a": 1, "seconds": 3}, []),
        ({"a": None}, {"a": 0.5}, ["a was None, is 0.5"]),
        ({"a": 1}, {}, ["a was 1, is None"]),
        ({}, {"b": 2}, ["b was None, is 2"]),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, ["a[1].b was 2, is 3"]),
        ({"a": [1]}, {"a": [1, 2]}, ["a was [1], is [1, 2]"]),
    ],
)
def test_differences_are_told_with_their_path(was: Any, now: Any, found: list[str]) -> None:
    assert list(differences(was, now)) == found
