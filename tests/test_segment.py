"""Numbered objects are those of the whole volume in memory, however it is cut."""

import json
from pathlib import Path
from typing import Any

import buckets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st
from numpy.typing import NDArray
from segmenting import (
    ORIGIN_NM,
    VOXEL_SIZE_NM,
    Voxels,
    blobs,
    finished,
    flooded_in_memory,
    in_memory,
    in_this_process,
    numbered,
    stored,
    table,
)

from unetpipe import config
from unetpipe.errors import UserError
from unetpipe.files import write_json
from unetpipe.grid import Region
from unetpipe.segmentation.fragments import brightest_below
from unetpipe.storage import folder_at

SHAPE = (9, 31, 26)


@st.composite
def cuts(draw: st.DrawFn) -> dict[str, Any]:
    """Blocks of whole chunks, and of how many voxels a piece of them may be."""
    chunk = tuple(draw(st.integers(*of)) for of in ((1, 4), (5, 12), (5, 12)))
    block = tuple(n * draw(st.integers(1, 3)) for n in chunk)
    return {"chunk": chunk, "block": block, "at_once": draw(st.integers(100, 2000))}


@given(
    probability=st.builds(
        blobs,
        st.tuples(*(st.integers(1, n) for n in (6, 20, 20))),
        st.integers(0, 99),
        st.sampled_from([0.0, 0.6, 2.0]),
    ),
    cut=cuts(),
    method=st.sampled_from(["components", "components_2d"]),
    threshold=st.sampled_from([0.1, 0.5, 0.62]),
    min_voxels=st.sampled_from([1, 2, 30]),
)
@how(max_examples=15)
def test_any_cut_gives_the_objects_of_the_whole(
    probability: Voxels,
    cut: dict[str, Any],
    method: str,
    threshold: float,
    min_voxels: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    paths = finished(probability, tmp_path_factory.mktemp("v"), cut["block"], cut["chunk"])
    with in_this_process(cut["at_once"]):
        found = numbered(*paths, method=method, threshold=threshold, min_voxels=min_voxels)
    expected = in_memory(probability > 255 * threshold, method, min_voxels)
    np.testing.assert_array_equal(stored(found), expected)
    _refuse_wrong_table(found, expected)


@given(
    probability=st.builds(
        blobs,
        st.tuples(*(st.integers(1, n) for n in (6, 16, 16))),
        st.integers(0, 99),
        st.sampled_from([0.0, 0.6, 2.0]),
    ),
    steps=st.sampled_from([1, 16, 64]),
    cut=cuts(),
    limits=st.tuples(st.integers(0, 200), st.integers(0, 100)),
    min_voxels=st.sampled_from([1, 12]),
)
@how(max_examples=25)
def test_any_cut_gives_the_watershed_of_the_whole(
    probability: Voxels,
    steps: int,
    cut: dict[str, Any],
    limits: tuple[int, int],
    min_voxels: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    # The fewer steps, the more ties; plateaus go through many pieces.
    probability = probability // steps * steps
    low, high = limits[0], min(sum(limits), 254)
    paths = finished(probability, tmp_path_factory.mktemp("v"), cut["block"], cut["chunk"])
    with in_this_process(cut["at_once"]):
        found = numbered(
            *paths, method="watershed", threshold=low / 255, seeds=(high + 0.1) / 255, min_voxels=min_voxels
        )
    low = brightest_below(low / 255)
    expected = flooded_in_memory(probability, low, high, min_voxels)
    np.testing.assert_array_equal(stored(found), expected)
    _refuse_wrong_table(found, expected)


def _refuse_wrong_table(found: dict[str, Any], expected: NDArray[np.uint64]) -> None:
    rows = table(found)
    sizes = np.bincount(expected.reshape(-1).astype(np.int64))[1:]
    np.testing.assert_array_equal(rows["number"], np.arange(1, len(sizes) + 1))
    np.testing.assert_array_equal(rows["voxels"], sizes)
    assert (found["count"], found["voxels"]) == (len(sizes), sizes.sum())
    assert sum(found["sizes"].values()) == len(sizes)
    assert [each["voxels"] for each in found["largest"]] == sorted(sizes.tolist(), reverse=True)[:10]
    for row in rows[:20]:
        places = np.argwhere(expected == row["number"])
        np.testing.assert_array_equal(row["start"], places.min(axis=0))
        np.testing.assert_array_equal(row["stop"], places.max(axis=0) + 1)
        nm = np.array(ORIGIN_NM) + np.array(VOXEL_SIZE_NM) * places.mean(axis=0)
        np.testing.assert_allclose(row["centroid_nm"], nm, rtol=1e-12)


def spiral() -> Voxels:
    """One object that goes to and fro through all blocks, and comes back to each in many pieces."""
    mask = np.zeros((5, 13, 13), np.uint8)
    mask[::2, ::2] = 255
    mask[::2, 1::4, -1] = mask[::2, 3::4, 0] = 255
    mask[1::4, -1, -1] = mask[3::4, 0, 0] = 255
    return mask


def test_one_object_through_all_pieces(tmp_path: Path) -> None:
    paths = finished(spiral(), tmp_path, (2, 4, 4))
    with in_this_process():
        found = numbered(*paths)
    assert found["count"] == 1
    assert found["fragments"] > 30
    np.testing.assert_array_equal(stored(found), spiral() > 0)


@pytest.mark.parametrize("high", [40, 250])
def test_a_slope_through_all_pieces_leads_to_its_seed(high: int, tmp_path: Path) -> None:
    # Steps up along a way that goes to and fro: each ascent leaves and enters pieces many times.
    places = np.argwhere(spiral() > 0)
    order = np.lexsort((places[:, 2], places[:, 1] % 4, places[:, 1], places[:, 0]))
    values = np.zeros(spiral().shape, np.uint8)
    values[tuple(places[order].T)] = np.linspace(20, 255, len(places)).astype(np.uint8)
    paths = finished(values, tmp_path, (2, 4, 4))
    with in_this_process():
        found = numbered(*paths, method="watershed", threshold=10 / 255, seeds=(high + 0.1) / 255)
    np.testing.assert_array_equal(stored(found), flooded_in_memory(values, brightest_below(10 / 255), high))


def test_what_no_seed_reaches_is_background(tmp_path: Path) -> None:
    values = np.zeros((3, 8, 20), np.uint8)
    values[:, :, :6], values[1, 4, 2] = 150, 255
    values[:, :, 8:14] = 150
    paths = finished(values, tmp_path, (2, 4, 4))
    with in_this_process():
        found = numbered(*paths, method="watershed")
    np.testing.assert_array_equal(stored(found) > 0, np.indices(values.shape)[2] < 6)


def test_seeds_below_the_threshold_of_validation(tmp_path: Path) -> None:
    paths = finished(blobs(SHAPE), tmp_path, (4, 16, 16))
    validation = [_scores(tmp_path / "w.json", 6)]
    with pytest.raises(UserError, match=r"threshold is 0\.7, and that of the seeds 0\.6"):
        numbered(*paths, method="watershed", threshold="validation", seeds=0.6, validation=validation)


def test_a_watershed_of_a_part(tmp_path: Path) -> None:
    probability = blobs(SHAPE)
    region = Region((2, 9, 3), (6, 20, 18))
    paths = finished(probability, tmp_path, (4, 8, 8), (2, 4, 8), region)
    with in_this_process(at_once=100):
        found = numbered(*paths, method="watershed", seeds=0.7)
    wanted = np.zeros(SHAPE, np.bool_)
    wanted[0:8, 8:24, 0:24] = True
    expected = flooded_in_memory(np.where(wanted, probability, 0).astype(np.uint8), 127, 178)
    np.testing.assert_array_equal(stored(found), expected)


def test_nothing_above_the_threshold(tmp_path: Path) -> None:
    paths = finished(np.full(SHAPE, 127, np.uint8), tmp_path, (4, 16, 16))
    with in_this_process():
        found = numbered(*paths, threshold=0.5)
    assert (found["count"], found["sizes"], found["largest"]) == (0, {}, [])
    assert not stored(found).any()
    assert len(table(found)) == 0


def test_blocks_that_were_not_predicted_are_background(tmp_path: Path) -> None:
    probability = blobs(SHAPE)
    region = Region((2, 9, 3), (6, 20, 18))
    paths = finished(probability, tmp_path, (4, 8, 8), (2, 4, 8), region)
    with in_this_process(at_once=100):
        found = numbered(*paths)
    wanted = np.zeros(SHAPE, np.bool_)
    wanted[0:8, 8:24, 0:24] = True
    np.testing.assert_array_equal(stored(found), in_memory((probability > 127) & wanted))
    assert 0 < found["pieces"] < 2 * 4 * 5 * 7


def test_a_lost_part_of_the_prediction_is_no_background(tmp_path: Path) -> None:
    # Nor may anything be kept of pieces beside it, into which a watershed would look.
    paths = finished(blobs(SHAPE), tmp_path, (4, 16, 16))
    (tmp_path / "prediction" / "probability.zarr" / "0" / "c" / "0" / "1" / "0" / "1").unlink()
    with (
        in_this_process(),
        pytest.raises(UserError, match=r"(?s)1 shards of .* are gone, .*c/0/1/0/1 among.*fsck --repair"),
    ):
        numbered(*paths)
    assert not (tmp_path / "segments").exists()


def test_a_damaged_part_of_the_prediction_is_told(tmp_path: Path) -> None:
    paths = finished(blobs(SHAPE), tmp_path, (4, 16, 16))
    shard = tmp_path / "prediction" / "probability.zarr" / "0" / "c" / "0" / "1" / "0" / "1"
    shard.write_bytes(shard.read_bytes()[:40])
    with in_this_process(), pytest.raises(UserError, match="fsck --repair"):
        numbered(*paths)


def _scores(place: Path, best: int, objects: str = "inside") -> Path:
    v_rand = [0.5] * 9
    v_rand[best] = 0.9
    kind = {"scored_sections": 2, "curve": {"v_rand": v_rand}}
    thresholds = [tenths / 10 for tenths in range(1, 10)]
    segments = {"objects": objects, "thresholds": thresholds, "thinned": kind, "sections": kind}
    write_json(place, {"volume": "w", "segments": segments})
    return place


def test_the_threshold_of_the_validation_volumes(tmp_path: Path) -> None:
    probability = blobs(SHAPE)
    paths = finished(probability, tmp_path, (4, 16, 16))
    with in_this_process():
        found = numbered(*paths, threshold="validation", validation=[_scores(tmp_path / "w.json", 6)])
    assert (found["threshold"], found["threshold_chosen_on"]) == (0.7, ["w"])
    np.testing.assert_array_equal(stored(found), in_memory(probability > 0.7 * 255))


@pytest.mark.parametrize(
    ("method", "expected"), [pytest.param("components_2d", 0.3, id="2D"), pytest.param("components", 0.7, id="3D")]
)
def test_objects_of_sections_are_those_that_scored_best_one_by_one(
    tmp_path: Path, method: str, expected: float
) -> None:
    paths = finished(blobs(SHAPE), tmp_path, (4, 16, 16))
    scores = _scores(tmp_path / "w.json", 6)
    by_object = {"objects": 5, "curve": [0.1, 0.2, 0.9, 0.4, 0.3, 0.2, 0.2, 0.1, 0.0]}
    write_json(scores, json.loads(scores.read_text()) | {"instances": by_object})
    with in_this_process():
        found = numbered(*paths, method=method, threshold="validation", validation=[scores])
    assert (found["threshold"], found["threshold_chosen_on"]) == (expected, ["w"])


def test_no_threshold_to_be_had(tmp_path: Path) -> None:
    paths = finished(blobs(SHAPE), tmp_path, (4, 16, 16))
    with pytest.raises(UserError, match=r"set segment\.threshold to a number"):
        numbered(*paths, threshold="validation")


def test_a_prediction_of_other_classes(tmp_path: Path) -> None:
    paths = finished(blobs(SHAPE), tmp_path, (4, 16, 16))
    with pytest.raises(UserError, match="predict the volume again"):
        numbered(*paths, classes=["inside", "membrane"])


def test_too_many_fragments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = finished(blobs(SHAPE), tmp_path, (4, 16, 16))
    monkeypatch.setattr("unetpipe.segmentation.objects.MOST", 10)
    with in_this_process(), pytest.raises(UserError, match=r"there are \d+ fragments, and 10 can be merged"):
        numbered(*paths)


def test_the_store_is_ome_zarr_labels(tmp_path: Path) -> None:
    from ome_zarr_models.v05.image_label import ImageLabel
    from zarr import open_array, open_group

    with in_this_process():
        found = numbered(*finished(blobs(SHAPE), tmp_path, (4, 16, 16), (2, 8, 8)))
    group = open_group(found["segments"], mode="r")
    model = ImageLabel.from_zarr(group)
    assert model.ome_attributes.multiscales[0].axes[0].name == "z"
    array = open_array(f"{found['segments']}/0", mode="r")
    assert (array.dtype, array.chunks, array.shards) == (np.uint64, (2, 8, 8), (4, 16, 16))
    np.testing.assert_array_equal(array[...], stored(found))


@pytest.mark.long
def test_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probability = blobs(SHAPE)
    with buckets.server() as endpoint:
        for name, value in buckets.environment(endpoint).items():
            monkeypatch.setenv(name, value)
        buckets.forget()
        buckets.make_bucket(endpoint, "labs")
        paths = finished(probability, tmp_path, (4, 16, 16), store="s3://labs/run/v")
        found = numbered(*paths, store="s3://labs/run/v/segments")
        assert found["segments"] == "s3://labs/run/v/segments/segments.zarr"
        np.testing.assert_array_equal(stored(found), in_memory(probability > 127))
        names = [entry.name for entry in folder_at("s3://labs/run/v/segments").entries()]
        assert not any(name.startswith("fragments/") for name in names)
        assert "segments.npy" in names
    assert [path.name for path in (tmp_path / "segments").iterdir()] == ["segments.json"]
    buckets.forget()


def test_settings_are_of_the_model() -> None:
    assert config.Segment().threshold == 0.5
    assert json.loads(config.Segment(threshold="validation").model_dump_json())["threshold"] == "validation"
