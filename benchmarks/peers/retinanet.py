"""torchvision's RetinaNet with ResNet-18 from random weights, with its reference recipe.

SGD with momentum .9, .01 for 16 images, weight decay 1e-4, linear warm-up, divided by ten after
8/13 and 11/13 of all steps, flips: torchvision's references/detection. Batch norms learn, because
there are no weights to freeze them with.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from pipeline.data.index import CocoIndex
from pipeline.data.intensity import Intensity
from pipeline.data.loader import LoaderPlan, training_loader
from pipeline.data.pixels import load_pixels
from pipeline.data.results import to_results
from pipeline.data.sample import to_tensor


def lr_factor(step: int, steps: int) -> float:
    """Warm-up over a twentieth of all steps, then two drops."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.1 ** sum(step >= round(share * steps) for share in (8 / 13, 11 / 13))


def build(classes: int, size: int) -> RetinaNet:
    """The model, with anchors as torchvision has them but half as large: images are small."""
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        norm_layer=torch.nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    model = RetinaNet(backbone, classes, min_size=size, max_size=size, score_thresh=0.001)
    cells = [tuple(side / 2 for side in level) for level in model.anchor_generator.sizes]
    model.anchor_generator.sizes = tuple(cells)
    model.anchor_generator.cell_anchors = [
        model.anchor_generator.generate_anchors(s, r)
        for s, r in zip(cells, model.anchor_generator.aspect_ratios, strict=True)
    ]
    model.detections_per_img = 100
    return model


def train(model: RetinaNet, index: CocoIndex, given: argparse.Namespace) -> None:
    """All epochs, in the order that our own runs see the images in."""
    loader = training_loader(
        index, LoaderPlan(given.size, Intensity(), "flip", given.seed, given.batch)
    )
    steps = len(loader) * given.epochs
    rate = 0.01 * given.batch / 16
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, steps))
    model.train()
    for epoch in range(given.epochs):
        loader.batch_sampler.sampler.set_epoch(epoch)  # type: ignore[union-attr]
        for batch in loader:
            images = list(batch.images.float().div(255))
            loss = sum(model(images, batch.targets).values())
            assert isinstance(loss, Tensor)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            schedule.step()


@torch.inference_mode()
def detect(model: RetinaNet, index: CocoIndex) -> list[dict]:
    """COCO results of a split; torchvision scales images and boxes itself."""
    model.eval()
    ids = torch.tensor([category for category, _ in index.categories])
    rows: list[dict] = []
    for i in range(len(index)):
        pixels = to_tensor(load_pixels(index, i, Intensity())).float() / 255
        found = model([pixels])[0]
        labels = ids[found["labels"]].numpy()
        boxes, scores = found["boxes"].numpy(), found["scores"].numpy()
        rows += to_results(int(index.image_ids[i]), boxes, scores, labels)
    return rows


def main() -> None:
    """Train, detect on the test split, write ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    for name in ("--epochs", "--size", "--batch", "--seed"):
        parser.add_argument(name, type=int, required=True)
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    indices = {
        split: CocoIndex(given.coco / f"annotations/{split}.json", given.coco / "images")
        for split in ("train", "test")
    }
    model = build(len(indices["train"].categories), given.size)
    train(model, indices["train"], given)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "results.json").write_text(json.dumps(detect(model, indices["test"])))


if __name__ == "__main__":
    main()
