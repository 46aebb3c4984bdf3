from unetpipe.report.ablation import ablation_report
from unetpipe.rule import run

# Worker processes import this file again.
if __name__ == "__main__":
    run(snakemake, ablation_report)
