"""Samples drawn where the loss is high: those that are learnt already come less often.

Batches are read ahead, so the order of a pass must be known before the pass before it has ended. It follows from the
losses as they were when an earlier pass ended, and so from the seed and the settings alone, however reading and
computing interleave::

    pass      0          1          2          3          4
    order     shuffled   shuffled   by losses  by losses  by losses
                    |          |    up to 0    up to 1    up to 2
    losses          '----------|----'          |
                               '---------------'
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from unetpipe.config.learning import passes_before_focus
from unetpipe.data.batches import shuffled

_DRAWN = 3
"""The stream of random numbers for what is drawn; batches have others."""

_NEWEST = 0.5
"""Share of the newest loss in the running mean: a sample comes about once a pass, and the network changes meanwhile."""


class Focus:
    """Which samples a pass takes: a share in proportion to their losses, the others all alike.

    A sample's loss is a running mean of those that it had in its batches. With n samples and a share s, sample i is
    drawn with the probability (1 - s) / n + s l_i / Σ l, n times in a pass, at equal distances along the sum of the
    probabilities (systematic resampling: Kitagawa 1996, doi:10.1080/10618600.1996.10474692): a sample comes as often as
    is expected, rounded up or down, and where all losses are alike each comes once.

    Parameters
    ----------
    count:
        Of samples.
    size:
        Samples in a batch.
    share:
        s, in [0, 1): every sample keeps a chance.
    kept:
        What :attr:`state` was after the steps that are done.
    """

    def __init__(
        self, count: int, size: int, share: float, seed: int, kept: Mapping[str, NDArray[np.float64]] | None = None
    ) -> None:
        self._count, self._size, self._share, self._seed = count, size, share, seed
        # When the first batch of a pass is asked for, the last few before it are not learnt from: they belong to the
        # pass before, or to more than one where these are short.
        self._lag = passes_before_focus(count, size)
        kept = dict(kept or {})
        self._now = kept.pop("now", np.full(count, np.nan))
        self._after = {int(number): losses for number, losses in kept.items()}
        self._drawn: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    @property
    def state(self) -> dict[str, NDArray[np.float64]]:
        """The losses of all samples ``now``, and as they were at the ends of the last passes, by their numbers."""
        return {"now": self._now.copy()} | {str(number): losses for number, losses in self._after.items()}

    def order(self, number: int) -> NDArray[np.int64]:
        """The samples of the pass ``number``, counted from 0, in the order in which they come."""
        if number < self._lag:
            return shuffled(self._seed, number, self._count)
        if self._drawn[0] != number:
            self._drawn = number, self._draw(number, self._after[number - self._lag])
        return self._drawn[1]

    def learn(self, step: int, samples: Sequence[int], losses: Sequence[float]) -> None:
        """Take to mind the losses that the ``samples`` of a step had; of each step once, in order."""
        for sample, loss in zip(samples, losses, strict=True):
            before = self._now[sample]
            self._now[sample] = loss if np.isnan(before) else before + _NEWEST * (loss - before)
        ended = (step + 1) * self._size // self._count
        for number in range(step * self._size // self._count, ended):
            self._after[number] = self._now.copy()
        # The reader may be at work on the pass that begins now, not on one before it.
        self._after = {number: losses for number, losses in self._after.items() if number >= ended - self._lag}

    def _draw(self, number: int, losses: NDArray[np.float64]) -> NDArray[np.int64]:
        # A Dice loss can be a rounding below 0.
        losses = np.maximum(losses, 0)
        total = losses.sum()
        by_loss = losses / total if total > 0 else np.full(self._count, 1 / self._count)
        ends = np.cumsum((1 - self._share) / self._count + self._share * by_loss)
        random = np.random.default_rng([self._seed, _DRAWN, number])
        points = (np.arange(self._count) + random.random()) / self._count * ends[-1]
        return random.permutation(np.minimum(np.searchsorted(ends, points, side="right"), self._count - 1))
