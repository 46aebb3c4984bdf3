"""What of a run is shown: the voxels of each layer, wherever they lie, in the place that they have in the volume."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts
import zarr
from formats import IN_PLACE, Voxels, each_of, some_voxels, write_n5, write_precomputed
from ingesting import ingested
from levelled import fill, make, plan
from viewing import SHAPE, Made, run_of, serving

from unetpipe.arrays import open_array
from unetpipe.errors import UserError
from unetpipe.files import read_json
from unetpipe.viewer.run import look


def test_every_layer_has_the_voxels_of_its_store(made: Made) -> None:
    _, volumes = look(made.run)
    assert volumes["v"].problems == []
    assert list(volumes["v"].layers) == ["image", "probability", "classes", "truth", "segments"]
    with serving(volumes) as served:
        for kind, voxels in made.voxels.items():
            found = served.read("v", kind)
            assert found.dtype == voxels.dtype
            np.testing.assert_array_equal(found, voxels if voxels.ndim == 4 else voxels[None], err_msg=kind)


def test_levels_are_those_of_the_store_and_else_every_second_voxel(made: Made) -> None:
    _, volumes = look(made.run)
    with serving(volumes) as served:
        info = json.loads(served.get("/data/v/probability/info").body)
        sizes = {tuple(scale["resolution"]): tuple(scale["size"]) for scale in info["scales"]}
        assert sizes == {(4.0, 4.0, 40.0): (230, 200, 9), (8.0, 8.0, 40.0): (115, 100, 9)}
        image = made.voxels["image"]
        np.testing.assert_array_equal(served.read("v", "image", 1)[0], image[:, ::2, ::2])
        np.testing.assert_array_equal(served.read("v", "segments", 1)[0], made.voxels["segments"][:, ::2, ::2])


def test_paths_count_from_above_results_wherever_it_is_called(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path)
    shutil.copytree(made.run, run)
    for path in [*run.glob("*/v/*.json")]:
        path.write_text(path.read_text().replace(str(made.run), "results/run"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    _, volumes = look(run)
    assert volumes["v"].problems == []
    monkeypatch.chdir(tmp_path)
    folder, volumes = look(Path("run"))
    assert folder == Path("results/run")
    assert len(volumes["v"].layers) == 5


@each_of(IN_PLACE)
@pytest.mark.parametrize("sections", [None, [3, 9]], ids=["whole", "a part"])
def test_an_image_is_shown_where_it_lies(
    write: Callable[[Path, Voxels], str], sections: list[int] | None, tmp_path: Path
) -> None:
    voxels = some_voxels("uint8")
    run = run_of(tmp_path)
    ingested(write(tmp_path, voxels), run / "volumes" / "v" / "volume.json", sections=sections)
    _, volumes = look(run)
    with serving(volumes) as served:
        np.testing.assert_array_equal(served.read("v", "image")[0], voxels[slice(*(sections or (None,)))])


@pytest.mark.parametrize(
    ("dtype", "shown"), [("uint16", "uint16"), ("int16", "int16"), ("float64", "float32"), (">i4", "int32")]
)
def test_voxels_of_every_type_are_shown(dtype: str, shown: str, tmp_path: Path) -> None:
    voxels = some_voxels(dtype)
    array = zarr.create_array(tmp_path / "a.zarr", shape=voxels.shape, dtype=voxels.dtype, chunks=(4, 20, 20))
    array[...] = voxels
    run = run_of(tmp_path)
    ingested(tmp_path / "a.zarr", run / "volumes" / "v" / "volume.json", range=(0.0, 255.0))
    _, volumes = look(run)
    with serving(volumes) as served:
        found = served.read("v", "image")[0]
    assert found.dtype == shown
    np.testing.assert_array_equal(found, voxels)


def _ome(folder: Path, voxels: Voxels) -> str:
    """An OME-Zarr whose second level is half as fine along y and x, and lies at the middle of what it covers."""
    scale = [{"type": "scale", "scale": [40.0, 4.0, 4.0]}, {"type": "translation", "translation": [0.0, 100.0, 8.0]}]
    half = [{"type": "scale", "scale": [40.0, 8.0, 8.0]}, {"type": "translation", "translation": [0.0, 102.0, 10.0]}]
    axes = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
    levels = [{"path": path, "coordinateTransformations": t} for path, t in (("0", scale), ("1", half))]
    image = {"axes": axes, "datasets": levels}
    group = zarr.create_group(folder / "p.zarr", attributes={"ome": {"version": "0.5", "multiscales": [image]}})
    for path, content in (("0", voxels), ("1", voxels[:, ::2, ::2])):
        group.create_array(path, shape=content.shape, dtype=content.dtype, chunks=(4, 16, 16))[...] = content
    return str(folder / "p.zarr")


def _n5(folder: Path, voxels: Voxels) -> str:
    for number, step in enumerate((1, 2)):
        content = np.ascontiguousarray(voxels[:, ::step, ::step])
        write_n5(folder / "p.n5" / f"s{number}", content, downsamplingFactors=[step, step, 1])
    (folder / "p.n5" / "attributes.json").write_text('{"n5": "2.0.0", "resolution": [4, 4, 40]}')
    return str(folder / "p.n5")


def _precomputed(folder: Path, voxels: Voxels) -> str:
    address = write_precomputed(folder / "p.precomputed", voxels)
    coarse = np.ascontiguousarray(voxels[:, ::2, ::2])
    offset = {"voxel_offset": [5, -10, 5], "size": coarse.shape[::-1], "resolution": [8, 8, 40], "encoding": "raw"}
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": f"{address}/"},
        "scale_metadata": {**offset, "chunk_size": [16, 12, 3]},
    }
    ts.open(spec, create=True, open=True).result().write(coarse.T[..., None]).result()
    return address


@pytest.mark.parametrize("write", [_ome, _n5, _precomputed], ids=["ome-zarr", "n5", "precomputed"])
def test_a_pyramid_is_shown_with_its_levels(write: Callable[[Path, Voxels], str], tmp_path: Path) -> None:
    voxels = some_voxels("uint8", (10, 60, 64))
    run = run_of(tmp_path)
    ingested(write(tmp_path, voxels), run / "volumes" / "v" / "volume.json", sections=[2, 8])
    _, volumes = look(run)
    assert volumes["v"].problems == []
    assert [each.scale for each in volumes["v"].layers["image"].resolutions] == [(1, 1, 1), (1, 2, 2)]
    with serving(volumes) as served:
        np.testing.assert_array_equal(served.read("v", "image", 0)[0], voxels[2:8])
        np.testing.assert_array_equal(served.read("v", "image", 1)[0], voxels[2:8, ::2, ::2])


def test_a_level_that_lies_elsewhere_is_left_out(tmp_path: Path) -> None:
    voxels = some_voxels("uint8", (4, 60, 64))
    address = _ome(tmp_path, voxels)
    metadata = tmp_path / "p.zarr" / "zarr.json"
    metadata.write_text(metadata.read_text().replace("102.0", "103.0"))
    run = run_of(tmp_path)
    ingested(address, run / "volumes" / "v" / "volume.json")
    _, volumes = look(run)
    assert [each.scale for each in volumes["v"].layers["image"].resolutions] == [(1, 1, 1)]
    assert "do not cover whole voxels" in volumes["v"].problems[0]


def test_what_is_gone_is_told_and_the_rest_is_shown(made: Made, tmp_path: Path) -> None:
    run = run_of(tmp_path)
    shutil.copytree(made.run, run)
    for path in [*run.glob("*/v/*.json")]:
        path.write_text(path.read_text().replace(str(made.run), str(run)))
    shutil.rmtree(run / "volumes" / "v" / "image.zarr")
    _, volumes = look(run)
    assert "image" not in volumes["v"].layers
    assert len(volumes["v"].layers) == 4
    assert str(run / "volumes" / "v" / "image.zarr") in volumes["v"].problems[0]


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"segments": "a"}', '{"segments": '], ids=["empty", "list", "half", "cut"]
)
def test_a_damaged_file_of_objects_costs_these_alone(content: str, made: Made, tmp_path: Path) -> None:
    run = run_of(tmp_path)
    shutil.copytree(made.run, run)
    (run / "segments" / "v" / "segments.json").write_text(content)
    _, volumes = look(run)
    assert list(volumes["v"].layers) == ["image", "probability", "classes", "truth"]
    assert "segments.json was to be read" in volumes["v"].problems[0]


def test_names_of_classes_that_are_damaged_are_told(made: Made, tmp_path: Path) -> None:
    run = run_of(tmp_path)
    shutil.copytree(made.run / "volumes", run / "volumes")
    (run / "model").mkdir()
    (run / "model" / "model.json").write_text("{}")
    with pytest.raises(UserError, match=r"model\.json was to be read\n.*damaged.*'classes'"):
        look(run)


def test_a_region_that_was_predicted_ahead_is_shown_beside_its_volume(
    made: Made, make_volume: Callable[..., Path], tmp_path: Path
) -> None:
    run = run_of(tmp_path)
    shutil.copytree(made.run / "volumes", run / "volumes")
    preview = run / "previews" / "v-z0-9_y0-80_x100-180"
    shutil.copytree(made.run / "predictions" / "v" / "volumes", preview / "volumes")
    allocated = plan(preview, make_volume, SHAPE, region=[[0, 9], [0, 80], [100, 180]])
    fill(allocated)
    make(allocated)
    _, volumes = look(run)
    assert list(volumes) == ["v", preview.name]
    assert list(volumes["v"].layers) == ["image", "truth"]
    ahead = volumes[preview.name]
    assert (list(ahead.layers), ahead.middle) == (["image", "probability", "truth"], (4, 40, 140))
    with serving(volumes) as served:
        np.testing.assert_array_equal(served.read(preview.name, "image")[0], made.voxels["image"])
        store = read_json(allocated)["probability"]
        np.testing.assert_array_equal(served.read(preview.name, "probability"), open_array(f"{store}/0")[...])


def test_before_anything_is_predicted_the_image_is_shown(made: Made, tmp_path: Path) -> None:
    run = run_of(tmp_path)
    shutil.copytree(made.run / "volumes", run / "volumes")
    _, volumes = look(run)
    assert list(volumes["v"].layers) == ["image", "truth"]
    assert volumes["v"].classes[:2] == ["class 0", "class 1"]


def test_a_folder_without_volumes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no volume in"):
        look(tmp_path)
