"""Which pieces of a store are done: a record beside the store, from which an interrupted run goes on.

The record is a folder, on disk or in a bucket. ``key.json`` holds everything that can change what is written. Each
writer appends lines to a log of its own, so there are no locks; the logs are merged when they are read. A piece is
recorded only after its data is durable, so what the record says is done is done, whatever was killed when.

An entry is a JSON object with the ``name`` of its piece. Of several of one name the one with the highest ``round``
counts (0 where absent); those of one round are of equal bytes, so any of them will do. If it is ``void``, nothing is
recorded of that name: a log only grows, and what was wrong in it can be taken back in no other way.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from unetpipe.errors import UserError
from unetpipe.storage import Entry, folder_at, join, parent

T = TypeVar("T")

_KEY = "key.json"


class Record:
    """The record at ``address``. Make one with :meth:`open`."""

    def __init__(self, address: str | Path) -> None:
        self.place = folder_at(address)

    @classmethod
    def open(
        cls, address: str | Path, key: Mapping[str, Any], on_change: Literal["refuse", "restart"], what: str
    ) -> "Record":
        """The record for ``key``: the one that is there if its key is the same, else a new one.

        Parameters
        ----------
        address:
            Beside the store, never in it.
        key:
            JSON data that holds everything that can change what is written.
        on_change:
            ``restart``: forget a record with another key. ``refuse``: touch nothing.
        what:
            What the record is of, for the message.

        Raises
        ------
        UserError
            If there is a record with another key and ``on_change`` is ``refuse``; it lists what differs.
        """
        plain: dict[str, Any] = json.loads(json.dumps(key))
        record = cls(address)
        old = record.key()
        if old is not None and old != plain:
            if on_change == "refuse":
                raise UserError(
                    f"{what} was to be continued",
                    "what is there was made with other inputs or settings:" + "".join(_differences(old, plain)),
                    "set predict.on_change to `restart` to make it anew, undo the change, or give the run another name",
                )
            old = None
        if old is None:
            record.forget()
            record.place.write(_KEY, (json.dumps(plain, indent=2) + "\n").encode())
        return record

    def key(self) -> dict[str, Any] | None:
        """The key of the record, None if there is no record; UserError if it is damaged."""
        try:
            key = json.loads(self.place.read(_KEY))
        except FileNotFoundError:
            return None
        except ValueError as error:
            key, found = None, f"it is no whole JSON ({error})"
        else:
            found = "it is no key of a record"
        if not isinstance(key, dict):
            raise UserError(
                f"{self.place.where(_KEY)} was to be read",
                found,
                f"put a copy of it back; without one, delete {self.place}, to do anew what it records",
            )
        return key

    def done(self) -> dict[str, dict[str, Any]]:
        """What was recorded of each finished piece, by its name."""
        return self.latest(lambda entry: entry)

    def latest(self, pick: Callable[[dict[str, Any]], T]) -> dict[str, T]:
        """By the name of each finished piece, what ``pick`` takes from the entry that counts.

        Memory grows with the pieces and what is taken of each, not with what was recorded.
        """
        found: dict[str, tuple[int, T]] = {}
        void: dict[str, int] = {}
        for entry in self.entries():
            name, number = entry["name"], entry.get("round", 0)
            if entry.get("void"):
                void[name] = max(number, void.get(name, 0))
            elif name not in found or number >= found[name][0]:
                found[name] = (number, pick(entry))
        return {name: picked for name, (number, picked) in found.items() if number > void.get(name, -1)}

    def entries(self) -> Iterator[dict[str, Any]]:
        """All entries of all logs, one by one. A line that a crash has torn is none."""
        for line in self.place.lines():
            try:
                entry = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError):
                continue
            if isinstance(entry, dict) and isinstance(entry.get("name"), str):
                yield entry

    def logs(self) -> dict[str, Entry]:
        """Size and time of the objects of each log, by name: they change while a writer is at work."""
        return self.place.logs()

    def append(self, writer: str, entry: Mapping[str, Any]) -> None:
        """Record the finished piece ``entry["name"]``; it is durable on return."""
        self.place.append(writer, json.dumps(dict(entry), separators=(",", ":")).encode())

    def forget(self) -> None:
        """Remove the record.

        Its key goes last: logs without one are of nobody knows what. Of a record that lost a part of its logs, what is
        missing is done again.
        """
        for name in self.place.logs():
            self.place.remove(name)
        self.place.clear()


def digest_of_block(data: bytes | memoryview) -> str:
    """Of what was read or written for a block: 128 bits, hexadecimal."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def record_beside(store: str) -> Record:
    """The record of the store at an address."""
    return Record(join(parent(store), "progress"))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[str]:
    lines: list[str] = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += _differences(before, after, f"{path}{name}.")
        elif before != after:
            lines.append(f"\n    {path}{name}: was {_short(before)}, is {_short(after)}")
    return lines


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
