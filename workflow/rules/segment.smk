rule segment:
    """Number the objects of a volume."""
    input:
        volume=f"{RESULTS}/volumes/{{volume}}/volume.json",
        allocated=f"{RESULTS}/predictions/{{volume}}/allocated.json",
        predicted=predicted(),
        validation=threshold_from(),
    output:
        segments=report(
            f"{RESULTS}/segments/{{volume}}/segments.json",
            caption="../report/segments.rst",
            category="Segments",
        ),
    log:
        f"{RESULTS}/logs/segment/{{volume}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/segment/{{volume}}.tsv"
    conda:
        "../envs/unetpipe.yaml"
    threads: CORES
    resources:
        mem_mb=retried(2000 + 1500 * CORES),
        runtime=720,
    params:
        classes=list(SETTINGS.classes),
        objects=SETTINGS.segmented,
        settings=plain(SETTINGS.segment) if SETTINGS.segment else None,
        store=segment_store,
        version=__version__,
    script:
        "../scripts/segment.py"
