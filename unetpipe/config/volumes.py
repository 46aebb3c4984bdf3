"""Volumes: what to read, and what its labels mean."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from unetpipe.config.types import Model, Name, Positive, PositiveFloat, Span, Value

PHANTOM = "phantom"
"""In place of the address of an image or of labels: the synthetic volume that the settings ``phantom`` describe."""

Annotation = Annotated[
    Annotated[Annotated[int, Field(ge=0)], Tag("section")] | Annotated[tuple[Span, Span, Span], Tag("box")],
    Discriminator(lambda value: "box" if isinstance(value, list | tuple) else "section"),
]
"""A whole section, or a box of voxels."""

ObjectId = Annotated[int, Field(ge=-(2**63), lt=2**64)]


class Phantom(Model):
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


class Volume(Model):
    """A volume: what to read, and what it is for."""

    role: Literal["train", "validate", "test", "predict"] = Field(
        description="train: the network learns from it. validate: chooses the best step and gates the engine. test: "
        "gives the figure of the report. predict: is only segmented. All but train are predicted, and scored where "
        "they have labels."
    )
    image: str = Field(
        min_length=1,
        description="a TIFF stack, a folder of TIFF or PNG sections, `FILE.h5:/DATASET` or a .npy file; or what is "
        "used in place, on disk or at `s3://BUCKET/PREFIX`: a Zarr or OME-Zarr, an N5, a precomputed volume of "
        "Neuroglancer. Of these, Snakemake sees the metadata on disk and nothing of a bucket: if voxels change, or "
        "anything in a bucket, delete the volume.json. Axes before (z, y, x) in an OME-Zarr, such as time and channel, "
        "must have one voxel. A pyramid is its full resolution; `FOLDER/1`, `FOLDER/s1` or "
        "`FOLDER/KEY` is a coarser level, for a network that learnt from such voxels. `phantom` for the synthetic "
        "volume. `{data_dir}` is replaced by `data_dir`.",
    )
    labels: str | None = Field(
        None,
        description="likewise; of the same shape as the image. In a folder of the Cell Tracking Challenge, such as "
        "`01_GT/SEG` with files `man_segNNN.tif`, numbers stand for the frames `tNNN.tif` of the image, and frames "
        "without a file are not annotated",
    )
    sections: Span | None = Field(
        None,
        description="[first, end): the sections to use, counted from 0, without `end`; all where left out",
    )
    voxel_size_nm: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = Field(
        None,
        description="edge lengths of a voxel in nm, (z, y, x), where the file does not tell or is wrong. z of a "
        "series of frames is no length: if it is much larger than y and x, coarser levels are no means over time",
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
        "of the image (of one that is used in place: if its voxels change, or anything in a bucket, delete the "
        "allocated.json); of any resolution, so that an axis with half as many voxels has voxels twice as long. It "
        "covers the whole image, also where `sections` uses a part of it",
    )


class Instances(Model):
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
