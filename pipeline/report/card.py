"""A dataset's card, Markdown, as part of a page."""

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

_BELOW = 2  # headings of the page above those of the card


def prose(text: str) -> Markup:
    """Markdown as HTML: no raw HTML, no images, links to the web only.

    Links to files would lead nowhere from where the page lies; their words stay.
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    tokens = reader.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + _BELOW)}"
        if token.children is not None:
            token.children = _without_files(token.children)
    rendered = reader.renderer.render(tokens, reader.options, {})
    return Markup('<div class="prose">\n{}</div>\n').format(Markup(rendered))


def _without_files(tokens: list[Token]) -> list[Token]:
    """Inline tokens without the links that are not to the web."""
    kept, dropped = [], False  # links do not nest
    for token in tokens:
        if token.type == "link_open":
            dropped = not str(token.attrs["href"]).startswith(("https://", "http://"))
        if not (dropped and token.type in ("link_open", "link_close")):
            kept.append(token)
    return kept
