from unetpipe.report.render import report
from unetpipe.rule import run

# Worker processes import this file again.
if __name__ == "__main__":
    run(snakemake, report)
