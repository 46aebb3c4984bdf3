"""The templates of all pages."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from unetpipe.report import text

_FILTERS = (text.decimal, text.count_of, text.share, text.short, text.plain)


def template(name: str) -> Template:
    """One of those in this folder: what it is given is escaped, and what it is not given is an error."""
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {tell.__name__: tell for tell in _FILTERS}
    return found.get_template(name)
