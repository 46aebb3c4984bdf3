rule augment:
    """Draw training samples: cut out, deformed, turned and re-lit, with a weight per voxel."""
    input:
        train=volume_files(*SETTINGS.named("train")),
        validate=volume_files(*SETTINGS.named("validate")),
    output:
        samples=f"{RESULTS}/samples.json",
    log:
        f"{RESULTS}/logs/augment.log",
    benchmark:
        f"{RESULTS}/benchmarks/augment.tsv"
    conda:
        "../envs/unetpipe.yaml"
    threads: CORES
    resources:
        mem_mb=retried(4000),
        runtime=120,
    params:
        store=f"{RESULTS}/samples.zarr",
        settings=plain(SETTINGS.augment),
        network=plain(SETTINGS.network),
        classes=list(SETTINGS.classes),
        seed=SETTINGS.seed,
        version=__version__,
    script:
        "../scripts/augment.py"
