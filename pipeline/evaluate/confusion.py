"""Which class is taken for which, with the background as a class of its own."""

from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.evaluate.matching import AREAS, IGNORED, match
from pipeline.evaluate.tables import Found, Truth

BACKGROUND = "background"


def confusion(truth: Truth, found: Found) -> list[dict[str, Any]]:
    """Pairs of true and predicted class at IoU 0.5.

    Classes are disregarded in the matching, which is otherwise COCO's. A detection without
    object was found in the background; an object without detection was taken for it.
    """
    kept = found.where(np.lexsort((-found.score, found.image)))  # as if of one class
    one = replace(truth, label=np.zeros_like(truth.label), categories=((1, "any"),))
    blind = replace(kept, label=np.zeros_like(kept.label))
    pairs = match(one, blind, np.array([0.5]), {"all": AREAS["all"]})
    names = [name for _, name in truth.categories] + [BACKGROUND]
    none = truth.classes
    true = np.append(truth.label, none)[pairs.partner]  # partner -1: the background
    counted = pairs.status[0, 0] != IGNORED
    table = np.zeros((none + 1, none + 1), dtype=np.int64)
    np.add.at(table, (true[counted], kept.label[counted]), 1)
    missed = truth.label[~truth.crowd & ~pairs.taken[:, 0, 0]]
    np.add.at(table, (missed, none), 1)
    return [
        {"true": names[i], "predicted": names[j], "count": int(table[i, j])}
        for i in range(none + 1)
        for j in range(none + 1)
        if (i, j) != (none, none)
    ]
