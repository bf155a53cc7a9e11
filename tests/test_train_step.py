"""The parts of a training step, against values worked by hand."""

import json
import math
from dataclasses import replace

import pytest
import torch
from train_factory import SETTINGS, SPEC

from pipeline.data.loader import ResumableLoader, check_boxes
from pipeline.data.sample import Sample, collate
from pipeline.errors import DescryError
from pipeline.models.build import build_detector
from pipeline.train.guards import naming_knobs
from pipeline.train.module import Steps, TrainingModule
from pipeline.train.optimisation import lr_factor, moving_average, parameter_groups, scaled_lr
from pipeline.train.progress import EpochTimer, Progress, epoch_line, history_row, write_history


def sample(boxes=(), image_id=42):
    image = torch.full((3, 64, 64), 90, dtype=torch.uint8)
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Sample(image, corners, torch.zeros(len(corners), dtype=torch.int64), image_id)


def module_of(tmp_path):
    torch.manual_seed(0)
    steps = Steps(images=2, batches=2, accumulate=1, epochs=1)
    return TrainingModule(build_detector(SPEC), SETTINGS.train, steps, tmp_path / "dump.json")


def test_a_batch_of_negatives_trains(tmp_path):
    module = module_of(tmp_path)
    module.__class__ = type("Module", (TrainingModule,), {"step": 0, "lr": 1.0})
    out = module.training_step(collate([sample(), sample()]), 0)
    out["loss"].backward()
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    assert out["parts"]["box"] == 0.0 and out["parts"]["classification"] > 0
    assert gradients and all(bool(g.isfinite().all()) for g in gradients)


def test_a_loss_that_is_not_finite_stops_with_a_dump(tmp_path, monkeypatch):
    module = module_of(tmp_path)
    module.__class__ = type("Module", (TrainingModule,), {"step": 7, "lr": 0.25})
    bad = {"classification": torch.tensor(math.nan), "box": torch.tensor(1.0)}
    monkeypatch.setattr(module.detector, "forward", lambda images, targets: bad)
    with pytest.raises(DescryError, match=r"step 7 .*classification nan.*ids 42.*train\.lr") as e:
        module.training_step(collate([sample()]), 0)
    assert str(tmp_path / "dump.json") in str(e.value)
    assert json.loads((tmp_path / "dump.json").read_text()) == {
        "losses": {"loss": "nan", "classification": "nan", "box": "1.0"},
        "image_ids": [42],
        "step": 7,
        "lr": 0.25,
    }


@pytest.mark.parametrize("box", [(8, 8, 8, 20), (8, 20, 16, 8), (8, 8, math.nan, 20)])
def test_a_degenerate_box_does_not_reach_the_loss(box):
    check_boxes(collate([sample([(8, 8, 20, 20)]), sample()]))
    with pytest.raises(DescryError, match="image 42: a box without area"):
        check_boxes(collate([sample(), sample([(8, 8, 20, 20), box])]))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_says_which_knob_helps(error):
    words = r"batch_size = 16.*train\.accumulate.*bf16.*gradient_checkpointing.*image_size"
    with pytest.raises(DescryError, match=words), naming_knobs({"batch_size": 16}):
        raise error


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes differ"), naming_knobs({}):
        raise RuntimeError("shapes differ")


def test_losses_are_computed_in_fp32_under_autocast():
    """The same losses and gradients as without autocast, from the same bf16 head outputs."""
    torch.manual_seed(0)
    detector = build_detector(SPEC)
    anchors = torch.tensor([[8.0, 8, 40, 40], [0, 0, 8, 8], [9, 9, 44, 41]])
    targets = collate([sample([(8, 8, 40.5, 41.3)]), sample()]).targets
    found = []
    for active in (False, True):
        torch.manual_seed(1)
        heads = {
            "cls_logits": torch.randn(2, 3, 1).bfloat16().requires_grad_(),
            "bbox_regression": torch.randn(2, 3, 4).bfloat16().requires_grad_(),
        }
        with torch.autocast("cpu", torch.bfloat16, enabled=active):
            losses = detector.head.loss_at(anchors, heads, targets)
        assert all(value.dtype == torch.float32 for value in losses.values())
        torch.stack(list(losses.values())).sum().backward()
        found.append([*losses.values(), *(h.grad for h in heads.values())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_decay_spares_norms_biases_positions_and_gates():
    detector = build_detector(SPEC)
    decay, spared = parameter_groups(detector, 0.05)
    names = {id(p): n for n, p in detector.named_parameters()}
    decayed = {names[id(p)] for p in decay["params"]}
    kept = {names[id(p)] for p in spared["params"]}
    assert (decay["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)
    assert "backbone.backbone.blocks.0.attn.qkv.weight" in decayed
    assert "backbone.backbone.positions" in kept
    assert "backbone.backbone.blocks.0.stream.interaction.acp.gates" in kept
    assert not any(n.endswith("bias") or "norm" in n for n in decayed)
    assert len(decayed) + len(kept) == len(names)


@pytest.mark.parametrize(
    ("changes", "factors"),
    [
        # half way down a cosine from 1 to .1 is .55
        ({"warmup": 0.2, "final_lr": 0.1}, {0: 0.5, 1: 1.0, 2: 1.0, 6: 0.55, 10: 0.1}),
        # flat over the first half of the 8 steps after warm-up, then half way down
        (
            {"schedule": "flat", "warmup": 0.2, "final_lr": 0.1},
            {0: 0.5, 1: 1.0, 6: 1.0, 8: 0.55, 10: 0.1},
        ),
        (
            {"schedule": "step", "warmup": 0.2, "milestones": (0.5, 0.8), "decay": 0.1},
            dict(enumerate([0.5, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])),
        ),
    ],
)
def test_the_learning_rate_rises_linearly_and_falls(changes, factors):
    train = replace(SETTINGS.train, **changes)
    assert {step: lr_factor(step, 10, train) for step in factors} == pytest.approx(factors)


def test_the_learning_rate_scales_with_the_root_of_all_images_of_a_step():
    # 2 processes x 4 batches x 8 images = 64 images, 4 times those that 0.001 is for
    assert scaled_lr(replace(SETTINGS.train, lr=1e-3, lr_batch=16), 64) == pytest.approx(2e-3)


def test_the_moving_average_forgets_the_first_weights_and_leaves_integers_alone():
    update = moving_average(0.5)._kwargs["multi_avg_fn"]
    mean, places = torch.tensor([1.0]), torch.tensor([3])
    for n, value in ((1, 2.0), (2, 4.0), (100, 0.0)):
        update([mean], [torch.tensor([value])], torch.tensor(n))
        update([places], [torch.tensor([3])], torch.tensor(n))
    # decays min(.5, 2/11), min(.5, 3/12), .5:
    # 1 -> 2/11 + 2 * 9/11 = 20/11 -> 20/44 + 4 * 3/4 = 38/11 -> 19/11
    assert mean.item() == pytest.approx(19 / 11) and places.item() == 3


class Counted:
    """A loader of the numbers of an epoch's batches, from the point where it is to begin."""

    def __init__(self, first: int, skip: int) -> None:
        self.batch_sampler = self
        self.sampler = self
        self.first, self.skip = first, skip

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        torch.rand(1)  # as a DataLoader does
        begin = self.skip if self.epoch == self.first else 0
        return iter([collate([sample(image_id=10 * self.epoch + b)]) for b in range(begin, 5)])


@pytest.mark.parametrize("place", range(8))
def test_a_loader_goes_on_at_any_batch(place):
    def ids(epoch, batch):
        loader = ResumableLoader(Counted(epoch, batch), 4, 2, epoch, batch)
        before = torch.get_rng_state()
        found = [batch.image_ids[0] for batch in loader]
        assert len(loader) == len(found) and torch.equal(before, torch.get_rng_state())
        return found

    whole = [0, 1, 2, 3, 10, 11, 12, 13]  # the fifth batch fills no step
    assert ids(0, 0) == whole and ids(*divmod(place, 4)) == whole[place:]


def test_the_share_of_waiting_leaves_validation_out():
    loader = ResumableLoader(Counted(0, 0), 1, 1, 0, 0)
    timer = EpochTimer(progress := Progress(), loader)
    progress.timing.append({"seconds": 1e6, "waiting": 2e5, "validation": 5e5, "checkpoints": 1e5})
    assert timer.waiting_share() == pytest.approx(0.5, rel=1e-3)  # 2 of 10 - 5 - 1


def test_progress_counts_and_closes_an_epoch():
    progress = Progress()
    for value in (1.0, 2.0):
        progress.count({"loss": value})
    assert progress.means() == {"loss": 1.5} and progress.batch == 2
    progress.next_epoch()
    assert (progress.epoch, progress.batch, progress.sums) == (1, 0, {})
    assert Progress(**progress.plain()) == progress


def test_whatever_parts_a_loss_has_stand_in_the_history(tmp_path):
    losses = {"loss": 3.0, "classification": 1.0, "giou": 0.5, "quality": 1.5}
    rows = [history_row(1, losses, 1e-3, {}), history_row(2, losses, 5e-4, {"AP": 0.25})]
    write_history(tmp_path, rows)
    assert (tmp_path / "history.csv").read_text().splitlines() == [
        "epoch,loss,classification,giou,quality,lr,val_AP,val_AP50",
        "1,3.0,1.0,0.5,1.5,1.000e-03,,",
        "2,3.0,1.0,0.5,1.5,5.000e-04,0.25,",
    ]
    words = "loss 3.0, classification 1.0, giou 0.5, quality 1.5, lr 5.000e-04, val_AP 0.25"
    assert epoch_line(rows[1], 9) == f"epoch 2 of 9: {words}"
