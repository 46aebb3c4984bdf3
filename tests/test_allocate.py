"""A store is made once, and the plan of what has begun is kept."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from certificates import write_certificate
from rates import allocate, made_up
from stores import make_store

from unetpipe.allocate import is_allocated, read_levels, read_plan
from unetpipe.config import Network
from unetpipe.errors import UserError
from unetpipe.files import read_json, write_json
from unetpipe.layout import Call, Measure, Rate
from unetpipe.progress import Record
from unetpipe.storage import folder_at

CLASSES = ["membrane", "inside"]


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return write_certificate(tmp_path / "engine", Network(depth=2).geometry, versions={"onnxruntime": "1"})


@pytest.fixture
def volume(make_volume: Any) -> Path:
    return make_volume(np.random.default_rng(1).integers(0, 255, (10, 150, 90), np.uint8))


def run(volume: Path, certificate: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    settings = {"classes": CLASSES, "tile": None, "batch": 1, "on_change": "refuse"}
    allocate(volume, certificate, folder / "allocated.json", **(settings | changes))
    return read_json(folder / "allocated.json")


def test_the_store_has_whole_blocks_as_shards(volume: Path, certificate: Path, tmp_path: Path) -> None:
    allocated = run(volume, certificate, tmp_path / "p")
    array = zarr.open_array(f"{allocated['probability']}/{allocated['array']}", mode="r")
    plan = read_plan(allocated)
    assert array.shape == (2, 10, 150, 90)
    assert array.shards == (2, *plan.block)
    assert array.dtype == np.uint8
    group = zarr.open_group(allocated["probability"], mode="r")
    assert [axis["name"] for axis in group.attrs["ome"]["multiscales"][0]["axes"]] == list("czyx")
    assert [channel["label"] for channel in group.attrs["ome"]["omero"]["channels"]] == CLASSES


def test_a_3d_network_gets_stacks(volume: Path, certificate: Path, tmp_path: Path) -> None:
    geometry = Network(depth=2, kernel=(3, 3, 3), pooling=(2, 2, 2)).geometry
    write_json(certificate, read_json(certificate) | {"geometry": asdict(geometry)})
    allocated = run(volume, certificate, tmp_path / "p", tile=[44, 60, 68])
    plan = read_plan(allocated)
    assert (plan.geometry, plan.tile, plan.kept) == (geometry, (44, 60, 68), (4, 20, 28))
    array = zarr.open_array(f"{allocated['probability']}/0", mode="r")
    assert array.shards == (2, *plan.block) == (2, 12, 160, 112)


def test_a_store_whose_key_fits_is_kept_whatever_became_of_its_json(
    volume: Path, certificate: Path, tmp_path: Path
) -> None:
    allocated = run(volume, certificate, tmp_path / "p")
    array = zarr.open_array(f"{allocated['probability']}/0", mode="r+")
    array[0, :8] = 7
    Record(tmp_path / "p" / "progress").append("w", {"name": "0.0.0"})
    (tmp_path / "p" / "allocated.json").unlink()
    assert run(volume, certificate, tmp_path / "p") == allocated
    assert (array[0, :8] == 7).all()
    assert Record(tmp_path / "p" / "progress").done().keys() == {"0.0.0"}


def test_a_store_that_is_gone_is_made_again_and_its_record_forgotten(
    volume: Path, certificate: Path, tmp_path: Path
) -> None:
    allocated = run(volume, certificate, tmp_path / "p")
    Record(tmp_path / "p" / "progress").append("w", {"name": "0.0.0"})
    shutil.rmtree(allocated["probability"])
    run(volume, certificate, tmp_path / "p")
    assert Record(tmp_path / "p" / "progress").done() == {}


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(Path.unlink, id="gone"),
        pytest.param(lambda path: path.write_text("{"), id="damaged"),
        pytest.param(lambda path: path.write_text(path.read_text().replace("uint8", "int8")), id="another type"),
        pytest.param(lambda path: (path.parents[1] / "zarr.json").unlink(), id="the group's"),
        pytest.param(lambda path: (path.parents[1] / "1" / "zarr.json").unlink(), id="a level's"),
    ],
)
def test_metadata_that_are_lost_are_written_again_and_the_shards_kept(
    damage: Any, tmp_path: Path, volume: Path, certificate: Path
) -> None:
    allocated = run(volume, certificate, tmp_path / "p")
    store = Path(allocated["probability"])
    before = {path.relative_to(store): path.read_bytes() for path in store.rglob("zarr.json")}
    Record(tmp_path / "p" / "progress").append("w", {"name": "0.0.0"})
    shard = store / "0" / "c" / "0" / "0" / "0" / "0"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"a shard")
    damage(store / "0" / "zarr.json")
    run(volume, certificate, tmp_path / "p")
    assert shard.read_bytes() == b"a shard"
    assert list(Record(tmp_path / "p" / "progress").done()) == ["0.0.0"]
    assert {path.relative_to(store): path.read_bytes() for path in store.rglob("zarr.json")} == before
    assert not (tmp_path / "p" / "new").exists()


@pytest.mark.parametrize("name", ["zarr.json", "0/zarr.json", "1/zarr.json"], ids=["group", "array", "a level's"])
@pytest.mark.parametrize(
    "metadata",
    [[], "ome", 5, None, {}, {"attributes": None}, {"attributes": 5}, {"node_type": "array", "zarr_format": 3}],
    ids=str,
)
def test_metadata_that_are_json_and_nothing_else_are_put_in_place(
    metadata: Any, name: str, volume: Path, certificate: Path, tmp_path: Path
) -> None:
    allocated = run(volume, certificate, tmp_path / "p")
    store, levels = Path(allocated["probability"]), read_levels(allocated)
    before = (store / name).read_bytes()
    write_json(store / name, metadata)
    assert not is_allocated(folder_at(store), levels, len(CLASSES))
    assert run(volume, certificate, tmp_path / "p") == allocated
    assert (store / name).read_bytes() == before
    assert is_allocated(folder_at(store), levels, len(CLASSES))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"certificate": {"engine_digest": "f" * 64}}, "engine: was", id="engine"),
        pytest.param({"certificate": {"device_class": "other"}}, "device_class: was", id="device class"),
        pytest.param({"certificate": {"versions": {"onnxruntime": "2"}}}, "versions.onnxruntime: was", id="library"),
        pytest.param({"volume": {"image_digest": "2" * 64}}, "input.image_digest: was", id="input"),
        pytest.param({"volume": {"mean": [1.0] * 10}}, "input.mean: was", id="normalisation"),
        pytest.param({"settings": {"tile": [1, 104, 104]}}, "plan.tile: was", id="tile"),
        pytest.param({"settings": {"batch": 2}}, "plan.batch: was", id="batch"),
        pytest.param({"settings": {"mirror": ["y", "x"]}}, r'mirror: was null, is \["y", "x"\]', id="mirror images"),
        pytest.param({"settings": {"classes": ["inside", "membrane"]}}, "classes: was", id="order of classes"),
    ],
)
def test_whatever_can_change_a_voxel_is_refused(
    change: dict[str, dict[str, Any]], message: str, volume: Path, certificate: Path, tmp_path: Path
) -> None:
    run(volume, certificate, tmp_path / "p")
    before = {path: path.read_bytes() for path in (tmp_path / "p").rglob("*") if path.is_file()}
    for path, name in ((certificate, "certificate"), (volume, "volume")):
        write_json(path, read_json(path) | change.get(name, {}))
    settings = change.get("settings", {})
    with pytest.raises(UserError, match=message):
        run(volume, certificate, tmp_path / "p", **settings)
    assert {path: path.read_bytes() for path in (tmp_path / "p").rglob("*") if path.is_file()} == before
    run(volume, certificate, tmp_path / "p", on_change="restart", **settings)


def test_an_engine_for_one_tile_decides(volume: Path, certificate: Path, tmp_path: Path) -> None:
    write_json(certificate, read_json(certificate) | {"profile": {"tile": [1, 104, 108], "batch": [1, 1, 8]}})
    assert run(volume, certificate, tmp_path / "p", tile=None)["plan"]["tile"] == [1, 104, 108]


def test_another_name_or_voxel_size_changes_no_voxel(volume: Path, certificate: Path, tmp_path: Path) -> None:
    run(volume, certificate, tmp_path / "p")
    write_json(volume, read_json(volume) | {"name": "w", "voxel_size_nm": [1.0, 1.0, 1.0], "version": "9"})
    run(volume, certificate, tmp_path / "p")


class Bench:
    """Rates as they come: every engine that is measured is half as fast as the one before."""

    def __init__(self) -> None:
        self.measured: list[Call] = []
        self.asked: list[tuple[Any, ...]] = []

    @contextmanager
    def measuring(self, *asked: Any) -> Iterator[Measure]:
        self.asked.append(asked)
        yield self.rate

    def rate(self, call: Call) -> Rate:
        self.measured.append(call)
        factor = 2.0 ** len(self.measured)
        return made_up(call, lambda call: factor * call.voxels / 1e6)


def test_a_plan_that_has_begun_is_kept_whatever_would_be_chosen_now(
    make_volume: Any, certificate: Path, tmp_path: Path
) -> None:
    volume = make_volume(np.zeros((9, 600, 500), np.uint8))
    one, two = run(volume, certificate, tmp_path / "1", cores=1), run(volume, certificate, tmp_path / "2", cores=2)
    assert one["plan"] != two["plan"]
    bench = Bench()
    again = run(volume, certificate, tmp_path / "1", cores=2, block_seconds=0.5, measuring=bench.measuring)
    assert again["plan"] == one["plan"]
    assert again["key"] == one["key"]
    # What to expect of it is new.
    assert bench.measured == [Call(read_plan(one).tile, read_plan(one).batch)]
    assert again["predicted"]["seconds"] != one["predicted"]["seconds"]


def test_a_plan_that_needs_too_much_memory_by_now_is_kept_with_a_warning(
    volume: Path, certificate: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = run(volume, certificate, tmp_path / "p")
    assert run(volume, certificate, tmp_path / "p", memory_mb=100)["plan"] == before["plan"]
    assert "predict.memory_mb allows 100" in caplog.text
    assert f"delete {tmp_path / 'p'} to plan anew" in caplog.text


def test_a_refusal_comes_before_anything_is_measured(volume: Path, certificate: Path, tmp_path: Path) -> None:
    run(volume, certificate, tmp_path / "p")
    bench = Bench()
    with pytest.raises(UserError, match="classes: was"):
        run(volume, certificate, tmp_path / "p", classes=CLASSES[::-1], measuring=bench.measuring)
    assert bench.measured == []


def test_a_restart_plans_anew(make_volume: Any, certificate: Path, tmp_path: Path) -> None:
    volume = make_volume(np.zeros((9, 600, 500), np.uint8))
    one, two = run(volume, certificate, tmp_path / "1", cores=1), run(volume, certificate, tmp_path / "2", cores=2)
    settings = {"cores": 2, "classes": CLASSES[::-1], "on_change": "restart"}
    assert run(volume, certificate, tmp_path / "1", **settings)["plan"] == two["plan"] != one["plan"]


def test_the_engine_is_measured_as_it_will_predict(volume: Path, certificate: Path, tmp_path: Path) -> None:
    bench = Bench()
    run(volume, certificate, tmp_path / "p", workers=2, cores=5, measuring=bench.measuring)
    assert bench.asked == [(certificate.parent, "some processor", 2, 2, ())]
    bench = Bench()
    run(volume, certificate, tmp_path / "q", cores=3, measuring=bench.measuring)
    assert bench.asked == [(certificate.parent, "some processor", 3, 1, ())]
    bench = Bench()
    run(volume, certificate, tmp_path / "r", mirror=["x"], measuring=bench.measuring)
    assert bench.asked == [(certificate.parent, "some processor", 1, 1, ["x"])]


def test_what_to_expect_is_told(volume: Path, certificate: Path, tmp_path: Path) -> None:
    allocated = run(volume, certificate, tmp_path / "p", tile=[1, 84, 84])
    plan, predicted = read_plan(allocated), allocated["predicted"]
    blocks, tiles = list(plan.blocks()), [tile for block in plan.blocks() for tile in block.tiles()]
    assert (predicted["blocks"], predicted["tiles"]) == (len(blocks), len(tiles))
    assert predicted["kept_fraction"] == plan.kept_fraction
    assert predicted["bytes_written"] == len(CLASSES) * 10 * 150 * 90
    # 10 calls of 84 x 84 for each column of tiles, a second for a million voxels, and 2 s to start.
    assert predicted["seconds"] == pytest.approx(2 + len(tiles) * 84 * 84 / 1e6, abs=0.001)
    assert predicted["memory_mb_per_worker"] > 150
    assert predicted["basis"]["host"] == "some-node"
    assert predicted["basis"]["measured"] == "2026-01-02 03:04:05+0000"


def test_mirror_images_cost_what_they_were_measured_to_cost(volume: Path, certificate: Path, tmp_path: Path) -> None:
    plain = run(volume, certificate, tmp_path / "p", tile=[1, 84, 84])["predicted"]
    mirrored = run(volume, certificate, tmp_path / "q", tile=[1, 84, 84], mirror=["y", "x"])["predicted"]
    assert (plain["mirror"], mirrored["mirror"]) == ([], ["y", "x"])
    assert mirrored["tiles"] == plain["tiles"]
    work, once = (found["seconds"] - found["start_seconds"] for found in (mirrored, plain))
    assert work == pytest.approx(4 * once, abs=0.005)


@pytest.mark.parametrize(
    "axes", [pytest.param([], id="none"), pytest.param(["x"], id="fewer"), pytest.param(["z", "y", "x"], id="more")]
)
def test_other_mirror_images_are_refused_before_anything_is_measured_and_restarted_with_a_new_plan(
    axes: list[str], make_volume: Any, certificate: Path, tmp_path: Path
) -> None:
    volume = make_volume(np.zeros((9, 600, 500), np.uint8))
    before = run(volume, certificate, tmp_path / "p", mirror=["y", "x"], cores=1)
    assert before["key"]["mirror"] == ["y", "x"]
    assert run(volume, certificate, tmp_path / "p", mirror=["y", "x"], cores=2)["plan"] == before["plan"]
    bench = Bench()
    with pytest.raises(UserError, match=r'mirror: was \["y", "x"\], is '):
        run(volume, certificate, tmp_path / "p", mirror=axes, measuring=bench.measuring)
    assert bench.measured == []
    again = run(volume, certificate, tmp_path / "p", mirror=axes, cores=2, on_change="restart")
    fresh = run(volume, certificate, tmp_path / "q", mirror=axes, cores=2)
    assert again["plan"] == fresh["plan"] != before["plan"]
    assert again["key"] == fresh["key"]
    # Without mirror images, a key is what it was before there were any.
    assert ("mirror" in fresh["key"]) == bool(axes)


def test_files_are_those_that_will_be_there(volume: Path, certificate: Path, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    allocated = run(volume, certificate, folder, tile=[1, 84, 84])
    zarr.open_array(f"{allocated['probability']}/0", mode="r+")[...] = 7
    Record(folder / "progress").append("worker", {"name": "0.0.0"})
    write_json(folder / "job-0.json", {})
    of_levels = {f"{level.path}/zarr.json" for level in read_levels(allocated)[1:]}
    files = [path for path in folder.rglob("*") if path.is_file() and "/".join(path.parts[-2:]) not in of_levels]
    assert allocated["predicted"]["files"] == len(files)


def test_of_a_part_of_a_volume_a_part_is_expected(volume: Path, certificate: Path, tmp_path: Path) -> None:
    whole = run(volume, certificate, tmp_path / "p", tile=[1, 84, 84])
    part = run(volume, certificate, tmp_path / "q", tile=[1, 84, 84], region=[[0, 10], [0, 5], [0, 5]])
    share = part["selection"]["blocks"] / part["selection"]["of"]
    assert 0 < share < 1
    for name in ("tiles", "blocks", "bytes_read", "bytes_written"):
        assert part["predicted"][name] == pytest.approx(share * whole["predicted"][name], abs=1), name
    start = whole["predicted"]["start_seconds"]
    assert part["predicted"]["seconds"] - start < whole["predicted"]["seconds"] - start


def test_a_part_without_a_block_is_refused_and_leaves_everything(
    volume: Path, certificate: Path, make_volume: Any, tmp_path: Path
) -> None:
    before = run(volume, certificate, tmp_path / "p")
    files = {path: path.read_bytes() for path in (tmp_path / "p").rglob("*") if path.is_file()}
    np.save(tmp_path / "none.npy", np.zeros((1, 3, 3), np.uint8))
    write_json(volume, read_json(volume) | {"source": {"sections": [0, 10], "image_sections": 10}})
    for folder, on_change in (("p", "refuse"), ("p", "restart"), ("new", "refuse")):
        with pytest.raises(UserError, match=r"none\.npy\n.*nothing would be predicted\n.*mend the mask"):
            run(volume, certificate, tmp_path / folder, mask=str(tmp_path / "none.npy"), on_change=on_change)
    assert {path: path.read_bytes() for path in (tmp_path / "p").rglob("*") if path.is_file()} == files
    assert not (tmp_path / "new").exists()
    assert run(volume, certificate, tmp_path / "p") == before


def test_a_store_whose_shards_two_blocks_would_share_is_refused_and_kept(
    volume: Path, certificate: Path, tmp_path: Path
) -> None:
    allocated = run(volume, certificate, tmp_path / "p")
    plan = read_plan(allocated)
    Record(tmp_path / "p" / "progress").append("w", {"name": "0.0.0"})
    shard = (2 * plan.block[0], *plan.block[1:])
    make_store(
        Path(allocated["probability"]),
        shape=(2, *plan.shape), dtype="uint8", chunk=(1, *plan.chunk), shard=(2, *shard),
        voxel_size_nm=(1, 1, 1), channels=CLASSES,
    )  # fmt: skip
    with pytest.raises(UserError, match="two blocks could write one shard"):
        run(volume, certificate, tmp_path / "p")
    assert zarr.open_array(f"{allocated['probability']}/0", mode="r").shards == (2, *shard)
