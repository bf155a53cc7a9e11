"""Pages, tables, pictures and charts: escaped, self-contained, the same bytes each time."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
from markupsafe import Markup
from PIL import Image

from pipeline.html.chart import Series, chart, charts
from pipeline.html.page import RESEARCH_USE, Link, Section, render_page
from pipeline.html.parts import (
    Picture,
    Tile,
    data_uri,
    facts,
    fold,
    gallery,
    inline,
    items,
    table,
    tiles,
)

EVIL = '<img src=x onerror="alert(1)">'


class Outline(HTMLParser):
    """What a page is made of."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))

    def all(self, tag):
        return [attributes for name, attributes in self.attributes if name == tag]

    def values(self, name):
        return [attributes[name] for _, attributes in self.attributes if name in attributes]


def test_everything_that_is_not_markup_is_escaped():
    body = Markup("").join(
        (
            table(EVIL, [EVIL, EVIL], [[EVIL, EVIL]], EVIL),
            tiles([Tile(EVIL, EVIL, EVIL)]),
            facts({EVIL: EVIL}),
            gallery([Picture("data:,", EVIL, EVIL)]),
            fold(EVIL, Markup("<p>mine</p>")),
            items([EVIL]),
            charts([chart(EVIL, [Series(EVIL, [0, 1], [0, 1])], "x", "y", note=EVIL)]),
        )
    )
    text = render_page(
        EVIL,
        [Section("a", EVIL, body)],
        lead=EVIL,
        warnings=[EVIL],
        links=[Link(EVIL, EVIL)],
    )
    assert "<img src=x" not in text and text.count("<p>mine</p>") == 1
    assert not [a for _, a in Outline(text).attributes if "onerror" in a]


def test_a_page_can_be_read_by_everybody():
    sections = [Section(name, name.title(), table("t", ["a", "b"], [["1", "2"]])) for name in "pq"]
    page = Outline(render_page("Title", sections, links=[Link("other", "o.html", here=True)]))
    assert page.all("html") == [{"lang": "en"}] and page.tags.count("h1") == 1
    assert page.tags.count("main") == 1 and "script" not in page.tags
    assert page.all("a")[0] == {"class": "skip", "href": "#content"}
    assert len(page.values("id")) == len(set(page.values("id")))
    assert {"#p", "#q", "o.html"} <= set(page.values("href"))
    assert page.tags.count("caption") == page.tags.count("table") == 2


def test_the_mark_stands_on_every_page_at_the_top_and_at_the_end():
    assert render_page("t", []).count(RESEARCH_USE) == 2


def test_columns_of_numbers_are_set_to_the_right():
    columns = {
        "number": ["0.1", "-1,024", "n/a"],
        "mixed": ["word", "2", ""],
        "coloured": [Markup("<b>7</b>"), "", "+3.2%"],
        "interval": ["0.1 to 0.2", "-0.100 to +0.002", "n/a"],
        "spread": ["0.41 ± 0.02", "1.64 M", "< 0.001"],
        "remark": ["n/a (no spread)", "0.035 (paired t, 3 seeds)", ""],
        "name": ["3 dogs and a cat", "2", "vit"],
    }
    rows = [[f"row {i}", *values] for i, values in enumerate(zip(*columns.values(), strict=True))]
    text = table("t", ["", *columns], rows)
    right = re.findall(r'<th scope="col" class="number">([a-z]+)', text)
    assert right == ["number", "coloured", "interval", "spread", "remark"]


def test_text_between_backquotes_is_code():
    assert inline("run `a < b` now") == "run <code>a &lt; b</code> now"
    assert inline("an odd ` stays") == "an odd ` stays"


def test_a_picture_is_made_smaller_but_never_larger(tmp_path):
    Image.fromarray(np.zeros((50, 200, 3), np.uint8)).save(tmp_path / "p.png")

    def size(side):
        head, content = data_uri(tmp_path / "p.png", side).split(",")
        assert head == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            return image.size

    assert size(100) == (100, 25) and size(1000) == (200, 50)
    assert data_uri(tmp_path / "p.png", 100) == data_uri(tmp_path / "p.png", 100)


def test_a_chart_is_the_same_bytes_and_takes_its_colours_from_the_page():
    def drawn(title="A"):
        series = [
            Series("one", [0, 0.5, 1], [1, 0.123456, 0]),
            Series("two", [0, 1], [0, float("nan")]),
        ]
        return chart(title, series, "recall", "precision", unit_x=True, unit_y=True)

    assert drawn() == drawn()
    assert not re.search(r"#[0-9a-f]{6}\b", drawn()) and "var(--s1)" in drawn()
    assert "<style" not in drawn() and "DejaVu" not in drawn()
    ids = re.findall(r' id="([^"]*)"', drawn("A") + drawn("B"))
    assert ids and len(ids) == len(set(ids))
    assert all(f"url(#{name})" in drawn("A") + drawn("B") for name in ids if name[0] == "p")


def test_numbers_on_an_axis_keep_their_decimals():
    text = chart("lr", [Series("", [1, 2], [0.0001, 0.0002])], "epoch", "lr", whole_x=True)
    assert ">0.00015" in text or ">0.00012" in text
    assert re.search(r">1</text>", text) and not re.search(r">1\.5</text>", text)


def test_more_curves_than_can_be_told_apart_are_said():
    many = [Series(f"c{i}", [0, 1], [0, i]) for i in range(11)]
    text = chart("t", many, "x", "y")
    assert "The first 8 of 11 are drawn." in text and "c7" in text and "c8" not in text
