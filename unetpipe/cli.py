"""The command line: unetpipe check | status."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

import unetpipe
from unetpipe.check import check
from unetpipe.config import read
from unetpipe.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives the exit status: 0, or 1 after a user's mistake."""
    parser = argparse.ArgumentParser(prog="unetpipe", description=unetpipe.__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=unetpipe.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    checker = commands.add_parser("check", help="find all mistakes of a configuration before anything runs")
    checker.add_argument("configuration", type=Path, help="a file such as config/config.yaml")
    checker.add_argument(
        "--config", nargs="*", default=[], metavar="KEY=VALUE", help="settings to replace, as snakemake takes them"
    )
    checker.set_defaults(command=_check)

    status = commands.add_parser("status", help="the scores of a run and where its report lies")
    status.add_argument("run", type=Path, help="a folder such as results/demo")
    status.set_defaults(command=_status)

    chosen = parser.parse_args(arguments)
    try:
        chosen.command(chosen)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _check(arguments: argparse.Namespace) -> None:
    data = read(arguments.configuration, _overrides(arguments.config))
    settings = check(data, str(arguments.configuration))
    print(f"{arguments.configuration}: the settings of run {settings.run} can be used")
    for name, volume in settings.volumes.items():
        print(f"  {name}: {volume.role}, {volume.image}")


def _status(arguments: argparse.Namespace) -> None:
    # Not at the top: it draws, and a check should be instant.
    from unetpipe.report.summary import summary

    print(summary(arguments.run))


def _overrides(pairs: Sequence[str]) -> dict[str, Any]:
    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise UserError(f"--config {pair} was given", "no KEY=VALUE", "write it as in --config data_dir=DIR")
        values[key] = yaml.safe_load(value)
        if isinstance(values[key], dict | list):
            raise UserError(
                f"--config {pair} was given",
                "more than one value, which snakemake would read in another way",
                "write it into the configuration file",
            )
    return values
