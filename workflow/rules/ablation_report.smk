rule ablation_report:
    """Put all runs beside each other."""
    input:
        scores=PLAN.tested("scores/{}.json"),
        allocated=PLAN.tested("predictions/{}/allocated.json"),
        jobs=PLAN.tested("predictions/{}/job-0.json"),
        histories=[f"{trial.results}/model/history.csv" for trial in PLAN.trials],
        models=[f"{trial.results}/model/model.json" for trial in PLAN.trials],
        certificates=[f"{trial.engine}/certificate.json" for trial in PLAN.trials],
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
        settings=PLAN.ablation.model_dump(mode="json"),
        trials=[trial.facts for trial in PLAN.trials],
        left_out=list(PLAN.left_out),
        command=command("--snakefile", "workflow/ablation.smk"),
        version=__version__,
    script:
        "../scripts/ablation_report.py"
