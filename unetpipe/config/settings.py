"""All settings of a run."""

from typing import Annotated, Any

from pydantic import Field

from unetpipe.config.engine import Certify, Engine, Quantize
from unetpipe.config.learning import Augment, Train
from unetpipe.config.network import Network
from unetpipe.config.predicting import Evaluate, Predict, Quality, Segment
from unetpipe.config.types import Model, Name, Positive, Value
from unetpipe.config.volumes import Instances, Phantom, Volume


class Settings(Model):
    """All settings of a run."""

    run: Name = Field(description="results lie in `results/<run>`")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(1, description="the one seed of samples, weights and order")
    data_dir: str | None = Field(None, description="replaces `{data_dir}` in addresses")
    cores: Positive | None = Field(
        None,
        description="CPU cores that one job takes at most, so that several jobs run at a time; where left out, all "
        "that snakemake was given, or 8 on a node of a cluster. The result does not depend on it",
    )
    gpus: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="GPUs that a job which runs the engine asks a batch system for (Snakemake's resource `gpu`). Where "
        "left out, 1 if `engine.backend` is TensorRT or TensorRT-RTX, and 0 otherwise, also with `auto`: what the "
        "nodes of a cluster have does not show where snakemake is called",
    )
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
    quality: Quality = Quality()
    segment: Segment | None = Field(
        None, description="objects with numbers, from each prediction; none where left out, `{}` for all defaults"
    )

    def named(self, *roles: str) -> list[str]:
        """Names of the volumes with one of ``roles``, in the order of the settings."""
        return [name for name, volume in self.volumes.items() if volume.role in roles]

    @property
    def gpus_of_a_job(self) -> int:
        """GPUs that a job which runs the engine asks for."""
        return self.gpus if self.gpus is not None else int(self.engine.backend in ("tensorrt", "tensorrt_rtx"))

    @property
    def segmented(self) -> str:
        """The class whose components are the numbered objects."""
        own = None if self.segment is None else self.segment.objects
        return own or self.evaluate.objects or list(self.classes)[-1]

    def label_values(self, volume: str) -> dict[str, list[int]]:
        """The label values of each class in ``volume``, in the order of the channels."""
        own = self.volumes[volume].label_values
        return {name: list(values if own is None else own.get(name, [])) for name, values in self.classes.items()}


Problem = tuple[str, str]
"""The path of a setting, and what is wrong with it."""


def schema() -> dict[str, Any]:
    """The JSON schema of a configuration file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Settings.model_json_schema()}
