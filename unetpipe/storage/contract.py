"""What every place for results offers."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Entry:
    """An object: its name below the folder, bytes, and when it was written (seconds since 1970).

    ``mark`` changes whenever the object does: the time in nanoseconds, or the ETag.
    """

    name: str
    size: int
    mark: str
    written: float


class Folder(ABC):
    """Objects below one address, each of which is there whole or not at all. Several threads may use one.

    Names are relative, with slashes. Methods raise OSError: FileNotFoundError where there is no such object,
    PermissionError where it may not be touched, another one where the storage does not answer.

    Attributes
    ----------
    address:
        As a user would give it.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def __str__(self) -> str:
        return self.address

    @abstractmethod
    def below(self, name: str) -> "Folder":
        """The folder ``name`` in this one."""

    @abstractmethod
    def where(self, name: str) -> str:
        """The address of an object, for people."""

    @abstractmethod
    def unwritable(self) -> str | None:
        """Why nothing can be written here and what to do, as far as can be told without trying; None if it can."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of an object."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes of an object; None if there is none."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Put an object in its place in one step; it is durable on return.

        What killed processes have left of attempts to write it is removed. So it must not be written by two at a time,
        unless both write the same: then one of them may fail.
        """

    @abstractmethod
    def append(self, log: str, line: bytes) -> None:
        """Add a line to the log ``log``, durably. A log has one writer, and may be spread over several objects."""

    @abstractmethod
    def lines(self) -> Iterator[bytes]:
        """The lines of all logs in this folder, with those that a crash has torn."""

    @abstractmethod
    def logs(self) -> dict[str, Entry]:
        """The objects that the logs in this folder consist of, by their names."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove an object; nothing happens if there is none."""

    @abstractmethod
    def entries(self, *, deep: bool = True, ordered: bool = True) -> Iterator[Entry]:
        """All objects below, in the order of their names; not those in folders below unless ``deep``.

        Unless ``ordered``, in any order: then memory does not grow with how many there are.
        """

    @abstractmethod
    def clear(self) -> None:
        """Remove all that is below."""

    @abstractmethod
    def kvstore(self) -> dict[str, Any]:
        """For TensorStore: the key-value store of what is below. Holds no credentials."""
