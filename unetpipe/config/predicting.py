"""Prediction and scores."""

from typing import Annotated, Literal, get_args

from pydantic import Discriminator, Field, Tag

from unetpipe.config.spreading import Cluster, Slurm, Spread
from unetpipe.config.types import Axis, Fraction, Mirror, Model, Name, NotNegative, Positive, PositiveFloat, Tile


class Predict(Model):
    """Prediction of whole volumes, in blocks."""

    tile: Tile | None = Field(
        None,
        description="input of the network in prediction: (y, x) voxels, or (z, y, x) of a 3D network; chosen for each "
        "volume where left out",
    )
    workers: Positive | None = Field(
        None,
        description="worker processes of a job. Where left out, one per core, or one per GPU if the engine uses GPUs, "
        "of which each has one process at most. The result does not depend on it",
    )
    jobs: Positive = Field(
        1,
        description="jobs that predict a volume at the same time, for a cluster: each on a node of its own, with "
        "`workers` processes and an equal part of the blocks. May be changed at any time: no block is computed again",
    )
    cluster: Cluster = Field(
        "local",
        description="where worker processes are. local: on the machine of the job. slurm: each is a SLURM job, which "
        "the job of the rule submits (`predict.slurm`). tcp://HOST:PORT: they are those of a Dask scheduler that runs",
    )
    slurm: Slurm | None = Field(None, description="worker jobs, with `cluster: slurm`")
    batch: Positive | None = Field(
        None, description="tiles per call; chosen for each volume where left out, `engine.max_batch` at most"
    )
    mirror: Mirror = Field(
        "none",
        description="axes along which each tile is mirrored as well, such as `[y, x]`, and z with a 3D network: a "
        "probability is the mean of the network's answers to all mirror images, and each axis doubles what that costs",
    )
    labels: bool = Field(
        False,
        description="whether to make a label map beside the probabilities, `labels/classes` in the same OME-Zarr: the "
        "index of the most likely class of each voxel, 255 where nothing was predicted. May be changed at any time",
    )
    store: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="where predictions go, with their records of progress: a folder, or `s3://BUCKET/PREFIX`, to which "
        "the names of run and volume are added; `results/<run>/predictions` where left out",
    )
    absent: Literal["skip", "compute"] = Field(
        "skip",
        description="where an image that is used in place has no chunk. skip: nothing is there, and the probability of "
        "every class is 0; blocks of nothing else take no time. compute: what the network answers to the fill value",
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

    @property
    def spread(self) -> Spread:
        """Over how many machines a prediction is spread, as far as settings tell."""
        if self.cluster == "slurm":
            worker = self.slurm or Slurm()
            return Spread(worker.workers, 1, worker.cores)
        return Spread(self.jobs, self.workers, None)

    @property
    def mirror_axes(self) -> list[Axis]:
        """The axes of `mirror`, z before y before x."""
        return [] if self.mirror == "none" else [axis for axis in get_args(Axis) if axis in self.mirror]


class Evaluate(Model):
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
    compared_with: Literal["phc-u373", "dic-hela"] | None = Field(
        None,
        description="the series of the Cell Tracking Challenge that the volumes are: the report puts what others "
        "reached on it (Ronneberger et al. 2015, table 2) beside the SEG of this run",
    )


class Segment(Model):
    """Objects with numbers, from the probabilities of each predicted volume. Where left out, none are made."""

    objects: Name | None = Field(
        None, description="the class whose connected components are the objects; `evaluate.objects` where left out"
    )
    threshold: Annotated[
        Annotated[Fraction, Tag("number")] | Annotated[Literal["validation"], Tag("word")],
        # So that a mistake is told of the one that was meant.
        Discriminator(lambda value: "word" if isinstance(value, str) else "number"),
    ] = Field(
        0.5,
        description="a voxel is in an object where its probability is above it; `validation` takes the threshold of "
        "the scores whose segments were best on the volumes to validate",
    )
    method: Literal["components", "components_2d", "watershed"] = Field(
        "components",
        description="`components`: voxels that share a face, 6-connected in 3D; `components_2d`: 4-connected within a "
        "section, each section by itself; `watershed`: components above `seeds`, grown in 3D down to `threshold`, "
        "through voxels of larger probability first",
    )
    seeds: Fraction = Field(0.9, description="of `watershed`: a voxel is in a seed where its probability is above it")
    min_voxels: Positive = Field(1, description="objects with fewer voxels become background")


class Quality(Model):
    """Quality control without labels, of each predicted volume."""

    squares: Positive = Field(
        16,
        description="squares of about 256 x 256 voxels that are looked at in each section, at the same places in all; "
        "all of a section where it has no more. What is read, and how long it takes, grows with them and with the "
        "number of sections alone",
    )
    uncertain: Fraction = Field(
        0.8,
        description="a voxel is uncertain where the normalised entropy of its probabilities is above it: from 0, where "
        "one class has all, to 1, where all classes are as likely. With two classes, 0.8 is a probability of 0.757",
    )
