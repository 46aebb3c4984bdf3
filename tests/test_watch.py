"""What TensorBoard shows is the history, each point once, also after a kill."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from training import MODERN, Killed, Toy, break_in, history_of, run, with_settings

from unetpipe.data.samples import decode
from unetpipe.errors import UserError
from unetpipe.files import digest
from unetpipe.nets.checkpoint import load_checkpoint
from unetpipe.watch import IGNORED, Board, strip

WATCHED = with_settings(MODERN, tensorboard=True)
Point = tuple[int, Any]


def events(folder: Path) -> dict[str, list[Point]]:
    """(step, number or size of the picture) by name, from every event of every file, in the order of the files."""
    found: dict[str, list[Point]] = {}
    for path in sorted(folder.glob("events.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                content = value.tensor
                point = content.float_val[0] if content.float_val else tuple(map(int, content.string_val[:2]))
                found.setdefault(value.tag, []).append((event.step, point))
    return found


def pictures(folder: Path) -> dict[str, str]:
    return {path.name: digest(path) for path in folder.glob("*.png")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of an unbroken run with four validations of four tiles."""
    return run(Toy(tmp_path_factory.mktemp("whole"), tiles=4).write(), WATCHED)


def test_the_events_are_the_history(whole: Path) -> None:
    shown = events(whole.parent / "tensorboard")
    names = {
        "loss/training": "loss",
        "loss/validation": "validation_loss",
        "learning_rate": "learning_rate",
        "IoU/mean": "validation_mean_iou",
        "IoU/membrane": "iou_membrane",
        "IoU/inside": "iou_inside",
    }
    tiles = {f"validation/tile-{tile}" for tile in range(3)}
    assert shown.keys() == names.keys() | tiles
    for name, column in names.items():
        expected = [(int(row["step"]), np.float32(row[column])) for row in history_of(whole) if row[column]]
        assert shown[name] == expected
    # Image, truth and two probabilities, each 20 columns wide, and gaps of 4 between them.
    assert all(shown[tile] == [(step, (92, 20)) for step in (6, 12, 18, 24)] for tile in tiles)


@pytest.mark.parametrize("killed", [3, 12, 23], ids="in_step_{}".format)
def test_after_a_kill_each_point_is_there_once(tmp_path: Path, whole: Path, killed: int) -> None:
    folder = Toy(tmp_path, tiles=4).write()
    board = folder / "model" / "tensorboard"
    with pytest.MonkeyPatch.context() as patch:
        break_in(patch, killed, Killed, [])
        with pytest.raises(Killed):
            run(folder, WATCHED)
    # As if it had been killed while it wrote a picture, and after one whose step will be done again.
    board.joinpath(".00000006-tile-0.png.elsewhere-1.0.png").write_bytes(b"torn")
    Image.new("RGB", (92, 20)).save(board / "00000024-tile-0.png")
    checkpoint = run(folder, WATCHED)
    assert events(board) == events(whole.parent / "tensorboard")
    board.joinpath(".00000006-tile-0.png.elsewhere-1.0.png").unlink(missing_ok=True)
    assert pictures(board) == pictures(whole.parent / "tensorboard")
    assert digest(checkpoint) == digest(whole)


def test_who_begins_to_watch_late_sees_all_numbers(tmp_path: Path, whole: Path) -> None:
    folder = Toy(tmp_path, tiles=4).write()
    with pytest.MonkeyPatch.context() as patch:
        break_in(patch, 12, Killed, [])
        with pytest.raises(Killed):
            run(folder, MODERN)
    checkpoint = run(folder, WATCHED)
    shown, expected = events(folder / "model" / "tensorboard"), events(whole.parent / "tensorboard")
    assert {name: points for name, points in shown.items() if "tile" not in name} == {
        name: points for name, points in expected.items() if "tile" not in name
    }
    assert shown["validation/tile-0"] == expected["validation/tile-0"][1:]
    assert digest(checkpoint) == digest(whole)


@pytest.mark.parametrize("recipe", [MODERN, WATCHED], ids=["not watched", "watched"])
def test_another_training_leaves_nothing(tmp_path: Path, recipe: dict[str, Any]) -> None:
    folder = Toy(tmp_path, tiles=1).write()
    run(folder, WATCHED)
    checkpoint = run(folder, with_settings(recipe, steps=6))
    board = checkpoint.parent / "tensorboard"
    assert board.exists() == (recipe is WATCHED)
    if board.exists():
        assert [step for step, _ in events(board)["loss/training"]] == list(range(1, 7))
        assert list(pictures(board)) == ["00000006-tile-0.png"]


def test_without_the_package_nothing_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    break_in(monkeypatch, -1, Killed, done)
    monkeypatch.setattr("unetpipe.watch.find_spec", lambda _: None)
    with pytest.raises(UserError, match="the package tensorboard is not installed") as caught:
        run(Toy(tmp_path).write(), WATCHED)
    assert "pip install 'unetpipe[watch]'" in caught.value.repair
    assert done == []


def test_a_value_that_is_not_defined_is_no_point(tmp_path: Path) -> None:
    with Board(tmp_path, ["a", "b"], []) as board:
        board.add({"step": 1, "loss": 0.5, "learning_rate": 1.0, "seconds": 1.0, "iou_a": None, "iou_b": 0.25})
    assert events(tmp_path) == {"loss/training": [(1, 0.5)], "learning_rate": [(1, 1.0)], "IoU/b": [(1, 0.25)]}


def test_the_picture_shows_what_the_network_says(whole: Path, tmp_path: Path) -> None:
    toy = Toy(tmp_path, tiles=4)
    network, _ = load_checkpoint(whole)
    step = max(history_of(whole), key=lambda row: float(row["validation_mean_iou"] or 0))["step"]
    image, label = decode(toy.validation["image"])[1], toy.validation["label"][1]
    probability = network(torch.from_numpy(image[None]))[0].softmax(0).detach().numpy()
    with Image.open(whole.parent / "tensorboard" / f"{int(step):08d}-tile-1.png") as picture:
        voxels = np.asarray(picture)
    assert np.array_equal(voxels, strip(image, label, probability))
    grey = [voxels[:, start : start + 20] for start in (0, 24, 48, 72)]
    assert np.array_equal(grey[0][..., 0], np.rint(255 * np.clip(image[0, 8:-8, 8:-8] / 5 + 0.5, 0, 1)))
    assert np.array_equal(grey[1][..., 0], 255 * label[0])
    assert np.array_equal(grey[2][..., 0], np.rint(255 * probability[0, 0]))
    assert np.array_equal(grey[3][..., 0], np.rint(255 * probability[1, 0]))


def test_a_stack_shows_its_middle_section_and_what_is_ignored() -> None:
    image = np.zeros((5, 6, 6), np.float32)
    image[2] = 2.5
    label = np.zeros((3, 4, 2), np.uint8)
    label[1] = 2
    label[1, 0, 0] = 255
    probability = np.zeros((3, 3, 4, 2), np.float32)
    probability[2, 1] = 1
    voxels = strip(image, label, probability)
    assert voxels.shape == (4, 5 * 2 + 4 * 4, 3)
    assert (voxels[:, :2] == 255).all()
    assert tuple(voxels[0, 6]) == IGNORED
    assert (voxels[1:, 6:8] == 255).all()
    assert not voxels[:, 12:14].any()
    assert (voxels[:, -2:] == 255).all()
