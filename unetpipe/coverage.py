"""Which shards of each level there are, where only a part of a volume was predicted: those that cover some of it."""

import itertools
from collections.abc import Iterator, Sequence

from unetpipe.grid import Plan, Shape, triple
from unetpipe.levels import Level
from unetpipe.selection import Selection


class Coverage:
    """Of the blocks of ``plan`` that ``selection`` wants. A byte for each block of the plan is held."""

    def __init__(self, plan: Plan, selection: Selection) -> None:
        self._plan = plan
        self._wanted = selection.wanted(plan).reshape(plan.block_counts)

    def shards(self, level: Level) -> Iterator[Shape]:
        """The indices of the shards that there are, x fastest; lazily, since there can be millions."""
        for index in itertools.product(*map(range, level.counts)):
            if self.has(level, index):
                yield triple(index)

    def has(self, level: Level, index: Sequence[int]) -> bool:
        """Whether there is a shard ``index`` (z, y, x)."""
        if not all(0 <= i < n for i, n in zip(index, level.counts, strict=True)):
            return False
        blocks = []
        for i, shard, scale, size, block in zip(
            index, level.shard, level.scale, self._plan.shape, self._plan.block, strict=True
        ):
            start, stop = i * shard * scale, min((i + 1) * shard * scale, size)
            blocks.append(slice(start // block, -(-stop // block)))
        return bool(self._wanted[tuple(blocks)].any())

    def is_made_of(self, name: str, levels: Sequence[Level], *, labels: bool) -> bool:
        """Whether an object of a store is a shard of a coarser level, or of its label map if it has one."""
        numbers = name.split("/")[-3:]
        if len(numbers) != 3 or not all(word.isascii() and word.isdecimal() for word in numbers):
            return False
        index = [int(word) for word in numbers]
        arrays = [*((level, False) for level in levels[1:]), *((level, True) for level in levels if labels)]
        return any(name == level.shard_name(index, labels=which) and self.has(level, index) for level, which in arrays)
