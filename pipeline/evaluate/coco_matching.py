"""COCO's matching of detections to objects, for all images and thresholds at once.

In each image and class, detections take objects in the order of their scores: the free object
with the largest IoU at or above the threshold, objects inside the area range before the others;
a crowd may be taken any number of times. These are the rules of `COCOeval.evaluateImg` in
pycocotools. Here the detections of equal place in that order are handled together, in all images,
at all thresholds and area ranges, so the number of steps does not grow with the number of images.

The overlaps are sparse, and computed as pycocotools does (`bbIou` in its maskApi.c), in the same
order and precision, so that a pair at exactly a threshold falls on the same side: the intersection
over the union, and over the detection's own area where the object is a crowd.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.evaluate.coco_arrays import GroundTruth, Predictions, runs

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # IoU
AREAS = {  # square pixels, both ends inside, as COCO has it
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
MISS, HIT, IGNORED = 0, 1, 2  # what became of a detection
CHUNK = 2_000_000  # pairs compared at once, about 200 MB at their peak
AT_ONCE = 200_000  # detections matched together; bounds the memory
Limit = float | np.ndarray  # the lowest score that counts, of all classes or (K,) of each


@dataclass(frozen=True, slots=True)
class Matches:
    """What became of every detection and every object.

    Attributes
    ----------
    truth : GroundTruth
    found : Predictions
    status : array (T, A, d), uint8
        `MISS`, `HIT` or `IGNORED` at each IoU threshold and area range.
    taken : array (m, T, A), bool
        Whether a detection has the object.
    outside : array (m, A), bool
        Whether the object does not count: a crowd, or not of the area range.
    partner : array (d,), int64
        Object of a hit at the first threshold over all areas; -1 for others.
    """

    truth: GroundTruth
    found: Predictions
    status: np.ndarray
    taken: np.ndarray
    outside: np.ndarray
    partner: np.ndarray


def match(
    truth: GroundTruth,
    found: Predictions,
    thresholds: np.ndarray = THRESHOLDS,
    areas: dict[str, tuple[float, float]] = AREAS,
) -> Matches:
    """Match all detections by COCO's rules."""
    matching = _Matching(truth, found, thresholds, np.array(list(areas.values())).T)
    for rows in _parts(found.image):
        matching.run(rows)
    return matching.result


def reaching(matches: Matches, limit: Limit) -> np.ndarray:
    """Whether each detection has the lowest score of its class, (d,), bool."""
    lowest = np.broadcast_to(limit, matches.truth.classes)
    return matches.found.score >= lowest[matches.found.label]


def above(matches: Matches, limit: Limit) -> Matches:
    """The matching at IoU 0.5 of the detections with at least the lowest score of their class.

    Nothing but the others falls away, because detections with lower scores choose later.
    """
    found = matches.found.where(reaching(matches, limit))
    return match(matches.truth, found, THRESHOLDS[:1], {"all": AREAS["all"]})


class _Matching:
    """A matching under way; `run` adds the detections of some images."""

    def __init__(
        self, truth: GroundTruth, found: Predictions, thresholds: np.ndarray, limits: np.ndarray
    ) -> None:
        # A threshold of 1 would be missed by rounding; pycocotools lowers it by as much.
        self.levels, self.limits = np.minimum(thresholds, 1 - 1e-10), limits
        shape = (len(thresholds), limits.shape[1])
        self.result = Matches(
            truth,
            found,
            status=np.zeros((*shape, len(found)), dtype=np.uint8),
            taken=np.zeros((len(truth.area), *shape), dtype=bool),
            outside=_out_of_range(truth.area, limits) | truth.crowd[:, None],
            partner=np.full(len(found), -1, dtype=np.int64),
        )

    def run(self, rows: slice) -> None:
        """Match the detections `rows`, which are all those of their images."""
        truth, found = self.result.truth, self.result.found
        classes = max(truth.classes, 1)
        keys = found.image[rows] * classes + found.label[rows]
        objects = truth.image * classes + truth.label
        least = float(self.levels.min())
        size = found.boxes[rows, 2] * found.boxes[rows, 3]
        if truth.masks is None or found.masks is None:
            pairs = overlaps(found.boxes[rows], keys, truth.boxes, objects, truth.crowd, least)
        else:
            masks = found.masks[rows]
            pairs = mask_overlaps(masks, keys, truth.masks, objects, truth.crowd, least)
            size = mask_areas(masks)
        state = np.zeros((len(keys), len(self.levels), self.limits.shape[1]), dtype=np.uint8)
        partner = self.result.partner[rows]  # a view
        for wave in _waves(*pairs, keys):
            for d, g, iou in wave:
                free = self._take(d, g, iou, state, HIT)
                partner[d] = np.where(free, g, partner[d])
            for d, g, iou in wave:
                self._take(d, g, iou, state, IGNORED)
        alone = _out_of_range(size, self.limits)[:, None, :] & (state == MISS)
        state[alone] = IGNORED  # unmatched, and not of the area range
        self.result.status[:, :, rows] = state.transpose(1, 2, 0)

    def _take(
        self, d: np.ndarray, g: np.ndarray, iou: np.ndarray, state: np.ndarray, outcome: int
    ) -> np.ndarray:
        """Give objects to detections that have none yet; each of `d` and `g` occurs once.

        `outcome` is `HIT` for objects that count and `IGNORED` for the others.

        Returns
        -------
        array (n,), bool
            Whether it happened at the first threshold and area range.
        """
        taken = self.result.taken
        allowed = self.result.outside[g] == (outcome == IGNORED)  # (n, A)
        if not allowed.any():
            return np.zeros(len(d), dtype=bool)
        now = state[d]
        enough = (iou[:, None] >= self.levels)[:, :, None]  # (n, T, 1)
        free = enough & allowed[:, None, :] & ~taken[g] & (now == MISS)
        now[free] = outcome
        state[d] = now
        taken[g] |= free & ~self.result.truth.crowd[g, None, None]
        return free[:, 0, 0]


def _out_of_range(area: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """(n, A), bool."""
    return (area[:, None] < limits[0]) | (area[:, None] > limits[1])


def _parts(image: np.ndarray) -> Iterator[slice]:
    """Slices of detections, about `AT_ONCE` each, whole images always."""
    start = 0
    while start < len(image):
        last = image[min(start + AT_ONCE, len(image)) - 1]
        end = int(np.searchsorted(image, last, "right"))
        yield slice(start, end)
        start = end


def _waves(
    d: np.ndarray, g: np.ndarray, iou: np.ndarray, keys: np.ndarray
) -> Iterator[list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Pairs (detection, object, IoU) in the order of the matching.

    A wave has at most one detection of each image and class: the first, then the second, and so
    on, of those that overlap anything. Inside a wave come the detections' favourite objects,
    then their second ones, and so on; of equal overlaps the later object is the favourite.
    """
    order = np.lexsort((-g, -iou, d))
    first, choice = runs(d[order])
    _, turn = runs(keys[d[order[first]]])  # of each detection in its image and class
    turn = np.repeat(turn, np.diff(np.append(first, len(d))))
    for wave in _grouped(turn):
        chosen = (order[wave[part]] for part in _grouped(choice[wave]))
        yield [(d[rows], g[rows], iou[rows]) for rows in chosen]


def _grouped(number: np.ndarray) -> Iterator[np.ndarray]:
    """Rows with number 0, then those with number 1, ..."""
    order = np.argsort(number, kind="stable")
    borders = np.flatnonzero(np.diff(number[order])) + 1
    yield from np.split(order, borders) if len(order) else []


def overlaps(
    boxes: np.ndarray,
    keys: np.ndarray,
    objects: np.ndarray,
    object_keys: np.ndarray,
    crowd: np.ndarray,
    minimum: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of equal key with an IoU of at least `minimum`.

    Parameters
    ----------
    boxes, objects : array (d, 4) and (m, 4)
        x, y, width, height in pixels.
    keys, object_keys : array (d,) and (m,), int
        What must be equal to be compared (the image, or image and class); `object_keys` ascend.
    crowd : array (m,), bool

    Returns
    -------
    (array (p,), array (p,), array (p,))
        Row of the detection (ascending), row of the object (ascending for equal detections), IoU.
    """
    first = np.searchsorted(object_keys, keys, "left")
    counts = np.searchsorted(object_keys, keys, "right") - first
    parts = [
        _pairs(rows, first, counts, boxes, objects, crowd, minimum) for rows in _chunks(counts)
    ]
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    d, g, iou = (np.concatenate(column) for column in zip(*parts, strict=True))
    return d, g, iou


def mask_overlaps(
    masks: np.ndarray,
    keys: np.ndarray,
    objects: np.ndarray,
    object_keys: np.ndarray,
    crowd: np.ndarray,
    minimum: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `overlaps`, of masks (d,) and (m,): COCO run lengths, by pycocotools' own arithmetic."""
    from pycocotools import mask as coco

    first = np.searchsorted(object_keys, keys, "left")
    last = np.searchsorted(object_keys, keys, "right")
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for rows in np.split(np.arange(len(keys)), np.flatnonzero(np.diff(keys)) + 1):
        if not len(rows) or first[rows[0]] == last[rows[0]]:
            continue
        mine = slice(first[rows[0]], last[rows[0]])
        iou = coco.iou(masks[rows].tolist(), objects[mine].tolist(), crowd[mine].tolist())
        d, g = np.nonzero(iou >= minimum)
        found.append((rows[d], mine.start + g, iou[d, g]))
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    d, g, iou = (np.concatenate(column) for column in zip(*found, strict=True))
    return d, g, iou


def mask_areas(masks: np.ndarray) -> np.ndarray:
    """Pixels of masks (d,), COCO run lengths."""
    from pycocotools import mask as coco

    return np.asarray(coco.area(masks.tolist()), dtype=np.float64).reshape(-1)


def _chunks(counts: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of detections that have something to compare, about `CHUNK` pairs at a time."""
    rows = np.flatnonzero(counts)
    part = np.cumsum(counts[rows]) // CHUNK
    yield from np.split(rows, np.flatnonzero(np.diff(part)) + 1) if len(rows) else []


def _pairs(
    rows: np.ndarray,
    first: np.ndarray,
    counts: np.ndarray,
    boxes: np.ndarray,
    objects: np.ndarray,
    crowd: np.ndarray,
    minimum: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = counts[rows]
    d = np.repeat(rows, n)
    within = np.arange(len(d)) - np.repeat(np.cumsum(n) - n, n)
    g = np.repeat(first[rows], n) + within
    iou = paired_iou(boxes[d], objects[g], crowd[g])
    enough = iou >= minimum
    return d[enough], g[enough], iou[enough]


def paired_iou(boxes: np.ndarray, objects: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU of row i of `boxes` with row i of `objects`, both (n, 4) x, y, width, height."""
    dx, dy, dw, dh = boxes.T
    gx, gy, gw, gh = objects.T
    width = np.minimum(dw + dx, gw + gx) - np.maximum(dx, gx)
    height = np.minimum(dh + dy, gh + gy) - np.maximum(dy, gy)
    touching = (width > 0) & (height > 0)
    shared = np.where(touching, width * height, 0.0)
    own = dw * dh
    union = np.where(crowd, own, own + gw * gh - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=touching)
