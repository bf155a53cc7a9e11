"""The head without anchors: who learns from which box, its losses, and what it detects."""

import pytest
import torch
from torchvision.ops import generalized_box_iou_loss

from pipeline.models.heads import assignment
from pipeline.models.heads.aligned import BINS, AlignedHead, distribution_loss, score_loss
from pipeline.models.heads.assignment import align, atss, giou, iou
from pipeline.models.params import HeadRules, Selection

# Four places on a line, 8 px apart, and what each predicts there.
PLACES = torch.tensor([[4.0, 4.0], [12.0, 4.0], [20.0, 4.0], [28.0, 4.0]])
PREDICTED = torch.tensor([[0, 0, 8, 8], [0, 0, 16, 8], [16, 0, 24, 8], [20, 0, 40, 8.0]])
NO_BOXES, NO_LABELS = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)


def test_a_boxs_best_place_aims_at_its_iou_and_the_others_at_their_share_of_it():
    # Box 0-16: places 0 and 1 lie in it with IoU 1/2 and 1; the scores of its class are .8 and .2.
    # Alignment .8 / 64 = .0125 and .2: aims 1 * .0125 / .2 = .0625 and 1.
    scores = torch.tensor([[0.8, 0.0], [0.2, 0.0], [0.9, 0.0], [0.9, 0.0]])
    box, label = torch.tensor([[0.0, 0, 16, 8]]), torch.tensor([0])
    which, aims = align(box, label, PLACES, PREDICTED, scores, 8.0)
    assert which.tolist() == [0, 0, -1, -1]
    torch.testing.assert_close(aims, torch.tensor([0.0625, 1.0, 0, 0]))


def test_a_place_that_two_boxes_want_goes_to_the_one_it_overlaps_best():
    # Both hold place 1, whose prediction 0-16 has IoU 1 with the first and 16/24 with the second.
    scores = torch.full((4, 2), 0.5)
    boxes = torch.tensor([[0.0, 0, 16, 8], [0, 0, 24, 8]])
    which, aims = align(boxes, torch.tensor([0, 1]), PLACES, PREDICTED, scores, 8.0)
    assert which.tolist() == [0, 0, 1, -1]
    # The second box is left with place 2: IoU 8/24, and so its best.
    torch.testing.assert_close(aims, torch.tensor([1 / 64, 1.0, 1 / 3, 0]))


def test_a_box_that_holds_no_place_gets_the_one_within_a_stride():
    box, label = torch.tensor([[6.0, 3, 8, 5]]), torch.tensor([1])
    which, aims = align(box, label, PLACES, PREDICTED, torch.full((4, 2), 0.5), 8.0)
    assert which.tolist() == [0, -1, -1, -1]
    torch.testing.assert_close(aims, torch.tensor([4 / 64, 0, 0, 0]))


def test_without_boxes_every_place_is_background():
    which, aims = align(NO_BOXES, NO_LABELS, PLACES, PREDICTED, torch.rand(4, 2), 8.0)
    assert which.tolist() == [-1] * 4 and aims.tolist() == [0.0] * 4


def test_boxes_in_pieces_give_the_same_assignment(monkeypatch):
    torch.manual_seed(0)
    corner = torch.rand(40, 2) * 200
    boxes = torch.cat([corner, corner + 8 + torch.rand(40, 2) * 60], dim=1)
    labels, places = torch.arange(40) % 3, torch.rand(500, 2) * 256
    predicted = torch.cat([places - 5 - torch.rand(500, 2) * 30, places + 20], dim=1)
    scores = torch.rand(500, 3)
    whole = align(boxes, labels, places, predicted, scores, 8.0)
    monkeypatch.setattr(assignment, "CHUNK", 500 * 7)
    pieces = align(boxes, labels, places, predicted, scores, 8.0)
    assert torch.equal(whole[0], pieces[0]) and torch.equal(whole[1], pieces[1])
    assert len(whole[0].unique()) == 33  # of 40 boxes that lie over each other, and background


def test_atss_takes_the_near_anchors_that_overlap_more_than_is_usual(monkeypatch):
    # Level 1: squares of 8 px at 4, 12, 20, 28; level 2: of 16 px at 8 and 24; all 8 px high.
    squares = torch.tensor([[x, 0, x + 8, 8] for x in (0.0, 8, 16, 24)])
    anchors = torch.cat([squares, torch.tensor([[0.0, 0, 16, 8], [16, 0, 32, 8]])])
    # Two candidates of each level. Box 0-16: IoU .5, .5, 1 and 0, mean .5, deviation .408: the
    # third alone. Box 14-25, centre 19.5: anchors 2 (8/11), 1 (2/17), 5 (9/18) and 4 (2/25);
    # mean .356, deviation .310: anchor 2.
    boxes = torch.tensor([[0.0, 0, 16, 8], [14, 0, 25, 8]])
    assert atss(boxes, anchors, [4, 2], 2, 8.0).tolist() == [-1, -1, 1, -1, 0, -1]
    monkeypatch.setattr(assignment, "CHUNK", 1)  # a box at a time
    assert atss(boxes, anchors, [4, 2], 2, 8.0).tolist() == [-1, -1, 1, -1, 0, -1]
    assert atss(NO_BOXES, anchors, [4, 2], 2, 8.0).tolist() == [-1] * 6


def test_the_quality_focal_loss_is_cross_entropy_times_distance_squared():
    # At logit 0: -log .5 = .693, times (1 - .5)^2 and (.5 - .5)^2.
    logits, wanted = torch.zeros(2), torch.tensor([1.0, 0.5])
    assert score_loss(logits, wanted, focal=True).item() == pytest.approx(0.25 * 0.693147)
    assert score_loss(logits, wanted, focal=False).item() == pytest.approx(2 * 0.693147)


def test_iou_of_boxes_by_position():
    a = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 1, 1]])
    b = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [2, 2, 3, 3]])
    torch.testing.assert_close(iou(a, b), torch.tensor([1.0, 1 / 3, 0.0]))
    # The third pair's hull is 3 x 3 = 9, of which 7 are empty.
    torch.testing.assert_close(giou(a, b), torch.tensor([1.0, 1 / 3, -7 / 9]))
    torch.testing.assert_close(1 - giou(a, b), generalized_box_iou_loss(a, b))


def test_a_side_between_two_bins_is_shared_by_them():
    # Stride 8, bins of 4 px: distances 10, 4, 400 and 0 px are bins 2.5, 1, 15 (the last) and 0.
    place, aim = torch.tensor([[100.0, 50.0]]), torch.tensor([[90.0, 46, 500, 50]])
    sides = torch.full((4, BINS), -30.0)
    sides[0, 2] = sides[0, 3] = sides[1, 1] = sides[2, 15] = sides[3, 0] = 30.0
    loss = distribution_loss(sides.reshape(1, -1), place, torch.tensor([8.0]), aim)
    assert loss.item() == pytest.approx(0.6931472, abs=1e-5)  # only the first is undecided


def perfect(head: AlignedHead) -> dict[str, torch.Tensor]:
    """Outputs for a 64 px image in which the cell (row 2, column 3) of stride 8 sees 16-40, 8-32.

    Its centre is (28, 20): 12 px to each side, bin 3.
    """
    scores, sides = torch.full((1, 85 + 1, 2), -20.0), torch.full((1, 86, 4, BINS), -20.0)
    scores[0, 2 * 8 + 3, 1] = 20.0
    sides[..., 3] = 20.0
    return {"scores": scores, "sides": sides.flatten(2)}


GRIDS = [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)]


def test_perfect_outputs_have_no_loss_and_give_the_box_back():
    head = AlignedHead(16, 2)
    target = {"boxes": torch.tensor([[16.0, 8, 40, 32]]), "labels": torch.tensor([1])}
    losses = head.loss(perfect(head), GRIDS, (64, 64), [target])
    assert all(value.item() == pytest.approx(0, abs=1e-4) for value in losses.values()), losses
    (found,) = head.detections(perfect(head), GRIDS, (64, 64), [(64, 64)], Selection())
    torch.testing.assert_close(found["boxes"], torch.tensor([[16.0, 8, 40, 32]]))
    assert found["labels"].tolist() == [1] and found["scores"].item() > 0.99


def test_boxes_are_exact_also_under_autocast():
    """8 bits hold places up to 256 only."""
    torch.manual_seed(0)
    head = AlignedHead(16, 2)
    sides, places = torch.randn(50, 4 * BINS), torch.rand(50, 2) * 800
    exact = head.boxes(sides, places, torch.full((50,), 8.0))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head.boxes(sides, places, torch.full((50,), 8.0)), exact)


@pytest.mark.parametrize("rules", [HeadRules(), HeadRules(assignment="atss")])
def test_a_batch_of_negatives_has_a_finite_loss_and_gradients(rules):
    torch.manual_seed(0)
    head = AlignedHead(16, 2, rules)
    outputs = head([torch.randn(2, 16, *grid) for grid in GRIDS])
    empty = {"boxes": NO_BOXES, "labels": NO_LABELS}
    losses = head.loss(outputs, GRIDS, (64, 64), [empty, empty])
    sum(losses.values()).backward()
    assert losses["box"] == 0 and losses["classification"] > 0
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())
