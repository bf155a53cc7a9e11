"""One contract, all backbones, each with none, ACP, CAT and both."""

import copy

import pytest
import torch

from pipeline.models.build import BACKBONES, build_backbone
from pipeline.models.params import DetectorSpec

INTERACTIONS = {"none": (0, 0), "acp": (2, 0), "cat": (0, 4), "both": (2, 4)}
MATRIX = [(family, kind) for family in BACKBONES for kind in INTERACTIONS]
matrix = pytest.mark.parametrize(("family", "kind"), MATRIX)
families = pytest.mark.parametrize("family", list(BACKBONES))
placements = pytest.mark.parametrize("placement", ["stream", "branch"])


def build(family, kind="both", *, moved=False, checkpointing=False, **model):
    """A micro backbone; `moved` takes the interaction's projections away from their start."""
    layers, concepts = INTERACTIONS[kind]
    torch.manual_seed(0)
    given = {"backbone": family, "pool_layers": layers, "concepts": concepts, **model}
    spec = DetectorSpec(size="micro", num_classes=1, fpn_channels=32, anchor_scale=2.0, **given)
    backbone = build_backbone(spec, checkpointing=checkpointing)
    if moved:
        for module in backbone.modules():
            if hasattr(module, "aggregate"):
                torch.nn.init.normal_(module.aggregate.weight, std=0.02)
    return backbone


def images(batch, height, width):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def total(maps):
    return sum((m * m).mean() for m in maps)


@matrix
def test_shapes_at_odd_tiny_and_second_sizes(family, kind):
    backbone = build(family, kind).eval()
    for batch, height, width in ((1, 64, 96), (4, 33, 70), (1, 32, 32), (1, 250, 333), (2, 64, 96)):
        with torch.inference_mode():
            maps = backbone(images(batch, height, width))
        down = -(-height // 32), -(-width // 32)
        for features, channels, stride in zip(maps, backbone.channels, (8, 16, 32), strict=True):
            k = 32 // stride
            assert features.shape == (batch, channels, down[0] * k, down[1] * k)
            assert torch.isfinite(features).all()


@matrix
def test_every_parameter_gets_a_finite_gradient_and_runs_repeat_to_the_bit(family, kind):
    torch.use_deterministic_algorithms(True)
    try:
        grads = []
        for _ in range(2):
            backbone = build(family, kind, moved=True, drop_path=0.2).train()
            total(backbone(images(2, 96, 64))).backward()
            missing = [n for n, p in backbone.named_parameters() if p.grad is None]
            assert missing == []
            grads.append([p.grad for p in backbone.parameters()])
        for one, other in zip(*grads, strict=True):
            assert torch.isfinite(one).all() and torch.equal(one, other)
    finally:
        torch.use_deterministic_algorithms(False)


@matrix
def test_a_state_dict_makes_an_equal_model(family, kind):
    one, other = build(family, kind, moved=True).eval(), build(family, kind)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    with torch.inference_mode():
        for a, b in zip(one(images(1, 64, 64)), other.eval()(images(1, 64, 64)), strict=True):
            assert torch.equal(a, b)


@matrix
def test_bf16_autocast_stays_near_fp32(family, kind):
    backbone = build(family, kind, moved=True).eval()
    with torch.inference_mode():
        exact = backbone(images(1, 64, 64))
        with torch.autocast("cpu", torch.bfloat16):
            rough = backbone(images(1, 64, 64))
    assert all(torch.isfinite(m).all() for m in rough)
    # C3 only: rounding grows with depth, most in families with BatchNorm
    error = (rough[0].float() - exact[0]).norm() / exact[0].norm()
    assert error < 0.05


@families
@placements
@pytest.mark.parametrize("kind", ["acp", "cat", "both"])
def test_an_enhanced_model_starts_with_its_baselines_output(family, placement, kind):
    enhanced, plain = build(family, kind, placement=placement).eval(), build(family, "none").eval()
    own = enhanced.state_dict()
    added = set(own) - set(plain.state_dict())
    assert set(plain.state_dict()) < set(own) and all(f".{placement}." in key for key in added)
    plain.load_state_dict({name: own[name] for name in plain.state_dict()})
    with torch.inference_mode():
        for a, b in zip(enhanced(images(1, 64, 96)), plain(images(1, 64, 96)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@families
@placements
def test_an_interaction_of_nothing_has_the_baselines_state_dict(family, placement):
    torch.manual_seed(0)
    bare = BACKBONES[family]("micro")
    assert list(bare.state_dict()) == list(build(family, "none", placement=placement).state_dict())


@families
@placements
def test_interactions_take_part_in_learning(family, placement):
    backbone = build(family, placement=placement).train()
    optimiser = torch.optim.SGD(backbone.parameters(), 0.1)
    for _ in range(2):  # the aggregation starts at zero: what is behind it learns from step 2 on
        optimiser.zero_grad()
        sum((m**3).mean() for m in backbone(images(2, 64, 64))).backward()
        optimiser.step()
    own = [(n, p) for n, p in backbone.named_parameters() if f".{placement}." in n]
    assert own and [n for n, p in own if not p.grad.abs().sum() > 0] == []


@families
def test_the_seed_draws_every_parameter(family):
    backbone = build(family, moved=True)
    torch.manual_seed(7)
    backbone.reset_parameters()
    first = copy.deepcopy(backbone.state_dict())
    for name, parameter in backbone.named_parameters():
        if not name.endswith(".gates"):  # ACP's own, ones by definition
            torch.nn.init.constant_(parameter, 7.0)
    torch.manual_seed(7)
    backbone.reset_parameters()
    assert [n for n, v in backbone.state_dict().items() if not torch.equal(v, first[n])] == []
    torch.manual_seed(8)
    backbone.reset_parameters()
    assert [n for n, v in backbone.state_dict().items() if not torch.equal(v, first[n])]


@families
def test_checkpointing_changes_no_bit(family):
    """Stochastic depth draws the same, and running statistics move once."""
    results = []
    torch.use_deterministic_algorithms(True)
    try:
        for checkpointing in (False, True):
            backbone = build(family, moved=True, checkpointing=checkpointing, drop_path=0.3).train()
            torch.manual_seed(5)
            maps = backbone(images(2, 64, 64))
            total(maps).backward()
            grads = [p.grad for p in backbone.parameters()]
            results.append([*maps, *grads, *backbone.buffers()])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@families
def test_an_image_does_not_depend_on_its_batch(family):
    backbone = build(family, moved=True).eval().double()
    batch = images(3, 64, 64).double()
    with torch.inference_mode():
        together, alone = backbone(batch), backbone(batch[1:2])
    for a, b in zip(together, alone, strict=True):
        # CAT's softmaxes and DAT's positions are fp32 whatever the input is
        assert (a[1:2] - b).norm() / b.norm() < 1e-5


@families
def test_too_small_an_image_is_refused(family):
    with pytest.raises(ValueError, match="at least 32"):
        build(family)(images(1, 31, 64))


def settled(backbone):
    """Give batch norms the statistics of real inputs, in eval mode.

    With the initial ones the activations of the ResNet form grow from block to block to hundreds,
    its softmaxes become maxima, and the last bit of a logit decides which key wins.
    """
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the plain average
    with torch.no_grad():
        backbone.train()(images(2, 96, 128))
    return backbone.eval()


@pytest.mark.slow
@families
def test_export_replays_at_a_second_size(family):
    backbone = settled(build(family, moved=True))
    high, wide = (torch.export.Dim(name, min=3, max=32) for name in ("high", "wide"))
    program = torch.export.export(
        backbone,
        (images(2, 288, 352),),
        dynamic_shapes={"images": {2: 32 * high, 3: 32 * wide}},
    )
    for sides in ((320, 416), (448, 288)):
        other = images(2, *sides)
        with torch.inference_mode():
            for a, b in zip(program.module()(other), backbone(other), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
