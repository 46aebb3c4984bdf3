"""Colours of classes, in the report and in viewers."""

import colorsys

Colour = tuple[int, int, int]

# The palette of Okabe and Ito ("Color universal design", 2008), which remains distinct for the colour blind, without
# black and without vermilion, in which the report shows errors.
_PALETTE: tuple[Colour, ...] = (
    (0, 158, 115),
    (230, 159, 0),
    (86, 180, 233),
    (204, 121, 167),
    (240, 228, 66),
    (0, 114, 178),
)


def colours(count: int) -> list[Colour]:
    """So many different colours, red, green and blue of 0 to 255."""
    found = list(_PALETTE[:count])
    for index in range(len(found), count):
        # Steps of the golden section never come back to a hue.
        red, green, blue = colorsys.hsv_to_rgb(0.618034 * index % 1, 0.65, 0.9)
        found.append((round(255 * red), round(255 * green), round(255 * blue)))
    return found
