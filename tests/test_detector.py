"""RetinaNet around our backbones: its loss, and that it learns."""

import torch
from torch.nn import functional as F

from pipeline.models.build import build_detector
from pipeline.models.params import DetectorSpec

SPEC = DetectorSpec(
    backbone="vit",
    size="micro",
    num_classes=2,
    fpn_channels=32,
    anchor_scale=2.0,
    pool_layers=1,
    concepts=4,
)


def image_and_target(boxes=((8, 8, 40, 40),), labels=(1,)):
    torch.manual_seed(1)
    target = {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }
    return torch.rand(3, 64, 64), target


def test_the_loss_equals_the_papers_definition_over_the_batch():
    torch.manual_seed(0)
    detector = build_detector(SPEC)
    torch.manual_seed(2)
    logits, deltas = torch.randn(2, 5, 2), torch.randn(2, 5, 4)
    anchors = torch.tensor(
        [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 4.5], [50, 50, 60, 60], [0, 0, 30, 30.0]]
    )
    targets = [
        {"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([1])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    # IoU with the box: 1, .9, .45 (between .4 and .5: ignored), 0, 1/9. Image 2: all background.
    heads = {"cls_logits": logits, "bbox_regression": deltas}
    losses = detector.head.loss_at(anchors, heads, targets)
    p = logits.sigmoid()
    focal = 0.0
    for image in range(2):
        for anchor in range(5):
            for k in range(2):
                if image == 0 and anchor == 2:
                    continue
                if image == 0 and anchor in (0, 1) and k == 1:
                    q = p[image, anchor, k]
                    focal -= 0.25 * (1 - q) ** 2 * q.log()
                else:
                    q = 1 - p[image, anchor, k]
                    focal -= 0.75 * (1 - q) ** 2 * q.log()
    torch.testing.assert_close(losses["classification"], focal / 2, rtol=1e-5, atol=1e-6)
    # Anchor 0 is the box; anchor 1 is 9 high with its centre at 4.5: dy = .5/9, dh = ln(10/9).
    wanted = torch.tensor([[0, 0, 0, 0], [0, 0.5 / 9, 0, 0.10536052]])
    l1 = F.l1_loss(deltas[0, :2], wanted, reduction="sum")
    torch.testing.assert_close(losses["box"], l1 / 2, rtol=1e-5, atol=1e-5)


def test_a_batch_of_negatives_has_a_finite_loss_and_gradients():
    torch.manual_seed(0)
    detector = build_detector(SPEC)
    image, target = image_and_target((), ())
    losses = detector([image, image], [target, target])
    sum(losses.values()).backward()
    assert losses["box"] == 0 and losses["classification"] > 0
    assert all(torch.isfinite(p.grad).all() for p in detector.parameters() if p.grad is not None)


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    detector = build_detector(SPEC)
    for stream in (m for m in detector.modules() if hasattr(m, "aggregate")):
        torch.nn.init.normal_(stream.aggregate.weight, std=0.02)
    image, target = image_and_target()
    sum(detector([image], [target]).values()).backward()
    without = [n for n, p in detector.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_it_learns_one_image_by_heart():
    torch.manual_seed(0)
    detector = build_detector(SPEC)
    image, target = image_and_target(((8, 8, 40, 40), (30, 36, 60, 60)), (1, 0))
    optimizer = torch.optim.AdamW(detector.parameters(), 2e-3)
    for _ in range(150):
        optimizer.zero_grad()
        sum(detector([image], [target]).values()).backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
        optimizer.step()
    detector.eval()
    with torch.inference_mode():
        (found,) = detector([image])
    assert set(found["labels"].tolist()) == {0, 1}
    for box, label in zip(target["boxes"], target["labels"], strict=True):
        best = found["boxes"][found["labels"] == label][0]
        assert (best - box).abs().max() < 5


def test_an_interaction_of_nothing_is_the_baseline():
    from dataclasses import replace

    plain = build_detector(replace(SPEC, pool_layers=0, concepts=0))
    enhanced = build_detector(SPEC).eval()
    own = enhanced.state_dict()
    assert set(plain.state_dict()) < set(own)
    plain.load_state_dict({k: own[k] for k in plain.state_dict()})
    image, _ = image_and_target()
    with torch.inference_mode():
        a, b = (m.backbone(image[None]) for m in (plain.eval(), enhanced))
    for level in a:
        torch.testing.assert_close(a[level], b[level], rtol=0, atol=0)
