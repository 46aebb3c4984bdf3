"""The command line: unetpipe check | plan | status | fsck | preview | view | reproduce | package."""

import argparse
import logging
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

import unetpipe
from unetpipe.ablation import trials_of
from unetpipe.check import check
from unetpipe.errors import StoppedError, UserError
from unetpipe.parse import read
from unetpipe.status import status
from unetpipe.viewer.address import PORT


def parser() -> argparse.ArgumentParser:
    """What reads the command line; of what it reads, ``command`` is called, and ``mistake`` is a mistake's status."""
    parser = argparse.ArgumentParser(prog="unetpipe", description=unetpipe.__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=unetpipe.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    checker = commands.add_parser("check", help="find all mistakes of a configuration before anything runs")
    checker.add_argument("configuration", type=Path, help="a file such as config/config.yaml")
    checker.add_argument(
        "--config", nargs="*", default=[], metavar="KEY=VALUE", help="settings to replace, as snakemake takes them"
    )
    checker.set_defaults(command=_check, mistake=1)

    planner = commands.add_parser("plan", help="tell what will be predicted, what it takes and how long, before it is")
    planner.add_argument("configuration", type=Path, help="a file such as config/config.yaml")
    planner.add_argument(
        "--config", nargs="*", default=[], metavar="KEY=VALUE", help="settings to replace, as snakemake takes them"
    )
    planner.add_argument("--cores", type=_positive, default=os.cpu_count(), help="CPU cores of the run (default: all)")
    planner.set_defaults(command=_plan, mistake=1)

    shower = commands.add_parser("status", help="how far a run is, its scores, and where its report lies")
    shower.add_argument("run", type=Path, help="a folder such as results/demo, or the name of a run in results")
    shower.set_defaults(command=_status, mistake=1)

    doctor = commands.add_parser("fsck", help="check the shards of a prediction against its record")
    doctor.add_argument("store", type=Path, help="a folder such as results/demo/predictions/test, or the Zarr in it")
    doctor.add_argument("--repair", action="store_true", help="compute what is damaged again, and nothing else")
    doctor.add_argument("--cores", type=_positive, default=os.cpu_count(), help="CPU cores of a repair (default: all)")
    doctor.set_defaults(command=_fsck, mistake=2)

    previewer = commands.add_parser("preview", help="predict a region with the trained network of a run")
    previewer.add_argument("configuration", type=Path, help="a file such as config/config.yaml")
    previewer.add_argument("volume", help="its name in the configuration")
    previewer.add_argument(
        "--region", required=True, metavar="Z0:Z1,Y0:Y1,X0:X1", help="voxels of the volume, half open"
    )
    previewer.add_argument(
        "--config", nargs="*", default=[], metavar="KEY=VALUE", help="settings to replace, as snakemake takes them"
    )
    previewer.add_argument("--workers", type=_positive, help="processes (default: as in the configuration)")
    previewer.set_defaults(command=_preview, mistake=1)

    viewer = commands.add_parser(
        "view", help="serve the volumes of a run to a browser on this machine, in Neuroglancer"
    )
    viewer.add_argument("run", type=Path, help="a folder such as results/demo, or the name of a run in results")
    viewer.add_argument(
        "--port", type=_port, default=PORT, help=f"to serve on; links in reports lead to {PORT} (the default)"
    )
    viewer.add_argument("--no-open", action="store_true", help="print the links, and open no browser")
    viewer.set_defaults(command=_view, mistake=1)

    repeater = commands.add_parser("reproduce", help="make a run again from its report.json, and compare the two")
    repeater.add_argument("report", type=Path, help="such as results/demo/report.json")
    repeater.add_argument("--folder", type=Path, help="a new one for the run (default: reproduced-RUN)")
    repeater.add_argument(
        "--data",
        type=Path,
        help="from where relative addresses of inputs count (default: where the first run was made)",
    )
    repeater.add_argument("--cores", type=_positive, default=os.cpu_count(), help="CPU cores of the run (default: all)")
    repeater.set_defaults(command=_reproduce, mistake=2)

    packer = commands.add_parser("package", help="put the network of a run into a package for bioimage.io")
    packer.add_argument("run", type=Path, help="a folder such as results/demo, or the name of a run in results")
    packer.add_argument("package", type=Path, help="the file to write, .zip")
    packer.add_argument("--author", action="append", required=True, metavar="NAME", help="may be given several times")
    packer.add_argument("--license", required=True, metavar="SPDX", help="of the package, such as CC-BY-4.0")
    packer.add_argument("--name", help="of the model (default: that of the run, and unetpipe)")
    packer.set_defaults(command=_package, mistake=1)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives the exit status: 0, or 1 after a user's mistake.

    That of ``fsck`` is 1 where damage is left, and that of ``reproduce`` where the runs differ, so there a user's
    mistake gives 2.
    """
    chosen = parser().parse_args(arguments)
    try:
        code: int = chosen.command(chosen)
    except UserError as error:
        print(error, file=sys.stderr)
        return int(chosen.mistake)
    except StoppedError as stopped:
        print(stopped, file=sys.stderr)
        return stopped.status
    except OSError as error:
        print(f"the operating system refused: {error}; what is finished is kept", file=sys.stderr)
        return int(chosen.mistake)
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept", file=sys.stderr)
        return 130
    return code


def _check(arguments: argparse.Namespace) -> int:
    data = read(arguments.configuration, _overrides(arguments.config))
    if "ablation" in data:
        trials = trials_of(data, str(arguments.configuration))
        print(f"{arguments.configuration}: the settings of {len(trials.all)} runs can be used")
        if trials.left_out:
            print(f"  left out, since data_dir is not set: {', '.join(trials.left_out)}")
        return 0
    settings = check(data, str(arguments.configuration))
    print(f"{arguments.configuration}: the settings of run {settings.run} can be used")
    for name, volume in settings.volumes.items():
        print(f"  {name}: {volume.role}, {volume.image}")
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    # Not at the top: it knows engines.
    from unetpipe.outlook import outlook

    data = read(arguments.configuration, _overrides(arguments.config))
    if "ablation" in data:
        raise UserError(
            f"predictions were to be planned by {arguments.configuration}",
            "it is an ablation: many runs",
            "give the configuration of one run; `unetpipe check` tells whether those of an ablation can be used",
        )
    settings = check(data, str(arguments.configuration))
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for line in outlook(settings, arguments.cores):
        print(line, flush=True)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    print(status(arguments.run, time.time()))
    return 0


def _fsck(arguments: argparse.Namespace) -> int:
    # Not at the top: Zarr takes its time, and engines take more.
    from unetpipe.fsck import Store, check

    _log_to_terminal()
    store = Store(arguments.store)
    repair = None
    if arguments.repair:
        from unetpipe.repair import Repair

        # Before the check, which can take hours: it may have to be refused.
        repair = Repair(store, arguments.cores)
    report = check(store)
    print(*report.faults, f"{store.folder}: {report}", sep="\n")
    if repair is not None and report.faults:
        report = repair.mend(report)
        print(*(f"not repaired: {fault}" for fault in report.faults), f"after the repair: {report}", sep="\n")
    return 1 if report.faults else 0


def _preview(arguments: argparse.Namespace) -> int:
    # Not at the top: engines and Dask take their time.
    from unetpipe.preview import parse_region, preview

    region = parse_region(arguments.region)
    settings = check(read(arguments.configuration, _overrides(arguments.config)), str(arguments.configuration))
    command = ["snakemake", "--cores", "all", "--configfile", str(arguments.configuration)]
    command += ["--config", *arguments.config] if arguments.config else []
    _log_to_terminal()
    print(preview(settings, arguments.volume, region, workers=arguments.workers, command=shlex.join(command)))
    return 0


def _view(arguments: argparse.Namespace) -> int:
    # Not at the top: who does not view anything needs no web server.
    from unetpipe.viewer.view import view

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    view(arguments.run, arguments.port, show=not arguments.no_open, say=_say)
    return 0


def _reproduce(arguments: argparse.Namespace) -> int:
    # Not at the top: it knows engines.
    from unetpipe.reproduce.again import reproduce

    found = reproduce(arguments.report, arguments.folder, arguments.data, arguments.cores, _say)
    print(found)
    return 0 if found.same else 1


def _package(arguments: argparse.Namespace) -> int:
    # Not at the top: ONNX takes its time.
    from unetpipe.deploy.package import package

    _log_to_terminal()
    package(arguments.run, arguments.package, authors=arguments.author, license=arguments.license, name=arguments.name)
    return 0


def _say(line: str) -> None:
    # At once, also into a pipe: whoever waits for the address reads it there.
    print(line, flush=True)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: a number up to 65535, 0 for any that is free")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 or more")
    return int(text)


def _log_to_terminal() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("unetpipe").setLevel(logging.INFO)


def _overrides(pairs: Sequence[str]) -> dict[str, Any]:
    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise UserError(f"--config {pair} was given", "no KEY=VALUE", "write it as in --config data_dir=DIR")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"--config {pair} was given", f"no YAML: {error}", "quote what is no plain text") from None
        if isinstance(values[key], dict | list):
            raise UserError(
                f"--config {pair} was given",
                "more than one value, which snakemake would read in another way",
                "write it into the configuration file",
            )
    return values
