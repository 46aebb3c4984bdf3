"""From plain data to settings: a mistake is found before any job starts, and all mistakes are reported together."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from unetpipe.combinations import combinations
from unetpipe.config import Problem, Settings
from unetpipe.errors import SettingsError, UserError

M = TypeVar("M", bound=BaseModel)


def parse(data: Mapping[str, Any], source: str, further: Callable[[Settings], list[Problem]] | None = None) -> Settings:
    """Settings from plain data, as YAML gives them.

    Parameters
    ----------
    data:
        The configuration. Nothing in it is changed.
    source:
        Where it came from, for messages.
    further:
        More checks, such as those that open files; their problems join the others.

    Raises
    ------
    SettingsError
        With all problems: unknown keys, wrong types, impossible combinations.
    """
    data, problems = _fill_data_dir(data)
    settings, found = as_model(Settings, data)
    problems += found
    rest = data
    while settings is None and found and all(path for path, _ in found):
        # What is wrong is known; what can be said of the rest is still worth saying. Where something is missing, its
        # parent goes.
        less = _without(rest, [path if _get(rest, path) is not None else path.rpartition(".")[0] for path, _ in found])
        if less == rest:
            break
        rest = less
        settings, found = as_model(Settings, rest)
    if settings is not None:
        more = combinations(settings) + (further(settings) if further else [])
        problems += [(path, text) for path, text in more if not any(_inside(path, bad) for bad, _ in problems)]
    if problems or settings is None:
        raise SettingsError(source, problems)
    return settings


def read(path: Path, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The content of a configuration file, with top-level keys replaced by ``overrides``.

    Raises
    ------
    UserError
        If it cannot be read, is not YAML of keys and values, or has a key twice in one place.
    """
    asked = f"the configuration {path} was to be read"
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Once)  # noqa: S506 – a SafeLoader
    except FileNotFoundError:
        raise UserError(asked, "there is no such file", "give the path of a file such as config/config.yaml") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(asked, str(error), "mend the file: it must be YAML, with each key once in its place") from None
    if not isinstance(data, dict):
        found = "it is empty" if data is None else f"a {type(data).__name__}, not keys and values"
        raise UserError(asked, found, "start from config/config.yaml")
    return {**data, **(overrides or {})}


class _Once(yaml.SafeLoader):
    """YAML in which no key stands twice: of two volumes with one name, the first would go unseen."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for i, (key, (where, _)) in enumerate(zip(keys, node.value, strict=True)):
            if key in keys[:i]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} stands twice in one place", where.start_mark
                )
        return super().construct_mapping(node, deep=deep)


def as_model(model: type[M], data: Mapping[str, Any]) -> tuple[M | None, list[Problem]]:
    """An instance of ``model``, or None and what is wrong with ``data``."""
    try:
        # Strict JSON: lists may stand for tuples, but text never for a number.
        return model.model_validate_json(json.dumps(data)), []
    except ValidationError as error:
        # A union reports one error per member: the first one per path says enough.
        problems: dict[str, str] = {}
        for item in error.errors():
            path = _path(data, item["loc"], missing=item["type"] == "missing")
            problems.setdefault(path, _sentence(dict(item)))
        return None, list(problems.items())
    except (TypeError, ValueError) as error:
        return None, [("", f"not plain YAML data: {error}")]


def _path(data: Any, location: Sequence[str | int], *, missing: bool) -> str:
    """The dotted path of a setting, without pydantic's marks for the members of a union.

    ``missing``: whether the setting, the last part of ``location``, is not there.
    """
    parts: list[str] = []
    here = data
    for i, part in enumerate(location):
        if part == "[key]":
            continue
        if isinstance(here, dict) and isinstance(part, str) and (part in here or (missing and i == len(location) - 1)):
            here = here.get(part)
        elif isinstance(here, list) and isinstance(part, int):
            here = here[part] if part < len(here) else None
        else:
            continue
        parts.append(str(part))
    return ".".join(parts)


def _sentence(item: Mapping[str, Any]) -> str:
    if item["type"] == "missing":
        return "is required and missing"
    if item["type"] == "extra_forbidden":
        return "is no setting: is it misspelt, or in the wrong place?"
    found = item["input"]
    text = f"{item['msg'][0].lower()}{item['msg'][1:]}; found {found!r}"
    if isinstance(found, str) and _is_number(found):
        text += " (text: YAML takes 1e-3 for text and 1.0e-3 for a number)"
    return text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _get(data: Any, path: str) -> Any:
    for step in path.split("."):
        data = data.get(step) if isinstance(data, dict) else None
    return data


def _inside(path: str, other: str) -> bool:
    return path == other or path.startswith(other + ".")


def _without(data: Mapping[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """A copy without the settings at ``paths``."""
    rest: dict[str, Any] = copy.deepcopy(dict(data))
    for path in paths:
        parents, _, last = path.rpartition(".")
        here = _get(rest, parents) if parents else rest
        if isinstance(here, dict):
            here.pop(last, None)
    return rest


def _fill_data_dir(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Replace ``{data_dir}`` in every address."""
    filled: dict[str, Any] = copy.deepcopy(dict(data))
    folder = filled.get("data_dir")
    problems: list[Problem] = []

    def fill(holder: dict[str, Any], key: str, path: str) -> None:
        text = holder.get(key)
        if not isinstance(text, str) or "{data_dir}" not in text:
            return
        if isinstance(folder, str) and folder:
            holder[key] = text.replace("{data_dir}", folder.rstrip("/") or "/")
        else:
            problems.append((path, f"{text!r} needs data_dir, which is not set: add --config data_dir=DIR"))

    fill(filled, "model", "model")
    for section, key in (("train", "init"), ("predict", "store")):
        if isinstance(holder := filled.get(section), dict):
            fill(holder, key, f"{section}.{key}")
    volumes = filled.get("volumes")
    for name, volume in volumes.items() if isinstance(volumes, dict) else ():
        if isinstance(volume, dict):
            fill(volume, "image", f"volumes.{name}.image")
            fill(volume, "labels", f"volumes.{name}.labels")
            fill(volume, "mask", f"volumes.{name}.mask")
    return filled, problems
