"""The page itself; what it shows comes later, as JSON."""

from functools import cache

import jinja2
import numpy as np
from markupsafe import Markup

from pipeline.browse.boxes import BOX_KINDS
from pipeline.browse.collection import ORDERS, SIZES
from pipeline.browse.review import VERDICTS
from pipeline.browse.session import Session
from pipeline.html.page import Section, render_page

ORDER_NAMES = {
    "file": "as in the file",
    "loss": "likeliest label errors, by loss",
    "disagreement": "likeliest label errors, by disagreement",
    "boxes": "most boxes",
}
SIZE_NAMES = {
    "all": "any",
    "small": "small (up to 32² px)",
    "medium": "medium (32² to 96² px)",
    "large": "large (from 96² px)",
}


def page(session: Session) -> str:
    """The whole HTML document."""
    collection = session.collection
    orders = ORDERS if collection.compared else ("file", "boxes")
    present = set(collection.boxes.kind.tolist())
    body = _template().render(
        splits=collection.splits,
        classes=collection.classes,
        kinds=[kind for code, kind in enumerate(BOX_KINDS) if code in present],
        sizes=[(size, SIZE_NAMES[size]) for size in SIZES],
        orders=[(order, ORDER_NAMES[order]) for order in orders],
        labelled=collection.labelled,
        compared=collection.compared,
        verdicts=VERDICTS,
        scored=bool(np.isfinite(collection.boxes.score).any()),
        recipes=session.recipes,
    )
    lead = (
        f"{len(collection.images)} images, {len(collection.boxes)} boxes. Marks are written to "
        f"{session.review.path.name}."
    )
    sections = [Section("pictures", "Pictures", Markup(body))]
    return render_page(session.title, sections, lead=lead, served=True)


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.browse", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("browse.html.j2")
