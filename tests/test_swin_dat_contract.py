"""What Swin and DAT++ keep alike: sizes, interactions, checkpoints, precision, seeds."""

import pytest
import torch

from pipeline.models.backbones.base import STRIDES
from pipeline.models.backbones.dat import Dat
from pipeline.models.backbones.swin import Swin
from pipeline.models.params import InteractionSpec

FAMILIES = (Swin, Dat)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sides", [(32, 32), (33, 40), (250, 333), (64, 224)])
def test_maps_of_any_size(family: type, sides: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = family("micro")
    maps = model(torch.randn(2, 3, *sides))
    tall, wide = (-(-side // 32) * 32 for side in sides)
    assert [tuple(m.shape) for m in maps] == [
        (2, c, tall // s, wide // s) for c, s in zip(model.channels, STRIDES, strict=True)
    ]
    sum(m.square().mean() for m in maps).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_no_interaction_is_the_plain_state_dict(family: type) -> None:
    plain = family("micro").state_dict().keys()
    assert family("micro", interaction=InteractionSpec(0, 0, "branch")).state_dict().keys() == plain
    assert not [key for key in plain if "stream" in key or "branch" in key]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("placement", ["stream", "branch"])
@pytest.mark.parametrize(("layers", "concepts"), [(2, 0), (0, 8), (2, 8)])
def test_interactions_start_as_the_baseline(
    family: type, placement: str, layers: int, concepts: int
) -> None:
    torch.manual_seed(0)
    plain = family("micro").eval()
    enhanced = family("micro", interaction=InteractionSpec(layers, concepts, placement)).eval()
    missing = enhanced.load_state_dict(plain.state_dict(), strict=False)
    assert missing.missing_keys and not missing.unexpected_keys
    images = torch.randn(2, 3, 96, 64)
    for a, b in zip(enhanced(images), plain(images), strict=True):
        # a residual of exactly 0, or a product with the identity: equal to rounding
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("placement", ["stream", "branch"])
def test_interactions_take_part_in_learning(family: type, placement: str) -> None:
    torch.manual_seed(0)
    model = family("micro", interaction=InteractionSpec(1, 4, placement))
    images = torch.randn(2, 3, 64, 64)
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):  # the aggregation starts at zero: what is behind it learns from step 2 on
        optimiser.zero_grad()
        sum((m**3).mean() for m in model(images)).backward()
        optimiser.step()
    still = [n for n, p in model.named_parameters() if not p.grad.abs().sum() > 0]
    # a key's bias moves all logits of a query alike, which softmax does not see
    assert [n for n in still if not n.endswith("attn.k.bias")] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_changes_nothing(family: type) -> None:
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(5))
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = family("micro", checkpointing=checkpointing, drop_path=0.3)
        torch.manual_seed(1)
        sum(m.square().mean() for m in model(images)).backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_autocast_stays_near_single_precision(family: type) -> None:
    torch.manual_seed(0)
    model = family("micro", interaction=InteractionSpec(1, 4)).eval()
    images = torch.randn(2, 3, 96, 128)
    expected = model(images)
    with torch.autocast("cpu", torch.bfloat16):
        maps = model(images)
        loss = sum(m.float().square().mean() for m in maps)
    loss.backward()
    for a, b in zip(maps, expected, strict=True):
        assert (a.float() - b).abs().mean() < 0.05
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_redrawing_gives_new_weights_from_the_same_seed(family: type) -> None:
    model = family("micro", interaction=InteractionSpec(1, 4))
    torch.manual_seed(7)
    model.reset_parameters()
    first = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(8)
    model.reset_parameters()
    assert not torch.equal(model.stages[0][0].mlp.fc1.weight, first["stages.0.0.mlp.fc1.weight"])
    torch.manual_seed(7)
    model.reset_parameters()
    assert all(torch.equal(v, first[k]) for k, v in model.state_dict().items())
    assert not model.stages[0][0].stream.interaction.aggregate.weight.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_strict_determinism_repeats_bit_for_bit(family: type) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        runs = []
        for _ in range(2):
            torch.manual_seed(0)
            model = family("micro", interaction=InteractionSpec(2, 4))
            maps = model(torch.randn(2, 3, 70, 100))
            sum(m.square().mean() for m in maps).backward()
            runs.append([*maps, *(p.grad for p in model.parameters())])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
