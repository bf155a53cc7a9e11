"""A detector: images to numbers of the right scale, backbone, pyramid, head."""

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from pipeline.models.backbones.base import Backbone
from pipeline.models.heads.base import Head, Targets
from pipeline.models.heads.mask import MaskHead
from pipeline.models.params import Selection
from pipeline.models.pyramid import Pyramid

Colours = tuple[float, float, float]


class Detector(nn.Module):
    """One of our backbones with a feature pyramid and a head.

    Parameters
    ----------
    backbone : Backbone
    head : Head
    fpn_channels : int
        Channels of the pyramid, which the head takes.
    selection : Selection
        What inference keeps.
    normalisation : (mean, std)
        Of the colours, RGB from 0 to 1.
    mask_head : MaskHead, optional
        Makes masks of the head's boxes.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        fpn_channels: int,
        selection: Selection,
        normalisation: tuple[Colours, Colours],
        mask_head: MaskHead | None = None,
    ) -> None:
        super().__init__()
        self.backbone = Pyramid(backbone, fpn_channels)
        self.head, self.mask_head = head, mask_head
        self.selection = selection
        self.transform = _Normalisation(*normalisation)

    def forward(
        self, images: list[Tensor] | Tensor, targets: Targets | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Parts of the loss in training, detections in evaluation.

        Parameters
        ----------
        images : tensor (B, 3, H, W), uint8, or list of tensors (3, H, W), float in [0, 1]
        targets : list of {"boxes": (n, 4) xyxy in pixels, "labels": (n,) from 0}
            n may be 0; boxes have a positive width and height. For masks also {"masks": (n, H /
            CELL, W / CELL) uint8}, the share of each cell in 255ths (`pipeline.data.masks`).

        Returns
        -------
        dict of tensors, or list of {"boxes": (n, 4) xyxy, "scores": (n,), "labels": (n,)}, with
        masks also {"masks": (n, H / CELL, W / CELL), 0 to 1}
        """
        batch, _ = self.transform(images)
        height, width = batch.tensors.shape[-2:]
        levels = list(self.backbone(batch.tensors).values())
        grids = [(level.shape[2], level.shape[3]) for level in levels]
        outputs = self.head(levels)
        if self.training:
            assert targets is not None, "training needs targets"
            losses = self.head.loss(outputs, grids, (height, width), targets)
            if self.mask_head is not None:
                losses |= self.mask_head.loss(self.mask_head(levels), grids, targets)
            return losses
        found = self.head.detections(
            outputs, grids, (height, width), batch.image_sizes, self.selection
        )
        if self.mask_head is not None:
            maps = self.mask_head(levels)
            for i, one in enumerate(found):
                one["masks"] = self.mask_head.masks(maps, grids, i, one["boxes"])
        return found


class _Normalisation(GeneralizedRCNNTransform):
    """Subtract the mean and divide by the deviation; sizes are the data path's business.

    torchvision's own switch against resizing holds in training only.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Colours, std: Colours) -> None:
        super().__init__(32, 32, list(mean), list(std))
        # buffers lie where the model is: a copy in every step would wait for the GPU
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(
        self, images: list[Tensor] | Tensor, targets: None = None
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
