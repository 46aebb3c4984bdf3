rule evaluate:
    """Score a prediction against the labels of its volume."""
    input:
        volume=f"{RESULTS}/volumes/{{volume}}/volume.json",
        allocated=f"{RESULTS}/predictions/{{volume}}/allocated.json",
        predicted=[f"{RESULTS}/predictions/{{volume}}/job-0.json"],
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
        mem_mb=4000,
        runtime=120,
    params:
        role=lambda wildcards: SETTINGS.volumes[wildcards.volume].role,
        classes=list(SETTINGS.classes),
        settings=plain(SETTINGS.evaluate),
        version=__version__,
    script:
        "../scripts/evaluate.py"
