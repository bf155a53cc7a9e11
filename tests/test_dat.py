"""DAT++: counts, deformable attention against naive loops, interactions, tiny and odd sizes."""

import pytest
import torch
from classifier import Classifier
from torch import Tensor, nn

from pipeline.models.backbones.dat import Dat, NeighbourhoodAttention
from pipeline.models.backbones.deformable import DeformableAttention
from pipeline.models.params import DatOptions, InteractionSpec


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("size", "full", "trunk"),
    [
        ("tiny", 23_962_876, 23_450_644),
        ("small", 53_127_366, 52_359_518),
        ("base", 93_690_640, 92_667_176),
    ],
)
def test_published_parameter_counts(size: str, full: int, trunk: int) -> None:
    with torch.device("meta"):
        assert count(Classifier(Dat(size, options=DatOptions(output_norms=False)))) == full
        assert count(Dat(size)) == trunk


def test_parameter_count_without_convolutions() -> None:
    with torch.device("meta"):
        plain = DatOptions(output_norms=False, convolutions=False)
        assert count(Classifier(Dat("tiny", options=plain))) == 22_772_796


def test_closed_forms_of_the_modules() -> None:
    with torch.device("meta"):
        stage1 = Dat("tiny").stages[0]
        assert count(stage1[1].attn) == 46_786  # 4 (C^2 + C) + 81 C + 5 C + 2 * 111^2, C = 64
        assert count(stage1[0].attn) == 16_978  # 4 C^2 + 4 C + 169 * 2
        assert count(stage1[0].mlp) == 35_648  # 8 C^2 + 5 C + 40 C
        assert count(stage1[0].local) == 640  # 10 C


def bilinear(table: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """One sample of (..., H, W) at positions y, x inside it, by the textbook."""
    top, left = int(y.detach().floor()), int(x.detach().floor())
    total = table.new_zeros(table.shape[:-2])
    for i in range(top, min(top + 2, table.shape[-2])):
        for j in range(left, min(left + 2, table.shape[-1])):
            total = total + (1 - (y - i).abs()) * (1 - (x - j).abs()) * table[..., i, j]
    return total


def naive_points(attn: DeformableAttention, q: Tensor) -> Tensor:
    """Points (g, n, 2) of one image's queries (H, W, C), group by group."""
    groups = []
    for part in q.chunk(attn.groups, dim=-1):
        f = attn.offset_conv(part.permute(2, 0, 1)[None])[0].permute(1, 2, 0)
        offset = attn.offset(nn.functional.gelu(attn.offset_norm(f)))
        n, m = offset.shape[:2]
        points = []
        for i in range(n):
            for j in range(m):
                reference = [2 * (i + 0.5) / max(n - 1, 1) - 1, 2 * (j + 0.5) / max(m - 1, 1) - 1]
                points.append((offset[i, j] + offset.new_tensor(reference)).clamp(-1, 1))
        groups.append(torch.stack(points))
    return torch.stack(groups)


def naive_deformable(attn: DeformableAttention, x: Tensor) -> Tensor:
    """One image (H, W, C), query by query, head by head."""
    height, width, c = x.shape
    q = attn.q(x)
    points = naive_points(attn, q)
    sampled = []
    for part, places in zip(x.chunk(attn.groups, dim=-1), points, strict=True):
        at = [(p + 1) / 2 * p.new_tensor([height - 1, width - 1]) for p in places]
        sampled.append(torch.stack([bilinear(part.permute(2, 0, 1), y, z) for y, z in at]))
    joined = torch.cat(sampled, dim=-1)  # (n, C)
    k, v = attn.k(joined), attn.v(joined)
    d, entries = c // attn.heads, attn.table.shape[-1]
    rows = []
    for i in range(height):
        for j in range(width):
            own = x.new_tensor([2 * i / max(height - 1, 1) - 1, 2 * j / max(width - 1, 1) - 1])
            heads = []
            for h in range(attn.heads):
                part = slice(h * d, (h + 1) * d)
                places = points[h * attn.groups // attn.heads]
                at = ((own - places) / 2 + 1) / 2 * (entries - 1)
                bias = torch.stack([bilinear(attn.table[h], y, z) for y, z in at])
                weights = (k[:, part] @ q[i, j, part] / d**0.5 + bias).softmax(0)
                heads.append(weights @ v[:, part])
            rows.append(torch.cat(heads))
    return attn.proj(torch.stack(rows).view(height, width, c))


@pytest.mark.parametrize(("height", "width", "stride"), [(5, 7, 2), (4, 3, 4), (1, 2, 1)])
def test_deformable_attention_equals_a_naive_loop(height: int, width: int, stride: int) -> None:
    torch.manual_seed(4)
    attn = DeformableAttention(8, 4, 2, kernel=2 * (stride // 2) + 3, stride=stride, table=3)
    attn.double()
    attn.reset_parameters()
    with torch.no_grad():
        attn.table.normal_()
        attn.offset.weight.normal_(std=0.3)
    x = torch.randn(2, height, width, 8, dtype=torch.float64, requires_grad=True)
    inputs = [x, *attn.parameters()]
    ours = attn(x)
    theirs = torch.stack([naive_deformable(attn, image) for image in x])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    weights = torch.randn_like(ours)
    mine = torch.autograd.grad((ours * weights).sum(), inputs)
    naive = torch.autograd.grad((theirs * weights).sum(), inputs)
    for a, b in zip(mine, naive, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_reference_points_divide_by_n_minus_one_unless_centred() -> None:
    x = torch.zeros(1, 14, 14, 32)
    plain = DeformableAttention(32, 1, 1, kernel=5, stride=2, table=14, still=True)
    centred = DeformableAttention(32, 1, 1, kernel=5, stride=2, table=14, still=True, centred=True)
    for attn in (plain, centred):
        attn.reset_parameters()
    # 7 points: 2 (i + 0.5) / 6 - 1, the last clamped from 7/6; or 2 (i + 0.5) / 7 - 1
    first = plain.points(x)[0, 0, :7, 1].tolist()
    assert first == pytest.approx([-5 / 6, -0.5, -1 / 6, 1 / 6, 0.5, 5 / 6, 1.0])
    second = centred.points(x)[0, 0, ::7, 0].tolist()
    assert second == pytest.approx([-6 / 7, -4 / 7, -2 / 7, 0, 2 / 7, 4 / 7, 6 / 7])


def test_initialisation_is_the_reference_s() -> None:
    torch.manual_seed(0)
    model = Dat("micro")
    deformable = [m for m in model.modules() if isinstance(m, DeformableAttention)]
    near = [m for m in model.modules() if isinstance(m, NeighbourhoodAttention)]
    assert deformable[0].table.std().item() == pytest.approx(0.01, rel=0.05)
    assert near[0].table.std().item() == pytest.approx(0.02, rel=0.2)
    # torch's default for a linear layer: uniform within fan_in**-0.5
    weight = model.stages[3][0].mlp.fc1.weight
    assert weight.abs().max().item() <= 256**-0.5
    assert weight.std().item() == pytest.approx(256**-0.5 / 3**0.5, rel=0.02)
    assert deformable[0].offset.weight.abs().max() > 0
    still = Dat("micro", options=DatOptions(still_points=True))
    assert all(
        (m.offset.weight == 0).all() for m in still.modules() if isinstance(m, DeformableAttention)
    )


def test_small_maps_let_padding_take_part_in_neighbourhoods() -> None:
    # the reference pads the input with zeros, whose keys and values are the projection's biases
    torch.manual_seed(1)
    attn = NeighbourhoodAttention(32, 1)
    x = torch.randn(1, 3, 9, 32)
    padded = torch.cat([x, torch.zeros(1, 4, 9, 32)], dim=1)
    torch.testing.assert_close(attn(x), attn(padded)[:, :3])


def test_the_offset_network_can_look_past_the_interaction() -> None:
    torch.manual_seed(0)
    spec = InteractionSpec(1, 0, "branch")
    seeing = Dat("micro", interaction=spec).eval()
    plain = Dat("micro", interaction=spec, options=DatOptions(plain_offsets=True)).eval()
    plain.load_state_dict(seeing.state_dict())
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(seeing(images)[2], plain(images)[2], rtol=0, atol=1e-5)
    with torch.no_grad():
        for model in (seeing, plain):
            generator = torch.Generator().manual_seed(1)
            for name, parameter in model.named_parameters():
                if "aggregate.weight" in name:
                    parameter.normal_(std=0.1, generator=generator)
    assert (seeing(images)[2] - plain(images)[2]).abs().max() > 1e-3
