rule ablation_report:
    """Put all runs beside each other."""
    input:
        scores=TRIALS.tested("scores/{}.json"),
        allocated=TRIALS.tested("predictions/{}/allocated.json"),
        jobs=TRIALS.tested("predictions/{}/job-0.json"),
        histories=[f"{trial.results}/model/history.csv" for trial in TRIALS.all],
        models=[f"{trial.results}/model/model.json" for trial in TRIALS.all],
        certificates=[f"{trial.engine}/certificate.json" for trial in TRIALS.all],
    output:
        report=f"{FOLDER}/report.html",
        summary=f"{FOLDER}/ablation.json",
    log:
        f"{FOLDER}/logs/ablation_report.log",
    benchmark:
        f"{FOLDER}/benchmarks/ablation_report.tsv"
    conda:
        "../envs/unetpipe.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=TRIALS.ablation.model_dump(mode="json"),
        trials=[trial.facts for trial in TRIALS.all],
        left_out=list(TRIALS.left_out),
        command=command("--snakefile", "workflow/ablation.smk"),
        version=__version__,
    script:
        "../scripts/ablation_report.py"
