"""From the folder of a series of the Cell Tracking Challenge to the report, with the configurations that are for it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zarr
from cells import moving_cells, write_series
from running import ROOT, call, write
from skimage.measure import label

from unetpipe.check import check

pytestmark = pytest.mark.workflow

SIZES = {"phc-u373": (115, 520, 696), "dic-hela": (84, 512, 512)}


def of_files(name: str, folder: Path) -> dict[str, Any]:
    """The configuration, with its folder."""
    text = (ROOT / "config" / f"{name}.yaml").read_text().replace("{data_dir}", str(folder))
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


@pytest.mark.parametrize("name", SIZES)
def test_a_configuration_fits_the_sizes_of_its_series(name: str, tmp_path: Path) -> None:
    frames, *size = SIZES[name]
    nothing = np.broadcast_to(np.zeros(size, np.uint16), (frames, *size))
    for sequence in ("01", "02"):
        write_series(tmp_path, nothing[..., :].astype(np.uint8), nothing, [2, frames - 20], sequence)
    settings = check(of_files(name, tmp_path), name)
    assert {volume.role for volume in settings.volumes.values()} == {"train", "validate", "test"}
    train, validate = (settings.volumes[role].sections for role in ("train", "validate"))
    assert train is not None
    assert validate == (train[1], frames), "of one sequence, and no frame is both"
    assert settings.segmented == settings.evaluate.objects == "cell"
    assert settings.evaluate.compared_with == name


@pytest.mark.long
def test_cells_are_learnt_and_scored_one_by_one(tmp_path: Path) -> None:
    name = "dic-hela"
    settings = of_files(name, tmp_path)
    truth = {}
    for seed, sequence in enumerate(("01", "02")):
        grey, truth[sequence] = moving_cells((9, 64, 80), 10, 11.0, seed)
        write_series(tmp_path, grey, truth[sequence], [1, 3, 6, 8], sequence)
    # Each predicted volume is six more jobs.
    del settings["volumes"]["validate"], settings["volumes"]["train"]["sections"]
    settings["segment"]["threshold"] = 0.5
    settings["network"] = {"width": 4, "depth": 2}
    settings["augment"] |= {"samples": 12, "tile": [92, 92]}
    settings["train"] |= {"steps": 40, "validate_every": 20, "threads": 1}
    settings |= {"engine": {"precision": "fp32"}, "predict": {"workers": 1}}
    result = call(tmp_path, "--configfile", write(tmp_path, settings))
    assert result.returncode == 0, result.stdout
    results = tmp_path / "results" / name

    scores = json.loads((results / "scores" / "test.json").read_text())
    cells = zarr.open_array(results / "predictions" / "test" / "probability.zarr" / "0", mode="r")[1].astype(int)
    found = scores["instances"]
    curve = [np.mean(by_definition(truth["02"], cells * 10 > 255 * k, [1, 3, 6, 8])) for k in range(1, 10)]
    assert found["curve"] == pytest.approx(curve, abs=1e-12)
    assert scores["seg"] == max(found["curve"]) == found["best"]["value"]
    assert scores["seg"] > 0.2, "something was learnt"
    assert [item["section"] for item in scores["per_section"] if item["scored_voxels"]] == [1, 3, 6, 8]

    objects = zarr.open_array(results / "segments" / "test" / "segments.zarr" / "0", mode="r")[...]
    for section, mask in zip(objects, cells * 2 > 255, strict=True):
        assert len(np.unique(section[section > 0])) == label(mask, connectivity=1).max(), "objects are those of a frame"
    page = (results / "report.html").read_text()
    assert f'{name}, test</th><td class="number">{scores["seg"]:.4f}' in page
    assert "0.7756" in page


def by_definition(ids: Any, mask: Any, frames: list[int]) -> list[float]:
    result = []
    for z in frames:
        predicted = label(mask[z], connectivity=1)
        for number in np.unique(ids[z][ids[z] > 0]):
            mine = ids[z] == number
            shared = np.bincount(predicted[mine], minlength=2)
            best = int(shared[1:].argmax()) + 1
            whole = np.count_nonzero(mine | (predicted == best))
            result.append(shared[best] / whole if 2 * shared[best] > np.count_nonzero(mine) else 0.0)
    return result
