"""What a report says of its run: ``report.json``, as far as making it again needs it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from unetpipe.errors import UserError, faults
from unetpipe.files import read_json

NAME = "report.json"


class Input(BaseModel):
    """A volume: where it was read from, and the identities that ingest gave to what it read."""

    image: str
    labels: str | None
    mask: str | None = None
    image_digest: str
    labels_digest: str | None
    mask_digest: str | None = None
    in_place: bool


class Prediction(BaseModel):
    """A digest over the shards, and the plan by which they were cut."""

    digest: str
    plan: dict[str, Any]


class Digests(BaseModel):
    """What was made, in the order in which it was; ``samples`` are those of a run that trained."""

    samples: str | None
    checkpoint: str
    onnx: str
    engine: str
    predictions: dict[str, Prediction]
    segments: dict[str, str] = {}


class Report(BaseModel):
    """The content of ``report.json``; what stands in it beside is not looked at."""

    schema_version: Literal[1] = Field(alias="schema")
    run: str
    version: str
    versions: dict[str, str]
    backend: str
    precision: str
    device_class: Any
    command: str
    settings: dict[str, Any]
    inputs: dict[str, Input]
    digests: Digests
    scores: dict[str, dict[str, Any]]


def read_report(path: Path) -> tuple[Path, Report]:
    """A report, and the file that it was read from: that of a page, ``report.html``, lies beside it.

    Raises
    ------
    UserError
        If there is none, it is damaged, or that of another version.
    """
    if path.is_dir() or path.suffix == ".html":
        path = (path if path.is_dir() else path.parent) / NAME
    asked = f"the run of {path} was to be made again"
    if not path.is_file():
        raise UserError(asked, "there is no such file", f"give the {NAME} of a run, such as results/demo/{NAME}")
    try:
        return path, Report.model_validate(read_json(path))
    except ValidationError as error:
        raise UserError(
            asked,
            f"it is damaged, or that of a version that says other things ({faults(error)})",
            "use the version of unetpipe that wrote it",
        ) from None


def altered(recorded: Mapping[str, Input], found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What of the volumes is not what it was, in words.

    Parameters
    ----------
    found:
        By volume, ``image_digest`` and ``labels_digest`` as ingest finds them now.
    """
    lines = []
    for name, volume in recorded.items():
        for kind in ("image", "labels"):
            was, now = getattr(volume, f"{kind}_digest"), found[name][f"{kind}_digest"]
            if was != now:
                by_listing = kind == "image" and volume.in_place
                what = "metadata, names, sizes or times of its files" if by_listing else "its voxels"
                change = f"{what} have changed (was {_short(was)}, is {_short(now)})"
                lines.append(f"volumes.{name}.{kind}, {getattr(volume, kind)}: {change}")
    return lines


def _short(digest: str | None) -> str:
    return "absent" if digest is None else f"{digest[:12]}…"
