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
    # After the end of a walltime, or of its memory: what is finished stays finished. Only a job on a node of a cluster
    # has such limits; elsewhere it would fail again in the same way. Snakemake on the node must not repeat it as well.
    retries: 2 if workflow.is_main_process and workflow.resource_settings.nodes else 0
    conda:
        "../envs/unetpipe.yaml"
    threads: CORES
    resources:
        mem_mb=lambda wildcards, attempt: attempt
        * (1000 + SETTINGS.predict.memory_mb * (SETTINGS.predict.workers or CORES)),
        runtime=1440,
    params:
        job="{job}",
        workers=SETTINGS.predict.workers,
        grace_seconds=SETTINGS.predict.grace_seconds,
        patience_seconds=SETTINGS.predict.patience_seconds,
        version=__version__,
    script:
        "../scripts/predict.py"
