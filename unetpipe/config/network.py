"""The network."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from unetpipe.config.types import Fraction, Model, Positive, Triple
from unetpipe.grid import Geometry, Shape, patch_geometry, stack_geometry, triple, unet_geometry

PerLevel = Annotated[
    Annotated[Triple, Tag("all")] | Annotated[list[Triple], Tag("each")],
    Discriminator(
        lambda value: "each" if isinstance(value, list) and not (value and isinstance(value[0], int | str)) else "all"
    ),
]
"""For all levels of a network alike, or for each of them."""


class Network(Model):
    """The network (arXiv:1505.04597, figure 1), and those that it is compared with."""

    name: Literal["unet", "full_resolution", "patch_classifier"] = Field(
        "unet",
        description="the architecture. full_resolution: as many levels of convolutions, all of `width` channels, with "
        "no pooling between them. patch_classifier: the way down of the U-Net as a classifier of the voxel in the "
        "middle of a patch, applied to the patch around every voxel",
    )
    skips: Literal["concatenate", "add", "multiply", "none"] = Field(
        "concatenate", description="how a `unet` joins the features of the way down to those of the way up"
    )
    upsampling: Literal["transposed", "nearest", "bed_of_nails", "max_unpooling"] = Field(
        "transposed",
        description="how a `unet` goes up a level. transposed: a transposed convolution. The others halve the channels "
        "with a convolution of one voxel, and put each value into all voxels of a window (nearest), into the first "
        "(bed_of_nails), or where the maximum was on the way down, the first of equals (max_unpooling)",
    )
    width: Positive = Field(16, description="channels of the first level; the paper has 64")
    depth: Annotated[int, Field(ge=1, le=6)] = Field(4, description="number of poolings; the paper has 4")
    normalisation: Literal["batch", "none"] = Field(
        "batch", description="`batch` is folded into the convolutions at export; the paper has none"
    )
    dropout: Fraction = Field(0.0, description="share of channels dropped at the end of the contracting path")
    kernel: PerLevel = Field(
        (1, 3, 3),
        description="of the convolutions, (z, y, x), odd: one for all levels, or a list with one for each of the "
        "`depth` + 1 levels from the top. Where a kernel or a pooling is longer than 1 along z, the network is 3D",
    )
    pooling: PerLevel = Field(
        (1, 2, 2),
        description="(z, y, x): one for all levels, or a list with one for each of the `depth` poolings from the top; "
        "sections that are thick beside a pixel are pooled later than y and x, or never",
    )
    sections: Positive = Field(
        1, description="neighbouring sections that a 2D network sees as channels (2.5D): an odd number; 1 for one alone"
    )

    @property
    def kernels(self) -> tuple[Shape, ...]:
        """Of each level, from the top."""
        return tuple(self.kernel) if isinstance(self.kernel, list) else (self.kernel,) * (self.depth + 1)

    @property
    def poolings(self) -> tuple[Shape, ...]:
        """Of each level but the lowest, from the top."""
        return tuple(self.pooling) if isinstance(self.pooling, list) else (self.pooling,) * self.depth

    @property
    def geometry(self) -> Geometry:
        """What the network does to shapes."""
        if self.name == "full_resolution":
            return stack_geometry(self.kernels, self.sections)
        make = patch_geometry if self.name == "patch_classifier" else unet_geometry
        return make(self.kernels, self.poolings, self.sections)

    def tile(self, voxels: Sequence[int]) -> Shape:
        """A tile (z, y, x) of the settings: along z, a 2D network reads what it needs for one section.

        Raises
        ------
        ValueError
            If the number of axes is not that of the network.
        """
        geometry = self.geometry
        if len(voxels) != geometry.dimensions:
            axes = "(z, y, x)" if geometry.dimensions == 3 else "(y, x)"
            raise ValueError(f"{list(voxels)} has {len(voxels)} axes; this network takes tiles {axes}")
        return triple(voxels) if geometry.dimensions == 3 else triple([self.sections, *voxels])
