"""Runs that differ in one point: from the settings of an ablation to those of each run."""

import copy
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from unetpipe.check import check
from unetpipe.config import Ablation, Dataset, Network, Problem
from unetpipe.errors import SettingsError
from unetpipe.parse import as_model

_DATA_DIR = "{data_dir}"

_NOT_HERE = {
    "run": "is made of the names of ablation, dataset and variant, and of the seed",
    "seed": "is set by `seeds` of the dataset",
    "data_dir": "is set at the top",
    "model": "would leave nothing to train and to compare",
}

# A variant that is changed is another one; what was predicted with the old one is of no use.
_FIRST_OF_ALL = {"predict": {"on_change": "restart"}}


@dataclass(frozen=True)
class Trial:
    """One variant on one dataset with one seed: a run of its own.

    ``settings``: of the run, as plain data. ``engine``: the folder of its engine. ``scored``: its volumes to test.
    """

    dataset: str
    variant: str
    seed: int
    settings: dict[str, Any]
    network: Network
    engine: str
    scored: list[str]

    @property
    def run(self) -> str:
        """The name of the run."""
        name: str = self.settings["run"]
        return name

    @property
    def results(self) -> str:
        """The folder of the run."""
        return f"results/{self.run}"

    @property
    def facts(self) -> dict[str, Any]:
        """For the report, as plain data."""
        return {
            "run": self.run,
            "dataset": self.dataset,
            "variant": self.variant,
            "seed": self.seed,
            "scored": self.scored,
            "classes": list(self.settings["classes"]),
            "network": self.network.model_dump(mode="json"),
        }


@dataclass(frozen=True)
class Trials:
    """``all`` of them, by dataset, variant and seed. ``left_out``: datasets that need a data_dir."""

    ablation: Ablation
    all: tuple[Trial, ...]
    left_out: tuple[str, ...]

    def tested(self, file: str) -> list[str]:
        """A file of each volume to test of each run, in their order; ``{}`` in ``file`` stands for the volume."""
        return [f"{trial.results}/{file.format(name)}" for trial in self.all for name in trial.scored]


def trials_of(data: Mapping[str, Any], source: str) -> Trials:
    """What is to be run for the ablation that ``data`` describes.

    Settings of a variant replace those of the dataset, and these replace the common ones, key by key to any depth; a
    list is replaced whole.

    Parameters
    ----------
    data:
        The configuration, as YAML gives it.
    source:
        Where it came from, for messages.

    Raises
    ------
    SettingsError
        With all mistakes, also those of the settings of each run and of the files that they name.
    """
    ablation, problems = as_model(Ablation, data)
    if ablation is None:
        raise SettingsError(source, problems)
    problems += _misplaced(ablation)
    left_out = [name for name, dataset in ablation.datasets.items() if _needs_folder(ablation, dataset)]
    trials: list[Trial] = []
    # A mistake in what is common is found in every run, and told once.
    mistakes: dict[Problem, list[str]] = {}
    compared: dict[str, tuple[Any, list[str]]] = {}
    for dataset, on in ablation.datasets.items():
        for variant in ablation.variants if dataset not in left_out else ():
            where = f"variants.{variant} on datasets.{dataset}"
            try:
                settings = check(_merged(ablation, dataset, variant, on.seeds[0]), where)
            except SettingsError as error:
                for problem in error.problems:
                    mistakes.setdefault(problem, []).append(where)
                continue
            scored = settings.named("test")
            if not scored:
                mistakes.setdefault(("volumes", "none has the role test"), []).append(where)
            first = compared.setdefault(dataset, (settings.classes, scored))
            if first != (settings.classes, scored):
                text = "the classes and the volumes to test are not those of the first variant: nothing can be compared"
                mistakes.setdefault(("classes, volumes", text), []).append(where)
            for seed in on.seeds:
                own = _merged(ablation, dataset, variant, seed)
                engine = f"results/{own['run']}/engine/{settings.engine.folder}"
                trials.append(Trial(dataset, variant, seed, own, settings.network, engine, scored))
    for (path, text), places in mistakes.items():
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        problems.append((path, f"{text} (in {places[0]}{more})"))
    twice = [run for run, count in Counter(trial.run for trial in trials).items() if count > 1]
    problems += [("datasets, variants", f"more than one run would be {run}") for run in twice]
    if len(left_out) == len(ablation.datasets):
        problems.append(("datasets", "all of them need data_dir, which is not set: add --config data_dir=DIR"))
    if problems:
        raise SettingsError(source, problems)
    return Trials(ablation, tuple(trials), tuple(left_out))


def _misplaced(ablation: Ablation) -> Iterator[Problem]:
    """Settings that each run has of its own, or that would leave nothing to compare."""
    parts = {"common": ablation.common}
    parts |= {f"datasets.{name}.settings": dataset.settings for name, dataset in ablation.datasets.items()}
    parts |= {f"variants.{name}.settings": variant.settings for name, variant in ablation.variants.items()}
    for path, settings in parts.items():
        for key, why in _NOT_HERE.items():
            if key in settings:
                yield f"{path}.{key}", why


def _needs_folder(ablation: Ablation, dataset: Dataset) -> bool:
    return ablation.data_dir is None and _DATA_DIR in json.dumps(dataset.settings)


def _merged(ablation: Ablation, dataset: str, variant: str, seed: int) -> dict[str, Any]:
    own = {"run": f"{ablation.ablation}-{dataset}-{variant}-{seed}", "seed": seed, "data_dir": ablation.data_dir}
    merged: dict[str, Any] = _FIRST_OF_ALL
    for part in (ablation.common, ablation.datasets[dataset].settings, ablation.variants[variant].settings, own):
        merged = _joined(merged, part)
    return merged


def _joined(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """``first`` with what ``second`` replaces or adds."""
    joined = copy.deepcopy(dict(first))
    for key, value in second.items():
        both = isinstance(value, dict) and isinstance(joined.get(key), dict)
        joined[key] = _joined(joined[key], value) if both else copy.deepcopy(value)
    return joined
