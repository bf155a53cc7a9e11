"""Swin: counts, parity with torchvision, windows at odd sizes, interactions."""

import pytest
import torch
import torchvision
from classifier import Classifier
from torch import Tensor, nn

from pipeline.models.backbones import windows
from pipeline.models.backbones.swin import Swin
from pipeline.models.backbones.windows import relative_places, window_attention
from pipeline.models.params import SwinOptions


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("size", "full", "trunk"),
    [
        ("tiny", 28_288_354, 27_520_506),
        ("small", 49_606_258, 48_838_410),
        ("base", 87_768_224, 86_744_760),
    ],
)
def test_published_parameter_counts(size: str, full: int, trunk: int) -> None:
    with torch.device("meta"):
        assert count(Classifier(Swin(size, options=SwinOptions(output_norms=False)))) == full
        assert count(Swin(size)) == trunk


def test_closed_forms_of_the_modules() -> None:
    with torch.device("meta"):
        model = Swin("tiny")
    assert count(model.stages[0][0]) == 12 * 96**2 + 13 * 96 + 169 * 3
    assert count(model.merges[0]) == 8 * 96**2 + 8 * 96


def from_torchvision(ours: Swin, theirs: nn.Module) -> None:
    """Copy torchvision's weights."""
    state = {}
    names = {"attn.relative_position_bias_table": "attn.table", "mlp.0": "mlp.fc1"}
    names |= {"mlp.3": "mlp.fc2", "reduction": "reduce"}
    for key, value in theirs.features.state_dict().items():
        number, _, rest = key.partition(".")
        stage = (int(number) - 1) // 2
        for old, new in names.items():
            rest = rest.replace(old, new)
        if number == "0":
            prefix = {"0": "patch", "2": "patch_norm"}[rest[0]] + rest[1:]
        elif int(number) % 2:
            prefix = f"stages.{stage}.{rest}"
        else:
            prefix = f"merges.{stage}.{rest}"
        if "relative_position_index" not in key:
            state[prefix] = value
    ours.load_state_dict(state, strict=True)


@pytest.fixture(scope="module")
def pair() -> tuple[Swin, nn.Module]:
    """Ours and torchvision's with the same weights, large biases included."""
    torch.manual_seed(0)
    theirs = torchvision.models.swin_t().eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("bias") or "table" in name:
                parameter.normal_(std=0.2)
    ours = Swin("tiny", options=SwinOptions(output_norms=False)).eval()
    from_torchvision(ours, theirs)
    return ours, theirs


def stages_of_torchvision(model: nn.Module, images: Tensor) -> list[Tensor]:
    outputs, x = [], images
    for i, layer in enumerate(model.features):
        x = layer(x)
        if i % 2:
            outputs.append(x.permute(0, 3, 1, 2))
    return outputs


@pytest.mark.parametrize("sides", [(224, 224), (256, 352), (32, 64), (96, 480)])
def test_equal_to_torchvision(pair: tuple[Swin, nn.Module], sides: tuple[int, int]) -> None:
    # (256, 352) is 250 x 333 after padding; 32 x 64 has an axis that one window covers
    ours, theirs = pair
    images = torch.randn(2, 3, *sides, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        maps, expected = ours.trunk(images), stages_of_torchvision(theirs, images)
    assert [m.shape for m in maps] == [e.shape for e in expected]
    for mine, reference in zip(maps, expected, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-5)


def test_classifier_equals_torchvision(pair: tuple[Swin, nn.Module]) -> None:
    ours, theirs = pair
    classifier = Classifier(ours).eval()
    classifier.layer_norm.load_state_dict(theirs.norm.state_dict())
    classifier.head.load_state_dict(theirs.head.state_dict())
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(classifier(images), theirs(images), rtol=0, atol=1e-5)


def test_classifier_refuses_an_unknown_norm() -> None:
    with pytest.raises(ValueError, match="norm must be one of"):
        Classifier(Swin("micro"), norm="group")


def naive_windows(
    qkv: Tensor, bias: Tensor, heads: int, shift: int, padding: Tensor | None
) -> Tensor:
    """Every token over those of its window that were its neighbours before the roll."""
    batch, height, width, three = qkv.shape
    w = round(bias.shape[-1] ** 0.5)
    full = [-(-side // w) * w for side in (height, width)]
    steps = [0 if side <= w else shift for side in full]
    tokens: dict[tuple[int, ...], list[tuple[int, int, int]]] = {}
    for y in range(full[0]):
        for x in range(full[1]):
            if padding is None and (y >= height or x >= width):
                continue
            rolled = [(p - s) % side for p, s, side in zip((y, x), steps, full, strict=True)]
            wrapped = [r >= side - s for r, s, side in zip(rolled, steps, full, strict=True)]
            key = (rolled[0] // w, rolled[1] // w, *wrapped)
            tokens.setdefault(key, []).append((y, x, rolled[0] % w * w + rolled[1] % w))
    out = torch.zeros(batch, height, width, three // 3, dtype=qkv.dtype)
    for group in tokens.values():
        inside = [y < height and x < width for y, x, _ in group]
        rows = [
            qkv[:, y, x] if real else padding.expand(batch, -1)
            for (y, x, _), real in zip(group, inside, strict=True)
        ]
        parts = torch.stack(rows, dim=1).view(batch, len(group), 3, heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        place = torch.tensor([p for _, _, p in group])
        logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias[:, place][:, :, place]
        mixed = (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)
        for i, (y, x, _) in enumerate(group):
            if inside[i]:
                out[:, y, x] = mixed[:, i]
    return out


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("sides", [(6, 9), (7, 5), (2, 8), (3, 3), (1, 1)])
def test_windows_equal_a_naive_loop(sides: tuple[int, int], shift: int, masked: bool) -> None:
    generator = torch.Generator().manual_seed(6)
    shapes = [(2, *sides, 12), (2, 9, 9), (12,)]
    qkv, bias, padding = (
        torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes
    )
    inputs = [qkv, bias] if masked else [qkv, bias, padding]
    fill = None if masked else padding
    ours = window_attention(qkv, 2, bias, shift=shift, padding=fill)
    theirs = naive_windows(qkv, bias, 2, shift, fill)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    weights = torch.randn_like(ours)
    mine = torch.autograd.grad((ours * weights).sum(), inputs, allow_unused=True)
    naive = torch.autograd.grad((theirs * weights).sum(), inputs, allow_unused=True)
    for a, b in zip(mine, naive, strict=True):
        a, b = (torch.zeros(1, dtype=torch.float64) if g is None else g for g in (a, b))
        torch.testing.assert_close(a, b.expand_as(a), rtol=0, atol=1e-12)


def test_relative_places_by_hand() -> None:
    # 2 x 2 positions, 3 x 3 displacements: entry (dy + 1) * 3 + dx + 1, query minus key
    expected = [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    assert relative_places(2).tolist() == expected


def test_masks_are_kept_for_a_limited_number_of_sizes() -> None:
    attend = Swin("micro").stages[0][1].attn
    for side in range(8, 90):
        attend(torch.zeros(1, side, 8, 32))
    kept = windows._make_mask_once.cache_info()
    assert kept.currsize <= kept.maxsize == 64


def test_a_first_call_without_gradients_leaves_masks_that_training_can_use() -> None:
    windows._make_mask_once.cache_clear()
    model = Swin("micro", options=SwinOptions(mask_padding=True))
    images = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        model(images)
    sum(m.sum() for m in model(images)).backward()
    assert model.stages[0][1].attn.table.grad is not None
