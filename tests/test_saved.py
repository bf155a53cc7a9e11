"""Saved models: what they keep, and what is said of files that are none."""

import pytest
import torch
from predict_factory import META

from pipeline.models.build import BACKBONES, build_detector
from pipeline.models.params import OPTIONS, DetectorSpec
from pipeline.models.saved import SavedModel

# of each family an option that changes the output of the same weights
CHANGES = {
    "swin": {"mask_padding": True},
    "dat": {"centred_points": True},
    "acmix_swin": {"seam": False},
    "glnet": {"mask_padding": True},
}


def spec(backbone, **changes):
    return DetectorSpec(
        **{
            "backbone": backbone,
            "size": "micro",
            "num_classes": 2,
            "fpn_channels": 16,
            "pool_layers": 0,
            "concepts": 0,
            **changes,
        }
    )


@pytest.mark.parametrize("backbone", CHANGES)
def test_a_backbones_options_are_saved_and_restored(backbone, tmp_path):
    torch.manual_seed(0)
    chosen = spec(backbone, options=CHANGES[backbone], drop_path=None)
    model = SavedModel(build_detector(chosen), chosen, META)
    model.save(tmp_path / "model.pt")
    again = SavedModel.load(tmp_path / "model.pt")
    assert again.spec == chosen
    images = torch.rand(1, 3, 96, 70)
    plain = build_detector(spec(backbone)).eval()
    plain.load_state_dict(model.detector.state_dict())
    with torch.inference_mode():
        maps = [m.backbone(images)["c3"] for m in (model.detector, again.detector, plain)]
    assert torch.equal(maps[0], maps[1]) and not torch.equal(maps[0], maps[2])


def test_every_backbone_has_its_options():
    assert list(OPTIONS) == list(BACKBONES)
