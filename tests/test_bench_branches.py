"""benchmarks/branches.py: which columns of W_o belong to what, and that they come back."""

import branches
import pytest
import torch

from pipeline.models.interaction import InteractionSpec, Stream


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        (InteractionSpec(pool_layers=1, concepts=2), ["own", "acp", "cat"]),
        (InteractionSpec(pool_layers=0, concepts=2), ["own", "cat"]),
        (InteractionSpec(pool_layers=1, concepts=2, copies=True), ["copy 1", "copy 2", "copy 3"]),
    ],
)
def test_parts_are_named_in_the_order_of_their_columns(spec, names):
    assert list(branches.parts(Stream(4, spec).interaction)) == names


def test_a_part_is_gone_inside_the_block_and_its_share_is_what_it_adds():
    torch.manual_seed(0)
    stream = Stream(4, InteractionSpec(pool_layers=1, concepts=2)).eval()
    weight = stream.interaction.aggregate.weight
    torch.nn.init.normal_(weight)
    x, before = torch.randn(2, 3, 3, 4), weight.detach().clone()
    shares = branches.Shares(stream)
    with torch.no_grad():
        whole = stream(x)
        found = shares.result()
        with branches.without([stream], "cat"):
            rest = stream(x)
            assert not weight[:, 8:].any() and torch.equal(weight[:, :8], before[:, :8])
    assert torch.equal(weight, before)
    wanted = (whole - rest).square().sum().sqrt() / x.square().sum().sqrt()
    assert found["cat"] == pytest.approx(float(wanted), abs=1e-4) and found["cat"] > 0.1
