"""Folders in a bucket, put there by another client than the package's."""

from pathlib import Path

import buckets


def upload(folder: Path, endpoint: str, bucket: str, prefix: str) -> str:
    """Put all files below ``folder`` under ``prefix``; gives the address."""
    client = buckets.client(endpoint)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            client.put_object(
                Bucket=bucket, Key=f"{prefix}/{path.relative_to(folder).as_posix()}", Body=path.read_bytes()
            )
    return f"s3://{bucket}/{prefix}"
