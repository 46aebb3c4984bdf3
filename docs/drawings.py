"""The drawings of the page on exactness, from the plan that the package makes: ``python docs/drawings.py``.

A test holds the files against what this gives.
"""

import sys
from pathlib import Path
from xml.sax.saxutils import escape

from unetpipe.grid import Block, Plan, Region, unet_geometry

HERE = Path(__file__).parent

PAPER = unet_geometry([(1, 3, 3)] * 5, [(1, 2, 2)] * 4)
"""The U-Net of arXiv:1505.04597, figure 1: 572 -> 388."""

KEPT, BORDER, DROPPED, VOLUME, LINE = "#7fa8d1", "#dbe6f1", "#c2410c", "#d9d9d9", "#333"

Item = str


def rectangle(x: float, y: float, width: float, height: float, fill: str, more: str = "") -> Item:
    """A box, in pixels of the drawing."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}" {more}/>'


def text(x: float, y: float, words: str, anchor: str = "middle") -> Item:
    """A line of text around, from or up to (x, y)."""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'


def svg(width: float, height: float, title: str, items: list[Item]) -> str:
    """The file. It has a ground of its own: pages are light or dark."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" font-family="system-ui, sans-serif" font-size="12" fill="{LINE}">\n'
        f"<title>{escape(title)}</title>\n"
        '<defs><pattern id="mirrored" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        f'<rect width="7" height="7" fill="#fff"/><path d="M0 0V7" stroke="{LINE}" stroke-width="1.5"/>'
        "</pattern></defs>\n"
    )
    ground = rectangle(0, 0, width, height, "#fff")
    return head + "\n".join([ground, *items]) + "\n</svg>\n"


def tiles() -> str:
    """Three tiles along x, their borders, and what lies beyond the volume."""
    size = 1000
    plan = Plan((1, size, size), (1, 572, 572), (1, 1152, 1152), (1, 128, 128), 1, PAPER)
    row = [tile for tile in next(plan.blocks()).tiles() if tile.start[1] == 0]
    reads = [next(plan.blocks()).read_of(tile) for tile in row]
    scale, left, high = 0.55, 70.0, 26
    first = reads[0].start[2]

    def at(voxel: int) -> float:
        return left + (voxel - first) * scale

    items = [
        text(left - 10, 37, "volume", "end"),
        rectangle(at(first), 20, (reads[-1].stop[2] - first) * scale, high, "url(#mirrored)"),
        rectangle(at(0), 20, size * scale, high, VOLUME, f'stroke="{LINE}"'),
        text(at(size // 2), 37, f"{size} voxels along x"),
        text(at(0), 14, "0"),
        text(at(size), 14, str(size)),
    ]
    for number, (tile, read) in enumerate(zip(row, reads, strict=True)):
        top = 66 + 62 * number
        a, b, output = tile.start[2], tile.stop[2], PAPER.output(plan.tile)[2]
        items += [
            text(left - 10, top + 17, f"tile {number}", "end"),
            rectangle(at(read.start[2]), top, plan.tile[2] * scale, high, BORDER, f'stroke="{LINE}"'),
            rectangle(at(a), top, (b - a) * scale, high, KEPT, f'stroke="{LINE}"'),
            rectangle(at(b), top, (output - (b - a)) * scale, high, DROPPED),
            text((at(a) + at(b)) / 2, top + 17, f"kept: {b - a}"),
            text((at(read.start[2]) + at(a)) / 2, top + 17, str(PAPER.border[2])),
            text((at(a + output) + at(read.stop[2])) / 2, top + 17, str(PAPER.border[2])),
            text(at(a), top + high + 14, f"{a} = {a // 16} x 16"),
            text(at(read.stop[2]), top + high + 14, f"reads {read.start[2]} to {read.stop[2]}", "end"),
        ]
    end = 66 + 62 * len(row) + 8
    for x, fill, words in (
        (left, KEPT, "kept, and written by this tile alone"),
        (left + 250, BORDER, "border: read, lost by the network"),
        (left + 482, DROPPED, "computed and dropped: 4"),
        (left + 684, "url(#mirrored)", "mirrored"),
    ):
        items += [rectangle(x, end, 14, 14, fill, f'stroke="{LINE}"'), text(x + 20, end + 12, words, "start")]
    width = at(reads[-1].stop[2]) + 20
    return svg(width, end + 28, "Three tiles of the network along x, with borders that overlap", items)


def blocks() -> str:
    """The blocks of a section, and what one of them reads."""
    plan = Plan((1, 2000, 2600), (1, 572, 572), (1, 768, 768), (1, 128, 128), 1, PAPER)
    every = list(plan.blocks())
    shown = next(block for block in every if block.name == "0.0.1")
    scale, margin = 0.2, 40.0

    def box(region: Region, fill: str, more: str) -> Item:
        (_, y0, x0), (_, y, x) = region.start, region.shape
        return rectangle(margin + x0 * scale, margin + y0 * scale, x * scale, y * scale, fill, more)

    def middle(block: Block) -> tuple[float, float]:
        (_, y0, x0), (_, y1, x1) = block.write.start, block.write.stop
        return margin + (x0 + x1) / 2 * scale, margin + (y0 + y1) / 2 * scale

    items = [box(shown.read, "url(#mirrored)", "")]
    items += [box(block.write, VOLUME, f'stroke="{LINE}"') for block in every]
    items += [box(shown.read.clip(plan.shape), BORDER, ""), box(shown.write, KEPT, f'stroke="{LINE}"')]
    items += [box(tile, "none", f'stroke="{LINE}" stroke-dasharray="3 3" stroke-width="0.7"') for tile in shown.tiles()]
    items += [box(shown.read, "none", f'stroke="{LINE}" stroke-width="1.5"')]
    for block in every:
        x, y = middle(block)
        # Beside the edges of tiles.
        items.append(text(x, y + 4 - 20 * (block is shown), block.name))
    right = margin + plan.shape[2] * scale + 16
    notes = (
        f"section: {plan.shape[1]} x {plan.shape[2]} voxels",
        f"blocks: {plan.block[1]} x {plan.block[2]}, each a shard",
        f"block {shown.name} consists of {len(shown.tiles())} tiles",
        f"that keep {plan.kept[1]} x {plan.kept[2]} each (dashed).",
        "It reads the bold frame,",
        "hatched where that is mirrored,",
        "and writes its own blue box alone.",
    )
    items += [text(right, margin + 20 + 20 * number, note, "start") for number, note in enumerate(notes)]
    height = margin + plan.shape[1] * scale + 24
    return svg(right + 240, height, "Blocks of a section, and what one of them reads", items)


def files() -> dict[Path, str]:
    """The drawings and what they should hold."""
    return {HERE / "tiles.svg": tiles(), HERE / "blocks.svg": blocks()}


def main() -> int:
    """Write them."""
    for path, drawing in files().items():
        path.write_text(drawing, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
