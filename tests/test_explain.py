"""Seeing inside: the maps against their definitions, the pictures for form and determinism."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pipeline.data.geometry import fit_square
from pipeline.errors import DescryError
from pipeline.explain import paint
from pipeline.explain.compare import compare, linear_cka, principal_colours
from pipeline.explain.paint import read_picture
from pipeline.explain.record import blocks_of, received, received_by_points, recording
from pipeline.explain.run import ends, explain, look, trim
from pipeline.models.backbones.acmix_resnet import ACmix
from pipeline.models.backbones.dat import NeighbourhoodAttention
from pipeline.models.backbones.deformable import DeformableAttention
from pipeline.models.backbones.glnet import Attention as GridAttention
from pipeline.models.backbones.swin import WindowAttention
from pipeline.models.backbones.vit import Attention
from pipeline.models.build import BACKBONES, build_backbone, build_detector
from pipeline.models.params import DetectorSpec
from pipeline.models.saved import SavedModel

SPEC = DetectorSpec(
    backbone="vit",
    size="micro",
    num_classes=1,
    fpn_channels=32,
    anchor_scale=2.0,
    pool_layers=1,
    concepts=3,
)
META = {
    "categories": [[1, "cell"]],
    "intensity": {"low_percentile": 0.5, "high_percentile": 99.5, "window": "first"},
    "image_size": 64,
    "score_threshold": 0.3,
    "dataset": "toy",
}


def model_of(backbone="vit", **changes):
    torch.manual_seed(0)
    spec = replace(SPEC, backbone=backbone, **changes)
    return SavedModel(build_detector(spec), spec, META)


@pytest.fixture
def image(tmp_path):
    """A picture of 96 x 72 pixels."""
    pixels = np.add.outer(np.arange(72), np.arange(96)).astype(np.uint8)
    pixels[20:40, 30:60] = 220
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def random_table(module):
    nn.init.normal_(module.table)
    return module


class Given(nn.Module):
    """A projection that returns what it is told."""

    def __init__(self, like):
        super().__init__()
        self.bias, self.answer = like.bias, None

    def forward(self, x):
        return self.answer.view(*x.shape[:-1], -1)


def weights_by_probing(module, x, height, width):
    """What each query takes of each key: the output for values that are 1 at one key only."""
    dim, count = module.proj.in_features, height * width
    queries_and_keys = module.qkv(x)[..., : 2 * dim]
    given = module.qkv = Given(module.qkv)
    module.proj = nn.Identity()
    weights = torch.zeros(count, count)
    for key in range(count):
        values = torch.zeros(1, count, dim)
        values[:, key] = 1
        given.answer = torch.cat([queries_and_keys, values.view(x.shape)], dim=-1)
        out = module(x, x) if isinstance(module, GridAttention) else module(x)
        weights[:, key] = out.reshape(count, dim).mean(dim=1)
    return weights  # (queries, keys)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: Attention(8, 2), (1, 9, 8)),
        (lambda: GridAttention(8, 2), (1, 3, 4, 8)),
        (lambda: random_table(WindowAttention(8, 2, 0, True)), (1, 9, 8, 8)),
        (lambda: random_table(WindowAttention(8, 2, 3, True)), (1, 9, 8, 8)),
        (lambda: random_table(NeighbourhoodAttention(8, 2)), (1, 8, 9, 8)),
    ],
    ids=["vit", "glnet", "swin", "shifted", "dat"],
)
@torch.no_grad()
def test_received_attention_is_what_queries_take_of_values(make, shape):
    torch.manual_seed(0)
    module, x = make(), torch.randn(shape)
    height, width = (3, 3) if len(shape) == 3 else shape[1:3]
    mean = received(module, x, None)
    one = received(module, x, (2, 1))
    weights = weights_by_probing(module, x, height, width)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(height * width))
    torch.testing.assert_close(mean.flatten(), weights.mean(dim=0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(one.flatten(), weights[2 * width + 1], rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_vit_attention_equals_the_softmax_of_products():
    torch.manual_seed(0)
    module, x = Attention(8, 2), torch.randn(1, 16, 8)
    q, k, _ = module.qkv(x).view(16, 3, 2, 4).permute(1, 2, 0, 3)
    weights = (q @ k.transpose(1, 2) / 2).softmax(dim=-1).mean(dim=0)  # (queries, keys)
    mean = received(module, x, None)
    torch.testing.assert_close(mean.flatten(), weights.mean(dim=0))
    torch.testing.assert_close(received(module, x, (1, 2)).flatten(), weights[6])
    x = torch.cat([torch.randn(1, 1, 8), x], dim=1)  # a class token before the grid
    q, k, _ = module.qkv(x).view(17, 3, 2, 4).permute(1, 2, 0, 3)
    weights = (q @ k.transpose(1, 2) / 2).softmax(dim=-1).mean(dim=0)
    torch.testing.assert_close(received(module, x, (1, 2)).flatten(), weights[7, 1:])


@pytest.mark.parametrize("backbone", list(BACKBONES))
@torch.no_grad()
def test_recording_changes_nothing_and_leaves_nothing_behind(backbone):
    torch.manual_seed(0)
    net = build_backbone(replace(SPEC, backbone=backbone)).eval()
    images = torch.rand(1, 3, 64, 64)
    wanted = net(images)
    with recording(net, (0.5, 0.5)) as found:
        seen = net(images)
    assert all(map(torch.equal, seen, wanted))
    assert found
    count = len(found)
    net(images)
    assert len(found) == count
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.modules())


def kinds_of(backbone):
    model = model_of(backbone)
    square = np.arange(64 * 64, dtype=np.uint32).reshape(64, 64).astype(np.uint8)
    seen = look(model, square, (0.4, 0.6))
    return seen, {kind: sum(s.kind == kind for s in seen) for kind in {s.kind for s in seen}}


@pytest.mark.parametrize(
    ("backbone", "counts"),
    [
        ("vit", {"attention": 6, "attention-from": 6}),
        ("swin", {"attention": 10, "attention-from": 10}),
        ("acmix_swin", {"attention": 10, "attention-from": 10}),
        # neighbourhood and deformable in turn, the last stage deformable alone
        ("dat", {"attention": 4, "attention-from": 4, "points": 6}),
        # the first two stages and every other block of the third
        ("glnet", {"attention": 4, "attention-from": 4, "slots": 6}),
        ("acmix_resnet", {"attention": 8, "attention-from": 8}),
    ],
)
def test_what_each_family_shows(backbone, counts):
    seen, found = kinds_of(backbone)
    blocks = 6 if backbone == "vit" else len({s.block for s in seen})
    both = {"concepts-gather": blocks, "concepts-return": blocks}
    assert found == counts | both
    for one in seen:
        values = one.values
        if one.kind == "points":
            assert values.min() > 0
            assert values[..., :2].max() < 1
            torch.testing.assert_close(values[..., 2].sum(1), torch.ones(len(values)))
            continue
        sums = {"concepts-gather": (1, 2), "concepts-return": 0, "slots": 0}.get(one.kind, (0, 1))
        total = values.sum(dim=sums)
        if one.kind.startswith("attention") and backbone in ("swin", "acmix_swin", "dat"):
            assert (total <= 1.0001).all()  # tokens of padding receive some
        else:
            torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-4, atol=1e-4)


def test_concept_maps_are_the_two_softmaxes_of_the_alignment():
    model = model_of()
    cat = blocks_of(model.detector.backbone.backbone)[2].stream.interaction.cat
    inputs = []
    cat.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    seen = look(model, np.arange(64 * 64, dtype=np.uint32).reshape(64, 64).astype(np.uint8))
    gather, back = (s.values for s in seen if s.block == 2 and s.kind.startswith("concepts"))
    logits = inputs[0].flatten(1, 2)[0] @ cat.align.weight.detach().T  # (N, K)
    torch.testing.assert_close(gather.flatten(1).T, logits.softmax(dim=0))
    torch.testing.assert_close(back.flatten(1).T, logits.softmax(dim=1))


def test_points_stand_where_the_map_is_sampled():
    model = model_of("dat", pool_layers=0, concepts=0)
    block = blocks_of(model.detector.backbone.backbone)[1]
    nn.init.zeros_(block.attn.offset.weight)
    found = look(model, np.zeros((64, 64), np.uint8))
    points = next(s.values for s in found if s.kind == "points" and s.block == 1)
    # stage 1: map 16 x 16, 2 x 2 points; references (i + .5) * 2 / (2 - 1) - 1 = 0 and 2, the
    # latter clamped to 1: the middle of the map, 7.5, and that of its last cell, 15
    middle, last = (7.5 + 0.5) / 16, 15.5 / 16
    wanted = [[middle, middle], [middle, last], [last, middle], [last, last]]
    torch.testing.assert_close(points[0, :, :2], torch.tensor(wanted))


def test_attention_to_deformable_points_is_that_of_the_softmax():
    module = DeformableAttention(8, 4, 2, kernel=3, stride=4, table=4)
    module.reset_parameters()
    nn.init.normal_(module.table)
    x = torch.randn(1, 8, 8, 8)
    _, weights = received_by_points(module, x, None)
    with torch.no_grad():
        points, q, k, _, bias = module.parts(x)
        logits = q @ k.transpose(-2, -1) / 2**0.5  # 2 channels a head
        logits = logits + bias.flatten(1, 2).flatten(3).transpose(2, 3)  # (1, h, H*W, n)
        wanted = logits.softmax(-1).mean(2)[0].view(2, 2, -1).mean(1)
    assert points.shape == (1, 2, 4, 2)
    torch.testing.assert_close(weights, wanted)


@pytest.mark.parametrize("stride", [1, 2])
def test_attention_of_acmix_reaches_the_mirrored_neighbourhood(stride):
    torch.manual_seed(0)
    module = ACmix(8, heads=4, stride=stride).double()
    x = torch.randn(1, 10, 11, 8).double()
    row, column = 2, 10  # mirrored above and at the right
    seen = received(module, x, (row, column))
    with torch.no_grad():
        q, k, _ = module.qkv(x).unflatten(3, (3, 4, -1))[0].float().unbind(2)  # (H, W, h, d)
        k = k - module.encoding(x)[:, :, None].float()
    rows = [abs(r) for r in range(row - 3, row + 4)]
    columns = [10 - abs(10 - c) for c in range(column - 3, column + 4)]
    keys = k[rows][:, columns].flatten(0, 1)  # (49, h, d)
    weights = torch.einsum("hd,khd->kh", q[row, column] / 2**0.5, keys).softmax(0).mean(1)
    wanted = torch.zeros(10, 11)
    for (r, c), weight in zip(itertools.product(rows, columns), weights, strict=True):
        wanted[r, c] += weight
    torch.testing.assert_close(seen, wanted)


def test_explain_writes_the_same_bytes_every_time(tmp_path, image):
    model = model_of()
    first = explain(model, image, tmp_path / "a", point=(50, 30), blocks=(0, 5))
    second = explain(model, image, tmp_path / "b", point=(50, 30), blocks=(0, 5))
    names = ("attention", "attention-from", "concepts-gather", "concepts-return")
    wanted = {f"{name}-{block}.png" for name in names for block in ("00", "05")}
    assert {path.name for path in first} == wanted | {"explain.json"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == {path.name for path in first}
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    about = json.loads((tmp_path / "a/explain.json").read_text())
    assert about["point"] == [50, 30]
    assert {row["file"] for row in about["pictures"]} == wanted
    with Image.open(tmp_path / "a/attention-00.png") as picture:
        assert picture.size == (448, 336 + 48)  # 96 x 72 enlarged, three lines of text


def test_slots_get_panels_and_regions(tmp_path, image):
    written = explain(model_of("glnet"), image, tmp_path / "out", blocks=(0,))
    assert {"slots-00.png", "slot-regions-00.png"} < {path.name for path in written}


def test_refusals_say_why(tmp_path, image):
    model = model_of()
    with pytest.raises(DescryError, match=r"point \(96, 10\) is outside of the image.* 96x72"):
        explain(model, image, tmp_path / "out", point=(96, 10))
    with pytest.raises(DescryError, match=r"blocks \[6\]: this model has blocks 0 to 5"):
        explain(model, image, tmp_path / "out", blocks=(6,))
    with pytest.raises(DescryError, match="no such file"):
        explain(model, tmp_path / "none.png", tmp_path / "out")
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DescryError, match=r"notes\.txt: neither DICOM nor an image"):
        read_picture(tmp_path / "notes.txt", model.intensity)
    with pytest.raises(DescryError, match="no images"):
        compare(model, model, [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_padding_is_cut_off_and_does_not_set_the_scale():
    square, fit = fit_square(np.full((30, 60), 9, np.uint8), 64)
    assert trim(Image.fromarray(square).resize((128, 128)), fit).size == (128, 64)
    values = np.zeros((4, 4))
    values[1, 3], values[2:] = 5, 100  # rows 2 and 3 are padding
    assert ends(values, fit) == (0, 5)


def test_heat_runs_from_dark_to_bright():
    black = Image.new("RGB", (2, 1))
    low, high = np.asarray(paint.heat(black, np.array([[0.0, 1.0]]), 0, 1))[0]
    # viridis ends at (68, 1, 84) and (253, 231, 37); 60 % of that over black
    np.testing.assert_allclose(low, (41, 1, 50), atol=1)
    np.testing.assert_allclose(high, (152, 139, 22), atol=1)


def test_cka_of_literal_features():
    x = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    y = np.array([[1.0], [-1], [0], [0]])
    turned = x @ np.array([[0.6, -0.8], [0.8, 0.6]]) * 3 + 5
    assert linear_cka(x, turned) == pytest.approx(1, abs=1e-12)
    # X^T X = 2 I (norm sqrt 8), Y^T Y = 2, Y^T X = (2, 0): 4 / (2 sqrt 8)
    assert linear_cka(x, y) == pytest.approx(1 / 2**0.5, abs=1e-12)
    assert linear_cka(x, np.array([[1.0], [1], [-1], [-1]])) == pytest.approx(0, abs=1e-12)
    assert linear_cka(x, np.ones((4, 2))) == 0


def test_principal_colours_follow_the_variance():
    grid = np.zeros((1, 3, 3))
    grid[0, :, 1] = (-10, 0, 10)  # channel 1 varies most, then channel 0
    grid[0, :, 0] = (0, 1, 0)
    (colours,) = principal_colours([grid])
    assert colours[0, :, 0].tolist() == [0, 128, 255]
    assert colours[0, :, 1].tolist() == [0, 255, 0]


def test_compare_sees_equality_and_difference(tmp_path, image):
    baseline = model_of(pool_layers=0, concepts=0)
    other = model_of("swin")
    names = [path.name for path in compare(baseline, other, [image, image], tmp_path / "a")]
    assert names == ["cka.png", "similarity.json", "pca-00.png", "pca-01.png"]
    compare(baseline, other, [image, image], tmp_path / "b")
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    found = json.loads((tmp_path / "a/similarity.json").read_text())["linear_cka"]
    assert np.shape(found["first x second"]) == (6, 10)
    assert np.allclose(np.diag(found["first x first"]), 1)
    values = np.array(found["first x second"])
    assert (values >= 0).all()
    assert (values < 0.99999).any()


def test_an_enhanced_model_at_its_start_sees_as_its_baseline(tmp_path, image):
    baseline = model_of(pool_layers=0, concepts=0)
    enhanced = model_of()
    enhanced.detector.load_state_dict(baseline.detector.state_dict(), strict=False)
    compare(baseline, enhanced, [image], tmp_path / "out")
    found = json.loads((tmp_path / "out/similarity.json").read_text())["linear_cka"]
    assert np.allclose(np.diag(found["first x second"]), 1, atol=1e-5)
