"""ViT: counts, parity with timm and torchvision, positions on other grids."""

import pytest
import torch
from classifier import ViTClassifier
from torch import nn
from torchvision.models import vit_b_16

from pipeline.models.backbones.vit import ViT
from pipeline.models.params import ViTOptions

timm = pytest.importorskip("timm")

BLOCK = {  # ours: timm's, torchvision's
    "norm1": ("norm1", "ln_1"),
    "attn.qkv": ("attn.qkv", "self_attention.in_proj"),
    "attn.proj": ("attn.proj", "self_attention.out_proj"),
    "norm2": ("norm2", "ln_2"),
    "mlp.fc1": ("mlp.fc1", "mlp.0"),
    "mlp.fc2": ("mlp.fc2", "mlp.3"),
}
REST = {
    "backbone.class_token": ("cls_token", "class_token"),
    "backbone.positions": ("pos_embed", "encoder.pos_embedding"),
    "backbone.patch": ("patch_embed.proj", "conv_proj"),
    "backbone.norm": ("norm", "encoder.ln"),
    "head": ("head", "heads.head"),
}


def classifier(size: str) -> ViTClassifier:
    return ViTClassifier(ViT(size, options=ViTOptions(class_token=True)))


def renamed(theirs: nn.Module, which: int, depth: int) -> dict[str, torch.Tensor]:
    """Weights of timm's (0) or torchvision's (1) model under our names."""
    block = ("blocks.{}", "encoder.layers.encoder_layer_{}")[which]
    names = {ours: pair[which] for ours, pair in REST.items()}
    for i in range(depth):
        for ours, pair in BLOCK.items():
            names[f"backbone.blocks.{i}.{ours}"] = f"{block.format(i)}.{pair[which]}"
    state, found = theirs.state_dict(), {}
    for ours, name in names.items():
        for end in ("", ".weight", ".bias", "_weight", "_bias"):
            if name + end in state:
                found[ours + end.replace("_", ".")] = state.pop(name + end)
    assert not state, f"left over: {list(state)}"
    return found


@pytest.mark.parametrize(
    ("size", "count"), [("tiny", 5_717_416), ("small", 22_050_664), ("base", 86_567_656)]
)
def test_published_numbers_of_parameters(size, count):
    with torch.device("meta"):
        model = classifier(size)
    finer = sum(p.numel() for p in model.backbone.finer.parameters())  # of detection alone
    assert sum(p.numel() for p in model.parameters()) - finer == count


@pytest.mark.parametrize("peer", ["timm", "torchvision"])
def test_equal_to_the_peer_with_the_same_weights(peer):
    torch.manual_seed(0)
    if peer == "timm":
        size, theirs = "tiny", timm.create_model("vit_tiny_patch16_224").eval()
    else:
        size, theirs = "base", vit_b_16().eval()
    for parameter in theirs.parameters():  # zeros would hide a mistake
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    ours = classifier(size).eval()
    weights = renamed(theirs, ("timm", "torchvision").index(peer), 12)
    missing = ours.load_state_dict(weights, strict=False)
    assert missing.missing_keys == ["backbone.finer.weight", "backbone.finer.bias"]
    assert not missing.unexpected_keys
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        difference = (ours(images) - theirs(images)).abs().max()
    assert difference <= 1e-5


def test_a_class_token_takes_part_and_is_no_place_of_the_maps():
    torch.manual_seed(0)
    model = ViT("micro", options=ViTOptions(class_token=True)).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        before = model(images)
        model.class_token.fill_(1.0)
        after = model(images)
    assert [tuple(m.shape) for m in after] == [(1, 64, 8, 12), (1, 128, 4, 6), (1, 128, 2, 3)]
    assert not torch.equal(before[1], after[1])
    with pytest.raises(ValueError, match="class_token=True"):
        ViTClassifier(ViT("micro"))
