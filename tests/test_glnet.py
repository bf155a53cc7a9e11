"""GLNet and GLMix: published counts, naive loops, masks, initialisation."""

import math

import pytest
import torch
from classifier import Classifier
from torch import nn
from torch.nn import functional as F

from pipeline.models.backbones.base import BatchNorm2d
from pipeline.models.backbones.glmix import GLMix, SelfAttention, pool_matrix
from pipeline.models.backbones.glnet import SIZES, Attention, Block, GLNet, Size
from pipeline.models.params import PLAIN, GLNetOptions, InteractionSpec


def count(module):
    return sum(p.numel() for p in module.parameters())


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- published figures -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "learned", "trunk", "full"),
    [
        ("stl", False, 29_526_250, 30_296_786),
        ("stl", True, 29_710_570, 30_481_106),  # "paramslot": 64 * (2*96 + 2*192 + 6*384) more
        ("4g", False, 26_487_569, 27_001_593),
        ("9g", False, 59_240_081, 60_010_617),
        ("16g", False, 105_028_113, 106_055_161),
    ],
)
def test_parameter_counts_are_the_published_ones(size, learned, trunk, full):
    with torch.device("meta"):
        model = GLNet(size, options=GLNetOptions(learned_slots=learned))
        classifier = Classifier(model, 1000, norm="batch")
    assert (count(model), count(classifier)) == (trunk, full)


def test_micro_is_small():
    assert 1e6 < count(GLNet("micro")) < 3e6


@pytest.mark.parametrize(("size", "dim", "expected"), [("4g", 64, 54_273), ("stl", 96, 132_961)])
def test_parameters_of_a_glmix_block(size, dim, expected):
    block = Block(dim, SIZES[size], GLMix(dim, dim // 32), 0.0, PLAIN)
    c, r, advanced = dim, SIZES[size].mlp_ratio, SIZES[size].advanced
    form = 4 * c * c + 4 * c + 2 * c * c + 28 * c + 4 * c + 2 * r * c * c + (r + 1) * c + 1
    assert count(block) == form + (10 * c + 10 * r * c if advanced else 0) == expected


def test_parameters_of_an_attention_block():
    blocks = GLNet("4g").stages[2]
    assert [type(b.mixing).__name__ for b in blocks] == ["GLMix", "Attention"] * 9
    assert count(blocks[1]) == 668_672


def test_output_norms_are_an_option():
    plain, normed = GLNet("micro"), GLNet("micro", options=GLNetOptions(output_norms=True))
    assert count(normed) - count(plain) == 2 * (64 + 128 + 256)
    normed.eval()
    with torch.no_grad():
        maps = normed(images(1, 3, 64, 64))
    assert all(abs(m.mean(1)).max() < 1e-4 for m in maps)  # LayerNorm at its initialisation


# --- parts against naive forms -----------------------------------------------------------------


@pytest.mark.parametrize("grid", [(8, 8), (7, 10), (1, 1), (3, 17), (25, 40), (64, 56)])
def test_pool_matrices_are_adaptive_average_pooling(grid):
    x = images(2, *grid, 3).double()
    slots = GLMix(3, 1).double().initial_slots(x)
    wanted = F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), 8).flatten(2).transpose(1, 2)
    torch.testing.assert_close(slots, wanted, rtol=0, atol=1e-13)


def test_pool_matrix_by_hand():
    like = torch.zeros(1)
    assert pool_matrix(3, 4, 2, like).tolist() == [[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0]]
    each = pool_matrix(torch.tensor([[1], [4]]), 4, 2, like)
    assert each.tolist() == [[[1, 0, 0, 0]] * 2, [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]]


def naive_exchange(mix, y, x):
    """Cluster and dispatch position by position, slot by slot, for one image."""
    height, width, dim = y.shape
    slots = []
    for a in range(8):
        for b in range(8):
            rows = range(a * height // 8, math.ceil((a + 1) * height / 8))
            columns = range(b * width // 8, math.ceil((b + 1) * width / 8))
            slots.append(torch.stack([x[i, j] for i in rows for j in columns]).mean(0))
    tokens = [y[i, j] for i in range(height) for j in range(width)]
    logit = [[mix.slot_scale * (s @ t) / (s.norm() * t.norm()) for t in tokens] for s in slots]
    clusters = []
    for m in range(64):
        total = sum(math.e**z for z in logit[m])
        clusters.append(sum(math.e ** logit[m][n] / total * t for n, t in enumerate(tokens)))
    clusters = mix.attention(torch.stack(clusters)[None])[0]
    out = []
    for n in range(len(tokens)):
        total = sum(math.e ** logit[m][n] for m in range(64))
        out.append(sum(math.e ** logit[m][n] / total * clusters[m] for m in range(64)))
    return torch.stack(out).view(height, width, dim)


def test_soft_clustering_equals_a_naive_loop_in_values_and_gradients():
    torch.manual_seed(0)
    mix = GLMix(32, 2, scale=3.0).double()
    inputs = [images(1, 3, 5, 32, seed=s).double().requires_grad_() for s in (1, 2)]
    leaves = [*inputs, mix.slot_scale, *mix.attention.parameters()]
    ours = mix.exchange(*inputs)
    naive = naive_exchange(mix, *(t[0] for t in inputs))[None]
    torch.testing.assert_close(ours, naive, rtol=0, atol=1e-11)
    weight = images(1, 3, 5, 32, seed=3).double()
    got = torch.autograd.grad((ours * weight).sum(), leaves)
    wanted = torch.autograd.grad((naive * weight).sum(), leaves)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_self_attention_is_torchs_with_the_same_parameters():
    reference = nn.MultiheadAttention(64, 2, batch_first=True)
    nn.init.normal_(reference.in_proj_bias)
    ours = SelfAttention(64, 2)
    assert count(ours) == count(reference)
    ours.qkv.weight, ours.qkv.bias = reference.in_proj_weight, reference.in_proj_bias
    ours.proj = reference.out_proj
    x = images(2, 5, 64)
    torch.testing.assert_close(ours(x), reference(x, x, x)[0], rtol=0, atol=1e-6)
    keep = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    wanted = reference(x, x, x, key_padding_mask=~keep)[0]
    torch.testing.assert_close(ours(x, keep), wanted, rtol=0, atol=1e-6)


def test_position_code_and_local_branch_are_their_convolutions():
    torch.manual_seed(0)
    block = Block(32, SIZES["4g"], GLMix(32, 1), 0.0, PLAIN).double()
    x = images(1, 6, 7, 32).double()
    residual, y, start = block.prepare(x)
    conv = F.conv2d(
        x.permute(0, 3, 1, 2), block.position.weight, block.position.bias, padding=1, groups=32
    )
    torch.testing.assert_close(residual, x + conv.permute(0, 2, 3, 1))
    torch.testing.assert_close(y, F.layer_norm(residual, (32,), eps=1e-6))
    assert start is x  # slots are pooled before the position code
    before, conv, after = block.mixing.local
    assert conv.weight.shape == (32, 1, 5, 5)
    window = before(y)[0, 1:6, 1:6] * conv.weight[:, 0].permute(1, 2, 0)
    wanted = after(window.sum((0, 1)) + conv.bias)
    torch.testing.assert_close(block.mixing.local(y)[0, 3, 3], wanted)


# --- options -----------------------------------------------------------------------------------


def test_initial_scale():
    model = GLNet("micro")
    assert model.stages[1][0].mixing.slot_scale.item() == pytest.approx(64**-0.5)
    assert model.stages[1][0].mixing.slot_scale.ndim == 0
    model = GLNet("micro", options=GLNetOptions(slot_scale=10.0))
    assert model.stages[2][2].mixing.slot_scale.item() == 10.0


def test_larger_scale_tells_slots_apart():
    y = images(1, 16, 16, 64)
    spread = []
    for scale in (None, 10.0):
        chances = GLMix(64, 2, scale=scale).assignments(y, y)
        spread.append((chances.amax(1) / chances.amin(1)).mean().item())
    assert spread[0] < 1.4 < 10 < spread[1]  # e**(2/8) is the most that the paper's start allows


def test_padding_can_be_kept_out_of_clusters_and_attention():
    torch.manual_seed(0)
    y, x = images(2, 10, 13, 64, seed=1).double(), images(2, 10, 13, 64, seed=2).double()
    cells = torch.tensor([[10, 13], [10, 13]])

    def padded(t):
        return F.pad(t, (0, 0, 0, 3, 0, 6), value=5.0)

    for mix in (GLMix(64, 2).double().exchange, Attention(64, 2).double()):
        alone, without = mix(y, x), mix(padded(y), padded(x))
        masked = mix(padded(y), padded(x), cells)
        torch.testing.assert_close(masked[:, :10, :13], alone, rtol=0, atol=1e-12)
        assert (without[:, :10, :13] - alone).abs().max() > 1e-3


def test_each_image_of_a_batch_has_its_own_padding():
    torch.manual_seed(0)
    mix = GLMix(32, 1).double()
    y, x = images(2, 9, 12, 32, seed=1).double(), images(2, 9, 12, 32, seed=2).double()
    both = mix.exchange(y, x, torch.tensor([[9, 12], [4, 7]]))
    first = mix.exchange(y[:1], x[:1])
    second = mix.exchange(y[1:, :4, :7], x[1:, :4, :7])
    torch.testing.assert_close(both[:1], first, rtol=0, atol=1e-12)
    torch.testing.assert_close(both[1:, :4, :7], second, rtol=0, atol=1e-12)


def test_mask_padding_uses_the_size_before_padding():
    torch.manual_seed(0)
    model, other = (
        GLNet("micro").eval(),
        GLNet("micro", options=GLNetOptions(mask_padding=True)).eval(),
    )
    other.load_state_dict(model.state_dict())
    x = images(1, 3, 70, 90)
    with torch.no_grad():
        wanted = model(x, torch.tensor([[70, 90]]))
        for a, b, c in zip(wanted, other(x), model(x), strict=True):
            assert torch.equal(a, b)
            assert not torch.equal(a, c)


# --- blocks and their start ---------------------------------------------------------------------


def test_batch_norm_of_a_single_value_uses_the_running_statistics():
    norm = BatchNorm2d(2)
    norm.running_mean.copy_(torch.tensor([1.0, -1.0]))
    norm.running_var.fill_(4.0 - norm.eps)
    out = norm(torch.tensor([3.0, 3.0]).view(1, 2, 1, 1))
    assert out.flatten().tolist() == pytest.approx([1.0, 2.0])
    assert norm.num_batches_tracked == 0 and norm.running_mean.tolist() == [1.0, -1.0]
    x = images(2, 2, 1, 1)
    torch.testing.assert_close(norm(x), nn.BatchNorm2d(2)(x))
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("placement", ["stream", "branch"])
def test_the_plain_form_starts_with_its_baselines_output(monkeypatch, placement):
    thin = Size((32, 64, 64, 96), (1, 1, 2, 1), 4, 0.0, advanced=False)
    monkeypatch.setitem(SIZES, "stl", thin)
    torch.manual_seed(0)
    base = GLNet("stl").eval()
    enhanced = GLNet("stl", interaction=InteractionSpec(2, 4, placement)).eval()
    missing, unexpected = enhanced.load_state_dict(base.state_dict(), strict=False)
    assert not unexpected and all(f".{placement}." in key for key in missing)
    assert any(".acp." in key for key in missing) and any(".cat." in key for key in missing)
    x = images(2, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(base(x), enhanced(x), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_initialisation_follows_the_release():
    torch.manual_seed(0)
    wide = GLNet("4g").stages[2]
    stl = GLNet("stl").stages[3][0]
    # 1x1 convolutions keep torch's default U(-1, 1) / sqrt(fan in), linear layers get 0.02
    assert wide[0].mlp.expand.weight.std().item() == pytest.approx(256**-0.5 / 3**0.5, rel=0.02)
    assert wide[1].mlp.expand.weight.std().item() == pytest.approx(256**-0.5 / 3**0.5, rel=0.02)
    assert stl.mlp.expand.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert wide[0].mixing.attention.proj.weight.std().item() == pytest.approx(0.02, rel=0.02)
    xavier = (6 / (256 + 768)) ** 0.5 / 3**0.5
    assert wide[1].mixing.qkv.weight.std().item() == pytest.approx(xavier, rel=0.02)
    with torch.device("meta"):
        assert [len(b.scales) for b in GLNet("16g").stages[0]] == [2] * 4


def test_layer_scale():
    size = Size((32, 32, 32, 32), (1, 1, 2, 1), 3, 0.0, layer_scale=1e-4)
    torch.manual_seed(0)
    block = Block(32, size, GLMix(32, 1), 0.0, PLAIN)
    block.reset_parameters()
    x = images(1, 8, 8, 32)
    residual, _, _ = block.prepare(x)
    assert 0 < (block(x) - residual).abs().max() < 1e-3


def test_assignments_are_shares_per_position():
    torch.manual_seed(0)
    model = GLNet("micro").eval()
    found = model.assignments(images(2, 3, 70, 64))  # padded to 96x64
    grids = [(24, 16)] * 2 + [(12, 8)] * 2 + [(6, 4)] * 2
    assert [tuple(f.shape) for f in found] == [(2, 64, *grid) for grid in grids]
    for shares in found:
        assert shares.min() > 0
        torch.testing.assert_close(shares.sum(1), torch.ones_like(shares[:, 0]))
    assert not model.stages[0][0].mixing._forward_pre_hooks
