"""The files that hand a prediction from one rule to the next: ``allocated.json``, ``certificate.json``, ``job-….json``.

Whoever needs one reads it here, where all that others count on is seen to be there: a file that an earlier version
wrote, or that is damaged, is refused before anything is done with it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

import unetpipe
from unetpipe.errors import UserError, faults
from unetpipe.files import read_json
from unetpipe.ledger import added
from unetpipe.storage import is_remote

_Triple = tuple[int, int, int]
_Box = tuple[_Triple, _Triple]


class _Geometry(BaseModel):
    border: _Triple
    pooling: _Triple
    base: _Triple
    dimensions: int


class _Plan(BaseModel):
    shape: _Triple
    tile: _Triple
    block: _Triple
    chunk: _Triple
    batch: int
    geometry: _Geometry
    blocks: int


class _Level(BaseModel):
    number: int
    shape: _Triple
    factors: _Triple
    scale: _Triple
    chunk: _Triple
    shard: _Triple


class _Mask(BaseModel):
    address: str
    digest: str
    listing: str


class _Selection(BaseModel):
    blocks: int
    of: int
    region: tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None
    mask: _Mask | None
    box: _Box
    bits: str | None


class _Key(BaseModel):
    input: dict[str, Any]
    engine: str
    backend: str
    # Facts of the processor or of the GPU.
    device_class: Any
    version: str
    # Without mirroring, there is none.
    mirror: tuple[Literal["z", "y", "x"], ...] = ()
    # Where all of the image is stored, there is none.
    absent: Literal["skip"] | None = None


class _Allocated(BaseModel):
    volume: str
    volume_file: str
    probability: str
    array: str
    # An earlier version made one level, and no label map.
    levels: list[_Level] = Field(default=[], min_length=1)
    labels: bool = False
    classes: list[str]
    key: _Key
    plan: _Plan
    # An earlier version predicted all blocks, always.
    selection: _Selection | None = None


class _Profile(BaseModel):
    tile: _Triple
    batch: _Triple


class _Certificate(BaseModel):
    geometry: _Geometry
    engine_digest: str
    device_class: Any
    backend: str
    precision: str
    versions: dict[str, str]
    profile: _Profile | None


def read_allocated(path: Path) -> dict[str, Any]:
    """What ``allocate`` says of a prediction.

    Raises
    ------
    UserError
        If the file is damaged, or is that of another version.
    FileNotFoundError
        If there is none.
    """
    return _read(path, _Allocated, "delete it and run snakemake again; what is predicted is kept where it still fits")


def read_certificate(path: Path) -> dict[str, Any]:
    """What ``certify`` says of an engine; raises as :func:`read_allocated`."""
    return _read(path, _Certificate, "delete it and run snakemake again, to certify the engine anew")


def prediction_digest(predicted: Sequence[Path]) -> str:
    """The digest of a prediction, from what its jobs wrote; it does not depend on how many there were.

    Raises
    ------
    UserError
        If they are not all the jobs of one run, each with a share of its own.
    """
    jobs = [read_json(path) for path in predicted]
    shares = [tuple(job.get("share", (0, 1))) for job in jobs]
    if sorted(shares) != [(number, len(jobs)) for number in range(len(jobs))]:
        told = ", ".join(f"{path.name}: {number} of {of}" for path, (number, of) in zip(predicted, shares, strict=True))
        raise UserError(
            f"what {len(jobs)} jobs have predicted was to be used, each a share of {predicted[0].parent}",
            f"they are not the shares of one run ({told})",
            f"delete {predicted[0].with_name('job-*.json')} and run snakemake again; what is predicted is kept",
        )
    return jobs[0]["digest"] if len(jobs) == 1 else added(job["digest"] for job in jobs)


def store_of(allocated: Path, description: Mapping[str, Any]) -> str:
    """The address of the store of a prediction, also where its ``allocated.json`` is seen from another folder."""
    named: str = description["probability"]
    if is_remote(named) or Path(named).is_absolute():
        return named
    # Where nothing else was asked for, it lies beside.
    beside = allocated.parent / Path(named).name
    return str(beside) if beside.exists() or not Path(named).exists() else named


def _read(path: Path, model: type[BaseModel], repair: str) -> dict[str, Any]:
    try:
        data: dict[str, Any] = read_json(path)
    except UserError as error:
        raise UserError(error.asked, error.found, repair) from None
    try:
        model.model_validate(data)
    except ValidationError as error:
        raise UserError(
            f"{path} was to be read",
            f"it is damaged or that of another version; this is unetpipe {unetpipe.__version__} ({faults(error)})",
            repair,
        ) from None
    return data
