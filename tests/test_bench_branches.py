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


@pytest.mark.parametrize(("name", "columns"), [("own", (0, 4)), ("acp", (4, 8)), ("cat", (8, 12))])
def test_a_part_is_gone_inside_the_block_and_its_share_is_what_it_adds(name, columns):
    torch.manual_seed(0)
    stream = Stream(4, InteractionSpec(pool_layers=1, concepts=2)).eval()
    weight = stream.interaction.aggregate.weight
    torch.nn.init.normal_(weight)
    x, before = torch.randn(2, 3, 3, 4), weight.detach().clone()
    shares = branches.Shares(stream)
    with torch.no_grad():
        whole = stream(x)
        found = shares.result()
        with branches.without([stream], name):
            rest = stream(x)
            changed = (weight != before).any(dim=0).nonzero().flatten().tolist()
            assert changed == list(range(*columns)) and not weight[:, changed].any()
    assert torch.equal(weight, before)
    wanted = (whole - rest).square().sum().sqrt() / x.square().sum().sqrt()
    assert found[name] == pytest.approx(float(wanted), abs=1e-4) and found[name] > 0.1
