"""A head without anchors, for training from random weights on few images.

Each place of a level scores the classes and says how far the four sides of its box are, each as a
distribution over bins ("Generalized Focal Loss", arXiv 2006.04388). Places are given to boxes by
their predictions (TOOD, arXiv 2108.07755; see `assignment`), boxes learn by GIoU
(arXiv 1902.09630). With one output per place in place of nine anchors' the head and its loss take
a ninth of RetinaNet's arrays.

Notation: B batch, A places of all levels, K classes, N bins.
"""

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.heads.assignment import CANDIDATES, align, atss, giou, inside, iou
from pipeline.models.heads.base import Head, Size, Targets, block, select, share_of_all
from pipeline.models.params import PAPER, HeadRules, Selection
from pipeline.models.pyramid import LEVEL_STRIDES

DEPTH = 2  # convolutions of a tower
BINS = 16
BIN = 0.5  # width of a bin in strides of the level: a place reaches 7.5 strides to each side
PRIOR = 0.01  # score of a place before training
BOX, DISTRIBUTION = 4.0, 0.5  # weights of the losses beside that of the scores
NEAREST = 9  # of a level, candidates of a box with ATSS


class AlignedHead(Head):
    """Scores and sides of one box per place.

    Parameters
    ----------
    channels : int
        Of the levels and the towers; a multiple of 8.
    num_classes : int
        K; labels are 0 to K - 1, there is no background class.
    rules : HeadRules
    """

    steps: Tensor

    def __init__(self, channels: int, num_classes: int, rules: HeadRules = PAPER) -> None:
        super().__init__()
        self.rules = rules
        self.score_tower, self.side_tower = _tower(channels), _tower(channels)
        self.score = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.side = nn.Conv2d(channels, 4 * BINS, 3, padding=1)
        self.register_buffer("steps", torch.arange(BINS) * BIN, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal of 0.01 for convolutions, and a bias that makes every score `PRIOR`."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        assert self.score.bias is not None
        nn.init.constant_(self.score.bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        """Logits of scores (B, A, K) and of the sides' bins (B, A, 4 * N)."""
        scores = [_flat(self.score(self.score_tower(level))) for level in x]
        sides = [_flat(self.side(self.side_tower(level))) for level in x]
        return {"scores": torch.cat(scores, dim=1), "sides": torch.cat(sides, dim=1)}

    def boxes(self, sides: Tensor, places: Tensor, strides: Tensor) -> Tensor:
        """Boxes (..., 4) xyxy in pixels: each side's mean distance (eq. 5 of GFL)."""
        shares = sides.unflatten(-1, (4, BINS)).softmax(dim=-1)
        # no matrix product: autocast would round it, and boxes with it, to the 8 bits of bf16
        distance = (shares * self.steps).sum(dim=-1) * strides[:, None]
        return torch.cat([places - distance[..., :2], places + distance[..., 2:]], dim=-1)

    def loss(
        self, outputs: dict[str, Tensor], grids: Sequence[Size], size: Size, targets: Targets
    ) -> dict[str, Tensor]:
        """Loss of the scores, GIoU, and the sides' bins, in fp32; see `Head.loss`.

        All are divided by the sum of the aims of the scores over batch and processes. On a GPU
        this waits once, for the places of the positives.
        """
        logits, sides = outputs["scores"].float(), outputs["sides"].float()
        places, strides = cell_centres(grids, logits.device)
        boxes = self.boxes(sides, places, strides)
        counts = [height * width for height, width in grids]
        with torch.no_grad():
            given = [
                self._assigned(target, places, strides, counts, b, s)
                for target, b, s in zip(targets, boxes, logits.sigmoid(), strict=True)
            ]
        which, aims = (torch.stack(parts) for parts in zip(*given, strict=True))  # (B, A) each
        image, place = torch.where(which >= 0)  # (P,) each, P positives of the batch
        starts = torch.tensor([0, *accumulate(len(t["boxes"]) for t in targets)])
        truth = which[image, place] + starts.to(which.device, non_blocking=True)[image]
        labels = torch.cat([target["labels"] for target in targets])[truth]
        aim = torch.cat([target["boxes"] for target in targets])[truth].float()
        weight, total = aims[image, place], share_of_all(aims.sum())
        wanted = torch.zeros_like(logits)
        wanted[image, place, labels] = weight
        scored = score_loss(logits, wanted, focal=self.rules.score_loss == "quality_focal")
        overlap = 1 - giou(boxes[image, place], aim)
        bins = distribution_loss(sides[image, place], places[place], strides[place], aim)
        return {
            "classification": scored / total,
            "box": BOX * (overlap * weight).sum() / total,
            "distribution": DISTRIBUTION * (bins * weight).sum() / total,
        }

    def _assigned(
        self,
        target: dict[str, Tensor],
        places: Tensor,
        strides: Tensor,
        counts: Sequence[int],
        predicted: Tensor,
        scores: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Per place the index of its box or -1, and the score that it should have, (A,) each."""
        boxes = target["boxes"].float()
        if self.rules.assignment == "own":
            return align(boxes, target["labels"], places, predicted, scores, LEVEL_STRIDES[0])
        which = self._by_squares(boxes, places, strides, counts)
        if len(boxes) == 0:
            return which, torch.zeros_like(strides)
        overlap = iou(predicted, boxes[which.clamp(min=0)])
        return which, torch.where(which >= 0, overlap, 0.0)

    def _by_squares(
        self, boxes: Tensor, places: Tensor, strides: Tensor, counts: Sequence[int]
    ) -> Tensor:
        """ATSS, a square for each place: see `atss`."""
        half = strides[:, None] * self.rules.anchor_scale / 2
        squares = torch.cat([places - half, places + half], dim=1)
        return atss(boxes, squares, counts, NEAREST, LEVEL_STRIDES[0])

    def coverage(self, boxes: Tensor, grids: Sequence[Size], size: Size) -> tuple[Tensor, Tensor]:
        """By places inside; without ATSS all candidates count, see `Head.coverage`."""
        places, strides = cell_centres(grids, boxes.device)
        fits = inside(places, boxes, 0.0).any(dim=1)
        if self.rules.assignment == "own":
            held = inside(places, boxes, LEVEL_STRIDES[0])
            return fits, held.sum(dim=1).clamp(max=CANDIDATES)
        which = self._by_squares(boxes, places, strides, [h * w for h, w in grids])
        return fits, torch.bincount(which[which >= 0], minlength=len(boxes))

    def detections(
        self,
        outputs: dict[str, Tensor],
        grids: Sequence[Size],
        size: Size,
        sizes: Sequence[Size],
        chosen: Selection,
    ) -> list[dict[str, Tensor]]:
        """Boxes and scores in fp32; see `Head.detections`."""
        scores = outputs["scores"].float().sigmoid()
        places, strides = cell_centres(grids, scores.device)
        boxes = self.boxes(outputs["sides"].float(), places, strides)
        counts = [height * width for height, width in grids]

        def of_image(i: int) -> dict[str, Tensor]:
            levels = boxes[i].split(counts)
            return select(
                scores[i].split(counts), lambda level, at: levels[level][at], sizes[i], chosen
            )

        return [of_image(i) for i in range(len(sizes))]


def score_loss(logits: Tensor, wanted: Tensor, *, focal: bool) -> Tensor:
    """Cross-entropy with aims between 0 and 1, summed; `focal`: times distance squared (eq. 3)."""
    if not focal:
        return F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
    losses = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return (losses * (wanted - logits.sigmoid()).square()).sum()


def distribution_loss(sides: Tensor, places: Tensor, strides: Tensor, aim: Tensor) -> Tensor:
    """Cross-entropy (P,) of the two bins around each true side, summed over sides (eq. 6).

    Parameters
    ----------
    sides : tensor (P, 4 * N)
    places : tensor (P, 2)
    strides : tensor (P,)
    aim : tensor (P, 4), xyxy in pixels
        What lies beyond the last bin counts as in it.
    """
    distance = torch.cat([places - aim[:, :2], aim[:, 2:] - places], dim=1)
    distance = (distance / (BIN * strides[:, None])).clamp(0, BINS - 1)  # in bins
    lower = distance.floor().clamp(max=BINS - 2)
    upper_share = distance - lower
    logs = sides.unflatten(-1, (4, BINS)).log_softmax(dim=-1)
    low = logs.gather(2, lower.long()[..., None])[..., 0]
    high = logs.gather(2, lower.long()[..., None] + 1)[..., 0]
    return -(low * (1 - upper_share) + high * upper_share).sum(dim=1)


def _tower(channels: int) -> nn.Sequential:
    return nn.Sequential(*(layer for _ in range(DEPTH) for layer in block(channels)))


def _flat(level: Tensor) -> Tensor:
    """(B, C, h, w) to (B, h * w, C)."""
    return level.flatten(2).transpose(1, 2)


def cell_centres(grids: Sequence[Size], device: torch.device) -> tuple[Tensor, Tensor]:
    """Centres (A, 2) of all levels' cells, x and y in pixels, and their strides (A,)."""
    places, strides = [], []
    for (height, width), stride in zip(grids, LEVEL_STRIDES, strict=True):
        y = (torch.arange(height, device=device) + 0.5) * stride
        x = (torch.arange(width, device=device) + 0.5) * stride
        places.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1))
        strides.append(torch.full((height * width,), float(stride), device=device))
    return torch.cat(places), torch.cat(strides)
