"""The deterministic samplers against torch's own."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.models.backbones.sampling import (
    interpolation_weights,
    sample_points,
    sample_tables,
    to_index,
)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def grid_sample_points(features: Tensor, points: Tensor, outside: str) -> Tensor:
    """`sample_points` by `F.grid_sample`."""
    b, height, width, c = features.shape
    groups, n = points.shape[1:3]
    maps = features.permute(0, 3, 1, 2).reshape(b * groups, c // groups, height, width)
    grid = points.reshape(b * groups, 1, n, 2).flip(-1)
    sampled = F.grid_sample(maps, grid, "bilinear", outside, align_corners=True)
    return sampled.view(b, c, n).transpose(1, 2)


def same_gradients(ours: Tensor, theirs: Tensor, inputs: list[Tensor], atol: float) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)
    weights = torch.randn(ours.shape, generator=generator(), dtype=ours.dtype)
    mine = torch.autograd.grad((ours * weights).sum(), inputs)
    reference = torch.autograd.grad((theirs * weights).sum(), inputs)
    for a, b in zip(mine, reference, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize("outside", ["zeros", "border"])
@pytest.mark.parametrize("shape", [(2, 5, 7, 6), (1, 1, 4, 6), (3, 8, 1, 6), (1, 1, 1, 6)])
def test_points_equal_grid_sample(shape: tuple[int, ...], outside: str) -> None:
    features = torch.randn(shape, generator=generator(), dtype=torch.float64).requires_grad_()
    spread = torch.rand(shape[0], 3, 40, 2, generator=generator(), dtype=torch.float64)
    points = (spread * 3 - 1.5).requires_grad_()  # a third of them outside the map
    ours = sample_points(features, points, outside=outside)
    theirs = grid_sample_points(features, points, outside)
    same_gradients(ours, theirs, [features, points], 1e-12)


@pytest.mark.parametrize("outside", ["zeros", "border"])
def test_points_on_entries_and_borders_equal_grid_sample(outside: str) -> None:
    # 5 rows and 9 columns: -1, -0.5, ... stand exactly on entries, where the slope jumps
    features = torch.randn(1, 5, 9, 2, generator=generator(), dtype=torch.float64).requires_grad_()
    place = torch.arange(-3, 4, dtype=torch.float64) / 2
    points = torch.cartesian_prod(place, place)[None, None].requires_grad_()
    ours = sample_points(features, points, outside=outside)
    same_gradients(ours, grid_sample_points(features, points, outside), [features, points], 1e-12)


def test_single_precision_points_are_those_of_grid_sample() -> None:
    features = torch.randn(2, 200, 336, 4, generator=generator())
    points = torch.rand(2, 2, 500, 2, generator=generator()) * 2 - 1
    ours = sample_points(features, points)
    theirs = grid_sample_points(features, points, "zeros")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_half_precision_features_keep_positions_exact() -> None:
    ramp = torch.arange(337.0).view(1, 1, 337, 1).expand(1, 2, 337, 1)
    points = torch.tensor([[[[0.0, 100.25 / 168 - 1]]]])
    assert sample_points(ramp.contiguous(), points).item() == pytest.approx(100.25, abs=1e-4)
    # 100.25 in bfloat16 is 100.0 or 100.5; a position rounded to bfloat16 would be off by 0.4
    assert sample_points(ramp.bfloat16(), points).item() in (100.0, 100.5)


def test_an_unknown_outside_is_refused() -> None:
    with pytest.raises(ValueError, match="outside must be one of"):
        sample_points(torch.zeros(1, 2, 2, 1), torch.zeros(1, 1, 1, 2), outside="reflection")


def test_tables_equal_grid_sample() -> None:
    b, groups, heads, n, y, x = 2, 3, 2, 4, 5, 6
    tables = torch.randn(groups, heads, 9, 13, generator=generator(), dtype=torch.float64)
    rows = torch.rand(b, groups, n, y, generator=generator(), dtype=torch.float64) * 2 - 1
    columns = torch.rand(b, groups, n, x, generator=generator(), dtype=torch.float64) * 2 - 1
    inputs = [t.requires_grad_() for t in (tables, rows, columns)]
    ours = sample_tables(tables, to_index(rows, 9), to_index(columns, 13))
    across = columns[:, :, :, None, :].expand(b, groups, n, y, x)
    down = rows[..., None].expand(b, groups, n, y, x)
    grid = torch.stack([across, down], dim=-1).reshape(b * groups, n * y, x, 2)
    maps = tables[None].expand(b, -1, -1, -1, -1).flatten(0, 1)
    theirs = F.grid_sample(maps, grid, align_corners=True).view(b, groups, heads, n, y, x)
    same_gradients(ours, theirs, inputs, 1e-12)


def test_interpolation_weights_by_hand() -> None:
    weights = interpolation_weights(torch.tensor([0.0, 1.25, 3.0]), 4)
    expected = [[1.0, 0.0, 0.0, 0.0], [0.0, 0.75, 0.25, 0.0], [0.0, 0.0, 0.0, 1.0]]
    assert weights.tolist() == expected


def test_second_derivatives_are_right() -> None:
    features = torch.randn(1, 3, 4, 2, generator=generator(), dtype=torch.float64).requires_grad_()
    points = torch.rand(1, 1, 3, 2, generator=generator(), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(sample_points, (features, points))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_backward_on_a_gpu_repeats_bit_for_bit_in_strict_mode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    def gradients() -> list[Tensor]:
        features = torch.randn(2, 16, 16, 8, generator=generator()).cuda().requires_grad_()
        points = (torch.rand(2, 2, 900, 2, generator=generator()) * 2 - 1).cuda().requires_grad_()
        tables = torch.randn(2, 2, 31, 31, generator=generator()).cuda().requires_grad_()
        table = sample_tables(tables, to_index(points, 31), to_index(points.flip(-1), 31))
        loss = sample_points(features, points).square().sum() + table.square().sum()
        return list(torch.autograd.grad(loss, [features, points, tables]))

    torch.use_deterministic_algorithms(True)
    try:
        first, second = gradients(), gradients()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
