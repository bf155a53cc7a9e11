"""Masks of given boxes by filters that depend on the object.

"Conditional Convolutions for Instance Segmentation" (CondInst, arXiv 2003.05664): an object's mask
is what a small network of 1 x 1 convolutions makes of maps that all objects share, and another
convolution says, place by place, what its weights are. Here the weights are those of the place at
the middle of a box, on the level that fits the box's size, so that any head's boxes get masks; in
training these are the true boxes, a little off. No pooling of regions, whose backward pass CUDA
cannot repeat to the bit.

Notation: B batch, C channels, h w the finest level's grid, A places of all levels, n objects.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.data.masks import CELL
from pipeline.models.backbones.attention import without_autocast
from pipeline.models.heads.base import Size, Targets, block, share_of_all
from pipeline.models.pyramid import LEVEL_STRIDES

WIDTH = 8  # channels of the shared maps and of the filters' network
_SHAPES = ((WIDTH, WIDTH + 2), (WIDTH, WIDTH), (1, WIDTH))  # out, in; + 2: where a cell is
FILTERS = sum(out * (given + 1) for out, given in _SHAPES)  # weights and biases, 169
REACH = 8  # a level takes boxes whose longer side is at most so many of its strides
JITTER = 0.1  # of a box's sides: how far the boxes of training are off at most
FINE = 3  # levels that the shared maps are made of


class MaskHead(nn.Module):
    """Masks in cells of `CELL` px, half the finest level's.

    Parameters
    ----------
    channels : int
        Of the levels; a multiple of 8.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(block(channels) for _ in range(FINE))
        self.shared = nn.Sequential(block(channels), nn.Conv2d(channels, WIDTH, 1))
        self.tower = block(channels)
        self.filters = nn.Conv2d(channels, FILTERS, 3, padding=1)
        nn.init.normal_(self.filters.weight, std=0.01)
        nn.init.normal_(self.filters.bias, std=0.1)  # type: ignore[arg-type]  # it has one

    def forward(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Shared maps (B, WIDTH, h, w) and filters (B, A, FILTERS) of levels (B, C, h, w)."""
        shared = self.shared(summed(self.lateral, levels))
        filters = [self.filters(self.tower(level)).flatten(2) for level in levels]
        return {"shared": shared, "filters": torch.cat(filters, dim=2).transpose(1, 2)}

    def logits(
        self, outputs: dict[str, Tensor], image: int, boxes: Tensor, grids: Sequence[Size]
    ) -> Tensor:
        """Of the masks of boxes (n, 4) xyxy in an image of the batch, (n, 2 h, 2 w), in fp32."""
        with without_autocast(boxes.device):
            shared = outputs["shared"][image].float()  # (WIDTH, h, w)
            place = places(boxes, grids)
            chosen = outputs["filters"][image].float()[place]  # (n, FILTERS)
            x = torch.cat([shared.expand(len(boxes), -1, -1, -1), self._where(boxes, grids[0])], 1)
            return doubled(_apply(x.flatten(2), chosen).unflatten(1, grids[0]))

    def _where(self, boxes: Tensor, grid: Size) -> Tensor:
        """Places of all cells from the middle of each box, in its sides, (n, 2, h, w)."""
        (height, width), stride = grid, LEVEL_STRIDES[0]
        y = (torch.arange(height, device=boxes.device) + 0.5) * stride
        x = (torch.arange(width, device=boxes.device) + 0.5) * stride
        middle, side = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
        across = (x - middle[:, :1]) / side[:, :1]  # (n, w)
        down = (y - middle[:, 1:]) / side[:, 1:]  # (n, h)
        n = len(boxes)
        pair = (across[:, None].expand(n, height, width), down[:, :, None].expand(n, height, width))
        return torch.stack(pair, dim=1).clamp(-2, 2)

    def loss(
        self, outputs: dict[str, Tensor], grids: Sequence[Size], targets: Targets
    ) -> dict[str, Tensor]:
        """Dice loss and cross-entropy of the cells in a box, over all objects that have a mask.

        Parameters
        ----------
        targets : sequence of {"boxes": (n, 4) xyxy, "masks": (n, 2 h, 2 w) uint8}
            A mask without a cell is of an object of which only the box is known.
        """
        # nothing, but it gives every parameter a gradient in a batch without objects
        total = (outputs["shared"].float().sum() + outputs["filters"].float().sum()) * 0
        known = total.new_zeros(())
        for image, target in enumerate(targets):
            if not len(target["boxes"]):
                continue
            with torch.no_grad():
                truth = target["masks"].float() / 255  # (n, 2 h, 2 w)
                has = (truth.flatten(1).amax(dim=1) > 0).float()
                boxes = _jittered(target["boxes"].float())
            logits = self.logits(outputs, image, boxes, grids)
            losses = mask_loss(logits, truth, inside(boxes, truth.shape[-2:]))
            total, known = total + (losses * has).sum(), known + has.sum()
        return {"mask": total / share_of_all(known)}

    def masks(
        self, outputs: dict[str, Tensor], grids: Sequence[Size], image: int, boxes: Tensor
    ) -> Tensor:
        """Soft masks (n, 2 h, 2 w), 0 to 1, of boxes found in an image of the batch."""
        if not len(boxes):
            return boxes.new_zeros((0, 2 * grids[0][0], 2 * grids[0][1]))
        return self.logits(outputs, image, boxes.float(), grids).sigmoid()


def summed(blocks: nn.ModuleList, levels: Sequence[Tensor]) -> Tensor:
    """Levels, each through its block, on the grid of the first (arXiv 1901.02446)."""
    first, *others = (one(level) for one, level in zip(blocks, levels, strict=False))
    for other in others:
        first = first + F.interpolate(other, size=first.shape[-2:], mode="nearest")
    return first


def doubled(x: Tensor) -> Tensor:
    """Maps (..., h, w) on a grid twice as fine, by bilinear interpolation.

    The values of `F.interpolate` (``align_corners=False``), whose backward pass CUDA cannot repeat
    to the bit.
    """
    for dim in (-2, -1):
        last = x.shape[dim] - 1
        before = torch.cat([x.narrow(dim, 0, 1), x.narrow(dim, 0, last)], dim)
        after = torch.cat([x.narrow(dim, 1, last), x.narrow(dim, last, 1)], dim)
        pair = (0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after)
        x = torch.stack(pair, dim=x.ndim + dim + 1).flatten(x.ndim + dim, x.ndim + dim + 1)
    return x


def places(boxes: Tensor, grids: Sequence[Size]) -> Tensor:
    """Place among those of all levels whose filters a box (n, 4) gets, (n,), int64."""
    side = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    found = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    start = 0
    for level, ((height, width), stride) in enumerate(zip(grids, LEVEL_STRIDES, strict=True)):
        column = (middle[:, 0] / stride).long().clamp(0, width - 1)
        row = (middle[:, 1] / stride).long().clamp(0, height - 1)
        mine = side > REACH * LEVEL_STRIDES[level - 1] if level else side >= 0
        found = torch.where(mine, start + row * width + column, found)
        start += height * width
    return found


def inside(boxes: Tensor, grid: Sequence[int]) -> Tensor:
    """Which cells of a grid the boxes (n, 4) touch, as (n, h, w) of 0 and 1."""
    y, x = (torch.arange(length, device=boxes.device) * CELL for length in grid)
    x1, y1, x2, y2 = boxes.t()[:, :, None]  # (n, 1) each
    across, down = (x + CELL > x1) & (x < x2), (y + CELL > y1) & (y < y2)
    return (down[:, :, None] & across[:, None]).float()


def mask_loss(logits: Tensor, truth: Tensor, where: Tensor) -> Tensor:
    """Dice loss (V-Net, arXiv 1606.04797) and mean cross-entropy of each object's cells, (n,)."""
    logits, truth, where = logits.flatten(1), truth.flatten(1), where.flatten(1)
    likely, truth = logits.sigmoid() * where, truth * where
    overlap = 2 * (likely * truth).sum(dim=1)
    dice = 1 - (overlap + 1) / ((likely**2).sum(dim=1) + (truth**2).sum(dim=1) + 1)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * where
    return dice + entropy.sum(dim=1) / where.sum(dim=1).clamp(min=1)


def _apply(x: Tensor, filters: Tensor) -> Tensor:
    """Every object's own 1 x 1 convolutions: x (n, WIDTH + 2, N) to logits (n, N)."""
    start = 0
    for i, (out, given) in enumerate(_SHAPES):
        weight = filters[:, start : start + out * given].unflatten(1, (out, given))
        start += out * given
        x = torch.baddbmm(filters[:, start : start + out, None], weight, x)
        x = x if i == len(_SHAPES) - 1 else x.relu()
        start += out
    return x[:, 0]


def _jittered(boxes: Tensor) -> Tensor:
    """Boxes a little off, as a detector's are."""
    side = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return boxes + side * JITTER * (2 * torch.rand_like(boxes) - 1)
