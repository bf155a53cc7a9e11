"""Counts against literal numbers; times and memory only for their form."""

import json
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.errors import DescryError
from pipeline.models.build import BACKBONES, build_detector
from pipeline.profile.count import count as count_anew
from pipeline.profile.count import flops
from pipeline.profile.measure import Load, clock, make_step, peak_bytes, summarise
from pipeline.profile.run import Settings, arms, profile, spec_of
from pipeline.profile.table import machine, markdown

count = cache(count_anew)  # a count takes a second
COUNTS_ONLY = Settings(repeats=0, memory=False)
NARROW = {"fpn_channels": 32, "anchor_scale": 2.0}


def spec(backbone="vit", size="micro", **changes):
    return spec_of(NARROW | {"backbone": backbone, "size": size, **changes})


def test_parameters_of_vit_tiny():
    counts = count(spec(size="tiny"), 64)
    # patch 147_648, positions 196 * 192, 12 blocks of 12 * 192^2 + 13 * 192, norm 384,
    # transposed convolution 4 * 192 * 96 + 96
    assert counts.backbone == 147_648 + 37_632 + 12 * 444_864 + 384 + 73_824 == 5_597_856
    assert counts.interaction == 0


def test_parameters_of_the_interaction():
    counts = count(spec(pool_layers=2, concepts=16), 64)
    # width 128, per block: norm 256; ACP 2 * (9 * 128 + 256 + 128); CAT align 2_048,
    # value 16_512, norm 256, mix 272; W_o 3 * 128 * 128 + 128
    block = 256 + 3_072 + 2_048 + 16_512 + 256 + 272 + 49_280
    assert counts.interaction == 6 * block == 430_176
    assert counts.backbone - count(spec(), 64).backbone == 430_176


@pytest.mark.parametrize(
    ("layer", "shape", "forward", "backward"),
    [
        (nn.Linear(10, 20), (4, 10), 2 * 4 * 10 * 20, 2),
        (nn.Conv2d(6, 8, 3, padding=1), (2, 6, 5, 7), 2 * 2 * 35 * 8 * 6 * 9, 2),
        (nn.Conv2d(6, 6, 3, padding=1, groups=6), (2, 6, 5, 7), 2 * 2 * 35 * 6 * 9, 2),
        (nn.Conv2d(8, 4, 3, stride=2, groups=2), (1, 8, 9, 9), 2 * 16 * 4 * 4 * 9, 2),
        (nn.ConvTranspose2d(6, 4, 2, 2), (1, 6, 5, 5), 2 * 25 * 6 * 4 * 4, 2),
    ],
)
def test_flops_of_layers(layer, shape, forward, backward):
    x = torch.rand(shape, requires_grad=True)
    assert flops(lambda: layer(x)) == forward
    assert flops(lambda: layer(x).sum().backward()) == forward * (1 + backward)


def test_flops_of_attention_do_not_depend_on_the_kernel():
    q = torch.rand(1, 2, 16, 8, requires_grad=True)
    forward = 2 * 2 * 16 * 16 * 8 * 2  # q k^T and its product with v, 2 heads
    assert flops(lambda: F.scaled_dot_product_attention(q, q, q)) == forward
    assert flops(lambda: F.scaled_dot_product_attention(q, q, q).sum().backward()) == 3 * forward


def test_flops_of_vit_micro():
    counts = count(spec(), 64)
    n, c = 16, 128
    block = 2 * n * 12 * c * c + 4 * n * n * c  # qkv, projection, MLP; the two attention products
    ends = 2 * n * 768 * c + 2 * n * c * (c // 2) * 4  # patches; transposed convolution
    positions = 2 * 4 * 14 * 14 * c + 2 * 4 * 4 * 14 * c  # rows, then columns, of their table
    assert counts.inference_backbone == 6 * block + ends + positions


@pytest.mark.parametrize(
    "backbone",
    ["vit", *(pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES if name != "vit")],
)
def test_flops_without_memory_equal_those_of_a_real_run(backbone):
    chosen = spec(backbone, pool_layers=1, concepts=4)
    detector = build_detector(chosen).eval().requires_grad_(False)
    images = torch.rand(1, 3, 64, 64)

    def forward():
        return detector.head(list(detector.backbone(images).values()))

    counts = count(chosen, 64)
    assert flops(forward) == counts.inference
    detector.requires_grad_(True)
    step = flops(lambda: torch.stack([x.sum() for x in forward().values()]).sum().backward())
    assert counts.training == step
    assert 2.5 < counts.training / counts.inference <= 3


def test_arms_are_named_and_start_with_the_baseline():
    found = arms("vit", "micro", (0, 2), (0, 16), NARROW)
    assert list(found) == ["baseline", "cat16", "acp2", "acp2+cat16"]
    assert found["acp2"].pool_layers == 2
    assert found["acp2"].concepts == 0


def test_controls_join_the_arms():
    found = arms("vit", "micro", (2,), (16,), NARROW, with_controls=True)
    names = ["baseline", "wider of acp2+cat16", "acp2", "cat16", "copies of acp2+cat16"]
    assert list(found) == [*names, "acp2+cat16"]
    assert found["copies of acp2+cat16"].copies
    assert found["wider of acp2+cat16"].width == 148


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbones": ["resnet"]}, "backbone = 'resnet' is not allowed: must be one of vit"),
        ({"sizes": ["huge"]}, "size = 'huge' is not allowed: must be one of micro, tiny, small"),
        ({"sizes": ["9g"], "backbones": ["acmix_swin"]}, "no size '9g': use one of micro, tiny"),
        ({"image_sizes": [16]}, r"image_size \[16\]"),
        ({"pool_layers": [-1]}, "pool_layers = -1 is not allowed: must be an integer, at least 0"),
        ({"concepts": []}, "concepts: must be one or more"),
        ({"detector": {"placement": "side"}}, "placement = 'side' .* one of stream, branch"),
        ({"detector": {"fpn_channels": 40}}, "fpn_channels = 40 .* a multiple of 16"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(DescryError, match=message):
        profile(settings=COUNTS_ONLY, **arguments)


def test_bad_settings_are_refused():
    with pytest.raises(DescryError, match="batch_size=0"):
        Settings(batch_size=0)
    with pytest.raises(DescryError, match="precision='fp8'"):
        Settings(precision="fp8")


def test_the_report_of_counts_is_the_same_every_time(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.profile.run.count", count)
    shape = {"detector": NARROW, "settings": COUNTS_ONLY}
    for name in ("a.json", "b.json"):
        profile(["vit"], ["micro"], [64], [2], [16], out=tmp_path / name, **shape)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.md").read_bytes() == (tmp_path / "b.md").read_bytes()
    report = json.loads((tmp_path / "a.json").read_text())
    assert [(r["image_size"], r["arm"]) for r in report["rows"]] == [
        (64, "baseline"),
        (64, "acp2+cat16"),
    ]
    assert report["rows"][1]["ratio"]["parameters.backbone"] == round(1_776_416 / 1_346_240, 4)
    assert all(value == 1 for value in report["rows"][0]["ratio"].values())
    assert any("norms" in part for part in report["not_counted"])
    table = (tmp_path / "a.md").read_text()
    assert "1.776 (×1.32)" in table
    assert " ms " not in table  # nothing was timed


def test_steps_run_in_both_modes():
    for training in (False, True):
        make_step(spec(pool_layers=1), Load(64, 2, training))()


def test_a_training_step_changes_the_weights(monkeypatch):
    kept = []

    def keep(chosen):
        kept.append(build_detector(chosen))
        return kept[0]

    monkeypatch.setattr("pipeline.profile.measure.build_detector", keep)
    step = make_step(spec(), Load(64, training=True))
    before = kept[0].backbone.backbone.patch.weight.clone()
    step()
    assert not torch.equal(kept[0].backbone.backbone.patch.weight, before)


def test_steps_take_turns_after_warming_up():
    calls = []
    times = clock([lambda: calls.append("a"), lambda: calls.append("b")], warmup=1, repeats=2)
    assert calls == ["a", "b", "a", "b", "a", "b"]
    assert [len(mine) for mine in times] == [2, 2]


def test_summary_of_times():
    timing = summarise([0.4, 0.1, 0.2, 0.3, 0.5], batch_size=6)
    shown = (timing.q1_ms, timing.median_ms, timing.q3_ms, timing.images_per_s)
    assert shown == (200.0, 300.0, 400.0, 20.0)


def test_the_table_shows_times_and_what_is_unknown():
    timed = {"median_ms": 10.0, "q1_ms": 9.0, "q3_ms": 11.0, "images_per_s": 100.0}
    row = {"backbone": "vit", "size": "micro", "image_size": 64, "arm": "baseline"}
    slow = {"median_ms": 12.5, "q1_ms": 9.0, "q3_ms": 11.0, "images_per_s": 80.0}
    counted = {"parameters": {"total": 2_000_000}, "flops": {"inference": 10**9}}
    report = {
        "rows": [
            {**row, **counted, "inference": {**timed, "peak_bytes": 2**20}},
            {**row, **counted, "arm": "acp2", "inference": {**slow, "peak_bytes": None}},
        ],
        "machine": {"cpu": "X", "threads": 2, "torch": "2"},
        "settings": {"repeats": 5, "warmup": 1, "batch_size": 1, "precision": "fp32"}
        | {"memory": True},
        "not_counted": ["norms"],
    }
    lines = markdown(report).splitlines()
    assert [cell.strip() for cell in lines[3].strip("|").split("|")] == [
        *["vit", "micro", "64", "acp2", "2.000 (×1.00)", "1.000 (×1.00)"],
        *["12.5 (×1.25)", "80.00 (×0.80)", "n/a"],
    ]


def test_the_machine_is_described_without_its_name():
    about = machine("cpu")
    assert set(about) == {
        *("cpu", "cores", "threads", "system", "python", "torch", "torchvision", "device")
    }
    assert about["cpu"]


@pytest.mark.slow  # a process of its own imports torch
def test_training_needs_more_memory_than_inference():
    learn = peak_bytes(spec(), Load(128, 2, training=True), 1)
    detect = peak_bytes(spec(), Load(128, 2), 1)
    if learn is None or detect is None:
        pytest.skip("this system does not tell the peak of a process")
    weights = 4 * count(spec(), 128).total
    assert learn > detect + 3 * weights  # gradients and two moments of AdamW


@pytest.mark.slow
def test_a_failing_child_is_an_error_with_a_way_out():
    with pytest.raises(DescryError, match="at 64 px, batch -1: the measuring process failed"):
        peak_bytes(spec(), Load(64, -1), 1)
