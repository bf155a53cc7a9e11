"""The contract that every head keeps, and how detections are chosen from dense predictions."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, distributed, nn
from torchvision.ops import batched_nms, clip_boxes_to_image

from pipeline.models.params import Selection

CANDIDATES = 1000  # per level, before non-maximum suppression
Size = tuple[int, int]
Targets = Sequence[dict[str, Tensor]]  # {"boxes": (n, 4) xyxy in pixels, "labels": (n,) from 0}


class Head(nn.Module):
    """Base of all heads: called as ``Family(channels, num_classes, rules)``.

    `forward` is what can be compiled: convolutions over maps. `loss` and `detections` read its
    outputs, in fp32 whatever the network computes in.
    """

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        """Raw outputs (B, A, ...) by name for levels (B, C, h, w); A is all levels' places."""
        raise NotImplementedError

    def loss(
        self, outputs: dict[str, Tensor], grids: Sequence[Size], size: Size, targets: Targets
    ) -> dict[str, Tensor]:
        """Parts of the loss by name; their sum is minimised.

        Parameters
        ----------
        outputs : dict
            Of `forward`.
        grids : sequence of (h, w)
            Of the levels.
        size : (H, W)
            Of the batch of images in pixels.
        targets : sequence of {"boxes": (n, 4) xyxy in pixels, "labels": (n,) from 0}
            n may be 0.
        """
        raise NotImplementedError

    def coverage(self, boxes: Tensor, grids: Sequence[Size], size: Size) -> tuple[Tensor, Tensor]:
        """Which boxes (n, 4) of an image something fits, (n,), and how much learns of each, (n,).

        Anchors with an IoU of at least .5, or places inside a box; and positives at most.
        """
        raise NotImplementedError

    def detections(
        self,
        outputs: dict[str, Tensor],
        grids: Sequence[Size],
        size: Size,
        sizes: Sequence[Size],
        chosen: Selection,
    ) -> list[dict[str, Tensor]]:
        """Of each image {"boxes": (n, 4) xyxy, "scores": (n,), "labels": (n,)}, strongest first.

        `sizes` are the parts (H, W) of `size` that hold image; boxes are cut to them.
        """
        raise NotImplementedError


def block(channels: int) -> nn.Sequential:
    """A convolution of a head's tower."""
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(channels // 8, channels), nn.ReLU(inplace=True))


def select(
    scores: Sequence[Tensor],
    boxes_at: Callable[[int, Tensor], Tensor],
    size: Size,
    chosen: Selection,
) -> dict[str, Tensor]:
    """Threshold, the strongest of each level, then non-maximum suppression by class.

    Parameters
    ----------
    scores : sequence of tensors (A_l, K)
        Of one image's levels, 0 to 1.
    boxes_at : callable
        (level, places (n,)) -> boxes (n, 4) xyxy in pixels.
    size : (H, W)
        Of the image in pixels.
    chosen : Selection
    """
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    for level, dense in enumerate(scores):
        flat = dense.flatten()
        places = torch.where(flat > chosen.score_threshold)[0]
        strongest, order = flat[places].topk(min(CANDIDATES, len(places)))
        places = places[order]
        at = torch.div(places, dense.shape[1], rounding_mode="floor")
        boxes = clip_boxes_to_image(boxes_at(level, at), size)
        kept.append((boxes, strongest, places % dense.shape[1]))
    boxes, strongest, labels = (torch.cat(parts) for parts in zip(*kept, strict=True))
    keep = batched_nms(boxes, strongest, labels, chosen.nms_threshold)[: chosen.max_detections]
    return {"boxes": boxes[keep], "scores": strongest[keep], "labels": labels[keep]}


def share_of_all(positives: Tensor) -> Tensor:
    """One process's share of the positives of all of them, which count as at least one.

    Gradients are averaged over processes, so the sums of all are divided by the positives of all.
    """
    count = positives.float()
    if not (distributed.is_available() and distributed.is_initialized()):
        return count.clamp(min=1)
    distributed.all_reduce(count)
    return count.clamp(min=1) / distributed.get_world_size()
