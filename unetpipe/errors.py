"""The mistakes a user can make, each with its repair.

Everything that a user can cause and mend raises a :class:`UserError`; it reaches the terminal as text, without a
traceback. Any other exception is a defect of the package and keeps its traceback.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

_SHOWN = 5
"""Faults of a file that a message names."""


class UserError(Exception):
    """A mistake with its repair.

    Parameters
    ----------
    asked:
        What was to be done, with the file or the setting concerned.
    found:
        What stood in the way, with the values.
    repair:
        What to do about it.
    """

    def __init__(self, asked: str, found: str, repair: str) -> None:
        super().__init__(asked, found, repair)
        self.asked = asked
        self.found = found
        self.repair = repair

    def __str__(self) -> str:
        return f"{self.asked}\n  found: {self.found}\n  to do: {self.repair}"


class StoppedError(Exception):
    """Work was ended from outside before it was done; what is finished is kept.

    Parameters
    ----------
    message:
        For the user.
    status:
        That the process is to end with.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message, status)
        self.status = status

    def __str__(self) -> str:
        return str(self.args[0])


class SettingsError(UserError):
    """All mistakes of a configuration at once, each with the path of its setting."""

    def __init__(self, source: str, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        lines = "".join(f"\n    {path}: {problem}" if path else f"\n    {problem}" for path, problem in problems)
        count = f"{len(problems)} mistake" + ("s" if len(problems) != 1 else "")
        super().__init__(
            f"the settings of {source} cannot be used",
            count + lines,
            "mend these settings; config/README.md explains each",
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self)._rebuild, (self.args, self.problems)

    @classmethod
    def _rebuild(cls, args: tuple[str, str, str], problems: tuple[tuple[str, str], ...]) -> "SettingsError":
        error = cls.__new__(cls)
        UserError.__init__(error, *args)
        error.problems = problems
        return error


def faults(error: "ValidationError") -> str:
    """The first faults of a file of the package's own, in one line."""
    wrong = [
        f"{'.'.join(map(str, fault['loc'])) or 'the whole'}: {fault['msg'].lower()}"
        for fault in error.errors(include_url=False)
    ]
    more = f", and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return "; ".join(wrong[:_SHOWN]) + more
