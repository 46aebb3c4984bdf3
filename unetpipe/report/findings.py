"""What the numbers of a run say, and what they do not, in sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unetpipe.report.collect import ROLES, Run
from unetpipe.report.text import listed, short

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
    scored volume, why a score is missing.
    """

    role: str | None
    sentence: str
    engine: str
    caveats: Sequence[str]
    reasons: Mapping[str, Sequence[str]]


def find(run: Run) -> Verdict:
    """The verdict of a run."""
    roles = [score["role"] for score in run.scores.values()]
    return Verdict(
        role=min(roles, key=ROLES.index) if roles else None,
        sentence=_against_baseline(run),
        engine=_engine(run),
        caveats=_caveats(run),
        reasons={name: missing_scores(score) for name, score in run.scores.items()},
    )


def missing_scores(score: Mapping[str, Any]) -> list[str]:
    """Why scores of a volume, or of the baseline on it, are None; one sentence for each reason."""
    if score["mean_iou"] is None:
        return ["– No voxel is scored: all labels are to be ignored."]
    reasons = []
    for name, values in score["classes"].items():
        if values["iou"] is None:
            reasons.append(f"– {name}: neither in the truth nor in the prediction, and not in the means.")
        elif values["precision"] is None:
            reasons.append(f"– {name}: never predicted, so there is no precision.")
        elif values["recall"] is None:
            reasons.append(f"– {name}: not in the truth, so there is no recall.")
        if score["baseline"]["classes"][name]["iou"] is None and values["iou"] is not None:
            reasons.append(f"– {name}: not in the truth, nor predicted by the baseline.")
    return reasons


def _against_baseline(run: Run) -> str:
    scored = {name: score for name, score in run.scores.items() if score["mean_iou"] is not None}
    if not scored:
        return "Nothing was scored: no predicted volume has labels."
    behind = [name for name, score in scored.items() if score["mean_iou"] <= score["baseline"]["mean_iou"]]
    baseline = next(iter(scored.values()))["baseline"]["name"]
    if behind:
        return f"The network does not beat the baseline ({baseline}) on {listed(behind)}."
    each = "on each scored volume" if len(scored) > 1 else f"on {next(iter(scored))}"
    return f"The network beats the baseline ({baseline}) {each}."


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
    )


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
        caveats.append("No score: how good the segmentation is has to be judged from the pictures below.")
    elif unlabelled := [name for name in run.allocated if name not in run.scores]:
        caveats.append(f"Without labels, and so without a score: {listed(unlabelled)}.")
    if run.samples is None:
        caveats.append(
            "The network was not trained in this run: whether it has seen the volumes that are scored is not known."
        )
    if not validate and run.samples is not None:
        caveats.append(
            "There is no validation volume: training was not ended early, and the weights are those of its last step."
        )
    if run.certificate["tiles_from"] == "train":
        caveats.append("The engine was compared with PyTorch on data that the network was trained on.")
    if run.certificate["tiles_from"] == "unlabelled":
        caveats.append(
            "The engine was compared with PyTorch without labels: that both agree was shown, not how good they are."
        )
    missing = [
        f"{len(volume.missing_sections)} of {volume.shape[0]} sections of {name}"
        for name, volume in run.volumes.items()
        if name in run.allocated and volume.missing_sections
    ]
    if missing:
        caveats.append(
            f"Missing in the data, so that nothing was seen there: {listed(missing)}."
            + (" Where there are labels, they are scored like others." if run.scores else "")
        )
    return caveats
