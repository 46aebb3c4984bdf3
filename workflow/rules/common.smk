"""Settings, paths and the functions that rules ask for their inputs."""

import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

# The package lies beside the Snakefile; an installed one comes first.
sys.path.append(str(Path(workflow.basedir)))

from unetpipe import __version__
from unetpipe.check import check
from unetpipe.config import PHANTOM
from unetpipe.data.sources import watched
from unetpipe.errors import UserError
from unetpipe.files import read_json
from unetpipe.parse import read
from unetpipe.storage import join

# A module's `prefix` moves what Snakemake sees, but not the stores beside it.
moved = workflow.modifier.path_modifier
if moved.prefix or moved.modifies_prefixes:
    raise WorkflowError(
        "A module of unetpipe takes no `prefix` and no `replace_prefix`: `run` and --directory say where results lie."
    )

try:
    for configfile in workflow.configfiles:
        # Snakemake takes the last of two keys of one name.
        read(Path(configfile))
    SETTINGS = check(config, ", ".join(map(str, workflow.configfiles)) or "--config")
except UserError as error:
    raise WorkflowError(str(error)) from None

# Of a job on a node of a cluster, where no number is given: what nodes have is not known where jobs are submitted.
CORES_OF_A_NODE_JOB = 8

if workflow.remote_exec or workflow.resource_settings.nodes is not None:
    CORES = SETTINGS.cores or CORES_OF_A_NODE_JOB
else:
    # None where Snakemake only looks at the rules.
    CORES = workflow.resource_settings.cores or 1
    if SETTINGS.cores is not None:
        CORES = min(CORES, SETTINGS.cores)
GPUS = SETTINGS.gpus_of_a_job
RESULTS = f"results/{SETTINGS.run}"
ENGINE = f"{RESULTS}/engine/{SETTINGS.engine.folder}"
LOWER_PRECISIONS = [precision for precision in SETTINGS.engine.precisions if precision != "fp32"]
CHECKPOINT = SETTINGS.model or f"{RESULTS}/model/checkpoint.safetensors"
PREDICTED = SETTINGS.named("validate", "test", "predict")
SEGMENTED = PREDICTED if SETTINGS.segment else []
JOBS = [f"job-{number}" for number in range(SETTINGS.predict.jobs)]
SCORED = [name for name in PREDICTED if SETTINGS.volumes[name].labels is not None]


# What one job of predict has to compute with, beside the machine that it runs on.
SPREAD = SETTINGS.predict.spread
CORES_TO_PREDICT = min(CORES, SPREAD.cores or CORES)
DRIVES = SETTINGS.predict.cluster != "local"


wildcard_constraints:
    volume="|".join(SETTINGS.volumes),


def volume_files(*names):
    """volume.json of each volume."""
    return [f"{RESULTS}/volumes/{name}/volume.json" for name in names]


def source_files(wildcards):
    """The files whose change makes a volume be ingested again."""
    volume = SETTINGS.volumes[wildcards.volume]
    files = []
    for address, kind in ((volume.image, "image"), (volume.labels, "labels")):
        if address == PHANTOM:
            files.append(f"{RESULTS}/phantom/{kind}.tif")
        elif address is not None:
            files += watched(address)
    return files


def mask_files(wildcards):
    """The files whose change makes the blocks of a volume be chosen again."""
    mask = SETTINGS.volumes[wildcards.volume].mask
    return [] if mask is None else watched(mask)


def region(wildcards):
    """The part of a volume that is predicted, as plain lists; None for all of it."""
    spans = SETTINGS.volumes[wildcards.volume].region
    return None if spans is None else [list(span) for span in spans]


def annotated(wildcards):
    """The parts of a volume that were labelled, as plain lists; None for all of it."""
    parts = SETTINGS.volumes[wildcards.volume].annotated or []
    return [part if isinstance(part, int) else [list(span) for span in part] for part in parts] or None


def instances(wildcards):
    """The rule for the labels of a volume that are instances; None for label values."""
    return plain(SETTINGS.instances) if SETTINGS.volumes[wildcards.volume].labels_are == "instances" else None


def object_class(wildcards):
    """The class of the objects that the labels of a volume number; None for labels that are classes."""
    return SETTINGS.instances.object if instances(wildcards) else None


def address(wildcards, kind):
    """Where the image or the labels of a volume are read from; None for none."""
    found = getattr(SETTINGS.volumes[wildcards.volume], kind)
    return f"{RESULTS}/phantom/{kind}.tif" if found == PHANTOM else found


def calibration_volumes():
    """The volumes whose tiles int8 is calibrated on: those to train, or to validate, or to predict, else all."""
    roles = ("train", "validate", "predict")
    return next(filter(None, map(SETTINGS.named, roles)), list(SETTINGS.volumes))


def intermediate_files():
    """What the report is made from, but the stores."""
    trained = [] if SETTINGS.model else [CHECKPOINT, f"{RESULTS}/model/history.csv", f"{RESULTS}/samples.json"]
    model = [f"{RESULTS}/model/{name}" for name in ("model.onnx", "model.json")]
    quantized = [f"{RESULTS}/model/quantized", f"{RESULTS}/model/quantized.json"] if LOWER_PRECISIONS else []
    engine = [f"{ENGINE}/{name}" for name in ("candidates.json", "engine", "build.json", "certificate.json")]
    files = ("allocated", *JOBS, "pyramid")
    predicted = [f"{RESULTS}/predictions/{name}/{file}.json" for name in PREDICTED for file in files]
    scores = [f"{RESULTS}/scores/{name}.json" for name in SCORED]
    quality = [f"{RESULTS}/quality/{name}.json" for name in PREDICTED]
    segments = [f"{RESULTS}/segments/{name}/segments.json" for name in SEGMENTED]
    made = [*trained, *model, *quantized, *engine, *predicted, *scores, *quality, *segments]
    return [*volume_files(*SETTINGS.volumes), *made]


def gate_volumes():
    """The volumes whose tiles the engine is certified on: those to validate, else those to train, else all."""
    return SETTINGS.named("validate") or SETTINGS.named("train") or list(SETTINGS.volumes)


def chosen_on(wildcards):
    """Scores of the volumes to validate, for those of all others."""
    if SETTINGS.volumes[wildcards.volume].role == "validate":
        return []
    return [f"{RESULTS}/scores/{name}.json" for name in SETTINGS.named("validate")]


def threshold_from():
    """Scores of the volumes to validate, where the threshold of the objects is chosen on them."""
    if not SETTINGS.segment or SETTINGS.segment.threshold != "validation":
        return []
    return [f"{RESULTS}/scores/{name}.json" for name in SETTINGS.named("validate")]


def segment_store(wildcards):
    """Where the objects of a volume go; None for beside their segments.json."""
    to = store(wildcards)
    return None if to is None else join(to, "segments")


def prediction_tile():
    """What the network reads in prediction, (z, y, x); None where it is chosen for each volume."""
    tile = SETTINGS.predict.tile
    return None if tile is None else list(SETTINGS.network.tile(tile))


def store(wildcards):
    """Where the prediction of a volume goes; None for beside its allocated.json."""
    to = SETTINGS.predict.store
    return None if to is None else join(to, SETTINGS.run, wildcards.volume)


def predicted(volume="{volume}"):
    """What the jobs write that predict a volume."""
    return [f"{RESULTS}/predictions/{volume}/{job}.json" for job in JOBS]


def share(wildcards):
    """Which of the jobs of a volume a job is, and of how many."""
    return [JOBS.index(wildcards.job), len(JOBS)]


def retried(amount):
    """Of a resource, once more of it with each attempt: on a cluster, a job may have failed for want of it."""
    return lambda wildcards, attempt: attempt * amount


def expected(input, key):
    """What the plan of a prediction expects; None where it tells nothing, so that the job can say what is wrong."""
    try:
        return read_json(Path(input.allocated))["predicted"][key]
    except (KeyError, UserError):
        return None


def memory_to_predict(wildcards, input, attempt):
    """Of a job of predict, in MB: half as much again as its processes need by the plan, but within the settings."""
    if DRIVES:
        return attempt * 2000
    most = SETTINGS.predict.memory_mb
    needed = expected(input, "memory_mb_per_worker")
    each = most if needed is None else min(most, 500 + 1.5 * needed)
    return int(attempt * (1000 + each * (SETTINGS.predict.workers or GPUS or CORES)))


def minutes_to_predict(wildcards, input, attempt):
    """Of a job of predict: three times what the plan expects, half an hour at least and a week at most."""
    seconds = expected(input, "seconds")
    if seconds is None or DRIVES:
        return 1440
    return min(7 * 1440, attempt * max(30, int(3 * seconds / 60)))


def plain(model):
    """A part of the settings as plain data, which Snakemake can compare with that of an earlier run."""
    return model.model_dump(mode="json")
