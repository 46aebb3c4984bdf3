"""Settings: one typed model, the source of defaults, schema and reference.

A mistake in the settings is found before any job starts, and all mistakes are reported together. Numbers that follow
from others (border, tile origin, memory) are computed elsewhere and are no settings.
"""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from unetpipe.errors import SettingsError, UserError
from unetpipe.grid import unet_geometry

PHANTOM = "phantom"
"""In place of the address of an image or of labels: the synthetic volume that the settings ``phantom`` describe."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Positive = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Value = Annotated[int, Field(ge=-(2**31), lt=2**32)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Phantom(_Model):
    """The synthetic volume, with ground truth, on which the workflow can be tried."""

    shape: tuple[Positive, Positive, Positive] = Field((30, 384, 384), description="voxels along (z, y, x)")
    voxel_size_nm: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(
        (40.0, 4.0, 4.0), description="edge lengths of a voxel in nm, (z, y, x)"
    )
    seed: Annotated[int, Field(ge=0)] = Field(1, description="another seed gives another volume")
    missing: Annotated[int, Field(ge=0)] | None = Field(
        None, description="the section that is missing, counted from 0; by the seed where left out"
    )
    fold: Annotated[int, Field(ge=0)] | None = Field(
        None, description="the section with a dark fold, counted from 0; by the seed where left out"
    )


class Volume(_Model):
    """A volume: what to read, and what it is for."""

    role: Literal["train", "validate", "test", "predict"] = Field(
        description="train: the network learns from it. validate: chooses the best step and gates the engine. test: "
        "gives the figure of the report. predict: is only segmented. All but train are predicted, and scored where "
        "they have labels."
    )
    image: str = Field(
        min_length=1,
        description="a TIFF stack, a folder of TIFF or PNG sections, `FILE.h5:/DATASET`, a .npy file or a Zarr (used "
        "in place: if its voxels change, delete the volume.json); `phantom` for the synthetic volume. `{data_dir}` is "
        "replaced by `data_dir`.",
    )
    labels: str | None = Field(None, description="likewise; of the same shape as the image")
    sections: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] | None = Field(
        None,
        description="[first, end): the sections to use, counted from 0, without `end`; all where left out",
    )
    voxel_size_nm: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = Field(
        None, description="edge lengths of a voxel in nm, (z, y, x), where the file does not tell or is wrong"
    )
    range: tuple[float, float] | None = Field(
        None,
        description="[low, high]: the grey values that mean black and white; required for float and signed data",
    )
    label_values: dict[Name, list[Value]] | None = Field(
        None, description="the label values of each class in this volume, where they differ from `classes`"
    )


class Network(_Model):
    """The network (arXiv:1505.04597, figure 1)."""

    name: Literal["unet"] = Field("unet", description="the architecture")
    width: Positive = Field(16, description="channels of the first level; the paper has 64")
    depth: Annotated[int, Field(ge=1, le=6)] = Field(4, description="number of poolings; the paper has 4")
    normalisation: Literal["batch", "none"] = Field(
        "batch", description="`batch` is folded into the convolutions at export; the paper has none"
    )
    dropout: Fraction = Field(0.0, description="share of channels dropped at the end of the contracting path")


class Augment(_Model):
    """Training samples: deformed, turned, shifted and re-lit cut-outs, with a weight per voxel."""

    samples: Positive = Field(400, description="number of samples to draw; training passes over them again and again")
    tile: tuple[Positive, Positive] = Field((316, 316), description="input of the network in training, (y, x) voxels")
    elastic_grid: Annotated[int, Field(ge=2)] = Field(
        3, description="control points of the elastic deformation along y and x; the paper has 3"
    )
    elastic_sigma: NotNegative = Field(
        10.0, description="standard deviation of their displacements in voxels; the paper has 10"
    )
    rotation: NotNegative = Field(180.0, description="largest rotation in degrees, either way")
    shift: NotNegative = Field(10.0, description="largest shift in voxels along y and x, either way")
    scale: Fraction = Field(0.1, description="largest change of scale, as a share of 1, either way")
    brightness: NotNegative = Field(
        0.3,
        description="standard deviation of an added grey value, in units of a section's standard deviation",
    )
    contrast: NotNegative = Field(0.2, description="standard deviation of the logarithm of a factor on grey values")
    gamma: NotNegative = Field(0.2, description="standard deviation of the logarithm of the exponent on grey values")
    noise: NotNegative = Field(
        0.1,
        description="largest standard deviation of added noise, in units of a section's standard deviation",
    )
    blur: NotNegative = Field(0.5, description="largest sigma of a Gaussian blur in voxels")
    border_class: Name | None = Field(
        None,
        description="the class that separates cells: its voxels between near cells weigh more; none: no border term",
    )
    border_weight: NotNegative = Field(10.0, description="w0 of the border weight; the paper has 10")
    border_sigma: PositiveFloat = Field(5.0, description="sigma of the border weight in voxels; the paper has 5")
    class_balance: Fraction | Literal[1] = Field(
        0.5,
        description="w_c is the class frequency to the power of minus this, 1 on average; 0 weighs all voxels alike",
    )


class Train(_Model):
    """Training. Everything is counted in steps, so that a run can be repeated bit for bit."""

    steps: Positive = Field(1500, description="steps of the optimiser")
    batch: Positive = Field(4, description="samples per step; the paper has 1, large")
    optimiser: Literal["adamw", "sgd"] = Field("adamw", description="the paper has sgd")
    learning_rate: PositiveFloat = Field(2e-3, description="at its highest")
    momentum: Fraction = Field(0.9, description="of sgd, and the first beta of adamw; the paper has 0.99")
    weight_decay: NotNegative = Field(1e-4, description="decoupled, of adamw; of sgd as an L2 term")
    schedule: Literal["one_cycle", "constant"] = Field(
        "one_cycle", description="learning rate over the steps; the paper's is constant"
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto",
        description="of the convolutions; weights and loss are always fp32. auto: bf16 where the processor has "
        "instructions for it; elsewhere bf16 takes several times as long as fp32",
    )
    validate_every: Positive = Field(100, description="steps between validations")
    patience: Annotated[int, Field(ge=0)] = Field(
        0, description="validations without a better mean IoU before training ends; 0: never"
    )
    checkpoint_every: Positive = Field(100, description="steps between the states from which a killed run goes on")
    threads: Positive = Field(
        2,
        description="CPU threads; another number can give another last bit, so it is a setting and not --cores",
    )
    init: str | None = Field(None, description="a checkpoint.safetensors to start from: fine-tuning")


class Engine(_Model):
    """What runs the network in prediction."""

    backend: Literal["auto", "tensorrt", "tensorrt_rtx", "openvino", "onnxruntime"] = Field(
        "auto", description="auto: TensorRT where a GPU and its package are, the fastest CPU engine elsewhere"
    )
    precision: Literal["fp32"] = Field("fp32", description="of weights and arithmetic")
    compute_capabilities: list[Annotated[str, StringConstraints(pattern=r"^\d+\.\d$")]] = Field(
        ["8.6", "8.9", "12.0"],
        description="the GPU generations that a TensorRT-RTX engine is built for; no GPU is needed to build it",
    )
    max_batch: Positive = Field(8, description="most tiles per call")


class Certify(_Model):
    """The gate: an engine predicts only if it agrees with PyTorch in fp32."""

    iou_bound: PositiveFloat = Field(0.002, description="largest fall of any class's IoU against PyTorch fp32")
    tiles: Positive = Field(16, description="tiles to compare")


class Predict(_Model):
    """Prediction of whole volumes, in blocks."""

    tile: tuple[Positive, Positive] | None = Field(
        None,
        description="input of the network in prediction, (y, x) voxels; chosen for each volume where left out",
    )
    workers: Positive | None = Field(
        None, description="worker processes; one per core where left out. The result does not depend on it"
    )
    batch: Positive = Field(1, description="tiles per call")
    on_change: Literal["refuse", "restart"] = Field(
        "refuse",
        description="what to do with an unfinished or finished prediction that was made with other inputs or settings",
    )


class Evaluate(_Model):
    """Scores."""

    baseline_sigma: PositiveFloat = Field(
        2.0, description="sigma in voxels of the Gaussian blur before Otsu's threshold, the baseline"
    )


class Settings(_Model):
    """All settings of a run."""

    run: Name = Field(description="results lie in results/<run>")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(1, description="the one seed of samples, weights and order")
    data_dir: str | None = Field(None, description="replaces `{data_dir}` in addresses")
    classes: dict[Name, Annotated[list[Value], Field(min_length=1)]] = Field(
        min_length=2, description="the classes in the order of the channels, each with its label values"
    )
    ignore: list[Value] = Field([], description="label values of voxels that are neither learnt nor scored")
    volumes: dict[Name, Volume] = Field(min_length=1, description="a name for each volume, and what it is")
    phantom: Phantom | None = Field(None, description="the synthetic volume, for volumes whose image is `phantom`")
    model: str | None = Field(None, description="a checkpoint.safetensors to use as it is: nothing is trained")
    network: Network = Network()
    augment: Augment = Augment()
    train: Train = Train()
    engine: Engine = Engine()
    certify: Certify = Certify()
    predict: Predict = Predict()
    evaluate: Evaluate = Evaluate()

    def named(self, *roles: str) -> list[str]:
        """Names of the volumes with one of ``roles``, in the order of the settings."""
        return [name for name, volume in self.volumes.items() if volume.role in roles]

    def label_values(self, volume: str) -> dict[str, list[int]]:
        """The label values of each class in ``volume``, in the order of the channels."""
        own = self.volumes[volume].label_values
        return {name: list(values if own is None else own.get(name, [])) for name, values in self.classes.items()}


Problem = tuple[str, str]
"""The path of a setting, and what is wrong with it."""


def parse(data: Mapping[str, Any], source: str, further: Callable[[Settings], list[Problem]] | None = None) -> Settings:
    """Settings from plain data, as YAML gives them.

    Parameters
    ----------
    data:
        The configuration. Nothing in it is changed.
    source:
        Where it came from, for messages.
    further:
        More checks, such as those that open files; their problems join the others.

    Raises
    ------
    SettingsError
        With all problems: unknown keys, wrong types, impossible combinations.
    """
    data, problems = _fill_data_dir(data)
    settings, found = _validate(data)
    problems += found
    rest = data
    while settings is None and found and all(path for path, _ in found):
        # What is wrong is known; what can be said of the rest is still worth saying. Where something is missing, its
        # parent goes.
        less = _without(rest, [path if _get(rest, path) is not None else path.rpartition(".")[0] for path, _ in found])
        if less == rest:
            break
        rest = less
        settings, found = _validate(rest)
    if settings is not None:
        more = _combinations(settings) + (further(settings) if further else [])
        problems += [(path, text) for path, text in more if not any(_inside(path, bad) for bad, _ in problems)]
    if problems or settings is None:
        raise SettingsError(source, problems)
    return settings


def read(path: Path, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The content of a configuration file, with top-level keys replaced by ``overrides``."""
    asked = f"the configuration {path} was to be read"
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(asked, "there is no such file", "give the path of a file such as config/config.yaml") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(asked, str(error), "mend the file: it must be YAML") from None
    if not isinstance(data, dict):
        found = "it is empty" if data is None else f"a {type(data).__name__}, not keys and values"
        raise UserError(asked, found, "start from config/config.yaml")
    return {**data, **(overrides or {})}


def schema() -> dict[str, Any]:
    """The JSON schema of a configuration file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Settings.model_json_schema()}


def _validate(data: Mapping[str, Any]) -> tuple[Settings | None, list[Problem]]:
    try:
        # Strict JSON: lists may stand for tuples, but text never for a number.
        return Settings.model_validate_json(json.dumps(data)), []
    except ValidationError as error:
        # A union reports one error per member: the first one per path says enough.
        problems: dict[str, str] = {}
        for item in error.errors():
            problems.setdefault(_path(data, item["loc"]), _sentence(dict(item)))
        return None, list(problems.items())
    except (TypeError, ValueError) as error:
        return None, [("", f"not plain YAML data: {error}")]


def _path(data: Any, location: Sequence[str | int]) -> str:
    """The dotted path of a setting, without pydantic's marks for the members of a union."""
    parts: list[str] = []
    here = data
    for i, part in enumerate(location):
        if part == "[key]":
            continue
        if isinstance(here, dict) and isinstance(part, str) and (part in here or i == len(location) - 1):
            here = here.get(part)
        elif isinstance(here, list) and isinstance(part, int):
            here = here[part] if part < len(here) else None
        else:
            continue
        parts.append(str(part))
    return ".".join(parts)


def _sentence(item: Mapping[str, Any]) -> str:
    if item["type"] == "missing":
        return "is required and missing"
    if item["type"] == "extra_forbidden":
        return "is no setting: is it misspelt, or in the wrong place?"
    found = item["input"]
    text = f"{item['msg'][0].lower()}{item['msg'][1:]}; found {found!r}"
    if isinstance(found, str) and _is_number(found):
        text += " (text: YAML takes 1e-3 for text and 1.0e-3 for a number)"
    return text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _get(data: Any, path: str) -> Any:
    for step in path.split("."):
        data = data.get(step) if isinstance(data, dict) else None
    return data


def _inside(path: str, other: str) -> bool:
    return path == other or path.startswith(other + ".")


def _without(data: Mapping[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """A copy without the settings at ``paths``."""
    rest: dict[str, Any] = copy.deepcopy(dict(data))
    for path in paths:
        parents, _, last = path.rpartition(".")
        here = _get(rest, parents) if parents else rest
        if isinstance(here, dict):
            here.pop(last, None)
    return rest


def _fill_data_dir(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Replace ``{data_dir}`` in every address."""
    filled: dict[str, Any] = copy.deepcopy(dict(data))
    folder = filled.get("data_dir")
    problems: list[Problem] = []

    def fill(holder: dict[str, Any], key: str, path: str) -> None:
        text = holder.get(key)
        if not isinstance(text, str) or "{data_dir}" not in text:
            return
        if isinstance(folder, str) and folder:
            holder[key] = text.replace("{data_dir}", folder.rstrip("/") or "/")
        else:
            problems.append((path, f"{text!r} needs data_dir, which is not set: add --config data_dir=DIR"))

    fill(filled, "model", "model")
    train = filled.get("train")
    if isinstance(train, dict):
        fill(train, "init", "train.init")
    volumes = filled.get("volumes")
    for name, volume in volumes.items() if isinstance(volumes, dict) else ():
        if isinstance(volume, dict):
            fill(volume, "image", f"volumes.{name}.image")
            fill(volume, "labels", f"volumes.{name}.labels")
    return filled, problems


def _combinations(settings: Settings) -> list[Problem]:
    """What no single setting shows."""
    problems: list[Problem] = []
    problems += _class_problems(settings)
    for name, volume in settings.volumes.items():
        problems += [(f"volumes.{name}.{key}", text) for key, text in _volume_problems(settings, volume)]
    problems += _tile_problems(settings)
    problems += _address_problems(settings)
    trains = settings.named("train")
    if settings.model is None and not trains:
        problems.append(("volumes", "no volume has the role train, and no model is given"))
    if settings.model is not None and settings.train.init is not None:
        problems.append(("train.init", "has no meaning beside `model`, with which nothing is trained"))
    if not settings.named("validate", "test", "predict"):
        problems.append(("volumes", "no volume has the role validate, test or predict: nothing would be segmented"))
    if settings.phantom is not None:
        problems += _phantom_problems(settings.phantom)
    border = settings.augment.border_class
    if border is not None and border not in settings.classes:
        problems.append(("augment.border_class", f"{border!r} is none of the classes {', '.join(settings.classes)}"))
    if settings.predict.batch > settings.engine.max_batch:
        problems.append(
            (
                "predict.batch",
                f"{settings.predict.batch} is more than engine.max_batch, {settings.engine.max_batch}",
            )
        )
    return problems


def _class_problems(settings: Settings) -> list[Problem]:
    mappings = {"classes": settings.classes} | {
        f"volumes.{name}.label_values": volume.label_values
        for name, volume in settings.volumes.items()
        if volume.label_values is not None
    }
    problems: list[Problem] = []
    if len(settings.classes) > 254:
        problems.append(
            (
                "classes",
                f"{len(settings.classes)} classes; at most 254 fit into a byte beside the ignore label",
            )
        )
    for path, mapping in mappings.items():
        owner = dict.fromkeys(settings.ignore, "ignore")
        for name, values in mapping.items():
            if name not in settings.classes:
                problems.append((f"{path}.{name}", f"is none of the classes {', '.join(settings.classes)}"))
            for value in values:
                if value in owner:
                    problems.append((f"{path}.{name}", f"the label value {value} belongs to {owner[value]} already"))
                owner.setdefault(value, name)
        problems += [(f"{path}.{name}", "has no label values") for name in settings.classes if name not in mapping]
    return problems


def _volume_problems(settings: Settings, volume: Volume) -> list[Problem]:
    problems: list[Problem] = []
    if volume.labels is None and volume.role in ("train", "validate", "test"):
        problems.append(("labels", f"are required for the role {volume.role}"))
    if volume.sections is not None and volume.sections[0] >= volume.sections[1]:
        problems.append(("sections", f"[{volume.sections[0]}, {volume.sections[1]}) holds no section"))
    if volume.range is not None and volume.range[0] >= volume.range[1]:
        problems.append(("range", f"the low end {volume.range[0]} is not below the high end {volume.range[1]}"))
    if (volume.image == PHANTOM or volume.labels == PHANTOM) and settings.phantom is None:
        problems.append(("image", "is the phantom, but the settings `phantom` are missing"))
    return problems


def _address_problems(settings: Settings) -> list[Problem]:
    addresses = {"model": settings.model, "train.init": settings.train.init}
    for name, volume in settings.volumes.items():
        addresses |= {f"volumes.{name}.image": volume.image, f"volumes.{name}.labels": volume.labels}
    return [
        (
            path,
            f"{address!r} holds one of < > {{ }}, which Snakemake takes for a pattern: rename the file, or link to it",
        )
        for path, address in addresses.items()
        # Where data_dir is missing, that is said already.
        if address is not None and set("<>{}") & set(address.replace("{data_dir}", ""))
    ]


def _phantom_problems(phantom: Phantom) -> list[Problem]:
    problems = [
        (f"phantom.{name}", f"there is no section {section}: the phantom has {phantom.shape[0]}")
        for name, section in (("missing", phantom.missing), ("fold", phantom.fold))
        if section is not None and section >= phantom.shape[0]
    ]
    if phantom.missing is not None and phantom.missing == phantom.fold:
        problems.append(("phantom.fold", f"the section {phantom.fold} is the missing one: it shows no fold"))
    return problems


def _tile_problems(settings: Settings) -> list[Problem]:
    net = unet_geometry(settings.network.depth)
    problems: list[Problem] = []
    for path, tile in (("augment.tile", settings.augment.tile), ("predict.tile", settings.predict.tile)):
        if tile is None or net.is_legal((1, *tile)):
            continue
        kept = [n - 2 * net.border[1] for n in tile]
        smaller, larger = (
            list(net.tile_for((1, *(max(1, n - less) for n in kept)))[1:]) for less in (net.pooling[1], 0)
        )
        near = f"near sizes that it can take are {smaller} and {larger}"
        problems.append((path, f"the network cannot take {list(tile)}: {near}"))
    return problems
