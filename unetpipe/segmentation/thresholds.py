"""At which probabilities objects begin, and their seeds."""

from pathlib import Path

from unetpipe import config
from unetpipe.errors import UserError
from unetpipe.files import read_json
from unetpipe.metrics.summary import threshold_to_number
from unetpipe.segmentation.fragments import brightest_below


def threshold_of(
    name: str, settings: config.Segment, validation: list[Path], objects: str
) -> tuple[float, list[str] | None]:
    """The threshold, and the volumes that it was chosen on; None where it was given.

    Parameters
    ----------
    name:
        Of the volume, for messages.
    validation:
        Score files of the volumes to validate.
    objects:
        The class that the objects are of.

    Raises
    ------
    UserError
        If it is to be chosen, and no section to validate has a labelled object.
    """
    if settings.threshold != "validation":
        return settings.threshold, None
    scores = {score["volume"]: score for score in map(read_json, validation)}
    chosen = threshold_to_number(scores, objects, sections=settings.method == "components_2d")
    if chosen is None:
        raise UserError(
            f"the objects of {name} were to be numbered, at the threshold chosen on the volumes to validate",
            "none of their sections has a labelled object",
            "set segment.threshold to a number",
        )
    return chosen["threshold"], chosen["volumes"]


def beside_seeds(name: str, settings: config.Segment, threshold: float) -> int | None:
    """The largest byte of a voxel that is in no seed; None without a watershed.

    Raises
    ------
    UserError
        If the threshold of the seeds is below that of the objects.
    """
    if settings.method != "watershed":
        return None
    if settings.seeds < threshold:
        raise UserError(
            f"the objects of {name} were to grow from seeds",
            f"the threshold is {threshold}, and that of the seeds {settings.seeds}: below it",
            "set segment.seeds to more, or segment.threshold to less",
        )
    return brightest_below(settings.seeds)
