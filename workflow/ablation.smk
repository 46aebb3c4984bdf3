"""Variants of network and training, each a run of the whole workflow, and a report that puts them beside each other.

Settings: config/ablation.yaml or a file given with --configfile; config/README.md explains each.
"""

import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.0")

# The package lies beside this folder; an installed one comes first.
sys.path.append(str(Path(workflow.basedir).parent))

from unetpipe import __version__
from unetpipe.ablation import trials_of
from unetpipe.errors import UserError

if "ablation" not in config:

    configfile: f"{workflow.basedir}/../config/ablation.yaml"


try:
    TRIALS = trials_of(config, ", ".join(map(str, workflow.configfiles)) or "--config")
except UserError as error:
    raise WorkflowError(str(error)) from None

FOLDER = f"results/{TRIALS.ablation.ablation}"


include: "rules/command.smk"


for trial in TRIALS.all:
    module_name = trial.run
    rules_ = f"{trial.run}-"

    module:
        name: module_name
        snakefile:
            "../Snakefile"
        config:
            trial.settings

    use rule * from module_name as rules_*


include: "rules/ablation_report.smk"


rule all:
    default_target: True
    input:
        f"{FOLDER}/report.html",
        f"{FOLDER}/ablation.json",
    localrule: True
