rule predict:
    """Segment a volume block by block; a rerun computes the blocks that are missing."""
    input:
        allocated=f"{RESULTS}/predictions/{{volume}}/allocated.json",
        certificate=f"{ENGINE}/certificate.json",
    output:
        done=f"{RESULTS}/predictions/{{volume}}/{{job}}.json",
    log:
        f"{RESULTS}/logs/predict/{{volume}}.{{job}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/predict/{{volume}}.{{job}}.tsv"
    wildcard_constraints:
        job=r"job-\d+",
    conda:
        "../envs/unetpipe.yaml"
    threads: CORES
    resources:
        mem_mb=8000,
        runtime=1440,
    params:
        job="{job}",
        workers=SETTINGS.predict.workers,
        version=__version__,
    script:
        "../scripts/predict.py"
