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
        job="|".join(JOBS),
    # After the end of a walltime, or of its memory: what is finished stays finished. Only a job on a node of a cluster
    # has such limits; elsewhere it would fail again in the same way. Snakemake on the node must not repeat it as well.
    retries: 2 if workflow.is_main_process and workflow.resource_settings.nodes else 0
    conda:
        "../envs/unetpipe.yaml"
    # The workers of a cluster have their own.
    threads: 1 if DRIVES else CORES
    resources:
        mem_mb=memory_to_predict,
        runtime=minutes_to_predict,
        gpu=0 if DRIVES else GPUS,
    params:
        job="{job}",
        share=share,
        workers=SETTINGS.predict.workers,
        cluster=SETTINGS.predict.cluster,
        slurm=plain(SETTINGS.predict.slurm) if SETTINGS.predict.slurm else None,
        memory_mb=SETTINGS.predict.memory_mb,
        gpu=bool(GPUS),
        grace_seconds=SETTINGS.predict.grace_seconds,
        patience_seconds=SETTINGS.predict.patience_seconds,
        version=__version__,
    script:
        "../scripts/predict.py"
