"""Which anchors stand for which box: torchvision's `Matcher`, in bounded memory and fewer passes.

An anchor whose best overlap is at least `HIGH` stands for that box, below `LOW` for background,
and counts for nothing in between. The anchors that overlap a box best of all stand for the box
that they overlap best, however little that is. (RetinaNet, arXiv 1708.02002, 4.1, with
torchvision's rule for boxes that no anchor fits.)
"""

import torch
from torch import Tensor

HIGH, LOW = 0.5, 0.4  # IoU
BACKGROUND, IGNORED = -1, -2
CHUNK = 2**22  # overlaps held at a time


def match(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Per anchor the index of its box, `BACKGROUND` or `IGNORED`.

    Parameters
    ----------
    boxes : tensor (n, 4), xyxy; n may be 0
    anchors : tensor (A, 4), xyxy

    Returns
    -------
    tensor (A,), int64
    """
    best = anchors.new_full((len(anchors),), -1.0)
    which = torch.full_like(best, BACKGROUND, dtype=torch.int64)
    nearest = torch.zeros_like(best, dtype=torch.bool)
    step = max(1, CHUNK // max(1, len(anchors)))
    sides = anchors.t().contiguous()  # (4, A)
    for start in range(0, len(boxes), step):
        overlaps = _iou(boxes[start : start + step].to(anchors.dtype), sides)  # (n, A)
        top, index = overlaps.max(dim=0)
        better = top > best
        best = torch.where(better, top, best)
        which = torch.where(better, index + start, which)
        nearest |= (overlaps == overlaps.amax(dim=1, keepdim=True)).any(dim=0)
    kept = torch.where(best < LOW, BACKGROUND, torch.where(best < HIGH, IGNORED, which))
    return torch.where(nearest, which, kept)


def _iou(boxes: Tensor, sides: Tensor) -> Tensor:
    """Overlaps (n, A) of boxes (n, 4) with anchors given side by side (4, A).

    The arithmetic of `torchvision.ops.box_iou`, bit for bit, a coordinate at a time.
    """
    left, top, right, bottom = sides
    x1, y1, x2, y2 = boxes.t()[:, :, None]  # each (n, 1)
    shared = torch.minimum(x2, right).sub_(torch.maximum(x1, left)).clamp_(min=0)
    shared *= torch.minimum(y2, bottom).sub_(torch.maximum(y1, top)).clamp_(min=0)
    areas = (x2 - x1) * (y2 - y1) + (right - left) * (bottom - top)
    return shared.div_(areas.sub_(shared))
