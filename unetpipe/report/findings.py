"""What the numbers of a run say, and what they do not, in sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unetpipe.allocate import read_mirror
from unetpipe.report import inspection
from unetpipe.report.collect import ROLES, Run
from unetpipe.report.text import listed, short
from unetpipe.selection import Selection

_BACKENDS = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorrt": "TensorRT",
    "tensorrt_rtx": "TensorRT-RTX",
}


@dataclass(frozen=True)
class Verdict:
    """The result in words.

    ``role`` is that of the volumes whose score counts most, None without any. ``reasons`` tell, by the name of the
    scored volume, why a score is missing. ``quality``: by the name of the volume, what needed no labels.
    """

    role: str | None
    sentence: str
    engine: str
    quality: Mapping[str, str]
    caveats: Sequence[str]
    reasons: Mapping[str, Sequence[str]]


def find(run: Run) -> Verdict:
    """The verdict of a run."""
    roles = [score["role"] for score in run.scores.values()]
    return Verdict(
        role=min(roles, key=ROLES.index) if roles else None,
        sentence=_against_baselines(run),
        engine=_engine(run),
        quality={name: inspection.sentence(found) for name, found in run.quality.items()},
        caveats=_caveats(run),
        reasons={name: missing_scores(score) for name, score in run.scores.items()},
    )


def missing_scores(score: Mapping[str, Any]) -> list[str]:
    """Why scores of a volume, or of the baselines on it, are None; one sentence for each reason."""
    segments = score["segments"]
    reasons = [] if segments["left_out"] is None else [f"– {segments['left_out']}"]
    if score["mean_iou"] is None:
        return [*reasons, "– No voxel is scored: all labels are to be ignored."]
    for name, values in score["classes"].items():
        if values["iou"] is None:
            reasons.append(f"– {name}: neither in the truth nor in the prediction, and not in the means.")
        elif values["recall"] is None:
            reasons.append(f"– {name}: not in the truth, so there is no recall, average precision or best threshold.")
        elif values["precision"] is None:
            reasons.append(f"– {name}: never predicted, so there is no precision.")
        if score["baseline"]["classes"][name]["iou"] is None and values["iou"] is not None:
            reasons.append(f"– {name}: not in the truth, nor predicted by the baseline.")
    if segments["sections"]["best"]["v_rand"] is None:
        reasons.append(f"– {segments['objects']}: not in the truth, so there are no segments to score.")
    return reasons


def _against_baselines(run: Run) -> str:
    scored = {name: score for name, score in run.scores.items() if score["mean_iou"] is not None}
    if not scored:
        return "Nothing was scored: no predicted volume has labels."
    baseline = next(iter(scored.values()))["baseline"]["name"]
    behind = [
        name
        for name, score in scored.items()
        if score["mean_iou"] <= max(score["baseline"]["mean_iou"], score["one_class"]["mean_iou"])
    ]
    both = f"({baseline}; all voxels in one class)"
    said = (
        f"In mean IoU, the network does not beat both baselines {both} on {listed(behind)}."
        if behind
        else f"In mean IoU, the network beats both baselines {both} on {listed(list(scored))}."
    )
    return " ".join([said, *_against_one_segment(scored)])


def _against_one_segment(scored: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How V_rand after thinning compares with that of a single segment; nothing, where no volume has it."""
    by_threshold: dict[str, dict[str, bool]] = {}
    for name, score in scored.items():
        if score["v_rand"] is not None:
            values = score["segments"]["thinned"]["at_validation"]
            how = "best threshold, chosen with the truth at hand" if values is None else "threshold from validation"
            value = score["v_rand"] if values is None else values["v_rand"]
            by_threshold.setdefault(how, {})[name] = value > score["one_class"]["v_rand"]
    said = []
    for how, ahead in by_threshold.items():
        behind = [name for name, better in ahead.items() if not better]
        verb = "does not beat" if behind else "beats"
        where = listed(behind or list(ahead))
        said.append(f"In V_rand (thinned; {how}), it {verb} a single segment that holds all voxels on {where}.")
    return said


def _engine(run: Run) -> str:
    proof = run.certificate
    backend = _BACKENDS.get(proof["backend"], proof["backend"])
    count = proof["tiles"]["count"]
    tiles = f"{count} tile" + ("s" if count != 1 else "")
    falls = [values["fall"] for values in proof["iou"].values() if values["fall"] is not None]
    return (
        f"Predicted by {backend} in {proof['precision']}, which {proof['verdict']} the comparison with PyTorch in fp32 "
        f"on {tiles}: no class's IoU may fall by more than {proof['bound']:g}; the largest fall is "
        f"{short(max([0.0, *falls]))}, and {short(100 * proof['changed_labels'])} % of the voxels have another class."
        + "".join(f" {_refusal(refused)}" for refused in proof["refused"])
        + "".join(f" Not built in {each['precision']}: {_in_a_line(each['why'])}." for each in proof["skipped"])
        + _mirrored(run)
    )


def _mirrored(run: Run) -> str:
    """What was averaged, and that what was compared was not."""
    axes = {name: read_mirror(description) for name, description in run.allocated.items()}
    return "".join(
        f" Probabilities of {listed([name for name, found in axes.items() if found == along])}, and scores with them, "
        f"are the mean over {2 ** len(along)} mirror images of each tile, along {listed(list(along))}; the engine was "
        "compared on tiles that were not mirrored."
        for along in dict.fromkeys(axes.values())
        if along
    )


def _in_a_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def _refusal(refused: Mapping[str, Any]) -> str:
    """Of a precision that would have been taken before the one that predicted."""
    falls = [values["fall"] for values in refused.get("iou", {}).values() if values["fall"] is not None]
    why = f"the IoU of a class falls by {short(max(falls))}" if falls else refused["why"]
    return f"It did not pass in {refused['precision']}: {why}."


def _caveats(run: Run) -> list[str]:
    caveats = []
    validate = run.with_role("validate")
    if run.scores and not any(score["role"] == "test" for score in run.scores.values()):
        caveats.append(
            "There is no test volume. The weights were chosen on the validation volumes: their scores are higher than "
            "those of new data."
            if validate and run.samples is not None
            else "There is no test volume: that the scored volumes are independent of the training data is not shown."
        )
    if not run.scores:
        caveats.append(
            "No score: how good the segmentation is has to be judged from the pictures below. That the network is sure "
            "does not mean that it is right."
        )
    elif unlabelled := [name for name in run.allocated if name not in run.scores]:
        caveats.append(f"Without labels, and so without a score: {listed(unlabelled)}.")
    if run.samples is None:
        caveats.append(
            "The network was not trained in this run: whether it has seen the volumes that are scored is not known."
            if run.scores
            else "The network was not trained in this run: whether it has learnt from such volumes is not known."
        )
    if not validate and run.samples is not None:
        caveats.append(
            "There is no validation volume: training was not ended early, and the weights are those of its last step."
        )
    unchosen = [
        name
        for name, score in run.scores.items()
        if score["role"] != "validate"
        and score["segments"]["validation"] is None
        and score["segments"]["sections"]["best"]["v_rand"] is not None
    ]
    if unchosen:
        caveats.append(
            f"No threshold was chosen on a validation volume: scores of segments of {listed(unchosen)} are those at "
            "the threshold that is best for each, chosen with the truth at hand."
        )
    if without := [name for name, score in run.scores.items() if score["segments"]["left_out"] is not None]:
        caveats.append(f"Without thinned scores of segments and warping error: {listed(without)}.")
    if run.certificate["tiles_from"] == "train":
        caveats.append("The engine was compared with PyTorch on data that the network was trained on.")
    if run.certificate["tiles_from"] == "unlabelled":
        caveats.append(
            "The engine was compared with PyTorch without labels: that both agree was shown, not how good they are."
        )
    if parts := _parts(run):
        scored = " Voxels outside of them are not scored." if run.scores else ""
        caveats.append(f"Predicted in part, and 0 in all classes elsewhere: {listed(parts)}.{scored}")
    missing = [
        f"{len(volume.missing_sections)} of {volume.shape[0]} sections of {name}"
        for name, volume in run.volumes.items()
        if name in run.allocated and volume.missing_sections
    ]
    if missing:
        caveats.append(
            f"Missing in the data, and filled with the nearest section: {listed(missing)}."
            + (" Where there are labels, they are scored like others." if run.scores else "")
        )
    return caveats


def _parts(run: Run) -> list[str]:
    """Volumes of which only some blocks were to be predicted, and why."""
    parts = []
    for name, plan in run.allocated.items():
        selection = Selection.read(plan)
        if skipped := selection.total - selection.count:
            why = [] if selection.region is None else [f"region {selection.region}"]
            why += [] if selection.mask is None else [f"mask {selection.mask.address}"]
            parts.append(f"{name} ({skipped} of {selection.total} blocks skipped: {', '.join(why)})")
    return parts
