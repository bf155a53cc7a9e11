"""RetinaNet's head (arXiv 1708.02002): torchvision's, with a loss that is right for negatives.

torchvision divides each image's loss by that image's positives, so that an image without objects
weighs as much as one with a hundred. Here the sums go over the whole batch (and all processes)
and are divided once by the number of positive anchors there, as the paper has it. The towers have
group norms, which the paper's have not.

Notation: B batch, A anchors of all levels, K classes.
"""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder, encode_boxes
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead as Towers
from torchvision.ops import box_iou

from pipeline.models.heads.assignment import atss, giou
from pipeline.models.heads.base import Head, Size, Targets, select, share_of_all
from pipeline.models.heads.focal import focal_loss
from pipeline.models.heads.matching import HIGH, IGNORED, match
from pipeline.models.params import PAPER, HeadRules, Selection
from pipeline.models.pyramid import LEVEL_STRIDES

ASPECT_RATIOS = (0.5, 1.0, 2.0)
OCTAVE = tuple(2 ** (i / 3) for i in range(3))
GIOU = 2.0  # weight beside the focal loss
NEAREST = 4  # of a level, candidate places of a box with ATSS, as nnDetection has it


class RetinaNetHead(Towers, Head):
    """Towers of convolutions over anchors of three sizes and three shapes per place.

    Parameters
    ----------
    channels : int
        Of the levels and the towers; a multiple of 16.
    num_classes : int
        K; labels are 0 to K - 1, there is no background class.
    rules : HeadRules
        `anchor_scale` is 4 in the paper.
    """

    def __init__(self, channels: int, num_classes: int, rules: HeadRules = PAPER) -> None:
        sides = [rules.anchor_scale * stride for stride in LEVEL_STRIDES]
        sizes = tuple(tuple(side * o for o in OCTAVE) for side in sides)
        generator = AnchorGenerator(sizes, (ASPECT_RATIOS,) * len(sizes))
        norm = partial(nn.GroupNorm, channels // 8)
        per_place = generator.num_anchors_per_location()[0]
        super().__init__(channels, per_place, num_classes, norm_layer=norm)
        self.generator, self.per_place, self.rules = generator, per_place, rules

    def anchors(self, grids: Sequence[Size], size: Size, device: torch.device) -> Tensor:
        """Anchors (A, 4) xyxy in pixels of levels of an image of `size`.

        In fp32 also for maps in bf16, whose 8 bits would move a box by pixels.
        """
        self.generator.set_cell_anchors(torch.float32, device)
        strides = [
            [torch.full((), size[axis] // grid[axis], device=device) for axis in (0, 1)]
            for grid in grids
        ]
        return torch.cat(self.generator.grid_anchors([list(grid) for grid in grids], strides))

    def loss(
        self, outputs: dict[str, Tensor], grids: Sequence[Size], size: Size, targets: Targets
    ) -> dict[str, Tensor]:
        """Focal loss and that of the boxes; see `Head.loss`."""
        anchors = self.anchors(grids, size, outputs["cls_logits"].device)
        counts = [self.per_place * height * width for height, width in grids]
        return self.loss_at(anchors, outputs, targets, counts)

    def loss_at(
        self,
        anchors: Tensor,
        outputs: dict[str, Tensor],
        targets: Targets,
        counts: Sequence[int] = (),
    ) -> dict[str, Tensor]:
        """Focal and L1 or GIoU loss, in fp32, over the positives of the whole batch.

        On a GPU this waits once, for the places of the positives.

        Parameters
        ----------
        anchors : tensor (A, 4), xyxy
        outputs : {"cls_logits": (B, A, K), "bbox_regression": (B, A, 4)}
        targets : sequence of {"boxes": (n, 4) xyxy in pixels, "labels": (n,) from 0}
        counts : sequence of int
            Anchors of each level, which ATSS asks for.
        """
        logits = outputs["cls_logits"].float()  # (B, A, K)
        deltas = outputs["bbox_regression"].float()  # (B, A, 4)
        matched = torch.stack([self.matched(t["boxes"].float(), anchors, counts) for t in targets])
        image, anchor = torch.where(matched >= 0)  # (P,) each, P positives of the batch
        positives = share_of_all(matched.new_full((), len(image)))
        starts = torch.tensor([0, *accumulate(len(t["boxes"]) for t in targets)])
        starts = starts.to(matched.device, non_blocking=True)
        place = matched[image, anchor] + starts[image]  # among the boxes of all images
        labels = torch.cat([target["labels"] for target in targets])[place]
        focal = focal_loss(logits, (image, anchor, labels), matched == IGNORED)
        boxes = torch.cat([target["boxes"] for target in targets])[place].float()
        distance = self._distance(deltas[image, anchor], anchors[anchor], boxes)
        return {"classification": focal / positives, "box": distance / positives}

    def matched(self, boxes: Tensor, anchors: Tensor, counts: Sequence[int]) -> Tensor:
        """Per anchor the index of its box, or a negative number; see `matching` and `atss`."""
        if self.rules.assignment == "own":
            return match(boxes, anchors)
        return atss(boxes, anchors, counts, NEAREST * self.per_place, LEVEL_STRIDES[0])

    def _distance(self, deltas: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
        """Summed loss of coded sides (P, 4) at anchors (P, 4) that should be boxes (P, 4)."""
        if self.rules.box_loss == "giou":
            return GIOU * (1 - giou(decoded(deltas, anchors), boxes)).sum()
        # the coder's own function copies its weights, all 1, to the device, and waits for it
        aims = encode_boxes(boxes, anchors, boxes.new_ones(4))
        return F.l1_loss(deltas, aims, reduction="sum")

    def coverage(self, boxes: Tensor, grids: Sequence[Size], size: Size) -> tuple[Tensor, Tensor]:
        """By anchors; see `Head.coverage`."""
        anchors = self.anchors(grids, size, boxes.device)
        which = self.matched(boxes, anchors, [self.per_place * h * w for h, w in grids])
        fits = box_iou(boxes, anchors).amax(dim=1) >= HIGH
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
        counts = [self.per_place * height * width for height, width in grids]
        logits = outputs["cls_logits"].float().split(counts, dim=1)
        deltas = outputs["bbox_regression"].float().split(counts, dim=1)
        anchors = self.anchors(grids, size, logits[0].device).split(counts)

        def of_image(i: int) -> dict[str, Tensor]:
            def boxes_at(level: int, at: Tensor) -> Tensor:
                return decoded(deltas[level][i][at], anchors[level][at])

            return select([torch.sigmoid(level[i]) for level in logits], boxes_at, sizes[i], chosen)

        return [of_image(i) for i in range(len(sizes))]


def decoded(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Boxes (P, 4) xyxy of coded sides (P, 4) at anchors (P, 4)."""
    return BoxCoder(weights=(1.0, 1.0, 1.0, 1.0)).decode_single(deltas, anchors)
