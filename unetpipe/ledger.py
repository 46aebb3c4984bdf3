"""What the record of a prediction says of each block, in arrays: some dozen bytes a block, for there are millions."""

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.grid import Plan, Shape, triple
from unetpipe.progress import Record
from unetpipe.storage import Folder

_NOT, _SENSELESS = -1, -2
"""In place of bytes: not recorded; recorded without a number of bytes."""

_DIGEST = 16
_NO_DIGEST = bytes(_DIGEST)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the record promises of a block; None for what it does not tell. Digests are hexadecimal."""

    round: int
    size: int | None
    written: str | None
    read: str | None


class Ledger:
    """Blocks by their number: the place in the plan, x fastest.

    Attributes
    ----------
    size:
        Bytes of the shard; negative where none are recorded.
    written, read:
        Digests, (blocks, 16) uint8; 0 where none is recorded.
    round:
        Of the entry that counts; -1 where there is none.
    strangers:
        Rounds of entries that name no block of the plan, by name.
    """

    def __init__(self, plan: Plan) -> None:
        self.counts = plan.block_counts
        blocks = math.prod(self.counts)
        self.size = np.full(blocks, _NOT, np.int64)
        self.written, self.read = np.zeros((2, blocks, _DIGEST), np.uint8)
        self.round = np.full(blocks, -1, np.int32)
        self._void = np.full(blocks, -1, np.int32)
        self.strangers: dict[str, int] = {}

    @classmethod
    def of(cls, record: Record, plan: Plan) -> "Ledger":
        """What a record says now."""
        ledger = cls(plan)
        strangers: dict[str, tuple[int, int]] = {}
        for entry in record.entries():
            name, turn = entry["name"], entry.get("round", 0)
            number = ledger.number(name)
            if number is None:
                there, void = strangers.get(name, (-1, -1))
                strangers[name] = (there, max(turn, void)) if entry.get("void") else (max(turn, there), void)
            elif entry.get("void"):
                ledger._void[number] = max(turn, ledger._void[number])
            elif turn >= ledger.round[number]:
                ledger._note(number, turn, entry)
        taken_back = ledger._void >= ledger.round
        ledger.size[taken_back] = _NOT
        ledger.strangers = {name: there for name, (there, void) in strangers.items() if there > void}
        return ledger

    def _note(self, number: int, turn: int, entry: dict[str, Any]) -> None:
        size = entry.get("bytes")
        self.round[number] = turn
        self.size[number] = size if isinstance(size, int) and size >= 0 else _SENSELESS
        self.written[number] = _digest(entry.get("written"))
        self.read[number] = _digest(entry.get("read"))

    def number(self, name: str) -> int | None:
        """Of the block that is written so, as in ``0.12.3``; None if the plan has none."""
        words = name.split(".")
        if len(words) != 3 or not all(word.isascii() and word.isdecimal() for word in words):
            return None
        index = triple([int(word) for word in words])
        if any(i >= n for i, n in zip(index, self.counts, strict=True)) or name != ".".join(map(str, index)):
            return None
        return int(np.ravel_multi_index(index, self.counts))

    def index(self, number: int) -> Shape:
        """The place (z, y, x) of a block, in blocks."""
        return triple([int(i) for i in np.unravel_index(number, self.counts)])

    def name(self, number: int) -> str:
        """Of a block."""
        return ".".join(map(str, self.index(number)))

    @property
    def recorded(self) -> NDArray[np.bool_]:
        """Which blocks have an entry that counts."""
        found: NDArray[np.bool_] = self.size != _NOT
        return found

    @property
    def rounds(self) -> NDArray[np.int32]:
        """What a new entry must have as its round to count."""
        return np.maximum(np.maximum(self.round, self._void + 1), 0).astype(np.int32)

    def get(self, name: str) -> Recorded | None:
        """What the record says of a block, or of a name that no block has; None if it says nothing."""
        number = self.number(name)
        if number is None:
            return Recorded(self.strangers[name], None, None, None) if name in self.strangers else None
        if self.size[number] == _NOT:
            return None
        size = int(self.size[number])
        return Recorded(
            int(self.round[number]), None if size < 0 else size, _told(self.written[number]), _told(self.read[number])
        )

    def digest(self, blocks: NDArray[np.bool_]) -> str:
        """Of what was written for some blocks: 256 bits, hexadecimal.

        The sum of a SHA-256 for each block: that of disjoint sets is the sum of theirs, however they were cut.
        """
        total = 0
        for number in np.flatnonzero(blocks).tolist():
            one = hashlib.sha256(number.to_bytes(8, "big") + self.written[number].tobytes())
            total += int.from_bytes(one.digest(), "big")
        return f"{total % (1 << 256):064x}"

    def names(self) -> Iterator[str]:
        """Of all blocks that are recorded."""
        return (self.name(number) for number in np.flatnonzero(self.recorded).tolist())

    def stored(self, array: Folder) -> NDArray[np.int64]:
        """Bytes of the shard of each block in the folder of an array (c, z, y, x); negative where there is none."""
        found = np.full(len(self.size), _NOT, np.int64)
        for entry in array.entries():
            words = entry.name.split("/")
            if words[:2] == ["c", "0"] and (number := self.number(".".join(words[2:]))) is not None:
                found[number] = entry.size
        return found


def added(digests: Iterable[str]) -> str:
    """The digest of disjoint sets of blocks together, from that of each."""
    return f"{sum(int(digest, 16) for digest in digests) % (1 << 256):064x}"


def _digest(text: object) -> NDArray[np.uint8]:
    try:
        found = bytes.fromhex(text) if isinstance(text, str) else _NO_DIGEST
    except ValueError:
        found = _NO_DIGEST
    return np.frombuffer(found if len(found) == _DIGEST else _NO_DIGEST, np.uint8)


def _told(digest: NDArray[np.uint8]) -> str | None:
    return digest.tobytes().hex() if digest.any() else None
