"""A 3D network with anisotropic kernels, and one that sees neighbouring sections as channels, through the chain."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from running import call, write

from unetpipe.engines import load_engine
from unetpipe.grid import Region
from unetpipe.volume import Image, VolumeFile

pytestmark = [pytest.mark.workflow, pytest.mark.long]

NETWORKS = {
    "3d": ({"width": 4, "depth": 1, "kernel": [[1, 3, 3], [3, 3, 3]], "pooling": [[2, 2, 2]]}, [10, 76, 76]),
    "stack": ({"width": 4, "depth": 1, "sections": 3}, [76, 76]),
}


@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_network_of_other_dimensions_goes_through_the_chain(
    name: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings["network"], settings["augment"]["tile"] = NETWORKS[name]
    settings["run"] = name
    del settings["engine"]  # so that all of its precisions are tried
    settings["phantom"]["missing"] = 8
    settings["train"] |= {"steps": 20, "validate_every": 20}
    result = call(tmp_path, "--configfile", write(tmp_path, settings))
    assert result.returncode == 0, result.stdout
    # Addresses in its files count from the folder in which snakemake ran.
    monkeypatch.chdir(tmp_path)
    results = Path("results", name)
    scores = json.loads((results / "scores" / "test.json").read_text())
    assert 0 < scores["mean_iou"] <= 1
    assert "filled with the nearest section" in (results / "report.html").read_text()
    # Law 1, on what the workflow has left: the whole volume in one call of the engine gives the same bytes.
    volume = VolumeFile.read(results / "volumes" / "test" / "volume.json")
    certificate = json.loads((results / "engine" / "auto-auto" / "certificate.json").read_text())
    border = certificate["geometry"]["border"]
    plan = json.loads((results / "predictions" / "test" / "allocated.json").read_text())["plan"]
    stored = np.asarray(zarr.open_array(results / "predictions" / "test" / "probability.zarr" / "0", mode="r"))
    first = Region.of([-b for b in border], plan["tile"])
    engine = load_engine(results / "engine" / "auto-auto", tile=first.shape, batch=1, threads=1)
    grey = Image(volume).read(first)
    found = np.rint(engine.run(grey[None])[0] * np.float32(255)).astype(np.uint8)
    size = tuple(min(n, m) for n, m in zip(found.shape[1:], volume.shape, strict=True))
    box = (slice(None), *(slice(n) for n in size))
    assert np.array_equal(stored[box], found[box])
