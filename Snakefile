"""From a few annotated EM sections to the segmentation of whole volumes, and a report.

Settings: config/config.yaml (the demo) or a file given with --configfile; config/README.md explains each.
"""

from snakemake.utils import min_version

min_version("9.0")


# A file given with --configfile stands alone: Snakemake would merge it with this one, and the demo's volumes would
# appear in every run.
if "run" not in config:

    configfile: f"{workflow.basedir}/config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/command.smk"
include: "workflow/rules/common.smk"
include: "workflow/rules/phantom.smk"
include: "workflow/rules/ingest.smk"
include: "workflow/rules/augment.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/quantize.smk"
include: "workflow/rules/build_engine.smk"
include: "workflow/rules/certify.smk"
include: "workflow/rules/allocate.smk"
include: "workflow/rules/predict.smk"
include: "workflow/rules/pyramid.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/quality.smk"
include: "workflow/rules/segment.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        f"{RESULTS}/report.html",
        f"{RESULTS}/report.json",
        f"{RESULTS}/figures",
        # Snakemake does not miss a file that only others are made from: named here, what is deleted is made again.
        intermediate_files(),
    localrule: True
