"""ACmix in ResNets: local attention with keys k - pe against the published form, odd maps."""

import math

import pytest
import torch
from acmix_naive import assert_same_with_gradients, naive_shift_and_sum, noise
from torch import nn
from torch.nn import functional as F

from pipeline.models.backbones.acmix_resnet import ACmix, AcmixResNet, Bottleneck, axis_positions
from pipeline.models.params import PLAIN


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_resnet_module_count():
    # three projections, position code, mix, shifts, rates
    c = 64
    form = 3 * (c * c + c) + 3 * c // 4 + 9 * 3 * 4 + 81 * c + 2
    assert count(ACmix(c)) == form == 17_822


def naive_acmix(module, x):
    """Unfolded, reflection-padded, with the relative term as it is published."""
    _, height, width, c = x.shape
    heads, s = module.heads, module.stride
    q, k, v = (t.unflatten(3, (heads, -1)) for t in module.qkv(x).chunk(3, dim=3))
    across = torch.linspace(-1, 1, width, dtype=x.dtype).expand(height, width)
    down = torch.linspace(-1, 1, height, dtype=x.dtype)[:, None].expand(height, width)
    pe = module.position(torch.stack([across, down], dim=2))  # (H, W, d)

    def neighbours(t):  # (B, H, W, n) -> (B, H', W', n, 49)
        t = F.pad(t.permute(0, 3, 1, 2), (3, 3, 3, 3), mode="reflect")
        t = t.unfold(2, 7, s).unfold(3, 7, s)
        return t.permute(0, 2, 3, 1, 4, 5).flatten(4)

    near_k = neighbours(k.flatten(3)).unflatten(3, (heads, -1))
    near_v = neighbours(v.flatten(3)).unflatten(3, (heads, -1))
    near_pe = neighbours(pe[None])[:, :, :, None]
    relative = near_k + pe[::s, ::s, None, :, None] - near_pe
    query = q[:, ::s, ::s] * (c // heads) ** -0.5
    weight = (query[..., None] * relative).sum(4).softmax(4)
    attended = (weight[:, :, :, :, None] * near_v).sum(5).flatten(3)
    conv = naive_shift_and_sum(module.conv, torch.stack([q, k, v], dim=3))
    return module.rate1 * attended + module.rate2 * conv


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("grid", [(9, 12), (13, 7)])
def test_acmix_equals_a_naive_form_in_values_and_gradients(grid, stride):
    torch.manual_seed(0)
    module = ACmix(8, stride=stride).double()
    module.reset_parameters()
    nn.init.normal_(module.conv.shift)
    nn.init.constant_(module.rate1, 0.7)
    x = noise(2, *grid, 8).double().requires_grad_()
    leaves = [x, *module.parameters()]
    assert_same_with_gradients(module(x), naive_acmix(module, x), leaves)


@pytest.mark.parametrize("grid", [(1, 1), (2, 5), (3, 3), (4, 1)])
@pytest.mark.parametrize("stride", [1, 2])
def test_acmix_on_tiny_and_odd_maps(grid, stride):
    torch.manual_seed(0)
    module = ACmix(8, stride=stride)
    module.reset_parameters()
    out = module(noise(2, *grid, 8))
    assert out.shape == (2, math.ceil(grid[0] / stride), math.ceil(grid[1] / stride), 8)
    out.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_bottleneck_rounds_odd_sides_up():
    block = Bottleneck(16, 8, 2, 0.0, PLAIN)
    block.mixing.reset_parameters()
    assert block(noise(1, 16, 7, 10)).shape == (1, 32, 4, 5)


def test_axis_positions():
    assert axis_positions(5, torch.zeros(1)).tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert axis_positions(1, torch.zeros(1)).tolist() == [-1.0]
    many = axis_positions(1000, torch.zeros(1).double())
    torch.testing.assert_close(many, torch.linspace(-1, 1, 1000).double(), rtol=0, atol=1e-6)


def test_position_code_stays_in_fp32_under_autocast():
    torch.manual_seed(0)
    module = ACmix(8)
    module.reset_parameters()
    x = noise(1, 300, 2, 8)
    exact = module.encoding(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module.encoding(x), exact)


def test_resnet_initialisation_keeps_the_shifts():
    torch.manual_seed(0)
    model = AcmixResNet("26")
    mixing = model.stages[3][0].mixing
    assert (mixing.conv.shift != 0).float().mean().item() == pytest.approx(1 / 9)
    assert mixing.rate1.tolist() == mixing.rate2.tolist() == [0.5]
    assert mixing.qkv.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.02)
    assert mixing.position.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.2)
    conv3 = model.stages[3][0].conv3.weight
    assert conv3.std().item() == pytest.approx((2 / 2048) ** 0.5, rel=0.02)


def test_bfloat16_autocast_stays_close():
    torch.manual_seed(0)
    module = ACmix(64)
    module.reset_parameters()
    x = noise(2, 16, 16, 64)
    exact = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x)
    assert ((out - exact).norm() / exact.norm()).item() < 0.01
