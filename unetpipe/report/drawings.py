"""All figures of a page, which are files as well."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from unetpipe.report import figures, inspection, score_figures
from unetpipe.report.collect import Run
from unetpipe.report.drawing import Drawing
from unetpipe.report.sections import MOST_VOLUMES

OfVolumes = Mapping[str, Mapping[str, Drawing]]


@dataclass(frozen=True)
class Drawings:
    """Figures by their names; those of scores and quality by volume before, of the first volumes alone.

    ``classes`` is None where no voxel was scored.
    """

    training: Mapping[str, Drawing]
    classes: Drawing | None
    scores: OfVolumes
    quality: OfVolumes

    @classmethod
    def of(cls, run: Run, colours: Mapping[str, str]) -> "Drawings":
        """Those of a run; ``colours`` are those of the classes, as CSS writes them."""
        # A checkpoint from elsewhere need not tell how it was trained.
        training = run.model["training"]
        scored = dict(list(run.scores.items())[:MOST_VOLUMES])
        known = {name: score for name, score in scored.items() if score["mean_iou"] is not None}
        return cls(
            training=figures.training(run.history, training["best_step"] if training else None, colours),
            classes=score_figures.by_class(known, colours) if known else None,
            scores={name: score_figures.of(score, colours) for name, score in scored.items()},
            quality={name: inspection.of(found, colours) for name, found in list(run.quality.items())[:MOST_VOLUMES]},
        )

    def files(self) -> Iterator[tuple[str, Drawing]]:
        """Each with a name for its file."""
        yield from ((f"training-{name}", drawing) for name, drawing in self.training.items())
        if self.classes is not None:
            yield "scores-classes", self.classes
        for kind, found in (("scores", self.scores), ("quality", self.quality)):
            for volume, drawings in found.items():
                yield from ((f"{kind}-{volume}-{name}", drawing) for name, drawing in drawings.items())
