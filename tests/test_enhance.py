"""ACP and CAT in models of timm, and the arms of a comparison."""

import copy
import io
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

from pipeline.errors import DescryError
from pipeline.models.controls import backbone_parameters, controls, matched_width
from pipeline.models.enhance import enhance
from pipeline.models.params import DetectorSpec

timm = pytest.importorskip("timm")

FULL = DetectorSpec(
    backbone="vit",
    size="micro",
    num_classes=2,
    fpn_channels=32,
    anchor_scale=2.0,
    pool_layers=2,
    concepts=16,
)


def tiny(kind: str) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"img_size": 64, "num_classes": 5}
    if kind == "swin":
        return timm.models.SwinTransformer(
            window_size=4, embed_dim=16, depths=(2, 2), num_heads=(1, 2), **sizes
        ).eval()
    extra = {
        "vit": {},
        "registers": {"reg_tokens": 3, "no_embed_class": True},
        "dynamic": {"dynamic_img_size": True, "class_token": False, "global_pool": "avg"},
    }[kind]
    return timm.models.VisionTransformer(
        patch_size=16, embed_dim=24, depth=3, num_heads=3, **extra, **sizes
    ).eval()


def awake(model: nn.Module) -> nn.Module:
    """Take the projections away from zero, so that the interaction shows."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "aggregate" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


KINDS = ("vit", "registers", "dynamic", "swin")


@pytest.mark.parametrize("kind", KINDS)
def test_the_output_at_the_start_is_the_plain_models_bit_for_bit(kind):
    model, images = tiny(kind), torch.rand(2, 3, 64, 64)
    wanted = model(images)
    assert torch.equal(enhance(model, 2, 4)(images), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_is_the_old_one_and_new_keys(kind):
    model = tiny(kind)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    after = enhance(model, 1, 4).state_dict()
    added = set(after) - set(before)
    assert set(before) < set(after)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(".stream." in key for key in added)
    # LayerNorm 2; ACP: convolution, norm 2, gates; CAT: align, value 2, norm 2, mix 2; W_o 2
    assert len(added) == (4 if kind == "swin" else 3) * (2 + 4 + 7 + 2)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_the_plain_model_load_and_a_round_trip_keeps_the_output(kind):
    images = torch.rand(1, 3, 64, 64)
    plain = tiny(kind)
    stored = io.BytesIO()
    torch.save(plain.state_dict(), stored)
    stored.seek(0)
    torch.manual_seed(5)
    model = enhance(tiny(kind), 1, 4)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
    enhanced = awake(model)
    assert not torch.allclose(enhanced(images), plain(images))
    missing = enhanced.load_state_dict(torch.load(stored, weights_only=True), strict=False)
    assert not missing.unexpected_keys
    assert all(".stream." in key for key in missing.missing_keys)
    again = enhance(tiny(kind), 1, 4)
    again.load_state_dict(enhanced.state_dict())
    assert torch.equal(again(images), enhanced(images))


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_copies_and_pickles_work_by_themselves(kind):
    model, images = awake(enhance(tiny(kind), 1, 4)), torch.rand(1, 3, 64, 64)
    wanted = model(images)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(images), wanted)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
        assert torch.equal(model(images), wanted)
        assert not torch.equal(twin(images), wanted)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_all_parameters_learn(kind, checkpointing):
    model = awake(enhance(tiny(kind), 2, 4)).train()
    model.set_grad_checkpointing(checkpointing)
    model(torch.rand(2, 3, 64, 64)).square().sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_prefix_tokens_pass_untouched_and_the_grid_is_mixed():
    model = awake(enhance(tiny("registers"), 1, 4))
    block = model.blocks[0]
    seen = []
    block.norm1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    came = []
    model.norm_pre.register_forward_hook(lambda _, args, out: came.append(out))
    model(torch.rand(1, 3, 64, 64))
    assert seen[0].shape == (1, 1 + 3 + 16, 24)
    assert torch.equal(seen[0][:, :4], came[0][:, :4])
    grid = block.stream(came[0][:, 4:].view(1, 4, 4, 24)).view(1, 16, 24)
    assert torch.equal(seen[0][:, 4:], grid)
    assert not torch.allclose(grid, came[0][:, 4:])


def test_rows_and_columns_are_told_apart():
    model = awake(enhance(tiny("dynamic"), 1, 0))
    image = torch.rand(1, 3, 32, 96)
    assert model(image).shape == (1, 5)
    grid = model.blocks[2].interaction_grid
    assert (grid.height, grid.width) == (2, 6)
    before = model(image)
    model(torch.rand(1, 3, 64, 48))
    assert torch.equal(model(image), before)


def test_half_precision_models_get_half_precision_streams():
    model = enhance(tiny("vit").bfloat16(), 1, 4)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model(torch.rand(1, 3, 64, 64).bfloat16()).dtype == torch.bfloat16


def test_nothing_asked_for_changes_nothing():
    model = tiny("vit")
    keys = list(model.state_dict())
    assert list(enhance(model, 0, 0).state_dict()) == keys
    assert not model.blocks[0]._forward_pre_hooks


def test_refusals_say_why():
    with pytest.raises(DescryError, match=r"torch\.nn\.modules\.linear\.Linear is not supported"):
        enhance(nn.Linear(2, 2))
    with pytest.raises(DescryError, match="enhanced before"):
        enhance(enhance(tiny("swin")))
    with pytest.raises(
        DescryError,
        match=r"enhance\.pool_layers = -1 is not allowed: must be an integer, at least 0",
    ):
        enhance(tiny("vit"), pool_layers=-1)
    drops = timm.models.VisionTransformer(
        img_size=64, embed_dim=24, depth=1, num_heads=3, patch_drop_rate=0.5
    )
    with pytest.raises(DescryError, match="patch_drop_rate=0"):
        enhance(drops)
    assert not any("stream" in key for key in drops.state_dict())


def test_blocks_called_with_another_size_are_refused():
    model = enhance(tiny("vit"), 1, 0)
    model(torch.rand(1, 3, 64, 64))
    with pytest.raises(DescryError, match="10 tokens are not 1 and a grid of 4x4"):
        model.blocks[0](torch.rand(1, 10, 24))


def test_the_arms_of_a_comparison():
    arms = controls(FULL)
    shown = {n: (a.pool_layers, a.concepts, a.copies, a.width) for n, a in arms.items()}
    assert shown == {
        "baseline": (0, 0, False, 0),
        "wider": (0, 0, False, 148),
        "acp": (2, 0, False, 0),
        "cat": (0, 16, False, 0),
        "copies": (2, 16, True, 0),
        "full": (2, 16, False, 0),
    }


@pytest.mark.parametrize(
    ("size", "stem", "width", "enhanced", "wider"),
    [
        # depth * (12 w^2 + 13 w) + 768 w + w + 196 w + 2 w + 2 w^2 + w / 2
        ("micro", "patch", 148, 1_776_416, 1_775_630),
        ("tiny", "patch", 222, 7_476_576, 7_444_881),
        ("small", "patch", 444, 29_253_120, 29_280_690),
        # built and counted
        ("micro", "convolutions", 148, 1_775_536, 1_793_626),
    ],
)
def test_the_wider_baseline_has_as_many_parameters(size, stem, width, enhanced, wider):
    spec = replace(FULL, size=size, stem=stem)
    assert matched_width(spec) == width
    assert backbone_parameters(spec) == enhanced
    assert backbone_parameters(controls(spec)["wider"]) == wider
    assert 0.99 < wider / enhanced < 1.02


def test_one_half_has_no_halves_and_other_families_no_wider_arm():
    spec = replace(FULL, backbone="swin", pool_layers=0)
    assert list(controls(spec)) == ["baseline", "copies", "full"]
    with pytest.raises(DescryError, match="'swin' cannot be matched by its width"):
        matched_width(spec)


def test_baselines_and_controls_have_no_controls():
    with pytest.raises(DescryError, match="pool_layers=0, concepts=0"):
        controls(replace(FULL, pool_layers=0, concepts=0))
    for arm in ("copies", "wider"):
        with pytest.raises(DescryError, match="need an enhanced detector"):
            controls(controls(FULL)[arm])
