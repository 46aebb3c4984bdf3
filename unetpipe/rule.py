"""Run a function of the package as the job of a rule: set up the log, bind the rule's names to its arguments, call it.

Every named input, output and parameter of a rule is an argument of the same name; unnamed ones are dependencies alone.
An argument ``cores`` gets the job's threads. A parameter ``version`` is for Snakemake only: it makes a rule run again
when the package changes.
"""

import errno
import inspect
import json
import logging
import signal
import sys
import time
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from unetpipe.errors import StoppedError, UserError

log = logging.getLogger(__name__)

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)

FOR_SNAKEMAKE_ALONE = frozenset({"version"})


def run(job: Any, function: Callable[..., None]) -> None:
    """Call ``function`` for ``job``, the object ``snakemake`` of a script.

    A user's mistake ends the process with status 1 and its message, an interruption with status 130, the end of a
    walltime with 143 (:class:`unetpipe.errors.StoppedError`); none of them shows a traceback. The log file gets what
    the terminal gets.
    """
    _set_up_log(Path(job.log[0]), f"{job.rule} {' '.join(job.wildcards)}".strip())
    begin = time.monotonic()
    try:
        with _ended_in_order():
            function(**bind(job, function))
        log.info("done in %.1f s", time.monotonic() - begin)
    except UserError as error:
        log.error("%s", error)
        sys.exit(1)
    except StoppedError as stopped:
        log.error("%s", stopped)
        sys.exit(stopped.status)
    except KeyboardInterrupt:
        log.error("interrupted; what is finished is kept, and a rerun goes on from there")
        sys.exit(130)
    except OSError as error:
        if error.errno in _NO_ROOM:
            log.error("no room is left on the disk (%s): make room and run again; what is finished is kept", error)
            sys.exit(1)
        if error.errno in _REFUSED:
            log.error("this user may not do that (%s): allow it and run again; what is finished is kept", error)
            sys.exit(1)
        if error.errno == errno.EBUSY:
            log.error("another run is at work there (%s): let one of them end, and run again", error)
            sys.exit(1)
        log.exception("the operating system refused: %s", error)
        sys.exit(2)
    except Exception:
        # The log file must hold it too: on a cluster it is all that there is.
        log.exception("this is a defect of unetpipe, not of your data or settings; please report it with this log")
        sys.exit(2)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM ends the function like Ctrl-C does, unless it answers it by itself."""

    def end(number: int, _frame: object) -> None:
        # Once: what cleans up now must not be broken off.
        signal.signal(number, signal.SIG_IGN)
        raise StoppedError("asked to end (SIGTERM); what is finished is kept, and a rerun goes on from there", 143)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def bind(job: Any, function: Callable[..., None]) -> dict[str, Any]:
    """The arguments of ``function``, from the names of the rule.

    Raises
    ------
    TypeError
        If a name of the rule is no argument, an argument has no name, or two names are the same.
    """
    given: dict[str, Any] = {}
    for names in (job.input, job.output, job.params):
        for name, value in names.items():
            if name in given:
                raise TypeError(f"the rule {job.rule} names {name} twice")
            if name not in FOR_SNAKEMAKE_ALONE:
                given[name] = value
    parameters = inspect.signature(function).parameters
    hints = typing.get_type_hints(function)
    if "cores" in parameters:
        given["cores"] = job.threads
    if unknown := given.keys() - parameters.keys():
        raise TypeError(
            f"the rule {job.rule} names {', '.join(sorted(unknown))}, which {function.__name__} does not take"
        )
    required = {name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty}
    if missing := required - given.keys():
        raise TypeError(
            f"{function.__name__} needs {', '.join(sorted(missing))}, which the rule {job.rule} does not name"
        )
    return {name: _as(hints[name], value) for name, value in given.items()}


def _as(hint: Any, value: Any) -> Any:
    """``value`` of Snakemake as the type that an argument is annotated with."""
    optional = typing.get_origin(hint) in (types.UnionType, typing.Union) and type(None) in typing.get_args(hint)
    if optional:
        # An input that a run does not have is an empty list in Snakemake.
        if value is None or (not isinstance(value, str | Mapping) and hasattr(value, "__len__") and len(value) == 0):
            return None
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        return _as(members[0], value) if len(members) == 1 else value
    if hint is Path:
        return Path(str(value))
    if typing.get_origin(hint) is list and typing.get_args(hint) == (Path,):
        return [Path(value)] if isinstance(value, str) else [Path(str(item)) for item in value]
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return hint.model_validate_json(json.dumps(value))
    return value


def _set_up_log(path: Path, job: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Dask's own lines about connections that close are noise to a user.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(logging.Formatter(f"[{job}] %(message)s"))
    file = logging.FileHandler(path, mode="w", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    # What libraries tell of themselves is for their authors; what they warn of is for the user.
    logging.basicConfig(level=logging.WARNING, handlers=[terminal, file], force=True)
    logging.getLogger("unetpipe").setLevel(logging.INFO)
