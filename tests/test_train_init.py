"""Weights to start from: names of others, one's own models, and what is refused."""

import json
import re
from dataclasses import replace

import pytest
import torch
from predict_factory import META
from safetensors.torch import save_file
from torch import nn
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

from pipeline.errors import DescryError
from pipeline.models.build import build_detector
from pipeline.models.init import fill, read_source
from pipeline.models.layouts import LAYOUTS
from pipeline.models.params import DetectorSpec
from pipeline.models.saved import SavedModel

HF_SWIN = "encoder.layers.1.blocks.2."
CLASSES = ("spot", "other")
IMAGES = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def spec(backbone, **changes):
    micro = {"backbone": backbone, "size": "micro", "num_classes": 2, "fpn_channels": 16}
    return DetectorSpec(**{**micro, "pool_layers": 0, "concepts": 0, **changes})


def started(chosen, path, classes=CLASSES):
    """A detector that starts from a file, and the report."""
    source = read_source(path, chosen.backbone)
    torch.manual_seed(7)
    detector = build_detector(source.adapt(chosen)).eval()
    return detector, fill(detector, chosen, source, classes)


def awake(model):
    """Random weights everywhere: zeros and ones would hide a mistake."""
    torch.manual_seed(3)
    for parameter in model.parameters():
        if parameter.ndim <= 1 or not parameter.any():
            nn.init.normal_(parameter, 0.5 if parameter.ndim == 0 else 0.0, 0.1)
    return model.eval()


def timm_swin():
    timm = pytest.importorskip("timm")
    return timm.models.SwinTransformer(
        embed_dim=32, depths=(2, 2, 4, 2), num_heads=(1, 2, 4, 8), num_classes=5
    )


def timm_maps(model):
    return model.forward_intermediates(IMAGES, intermediates_only=True, norm=False)[1:]


def torchvision_swin():
    return SwinTransformer([4, 4], 32, [2, 2, 4, 2], [1, 2, 4, 8], [7, 7], num_classes=5)


def torchvision_maps(model):
    x, maps = IMAGES, []
    for i, part in enumerate(model.features):
        x = part(x)
        if i in (3, 5, 7):
            maps.append(x.permute(0, 3, 1, 2))
    return maps


def transformers_swin():
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(
        embed_dim=32, depths=[2, 2, 4, 2], num_heads=[1, 2, 4, 8], drop_path_rate=0.0
    )
    return transformers.SwinForImageClassification(config)


def transformers_maps(model):
    """Each stage's output before its downsampling, which `hidden_states` come after."""
    maps = []
    hooks = [
        stage.blocks[-1].register_forward_hook(lambda _, args, out: maps.append(out[0]))
        for stage in model.swin.encoder.layers
    ]
    model.swin(IMAGES)
    for hook in hooks:
        hook.remove()
    sides = (28, 14, 7)
    return [m.transpose(1, 2).unflatten(2, (s, s)) for m, s in zip(maps[1:], sides, strict=True)]


@pytest.mark.parametrize(
    ("make", "maps"),
    [
        (timm_swin, timm_maps),
        (torchvision_swin, torchvision_maps),
        (transformers_swin, transformers_maps),
    ],
    ids=["timm", "torchvision", "transformers"],
)
def test_a_swin_of_others_gives_the_same_features(make, maps, tmp_path):
    theirs = awake(make())
    torch.save({"model": theirs.state_dict()}, tmp_path / "weights.pth")
    detector, report = started(spec("swin"), tmp_path / "weights.pth")
    with torch.inference_mode():
        ours = detector.backbone.backbone.trunk(IMAGES)[1:]
        for a, b in zip(ours, maps(theirs), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    kept = {name for name in report.kept if name.startswith("backbone.backbone.")}
    assert {name.split(".")[2] for name in kept} == {"norms"} and not report.resized


def timm_vit():
    timm = pytest.importorskip("timm")
    return timm.models.VisionTransformer(embed_dim=128, depth=6, num_heads=4, num_classes=5)


def transformers_vit():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=128, num_hidden_layers=6, num_attention_heads=4, intermediate_size=512
    )
    return transformers.ViTForImageClassification(config)


VITS = {
    "timm": (timm_vit, lambda m: m.forward_features(IMAGES)),
    "torchvision": (
        lambda: VisionTransformer(224, 16, 6, 4, 128, 512, num_classes=5),
        lambda m: m.encoder(
            torch.cat([m.class_token.expand(1, -1, -1), m._process_input(IMAGES)], dim=1)
        ),
    ),
    "transformers": (transformers_vit, lambda m: m.vit(IMAGES).last_hidden_state),
}


@pytest.mark.parametrize("whose", VITS)
def test_a_vit_of_others_gives_the_same_features(whose, tmp_path):
    make, tokens = VITS[whose]
    theirs = awake(make())
    eps = {m.eps for m in theirs.modules() if isinstance(m, nn.LayerNorm)}
    assert max(eps) < 1e-5  # transformers' is 1e-12, all others 1e-6
    save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    chosen = spec("vit", options={"class_token": True})
    detector, report = started(chosen, tmp_path / "weights.safetensors")
    with torch.inference_mode():
        vit = detector.backbone.backbone
        ours, _ = vit.tokens(vit.patch(IMAGES))
        torch.testing.assert_close(ours, tokens(theirs), rtol=1e-5, atol=1e-5)
    assert not report.resized
    # without the option the token goes, and its slot in the position table
    detector, report = started(spec("vit"), tmp_path / "weights.safetensors")
    assert "class token" in report.left_out
    assert detector.backbone.backbone.positions.shape == (1, 196, 128)


# From our names those of the authors' releases: the other way round than the tables.
DAT = (
    (r"^stem\.0\.conv", "patch_proj.0"), (r"^stem\.0\.norm", "patch_proj.1.norm"),
    (r"^stem\.2\.conv", "patch_proj.3"), (r"^stem\.2\.norm", "patch_proj.4.norm"),
    (r"^downs\.(\d)\.conv", r"down_projs.\1.0"), (r"^downs\.(\d)\.norm", r"down_projs.\1.1.norm"),
    (r"(\d)\.(\d+)\.local\.", r"\1.local_perception_units.\2."),
    (r"(\d)\.(\d+)\.norm1", lambda m: f"{m[1]}.layer_norms.{2 * int(m[2])}.norm"),
    (r"(\d)\.(\d+)\.norm2", lambda m: f"{m[1]}.layer_norms.{2 * int(m[2]) + 1}.norm"),
    (r"(\d)\.(\d+)\.attn\.([qkv])\.", r"\1.attns.\2.proj_\3."),
    (r"(\d)\.(\d+)\.attn\.offset_conv", r"\1.attns.\2.conv_offset.0"),
    (r"(\d)\.(\d+)\.attn\.offset_norm", r"\1.attns.\2.conv_offset.1.norm"),
    (r"(\d)\.(\d+)\.attn\.offset\.", r"\1.attns.\2.conv_offset.3."),
    (r"(\d)\.(\d+)\.attn\.qkv", r"\1.attns.\2.qkv"),
    (r"(\d)\.(\d+)\.mlp\.fc1", r"\1.mlps.\2.linear1.0"),
    (r"(\d)\.(\d+)\.mlp\.fc2", r"\1.mlps.\2.linear2.0"),
    (r"(\d)\.(\d+)\.mlp\.local", r"\1.mlps.\2.dwc"),
)  # fmt: skip
SWIN = (
    (r"^patch\.", "patch_embed.proj."), (r"^patch_norm", "patch_embed.norm"),
    (r"^stages\.(\d)\.(\d+)\.", r"layers.\1.blocks.\2."),
    (r"attn\.table", "attn.relative_position_bias_table"),
    (r"^merges\.(\d)\.norm", r"layers.\1.downsample.norm"),
    (r"^merges\.(\d)\.reduce", r"layers.\1.downsample.reduction"),
    (r"^norms\.(\d)", lambda m: f"norm{int(m[1]) + 1}"),
    (r"attn\.conv\.mix", "attn.fc"), (r"attn\.conv\.shift", "attn.dep_conv.weight"),
)  # fmt: skip
RESNET = (
    (r"^stem\.0", "conv1"), (r"^stem\.1", "bn1"),
    (r"^stages\.(\d)\.", lambda m: f"layer{int(m[1]) + 1}."),
    (r"\.norm(\d)", r".bn\1"), (r"\.shortcut\.", ".downsample."),
    (r"\.mixing\.conv\.mix", ".conv2.fc"), (r"\.mixing\.conv\.shift", ".conv2.dep_conv.weight"),
    (r"\.mixing\.position", ".conv2.conv_p"), (r"\.mixing\.rate", ".conv2.rate"),
)  # fmt: skip
GLNET = (
    (r"^embeds\.0\.(\d)", lambda m: f"downsample_layers.0.{int(m[1]) + 1}"),
    (r"^embeds\.", "downsample_layers."), (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.position", ".pos_conv"), (r"\.mixing\.slot_scale", ".slot_scale"),
    (r"\.mixing\.attention\.qkv\.", ".relation_mha.in_proj_"),
    (r"\.mixing\.attention\.proj", ".relation_mha.out_proj"),
    (r"\.mixing\.local", ".feature_conv"), (r"\.mixing\.qkv\.", ".mha_op.in_proj_"),
    (r"\.mixing\.proj", ".mha_op.out_proj"), (r"\.mlp\.expand", ".mlp.0"),
    (r"\.mlp\.local", ".mlp.1"), (r"\.mlp\.reduce", ".mlp.3"),
)  # fmt: skip


def released(backbone, renames):
    """The weights of a backbone of ours as its authors name and shape them."""
    theirs = {}
    for name, value in backbone.state_dict().items():
        if name.startswith("norms.") and renames is not SWIN:
            continue
        linear = value.ndim == 2 and renames is not SWIN and "qkv" not in name
        value = value[:, :, None, None] if linear or name.endswith("mix.weight") else value
        if ".mixing.qkv." in name and renames is RESNET:
            for i, part in enumerate(value.chunk(3)):
                part = part[:, :, None, None] if part.ndim == 2 else part
                block = re.sub(r"^stages\.(\d)", lambda m: f"layer{int(m[1]) + 1}", name)
                theirs[re.sub(r"mixing\.qkv", f"conv2.conv{i + 1}", block)] = part
            continue
        for ours, other in renames:
            name = re.sub(ours, other, name)
        if renames is DAT:
            name = re.sub(r"(\d)\.(\d+)\.attn\.proj", r"\1.attns.\2.proj", name)
            table = "rpe_table" if value.ndim == 3 and value.shape[-1] > 13 else "rpb"
            name = re.sub(r"(\d)\.(\d+)\.attn\.table", rf"\1.attns.\2.{table}", name)
        theirs[name.replace("shift", "weight")] = value.clone()
    return theirs


RELEASES = {"dat": DAT, "swin": SWIN, "acmix_swin": SWIN, "acmix_resnet": RESNET, "glnet": GLNET}


@pytest.mark.parametrize("family", RELEASES)
@pytest.mark.parametrize("prefix", ["", "module.backbone."])
def test_released_names_fill_the_whole_backbone(family, prefix, tmp_path):
    chosen = spec(family)
    torch.manual_seed(1)
    origin = awake(build_detector(chosen)).backbone.backbone
    weights = {prefix + name: value for name, value in released(origin, RELEASES[family]).items()}
    if prefix:
        weights["module.bbox_head.retina_cls.weight"] = torch.zeros(1)
    else:
        weights |= {"head.weight": torch.zeros(5, 256)} if family != "dat" else {}
    torch.save({"state_dict": weights}, tmp_path / "w.pth")
    detector, report = started(chosen, tmp_path / "w.pth")
    for name, value in detector.backbone.backbone.state_dict().items():
        if not name.startswith("norms."):
            assert torch.equal(value, origin.state_dict()[name]), name
    fresh = [n for n in report.kept if n.startswith("backbone.backbone.") and ".norms." not in n]
    assert fresh == [] and not report.resized


@pytest.mark.parametrize(
    ("backbone", "theirs", "ours"),
    [  # as transformers 4 has them, whose files are the ones that are published
        ("vit", "encoder.layer.3.attention.attention.key.bias", "blocks.3.attn.qkv.bias|1"),
        ("vit", "encoder.layer.3.attention.output.dense.bias", "blocks.3.attn.proj.bias"),
        ("vit", "encoder.layer.3.intermediate.dense.weight", "blocks.3.mlp.fc1.weight"),
        ("vit", "encoder.layer.3.output.dense.weight", "blocks.3.mlp.fc2.weight"),
        ("vit", "pooler.dense.weight", ""),
        ("swin", f"{HF_SWIN}attention.self.value.weight", "stages.1.2.attn.qkv.weight|2"),
        ("swin", f"{HF_SWIN}attention.self.relative_position_bias_table", "stages.1.2.attn.table"),
        ("swin", f"{HF_SWIN}attention.self.relative_position_index", ""),
        ("swin", f"{HF_SWIN}attention.output.dense.weight", "stages.1.2.attn.proj.weight"),
        ("swin", f"{HF_SWIN}output.dense.bias", "stages.1.2.mlp.fc2.bias"),
    ],
)
def test_names_of_transformers_4(backbone, theirs, ours):
    layout = next(x for x in LAYOUTS if x.name.endswith("transformers") and backbone in x.backbones)
    assert layout.translate(theirs) == ours


def test_tables_of_another_size_are_resized_and_named(tmp_path):
    theirs = SwinTransformer([4, 4], 32, [2, 2, 4, 2], [1, 2, 4, 8], [12, 12])
    save_file(theirs.state_dict(), tmp_path / "swin.safetensors")
    detector, report = started(spec("swin"), tmp_path / "swin.safetensors")
    assert len(report.resized) == 10 and all(name.endswith("table") for name in report.resized)
    vit = VisionTransformer(384, 16, 6, 4, 128, 512)
    vit.encoder.pos_embedding.data.fill_(0.25)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    detector, report = started(spec("vit"), tmp_path / "vit.safetensors")
    assert report.resized == ["backbone.backbone.positions"]
    torch.testing.assert_close(
        detector.backbone.backbone.positions, torch.full((1, 196, 128), 0.25)
    )
    assert "1 resized (backbone.backbone.positions)" in report.text()


def own(tmp_path, chosen):
    torch.manual_seed(2)
    model = SavedModel(awake(build_detector(chosen)), chosen, META)
    model.save(tmp_path / "model.safetensors")
    return model.detector.state_dict()


def test_ones_own_model_fills_everything_and_other_classes_start_the_class_layer_anew(tmp_path):
    chosen = spec("vit", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    state = own(tmp_path, chosen)
    plain = spec("vit")
    same, report = started(plain, tmp_path / "model.safetensors")
    assert report.kept == [] and len(report.filled) == len(state)
    assert all(torch.equal(value, state[name]) for name, value in same.state_dict().items())
    assert same.transform.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    three = replace(plain, num_classes=3)
    for classes, detector_spec in ((("a", "b", "c"), three), (("other", "spot"), plain)):
        _, report = started(detector_spec, tmp_path / "model.safetensors", classes)
        assert report.kept == [
            f"head.classification_head.cls_logits.{n}" for n in ("weight", "bias")
        ]


def test_an_interaction_that_the_source_has_not_changes_no_output(tmp_path):
    own(tmp_path, spec("vit"))
    plain, _ = started(spec("vit"), tmp_path / "model.safetensors")
    enhanced, report = started(
        spec("vit", pool_layers=1, concepts=2), tmp_path / "model.safetensors"
    )
    assert report.kept and all(".stream." in name for name in report.kept)
    with torch.inference_mode():
        for a, b in zip(
            plain.backbone(IMAGES).values(), enhanced.backbone(IMAGES).values(), strict=True
        ):
            assert torch.equal(a, b)


def test_a_config_beside_the_file_says_how_images_were_normalised(tmp_path):
    save_file(VisionTransformer(224, 16, 6, 4, 128, 512).state_dict(), tmp_path / "m.safetensors")
    assert read_source(tmp_path / "m.safetensors", "vit").mean == (0.485, 0.456, 0.406)
    said = {"pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}
    (tmp_path / "config.json").write_text(json.dumps(said))
    assert read_source(tmp_path / "m.safetensors", "vit").std == (0.5, 0.5, 0.5)


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    vit = VisionTransformer(224, 16, 6, 4, 128, 512).state_dict()
    save_file(vit, tmp_path / "vit.safetensors")
    cases = {
        "extra.pth": ({**vit, "gate": torch.zeros(1)}, "vit", "none of its: gate"),
        "big.pth": (VisionTransformer(224, 16, 6, 4, 192, 512).state_dict(), "vit", "another size"),
        "deep.pth": (
            VisionTransformer(224, 16, 8, 4, 128, 512).state_dict(),
            "vit",
            "no place for",
        ),
        "strange.pth": ({"a": torch.zeros(1)}, "vit", r"unknown names \(a\)"),
        "other.pth": (vit, "swin", "ViT as in torchvision; model.backbone=swin reads: Swin as in"),
    }
    for name, (weights, backbone, words) in cases.items():
        torch.save(weights, tmp_path / name)
        with pytest.raises(DescryError, match=words):
            started(spec(backbone), tmp_path / name)

    class Evil:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'was_run')!r}, 'w')",)

    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(DescryError, match=r"evil\.pth"):
        read_source(tmp_path / "evil.pth", "vit")
    assert not (tmp_path / "was_run").exists()
    own(tmp_path, spec("vit"))
    with pytest.raises(DescryError, match="set it to vit"):
        started(spec("swin"), tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("before", "after", "anew"),
    [
        ("detect", "instances", ("mask_head.",)),
        ("instances", "detect", ()),
        ("instances", "semantic", ("head.",)),
        ("semantic", "detect", ("head.",)),
    ],
)
def test_the_heads_of_another_task_start_anew_and_the_rest_is_taken(tmp_path, before, after, anew):
    state = own(tmp_path, spec("vit", task=before))
    detector, report = started(spec("vit", task=after), tmp_path / "model.safetensors")
    assert {name.split(".")[0] + "." for name in report.kept} == set(anew)
    for name, value in detector.state_dict().items():
        if not name.startswith(("head.", "mask_head.")):
            assert torch.equal(value, state[name])
    lost = {name.split(".")[0] + "." for name in report.left_out}
    assert lost == {name.split(".")[0] + "." for name in state if name not in report.filled}
