"""The shell of every page that the project writes: one file, no script, nothing fetched.

A page is made of sections; their bodies come from `pipeline.html.parts` and
`pipeline.html.chart`, or are any `Markup`. Plain text given to these functions is escaped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
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
            style=Markup(files("pipeline.html").joinpath("style.css").read_text(encoding="utf-8")),
            research_use=RESEARCH_USE,
            version=pipeline.__version__,
        )
    )


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
