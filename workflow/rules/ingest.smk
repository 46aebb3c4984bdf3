rule ingest:
    """Bring a volume into OME-Zarr, or find out about one that is used in place; measure each section's grey values."""
    input:
        source_files,
    output:
        volume=f"{RESULTS}/volumes/{{volume}}/volume.json",
    log:
        f"{RESULTS}/logs/ingest/{{volume}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/ingest/{{volume}}.tsv"
    conda:
        "../envs/unetpipe.yaml"
    threads: 1
    resources:
        mem_mb=retried(2000),
        runtime=120,
    params:
        name="{volume}",
        image=lambda wildcards: address(wildcards, "image"),
        labels=lambda wildcards: address(wildcards, "labels"),
        sections=lambda wildcards: SETTINGS.volumes[wildcards.volume].sections,
        voxel_size_nm=lambda wildcards: SETTINGS.volumes[wildcards.volume].voxel_size_nm,
        range=lambda wildcards: SETTINGS.volumes[wildcards.volume].range,
        label_values=lambda wildcards: SETTINGS.label_values(wildcards.volume),
        ignore=SETTINGS.ignore,
        annotated=annotated,
        instances=instances,
        version=__version__,
    script:
        "../scripts/ingest.py"
