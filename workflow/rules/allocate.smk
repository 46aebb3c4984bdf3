rule allocate:
    """Plan the prediction of a volume and make an empty store for it, once."""
    input:
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
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        classes=list(SETTINGS.classes),
        tile=SETTINGS.predict.tile,
        batch=SETTINGS.predict.batch,
        on_change=SETTINGS.predict.on_change,
        version=__version__,
    script:
        "../scripts/allocate.py"
