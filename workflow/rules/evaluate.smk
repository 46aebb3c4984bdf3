rule evaluate:
    """Score a prediction against the labels of its volume."""
    input:
        volume=f"{RESULTS}/volumes/{{volume}}/volume.json",
        allocated=f"{RESULTS}/predictions/{{volume}}/allocated.json",
        predicted=predicted(),
        # A threshold is chosen on the volumes to validate, and never on the volume that it is used for.
        validation=chosen_on,
    output:
        scores=report(
            f"{RESULTS}/scores/{{volume}}.json",
            caption="../report/scores.rst",
            category="Scores",
        ),
    log:
        f"{RESULTS}/logs/evaluate/{{volume}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate/{{volume}}.tsv"
    conda:
        "../envs/unetpipe.yaml"
    threads: CORES
    resources:
        mem_mb=retried(1000 + 2000 * CORES),
        runtime=120,
    params:
        role=lambda wildcards: SETTINGS.volumes[wildcards.volume].role,
        classes=list(SETTINGS.classes),
        objects=SETTINGS.evaluate.objects or list(SETTINGS.classes)[-1],
        settings=plain(SETTINGS.evaluate),
        instances=object_class,
        version=__version__,
    script:
        "../scripts/evaluate.py"
