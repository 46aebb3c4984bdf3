rule report:
    """Put everything that a reader and a reproducer need into one page."""
    input:
        volumes=volume_files(*SETTINGS.volumes),
        scores=expand(f"{RESULTS}/scores/{{volume}}.json", volume=SCORED),
        quality=expand(f"{RESULTS}/quality/{{volume}}.json", volume=PREDICTED),
        allocated=expand(f"{RESULTS}/predictions/{{volume}}/allocated.json", volume=PREDICTED),
        predictions=[path for name in PREDICTED for path in predicted(name)],
        pyramids=expand(f"{RESULTS}/predictions/{{volume}}/pyramid.json", volume=PREDICTED),
        segments=expand(f"{RESULTS}/segments/{{volume}}/segments.json", volume=SEGMENTED),
        build=f"{ENGINE}/build.json",
        certificate=f"{ENGINE}/certificate.json",
        model=f"{RESULTS}/model/model.json",
        history=[] if SETTINGS.model else f"{RESULTS}/model/history.csv",
        samples=[] if SETTINGS.model else f"{RESULTS}/samples.json",
    output:
        report=report(f"{RESULTS}/report.html", caption="../report/report.rst", category="Report"),
        facts=f"{RESULTS}/report.json",
        figures=report(
            directory(f"{RESULTS}/figures"),
            patterns=["{figure}.svg"],
            caption="../report/figures.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
    log:
        f"{RESULTS}/logs/report.log",
    benchmark:
        f"{RESULTS}/benchmarks/report.tsv"
    conda:
        "../envs/unetpipe.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        run=SETTINGS.run,
        settings=plain(SETTINGS),
        command=command(),
        configuration=configuration(),
        benchmarks=f"{RESULTS}/benchmarks",
        version=__version__,
    script:
        "../scripts/report.py"
