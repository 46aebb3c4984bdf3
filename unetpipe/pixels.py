"""Pixel sizes, edge lengths of a voxel in nm along (y, x): a network knows tissue at the size at which it learnt it."""

from collections.abc import Mapping

from unetpipe.config import Problem, Settings

PixelSize = tuple[float, float]

_LARGEST_DIFFERENCE = 0.1


def alike(one: PixelSize, other: PixelSize) -> bool:
    """Whether two sizes differ by 10 % at most, along y and along x."""
    # Ratios such as 4.4 to 4 are rounded.
    bound = 1 + _LARGEST_DIFFERENCE + 1e-9
    return all(max(a / b, b / a) <= bound for a, b in zip(one, other, strict=True))


def pixel_problems(
    settings: Settings, sizes: Mapping[str, PixelSize | None], learnt: PixelSize | None
) -> list[Problem]:
    """Volumes that show tissue at another size than the network learns it.

    Parameters
    ----------
    sizes:
        Of each volume whose image can be read, None where it is not known: such a volume is taken as it is.
    learnt:
        At which a ``model`` of the settings learnt; None where that is not known, or nothing is given.
    """
    problems: list[Problem] = []
    trains, target = settings.named("train"), settings.augment.voxel_size_nm
    first = next((name for name in trains if sizes.get(name) is not None), None)
    if settings.model is not None:
        reference, what = learnt, f"the voxels from which {settings.model} has learnt have"
        concerned = [name for name in sizes if name not in trains]
    elif target is not None:
        reference, what = target, "augment.voxel_size_nm has"
        concerned = [name for name in sizes if name not in trains]
        problems += [
            (f"volumes.{name}.voxel_size_nm", "is required: augment.voxel_size_nm is set, and the image does not tell")
            for name in trains
            if name in sizes and sizes[name] is None
        ]
    else:
        reference, what = (
            (None if first is None else sizes[first]),
            f"the voxels of {first}, from which is learnt, have",
        )
        concerned = list(sizes)
    for name in concerned:
        size = sizes[name]
        if size is None or reference is None or alike(size, reference):
            continue
        found = f"voxels of {_text(size)} nm (y, x), and {what} {_text(reference)}: more than 10 % apart"
        repair = (
            "set augment.voxel_size_nm, to which samples are resampled, or leave the volume out"
            if name in trains
            else "resample the volume, or train at its size with augment.voxel_size_nm"
        )
        problems.append((f"volumes.{name}.voxel_size_nm", f"{found}: {repair}"))
    return problems


def _text(size: PixelSize) -> str:
    return " x ".join(f"{edge:g}" for edge in size)
