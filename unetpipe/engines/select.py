"""Which library an engine is built with, and opening an engine that was built."""

import logging
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unetpipe import config
from unetpipe.config import Precision
from unetpipe.engines import onnx_file
from unetpipe.engines.contract import Backend, Engine, Facts, Profile
from unetpipe.engines.onnxruntime import OnnxRuntime
from unetpipe.engines.openvino import OpenVINO
from unetpipe.engines.tensorrt import TensorRT
from unetpipe.errors import UserError
from unetpipe.files import digest, read_json
from unetpipe.grid import Shape

log = logging.getLogger(__name__)

ENGINE = "engine"
BUILD = "build.json"
CANDIDATES = "candidates"
"""The folder of engines that are not certified yet; a JSON file of that name lists them."""

_FACTS = {"backend", "binding", "capabilities", "engine_digest", "precision", "profile"}
"""Of ``build.json``, those that loading needs."""

_FOR_GPUS = ("tensorrt", "tensorrt_rtx")
_FOR_PROCESSORS = ("openvino", "onnxruntime")
_ALL = _FOR_GPUS + _FOR_PROCESSORS

_ON_PROCESSORS: tuple[Precision, ...] = ("int8", "bf16", "fp32")
# Whether convolutions gain from int8 on a GPU depends on it: that has to be asked for.
_ON_GPUS: tuple[Precision, ...] = ("fp16", "bf16", "fp32")

_CLEARLY_FASTER = 1.1
"""The first engine stays unless another one is faster by this factor: noise must not turn the choice."""

_ROUNDS = 5
_MOST_SECONDS = 10.0
_MEASURED = {2: (1, 384, 384), 3: (16, 96, 96)}
"""By the network's dimensions, voxels (z, y, x) that a measured tile keeps: enough for the speed per voxel to be that
of larger ones."""


def backend(name: str, capabilities: Sequence[str] = ()) -> Backend:
    """The library ``name``; ``capabilities`` are those that TensorRT-RTX builds for."""
    if name in _FOR_GPUS:
        return TensorRT(name, tuple(capabilities))
    return OpenVINO() if name == "openvino" else OnnxRuntime()


def device_class(name: str) -> Facts:
    """What of this machine, and of the library ``name``, can change a voxel; JSON data for the key of a record."""
    return backend(name).device_class()


class DamagedError(UserError):
    """A file that should be there is not, or is another one: no reason to do without it."""


@dataclass(frozen=True)
class Networks:
    """The ONNX files of a network: ``onnx`` in fp32, and the folder ``quantized`` with those in other precisions."""

    onnx: Path
    quantized: Path | None = None

    def of(self, library: Backend, precision: Precision) -> Path:
        """The file that ``library`` takes to compute in ``precision``; UserError if there is none."""
        if precision == "fp32":
            return self.onnx
        form, asked = library.form(precision), f"an engine of {library.name} was to be built in {precision}"
        if self.quantized is None:
            raise DamagedError(asked, f"there is no network in the form {form}", "let the rule quantize make it")
        description = self.quantized.with_suffix(".json")
        repair = f"delete {description} and run snakemake again, to let the rule quantize make it"
        try:
            facts = read_json(description)
            refused, written = facts["refused"], facts["forms"]
        except (FileNotFoundError, KeyError, TypeError):
            raise DamagedError(asked, f"{description} is not there, or damaged", repair) from None
        if precision in refused:
            raise UserError(asked, refused[precision], "set engine.precision to another one, or to `auto`")
        path = self.quantized / f"{form}.onnx"
        if form not in written or not path.exists():
            raise DamagedError(asked, f"there is no network in the form {form}: {path}", repair)
        if (found := digest(path)) != written[form]["digest"]:
            raise DamagedError(
                asked, f"{path} changed: its digest (SHA-256) is {found}, and was {written[form]['digest']}", repair
            )
        return path


@dataclass(frozen=True)
class Choice:
    """``why``: in words. ``candidates``: what was found about each library, in the order of preference."""

    backend: Backend
    why: str
    candidates: dict[str, Facts] = field(default_factory=dict)


def ladder(settings: config.Engine) -> tuple[Precision, ...]:
    """The precisions to predict in, in the order of preference; whether they are to be had here is another question."""
    if isinstance(settings.precision, list):
        return tuple(dict.fromkeys(settings.precision))
    if settings.precision != "auto":
        return (settings.precision,)
    return _ON_GPUS if _is_for_gpu(settings) else _ON_PROCESSORS


def _is_for_gpu(settings: config.Engine) -> bool:
    if settings.backend == "auto":
        return any(
            backend(name, settings.compute_capabilities).unavailable("run", "fp32") is None for name in _FOR_GPUS
        )
    if settings.backend == "onnxruntime":
        return backend("onnxruntime").unavailable("run", "fp32") is None and "gpu" in device_class("onnxruntime")
    return settings.backend in _FOR_GPUS


def choose(
    settings: config.Engine, precision: Precision, networks: Networks, profile: Profile, like: Choice | None = None
) -> Choice:
    """The library to build with.

    What ``settings.backend`` names; where that is ``auto``, TensorRT or TensorRT-RTX where they can run; elsewhere the
    fastest other one on this machine, by measurement.

    Parameters
    ----------
    like:
        What was chosen for another precision: that library is taken without measuring again, if it can.

    Raises
    ------
    UserError
        If the library cannot build here, or none can.
    """
    capabilities = settings.compute_capabilities
    if settings.backend != "auto":
        chosen = backend(settings.backend, capabilities)
        if reason := chosen.unavailable("build", precision):
            others = [name for name in _ALL if not backend(name, capabilities).unavailable("build", precision)]
            raise UserError(
                f"an engine was to be built with {settings.backend} in {precision}",
                reason,
                f"set engine.backend to `auto` or to one that can build here: {', '.join(others)}"
                if others
                else "set engine.precision to another one, or to `auto`",
            )
        return Choice(chosen, f"the settings ask for {settings.backend}")
    reasons = {
        name: backend(name, capabilities).unavailable("run" if name in _FOR_GPUS else "build", precision)
        for name in _ALL
    }
    candidates: dict[str, Facts] = {name: {"unavailable": reason} for name, reason in reasons.items()}
    able = [name for name, reason in reasons.items() if reason is None]
    if not able:
        raise UserError(
            f"an engine was to be built in {precision}",
            "".join(f"\n    {name}: {reason}" for name, reason in reasons.items()),
            "install openvino or onnxruntime-gpu, or set engine.precision to another one",
        )
    if able[0] in _FOR_GPUS:
        return Choice(backend(able[0], capabilities), "a GPU and the package are there", candidates)
    if like is not None and like.backend.name in able:
        why = f"as in the precision that comes first ({like.why})"
        return Choice(backend(like.backend.name, capabilities), why, candidates)
    if len(able) == 1:
        return Choice(backend(able[0], capabilities), f"no other library computes in {precision} here", candidates)
    measured = measure({name: networks.of(backend(name), precision) for name in able}, profile)
    candidates |= measured
    seconds = {name: facts["seconds_per_call"] for name, facts in measured.items() if "seconds_per_call" in facts}
    if not seconds:
        raise UserError(
            f"an engine was to be built in {precision}",
            "".join(f"\n    {name}: {facts['unavailable']}" for name, facts in candidates.items()),
            "set engine.precision to another one",
        )
    best = prefer(seconds)
    figures = ", ".join(f"{name} {value:.3f} s" for name, value in seconds.items())
    why = f"measured here: {figures} a call; {next(iter(seconds))} unless another is more than 10 % faster"
    return Choice(backend(best), why, candidates)


def prefer(seconds: Mapping[str, float]) -> str:
    """The first of the libraries, unless another is clearly faster than it; then the fastest."""
    first, fastest = next(iter(seconds)), min(seconds, key=lambda name: seconds[name])
    return fastest if seconds[first] > _CLEARLY_FASTER * seconds[fastest] else first


def measure(networks: Mapping[str, Path], profile: Profile) -> dict[str, Facts]:
    """Seconds per call of each library with its ONNX file, or why it is not available.

    One tile per call and one thread, as in a worker of ``predict``. The libraries take turns, so that other work on the
    machine slows all of them, and the best of some rounds counts.
    """
    _, described = onnx_file.read(next(iter(networks.values())))
    geometry = described.geometry
    tile = min(geometry.tile_for(_MEASURED[geometry.dimensions]), profile.tile, key=math.prod)
    image = np.random.default_rng(0).standard_normal((1, *tile)).astype(np.float32)
    found: dict[str, Facts] = {}
    engines: dict[str, Engine] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, onnx in networks.items():
            library, file = backend(name), Path(folder, name)
            try:
                library.build(onnx, file, Profile(batch=(1, 1, 1), tile=tile))
                engines[name] = library.load(file, tile, batch=1, threads=1)
            except UserError as error:
                found[name] = {"unavailable": error.found}
    best = dict.fromkeys(engines, float("inf"))
    start = time.perf_counter()
    # The first round warms up: memory is taken, kernels are compiled.
    for turn in range(1 + _ROUNDS):
        for name, engine in engines.items():
            began = time.perf_counter()
            engine.run(image)
            if turn > 0:
                best[name] = min(best[name], time.perf_counter() - began)
        if turn > 0 and time.perf_counter() - start > _MOST_SECONDS:
            break
    for name, engine in engines.items():
        found[name] = {
            "library": engine.library,
            "seconds_per_call": round(best[name], 6),
            "tile": list(tile),
            "threads": 1,
        }
        log.info("%s: %.3f s for a tile of %d x %d x %d", engine.library, best[name], *tile)
        engine.close()
    return {name: found[name] for name in networks}


def load_engine(folder: Path, *, tile: Shape, batch: int, threads: int) -> Engine:
    """The engine in ``folder``, which ``build_engine`` has filled.

    Parameters
    ----------
    tile:
        Input of the network along (z, y, x), in voxels.
    batch:
        Tiles per call.
    threads:
        CPU threads; a GPU does not need them.

    Raises
    ------
    UserError
        If the file is not the one that was built, was built for another device or by another version, or does not take
        such calls.
    """
    file = folder / ENGINE
    asked = f"the engine {file} was to be loaded"
    build = read_build(folder)
    # Before any library sees it: they crash on damaged files, or worse, do not.
    if (found := digest(file)) != build["engine_digest"]:
        raise UserError(
            asked,
            f"its digest (SHA-256) is {found}, that of the engine that was built {build['engine_digest']}",
            f"delete {_made_by(folder)} and run snakemake again, to build and certify the engine anew",
        )
    library = backend(build["backend"], build["capabilities"] or ())
    if reason := library.unavailable("run", build["precision"]):
        raise UserError(
            asked,
            reason,
            f"run where it can, or delete {_made_by(folder)} and run snakemake again, to build another",
        )
    if (here := library.binding()) != build["binding"]:
        raise UserError(
            asked,
            f"it was built with {_listed(build['binding'])}; here is {_listed(here)}",
            f"delete {_made_by(folder)} and run snakemake again, to build and certify it for this machine",
        )
    _check_call(asked, build["profile"], tile, batch)
    return library.load(file, tile, batch, threads)


def read_build(folder: Path) -> dict[str, Any]:
    """What ``build_engine`` wrote of the engine in ``folder``; UserError if there is none."""
    asked, repair = f"the engine in {folder} was to be loaded", f"delete {_made_by(folder)} and run snakemake again"
    try:
        build = read_json(folder / BUILD)
    except FileNotFoundError:
        raise UserError(asked, f"there is no {BUILD}", repair) from None
    if not isinstance(build, dict) or (missing := _FACTS - build.keys()):
        what = ", ".join(sorted(missing)) if isinstance(build, dict) else "all"
        raise UserError(asked, f"{BUILD} is damaged or that of another version: it lacks {what}", repair)
    return build


def _made_by(folder: Path) -> Path:
    """What must be deleted, so that snakemake makes the engine in ``folder`` again."""
    return folder.parent.with_suffix(".json") if folder.parent.name == CANDIDATES else folder


def _check_call(asked: str, profile: Mapping[str, Any] | None, tile: Shape, batch: int) -> None:
    if profile is None:
        return
    if list(tile) != profile["tile"]:
        raise UserError(
            f"{asked} for tiles of {list(tile)} (z, y, x)",
            f"it was built for tiles of {profile['tile']}",
            "set predict.tile, for which the engine is built",
        )
    least, _, most = profile["batch"]
    if not least <= batch <= most:
        raise UserError(
            f"{asked} for {batch} tiles a call",
            f"it was built for {least} to {most}",
            "set predict.batch to less, or engine.max_batch to more",
        )


def _listed(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())
