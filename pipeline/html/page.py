"""The shell of every page that the project writes: one file, nothing fetched.

A page may hold the viewer of its pictures, whose script is the only one that the page's content
security policy lets run, beside scripts of picture values in the page's own folder.

A page is made of sections; their bodies come from `pipeline.html.parts` and
`pipeline.html.chart`, or are any `Markup`. Plain text given to these functions is escaped.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files

import jinja2
from markupsafe import Markup

import pipeline

RESEARCH_USE = "Research use only. Not a medical device; not for diagnosis or treatment."


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page under a heading; `anchor` is its address on the page."""

    anchor: str
    title: str
    body: Markup


@dataclass(frozen=True, slots=True)
class Link:
    """A way to another page; `here` marks the page itself."""

    title: str
    address: str
    here: bool = False


def render_page(
    title: str,
    sections: Sequence[Section],
    *,
    lead: str = "",
    warnings: Sequence[str] = (),
    links: Sequence[Link] = (),
    viewer: bool = False,
    served: bool = False,
) -> str:
    """A whole HTML document.

    Parameters
    ----------
    title : str
        Of the document and its first heading.
    sections : sequence of Section
        In the order of reading; each gets an entry in the contents.
    lead : str
        A sentence or two under the title.
    warnings : sequence of str
        What a reader must know before any figure, such as that the data is a stand-in.
    links : sequence of Link
        Other pages, at the top.
    viewer : bool
        Pictures with a `View` open in the viewer.
    served : bool
        By a server that sends its own content security policy, and scripts and styles as files.
    """
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            sections=sections,
            lead=lead,
            warnings=warnings,
            links=links,
            style=Markup(_text("style.css")),
            viewer=_viewer() if viewer else None,
            served=served,
            research_use=RESEARCH_USE,
            version=pipeline.__version__,
        )
    )


@dataclass(frozen=True, slots=True)
class _Viewer:
    """What the viewer adds to a page; `digest` names the script to the security policy."""

    script: Markup
    style: Markup
    digest: str


@cache
def _viewer() -> _Viewer:
    script = _text("viewer.js")
    digest = b64encode(sha256(script.encode()).digest()).decode("ascii")
    return _Viewer(Markup(script), Markup(_text("viewer.css")), digest)


def _text(name: str) -> str:
    return files("pipeline.html").joinpath(name).read_text(encoding="utf-8")


@cache
def environment() -> jinja2.Environment:
    """The templates of this room; everything that is not `Markup` is escaped."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.html", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
