rule pyramid:
    """Make the coarser levels of a prediction, and its label map; a rerun makes the shards that are missing."""
    input:
        allocated=f"{RESULTS}/predictions/{{volume}}/allocated.json",
        predicted=predicted(),
    output:
        pyramid=f"{RESULTS}/predictions/{{volume}}/pyramid.json",
    log:
        f"{RESULTS}/logs/pyramid/{{volume}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/pyramid/{{volume}}.tsv"
    # As for predict: what is finished stays finished.
    retries: 2 if workflow.is_main_process and workflow.resource_settings.nodes else 0
    conda:
        "../envs/unetpipe.yaml"
    threads: CORES
    resources:
        mem_mb=retried(1000 + SETTINGS.predict.memory_mb * (SETTINGS.predict.workers or CORES)),
        runtime=1440,
    params:
        workers=SETTINGS.predict.workers,
        version=__version__,
    script:
        "../scripts/pyramid.py"
