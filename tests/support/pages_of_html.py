"""What a reading by the rules of HTML finds wrong with a page."""

from collections import Counter

from justhtml import JustHTML

HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")


def faults(page: str) -> list[str]:
    """Errors of the parser that the standard defines, names given twice, and headings that skip a level."""
    read = JustHTML(page, collect_errors=True, sanitize=False, track_node_locations=True)
    found = [f"line {error.line}: {error.code}" for error in read.errors]
    names = Counter(node.attrs["id"] for node in read.query("[id]"))
    found += [f"the id {name!r} is given {count} times" for name, count in names.items() if count > 1]
    before = 0
    for node in read.query(", ".join(HEADINGS)):
        level = HEADINGS.index(node.name) + 1
        if level > before + 1:
            found.append(f"line {node.origin_line}: <{node.name}> follows <h{before}>")
        before = level
    return found
