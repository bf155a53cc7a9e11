"""Curves as inline SVG: drawn by matplotlib, coloured by the page, equal bytes for equal values.

Matplotlib gets placeholder colours, which become CSS variables, so that a chart follows the light
or dark scheme of the page it stands in.
"""

import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLOURS = 8  # series that can be told apart; style.css has as many
_SIZE = (4.4, 3.1)  # inches; decides the size of the text beside the curve
_TEXT, _AXIS, _GRID = "#010101", "#020202", "#030303"
_CSS = {_TEXT: "currentColor", _AXIS: "var(--line)", _GRID: "var(--grid)"}
_CSS |= {f"#0a000{i}": f"var(--s{i})" for i in range(COLOURS)}
_DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2), (2, 2), (8, 2, 2, 2))
_PLAINER = (
    (r"<svg [^>]*viewBox=(\"[^\"]*\")[^>]*>", r"<svg viewBox=\1 HEAD>"),
    (r"<metadata>.*?</metadata>", ""),
    (r"<defs>\s*<style.*?</style>\s*</defs>", ""),  # would hold for the whole page
    (r"font-family: [^;\"]*;? ?", ""),
    (r"<g id=\"[^\"]*\">", "<g>"),
    (r"\s*\n\s*", "\n"),
)
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.0,
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.edgecolor": _AXIS,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _AXIS,
    "ytick.color": _AXIS,
    "xtick.labelcolor": _TEXT,
    "ytick.labelcolor": _TEXT,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
}


@dataclass(frozen=True, slots=True)
class Series:
    """One curve: a name for the legend, and its points; a point that is not finite is a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def chart(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    alt: str = "",
    note: str = "",
    unit_x: bool = False,
    unit_y: bool = False,
    log_x: bool = False,
    whole_x: bool = False,
    diagonal: bool = False,
    point: tuple[float, float] | None = None,
    markers: bool = False,
) -> Markup:
    """A figure with its title, curves and legend.

    Parameters
    ----------
    series : sequence of Series
        The first eight are drawn; the note says so if there are more.
    alt : str
        What the curve shows in words; the title and the names of the series otherwise.
    unit_x, unit_y : bool
        The axis goes from 0 to 1.
    log_x : bool
        Powers of two from 1/8 on the x axis, as FROC curves are drawn.
    whole_x : bool
        Ticks at whole numbers only, for epochs.
    diagonal : bool
        A line from (0, 0) to (1, 1) for comparison.
    point : (float, float), optional
        Marked with a ring, such as the operating point.
    markers : bool
        Mark each point, for curves with few of them.
    """
    shown = list(series[:COLOURS])
    if len(series) > COLOURS:
        note = f"{note} The first {COLOURS} of {len(series)} are drawn.".strip()
    # Ids within a page must differ: they are hashed from the drawing and this salt.
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": title}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, shown, diagonal, point, markers, clip=log_x)
        _set_axes(axes, x_label, y_label, unit_x, unit_y, log_x, whole_x)
        svg = _inline(figure, alt or f"{title}: {', '.join(s.name for s in shown)}")
    legend = _legend([s.name for s in shown]) if len(shown) > 1 or shown[0].name else Markup("")
    words = Markup('<p class="note">{}</p>').format(note) if note else Markup("")
    return Markup(
        '<figure class="chart"><figcaption><p class="title">{}</p></figcaption>\n'
        "{}\n{}{}</figure>\n"
    ).format(title, svg, legend, words)


def charts(drawn: Iterable[Markup]) -> Markup:
    """Charts side by side where there is room."""
    return Markup('<div class="charts">\n{}</div>\n').format(Markup("").join(drawn))


def _draw(
    axes: Axes,
    series: Sequence[Series],
    diagonal: bool,
    point: tuple[float, float] | None,
    markers: bool,
    *,
    clip: bool,
) -> None:
    if diagonal:
        axes.plot((0, 1), (0, 1), color=_AXIS, linewidth=1, linestyle=(0, (3, 3)))
    for i, one in enumerate(series):
        kept = [(a, b) for a, b in zip(one.x, one.y, strict=True) if math.isfinite(b)]
        axes.plot(
            [a for a, _ in kept],
            [b for _, b in kept],
            color=f"#0a000{i}",
            linestyle=(0, dashes) if (dashes := _DASHES[i % len(_DASHES)]) else "-",
            marker="o" if markers or len(kept) == 1 else None,
            markersize=3.5,
            clip_on=clip,
        )
    if point is not None:
        axes.plot(*point, marker="o", markersize=8, markerfacecolor="none", color=_TEXT)


def _set_axes(
    axes: Axes, x_label: str, y_label: str, unit_x: bool, unit_y: bool, log_x: bool, whole_x: bool
) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(visible=True)
    axes.set_axisbelow(True)
    if whole_x:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if log_x:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlim(0.125, max(8.0, axes.get_xlim()[1]))
    if unit_x:
        axes.set_xlim(0, 1)
    if unit_y:
        axes.set_ylim(0, 1)


def _inline(figure: Figure, alt: str) -> Markup:
    """The figure as an ``<svg>`` element without sizes, fonts or colours of its own."""
    stream = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in _CSS.items():
        text = text.replace(colour, variable)
    for pattern, replacement in _PLAINER:
        text = re.sub(pattern, replacement, text, flags=re.DOTALL)
    text = re.sub("<[^>]*>", _shorter, text)
    head = Markup('role="img" aria-label="{}"').format(alt)
    return Markup(text.replace("HEAD", head, 1).strip())


def _shorter(tag: re.Match[str]) -> str:
    """A tag with two decimals in its coordinates; text between tags stays as it is."""
    return re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0])


def _legend(names: Sequence[str]) -> Markup:
    rows = []
    for i, name in enumerate(names):
        dashes = " ".join(str(2 * n) for n in _DASHES[i % len(_DASHES)])
        rows.append(
            Markup(
                '<li><svg viewBox="0 0 36 8" aria-hidden="true"><path d="M0 4H36" fill="none" '
                'stroke="var(--s{})" stroke-width="3" stroke-dasharray="{}"/></svg>{}</li>\n'
            ).format(i, dashes or "none", name)
        )
    return Markup('<ul class="legend">\n{}</ul>\n').format(Markup("").join(rows))
