rule phantom:
    """Make a synthetic EM volume with ground truth."""
    output:
        image=f"{RESULTS}/phantom/image.tif",
        labels=f"{RESULTS}/phantom/labels.tif",
    log:
        f"{RESULTS}/logs/phantom.log",
    benchmark:
        f"{RESULTS}/benchmarks/phantom.tsv"
    conda:
        "../envs/unetpipe.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        shape=lambda _: list(SETTINGS.phantom.shape),
        voxel_size_nm=lambda _: list(SETTINGS.phantom.voxel_size_nm),
        seed=lambda _: SETTINGS.phantom.seed,
        missing=lambda _: SETTINGS.phantom.missing,
        fold=lambda _: SETTINGS.phantom.fold,
        version=__version__,
    script:
        "../scripts/phantom.py"
