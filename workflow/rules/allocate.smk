rule allocate:
    """Plan the prediction of a volume and make an empty store for it, once."""
    input:
        mask_files,
        volume=f"{RESULTS}/volumes/{{volume}}/volume.json",
        certificate=f"{ENGINE}/certificate.json",
    output:
        allocated=f"{RESULTS}/predictions/{{volume}}/allocated.json",
    log:
        f"{RESULTS}/logs/allocate/{{volume}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/allocate/{{volume}}.tsv"
    conda:
        "../envs/unetpipe.yaml"
    # The engine is measured with all workers at once.
    threads: CORES_TO_PREDICT
    resources:
        mem_mb=retried(1000 + SETTINGS.predict.memory_mb * (SPREAD.workers or GPUS or CORES_TO_PREDICT)),
        gpu=GPUS,
        # A mask is read once, and can be as large as the image.
        runtime=lambda wildcards: 10 if SETTINGS.volumes[wildcards.volume].mask is None else 240,
    params:
        classes=list(SETTINGS.classes),
        tile=prediction_tile(),
        batch=SETTINGS.predict.batch,
        most_batch=SETTINGS.engine.max_batch,
        workers=SPREAD.workers,
        spread=SPREAD.machines,
        memory_mb=SETTINGS.predict.memory_mb,
        block_seconds=SETTINGS.predict.block_seconds,
        on_change=SETTINGS.predict.on_change,
        region=region,
        mask=lambda wildcards: SETTINGS.volumes[wildcards.volume].mask,
        mirror=list(SETTINGS.predict.mirror_axes),
        labels=SETTINGS.predict.labels,
        store=store,
        absent=SETTINGS.predict.absent,
        version=__version__,
    script:
        "../scripts/allocate.py"
