"""Halo-tile local attention against naive loops."""

import pytest
import torch
from torch import Tensor

from pipeline.models.backbones.local_attention import neighbourhood_attention

SIDES = [(5, 7), (7, 7), (9, 8), (16, 23), (23, 16), (9, 30)]


def tensors(height: int, width: int, stride: int = 1, heads: int = 2, dim: int = 3) -> list[Tensor]:
    """Queries, keys and values in float64 that take gradients."""
    generator = torch.Generator().manual_seed(height * 100 + width)
    down, across = -(-height // stride), -(-width // stride)
    shapes = [(2, down, across, heads, dim)] + [(2, height, width, heads, dim)] * 2
    return [
        torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes
    ]


def attend_at(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """One query (B, h, d) over its keys and values (B, y, x, h, d) with biases (h, y, x)."""
    logits = torch.einsum("bhd,byxhd->bhyx", q, k) / q.shape[-1] ** 0.5 + bias
    weights = logits.flatten(2).softmax(-1).view_as(logits)
    return torch.einsum("bhyx,byxhd->bhd", weights, v)


def naive_clamp(q: Tensor, k: Tensor, v: Tensor, kernel: int, table: Tensor) -> Tensor:
    """Every query over the window that is moved inside the map."""
    height, width = k.shape[1:3]
    out = []
    for y in range(height):
        top = min(max(y - kernel // 2, 0), height - kernel)
        for x in range(width):
            left = min(max(x - kernel // 2, 0), width - kernel)
            window = (slice(None), slice(top, top + kernel), slice(left, left + kernel))
            above, before = top - y + kernel - 1, left - x + kernel - 1
            bias = table[:, above : above + kernel, before : before + kernel]
            out.append(attend_at(q[:, y, x], k[window], v[window], bias))
    return torch.stack(out, dim=1).view_as(q)


def mirror(i: int, length: int) -> int:
    """Index of a position beyond the border, found by walking to and fro."""
    while length > 1 and not 0 <= i < length:
        i = -i if i < 0 else 2 * (length - 1) - i
    return i if length > 1 else 0


def naive_reflect(q: Tensor, k: Tensor, v: Tensor, kernel: int, stride: int) -> Tensor:
    """Every query over the mirrored neighbourhood around its own key position."""
    around, none = range(-(kernel // 2), kernel // 2 + 1), k.new_zeros(1, 1, 1)
    out = []
    for y in range(q.shape[1]):
        down = [mirror(y * stride + i, k.shape[1]) for i in around]
        for x in range(q.shape[2]):
            across = [mirror(x * stride + i, k.shape[2]) for i in around]
            keys, values = k[:, down][:, :, across], v[:, down][:, :, across]
            out.append(attend_at(q[:, y, x], keys, values, none))
    return torch.stack(out, dim=1).view_as(q)


def same(ours: Tensor, theirs: Tensor, inputs: list[Tensor]) -> None:
    """Values and gradients agree to 1e-12."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=ours.dtype)
    for mine, naive in zip(
        torch.autograd.grad((ours * weights).sum(), inputs),
        torch.autograd.grad((theirs * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, naive, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sides", SIDES)
def test_clamped_windows_with_bias_equal_a_naive_loop(sides: tuple[int, int]) -> None:
    kernel = 5
    q, k, v = tensors(*sides)
    table = torch.randn(2, 9, 9, dtype=torch.float64, requires_grad=True)
    ours = neighbourhood_attention(q, k, v, kernel, bias=table)
    same(ours, naive_clamp(q, k, v, kernel, table), [q, k, v, table])


@pytest.mark.parametrize("side", [7, 9, 16, 23])
def test_kernel_seven_equals_a_naive_loop(side: int) -> None:
    q, k, v = tensors(side, side, heads=1, dim=2)
    table = torch.randn(1, 13, 13, dtype=torch.float64, requires_grad=True)
    ours = neighbourhood_attention(q, k, v, 7, bias=table)
    same(ours, naive_clamp(q, k, v, 7, table), [q, k, v, table])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("sides", [(1, 2), (3, 4), (7, 8), (17, 13)])
def test_reflected_borders_equal_a_naive_loop(sides: tuple[int, int], stride: int) -> None:
    q, k, v = tensors(*sides, stride=stride)
    ours = neighbourhood_attention(q, k, v, 7, edge="reflect", stride=stride)
    same(ours, naive_reflect(q, k, v, 7, stride), [q, k, v])


def test_reflection_is_that_of_torch() -> None:
    # uniform attention (q = 0) averages the neighbourhood: a mean filter on the padded map
    q, k, v = tensors(9, 11)
    ours = neighbourhood_attention(torch.zeros_like(q), k, v, 7, edge="reflect")
    padded = torch.nn.functional.pad(
        v.permute(0, 3, 4, 1, 2).flatten(1, 2), (3, 3, 3, 3), "reflect"
    )
    mean = torch.nn.functional.avg_pool2d(padded, 7, 1).unflatten(1, (2, 3)).permute(0, 3, 4, 1, 2)
    torch.testing.assert_close(ours, mean, rtol=0, atol=1e-12)


def test_a_first_call_without_gradients_leaves_tables_that_training_can_use() -> None:
    q, k, v = tensors(11, 19)
    with torch.inference_mode():
        first = neighbourhood_attention(q, k, v, 3)
    second = neighbourhood_attention(q, k, v, 3)
    second.sum().backward()
    assert torch.equal(first, second) and k.grad is not None


def test_half_precision_keeps_masked_keys_out() -> None:
    q, k, v = (t.detach().bfloat16() for t in tensors(16, 16))
    v[:, 8:] = 1000.0  # a key that leaked would show at once
    out = neighbourhood_attention(q, k, v, 7)
    assert out.dtype == torch.bfloat16
    assert out[:, :5].abs().max() < 10


def test_wrong_input_is_refused() -> None:
    q, k, v = tensors(5, 5)
    with pytest.raises(ValueError, match="smaller than the kernel 7"):
        neighbourhood_attention(q, k, v, 7)
    with pytest.raises(ValueError, match="edge must be one of"):
        neighbourhood_attention(q, k, v, 3, edge="zero")
    with pytest.raises(ValueError, match="must be odd"):
        neighbourhood_attention(q, k, v, 4)
    with pytest.raises(ValueError, match=r"must be \(3, 3\) for stride 2"):
        neighbourhood_attention(q, k, v, 3, stride=2, edge="reflect")
