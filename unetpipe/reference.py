"""The files that are generated from the settings: their JSON schema, and config/README.md.

``python -m unetpipe.reference`` writes them, ``--check`` tells whether they are up to date.
"""

import difflib
import inspect
import json
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from unetpipe.config import Ablation, Settings, schema

SCHEMA = Path("workflow/schemas/config.schema.json")
README = Path("config/README.md")

_INTRODUCTION = """\
# Settings

A configuration is a YAML file. `config.yaml` is the demo; `snakemake --configfile FILE` takes another, which stands
alone. `unetpipe check FILE` finds all mistakes before anything runs; `snakemake` does the same.

What follows from other settings (the border that the network loses, where tiles begin, memory) is computed and has no
setting. A setting that is left out has its default; one that is not listed here is an error.

Addresses of images, labels, masks and checkpoints, and `predict.store`, may hold `{data_dir}`, which is replaced by
the setting `data_dir`, as in `snakemake --configfile config/isbi2012.yaml --config data_dir=DIR`. They count from the
working directory: where `snakemake` is called, or its `--directory`.

Buckets (`s3://BUCKET/PREFIX`) are found as Amazon's own tools find them: by the environment variables
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_PROFILE, AWS_REGION and AWS_ENDPOINT_URL, the files in
`~/.aws`, or the role of a machine. With AWS_SKIP_SIGNATURE=true requests are not signed: so public buckets are read
without credentials, and nothing is written into any.

This page is generated from `unetpipe/config/` by `make schema`.
"""


_ABLATION = """
# Settings of an ablation

`snakemake --snakefile workflow/ablation.smk --configfile FILE` runs each variant on each dataset with each seed, and
puts them beside each other in `results/<ablation>/report.html`. `ablation.yaml` is the one that `make ablation` takes.
A run lies in `results/<ablation>-<dataset>-<variant>-<seed>`. More variants or seeds, or other ones, run what is new
alone.
"""


def files() -> dict[Path, str]:
    """The generated files and what they should hold."""
    return {
        SCHEMA: json.dumps(schema(), indent=2) + "\n",
        README: _INTRODUCTION
        + "".join(_section(model, prefix) for prefix, model in _models(Settings, ""))
        + _ABLATION
        + "".join(_section(model, prefix) for prefix, model in _models(Ablation, "")),
    }


def _models(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, type[BaseModel]]]:
    yield prefix, model
    for name, field in model.model_fields.items():
        for inner in _inner_models(field.annotation):
            middle = "<name>." if typing.get_origin(field.annotation) is dict else ""
            yield from _models(inner, f"{prefix}{name}.{middle}")


def _inner_models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for member in typing.get_args(annotation):
        yield from _inner_models(member)


def _section(model: type[BaseModel], prefix: str) -> str:
    title = f"`{prefix.rstrip('.')}`" if prefix else "At the top"
    told = inspect.cleandoc(model.__doc__ or "")
    lines = [f"\n## {title}\n\n{told}\n\n| setting | type | default | |\n|---|---|---|---|\n"]
    for name, field in model.model_fields.items():
        description = "see below" if field.description is None else " ".join(field.description.split())
        cells = (f"`{name}`", _type(field.annotation), _default(field), description)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(lines)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.default, BaseModel):
        return "–"
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    return f"`{json.dumps(value)}`"


def _type(annotation: Any) -> str:
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(members[0])
    if origin is typing.Literal:
        return ", ".join(
            f"`{json.dumps(member)}`" if not isinstance(member, str) else f"`{member}`" for member in members
        )
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type(member) for member in members if member is not type(None))
    if origin is tuple:
        return f"{len(members)} × {_type(members[0])}"
    if origin is list:
        return f"list of {_type(members[0])}"
    if origin is dict:
        return "settings" if members[1] is Any else f"name: {_type(members[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "settings"
    return {int: "integer", float: "number", str: "text", bool: "true, false"}.get(annotation, str(annotation))


def main(arguments: list[str]) -> int:
    """Write the files, or with ``--check`` compare them; status 1 where they differ."""
    status = 0
    for path, wanted in files().items():
        found = path.read_text(encoding="utf-8") if path.exists() else ""
        if found == wanted:
            continue
        if "--check" in arguments:
            lines = difflib.unified_diff(
                found.splitlines(True), wanted.splitlines(True), str(path), "from the settings"
            )
            sys.stdout.writelines(lines)
            sys.stdout.write(f"{path} is out of date: run `make schema`\n")
            status = 1
        else:
            path.write_text(wanted, encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
