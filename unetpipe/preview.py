"""Predict a region of a volume with the trained network of a run, to look at it before the whole is predicted.

It is the prediction itself, of the blocks that meet the region: its voxels are those that the whole prediction will
have. The store has the shape of the volume, so that it lies where it belongs in any viewer.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from unetpipe.allocate import allocate
from unetpipe.combinations import region_problems
from unetpipe.config import Settings
from unetpipe.errors import UserError
from unetpipe.files import read_json
from unetpipe.grid import AXES, Geometry, Region
from unetpipe.handover import read_allocated, read_certificate
from unetpipe.predict import predict
from unetpipe.pyramid import pyramid
from unetpipe.viewer.address import link
from unetpipe.volume import VolumeFile

RESULTS = Path("results")
"""Where the runs lie, seen from where snakemake runs."""

_REGION = re.compile(r"(\d+):(\d+),(\d+):(\d+),(\d+):(\d+)")


@dataclass(frozen=True)
class Preview:
    """What was predicted. ``store`` is an OME-Zarr of the volume's shape, 0 outside of the blocks of the region.

    ``run`` and ``folder``: those of the run and of the preview.
    """

    run: Path
    folder: Path
    store: Path
    region: Region
    classes: list[str]
    blocks: int
    computed: int
    voxels: int
    seconds: float

    def __str__(self) -> str:
        made = f"{self.voxels / 1e6:.2f} Mvox in {self.seconds:.1f} s"
        there = self.blocks - self.computed
        work = [
            *([f"{self.computed} computed ({made})"] if self.computed else []),
            *([f"{there} there already"] if there else []),
        ]
        return "\n".join(
            [
                str(self.store),
                f"  {self.blocks} blocks meet the region {self.region}: {', '.join(work)}",
                f"  channels: {', '.join(self.classes)}; 255 is a probability of 1, and 0 is what was not predicted",
                f"  napari --plugin napari-ome-zarr {self.store}",
                f"  unetpipe view {self.run}, and there {link(self.folder.name, self.region.middle)}",
            ]
        )


def parse_region(text: str) -> Region:
    """From ``z0:z1,y0:y1,x0:x1``; UserError if it is written otherwise, or empty."""
    asked = f"the region {text} was to be predicted"
    found = _REGION.fullmatch(text)
    if found is None:
        raise UserError(
            asked, "not three ranges of voxels", "write it as z0:z1,y0:y1,x0:x1, such as 0:8,100:612,100:612"
        )
    z0, z1, y0, y1, x0, x1 = map(int, found.groups())
    region = Region((z0, y0, x0), (z1, y1, x1))
    if problems := region_problems(region):
        raise UserError(asked, "; ".join(problems), "let each range end after its start")
    return region


def preview(settings: Settings, name: str, region: Region, *, workers: int | None, command: str) -> Preview:
    """Predict ``region`` of the volume ``name`` into ``results/<run>/previews/<name>-<region>``.

    What is there already is kept, unless engine, volume or settings have changed since: then it is made anew.

    Parameters
    ----------
    settings:
        Checked, of the run.
    workers:
        Processes; None for what the settings say.
    command:
        The snakemake command of the run, for messages.

    Raises
    ------
    UserError
        If there is no such volume, if the run has no certified engine yet, or one of other classes or of another
        network, or if the region does not lie in the volume.
    """
    asked = f"the region {region} of {name} was to be predicted"
    if name not in settings.volumes:
        raise UserError(
            asked, f"the settings have no such volume, but {', '.join(settings.volumes)}", "name one of these"
        )
    run = RESULTS / settings.run
    volume = run / "volumes" / name / "volume.json"
    certificate = run / "engine" / settings.engine.folder / "certificate.json"
    if absent := [path for path in (certificate, volume) if not path.exists()]:
        what = {certificate: "no engine that is trained and certified", volume: "no measured volume"}
        raise UserError(
            asked,
            " and ".join(f"{what[path]}, {path}" for path in absent),
            f"make it with: {command} -- {' '.join(map(str, absent))}",
        )
    _refuse_other_network(asked, settings, certificate, command)
    source = VolumeFile.read(volume)
    if problems := region_problems(region, source.shape):
        raise UserError(asked, "; ".join(problems), f"give a region within {Region((0, 0, 0), source.shape)}")
    spans = "_".join(f"{axis}{a}-{b}" for axis, (a, b) in zip(AXES, region.spans, strict=True))
    folder = run / "previews" / f"{name}-{spans}"
    allocated, done = folder / "allocated.json", folder / "job-0.json"
    tile, cores = settings.predict.tile, os.cpu_count() or 1
    workers = workers or settings.predict.workers
    allocate(
        volume,
        certificate,
        allocated,
        classes=list(settings.classes),
        tile=None if tile is None else list(settings.network.tile(tile)),
        batch=settings.predict.batch,
        on_change="restart",
        region=region.spans,
        mirror=settings.predict.mirror_axes,
        absent=settings.predict.absent,
        labels=settings.predict.labels,
        most_batch=settings.engine.max_batch,
        workers=workers,
        memory_mb=settings.predict.memory_mb,
        block_seconds=settings.predict.block_seconds,
        cores=cores,
    )
    predict(
        allocated,
        certificate,
        done,
        job=done.stem,
        workers=workers,
        cores=cores,
        grace_seconds=settings.predict.grace_seconds,
        patience_seconds=settings.predict.patience_seconds,
    )
    pyramid(allocated, [done], folder / "pyramid.json", workers=workers, cores=cores)
    description, facts = read_allocated(allocated), read_json(done)
    return Preview(
        run=run,
        folder=folder,
        store=Path(description["probability"]),
        region=region,
        classes=description["classes"],
        blocks=facts["blocks"],
        computed=facts["computed"],
        voxels=facts["voxels"],
        seconds=facts["seconds"],
    )


def _refuse_other_network(asked: str, settings: Settings, certificate: Path, command: str) -> None:
    """UserError if the engine was made with other settings than these, as far as it shows."""
    proof = read_certificate(certificate)
    differing = []
    if proof["classes"] != list(settings.classes):
        differing.append(
            f"knows the classes {', '.join(proof['classes'])}, the settings have {', '.join(settings.classes)}"
        )
    if Geometry.of(proof["geometry"]) != settings.network.geometry:
        differing.append("is of another network than that of the settings")
    if differing:
        raise UserError(
            asked,
            f"the engine beside {certificate} {', and '.join(differing)}",
            f"make it anew with: {command} -- {certificate}",
        )
