"""The classifier form of a backbone, for pre-training and the check of published counts.

Pyramids: last stage, norm, average over the map, linear layer. Build the backbone with
``output_norms=False``: the norms that a detector's levels need are no part of a classifier.
ViT: a linear layer on the class token.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from pipeline.models.backbones.base import BatchNorm2d
from pipeline.models.backbones.vit import ViT

NORMS = ("layer", "batch", "none")


class HasTrunk(Protocol):
    """A backbone whose stages can be had without the norms of its outputs."""

    channels: tuple[int, int, int]

    def trunk(self, images: Tensor) -> list[Tensor]:
        """Outputs (B, C, H, W) of all stages, for sides that are multiples of 32."""


class Classifier(nn.Module):
    """Logits of images.

    Parameters
    ----------
    backbone : HasTrunk
        Swin, DAT++, ACmix or GLNet.
    num_classes : int
        Length of the logits.
    norm : {"layer", "batch", "none"}
        Norm of the last map: LayerNorm in Swin, DAT++ and ACmix-Swin, BatchNorm in GLNet, none in
        ACmix-ResNet.
    """

    def __init__(self, backbone: HasTrunk, num_classes: int = 1000, *, norm: str = "layer") -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {NORMS}, not {norm!r}")
        dim = backbone.channels[-1]
        self.backbone = backbone
        self.layer_norm = nn.LayerNorm(dim) if norm == "layer" else None
        self.batch_norm = BatchNorm2d(dim) if norm == "batch" else None
        self.head = head(dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, 3, H, W), H and W multiples of 32."""
        x = self.backbone.trunk(images)[-1]
        if self.batch_norm is not None:
            x = self.batch_norm(x)
        x = x.flatten(2).transpose(1, 2)  # (B, N, C)
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        return self.head(torch.mean(x, dim=1))


class ViTClassifier(nn.Module):
    """Logits of images from the class token of a ViT.

    Parameters
    ----------
    backbone : ViT
        Built with ``ViTOptions(class_token=True)``; its layer for the stride-8 map is not used.
    num_classes : int
        Length of the logits.
    """

    def __init__(self, backbone: ViT, num_classes: int = 1000) -> None:
        super().__init__()
        if backbone.class_token is None:
            raise ValueError("needs a class token: ViT(options=ViTOptions(class_token=True))")
        self.backbone, self.head = backbone, head(backbone.dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, 3, H, W), H and W multiples of 16."""
        tokens, _ = self.backbone.tokens(self.backbone.patch(images))
        return self.head(tokens[:, 0])


def head(dim: int, num_classes: int) -> nn.Linear:
    """The linear layer, small at the start."""
    layer = nn.Linear(dim, num_classes)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer
