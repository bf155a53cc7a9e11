"""Every backbone with ACP and CAT learns eight real images by heart, through the whole data path.

A step that is wrong anywhere between the image file and the COCO figure (boxes, labels, anchors,
gradients, scaling back) shows here.
"""

import json
from pathlib import Path

import pytest
import torch
from toy_source import opened

from pipeline.convert import convert
from pipeline.data.index import CocoIndex
from pipeline.data.intensity import Intensity
from pipeline.data.loader import LoaderPlan, training_loader
from pipeline.evaluate.coco_metrics import CocoMetrics
from pipeline.models.build import BACKBONES, build_detector
from pipeline.models.inference import detect_split
from pipeline.models.params import DetectorSpec
from pipeline.models.saved import SavedModel
from pipeline.train.optimisation import parameter_groups

SAMPLE = Path(__file__).parents[1] / "datasets/brain_tumor/sample"
IMAGES, SIDE, STEPS, LR = 8, 64, 100, 2e-3
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def eight(tmp_path_factory) -> CocoIndex:
    """The first eight training images of the brain-tumor sample, as COCO."""
    folder = tmp_path_factory.mktemp("eight")
    convert(
        opened("brain_tumor", SAMPLE, layout="auto", plane="all", fold=1, classes=()),
        folder,
        seed=0,
        val_fraction=0.15,
        test_fraction=0.2,
        workers=1,
        png_level=1,
    )
    tree = json.loads((folder / "annotations/train.json").read_text())
    tree["images"] = tree["images"][:IMAGES]
    ids = {image["id"] for image in tree["images"]}
    tree["annotations"] = [a for a in tree["annotations"] if a["image_id"] in ids]
    (folder / "eight.json").write_text(json.dumps(tree))
    return CocoIndex(folder / "eight.json", folder / "images")


SOONER = {"backbone": "vit", "stem": "convolutions", "head": "aligned"}  # of `recipe: sample`
FORMS = {name: {"backbone": name} for name in sorted(BACKBONES)} | {"sooner": SOONER}


@pytest.mark.parametrize("form", FORMS)
def test_eight_images_are_learnt_by_heart(form, eight):
    torch.manual_seed(0)
    classes = len(eight.categories)
    spec = DetectorSpec(
        **FORMS[form],
        size="micro",
        num_classes=classes,
        fpn_channels=64,
        anchor_scale=2.0,
        pool_layers=2,
        concepts=16,
    )
    detector = build_detector(spec).train()
    optimizer = torch.optim.AdamW(parameter_groups(detector, 0.0), lr=LR, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, STEPS, pct_start=0.1)
    loader = training_loader(eight, LoaderPlan(SIDE, Intensity(), "none", 0, IMAGES))
    for epoch in range(STEPS):  # of one step each
        loader.batch_sampler.sampler.set_epoch(epoch)
        for batch in loader:
            optimizer.zero_grad()
            sum(detector(batch.images, batch.targets).values()).backward()
            torch.nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    about = {
        "dataset": "brain_tumor",
        "categories": eight.categories,
        "intensity": Intensity().to_dict(),
        "image_size": SIDE,
        "score_threshold": 0.05,
    }
    rows = detect_split(SavedModel(detector, spec, about), eight)
    assert CocoMetrics.of(eight.path, rows).summary()["AP50"] > 0.95
