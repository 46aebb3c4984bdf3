"""Settings: one typed model, the source of defaults, schema and reference.

Numbers that follow from others (border, tile origin, memory) are computed elsewhere and are no settings.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag

from unetpipe.grid import Geometry, Shape, patch_geometry, stack_geometry, triple, unet_geometry

PHANTOM = "phantom"
"""In place of the address of an image or of labels: the synthetic volume that the settings ``phantom`` describe."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Positive = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Triple = tuple[Positive, Positive, Positive]
Tile = Annotated[
    Annotated[tuple[Positive, Positive], Tag("2")] | Annotated[Triple, Tag("3")],
    # So that a mistake is told of the one that was meant.
    Discriminator(lambda value: "3" if isinstance(value, list | tuple) and len(value) == 3 else "2"),
]
PerLevel = Annotated[
    Annotated[Triple, Tag("all")] | Annotated[list[Triple], Tag("each")],
    Discriminator(
        lambda value: "each" if isinstance(value, list) and not (value and isinstance(value[0], int | str)) else "all"
    ),
]
"""For all levels of a network alike, or for each of them."""

Span = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
Annotation = Annotated[
    Annotated[Annotated[int, Field(ge=0)], Tag("section")] | Annotated[tuple[Span, Span, Span], Tag("box")],
    Discriminator(lambda value: "box" if isinstance(value, list | tuple) else "section"),
]
"""A whole section, or a box of voxels."""

Precision = Literal["fp32", "bf16", "fp16", "int8"]
Precisions = Annotated[
    Annotated[Literal["auto"] | Precision, Tag("one")] | Annotated[list[Precision], Field(min_length=1), Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, list) else "one"),
]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Value = Annotated[int, Field(ge=-(2**31), lt=2**32)]
ObjectId = Annotated[int, Field(ge=-(2**63), lt=2**64)]


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
    sections: Span | None = Field(
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
    labels_are: Literal["classes", "instances"] = Field(
        "classes",
        description="classes: a label value stands for a class. instances: each object has a number of its own, and "
        "what of it is boundary follows from the rule of the settings `instances`",
    )
    annotated: Annotated[list[Annotation], Field(min_length=1)] | None = Field(
        None,
        description="the parts of the volume that were labelled, where not all of it was: numbers of sections, and "
        "boxes [[z0, z1], [y0, y1], [x0, x1]], in voxels from the first section used, without the ends. Labels "
        "elsewhere are not looked at: those voxels are neither learnt nor scored",
    )
    region: tuple[Span, Span, Span] | None = Field(
        None,
        description="[[z0, z1], [y0, y1], [x0, x1]]: the part to predict, in voxels from the first section used, "
        "without the ends; blocks that meet it are predicted whole. All of the volume where left out",
    )
    mask: str | None = Field(
        None,
        min_length=1,
        description="the part to predict: blocks that meet a voxel of this volume that is not 0. An address like that "
        "of the image (of a Zarr: if its voxels change, delete the allocated.json); of any resolution, so that an axis "
        "with half as many voxels has voxels twice as long. It covers the whole image, also where `sections` uses a "
        "part of it",
    )


class Instances(_Model):
    """Classes from labels that give each object a number, for the volumes whose `labels_are` is `instances`.

    A voxel is `boundary` if its label is 0, or if another object lies near it in its section: at most `reach` voxels
    away, those along y and along x added. All other voxels of objects are `object`. Neither 0 nor an ignored label is
    an object: a voxel beside them alone is `object`.
    """

    boundary: Name = Field(description="the class between objects, such as membrane")
    object: Name = Field(description="the class of the rest of every object")
    reach: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="how far the boundary reaches into an object that touches another one, in voxels"
    )
    ignore: list[ObjectId] = Field(
        [],
        description="labels of voxels that are neither learnt nor scored; 0 can be one. The `ignore` at the top is for "
        "the volumes whose labels are classes",
    )


class Network(_Model):
    """The network (arXiv:1505.04597, figure 1), and those that it is compared with."""

    name: Literal["unet", "full_resolution", "patch_classifier"] = Field(
        "unet",
        description="the architecture. full_resolution: as many levels of convolutions, all of `width` channels, with "
        "no pooling between them. patch_classifier: the way down of the U-Net as a classifier of the voxel in the "
        "middle of a patch, applied to the patch around every voxel",
    )
    skips: Literal["concatenate", "add", "multiply", "none"] = Field(
        "concatenate", description="how a `unet` joins the features of the way down to those of the way up"
    )
    upsampling: Literal["transposed", "nearest", "bed_of_nails", "max_unpooling"] = Field(
        "transposed",
        description="how a `unet` goes up a level. transposed: a transposed convolution. The others halve the channels "
        "with a convolution of one voxel, and put each value into all voxels of a window (nearest), into the first "
        "(bed_of_nails), or where the maximum was on the way down, the first of equals (max_unpooling)",
    )
    width: Positive = Field(16, description="channels of the first level; the paper has 64")
    depth: Annotated[int, Field(ge=1, le=6)] = Field(4, description="number of poolings; the paper has 4")
    normalisation: Literal["batch", "none"] = Field(
        "batch", description="`batch` is folded into the convolutions at export; the paper has none"
    )
    dropout: Fraction = Field(0.0, description="share of channels dropped at the end of the contracting path")
    kernel: PerLevel = Field(
        (1, 3, 3),
        description="of the convolutions, (z, y, x), odd: one for all levels, or a list with one for each of the "
        "`depth` + 1 levels from the top. Where a kernel or a pooling is longer than 1 along z, the network is 3D",
    )
    pooling: PerLevel = Field(
        (1, 2, 2),
        description="(z, y, x): one for all levels, or a list with one for each of the `depth` poolings from the top; "
        "sections that are thick beside a pixel are pooled later than y and x, or never",
    )
    sections: Positive = Field(
        1, description="neighbouring sections that a 2D network sees as channels (2.5D): an odd number; 1 for one alone"
    )

    @property
    def kernels(self) -> tuple[Shape, ...]:
        """Of each level, from the top."""
        return tuple(self.kernel) if isinstance(self.kernel, list) else (self.kernel,) * (self.depth + 1)

    @property
    def poolings(self) -> tuple[Shape, ...]:
        """Of each level but the lowest, from the top."""
        return tuple(self.pooling) if isinstance(self.pooling, list) else (self.pooling,) * self.depth

    @property
    def geometry(self) -> Geometry:
        """What the network does to shapes."""
        if self.name == "full_resolution":
            return stack_geometry(self.kernels, self.sections)
        make = patch_geometry if self.name == "patch_classifier" else unet_geometry
        return make(self.kernels, self.poolings, self.sections)

    def tile(self, voxels: Sequence[int]) -> Shape:
        """A tile (z, y, x) of the settings: along z, a 2D network reads what it needs for one section.

        Raises
        ------
        ValueError
            If the number of axes is not that of the network.
        """
        geometry = self.geometry
        if len(voxels) != geometry.dimensions:
            axes = "(z, y, x)" if geometry.dimensions == 3 else "(y, x)"
            raise ValueError(f"{list(voxels)} has {len(voxels)} axes; this network takes tiles {axes}")
        return triple(voxels) if geometry.dimensions == 3 else triple([self.sections, *voxels])


class Augment(_Model):
    """Training samples: deformed, turned, shifted and re-lit cut-outs, with a weight per voxel."""

    samples: Positive = Field(400, description="number of samples to draw; training passes over them again and again")
    tile: Tile = Field(
        (316, 316), description="input of the network in training: (y, x) voxels, or (z, y, x) of a 3D network"
    )
    voxel_size_nm: tuple[PositiveFloat, PositiveFloat] | None = Field(
        None,
        description="(y, x) in nm: samples of all training volumes are resampled to it, and the network is for volumes "
        "with such voxels, 10 % more or less; sections remain as they are. Where left out, samples have the voxels of "
        "their volumes, none of which may differ from the first by more than 10 %",
    )
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
    class_weights: dict[Name, PositiveFloat] | None = Field(
        None,
        description="factors on w_c, 1 for a class that is left out; w_c remains 1 on average. With `class_balance` 0 "
        "they alone tell how much a voxel of each class weighs beside others",
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
    precision: Precisions = Field(
        "auto",
        description="of weights and arithmetic. A list is a ladder: the first that the device computes in and that "
        "passes the gate predicts; with one alone, the run stops if that fails. auto: int8, bf16, fp32 on a processor; "
        "fp16, bf16, fp32 on a GPU",
    )
    compute_capabilities: list[Annotated[str, StringConstraints(pattern=r"^\d+\.\d$")]] = Field(
        ["8.6", "8.9", "12.0"],
        description="the GPU generations that a TensorRT-RTX engine is built for; no GPU is needed to build it",
    )
    max_batch: Positive = Field(8, description="most tiles per call")

    @property
    def precisions(self) -> list[Precision]:
        """Those that may predict; of ``auto`` all, and in no order."""
        if isinstance(self.precision, list):
            return self.precision
        return list(get_args(Precision)) if self.precision == "auto" else [self.precision]

    @property
    def folder(self) -> str:
        """A name for the folder of the engine."""
        asked = self.precision if isinstance(self.precision, list) else [self.precision]
        return "-".join([self.backend, *asked])


class Quantize(_Model):
    """Calibration of int8: the range of values that each layer gives on some tiles of the training volumes."""

    tiles: Positive = Field(16, description="tiles to calibrate on")


class Certify(_Model):
    """The gate: an engine predicts only if it agrees with PyTorch in fp32."""

    iou_bound: PositiveFloat = Field(0.002, description="largest fall of any class's IoU against PyTorch fp32")
    tiles: Positive = Field(16, description="tiles to compare")


class Predict(_Model):
    """Prediction of whole volumes, in blocks."""

    tile: Tile | None = Field(
        None,
        description="input of the network in prediction: (y, x) voxels, or (z, y, x) of a 3D network; chosen for each "
        "volume where left out",
    )
    workers: Positive | None = Field(
        None, description="worker processes; one per core where left out. The result does not depend on it"
    )
    batch: Positive | None = Field(
        None, description="tiles per call; chosen for each volume where left out, `engine.max_batch` at most"
    )
    memory_mb: Positive = Field(
        4000, description="memory of a worker process in MB; layouts that need more are not chosen"
    )
    block_seconds: PositiveFloat = Field(
        60.0, description="what a block may take at most, by prediction; what is lost when a worker is killed"
    )
    on_change: Literal["refuse", "restart"] = Field(
        "refuse",
        description="what to do with an unfinished or finished prediction that was made with other inputs or settings",
    )
    grace_seconds: NotNegative = Field(
        25.0,
        description="when asked to end (SIGTERM, SIGINT), how long to go on with blocks that can be done by then; "
        "below the time after which the batch system kills (SLURM: KillWait, 30 s)",
    )
    patience_seconds: PositiveFloat | None = Field(
        None,
        description="a worker process that takes longer for a block is killed and replaced; 20 times the median of the "
        "blocks so far, but 60 at least, where left out",
    )


class Evaluate(_Model):
    """Scores."""

    baseline_sigma: PositiveFloat = Field(
        2.0, description="sigma in voxels of the Gaussian blur before Otsu's threshold, the baseline"
    )
    objects: Name | None = Field(
        None,
        description="the class whose connected components are the segments of V_rand, V_info and their like; the last "
        "of `classes` where left out",
    )
    largest_section: Annotated[int, Field(ge=0)] = Field(
        2**24,
        description="voxels of the largest section that is scored as a whole: thinned scores and the warping error "
        "need that; larger sections are cut, and go without them",
    )


class Settings(_Model):
    """All settings of a run."""

    run: Name = Field(description="results lie in results/<run>")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(1, description="the one seed of samples, weights and order")
    data_dir: str | None = Field(None, description="replaces `{data_dir}` in addresses")
    classes: dict[Name, list[Value]] = Field(
        min_length=2,
        description="the classes in the order of the channels, each with its label values; [] where no volume needs "
        "them, since all labels are instances or have `label_values`",
    )
    ignore: list[Value] = Field([], description="label values of voxels that are neither learnt nor scored")
    volumes: dict[Name, Volume] = Field(min_length=1, description="a name for each volume, and what it is")
    instances: Instances | None = Field(
        None, description="what becomes of instances, for volumes whose `labels_are` is `instances`"
    )
    phantom: Phantom | None = Field(None, description="the synthetic volume, for volumes whose image is `phantom`")
    model: str | None = Field(None, description="a checkpoint.safetensors to use as it is: nothing is trained")
    network: Network = Network()
    augment: Augment = Augment()
    train: Train = Train()
    quantize: Quantize = Quantize()
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


def schema() -> dict[str, Any]:
    """The JSON schema of a configuration file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Settings.model_json_schema()}
