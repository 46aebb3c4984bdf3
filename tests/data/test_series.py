"""Frames and labels of a time series: paired by the numbers in their names, and what cannot be paired is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from cells import moving_cells, write_series
from ingesting import ingested

from unetpipe.arrays import open_array
from unetpipe.check import check
from unetpipe.config import Instances
from unetpipe.data.instances import Instances as Rule
from unetpipe.data.sources import open_labels
from unetpipe.errors import SettingsError, UserError
from unetpipe.volume import IGNORE

CLASSES = {"background": [], "cell": []}
RULE = Instances(boundary="background", object="cell", reach=2)
SHAPE = (12, 40, 52)


@pytest.fixture(scope="module")
def cells() -> tuple[Any, Any]:
    return moving_cells(SHAPE, 9, 9.0)


def bring_in(folder: Path, images: str, labels: str, **changes: Any) -> Any:
    given = {"label_values": CLASSES, "ignore": [], "instances": RULE, **changes}
    return ingested(images, folder / "v" / "volume.json", labels, **given)


@pytest.mark.parametrize("truth", ["GT", "ST"])
def test_frames_with_a_file_are_labelled_and_no_others(tmp_path: Path, cells: Any, truth: str) -> None:
    grey, ids = cells
    volume = bring_in(tmp_path, *write_series(tmp_path, grey, ids, [10, 2, 7], truth=truth), sections=(1, 12))
    np.testing.assert_array_equal(open_array(volume.image)[...], grey[1:])
    classes, objects = open_array(volume.labels)[...], open_array(volume.instances)[...]
    rule = Rule(list(CLASSES), RULE)
    for z in range(11):
        there = z + 1 in (2, 7, 10)
        np.testing.assert_array_equal(classes[z], rule.encode(ids[z + 1]) if there else IGNORE)
        np.testing.assert_array_equal(objects[z], ids[z + 1] if there else 0)
    assert volume.learnt_sections().tolist() == [1, 6, 9]


def test_numbers_pair_files_whatever_their_digits_and_the_first_frame(tmp_path: Path, cells: Any) -> None:
    grey, ids = cells
    images, labels = write_series(tmp_path, grey, ids, [3, 11])
    for z in range(12):
        # Of two lengths: as text, t1000 comes before t992.
        (Path(images) / f"t{z:03}.tif").rename(Path(images) / f"t{991 + z}.tif")
    (Path(labels) / "man_seg003.tif").rename(Path(labels) / "man_seg0994.tif")
    (Path(labels) / "man_seg011.tif").rename(Path(labels) / "man_seg1002.tif")
    volume = bring_in(tmp_path, images, labels)
    objects = open_array(volume.instances)[...]
    np.testing.assert_array_equal(objects[[3, 11]], ids[[3, 11]])
    assert volume.learnt_sections().tolist() == [3, 11]


def test_frames_can_be_a_stack_counted_from_0(tmp_path: Path, cells: Any) -> None:
    grey, ids = cells
    _, labels = write_series(tmp_path, grey, ids, [4])
    tifffile.imwrite(tmp_path / "stack.tif", grey)
    volume = bring_in(tmp_path, str(tmp_path / "stack.tif"), labels)
    np.testing.assert_array_equal(open_array(volume.instances)[4], ids[4])


def test_boxes_restrict_the_labelled_frames(tmp_path: Path, cells: Any) -> None:
    grey, ids = cells
    box = [[0, 12], [5, 30], [10, 40]]
    volume = bring_in(tmp_path, *write_series(tmp_path, grey, ids, [4, 5]), annotated=[box])
    expected = np.zeros(SHAPE, np.uint16)
    expected[4:6, 5:30, 10:40] = ids[4:6, 5:30, 10:40]
    np.testing.assert_array_equal(open_array(volume.instances)[...], expected)


def test_objects_that_become_one_change_the_digest_though_classes_stay(tmp_path: Path, cells: Any) -> None:
    grey, ids = cells
    ids = np.where(np.arange(SHAPE[2]) < 20, 1, np.where(np.arange(SHAPE[2]) > 30, 2, 0)) + np.zeros_like(ids)
    digests = []
    for name, labels in (("two", ids), ("one", np.minimum(ids, 1))):
        volume = bring_in(tmp_path / name, *write_series(tmp_path / name, grey, labels.astype(np.uint16), [0]))
        digests.append((volume.labels_digest, open_array(volume.labels)[...].tobytes()))
    assert digests[0][1] == digests[1][1]
    assert digests[0][0] != digests[1][0]


def test_labels_that_are_classes_leave_no_objects(tmp_path: Path, cells: Any) -> None:
    grey, ids = cells
    addresses = write_series(tmp_path, grey, ids, [0])
    assert bring_in(tmp_path, *addresses).instances is not None
    there = tmp_path / "v" / "instances.zarr"
    assert there.exists()
    values = {"background": [0], "cell": list(range(1, 10))}
    assert bring_in(tmp_path, *addresses, instances=None, label_values=values).instances is None
    assert not there.exists()


Change = Callable[[Path, Path], object]


def _write(where: str, like: str = "t000.tif") -> Change:
    def change(images: Path, labels: Path) -> None:
        folder = labels if where.startswith("man_") else images
        shutil.copy(folder / like if folder == images else next(labels.iterdir()), folder / where)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda images, _: (images / "t005.tif").unlink(), "are missing: 5, between t000", id="gap"),
        pytest.param(_write("t0003.tif"), "in .*01, t0003.tif and t003.tif are both of frame 3", id="frame twice"),
        pytest.param(_write("man_seg0002.tif"), "man_seg0002.tif and man_seg002.tif are both", id="labels twice"),
        pytest.param(_write("man_seg012.tif"), "frames 0 to 11, and none for man_seg012.tif", id="no frame"),
        pytest.param(_write("mean.tif"), "in .*01, mean.tif beside files that are named by", id="other frame"),
        pytest.param(_write("man_sex012.tif"), "man_sex012.tif beside files that are", id="other labels"),
        pytest.param(_write("man_track002.tif"), "man_track002.tif: they mark where cells are", id="markers"),
        pytest.param(_write("man_seg_002_001.tif"), "labels of single planes of a volume", id="3D"),
    ],
)  # fmt: skip
def test_what_cannot_be_paired_is_refused(tmp_path: Path, cells: Any, change: Change, message: str) -> None:
    images, labels = write_series(tmp_path, *cells, [2])
    change(Path(images), Path(labels))
    with pytest.raises(UserError, match=message):
        bring_in(tmp_path, images, labels)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        pytest.param((40, 51), r"labels have the shape \(12, 40, 51\).*image has \(12, 40, 52\)", id="size"),
        pytest.param((40, 52, 3), "no colours|samples per pixel", id="RGB"),
        pytest.param((5, 40, 52), "man_seg002.tif holds 5 sections", id="volume"),
    ],
)
def test_labels_of_another_form_are_refused(tmp_path: Path, cells: Any, shape: tuple[int, ...], message: str) -> None:
    images, labels = write_series(tmp_path, *cells, [])
    photometric = "rgb" if shape[-1] == 3 else "minisblack"
    tifffile.imwrite(Path(labels) / "man_seg002.tif", np.ones(shape, np.uint8), photometric=photometric)
    with pytest.raises(UserError, match=message):
        bring_in(tmp_path, images, labels)


def settings(images: str, labels: str, **changes: Any) -> dict[str, Any]:
    volume = {"role": "train", "image": images, "labels": labels, "labels_are": "instances", **changes}
    return {
        "run": "r", "classes": CLASSES, "network": {"depth": 2},
        "volumes": {"a": volume, "b": {"role": "predict", "image": images}},
        "instances": {"boundary": "background", "object": "cell"},
    }  # fmt: skip


def test_names_alone_tell_that_sections_have_no_labels(tmp_path: Path, cells: Any) -> None:
    addresses = write_series(tmp_path, *cells, [2, 7])
    check(settings(*addresses, sections=[7, 12]), "here")
    with pytest.raises(SettingsError, match=r"volumes.a.sections: \[8, 12\) has no labels: .* the sections 2, 7"):
        check(settings(*addresses, sections=[8, 12]), "here")
    with pytest.raises(SettingsError, match=r"volumes.a.annotated.1: there are no labels for section 8, but for 2, 7"):
        check(settings(*addresses, sections=[1, 12], annotated=[6, 7]), "here")
    (Path(addresses[0]) / "t003.tif").unlink()
    with pytest.raises(SettingsError, match=r"volumes.a.labels: .*are missing: 3"):
        check(settings(*addresses), "here")


def test_the_listing_changes_with_a_file(tmp_path: Path, cells: Any) -> None:
    images, labels = write_series(tmp_path, *cells, [2])
    with open_labels(labels, images, 12) as source:
        before = source.listing()
    write_series(tmp_path, *cells, [3])
    with open_labels(labels, images, 12) as source:
        assert source.listing() != before
        assert [source.labelled(z) for z in range(5)] == [False, False, True, True, False]
