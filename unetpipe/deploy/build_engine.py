"""Compile the network for the hardware that will predict, in each precision that may."""

import logging
from pathlib import Path

from unetpipe import config
from unetpipe.deploy.candidate import compile_engine, profile_for
from unetpipe.engines import Profile, onnx_file
from unetpipe.engines.select import BUILD, ENGINE, Choice, DamagedError, Networks, choose, ladder
from unetpipe.errors import UserError
from unetpipe.files import write_json

log = logging.getLogger(__name__)


def build_engine(
    onnx: Path,
    candidates: Path,
    *,
    settings: config.Engine,
    tile: list[int] | None,
    batch: int,
    quantized: Path | None = None,
) -> None:
    """Back the rule ``build_engine``.

    Each precision of ``settings`` that this machine computes in becomes an engine in a folder of its own, beside
    ``candidates`` and with its name. ``certify`` takes the first that is as good as PyTorch.

    Parameters
    ----------
    onnx:
        The network in fp32, as ``export`` writes it.
    candidates:
        JSON that names the engines in the order of preference, and says why a precision is not among them. It is
        written last.
    quantized:
        ``quantized.json``, beside the folder with the network in other precisions; None where only fp32 is asked for.
    tile:
        Input of the network in prediction, (z, y, x) voxels; None where it is chosen for each volume.
    batch:
        Tiles per call in prediction.

    Raises
    ------
    UserError
        If no engine can be built.
    """
    candidates.unlink(missing_ok=True)
    _, described = onnx_file.read(onnx)
    profile = profile_for(described.geometry, tile, batch, settings.max_batch)
    networks = Networks(onnx, None if quantized is None else quantized.with_suffix(""))
    built, skipped = build_ladder(networks, candidates.with_suffix(""), settings, profile)
    write_json(candidates, {"candidates": built, "skipped": skipped})


def build_ladder(
    networks: Networks, folder: Path, settings: config.Engine, profile: Profile, most: int | None = None
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Engines in ``folder``: those built, at ``most`` so many, and those that cannot be, with the reason.

    Where each lies is told as seen from beside ``folder``.
    """
    rungs = ladder(settings)
    built: list[dict[str, str]] = []
    skipped: list[dict[str, str]] = []
    first: Choice | None = None
    for precision in rungs:
        if len(built) == most:
            break
        try:
            choice = choose(settings, precision, networks, profile, like=first)
            compile_engine(
                networks.of(choice.backend, precision), folder / precision / ENGINE, folder / precision / BUILD,
                choice=choice, asked=settings.backend, profile=profile,
            )  # fmt: skip
        except DamagedError:
            raise
        except UserError as error:
            if len(rungs) == 1:
                raise
            log.info("no engine in %s: %s", precision, error.found)
            skipped.append({"precision": precision, "why": error.found})
            continue
        first = first or choice
        built.append({"precision": precision, "backend": choice.backend.name, "folder": f"{folder.name}/{precision}"})
    if not built:
        raise UserError(
            f"an engine was to be built in {' or '.join(rungs)}",
            "".join(f"\n    {item['precision']}: {item['why']}" for item in skipped),
            "set engine.backend or engine.precision to `auto`",
        )
    return built, skipped
