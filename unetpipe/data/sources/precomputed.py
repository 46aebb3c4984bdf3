"""Neuroglancer's precomputed volumes: the metadata ``info``, and a folder for each scale.

Lengths are in nm, and axes (x, y, z, channel). A scale covers the voxels from ``voxel_offset`` on, of ``resolution``.
"""

from unetpipe.arrays import Found, read_info
from unetpipe.data.sources.contract import refusal
from unetpipe.data.sources.level import Level, numbers
from unetpipe.data.sources.units import in_nm
from unetpipe.storage import join


def level_of(address: str, found: Found) -> Level:
    """The scale that was ``found`` at ``address``; UserError if it has several channels."""
    info = read_info(found.place)
    channels = info.get("num_channels")
    if channels != 1:
        raise refusal(
            address,
            f"a precomputed volume with num_channels {channels}",
            "write one channel as a volume of its own",
        )
    scale = next(scale for scale in info["scales"] if scale["key"] == found.scale)
    size, finest = numbers(scale.get("resolution")), numbers(info["scales"][0].get("resolution"))
    place = join(found.place.address, str(found.scale))
    if size is None or finest is None:
        return Level(place, None, None)
    offset = numbers(scale.get("voxel_offset")) or [0.0] * 3
    # Its numbers place the edge of a voxel: as elsewhere, the voxel 0 of the finest scale has its centre at 0.
    centre = [a * s + (s - f) / 2 for a, s, f in zip(offset, size, finest, strict=True)]
    return Level(place, in_nm(size[::-1], ["nm"] * 3), in_nm(centre[::-1], ["nm"] * 3, positive=False))
