"""ACP and CAT against their definition, written out slowly."""

import pytest
import torch
from torch.nn import functional as F

from pipeline.models.interaction import (
    ACP,
    CAT,
    Interaction,
    InteractionSpec,
    Stream,
    interpolation_matrix,
)


@pytest.mark.parametrize(("source", "target"), [(1, 5), (4, 7), (7, 7), (14, 16), (3, 12), (9, 4)])
def test_interpolation_matrix_equals_bilinear(source, target):
    x = torch.randn(1, 1, source, 1, dtype=torch.float64)
    wanted = F.interpolate(x, size=(target, 1), mode="bilinear", align_corners=False)
    got = interpolation_matrix(source, target, x) @ x[0, 0]
    torch.testing.assert_close(got, wanted[0, 0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_acp_equals_its_definition(stride):
    torch.manual_seed(0)
    acp = ACP(6, 3, stride).double()
    with torch.no_grad():
        acp.gates.normal_()
    y = torch.randn(2, 5, 7, 6, dtype=torch.float64)
    f, wanted = y.permute(0, 3, 1, 2), 0
    for conv, norm, gate in zip(acp.convs, acp.norms, acp.gates, strict=True):
        f = F.conv2d(f, conv.weight, padding=1, groups=6)
        f = F.gelu(norm(f.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        f = F.max_pool2d(f, 3, stride, 1)
        up = F.interpolate(f, size=(5, 7), mode="bilinear", align_corners=False)
        wanted = wanted + gate.view(1, 6, 1, 1) * up
    torch.testing.assert_close(acp(y).permute(0, 3, 1, 2), wanted, rtol=1e-6, atol=1e-6)


def test_cat_equals_projecting_every_token_first():
    torch.manual_seed(0)
    cat = CAT(6, 4).double()
    u = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    tokens = u.flatten(1, 2)
    logits = tokens @ cat.align.weight.T
    concepts = logits.softmax(1).transpose(1, 2) @ cat.value(tokens)  # as method of the paper reads
    mixed = cat.mix.weight @ cat.norm(concepts) + cat.mix.bias[:, None]
    wanted = logits.softmax(2) @ (concepts + mixed)
    # logits pass through fp32 in the model, whatever the input's type
    torch.testing.assert_close(cat(u).flatten(1, 2), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layers,concepts", [(2, 0), (0, 4), (2, 4)])
def test_at_the_start_the_interaction_changes_nothing(layers, concepts):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 8)
    for stride in (1, 2):
        spec = InteractionSpec(layers, concepts, pool_stride=stride)
        assert torch.equal(Stream(8, spec)(x), x)
        torch.testing.assert_close(Interaction(8, spec)(x), x, rtol=0, atol=1e-6)


def test_every_parameter_learns_once_the_projection_has_moved():
    torch.manual_seed(0)
    stream = Stream(8, InteractionSpec(2, 4))
    torch.nn.init.normal_(stream.interaction.aggregate.weight)
    stream(torch.randn(2, 4, 6, 8)).square().sum().backward()
    for name, parameter in stream.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_the_control_has_the_aggregations_parameters_and_no_interaction():
    control = Interaction(8, InteractionSpec(2, 4, copies=True))
    assert {name for name, _ in control.named_parameters()} == {
        "aggregate.weight",
        "aggregate.bias",
    }
    assert control.aggregate.weight.shape == (8, 24)
    x = torch.randn(1, 3, 3, 8)
    moved = x.clone()
    moved[0, 0, 0] += 1  # one position only
    torch.nn.init.normal_(control.aggregate.weight)
    assert torch.equal(control(x)[0, 1:], control(moved)[0, 1:])


@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (2, 3)])
def test_pooling_never_shrinks_below_one(grid):
    stream = Stream(4, InteractionSpec(5, 2, pool_stride=2))
    assert stream(torch.randn(1, *grid, 4)).shape == (1, *grid, 4)


def test_wrong_specs_are_refused():
    for wrong in ({"pool_layers": -1}, {"placement": "middle"}, {"pool_stride": 3}):
        with pytest.raises(ValueError):
            InteractionSpec(**wrong)
