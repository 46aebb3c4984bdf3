"""Settings of an ablation: what is compared, and on what."""

from typing import Annotated, Any

from pydantic import Field

from unetpipe.config.types import Model, Name

Part = Annotated[
    dict[str, Any],
    Field(description="settings as in the sections above; those of a run are common, dataset and variant joined"),
]


class Dataset(Model):
    """Data that all variants learn from and are scored on."""

    title: str = Field(description="in a few words, for the report")
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(
        min_length=1, description="each of them is a run of every variant: samples, first weights and order"
    )
    settings: Part


class Variant(Model):
    """A network, or a way to train it."""

    title: str = Field(description="in a few words, for the report")
    settings: Part = Field({}, description="what is changed; nothing for the first variant")


class Ablation(Model):
    """Settings of `snakemake --snakefile workflow/ablation.smk`: every variant, on every dataset, with each seed."""

    ablation: Name = Field(description="the report is `results/<ablation>/report.html`")
    data_dir: str | None = Field(
        None, description="replaces `{data_dir}` in addresses; without it, datasets that need it are left out"
    )
    common: Part
    datasets: dict[Name, Dataset] = Field(min_length=1, description="a name for each dataset")
    variants: dict[Name, Variant] = Field(
        min_length=2, description="a name for each variant; the others are compared with the first"
    )
