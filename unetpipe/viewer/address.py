"""Where a place of a volume can be looked at while `unetpipe view` serves its run."""

from urllib.parse import quote

from unetpipe.grid import Shape

PORT = 8473
"""Served on, where no other is asked for: a link in a report has to know it."""


def link(volume: str, at: Shape, port: int = PORT) -> str:
    """The address that opens the viewer at voxel ``at`` (z, y, x) of ``volume``, on this machine alone."""
    z, y, x = at
    return f"http://127.0.0.1:{port}/at/{quote(volume, safe='')}/{z}/{y}/{x}"
