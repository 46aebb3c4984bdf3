rule build_engine:
    """Compile the ONNX file for the hardware that will predict."""
    input:
        onnx=f"{RESULTS}/model/model.onnx",
    output:
        engine=f"{ENGINE}/engine",
        build=f"{ENGINE}/build.json",
    log:
        f"{RESULTS}/logs/build_engine.log",
    benchmark:
        f"{RESULTS}/benchmarks/build_engine.tsv"
    conda:
        "../envs/unetpipe.yaml"
    threads: CORES
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        settings=plain(SETTINGS.engine),
        tile=prediction_tile(),
        batch=SETTINGS.predict.batch or 1,
        version=__version__,
    script:
        "../scripts/build_engine.py"
