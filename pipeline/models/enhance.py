"""ACP and CAT for timm's ViT and Swin, with the weights that they already have.

`enhance` puts a `Stream`, x + EI(LN(x)), before every block of a model that somebody else built
(PyTorch Image Models, timm). Its projection starts at zero, so the model's output stays what it
was; its state dict gains keys (``blocks.0.stream...``) and loses or changes none. timm itself is
not imported: the two classes are known by their names.

Notation: B batch, C channels, H W grid, N = H*W tokens, P prefix tokens (class, registers).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from pipeline.errors import DescryError
from pipeline.models.interaction import Stream
from pipeline.models.params import InteractionSpec, checked

Model = TypeVar("Model", bound=nn.Module)
SUPPORTED = ("VisionTransformer", "SwinTransformer")


@dataclass(slots=True)
class _Grid:
    """Rows, columns and prefix tokens of the batch under way; a model's blocks share one."""

    prefix: int
    height: int = 0
    width: int = 0


def enhance(
    model: Model,
    pool_layers: int = 2,
    concepts: int = 16,
    *,
    pool_stride: int = 1,
    copies: bool = False,
) -> Model:
    """Give every block of a timm ViT or Swin the interaction before its attention.

    The model is changed in place. Class and register tokens pass the interaction untouched. Make
    optimisers, `DistributedDataParallel` and moving averages after this call. A batch's grid is
    noted on the model while it runs, so one model must not run in several threads at a time
    (`nn.DataParallel` is out).

    Parameters
    ----------
    model : nn.Module
        timm's `VisionTransformer` or `SwinTransformer`, or a subclass (DeiT); of models made with
        ``features_only=True`` pass the ``.model`` inside.
    pool_layers, concepts : int
        Depth of ACP, number of concept tokens of CAT. Both 0 leaves the model as it is.
    pool_stride, copies
        As in `InteractionSpec`.

    Returns
    -------
    nn.Module
        The same object.

    Raises
    ------
    DescryError
        For any other model, a model that was enhanced before, one that drops patches while
        training, and for numbers that are not allowed.
    """
    asked = {"pool_layers": pool_layers, "concepts": concepts}
    asked |= {"pool_stride": pool_stride, "copies": copies}
    spec = checked(InteractionSpec, asked, "enhance")
    family = _family(model)
    blocks = list(_blocks(model, family))
    if any(hasattr(block, "stream") for block in blocks):
        raise DescryError("enhance: this model has been enhanced before; start from a fresh one")
    if not spec.active:
        return model
    if family == "VisionTransformer":
        _share_grid(model, blocks)
    for block in blocks:
        block.stream = _stream_like(block, spec)
        hook = _before_vit_block if family == "VisionTransformer" else _before_swin_block
        block.register_forward_pre_hook(hook)
    return model


def _family(model: nn.Module) -> str:
    """Which of the supported classes a model is or descends from."""
    for kind in type(model).__mro__:
        if kind.__module__.startswith("timm.") and kind.__name__ in SUPPORTED:
            return kind.__name__
    raise DescryError(
        f"enhance: {type(model).__module__}.{type(model).__name__} is not supported; allowed are "
        f"timm's {' and '.join(SUPPORTED)} (of a features_only model pass its .model)"
    )


def _blocks(model: nn.Module, family: str) -> Iterator[Any]:
    """All transformer blocks, first to last."""
    if family == "VisionTransformer":
        yield from cast(nn.Sequential, model.blocks)
        return
    for stage in cast(nn.Sequential, model.layers):
        yield from cast(nn.Sequential, stage.blocks)


def _share_grid(model: Any, blocks: list[Any]) -> None:
    """Let the patch embedding tell the blocks how many rows and columns the tokens make up.

    A ViT's tokens no longer show it. The hooks are plain functions and the grid is an attribute,
    so that copies and pickles of the model have a grid of their own.
    """
    if not isinstance(model.patch_drop, nn.Identity):
        raise DescryError(
            "enhance: this ViT drops patches while training, which leaves no grid; build it with "
            "patch_drop_rate=0"
        )
    grid = _Grid(int(model.num_prefix_tokens))
    for module in (model.patch_embed, *blocks):
        module.interaction_grid = grid
    model.patch_embed.register_forward_pre_hook(_note_grid)


def _stream_like(block: nn.Module, spec: InteractionSpec) -> Stream:
    """A sub-block of a block's width, on its device and of its type."""
    norm = cast(nn.LayerNorm, block.norm1)
    like = next(block.parameters())
    stream = Stream(int(norm.normalized_shape[0]), spec)
    return stream.to(device=like.device, dtype=like.dtype).train(block.training)


def _note_grid(patch_embed: Any, args: tuple[Any, ...]) -> None:
    grid: _Grid = patch_embed.interaction_grid
    grid.height, grid.width = patch_embed.dynamic_feat_size(tuple(args[0].shape[-2:]))


def _before_vit_block(block: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Apply a block's stream to the grid among its tokens (B, P + N, C)."""
    tokens: Tensor = args[0]
    grid: _Grid = block.interaction_grid
    if tokens.shape[1] != grid.prefix + grid.height * grid.width:
        raise DescryError(
            f"enhanced ViT: {tokens.shape[1]} tokens are not {grid.prefix} and a grid of "
            f"{grid.height}x{grid.width}; call the whole model, on one size at a time"
        )
    x = tokens[:, grid.prefix :].unflatten(1, (grid.height, grid.width))
    mapped = torch.cat([tokens[:, : grid.prefix], block.stream(x).flatten(1, 2)], dim=1)
    return (_laid_out_as(tokens, mapped), *args[1:])


def _before_swin_block(block: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Apply a block's stream to its whole map (B, H, W, C), before it is shifted and cut."""
    return (_laid_out_as(args[0], block.stream(args[0])), *args[1:])


def _laid_out_as(model: Tensor, x: Tensor) -> Tensor:
    """`x` in the memory layout of `model`: sums over another layout round differently."""
    return x if x.stride() == model.stride() else torch.empty_like(model).copy_(x)
