"""Precision and recall of ranked detections, as COCO averages them.

The figures are those of `COCOeval.accumulate` in pycocotools: precision at a recall is the
highest precision at that recall or above, read at 101 recalls from 0 to 1, and AP is their mean
over recalls, IoU thresholds and classes with objects.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.evaluate.matching import HIT, IGNORED, Matches

RECALLS = np.linspace(0.0, 1.0, 101)
LIMITS = (1, 10, 100)  # detections of one class in one image, for AR1, AR10 and AR100


@dataclass(frozen=True, slots=True)
class Averages:
    """Precision and recall of every class; -1 where a class has no object in the area range.

    Attributes
    ----------
    precision : array (T, 101, K, A)
        At the IoU thresholds, recalls, classes and area ranges.
    recall : array (T, K, A, 3)
        With the detections per image that `LIMITS` allows.
    """

    precision: np.ndarray
    recall: np.ndarray


def accumulate(matches: Matches) -> Averages:
    """Precision and recall of all classes."""
    truth, found = matches.truth, matches.found
    levels, areas, _ = matches.status.shape
    precision = np.full((levels, len(RECALLS), truth.classes, areas), -1.0)
    recall = np.full((levels, truth.classes, areas, len(LIMITS)), -1.0)
    for k in range(truth.classes):
        rows = ranking(found.score, found.label == k)
        objects = (~matches.outside[truth.label == k]).sum(axis=0)  # (A,)
        for a in np.flatnonzero(objects):
            for t in range(levels):
                status = matches.status[t, a][rows]
                hits = np.flatnonzero(status == HIT)
                counted = np.cumsum(status != IGNORED)[hits]
                number = np.arange(1, len(hits) + 1)
                precision[t, :, k, a] = at_recalls(number, counted, objects[a])
                ranks = found.rank[rows[hits]]
                recall[t, k, a] = [(ranks < n).sum() / objects[a] for n in LIMITS]
    return Averages(precision, recall)


def ranking(score: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Rows of the chosen detections by descending score; equal scores in the order of images."""
    rows = np.flatnonzero(chosen)
    return rows[np.argsort(-score[rows], kind="stable")]


def at_recalls(hits: np.ndarray, counted: np.ndarray, objects: float) -> np.ndarray:
    """Precision at the 101 recalls.

    Parameters
    ----------
    hits, counted : array (h,)
        At each hit, by descending score: hits and counted detections so far. Only hits can raise
        the precision, so nothing else needs to be looked at.
    objects : float
        Above 0.
    """
    precision = hits / (counted + np.spacing(1))
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(hits / objects, RECALLS, "left")
    return np.append(highest, 0.0)[places]
