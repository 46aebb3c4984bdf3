"""What of a run can be looked at."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from unetpipe.arrays import open_volume
from unetpipe.errors import UserError
from unetpipe.files import read_json
from unetpipe.grid import Region, Shape
from unetpipe.handover import read_allocated
from unetpipe.levels import LABEL_MAP
from unetpipe.storage import is_remote, join
from unetpipe.viewer.coarser import pyramid, stored, thinned
from unetpipe.viewer.layers import Kind, Layer, Resolution
from unetpipe.volume import VolumeFile

RESULTS = "results"
"""Where the runs lie, seen from where snakemake runs."""

_UNNAMED = 8
"""Classes that are told apart where no file of the run names them yet."""


@dataclass(frozen=True)
class Shown:
    """A volume: its layers, from the lowest on, and what of it cannot be shown, in words.

    ``middle``: the voxel (z, y, x) to look at first; that of the region, where one was predicted.
    """

    name: str
    volume: VolumeFile
    classes: list[str]
    middle: Shape
    layers: Mapping[Kind, Layer]
    problems: list[str] = field(default_factory=list)


def look(run: Path) -> tuple[Path, dict[str, Shown]]:
    """The folder of a run, and its volumes by name; regions that were predicted ahead of the whole come after them.

    Paths that the files of the run give count from the folder above ``results``, wherever this is called.

    Parameters
    ----------
    run:
        A folder such as ``results/demo``, or the name of one in ``results``.

    Raises
    ------
    UserError
        If there is no volume, or nothing of any can be shown.
    """
    folder = run if run.is_dir() else Path(RESULTS) / run
    asked = f"the run {run} was to be shown"
    paths = sorted(folder.glob("volumes/*/volume.json"))
    if not paths:
        raise UserError(
            asked,
            f"no volume in {folder / 'volumes'}",
            "give the folder of a run, such as results/demo, or its name, and let snakemake begin it",
        )
    volumes = {path.parent.name: VolumeFile.read(path) for path in paths}
    found = {
        name: _look_at(name, _Files(folder, name, folder / "predictions" / name), volume)
        for name, volume in volumes.items()
    }
    for path in sorted(folder.glob("previews/*/allocated.json")):
        name = read_allocated(path)["volume"]
        if name in volumes:
            files = _Files(folder, name, path.parent)
            found.setdefault(path.parent.name, _look_at(path.parent.name, files, volumes[name]))
    if not any(shown.layers for shown in found.values()):
        problems = [problem for shown in found.values() for problem in shown.problems]
        raise UserError(asked, "; ".join(problems), "see whether the images are still where they were")
    return folder, found


class _Files:
    """What there is of a volume in the folder of a run, with the prediction in ``predicted``."""

    def __init__(self, folder: Path, name: str, predicted: Path) -> None:
        self.folder, self.name = folder, name
        self._base = folder.absolute().parent.parent
        allocated = predicted / "allocated.json"
        self.prediction = read_allocated(allocated) if allocated.exists() else None
        # Until then, some shards of coarser levels are not there.
        self.has_levels = allocated.with_name("pyramid.json").exists()

    def at(self, address: str) -> str:
        """The address of what lies at ``address``, seen from where the run was made."""
        return address if is_remote(address) else str(self._base / address)

    @property
    def segments(self) -> Path:
        """The file that tells where the objects are, if they were numbered."""
        return self.folder / "segments" / self.name / "segments.json"

    @property
    def classes(self) -> list[str]:
        """In the order of their indices."""
        if self.prediction is not None:
            return list(self.prediction["classes"])
        model = self.folder / "model" / "model.json"
        if model.exists():
            return list(*_of_file(model, "classes"))
        return [f"class {index}" for index in range(_UNNAMED)]


def _of_file(path: Path, *keys: str) -> list[Any]:
    """What a file of the run says under ``keys``; UserError if it is damaged."""
    data = read_json(path)
    try:
        return [data[key] for key in keys]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path} was to be read",
            f"it is damaged, or that of another version ({error})",
            "delete it and run snakemake again",
        ) from None


def _look_at(name: str, files: _Files, volume: VolumeFile) -> Shown:
    problems: list[str] = []
    parts: dict[Kind, Callable[[], list[Resolution]]] = {"image": partial(_image, files, volume, problems)}
    if files.prediction is not None:
        parts["probability"] = partial(_predicted, files, volume, files.prediction, "")
        if files.prediction["labels"] and files.has_levels:
            parts["classes"] = partial(_predicted, files, volume, files.prediction, LABEL_MAP)
    if volume.labels is not None:
        parts["truth"] = partial(_alone, files, volume, volume.labels)
    if files.segments.exists():
        parts["segments"] = partial(_numbered, files, volume)
    layers: dict[Kind, Layer] = {}
    for kind, resolutions in parts.items():
        try:
            layers[kind] = Layer(kind, volume.voxel_size_nm, tuple(resolutions()))
        except UserError as error:
            problems.append(f"{error.asked}, but {error.found}")
        except OSError as error:
            problems.append(f"{kind}: {error}")
    return Shown(name, volume, files.classes, _middle(volume, files.prediction), layers, problems)


def _middle(volume: VolumeFile, prediction: Mapping[str, Any] | None) -> Shape:
    selection = (prediction or {}).get("selection") or {}
    spans = selection.get("region") or [(0, n) for n in volume.shape]
    return Region.between(spans).middle


def _image(files: _Files, volume: VolumeFile, problems: list[str]) -> list[Resolution]:
    if volume.source.get("in_place"):
        found = pyramid(files.at(volume.image), volume.shape, volume.first_section, problems)
        if len(found) > 1:
            return found
    return _alone(files, volume, volume.image, volume.first_section)


def _alone(files: _Files, volume: VolumeFile, address: str, first: int = 0) -> list[Resolution]:
    return thinned(open_volume(files.at(address)), volume.shape, volume.voxel_size_nm, first)


def _numbered(files: _Files, volume: VolumeFile) -> list[Resolution]:
    return _alone(files, volume, join(*_of_file(files.segments, "segments", "array")))


def _predicted(files: _Files, volume: VolumeFile, prediction: Mapping[str, Any], group: str) -> list[Resolution]:
    names, levels = list(filter(None, [group])), prediction["levels"]
    if not files.has_levels:
        return _alone(files, volume, join(prediction["probability"], *names, str(levels[0]["number"])))
    return stored([join(files.at(prediction["probability"]), *names, str(level["number"])) for level in levels], levels)
