from unetpipe.pyramid import pyramid
from unetpipe.rule import run

# Worker processes import this file again.
if __name__ == "__main__":
    run(snakemake, pyramid)
