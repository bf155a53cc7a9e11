"""Which places of a pyramid learn from which box: by task alignment (TOOD, arXiv 2108.07755), or
by statistics of overlaps (ATSS, arXiv 1912.02424).

By alignment a place is a candidate for a box that holds it. Of each box's candidates those stand
for it whose prediction is best already, by score * IoU**6: classification and localisation are
asked together, so that the places that score high are those whose boxes fit. A place that several
boxes want goes to the one that it overlaps best.

With ATSS the candidates of a box are those nearest to its centre, some of each level, and those
stand for it whose anchors overlap it by more than is usual among them.

Notation: n boxes, A places of all levels (with RetinaNet's head: anchors), K classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

CANDIDATES = 13  # places per box at most
POWER = 6.0  # of the IoU, in the alignment
CHUNK = 2**22  # overlaps held at a time
NONE = -1


def align(
    boxes: Tensor,
    labels: Tensor,
    places: Tensor,
    predicted: Tensor,
    scores: Tensor,
    least: float,
) -> tuple[Tensor, Tensor]:
    """Per place the index of its box or `NONE`, and the score that it should have.

    The score of a box's best place is the IoU that the box has been given at best; that of the
    others falls with their alignment (eq. 7 there). In bounded memory; nothing waits for a GPU.

    Parameters
    ----------
    boxes : tensor (n, 4), xyxy in pixels; n may be 0
    labels : tensor (n,), int64
    places : tensor (A, 2), x and y in pixels
    predicted : tensor (A, 4), xyxy
    scores : tensor (A, K), 0 to 1
    least : float
        Side in pixels below which a box counts as this large when its candidates are looked for:
        the finest level's stride, so that no box is without a candidate.

    Returns
    -------
    (A,) int64 and (A,) of the type of `scores`
    """
    which = torch.full((len(places),), NONE, dtype=torch.int64, device=places.device)
    if len(boxes) == 0:
        return which, scores.new_zeros(len(places))
    best = scores.new_full((len(places),), 0.0)
    step = max(1, CHUNK // len(places))
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, len(boxes), step):
        part, of = boxes[start : start + step], labels[start : start + step]
        held = inside(places, part, least)  # (n, A)
        overlap = iou(part[:, None], predicted[None]).mul_(held)
        aligned = scores[:, of].t() * overlap**POWER
        value, at = aligned.topk(min(CANDIDATES, len(places)), dim=1)  # (n, C)
        wanted = overlap.gather(1, at) * (value > 0)
        top, row = torch.zeros_like(overlap).scatter_(1, at, wanted).max(dim=0)
        better = top > best
        best, which = torch.where(better, top, best), torch.where(better, row + start, which)
        kept.append((at, value, wanted))
    at, value, wanted = (torch.cat(parts) for parts in zip(*kept, strict=True))
    own = which[at] == torch.arange(len(boxes), device=which.device)[:, None]
    highest, closest = (value * own).amax(dim=1), (wanted * own).amax(dim=1)  # (n,) each
    box = which.clamp(min=0)
    aligned = scores.gather(1, labels[box][:, None])[:, 0] * best**POWER
    share = aligned / highest[box].clamp(min=torch.finfo(aligned.dtype).tiny)
    return which, torch.where(which >= 0, share * closest[box], 0.0)


def atss(
    boxes: Tensor, anchors: Tensor, counts: Sequence[int], nearest: int, least: float
) -> Tensor:
    """Per anchor the index of its box or `NONE`; an anchor that several want takes the closest.

    In bounded memory; nothing waits for a GPU.

    Parameters
    ----------
    boxes : tensor (n, 4), xyxy in pixels; n may be 0
    anchors : tensor (A, 4), xyxy
    counts : sequence of int
        Anchors of each level; their sum is A.
    nearest : int
        Candidates of a level.
    least : float
        As in `align`.

    Returns
    -------
    (A,) int64
    """
    which = torch.full((len(anchors),), NONE, dtype=torch.int64, device=anchors.device)
    best = anchors.new_zeros(len(anchors))
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    step = max(1, CHUNK // len(anchors))
    for start in range(0, len(boxes), step):
        part = boxes[start : start + step]
        at = _nearest(part, centres, counts, nearest)  # (n, C)
        overlap = iou(part[:, None], anchors[at])
        usual = overlap.mean(dim=1) + overlap.std(dim=1)
        centre, reach = _reach(part[:, None], least)
        held = ((centres[at] - centre).abs() <= reach).all(dim=2)
        good = overlap * (held & (overlap >= usual[:, None]))
        dense = overlap.new_zeros(len(part), len(anchors)).scatter_(1, at, good)
        top, row = dense.max(dim=0)
        better = top > best
        best, which = torch.where(better, top, best), torch.where(better, row + start, which)
    return which


def _nearest(boxes: Tensor, centres: Tensor, counts: Sequence[int], nearest: int) -> Tensor:
    """Of each level the places (n, C) of those centres (A, 2) that are nearest to the boxes'."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = (centres[None] - middle[:, None]).square().sum(dim=2)  # (n, A)
    found, begin = [], 0
    for level, count in zip(distance.split(list(counts), dim=1), counts, strict=True):
        found.append(level.topk(min(nearest, count), dim=1, largest=False).indices + begin)
        begin += count
    return torch.cat(found, dim=1)


def inside(places: Tensor, boxes: Tensor, least: float) -> Tensor:
    """Which places (A, 2) lie in which boxes (n, 4), these not smaller than `least`: (n, A)."""
    centre, reach = _reach(boxes[:, None], least)
    return ((places[None] - centre).abs() <= reach).all(dim=2)


def _reach(boxes: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Centres (..., 2) of boxes (..., 4), and half their sides, these not below `least` / 2."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, ((high - low) / 2).clamp(min=least / 2)


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU of boxes (..., 4) xyxy with others, by position and broadcast."""
    shared, union = _areas(boxes, others)
    return shared / union


def giou(boxes: Tensor, others: Tensor) -> Tensor:
    """Generalised IoU (arXiv 1902.09630) of boxes (..., 4) xyxy with others, from -1 to 1.

    torchvision's `generalized_box_iou_loss` is 1 minus this, but waits for a GPU four times.
    """
    shared, union = _areas(boxes, others)
    hull = torch.maximum(boxes[..., 2:], others[..., 2:])
    hull = (hull - torch.minimum(boxes[..., :2], others[..., :2])).prod(dim=-1)
    return shared / union - (hull - union) / hull


def _areas(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of intersection and union, by position and broadcast."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    left, top, right, bottom = others.unbind(-1)
    shared = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp(min=0)
    shared = shared * (torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp(min=0)
    return shared, (x2 - x1) * (y2 - y1) + (right - left) * (bottom - top) - shared
