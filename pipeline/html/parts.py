"""What sections are made of: tables, key figures, facts, galleries, folds, pictures."""

import base64
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from markupsafe import Markup, escape
from PIL import Image

from pipeline.html.page import environment

# Numbers as reports write them: 0.123, 1,024, +3.2 %, 0.41 ± 0.02, < 0.001, 0.1 to 0.2, n/a, and
# any of them with a remark in brackets
_NUMBER = re.compile(
    r"(n/a|[-+<≥≤]? ?\d[\d,. ±%×/-]*( to [-+]?[\d.]+)?[a-zA-Zµ%]{0,6})( \([^()]*\))?"
)


@dataclass(frozen=True, slots=True)
class Tile:
    """One key figure: its name, its value as text, and what stands under it."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Box:
    """A box (x, y, width, height) in the viewer; without a score it is ground truth."""

    box: Sequence[float]
    label: str
    score: float | None
    colour: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class View:
    """What the viewer shows of a picture (see viewer.js).

    Attributes
    ----------
    name : str
    width, height : int
        Of the picture that the boxes are in, in pixels.
    boxes : sequence of Box
    pixels : str
        Address of a script with its values (`pipeline.predict.formats.pixels`), or empty.
    picture : str
        A data URI without boxes, or empty.
    drawn : str
        Address of a picture with its boxes, for want of the others.
    """

    name: str
    width: int
    height: int
    boxes: Sequence[Box]
    pixels: str = ""
    picture: str = ""
    drawn: str = ""

    @property
    def json(self) -> str:
        """For the page."""
        values = asdict(self)
        for box, given in zip(values["boxes"], self.boxes, strict=True):
            box["colour"] = "#{:02x}{:02x}{:02x}".format(*given.colour)
        return json.dumps(values)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a gallery.

    Attributes
    ----------
    source : str
        A data URI (`data_uri`) or a relative address.
    alt : str
        What it shows, for those who do not see it.
    caption : str
        Plain text or `Markup`.
    address : str
        Where the picture leads to, such as itself in full size; empty: nowhere.
    size : (width, height) or None
        In pixels; keeps its place while the picture is still being loaded.
    view : View or None
        Opens it in the viewer.
    """

    source: str
    alt: str
    caption: str
    address: str = ""
    size: tuple[int, int] | None = None
    view: View | None = None


def table(
    caption: str, header: Sequence[str], rows: Iterable[Sequence[object]], note: str = ""
) -> Markup:
    """A table; columns of numbers are set to the right, wide ones scroll by themselves."""
    cells = [[_text(cell) for cell in row] for row in rows]
    numeric = {
        i for i in range(1, len(header)) if cells and all(_is_number(row[i]) for row in cells)
    }
    return _part("table", caption=caption, header=header, rows=cells, numeric=numeric, note=note)


def tiles(figures: Iterable[Tile]) -> Markup:
    """Key figures side by side."""
    return _part("tiles", figures=list(figures))


def facts(pairs: Mapping[str, object]) -> Markup:
    """Names with their values."""
    return _part("facts", pairs={name: _text(value) for name, value in pairs.items()})


def gallery(pictures: Iterable[Picture], *, wide: bool = False) -> Markup:
    """Pictures in a grid that fits the screen; `wide` for those that need width."""
    return _part("gallery", pictures=list(pictures), wide=wide)


def data_uri(source: Path | Image.Image, side: int, quality: int = 82) -> str:
    """A picture as a JPEG data URI.

    Parameters
    ----------
    source : Path or Image
    side : int
        Longest side in pixels; larger pictures are made smaller, none is enlarged.
    quality : int
        Of the JPEG, 1 to 95.
    """
    if isinstance(source, Path):
        with Image.open(source) as opened:
            return data_uri(opened.convert("RGB"), side, quality)
    image = source.convert("RGB")
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    # Full colour resolution: thin coloured boxes would fade otherwise.
    image.save(stream, "JPEG", quality=quality, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def fold(summary: str, body: Markup, *, shown: bool = False) -> Markup:
    """Something that a reader may open."""
    return _part("fold", summary=summary, body=body, shown=shown)


def paragraph(text: str, kind: str = "") -> Markup:
    """A paragraph of plain text; `kind` "note" sets it smaller."""
    return Markup('<p class="{}">{}</p>\n').format(kind, inline(text))


def items(lines: Iterable[str]) -> Markup:
    """A list of plain texts."""
    return Markup("<ul>\n{}</ul>\n").format(
        joined(*(Markup("<li>{}</li>\n").format(inline(line)) for line in lines))
    )


def inline(text: str) -> Markup:
    """Plain text, with what stands between backquotes as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backquote without its partner
        return escape(text)
    return joined(
        *(
            Markup("<code>{}</code>").format(part) if i % 2 else escape(part)
            for i, part in enumerate(parts)
        )
    )


def joined(*parts: Markup) -> Markup:
    """One after the other."""
    return Markup("").join(parts)


def _text(value: object) -> str:
    if value is None:
        return "n/a"
    return value if isinstance(value, str) else str(value)


def _is_number(cell: str) -> bool:
    text = cell.striptags() if isinstance(cell, Markup) else cell
    return not text or _NUMBER.fullmatch(text) is not None


def _part(name: str, **values: object) -> Markup:
    template = environment().get_template("parts.html.j2")
    return Markup(template.render(part=name, **values))
