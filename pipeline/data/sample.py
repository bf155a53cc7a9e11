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
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    image_id: int


@dataclass(slots=True)
class Batch:
    """Samples of one size: images stacked, objects kept apart because their numbers differ.

    Attributes
    ----------
    images : tensor (B, 3, S, S), uint8
    boxes : list of B tensors (n, 4), float32, xyxy in pixels of the square
    labels : list of B tensors (n,), int64, from 0
    image_ids : list of B int
    """

    images: Tensor
    boxes: list[Tensor]
    labels: list[Tensor]
    image_ids: list[int]

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def targets(self) -> list[dict[str, Tensor]]:
        """Boxes and labels in the form that a torchvision detector takes."""
        pairs = zip(self.boxes, self.labels, strict=True)
        return [{"boxes": boxes, "labels": labels} for boxes, labels in pairs]

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on a device; from pinned memory the copy does not wait."""
        return Batch(
            self.images.to(device, non_blocking=True),
            [boxes.to(device, non_blocking=True) for boxes in self.boxes],
            [labels.to(device, non_blocking=True) for labels in self.labels],
            self.image_ids,
        )

    def pin_memory(self) -> "Batch":
        """The batch in memory that a GPU reads by itself; the loader calls this."""
        return Batch(
            self.images.pin_memory(),
            [boxes.pin_memory() for boxes in self.boxes],
            [labels.pin_memory() for labels in self.labels],
            self.image_ids,
        )


def collate(samples: Sequence[Sample]) -> Batch:
    """One batch of samples of one size."""
    return Batch(
        torch.stack([sample.image for sample in samples]),
        [sample.boxes for sample in samples],
        [sample.labels for sample in samples],
        [sample.image_id for sample in samples],
    )


def to_tensor(square: np.ndarray) -> Tensor:
    """(S, S) or (S, S, 3) uint8 to a (3, S, S) tensor; grey is repeated."""
    tensor = torch.from_numpy(square)
    return tensor.expand(3, *tensor.shape) if tensor.ndim == 2 else tensor.permute(2, 0, 1)
