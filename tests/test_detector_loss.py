"""The parts of the detector's loss against torchvision's, and both forms of its input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou, sigmoid_focal_loss

from pipeline.models.build import build_detector
from pipeline.models.heads import matching
from pipeline.models.heads.focal import focal_loss
from pipeline.models.heads.matching import BACKGROUND, IGNORED, match
from pipeline.models.heads.retinanet import RetinaNetHead
from pipeline.models.params import DetectorSpec, HeadRules


def boxes(count, seed):
    """Boxes with corners on a coarse grid, so that overlaps tie often."""
    rng = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 6, (count, 2), generator=rng)
    return torch.cat([corner, corner + torch.randint(1, 6, (count, 2), generator=rng)], 1).float()


@given(st.integers(1, 9), st.integers(1, 60), st.integers(0, 10_000), st.sampled_from([1, 40, 999]))
@settings(max_examples=150, deadline=None)
def test_matching_equals_torchvisions_however_it_is_cut(count, anchors, seed, chunk):
    truth, grid = boxes(count, seed), boxes(anchors, seed + 1)
    wanted = Matcher(0.5, 0.4, allow_low_quality_matches=True)(box_iou(truth, grid))
    before, matching.CHUNK = matching.CHUNK, chunk
    try:
        assert match(truth, grid).tolist() == wanted.tolist()
    finally:
        matching.CHUNK = before


def test_matching_by_hand():
    anchors = torch.tensor(
        [[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4.5], [0, 0, 10, 3], [20, 20, 60, 60]]
    )
    truth = torch.tensor([[0, 0, 10, 10], [20, 20, 30, 30.0]])
    # Box 0: overlaps 1, .5, .45, .3, 0. Box 1: only 1/16, with the last anchor: still its best.
    assert match(truth, anchors).tolist() == [0, 0, IGNORED, BACKGROUND, 1]
    assert match(torch.zeros(0, 4), anchors).tolist() == [BACKGROUND] * 5


def problem(dtype, positives=True):
    torch.manual_seed(0)
    logits = (torch.randn(2, 7, 3, dtype=dtype) * 3).requires_grad_()
    places = (torch.tensor([0, 0, 1]), torch.tensor([1, 4, 6]), torch.tensor([2, 0, 1]))
    ignored = torch.zeros(2, 7, dtype=torch.bool)
    ignored[0, 2] = ignored[1, 5] = True
    return logits, places if positives else tuple(p[:0] for p in places), ignored


@pytest.mark.parametrize("positives", [True, False])
def test_the_focal_loss_equals_torchvisions_in_value_and_gradient(positives):
    logits, places, ignored = problem(torch.float32, positives)
    (3 * focal_loss(logits, places, ignored)).backward()
    peer = logits.detach().clone().requires_grad_()
    wanted = torch.zeros_like(peer)
    wanted[places] = 1.0
    theirs = sigmoid_focal_loss(peer[~ignored], wanted[~ignored], reduction="sum")
    (3 * theirs).backward()
    torch.testing.assert_close(focal_loss(logits, places, ignored), theirs, rtol=1e-6, atol=0)
    torch.testing.assert_close(logits.grad, peer.grad, rtol=1e-5, atol=1e-7)


def test_the_focal_gradient_is_the_derivative_of_the_loss():
    logits, places, ignored = problem(torch.float64)
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, places, ignored), logits)


def test_certain_logits_have_finite_losses_and_gradients():
    logits = torch.tensor([[[-200.0], [200.0], [-200.0], [200.0]]], requires_grad=True)
    places = (torch.tensor([0, 0]), torch.tensor([2, 3]), torch.tensor([0, 0]))
    loss = focal_loss(logits, places, torch.zeros(1, 4, dtype=torch.bool))
    loss.backward()
    # right and certain costs nothing; wrong and certain .75 * 200 (background), .25 * 200
    torch.testing.assert_close(loss, torch.tensor(200.0))
    torch.testing.assert_close(logits.grad.flatten(), torch.tensor([0, 0.75, -0.25, 0]))


@pytest.mark.parametrize(
    ("rules", "box", "positives"),
    [
        # Anchor 0 is the box, anchor 1 half of it: IoU .5, both positive. Coded sides of anchor 1:
        # its centre is .5 off by its height, log 2 in height: (.5 + .693) / 2 positives.
        ({}, (0.5 + 0.693147) / 2, 2),
        # GIoU 1 and .5: 2 * .5 / 2
        ({"box_loss": "giou"}, 0.5, 2),
        # Of the overlaps 1, .5 and 0 (mean .5, deviation .5) one is not below 1.
        ({"assignment": "atss", "box_loss": "giou"}, 0.0, 1),
    ],
)
def test_what_stands_for_a_box_and_what_its_sides_cost(rules, box, positives):
    head = RetinaNetHead(16, 1, HeadRules(**rules))
    anchors = torch.tensor([[0.0, 0, 40, 40], [0, 0, 40, 20], [80, 80, 120, 120]])
    outputs = {"cls_logits": torch.full((1, 3, 1), -99.0), "bbox_regression": torch.zeros(1, 3, 4)}
    target = {"boxes": torch.tensor([[0.0, 0, 40, 40]]), "labels": torch.tensor([0])}
    losses = head.loss_at(anchors, outputs, [target], [3])
    assert losses["box"].item() == pytest.approx(box, abs=1e-5)
    # A positive whose score is 0 costs alpha * 99; the sum is divided by the positives.
    assert losses["classification"].item() == pytest.approx(0.25 * 99)
    assert int((head.matched(target["boxes"], anchors, [3]) >= 0).sum()) == positives


def test_8_bit_batches_and_lists_of_floats_are_the_same_input():
    torch.manual_seed(0)
    detector = build_detector(
        DetectorSpec(
            backbone="vit",
            size="micro",
            num_classes=2,
            fpn_channels=32,
            anchor_scale=2.0,
            score_threshold=0.0,
            max_detections=10,
            pool_layers=0,
            concepts=0,
        )
    )
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    box = torch.tensor([[8.0, 8, 40, 40]])
    targets = [{"boxes": box, "labels": torch.tensor([1])}] * 2
    floats = [image.float() / 255 for image in images]
    eight, plain = detector(images, targets), detector(floats, targets)
    assert all(torch.equal(eight[name], plain[name]) for name in plain)
    detector.eval()
    with torch.inference_mode():
        for a, b in zip(detector(images), detector(floats), strict=True):
            assert all(torch.equal(a[name], b[name]) for name in b)
