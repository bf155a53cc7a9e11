"""ACmix's shift-and-sum tap by tap, and comparison with gradients, for the tests of both forms."""

import torch
from torch.nn import functional as F


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_same_with_gradients(ours, naive, leaves):
    torch.testing.assert_close(ours, naive, rtol=0, atol=1e-11)
    weight = noise(*ours.shape, seed=9).to(ours.dtype)
    got = torch.autograd.grad((ours * weight).sum(), leaves)
    wanted = torch.autograd.grad((naive * weight).sum(), leaves)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def naive_shift_and_sum(conv, parts):
    """Pad, shift, multiply and add, tap by tap; output channel (d, h) with d major."""
    b, height, width, _, heads, dim = parts.shape
    maps = parts.flatten(3, 4)  # (B, H, W, 3h, d)
    bias = 0 if conv.mix.bias is None else conv.mix.bias[:, None]
    taps = torch.einsum("ts,bhwsd->bhwtd", conv.mix.weight, maps) + bias
    padded = F.pad(taps, (0, 0, 0, 0, 1, 1, 1, 1))
    out = parts.new_zeros(b, height, width, dim, heads)
    for t in range(9):
        for row in range(3):
            for column in range(3):
                shifted = padded[:, row : row + height, column : column + width, t]
                weight = conv.shift.view(dim, heads, 9, 3, 3)[:, :, t, row, column]
                out = out + shifted[..., None] * weight
    return out.flatten(3)[:, :: conv.stride, :: conv.stride]
