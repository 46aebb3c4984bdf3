from unetpipe.deploy.build_engine import build_engine
from unetpipe.rule import run

# Worker processes import this file again.
if __name__ == "__main__":
    run(snakemake, build_engine)
