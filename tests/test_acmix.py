"""ACmix, both forms: published counts, both branches against naive forms."""

import pytest
import torch
from acmix_naive import assert_same_with_gradients, naive_shift_and_sum, noise
from classifier import Classifier
from torch import nn
from torch.nn import functional as F

from pipeline.models.backbones.acmix import AcmixAttention, AcmixSwin, ShiftAndSum
from pipeline.models.backbones.acmix_resnet import AcmixResNet
from pipeline.models.backbones.swin import Swin, WindowAttention
from pipeline.models.params import AcmixResNetOptions, AcmixSwinOptions

OPTIONS = {AcmixSwin: AcmixSwinOptions, AcmixResNet: AcmixResNetOptions}
FAMILIES = pytest.mark.parametrize("family", [AcmixSwin, AcmixResNet])


def count(module):
    return sum(p.numel() for p in module.parameters())


# --- published figures -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "size", "trunk", "full"),
    [
        (AcmixResNet, "26", 8_438_816, 10_487_816),
        (AcmixResNet, "38", 12_361_896, 14_410_896),
        (AcmixResNet, "50", 16_284_976, 18_333_976),
        (AcmixSwin, "tiny", 27_882_060, 28_649_908),
        (AcmixSwin, "small", 49_577_232, 50_345_080),
        (AcmixSwin, "base", 87_729_768, 88_753_232),  # not in the paper
    ],
)
def test_counts_are_those_of_the_released_code(family, size, trunk, full):
    with torch.device("meta"):
        model = family(size)
        bare = family(size, options=OPTIONS[family](output_norms=False))
        classifier = Classifier(bare, 1000, norm="layer" if family is AcmixSwin else "none")
    assert (count(model), count(classifier)) == (trunk, full)


@pytest.mark.parametrize(("dim", "heads", "expected"), [(96, 3, 7_868), (768, 24, 62_867)])
def test_what_acmix_adds_to_a_swin_block(dim, heads, expected):
    added = count(AcmixAttention(dim, heads, 0, False, True))
    added -= count(WindowAttention(dim, heads, 0, False))
    assert added == (27 * heads + 9) + 81 * dim + 2 == expected


@FAMILIES
def test_micro_is_small(family):
    assert 1e6 < count(family("micro")) < 3e6


# --- shift and sum -----------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_shift_and_sum_at_the_start_adds_shifted_maps(stride, bias):
    torch.manual_seed(0)
    conv = ShiftAndSum(12, 3, stride=stride, bias=bias).double()
    parts = noise(2, 5, 7, 3, 3, 4).double().requires_grad_()
    maps = torch.einsum("ts,bhwsd->bthwd", conv.mix.weight, parts.flatten(3, 4))
    maps = maps + (conv.mix.bias[:, None, None, None] if bias else 0)
    padded = F.pad(maps, (0, 0, 1, 1, 1, 1))
    steps = [(t // 3, t % 3) for t in range(9)]  # one map per step of the 3x3
    total = sum(padded[:, t, y : y + 5, x : x + 7] for t, (y, x) in enumerate(steps))
    wanted = total[:, ::stride, ::stride].repeat_interleave(3, dim=3)  # all heads alike
    assert_same_with_gradients(conv(parts), wanted, [parts, *conv.mix.parameters()])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_learned_shift_and_sum_equals_a_naive_loop(stride, bias):
    torch.manual_seed(0)
    conv = ShiftAndSum(12, 3, stride=stride, bias=bias).double()
    nn.init.normal_(conv.shift)
    parts = noise(2, 6, 5, 3, 3, 4).double().requires_grad_()
    leaves = [parts, *conv.parameters()]
    assert_same_with_gradients(conv(parts), naive_shift_and_sum(conv, parts), leaves)


def test_an_impulse_goes_one_step():
    conv = ShiftAndSum(2, 1, bias=False)  # one head of two channels
    nn.init.zeros_(conv.mix.weight)
    with torch.no_grad():
        conv.mix.weight[0, 2] = 1.0  # tap 0, the step (-1, -1), reads the values
    parts = torch.zeros(1, 4, 4, 3, 1, 2)
    parts[0, 1, 1, 2, 0, 1] = 1.0
    out = conv(parts)
    assert out.nonzero().tolist() == [[0, 2, 2, 1]]  # a position sees its upper left neighbour


# --- the Swin form -----------------------------------------------------------------------------


def naive_swin_form(module, x, shift):
    """Pad, roll, project; a convolution of the whole, attention of each window; roll back."""
    _, height, width, c = x.shape
    heads, tall, wide = module.heads, -(-height // 7) * 7, -(-width // 7) * 7
    down, across = shift if tall > 7 else 0, shift if wide > 7 else 0
    x = F.pad(x, (0, 0, 0, wide - width, 0, tall - height)).roll((-down, -across), (1, 2))
    parts = module.qkv(x).unflatten(3, (3, heads, -1))
    # tokens that came from beyond the far edge form windows of their own
    origin = [torch.arange(n) >= n - s for n, s in ((tall, down), (wide, across))]
    region = origin[0][:, None] * 2 + origin[1][None] * 1
    out = torch.zeros_like(x)
    for top in range(0, tall, 7):
        for left in range(0, wide, 7):
            window = (slice(top, top + 7), slice(left, left + 7))
            q, k, v = parts[:, window[0], window[1]].flatten(1, 2).permute(2, 0, 3, 1, 4)
            logits = q @ k.transpose(2, 3) * (c // heads) ** -0.5
            for i in range(49):
                for j in range(49):
                    row, column = i // 7 - j // 7 + 6, i % 7 - j % 7 + 6
                    logits[:, :, i, j] += module.table[row * 13 + column]
            mine = region[window].flatten()
            logits = logits.masked_fill(mine[:, None] != mine, -torch.inf)
            mixed = (logits.softmax(3) @ v).transpose(1, 2).flatten(2)
            out[:, window[0], window[1]] = module.proj(mixed).unflatten(1, (7, 7))
    out = module.rate1 * out + module.rate2 * naive_shift_and_sum(module.conv, parts)
    return out.roll((down, across), (1, 2))[:, :height, :width]


def swin_attention(shift, *, mask_padding=False, seam=True):
    torch.manual_seed(0)
    module = AcmixAttention(8, 2, shift, mask_padding, seam).double()
    module.reset_parameters()
    for parameter in (module.conv.shift, module.table, module.qkv.bias):
        nn.init.normal_(parameter)
    nn.init.constant_(module.rate1, 0.7)
    return module


@pytest.mark.parametrize(("grid", "shift"), [((14, 14), 3), ((14, 7), 0), ((10, 5), 3)])
def test_swin_form_equals_a_naive_form_in_values_and_gradients(grid, shift):
    module = swin_attention(shift)
    x = noise(1, *grid, 8).double().requires_grad_()
    wanted = naive_swin_form(module, x, shift)
    assert_same_with_gradients(module(x), wanted, [x, *module.parameters()])


def test_seam_changes_the_rows_of_the_cut_and_the_edge_alone():
    with_seam, without = swin_attention(3), swin_attention(3, seam=False)
    qkv = noise(1, 14, 14, 24).double()
    plain = naive_shift_and_sum(without.conv, qkv.unflatten(3, (3, 2, -1)))
    torch.testing.assert_close(without.convolve(qkv), plain, rtol=0, atol=1e-12)
    changed = (with_seam.convolve(qkv) - plain).abs().amax((0, 3)) > 1e-9
    rows = torch.tensor([i in (0, 2, 3, 13) for i in range(14)])
    assert torch.equal(changed, rows[:, None] | rows[None])


def test_rolled_convolution_exports_for_all_sizes():
    class Convolve(AcmixAttention):
        def forward(self, qkv):
            return self.convolve(qkv)

    torch.manual_seed(0)
    module = Convolve(8, 2, 3, False, True).requires_grad_(False)
    module.reset_parameters()
    high, wide = (torch.export.Dim(name, min=9, max=64) for name in ("h", "w"))
    program = torch.export.export(
        module, (noise(2, 20, 22, 24),), dynamic_shapes=({1: 2 * high, 2: 2 * wide},)
    ).module()
    for grid in [(20, 22), (28, 28), (30, 70)]:  # (28, 28) needs no filling up
        x = noise(2, *grid, 24, seed=1)
        torch.testing.assert_close(program(x), module(x), rtol=0, atol=1e-6)


def test_windows_are_not_shifted_where_one_is_enough():
    x = noise(2, 7, 6, 8).double()
    torch.testing.assert_close(swin_attention(3)(x), swin_attention(0)(x), rtol=0, atol=1e-12)


def test_without_the_convolution_it_is_swin():
    torch.manual_seed(0)
    ours, swin = AcmixSwin("micro").eval(), Swin("micro").eval()
    missing, unexpected = swin.load_state_dict(ours.state_dict(), strict=False)
    assert not missing
    assert {key.split(".attn.")[1] for key in unexpected} == {
        "rate1", "rate2", "conv.shift", "conv.mix.weight", "conv.mix.bias"
    }  # fmt: skip
    for module in ours.modules():
        if isinstance(module, AcmixAttention):
            nn.init.ones_(module.rate1)
            nn.init.zeros_(module.rate2)
    x = noise(1, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(ours(x), swin(x), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_swin_initialisation_keeps_the_shifts():
    torch.manual_seed(0)
    mixing = AcmixSwin("micro").stages[3][1].attn
    assert mixing.shift == 3
    assert torch.equal(mixing.conv.shift[5].flatten(1), torch.eye(9))
    assert mixing.rate1.tolist() == mixing.rate2.tolist() == [0.5]
    assert mixing.conv.mix.weight.std().item() == pytest.approx(24**-0.5 / 3**0.5, rel=0.2)
    assert mixing.qkv.weight.std().item() == pytest.approx(0.02, rel=0.02)
