rule build_engine:
    """Compile the network for the hardware that will predict, in each precision that may."""
    input:
        onnx=f"{RESULTS}/model/model.onnx",
        quantized=f"{RESULTS}/model/quantized.json" if LOWER_PRECISIONS else [],
    output:
        candidates=f"{ENGINE}/candidates.json",
    log:
        f"{RESULTS}/logs/build_engine.log",
    benchmark:
        f"{RESULTS}/benchmarks/build_engine.tsv"
    conda:
        "../envs/unetpipe.yaml"
    threads: CORES
    resources:
        mem_mb=retried(8000),
        runtime=60,
        # TensorRT-RTX builds for GPUs that are not there.
        gpu=0 if SETTINGS.engine.backend == "tensorrt_rtx" else GPUS,
    params:
        settings=plain(SETTINGS.engine),
        tile=prediction_tile(),
        batch=SETTINGS.predict.batch or 1,
        version=__version__,
    script:
        "../scripts/build_engine.py"
