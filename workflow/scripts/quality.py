from unetpipe.quality.measure import quality
from unetpipe.rule import run

# Worker processes import this file again.
if __name__ == "__main__":
    run(snakemake, quality)
