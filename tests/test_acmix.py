"""ACmix, both forms: published counts, both branches against naive forms, the contract."""

import math

import pytest
import torch
from acmix_naive import assert_same_with_gradients, naive_shift_and_sum, noise
from classifier import Classifier
from torch import nn
from torch.nn import functional as F

from pipeline.models.backbones.acmix import AcmixAttention, AcmixSwin, ShiftAndSum
from pipeline.models.backbones.acmix_resnet import AcmixResNet
from pipeline.models.backbones.swin import Swin, WindowAttention
from pipeline.models.params import PLAIN, AcmixResNetOptions, AcmixSwinOptions, InteractionSpec

OPTIONS = {AcmixSwin: AcmixSwinOptions, AcmixResNet: AcmixResNetOptions}

BOTH = InteractionSpec(pool_layers=2, concepts=4)
FAMILIES = pytest.mark.parametrize("family", [AcmixSwin, AcmixResNet])


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.fixture
def strict():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def settled(model, x):
    """Batch norms that know the statistics of `x`, as after training; without them every block of
    an eval-mode ResNet multiplies its input and softmaxes become as good as discontinuous."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()(x)
    return model.eval()


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


# --- the contract, both families ---------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("interaction", [PLAIN, BOTH], ids=["none", "both"])
@pytest.mark.parametrize("shape", [(32, 32), (33, 95), (96, 64)])
def test_shapes_and_gradients_at_free_sizes(family, shape, interaction):
    torch.manual_seed(0)
    model = family("micro", interaction=interaction)
    maps = model(noise(1, 3, *shape))
    high, wide = (math.ceil(n / 32) * 32 for n in shape)
    for stride, channels, features in zip((8, 16, 32), model.channels, maps, strict=True):
        assert features.shape == (1, channels, high // stride, wide // stride)
        assert features.isfinite().all()
    sum(m.square().mean() for m in maps).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@FAMILIES
@pytest.mark.parametrize("placement", ["stream", "branch"])
def test_enhanced_model_starts_with_its_baselines_output(family, placement):
    torch.manual_seed(0)
    x = noise(2, 3, 64, 96)
    base = settled(family("micro"), x)
    enhanced = family("micro", interaction=InteractionSpec(2, 4, placement)).eval()
    missing, unexpected = enhanced.load_state_dict(base.state_dict(), strict=False)
    assert not unexpected and all(f".{placement}." in key for key in missing)
    assert any(".acp." in key for key in missing) and any(".cat." in key for key in missing)
    with torch.no_grad():
        for a, b in zip(base(x), enhanced(x), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@FAMILIES
def test_no_interaction_leaves_the_state_dict_alone(family):
    keys = family("micro").state_dict().keys()
    none = InteractionSpec(pool_layers=0, concepts=0, placement="branch")
    assert family("micro", interaction=none).state_dict().keys() == keys
    assert not any("stream" in key or "branch" in key for key in keys)


@FAMILIES
def test_reset_draws_every_parameter_anew(family):
    models = [
        family("micro", interaction=BOTH, options=OPTIONS[family](output_norms=True))
        for _ in range(2)
    ]
    for name, parameter in models[1].named_parameters():
        if not name.endswith(".gates"):  # ACP's own, ones by definition
            nn.init.constant_(parameter, 7.0)
    states = []
    for model in models:
        torch.manual_seed(4)
        model.reset_parameters()
        states.append(model.state_dict())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


def gradients(model, x):
    model.zero_grad()
    torch.manual_seed(5)
    maps = model(x)
    sum(m.square().mean() for m in maps).backward()
    return [m.detach() for m in maps] + [p.grad.clone() for p in model.parameters()]


@FAMILIES
def test_checkpointing_changes_nothing(family, strict):
    torch.manual_seed(0)
    plain = family("micro", interaction=BOTH, drop_path=0.3)
    saving = family("micro", interaction=BOTH, drop_path=0.3, checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    x = noise(2, 3, 64, 64)
    for a, b in zip(gradients(plain, x), gradients(saving, x), strict=True):
        assert torch.equal(a, b)
    assert family is AcmixSwin or len(list(plain.buffers())) > 0
    for a, b in zip(plain.buffers(), saving.buffers(), strict=True):
        assert torch.equal(a, b)  # running statistics moved once


@FAMILIES
def test_runs_repeat_to_the_bit(family, strict):
    torch.manual_seed(0)
    model = family("micro", interaction=BOTH, drop_path=0.2)
    x = noise(2, 3, 64, 96)
    for a, b in zip(gradients(model, x), gradients(model, x), strict=True):
        assert torch.equal(a, b)


@FAMILIES
def test_bfloat16_autocast_stays_close(family):
    torch.manual_seed(0)
    x = noise(2, 3, 96, 96)
    model = settled(family("micro", interaction=BOTH), x)
    exact = [m.detach() for m in model(x)]
    with torch.autocast("cpu", torch.bfloat16):
        maps = model(x)
    assert all(m.isfinite().all() for m in maps)
    # deeper maps add the rounding of all blocks before them
    assert ((exact[0] - maps[0]).norm() / exact[0].norm()).item() < 0.05
    sum(m.float().square().mean() for m in maps).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.slow
def test_exported_program_replays_at_another_size():
    torch.manual_seed(0)
    high, wide = (torch.export.Dim(name, min=9, max=64) for name in ("h", "w"))
    x = noise(2, 3, 320, 352)  # every map has several tiles per axis
    model = settled(AcmixResNet("micro", interaction=BOTH), x)
    with torch.no_grad():
        program = torch.export.export(
            model, (x,), dynamic_shapes=({2: 32 * high, 3: 32 * wide},)
        ).module()
        for shape in [(320, 352), (416, 320), (352, 512)]:
            x = noise(2, 3, *shape, seed=1)
            for a, b in zip(model(x), program(x), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
