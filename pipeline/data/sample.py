"""What training learns from: one image with its boxes, and a batch of them.

Images stay 8 bits until they are where the model is; a quarter of the bytes then travels between
processes and to the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(slots=True)
class Sample:
    """One training image.

    Attributes
    ----------
    image : tensor (3, S, S), uint8
    boxes : tensor (n, 4), float32, xyxy in pixels of the square; n may be 0
    labels : tensor (n,), int64, from 0
    image_id : int
    masks : tensor (n, S / CELL, S / CELL), uint8, or None
        How much of each cell an object covers, in 255ths; see `pipeline.data.masks`.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    image_id: int
    masks: Tensor | None = None


@dataclass(slots=True)
class Batch:
    """Samples of one size: images stacked, objects kept apart because their numbers differ.

    Attributes
    ----------
    images : tensor (B, 3, S, S), uint8
    boxes : list of B tensors (n, 4), float32, xyxy in pixels of the square
    labels : list of B tensors (n,), int64, from 0
    image_ids : list of B int
    masks : list of B tensors (n, S / CELL, S / CELL), uint8, or None
    """

    images: Tensor
    boxes: list[Tensor]
    labels: list[Tensor]
    image_ids: list[int]
    masks: list[Tensor] | None = None

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def targets(self) -> list[dict[str, Tensor]]:
        """Boxes, labels and masks, if any, in the form that a torchvision detector takes."""
        names, columns = ["boxes", "labels"], [self.boxes, self.labels]
        if self.masks is not None:
            names, columns = [*names, "masks"], [*columns, self.masks]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on a device; from pinned memory the copy does not wait."""
        return Batch(
            self.images.to(device, non_blocking=True),
            [boxes.to(device, non_blocking=True) for boxes in self.boxes],
            [labels.to(device, non_blocking=True) for labels in self.labels],
            self.image_ids,
            self.masks and [masks.to(device, non_blocking=True) for masks in self.masks],
        )

    def pin_memory(self) -> "Batch":
        """The batch in memory that a GPU reads by itself; the loader calls this."""
        return Batch(
            self.images.pin_memory(),
            [boxes.pin_memory() for boxes in self.boxes],
            [labels.pin_memory() for labels in self.labels],
            self.image_ids,
            self.masks and [masks.pin_memory() for masks in self.masks],
        )


def collate(samples: Sequence[Sample]) -> Batch:
    """One batch of samples of one size."""
    masks = [sample.masks for sample in samples if sample.masks is not None]
    return Batch(
        torch.stack([sample.image for sample in samples]),
        [sample.boxes for sample in samples],
        [sample.labels for sample in samples],
        [sample.image_id for sample in samples],
        masks if len(masks) == len(samples) else None,
    )


def to_tensor(square: np.ndarray) -> Tensor:
    """(S, S) or (S, S, 3) uint8 to a (3, S, S) tensor; grey is repeated."""
    tensor = torch.from_numpy(square)
    return tensor.expand(3, *tensor.shape) if tensor.ndim == 2 else tensor.permute(2, 0, 1)
