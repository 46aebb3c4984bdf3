rule certify:
    """Compare engines with PyTorch in fp32, on the device that will predict; the first that is as good is taken."""
    input:
        checkpoint=CHECKPOINT,
        candidates=f"{ENGINE}/candidates.json",
        volumes=volume_files(*gate_volumes()),
    output:
        engine=f"{ENGINE}/engine",
        build=f"{ENGINE}/build.json",
        certificate=f"{ENGINE}/certificate.json",
    log:
        f"{RESULTS}/logs/certify.log",
    benchmark:
        f"{RESULTS}/benchmarks/certify.tsv"
    conda:
        "../envs/unetpipe.yaml"
    threads: CORES
    resources:
        mem_mb=retried(8000),
        runtime=60,
        gpu=GPUS,
    params:
        role=SETTINGS.volumes[gate_volumes()[0]].role,
        tile=prediction_tile(),
        batch=SETTINGS.predict.batch or 1,
        settings=plain(SETTINGS.certify),
        version=__version__,
    script:
        "../scripts/certify.py"
