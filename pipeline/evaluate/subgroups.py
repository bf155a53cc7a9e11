"""The figures by what is known of the images (view, sex, age, plane) and by the objects' size."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.evaluate.matching import AREAS, Limit, reaching
from pipeline.evaluate.metrics import CocoScore, rounded
from pipeline.evaluate.resample import Weighted

# Keys of COCO image entries or of their ``attributes`` that may divide a test set.
ATTRIBUTES = ("view_position", "view", "sex", "age", "plane", "modality", "finding", "super_class")
AGE_BANDS = (0, 18, 40, 60, 80)  # years; each reaches up to the next


def subgroups(
    score: CocoScore, images: Sequence[Mapping[str, Any]], limit: Limit | None
) -> list[dict[str, Any]]:
    """One row per attribute and value that occurs, values in order; sizes first."""
    weighted = Weighted([score.matches], [limit])
    ordered = sorted(images, key=lambda image: image["id"])
    rows = [_size_row(score, size, limit) for size in list(AREAS)[1:]]
    for attribute in ATTRIBUTES:
        values = [_value(image, attribute) for image in ordered]
        present = sorted({v for v in values if v is not None}, key=_in_order)
        for value in present:
            chosen = np.array([v == value for v in values], dtype=np.int64)
            rows.append({"attribute": attribute, "value": value, **_row(weighted, chosen)})
    return rows


def _value(image: Mapping[str, Any], attribute: str) -> str | None:
    """The value of an attribute in words; None where it is not known."""
    value = {**image, **_mapping(image.get("attributes"))}.get(attribute)
    if attribute == "age":
        return _band(value)
    return value if isinstance(value, str) and value else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _band(age: object) -> str | None:
    """Age band of an age in years: "40-59", "80+"."""
    if not isinstance(age, int | float) or isinstance(age, bool) or not age >= 0:
        return None
    place = int(np.searchsorted(AGE_BANDS, age, "right")) - 1
    if place == len(AGE_BANDS) - 1:
        return f"{AGE_BANDS[place]}+"
    return f"{AGE_BANDS[place]}-{AGE_BANDS[place + 1] - 1}"


def _in_order(value: str) -> tuple[int, str]:
    """Age bands by their first number, everything else by name."""
    first = value.rstrip("+").split("-")[0]
    return (int(first) if first.isdecimal() else 0, value)


def _row(weighted: Weighted, chosen: np.ndarray) -> dict[str, Any]:
    figures = weighted.figures(chosen, chosen)
    real = weighted.truth.image[~weighted.truth.crowd]
    names = ("AP", "AP50", "sensitivity", "fp_per_image")
    counts = {"images": int(chosen.sum()), "objects": int(chosen[real].sum())}
    return counts | {name: rounded(figures[name]) for name in names}


def _size_row(score: CocoScore, size: str, limit: Limit | None) -> dict[str, Any]:
    """Objects of one COCO size. Misses of a size do not exist, so there is no rate of them."""
    matches = score.matches
    a = list(AREAS).index(size)
    mine = ~matches.outside[:, a]
    objects = int(mine.sum())
    sensitivity = None
    if limit is not None and objects:
        partner = matches.partner[reaching(matches, limit)]
        sensitivity = rounded(mine[partner[partner >= 0]].sum() / objects)
    t50 = score.averages.precision[0, :, :, a]
    known = t50[t50 > -1]
    return {
        "attribute": "size",
        "value": size,
        "images": len(np.unique(matches.truth.image[mine])),
        "objects": objects,
        "AP": score.value(f"AP_{size}"),
        "AP50": rounded(known.mean()) if known.size else None,
        "sensitivity": sensitivity,
        "fp_per_image": None,
    }
