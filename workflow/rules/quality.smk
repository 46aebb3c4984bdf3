rule quality:
    """Look for faults of the image and for what the network is not sure of; no labels are needed."""
    input:
        volume=f"{RESULTS}/volumes/{{volume}}/volume.json",
        allocated=f"{RESULTS}/predictions/{{volume}}/allocated.json",
        predicted=predicted(),
    output:
        quality=report(
            f"{RESULTS}/quality/{{volume}}.json",
            caption="../report/quality.rst",
            category="Quality",
        ),
    log:
        f"{RESULTS}/logs/quality/{{volume}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/quality/{{volume}}.tsv"
    conda:
        "../envs/unetpipe.yaml"
    threads: CORES
    resources:
        mem_mb=retried(1000 + 500 * CORES),
        runtime=240,
    params:
        settings=plain(SETTINGS.quality),
        version=__version__,
    script:
        "../scripts/quality.py"
