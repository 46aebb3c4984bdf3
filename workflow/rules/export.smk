rule export:
    """Write the trained network as an ONNX file."""
    input:
        checkpoint=CHECKPOINT,
    output:
        onnx=f"{RESULTS}/model/model.onnx",
        description=f"{RESULTS}/model/model.json",
    log:
        f"{RESULTS}/logs/export.log",
    benchmark:
        f"{RESULTS}/benchmarks/export.tsv"
    conda:
        "../envs/unetpipe.yaml"
    threads: 1
    resources:
        mem_mb=retried(4000),
        runtime=30,
    params:
        version=__version__,
    script:
        "../scripts/export.py"
