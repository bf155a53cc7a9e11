"""Parameters and FLOPs of a detector: counted, not measured, and the same on every machine.

Everything runs on tensors without memory (device "meta"), so that large models at large sizes
take seconds. FLOPs are PyTorch's count (`torch.utils.flop_counter`), grouped convolutions put
right: 2 per multiply-add of matrix products, convolutions and attention. `NOT_COUNTED` says what
that leaves out. Counted is what is computed: DAT++'s neighbourhood attention and ACmix-ResNet's
local attention work in halo tiles, where each query meets all keys of its tile, so that they count
more than the 49 keys that published figures count; windows that overhang a map count whole.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.models.build import build_detector
from pipeline.models.interaction import Interaction, Stream
from pipeline.models.params import DetectorSpec

NOT_COUNTED = (
    "element-wise operations (activations, additions, gates)",
    "norms and softmax",
    "pooling, gathers, sampling of points, padding and copies",
    "anchors, box decoding, non-maximum suppression, the loss and the optimiser",
    "what fused attention kernels compute a second time in the backward pass",
)


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of one detector.

    Attributes
    ----------
    total, backbone, interaction : int
        Parameters of the detector, of its backbone, and of ACP, CAT and their projections in it.
    inference, inference_backbone, training : int
        FLOPs of one image: forward through the detector, through its backbone alone, forward
        and backward through the detector.
    """

    total: int
    backbone: int
    interaction: int
    inference: int
    inference_backbone: int
    training: int


def count(spec: DetectorSpec, image_size: int) -> Counts:
    """Count the parameters of a detector and its FLOPs on one square image.

    Parameters
    ----------
    spec : DetectorSpec
    image_size : int
        Side in pixels.
    """
    with torch.device("meta"):
        detector = build_detector(spec)
        images = torch.zeros(1, 3, image_size, image_size)
    backbone = detector.backbone.backbone

    def forward() -> list[Tensor]:
        levels = detector.backbone(images)
        return list(detector.head(list(levels.values())).values())

    def step() -> None:
        torch.stack([output.sum() for output in forward()]).sum().backward()

    # Frozen rather than under no_grad, where the counter stumbles over weights as arguments.
    detector.eval().requires_grad_(False)
    inference, trunk = flops(forward), flops(lambda: backbone(images))
    detector.train().requires_grad_(True)
    return Counts(
        total=parameters(detector),
        backbone=parameters(backbone),
        interaction=sum(parameters(module) for module in interactions(backbone)),
        inference=inference,
        inference_backbone=trunk,
        training=flops(step),
    )


def flops(run: Callable[[], object]) -> int:
    """FLOPs of whatever PyTorch does during a call.

    Attention is counted as its two matrix products, whichever kernel would serve it.
    """
    ours = {torch.ops.aten.convolution_backward: convolution_backward}
    counter = FlopCounterMode(display=False, custom_mapping=ours)
    with sdpa_kernel(SDPBackend.MATH), counter:
        run()
    return int(counter.get_total_flops())


def convolution_backward(
    grad: Sequence[int],
    x: Sequence[int],
    weight: Sequence[int],
    _bias: object,
    _stride: object,
    _padding: object,
    _dilation: object,
    transposed: bool,
    _output_padding: object,
    _groups: int,
    wanted: Sequence[bool],
    **_: object,
) -> int:
    """FLOPs of a convolution's gradients, from the shapes of its tensors.

    The gradients to the input and to the weight take as many as the forward pass each. PyTorch's
    own formula (2.15) leaves the groups out of the weight's and counts a depthwise convolution
    with C channels C times.
    """
    places = x[2:] if transposed else grad[2:]
    forward = 2 * x[0] * prod(places) * prod(weight)  # the weight is (out, in / groups, k, k)
    return forward * (wanted[0] + wanted[1])


def parameters(module: nn.Module) -> int:
    """Number of a module's parameters; shared ones count once."""
    return sum(parameter.numel() for parameter in module.parameters())


def interactions(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost ACP/CAT modules inside a module, norms of their own included."""
    for child in module.children():
        if isinstance(child, Stream | Interaction):
            yield child
        else:
            yield from interactions(child)
