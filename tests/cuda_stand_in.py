"""A CUDA device that is not there: shapes, types, devices and operations, but no values.

Tensors of torch's fake mode say that they are on a GPU and go through the dispatcher as such, so
that a table left on the CPU or a type that autocast got wrong raises as it would there. What fake
mode cannot show: values, kernels that CUDA chooses by itself, and all that happens after a kernel
was launched. Attention is decomposed here; of CUDA's kernels for it, strict mode rules cuDNN's out
(aten/native/transformers/cuda/sdp_utils.cpp), and flash and memory-efficient attention have a
deterministic backward pass (attention_backward.cu). Autograd's engine refuses a device that is not
there, so that `backward` does its work.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from pipeline.models.backbones import local_attention, windows
from pipeline.models.detector import Detector
from pipeline.models.heads.retinanet import RetinaNetHead

aten = torch.ops.aten
FOUND = 5  # places that `nonzero` finds where there are no values
# Operations that raise on CUDA in strict mode. Source: the docstring of
# torch.use_deterministic_algorithms, torch 2.15, "will throw a RuntimeError", as aten calls them;
# entries with a file name stand in that file's calls of alertNotDeterministic.
WITHOUT_DETERMINISTIC_FORM = {
    "aten::avg_pool3d_backward",
    "aten::_adaptive_avg_pool2d_backward",
    "aten::_adaptive_avg_pool3d_backward",
    "aten::adaptive_max_pool2d_backward",
    "aten::fractional_max_pool2d_backward",
    "aten::fractional_max_pool3d_backward",
    "aten::max_unpool2d",
    "aten::max_unpool3d",
    "aten::upsample_linear1d_backward",
    "aten::upsample_bilinear2d_backward",
    "aten::upsample_bicubic2d_backward",
    "aten::upsample_trilinear3d_backward",
    "aten::reflection_pad1d_backward",
    "aten::reflection_pad2d_backward",
    "aten::reflection_pad3d_backward",
    "aten::nll_loss2d_forward",
    "aten::nll_loss2d_backward",
    "aten::_ctc_loss_backward",
    "aten::_embedding_bag_dense_backward",
    "aten::put",
    "aten::put_",
    "aten::histc",
    "aten::bincount",
    "aten::kthvalue",  # aten/native/cuda/Sorting.cpp
    "aten::median",
    "aten::nanmedian",
    "aten::grid_sampler_2d_backward",
    "aten::grid_sampler_3d_backward",
    "aten::scatter_reduce",
    "aten::scatter_reduce_",
    "torchvision::_roi_align_backward",  # torchvision: ops/cuda/roi_align_kernel.cu
    "torchvision::_roi_pool_backward",  # torchvision: ops/cuda/roi_pool_kernel.cu
    "torchvision::_ps_roi_align_backward",  # torchvision: ops/cuda/ps_roi_align_kernel.cu
}


class Recorder(TorchDispatchMode):
    """Notes every operation, and every wait of the CPU for the device.

    Attributes
    ----------
    names : set of str
        Operations, "aten::add".
    waits : list of str
        Operations that return after the device has done all that it was told before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket._qualified_op_name
        self.names.add(name)
        if _waits(func, args, kwargs):
            self.waits.append(name)
        if func is aten.nonzero.default and isinstance(args[0], FakeTensor):
            return args[0].new_empty((FOUND, args[0].ndim), dtype=torch.int64)
        return func(*args, **kwargs)

    @property
    def forbidden(self) -> set[str]:
        """What strict mode refuses on CUDA."""
        return self.names & WITHOUT_DETERMINISTIC_FORM


def _waits(func: Any, args: Any, kwargs: Any) -> bool:
    if func is aten.copy_.default:
        blocking = not (args[2] if len(args) > 2 else kwargs.get("non_blocking"))
        return blocking and args[0].device.type != args[1].device.type
    if func is aten._to_copy.default:
        device = kwargs.get("device") or args[0].device
        return not kwargs.get("non_blocking") and device.type != args[0].device.type
    return func in (aten.nonzero.default, aten._local_scalar_dense.default)


@contextmanager
def cuda_stand_in(monkeypatch: Any) -> Iterator[FakeTensorMode]:
    """Fake mode in which autocast takes the device for one that has bf16."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    # one backward pass, so that checkpointing computes a block again once and not for each tensor
    monkeypatch.setattr(torch._C, "_current_graph_task_id", lambda: 0)
    mode, cut = FakeTensorMode(), local_attention._cut

    def cut_with_values(*sizes: Any) -> local_attention.Axis:
        with _disable_current_modes():  # which tiles are alike is asked on the CPU, of values
            tiles, *tables = cut(*sizes)
        return local_attention.Axis(tiles, *(mode.from_tensor(table) for table in tables))

    monkeypatch.setattr(local_attention, "_cut", cut_with_values)
    caches = (local_attention._cut_once, windows._make_mask_once)
    for cache in caches:
        cache.cache_clear()
    try:
        with mode:
            yield mode
    finally:
        for cache in caches:
            cache.cache_clear()


def move(detector: Detector, mode: FakeTensorMode) -> None:
    """Move what `detector.to("cuda")` moves, parameters and buffers, and nothing else.

    Anchors of a cell stay on the CPU: torchvision moves them when it first meets a map.
    """
    for module in detector.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                on_device = mode.from_tensor(parameter).detach().to("cuda")
                module._parameters[name] = nn.Parameter(on_device)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = mode.from_tensor(buffer).to("cuda")
    if isinstance(detector.head, RetinaNetHead):
        anchors = detector.head.generator
        anchors.cell_anchors = [mode.from_tensor(cell) for cell in anchors.cell_anchors]


def backward(total: Tensor) -> None:
    """`total.backward()`, node by node, without streams."""
    given: dict[Any, dict[int, Tensor]] = {total.grad_fn: {0: torch.ones_like(total)}}
    with torch.no_grad():
        for node in _in_order(total.grad_fn):
            gradients = given.pop(node, {})
            run = node.apply if isinstance(node, BackwardCFunction) else node
            found = run(*(gradients.get(i) for i in range(len(node._input_metadata))))
            found = found if isinstance(found, tuple) else (found,)
            for (following, i), gradient in zip(node.next_functions, found, strict=False):
                if following is None or gradient is None:
                    continue
                like = following._input_metadata[i]
                assert gradient.device == like.device, f"{node}: {gradient.device}"
                gradient = gradient.sum_to_size(like.shape).to(like.dtype)
                slots = given.setdefault(following, {})
                slots[i] = slots[i] + gradient if i in slots else gradient


def _in_order(root: Any) -> list[Any]:
    """All nodes of a graph, each after all that lead to it."""
    finished, seen, stack = [], set(), [(root, False)]
    while stack:
        node, left = stack.pop()
        if left:
            finished.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(following, False) for following, _ in node.next_functions if following]
    return finished[::-1]
