"""What runs the network in prediction, and what it must prove before."""

from typing import Annotated, Literal, get_args

from pydantic import Discriminator, Field, StringConstraints, Tag

from unetpipe.config.types import Model, Positive, PositiveFloat

Precision = Literal["fp32", "bf16", "fp16", "int8"]
Precisions = Annotated[
    Annotated[Literal["auto", Precision], Tag("one")] | Annotated[list[Precision], Field(min_length=1), Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, list) else "one"),
]


class Engine(Model):
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


class Quantize(Model):
    """Calibration of int8: the range of values that each layer gives on some tiles of the training volumes."""

    tiles: Positive = Field(16, description="tiles to calibrate on")


class Certify(Model):
    """The gate: an engine predicts only if it agrees with PyTorch in fp32."""

    iou_bound: PositiveFloat = Field(0.002, description="largest fall of any class's IoU against PyTorch fp32")
    tiles: Positive = Field(16, description="tiles to compare")
