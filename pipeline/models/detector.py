"""RetinaNet (arXiv 1708.02002): torchvision's, with a loss that is right for negatives.

torchvision divides each image's loss by that image's positives, so that an image without objects
weighs as much as one with a hundred. Here the sums go over the whole batch (and all processes)
and are divided once by the number of positive anchors there, as the paper has it.
"""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import encode_boxes
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from pipeline.models.backbone import Backbone
from pipeline.models.focal import focal_loss
from pipeline.models.matching import IGNORED, match
from pipeline.models.pyramid import LEVEL_STRIDES, Pyramid

ASPECT_RATIOS = (0.5, 1.0, 2.0)
OCTAVE = tuple(2 ** (i / 3) for i in range(3))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Detector(RetinaNet):
    """RetinaNet around one of our backbones.

    Parameters
    ----------
    backbone : Backbone
    num_classes : int
        K; labels are 0 to K - 1, there is no background class.
    fpn_channels : int
        Width of the pyramid and of the heads; a multiple of 16.
    anchor_scale : float
        Side of a level's smallest anchor in units of its stride; 4 in the paper.
    score_threshold, nms_threshold, max_detections
        What inference keeps.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        fpn_channels: int = 256,
        anchor_scale: float = 4.0,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        max_detections: int = 100,
    ) -> None:
        sizes = tuple(tuple(anchor_scale * s * o for o in OCTAVE) for s in LEVEL_STRIDES)
        anchors = _Anchors(sizes, (ASPECT_RATIOS,) * len(sizes))
        norm = partial(nn.GroupNorm, fpn_channels // 8)
        head = RetinaNetHead(
            fpn_channels, anchors.num_anchors_per_location()[0], num_classes, norm_layer=norm
        )
        super().__init__(
            Pyramid(backbone, fpn_channels),
            num_classes,
            anchor_generator=anchors,
            head=head,
            score_thresh=score_threshold,
            nms_thresh=nms_threshold,
            detections_per_img=max_detections,
        )
        self.transform = _Normalisation()

    def forward(
        self,
        images: list[Tensor] | Tensor,
        targets: list[dict[str, Tensor]] | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, detections in evaluation.

        Parameters
        ----------
        images : tensor (B, 3, H, W), uint8, or list of tensors (3, H, W), float in [0, 1]
        targets : list of {"boxes": (n, 4) xyxy in pixels, "labels": (n,) from 0}
            n may be 0; boxes have a positive width and height.
        """
        if not self.training:
            return super().forward(images)
        assert targets is not None, "training needs targets"
        batch, targets = self.transform(images, targets)
        features = list(self.backbone(batch.tensors).values())
        anchors = self.anchor_generator(batch, features)
        return self.compute_loss(targets, self.head(features), anchors)

    def postprocess_detections(
        self,
        head_outputs: dict[str, list[Tensor]],
        anchors: list[list[Tensor]],
        image_shapes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """Boxes and scores in fp32, whatever the network computes in."""
        outputs = {name: [level.float() for level in v] for name, v in head_outputs.items()}
        return super().postprocess_detections(outputs, anchors, image_shapes)

    def compute_loss(
        self,
        targets: Sequence[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """Focal and L1 loss, in fp32, over the positives of the whole batch.

        On a GPU this waits once, for the places of the positives.

        Parameters
        ----------
        targets : sequence of {"boxes": (n, 4) xyxy in pixels, "labels": (n,) from 0}
            n may be 0.
        head_outputs : {"cls_logits": (B, A, K), "bbox_regression": (B, A, 4)}
        anchors : sequence of (A, 4) xyxy
        """
        logits = head_outputs["cls_logits"].float()
        deltas = head_outputs["bbox_regression"].float()
        matched = torch.stack(
            [match(t["boxes"].float(), a) for t, a in zip(targets, anchors, strict=True)]
        )
        image, anchor = torch.where(matched >= 0)  # (P,) each, P positives of the batch
        positives = _share_of_all(matched.new_full((), len(image)))
        starts = torch.tensor([0, *accumulate(len(t["boxes"]) for t in targets)])
        starts = starts.to(matched.device, non_blocking=True)
        place = matched[image, anchor] + starts[image]  # among the boxes of all images
        labels = torch.cat([target["labels"] for target in targets])[place]
        focal = focal_loss(logits, (image, anchor, labels), matched == IGNORED)
        boxes = torch.cat([target["boxes"] for target in targets])[place].float()
        # the coder's own function copies its weights, all 1, to the device, and waits for it
        aims = encode_boxes(boxes, torch.stack(list(anchors))[image, anchor], boxes.new_ones(4))
        distance = F.l1_loss(deltas[image, anchor], aims, reduction="sum")
        return {"classification": focal / positives, "box": distance / positives}


class _Anchors(AnchorGenerator):
    """Anchors in fp32, also for maps in bf16, whose 8 bits would move a box by pixels."""

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        """Put the anchors of one cell on the maps' device."""
        super().set_cell_anchors(torch.promote_types(dtype, torch.float32), device)


class _Normalisation(GeneralizedRCNNTransform):
    """Subtract the mean and divide by the deviation; sizes are the data path's business.

    torchvision's own switch against resizing holds in training only.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__(32, 32, list(MEAN), list(STD))
        # buffers lie where the model is: a copy in every step would wait for the GPU
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(
        self,
        images: list[Tensor] | Tensor,
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[ImageList, list[dict[str, Tensor]] | None]:
        """Make the model's input of a list of floats in [0, 1] or of a batch of 8 bits."""
        if not isinstance(images, Tensor):
            return super().forward(images, targets)
        batch = images.float().div_(255)  # (B, 3, H, W), one copy from here on
        batch.sub_(self.mean).div_(self.std)
        return ImageList(batch, [tuple(images.shape[-2:])] * len(images)), targets

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Leave image and target as they are."""
        return image, target


def _share_of_all(positives: Tensor) -> Tensor:
    """One process's share of the positives of all of them, which count as at least one.

    Gradients are averaged over processes, so the sums of all are divided by the positives of all.
    """
    count = positives.float()
    if not (distributed.is_available() and distributed.is_initialized()):
        return count.clamp(min=1)
    distributed.all_reduce(count)
    return count.clamp(min=1) / distributed.get_world_size()
