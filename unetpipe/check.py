"""The settings together with the files that they name: every mistake that metadata show, before any job starts.

Snakemake asks at the start of each job, so readers are imported only where a file of theirs is named, and no voxel is
read.
"""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from unetpipe.combinations import mirror_problems, network_problems, region_problems, tile_problems
from unetpipe.config import PHANTOM, Network, Problem, Settings
from unetpipe.data.fit import Facts, misfits
from unetpipe.data.sources import missing, open_labels, open_source
from unetpipe.errors import UserError
from unetpipe.grid import AXES, Geometry, Region
from unetpipe.parse import parse
from unetpipe.pixels import PixelSize, pixel_problems
from unetpipe.storage import folder_at

_CHECKPOINT_KEY = "unetpipe"


def check(data: Mapping[str, Any], source: str) -> Settings:
    """Settings from plain data, checked against the files that they name; a ``model`` brings its own ``network``.

    Parameters
    ----------
    data:
        The configuration, as YAML gives it.
    source:
        Where it came from, for messages.

    Raises
    ------
    SettingsError
        With all problems: those of :func:`unetpipe.parse.parse`; packages that are asked for and not installed; a place
        for predictions that cannot be looked at; files that are missing or cannot be read; sections or a region outside
        the image; labels of another shape; images that are too small; grey values without a range; a checkpoint with
        other classes or another network; tiles that a model cannot take, or axes along which it cannot be mirrored;
        volumes whose voxels have another size along y and x than those from which the network learns.
    """
    settings = parse(data, source, further=_file_problems)
    network, _, _ = _checkpoint_problems(settings)
    return settings.model_copy(update={"network": network})


def _file_problems(settings: Settings) -> list[Problem]:
    network, learnt, problems = _checkpoint_problems(settings)
    if settings.model is not None and not problems:
        problems += tile_problems(settings, network) + mirror_problems(settings, network)
    if settings.train.tensorboard and find_spec("tensorboard") is None:
        repair = "pip install 'unetpipe[watch]', or leave it out"
        problems.append(("train.tensorboard", f"asks for the package tensorboard, which is not installed: {repair}"))
    if settings.predict.cluster == "slurm" and find_spec("dask_jobqueue") is None:
        repair = "pip install 'unetpipe[slurm]', or leave it out"
        problems.append(("predict.cluster", f"asks for the package dask-jobqueue, which is not installed: {repair}"))
    problems += _store_problems(settings)
    geometry = None if network_problems(network) else network.geometry
    sizes: dict[str, PixelSize | None] = {}
    for name in settings.volumes:
        problems += [(f"volumes.{name}.{key}", text) for key, text in _volume_problems(settings, name, geometry, sizes)]
    return problems + pixel_problems(settings, sizes, learnt)


def _store_problems(settings: Settings) -> list[Problem]:
    """Whether predictions can go where they are to go, as far as can be told without writing."""
    address = settings.predict.store
    if address is None:
        return []
    try:
        place = folder_at(address)
        # Where something was written, it was allowed; what is finished can be read wherever it may only be read now.
        begun = next(place.below(settings.run).entries(), None)
        text = None if begun else place.unwritable()
    except UserError as error:
        text = f"{error.found}; {error.repair}"
    except OSError as error:
        text = f"it cannot be looked at ({error}); see whether the storage answers, and allows it"
    return [("predict.store", f"{address}: {text}")] if text else []


def _volume_problems(
    settings: Settings, name: str, geometry: Geometry | None, sizes: dict[str, PixelSize | None]
) -> list[Problem]:
    """What is wrong with a volume; ``sizes`` gets its voxel size (y, x) in nm, unless the image cannot be read."""
    volume = settings.volumes[name]
    problems: list[Problem] = []
    image = _facts(settings, "image", volume.image, problems)
    beside = None if image is None else (volume.image, image.shape[0])
    labels = None if volume.labels is None else _facts(settings, "labels", volume.labels, problems, beside)
    problems += misfits(image, labels, volume.sections, volume.range, volume.annotated)
    if image is not None and geometry is not None:
        problems += _size_problems(image, geometry)
    if volume.mask is not None:
        # Any shape and type will do; that it can be read must be shown.
        _facts(settings, "mask", volume.mask, problems)
    if image is not None and volume.region is not None:
        problems += [("region", text) for text in _beyond(Region.between(volume.region), image, volume.sections)]
    if image is not None:
        size_nm = volume.voxel_size_nm or image.voxel_size_nm
        sizes[name] = None if size_nm is None else (size_nm[1], size_nm[2])
    return problems


def _facts(
    settings: Settings, key: str, address: str, problems: list[Problem], beside: tuple[str, int] | None = None
) -> Facts | None:
    """Shape, type and voxel size of what lies at ``address``; None, and one more problem, if that cannot be told.

    ``beside``: of labels, where their image is, and how many sections it has.
    """
    if address == PHANTOM:
        # Where its settings are missing, that is a problem already.
        return (
            None if settings.phantom is None else Facts(settings.phantom.shape, "uint8", settings.phantom.voxel_size_nm)
        )
    try:
        with open_source(address) if beside is None else open_labels(address, *beside) as source:
            return Facts.of(source)
    except UserError as error:
        problems.append((key, f"{address}: {error.found}; {error.repair}"))
        return None


def _beyond(region: Region, image: Facts, sections: tuple[int, int] | None) -> list[str]:
    """What of a region lies beyond the sections that are used."""
    first, end = sections or (0, image.shape[0])
    if region_problems(region) or not first < end <= image.shape[0]:
        # That is said already.
        return []
    return region_problems(region, (end - first, *image.shape[1:]))


def _size_problems(image: Facts, geometry: Geometry) -> list[Problem]:
    """Mirroring fills any tile, but of less than two voxels of the lowest level it makes nothing but repetitions."""
    problems = []
    for axis, size, pooling in zip(AXES, image.shape, geometry.pooling, strict=True):
        if pooling > 1 and size < 2 * pooling:
            found = f"has {size} voxels along {axis}, and the network pools {pooling} of them into one"
            problems.append(("image", f"{found}: at least {2 * pooling} are needed, or a network of less depth"))
    return problems


def _checkpoint_problems(settings: Settings) -> tuple[Network, PixelSize | None, list[Problem]]:
    """The network that will predict, and what is wrong with a checkpoint that the settings name.

    Between them the voxel size (y, x) in nm at which a ``model`` learnt, None where that is not known.
    """
    key, address = ("model", settings.model) if settings.model is not None else ("train.init", settings.train.init)
    if address is None:
        return settings.network, None, []
    try:
        metadata = _read_metadata(Path(address))
        network = Network.model_validate_json(json.dumps(metadata["network"]))
        classes = list(metadata["classes"])
        size = metadata.get("voxel_size_nm")
        learnt = None if size is None else (float(size[0]), float(size[1]))
    except UserError as error:
        return settings.network, None, [(key, f"{address}: {error.found}; {error.repair}")]
    except (LookupError, TypeError, ValueError) as error:
        text = f"{address}: its description of the network is not one that this version knows ({error})"
        return settings.network, None, [(key, f"{text}; use the version of unetpipe that trained it")]
    problems: list[Problem] = [
        (key, f"{address}: its {path} {text}; use the version of unetpipe that trained it")
        for path, text in network_problems(network)
    ]
    if classes != list(settings.classes):
        found = f"{address} knows the classes {', '.join(classes)}, the settings have {', '.join(settings.classes)}"
        problems.append((key, f"{found}: they must be the same, in the same order"))
    if key == "model":
        return network, learnt, problems
    names = ["name", "skips", "upsampling", "width", "depth", "normalisation", "sections"]
    if network.depth == settings.network.depth:
        names += ["kernels", "poolings"]
    differing = [
        f"{name} {getattr(network, name)} instead of {getattr(settings.network, name)}"
        for name in names
        if getattr(network, name) != getattr(settings.network, name)
    ]
    if differing:
        problems.append((key, f"{address} has another network than the settings: {', '.join(differing)}"))
    return settings.network, None, problems


def _read_metadata(path: Path) -> dict[str, Any]:
    """As :func:`unetpipe.nets.checkpoint.read_metadata`, which imports torch."""
    from safetensors import SafetensorError, safe_open

    asked = f"the checkpoint {path} was to be read"
    if path.is_dir():
        raise UserError(asked, "it is a folder", "give the checkpoint.safetensors in it")
    if not path.exists():
        raise missing(asked, path)
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(_CHECKPOINT_KEY)
        metadata: dict[str, Any] = json.loads(text or "")
    except (SafetensorError, OSError) as error:
        raise UserError(asked, f"no whole safetensors file ({error})", "train or copy it again") from None
    except json.JSONDecodeError:
        raise UserError(
            asked,
            "a safetensors file without unetpipe's description of the network",
            "give the checkpoint.safetensors of a run",
        ) from None
    return metadata
