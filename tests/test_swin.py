"""Swin: counts, parity with torchvision, windows at odd sizes, interactions."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from pipeline.models.classifier import Classifier
from pipeline.models.swin import Swin


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
        assert count(Classifier(Swin(size, output_norms=False))) == full
        assert count(Swin(size)) == trunk


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
    ours = Swin("tiny", output_norms=False).eval()
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
