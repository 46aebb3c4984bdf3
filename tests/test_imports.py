"""Imports go one way, and what should be light is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "unetpipe"
HEAVY = {
    "cv2",
    "torch",
    "onnx",
    "onnxruntime",
    "openvino",
    "dask",
    "distributed",
    "scipy",
    "skimage",
    "matplotlib",
    "tifffile",
}


@pytest.mark.parametrize(
    ("module", "never"),
    [
        pytest.param("unetpipe", HEAVY | {"numpy", "zarr", "pydantic"}, id="unetpipe"),
        pytest.param("unetpipe.grid", HEAVY | {"numpy", "zarr", "pydantic"}, id="grid"),
        pytest.param("unetpipe.config", HEAVY | {"numpy", "zarr"}, id="config"),
        pytest.param("unetpipe.check", HEAVY, id="check"),
        pytest.param("unetpipe.cli", HEAVY, id="cli"),
        pytest.param("unetpipe.fsck", HEAVY, id="fsck"),
        pytest.param("unetpipe.engines", {"torch"}, id="engines"),
        pytest.param("unetpipe.compute", {"torch", "dask"}, id="compute"),
        pytest.param("unetpipe.nets.cost", HEAVY | {"numpy", "zarr"}, id="cost of patches"),
        pytest.param("unetpipe.predict", {"torch"}, id="predict"),
        pytest.param("unetpipe.pyramid", {"torch", "onnxruntime", "openvino"}, id="pyramid"),
        pytest.param("unetpipe.allocate", {"torch", "dask", "onnxruntime", "openvino"}, id="allocate"),
    ],
)
def test_light_modules_load_nothing_heavy(module: str, never: set[str]) -> None:
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert never & set(loaded) == set()


# What each part may know of the others; `errors`, `files`, `grid`, `memory` and `progress_bar` are for all.
MAY_IMPORT = {
    "errors": set(),
    "files": set(),
    "grid": set(),
    "memory": set(),
    "progress_bar": set(),
    "config": set(),
    "combinations": {"config"},
    "parse": {"config", "combinations"},
    "pixels": {"config"},
    "reference": {"config"},
    "rule": {"config"},
    "storage": set(),
    "arrays": {"storage"},
    "extent": set(),
    "colours": set(),
    "levels": set(),
    "downsample": set(),
    "ome": {"arrays", "storage", "colours", "levels"},
    "volume": {"arrays", "extent", "storage", "levels", "ome"},
    "progress": {"storage"},
    "metrics": {"arrays", "extent", "storage", "config", "volume", "selection"},
    "ledger": {"progress", "storage"},
    "handover": {"ledger", "storage"},
    "stop": set(),
    "gpus": {"stop"},
    "processes": set(),
    "elsewhere": {"config", "processes"},
    "cluster": {"stop", "processes"},
    "nets": {"config"},
    "data": {
        "extent",
        "arrays",
        "storage",
        "config",
        "combinations",
        "pixels",
        "volume",
        "progress",
        "cluster",
        "processes",
        "nets",
    },
    "selection": {"combinations", "extent", "volume", "data"},
    "coverage": {"levels", "selection"},
    "check": {"storage", "config", "combinations", "parse", "pixels", "data", "volume"},
    "validate": {"config", "volume", "nets", "data", "metrics"},
    "watch": {"volume"},
    "train": {"config", "volume", "progress", "nets", "data", "metrics", "validate", "watch"},
    "engines": {"config", "volume"},
    "deploy": {"arrays", "colours", "storage", "config", "volume", "nets", "engines", "metrics", "data"},
    "layout": set(),
    "plan": {"layout"},
    "measure": {"arrays", "storage", "progress", "layout", "volume", "processes", "engines", "gpus"},
    "forecast": {"layout", "volume"},
    "allocate": {
        "arrays",
        "storage",
        "config",
        "volume",
        "progress",
        "selection",
        "layout",
        "plan",
        "measure",
        "forecast",
        "gpus",
        "handover",
        "levels",
        "ome",
    },
    "outlook": {
        *("config", "volume", "progress", "data", "selection", "nets", "engines", "deploy"),
        *("layout", "plan", "measure", "forecast", "allocate", "handover", "gpus"),
    },
    "spread": {"config", "elsewhere", "gpus", "layout", "measure", "processes", "stop"},
    "compute": {"extent", "selection", "arrays", "storage", "volume", "progress", "engines", "allocate", "handover"},
    "predict": {
        "ledger",
        "arrays",
        "storage",
        "config",
        "volume",
        "progress",
        "cluster",
        "processes",
        "engines",
        "allocate",
        "data",
        "layout",
        "selection",
        "compute",
        "stop",
        "handover",
        "spread",
    },
    "pyramid": {
        *("arrays", "storage", "levels", "downsample", "volume", "progress", "cluster", "processes", "metrics"),
        *("selection", "coverage", "allocate", "handover", "ome"),
    },
    "segmentation": {"arrays", "storage", "config", "volume", "progress", "metrics", "selection"},
    "segment": {
        *("arrays", "storage", "config", "volume", "progress", "cluster", "processes", "metrics", "segmentation"),
        *("selection", "allocate", "handover"),
    },
    "quality": {
        *("arrays", "storage", "config", "volume", "progress", "cluster", "processes", "metrics", "data"),
        *("selection", "allocate", "handover"),
    },
    "evaluate": {"config", "volume", "progress", "cluster", "processes", "metrics", "allocate"},
    "viewer": {"arrays", "colours", "storage", "volume", "handover", "levels", "data"},
    "report": {
        "viewer",
        "arrays",
        "colours",
        "storage",
        "config",
        "volume",
        "metrics",
        "allocate",
        "data",
        "engines",
        "selection",
        "nets",
        "quality",
        "ledger",
    },
    "ablation": {"config", "parse", "check"},
    "fsck": {"coverage", "ledger", "arrays", "storage", "volume", "progress", "allocate", "selection", "handover"},
    "repair": {
        "ledger",
        "arrays",
        "storage",
        "volume",
        "progress",
        "engines",
        "compute",
        "predict",
        "fsck",
        "handover",
    },
    "status": {"progress", "report", "volume", "handover"},
    "preview": {"config", "combinations", "volume", "allocate", "predict", "pyramid", "handover", "viewer"},
    "reproduce": {"arrays", "storage", "config", "check", "parse", "engines", "report"},
    "cli": {
        *("ablation", "preview", "outlook", "config", "parse", "check", "status", "fsck", "repair"),
        *("viewer", "reproduce", "deploy"),
    },
    "__main__": {"cli"},
}
FOR_ALL = {"errors", "files", "grid", "memory", "progress_bar"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    part = relative.parts[0].removesuffix(".py")
    if part == "__init__":
        return
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "unetpipe" else [f"unetpipe.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        imported |= {name.split(".")[1] for name in names if name.startswith("unetpipe.")}
    imported.discard("__version__")
    assert imported - FOR_ALL - {part} <= MAY_IMPORT[part]
