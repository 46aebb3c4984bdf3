rule quantize:
    """Write the network in lower precisions, in the forms that engines take."""
    input:
        onnx=f"{RESULTS}/model/model.onnx",
        volumes=volume_files(*calibration_volumes()),
    output:
        quantized=directory(f"{RESULTS}/model/quantized"),
        description=f"{RESULTS}/model/quantized.json",
    log:
        f"{RESULTS}/logs/quantize.log",
    benchmark:
        f"{RESULTS}/benchmarks/quantize.tsv"
    conda:
        "../envs/unetpipe.yaml"
    threads: CORES
    resources:
        mem_mb=retried(8000),
        runtime=60,
    params:
        role=SETTINGS.volumes[calibration_volumes()[0]].role,
        precisions=LOWER_PRECISIONS,
        tile=prediction_tile(),
        settings=plain(SETTINGS.quantize),
        version=__version__,
    script:
        "../scripts/quantize.py"
