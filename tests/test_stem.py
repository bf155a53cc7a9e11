"""The convolutional stem of a ViT, and the stride-4 map of the other backbones."""

import pytest
import torch

from pipeline.models.backbones.stem import ConvStem
from pipeline.models.backbones.vit import ViT
from pipeline.models.build import build_backbone
from pipeline.models.params import DetectorSpec


def test_parameters_of_a_stem_of_128():
    # 3x3 from 3 to 16, 32 and 64 without bias, norms of two each; then 64 to 128 with bias.
    convs = 9 * (3 * 16 + 16 * 32 + 32 * 64) + 2 * (16 + 32 + 64)
    assert sum(p.numel() for p in ConvStem(128).parameters()) == convs + 9 * 64 * 128 + 128


@pytest.mark.parametrize("width", [0, 152])  # a control's width, which 8 do not divide
@pytest.mark.parametrize("side", [(64, 96), (50, 33)])
def test_a_vit_has_maps_of_the_same_shapes_with_either_stem(width, side):
    images = torch.rand(2, 3, *side)
    shapes = []
    for stem in ("patch", "convolutions"):
        backbone = ViT("micro", stem=stem, width=width).eval()
        with torch.inference_mode():
            shapes.append([tuple(level.shape) for level in backbone(images)])
    assert shapes[0] == shapes[1]


def test_the_finest_map_sees_where_in_its_patch_a_dot_is():
    torch.manual_seed(0)
    backbone = ViT("micro", stem="convolutions").eval()
    dots = torch.zeros(2, 3, 64, 64)
    dots[0, :, 20, 20] = dots[1, :, 20, 28] = 5.0  # halves of the same patch of 16 px
    with torch.inference_mode():
        c3 = backbone(dots)[0]
    left, right = (c3[0] - c3[1]).abs().sum(dim=0)[2, 2:4]  # their cells of 8 px
    assert min(left, right) > 1.0


@pytest.mark.parametrize("family", ["swin", "dat", "acmix_swin", "acmix_resnet", "glnet"])
def test_a_stride_4_map_is_added_to_the_finest_map_alone(family):
    torch.manual_seed(0)
    plain, summed = (
        build_backbone(DetectorSpec(backbone=family, size="micro", num_classes=1, detail=detail))
        for detail in ("none", "sum")
    )
    missing = summed.load_state_dict(plain.state_dict(), strict=False)
    assert {name.split(".")[0] for name in missing.missing_keys} == {"detail"}
    assert not missing.unexpected_keys
    images = torch.rand(2, 3, 128, 160)
    with torch.inference_mode():
        without, maps = plain.eval()(images), summed.eval()(images)
    assert [level.shape for level in maps] == [level.shape for level in without]
    same = [torch.equal(a, b) for a, b in zip(maps, without, strict=True)]
    assert same == [False, True, True]
