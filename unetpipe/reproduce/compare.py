"""Two runs by their reports, step by step along the chain, until one differs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unetpipe.reproduce.recorded import Report

_NOT_COMPARED = {"seconds", "version", "versions", "digests"}
"""Keys of scores that tell of the making, and not of the result."""

Voxels = Callable[[str], int | None]
"""For a volume, how many voxels of two predictions differ; None if one is not there."""


@dataclass(frozen=True)
class Step:
    """A step of the chain. ``same``: None where it cannot be told. ``told``: what was compared, in words."""

    name: str
    same: bool | None
    told: str

    def __str__(self) -> str:
        verdict = {True: "same", False: "DIFFERS", None: "not told"}[self.same]
        return f"{verdict:<8}  {self.name}: {self.told}"


@dataclass(frozen=True)
class Comparison:
    """All steps of the chain, in its order."""

    steps: Sequence[Step]

    @property
    def first(self) -> Step | None:
        """The first that differs."""
        return next((step for step in self.steps if step.same is False), None)

    @property
    def same(self) -> bool:
        """Whether none differs, and each can be told or is told by the scores that follow from it."""
        untold = {step.name.partition(" of ")[2] for step in self.steps if step.same is None}
        scored = {step.name.partition(" of ")[2] for step in self.steps if step.name.startswith("scores of ")}
        return self.first is None and untold <= scored

    def __str__(self) -> str:
        lines = list(map(str, self.steps))
        if self.first is not None:
            lines.append(f"differs first: {self.first.name}")
        elif self.same:
            lines.append("the same")
        else:
            lines.append("no step differs, but not all of it could be told")
        return "\n".join(lines)


def compare(was: Report, now: Report, predicted: Voxels, numbered: Voxels) -> Comparison:
    """The run ``now`` beside the one that it repeats.

    Parameters
    ----------
    predicted, numbered:
        Asked where digests differ because the shards were cut otherwise: for the probabilities, and the objects.
    """
    return Comparison(list(_steps(was, now, predicted, numbered)))


def _steps(was: Report, now: Report, predicted: Voxels, numbered: Voxels) -> Iterator[Step]:
    for name, title in (
        ("samples", "samples"),
        ("checkpoint", "checkpoint"),
        ("onnx", "ONNX file"),
        ("engine", "engine"),
    ):
        before, after = getattr(was.digests, name), getattr(now.digests, name)
        if before is not None or after is not None:
            yield _digest(title, before, after)
    for volume, source in was.inputs.items():
        if source.mask is not None:
            yield _digest(f"mask of {volume}", source.mask_digest, now.inputs[volume].mask_digest)
    cut_otherwise = set()
    for volume, prediction in was.digests.predictions.items():
        again = now.digests.predictions.get(volume)
        name = f"prediction of {volume}"
        if again is None:
            yield _digest(name, prediction.digest, None)
            continue
        if prediction.digest == again.digest or _cut(prediction.plan) == _cut(again.plan):
            yield _digest(name, prediction.digest, again.digest)
            continue
        cut_otherwise.add(volume)
        yield _counted(
            name,
            predicted(volume),
            f"blocks of {_size(again.plan['block'])} instead of {_size(prediction.plan['block'])}",
        )
    for volume, digest in was.digests.segments.items():
        name, after = f"objects of {volume}", now.digests.segments.get(volume)
        if volume in cut_otherwise and digest != after:
            yield _counted(name, numbered(volume), "pieces of another size")
        else:
            yield _digest(name, digest, after)
    for volume, scores in was.scores.items():
        differing = list(differences(scores, now.scores.get(volume, {})))
        yield Step(f"scores of {volume}", not differing, _some(differing) or "to the last digit")


def differences(was: Any, now: Any, path: str = "") -> Iterator[str]:
    """What differs in two pieces of JSON data, with its path; keys that tell of the making are passed over."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for key in [*was, *(key for key in now if key not in was)]:
            if key not in _NOT_COMPARED:
                yield from differences(was.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for number, (one, other) in enumerate(zip(was, now, strict=True)):
            yield from differences(one, other, f"{path}[{number}]")
    elif was != now:
        yield f"{path} was {_told(was)}, is {_told(now)}"


def _told(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _digest(name: str, was: str | None, now: str | None) -> Step:
    told = f"{now[:16]}…" if was == now and now else f"was {(was or 'absent')[:16]}…, is {(now or 'absent')[:16]}…"
    return Step(name, was == now, told)


def _cut(plan: Mapping[str, Any]) -> tuple[Any, ...]:
    """What of a plan decides which voxels share a shard."""
    return plan["block"], plan["chunk"]


def _size(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _counted(name: str, differing: int | None, cut: str) -> Step:
    if differing is None:
        return Step(name, None, f"{cut}, and the voxels of the run that is repeated are not there to be compared")
    return Step(name, not differing, f"{cut}; {f'{differing} voxels differ' if differing else 'all voxels are equal'}")


def _some(lines: Sequence[str], most: int = 4) -> str:
    more = f"; and {len(lines) - most} more" if len(lines) > most else ""
    return "; ".join(lines[:most]) + more
