"""Ready for CUDA as far as a CPU can tell: operations, devices, types and waits of a step."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from cuda_stand_in import Recorder, backward, cuda_stand_in, move
from torch import nn
from torch.nn import functional as F

from pipeline.data.masks import CELL
from pipeline.data.sample import Sample, collate
from pipeline.models.backbones import acmix_resnet, dat, glnet, swin, vit
from pipeline.models.build import BACKBONES, build_detector
from pipeline.models.params import DetectorSpec
from pipeline.models.pyramid import LEVEL_STRIDES
from pipeline.train.optimisation import parameter_groups

SIDE = 64
FAMILIES = sorted(BACKBONES)
SOONER = "vit that learns sooner"  # stem and head of `recipe: sample`
FORMS = {family: {"backbone": family} for family in FAMILIES}
FORMS[SOONER] = {"backbone": "vit", "stem": "convolutions", "head": "aligned"}
FAST = [("vit", "bf16"), ("dat", "bf16"), (SOONER, "bf16")]
STEPS = [
    pytest.param(*step, marks=[] if step in FAST else pytest.mark.slow)
    for step in product(FORMS, ("fp32", "bf16"))
]
SPEC = DetectorSpec(
    backbone="vit",
    size="micro",
    num_classes=3,
    fpn_channels=16,
    anchor_scale=2.0,
    score_threshold=0.0,
    max_detections=10,
    pool_layers=2,
    concepts=4,
    drop_path=0.1,
)


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """One block of each kind: operations do not depend on how many there are."""
    monkeypatch.setitem(vit.SIZES, "micro", (32, 2, 2))
    monkeypatch.setitem(swin.SIZES, "micro", swin.Size(32, (2, 1, 1, 1), 0.1))
    monkeypatch.setitem(dat.SIZES, "micro", dat.Size(32, (2, 1, 1, 1), (1, 1, 2, 4), 0.1))
    monkeypatch.setitem(acmix_resnet.SIZES, "micro", acmix_resnet.Size(32, (1, 1, 1, 1)))
    sizes = glnet.Size((32, 64, 128, 256), (1, 1, 2, 1), 3, 0.1)
    monkeypatch.setitem(glnet.SIZES, "micro", sizes)


def batch():
    """Two images, of which one has objects."""
    images = torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8)
    boxes = torch.tensor([[8.0, 8, 40, 40], [3, 2, 20, 30]])
    nothing = torch.zeros(0, dtype=torch.int64)
    first = Sample(images[0], boxes, torch.tensor([0, 2]), 1)
    return collate([first, Sample(images[1], torch.zeros(0, 4), nothing, 2)])


def update(detector: nn.Module, fused: bool) -> None:
    """Clip and step, as in training."""
    nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
    groups = parameter_groups(detector, 0.05)
    torch.optim.AdamW(groups, lr=1e-3, fused=fused or None).step()


@pytest.mark.parametrize("placement", ["stream", "branch"])
@pytest.mark.parametrize("form", FORMS)
def test_strict_mode_knows_every_operation_of_a_step_and_of_detection(form, placement):
    spec = replace(SPEC, **FORMS[form], placement=placement)
    detector = build_detector(spec, checkpointing=placement == "stream").train()
    given = batch()
    with Recorder() as recorder:
        losses = detector(given.images, given.targets)
        torch.stack(list(losses.values())).sum().backward()
        update(detector, fused=placement == "stream")
        with torch.no_grad():
            assert len(detector.eval()(given.images)[0]["scores"]) == 10
    assert {"aten::convolution_backward", "torchvision::nms"} <= recorder.names  # it does see them
    assert recorder.forbidden == set()


@pytest.mark.parametrize(("form", "precision"), STEPS)
def test_a_step_keeps_to_its_device_and_waits_twice(form, precision, monkeypatch):
    detector = build_detector(replace(SPEC, **FORMS[form]), checkpointing=precision == "bf16")
    detector = detector.train().to(memory_format=torch.channels_last)
    with cuda_stand_in(monkeypatch) as mode:
        move(detector, mode)
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            given = batch().to("cuda")
            with Recorder():  # the first step makes tables that all later ones use
                detector(given.images, given.targets)
            with Recorder() as recorder:
                given = batch().to("cuda")
                losses = detector(given.images, given.targets)
                backward(torch.stack(list(losses.values())).sum())
                update(detector, fused=True)
        # the values of the losses are the second wait: `TrainingModule.training_step`
        assert recorder.waits == ["aten::nonzero"]
        assert recorder.forbidden == set()
        tensors = [*losses.values(), *(p.grad for p in detector.parameters())]
        assert {(t.dtype, t.device.type) for t in tensors} == {(torch.float32, "cuda")}


@pytest.mark.parametrize(("task", "waits"), [("instances", ["aten::nonzero"]), ("semantic", [])])
@pytest.mark.parametrize("head", ["retinanet", "aligned"])
def test_masks_keep_to_what_a_gpu_repeats_and_wait_no_more(task, waits, head, monkeypatch):
    detector = build_detector(replace(SPEC, task=task, head=head)).train()
    with cuda_stand_in(monkeypatch) as mode:
        move(detector, mode)
        with torch.autocast("cuda", torch.bfloat16):
            for _ in range(2):  # the first step makes tables
                with Recorder() as recorder:
                    given = batch()
                    cells = torch.zeros(2, SIDE // CELL, SIDE // CELL, dtype=torch.uint8)
                    given.masks = [cells, cells[:0]]
                    given = given.to("cuda")
                    losses = detector(given.images, given.targets)
                    backward(torch.stack(list(losses.values())).sum())
        assert (recorder.waits, recorder.forbidden) == (waits, set())
        assert {p.grad.device.type for p in detector.parameters()} == {"cuda"}


def test_anchors_are_exact_also_for_maps_in_bf16():
    """8 bits hold places up to 256 only."""
    detector = build_detector(SPEC)
    grids = [(-(-800 // stride), -(-800 // stride)) for stride in LEVEL_STRIDES]
    with torch.autocast("cpu", torch.bfloat16):
        found = detector.head.anchors(grids, (800, 800), torch.device("cpu"))
    assert found.dtype == torch.float32
    # level 3's last place is the 100th of 8 px; its first anchor is of 16 px squared
    last = found[grids[0][0] * grids[0][1] * 9 - 9]
    half_width, half_height = round(8 / 0.5**0.5), round(8 * 0.5**0.5)  # 11 and 6
    wanted = [792 - half_width, 792 - half_height, 792 + half_width, 792 + half_height]
    assert last.tolist() == wanted


def test_an_operation_without_deterministic_form_is_caught():
    image = torch.rand(1, 1, 4, 4, requires_grad=True)
    with Recorder() as recorder:
        F.interpolate(image, scale_factor=2, mode="bilinear").sum().backward()
    assert recorder.forbidden == {"aten::upsample_bilinear2d_backward"}


def test_the_stand_in_finds_what_was_left_on_the_cpu_and_what_waits(monkeypatch):
    with cuda_stand_in(monkeypatch) as mode:
        x, table = torch.zeros(3, device="cuda"), mode.from_tensor(torch.ones(3))
        with pytest.raises(RuntimeError, match=r"same device|two different devices"):
            x * table
        with Recorder() as recorder:
            (x * table.to("cuda")).to("cpu")
            table.to("cuda", non_blocking=True)
        assert recorder.waits == ["aten::_to_copy"] * 2


def test_the_backward_pass_of_the_stand_in_is_that_of_autograd():
    detector = build_detector(SPEC).eval().double()  # without stochastic depth
    found = []
    for run in (torch.Tensor.backward, backward):
        detector.zero_grad()
        maps = detector.backbone(torch.ones(1, 3, SIDE, SIDE, dtype=torch.float64))
        run(sum(level.square().sum() for level in maps.values()))
        found.append([p.grad for p in detector.backbone.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
