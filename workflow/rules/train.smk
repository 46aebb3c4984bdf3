# What lies beside the outputs is not declared: Snakemake would delete it before a rerun. The states in model/resume are
# what a killed training goes on from; the events in model/tensorboard (train.tensorboard) are kept up by the training.
rule train:
    """Train the network on the samples; the best step on the validation volumes is kept."""
    input:
        samples=f"{RESULTS}/samples.json",
        init=SETTINGS.train.init or [],
    output:
        checkpoint=f"{RESULTS}/model/checkpoint.safetensors",
        history=report(f"{RESULTS}/model/history.csv", caption="../report/history.rst", category="Training"),
    log:
        f"{RESULTS}/logs/train.log",
    benchmark:
        f"{RESULTS}/benchmarks/train.tsv"
    conda:
        "../envs/unetpipe.yaml"
    threads: SETTINGS.train.threads * SETTINGS.train.processes
    resources:
        mem_mb=retried(8000),
        runtime=retried(1440),
        gpu=SETTINGS.train.processes if SETTINGS.train.device == "cuda" else 0,
    params:
        store=f"{RESULTS}/samples.zarr",
        network=plain(SETTINGS.network),
        settings=plain(SETTINGS.train),
        classes=list(SETTINGS.classes),
        seed=SETTINGS.seed,
        version=__version__,
    script:
        "../scripts/train.py"
