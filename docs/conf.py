"""The site that ``make docs`` builds.

Pages are the Markdown files of this folder. What another file of the repository says, and what the code says of itself,
is taken from there while the site is built: see ``ELSEWHERE`` and ``apidoc_modules``.
"""

import argparse
import functools
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docutils import nodes
from pydantic import BaseModel
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import unetpipe  # noqa: E402
from unetpipe.cli import parser  # noqa: E402

project = "unetpipe"
version = release = unetpipe.__version__
# That of en_GB lacks the words that the search counts its results in, and ends there.
language = "en"

extensions = ["myst_parser", "sphinx.ext.apidoc", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

myst_heading_anchors = 4
# A link to a heading that is not there is a warning, and those end the build; so is a reference in a docstring.
nitpicky = True
nitpick_ignore_regex = [("py:(class|obj)", r"unetpipe\.[\w.]+\.(M|R|Scalar|T)")]  # type variables

exclude_patterns = ["reference/api/modules.rst"]

apidoc_modules = [
    {
        "path": "../unetpipe",
        "destination": "reference/api",
        "automodule_options": {"members"},
        "separate_modules": True,
        "module_first": True,
        "max_depth": 1,
    },
]
autodoc_default_options = {"members": True, "ignore-module-all": True}
autodoc_member_order = "bysource"
# Comes with TensorRT alone.
autodoc_mock_imports = ["cuda"]
# Attributes as part of their class, or each would be there twice.
napoleon_use_ivar = True
# Prose; napoleon would take what stands before a colon for a name.
napoleon_custom_sections = ["Returns"]

# Drawings in docstrings are no code.
highlight_language = "none"

html_theme = "pydata_sphinx_theme"
templates_path = ["_templates"]
html_sidebars = {"**": ["manual.html"]}
html_title = "unetpipe"
html_copy_source = False
html_show_copyright = False
# A page that lies on the disk may not read another.
html_show_search_summary = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "logo": {"text": "unetpipe"},
    "navbar_center": [],
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],
    "footer_start": [],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": False,
}


def commands() -> str:
    """The page of the commands: what each prints with ``--help``."""
    program = parser()
    pages = ["# Commands\n\nWhat `unetpipe COMMAND --help` prints.\n"]
    (subparsers,) = (action for action in program._actions if isinstance(action, argparse._SubParsersAction))
    for name, command in {"": program, **subparsers.choices}.items():
        title = f"unetpipe {name}".strip()
        command.formatter_class = functools.partial(argparse.HelpFormatter, width=100)
        pages.append(f"\n## {title}\n\n```text\n{command.format_help()}```\n")
    return "".join(pages)


ELSEWHERE: dict[str, tuple[str, Callable[[], str]]] = {
    "reference/settings": ("config/README.md", (ROOT / "config" / "README.md").read_text),
    "reference/commands": ("unetpipe/cli.py", commands),
    "changelog": ("CHANGELOG.md", (ROOT / "CHANGELOG.md").read_text),
}
"""Pages whose text lies elsewhere: that file, and what gives the text. In the folder, such a page says where."""


def take_from_elsewhere(app: Sphinx, name: str, source: list[str]) -> None:
    """Give a page its text, and lead its links to pages of the site where files are pages there."""
    start = Path(app.srcdir, name).parent
    if name in ELSEWHERE:
        file, text = ELSEWHERE[name]
        source[0] = text()
        app.env.note_dependency(str(ROOT / file), docname=name)
        start = (ROOT / file).parent
    pages = {ROOT / file: Path(app.srcdir, f"{page}.md") for page, (file, _) in ELSEWHERE.items()}
    pages[ROOT / "README.md"] = Path(app.srcdir, "index.md")

    def lead(link: re.Match[str]) -> str:
        target = (start / link["path"]).resolve()
        page = pages.get(target, target)
        return f"]({os.path.relpath(page, Path(app.srcdir, name).parent)}{link['heading'] or ''})"

    source[0] = re.sub(r"\]\((?!\w+:|#)(?P<path>[^)#\s]+)(?P<heading>#[^)\s]*)?\)", lead, source[0])


_prose: dict[str, list[str]] = {}


def keep_prose(_: Sphinx, what: str, name: str, *rest: Any) -> None:
    """Keep what is said of a constant or an attribute: napoleon takes what stands before a colon for a type."""
    if what in ("attribute", "data", "property"):
        _prose[name] = list(rest[-1])


def give_prose_back(_: Sphinx, what: str, name: str, *rest: Any) -> None:
    """After napoleon."""
    if what in ("attribute", "data", "property"):
        rest[-1][:] = _prose.pop(name)


def leave_settings_to_their_page(app: Sphinx, what: str, _: str, thing: object, *__: Any) -> bool | None:
    """Of the models of settings, show methods and properties alone: fields have a page with their descriptions."""
    of_settings = what == "class" and app.env.current_document.docname.startswith("reference/api/unetpipe.config")
    return True if of_settings and not callable(thing) and not isinstance(thing, property | classmethod) else None


def leave_out_arguments_of_models(*event: Any) -> tuple[str, str] | None:
    """Those are the fields, with all that restricts them."""
    thing = event[3]
    return ("", "") if isinstance(thing, type) and issubclass(thing, BaseModel) else None


def drop_foreign_types(_: Sphinx, doctree: nodes.document) -> None:
    """Make plain text of the types in signatures that are not of this package: there is no page to lead to."""
    for reference in list(doctree.findall(pending_xref)):
        of_a_type = reference.get("refdomain") == "py" and reference.get("reftype") in ("class", "obj", "attr")
        if of_a_type and not reference["reftarget"].startswith("unetpipe."):
            reference.replace_self(reference.children)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    # Pages of modules that are gone would stay there.
    shutil.rmtree(Path(app.srcdir, "reference", "api"), ignore_errors=True)
    app.connect("source-read", take_from_elsewhere)
    app.connect("autodoc-process-docstring", keep_prose, priority=100)
    app.connect("autodoc-process-docstring", give_prose_back, priority=900)
    app.connect("autodoc-skip-member", leave_settings_to_their_page)
    app.connect("autodoc-process-signature", leave_out_arguments_of_models)
    app.connect("doctree-read", drop_foreign_types)
