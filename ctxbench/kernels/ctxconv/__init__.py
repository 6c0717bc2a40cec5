"""Contextual convolution: taps are displaced and weighted, and each sample changes the kernels."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ctxbench.kernels._backend import Backend, Formulation, check_triton, choose
from ctxbench.kernels._plain import autocast_type
from ctxbench.kernels._register import custom_op
from ctxbench.kernels.ctxconv import _reference, _torch
from ctxbench.kernels.ctxconv._reference import Window

__all__ = ["FORMULATIONS", "Window", "contextual_conv2d"]

FORMULATIONS: dict[Backend, Formulation] = {
    "reference": Formulation("weighted lookups, then products", "everywhere"),
    "torch": Formulation(
        "some taps at a time: weighted lookups, products; backward reads again", "everywhere"
    ),
    "triton": Formulation(
        "gathers a tile of places and multiplies it; one kernel a direction and kind",
        "NVIDIA GPUs; float32, bfloat16 and float16",
    ),
}


def contextual_conv2d(
    x: Tensor,
    weight: Tensor,
    change_BCT: Tensor | None,
    offset: Tensor | None,
    mask: Tensor | None,
    *,
    window: Window,
    groups: int,
    backend: Backend | None = None,
) -> Tensor:
    """Convolve x where `offset` says, with the kernels that `change` makes of the weight.

    `offset` (B, 2 * T, Y, X) holds (dy, dx) of each of the T = k * k taps in pixels, `mask`
    (B, T, Y, X) its factor; neither: the taps stay where they are. `change` (B, C, T) is added to
    the kernels: of a dense convolution (groups = 1) to those of every output channel, of a
    depthwise one (groups = C = O) to the kernel of its own channel.
    Between pixels a map is bilinear, beyond its border zero. Where a tap stands exactly on a pixel
    the gradient of its offset is that towards the next one, as in torchvision's deform_conv2d.

    Shape:  x (B, C, H, W), weight (O, C / groups, k, k) -> (B, O, Y, X), in the type of the offset,
            or of x without one. Places and sums are float32 at least.
    Raises: BackendError where the chosen backend cannot compute this; ValueError for a mask of taps
            that stay where they are.
    """
    if mask is not None and offset is None:
        raise ValueError(
            f"A mask needs displaced taps; got a mask of {tuple(mask.shape)} and offset=None. "
            "Pass zeros as the offset."
        )
    chosen = choose(backend)
    # the kernels of one sample in place are one plain convolution; ours took 1.1 to 1.4 of its time
    alone = chosen == "torch" and offset is None and len(x) == 1
    if chosen == "reference" or alone:
        return _reference.contextual_conv2d(
            x, weight, change_BCT, offset, mask, window=window, groups=groups
        )
    if offset is None:
        x = x.to(autocast_type(x) or x.dtype)
    y: Tensor = _forward(x, weight, change_BCT, offset, mask, *window, groups, chosen)
    return y


@custom_op("contextual_conv2d")
def _forward(
    x: Tensor,
    weight: Tensor,
    change: Tensor | None,
    offset: Tensor | None,
    mask: Tensor | None,
    kernel_size: int,
    stride: int,
    dilation: int,
    groups: int,
    backend: str,
) -> Tensor:
    tensors = (x, weight, change, offset, mask)
    module = _module(backend, *tensors)
    with torch.autocast(x.device.type, enabled=False):
        y: Tensor = module.forward(*tensors, Window(kernel_size, stride, dilation), groups)
    return y


@_forward.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    change: Tensor | None,
    offset: Tensor | None,
    mask: Tensor | None,
    kernel_size: int,
    stride: int,
    dilation: int,
    groups: int,
    backend: str,
) -> Tensor:
    if offset is not None:
        return offset.new_empty(x.shape[0], weight.shape[0], *offset.shape[2:])
    return x.new_empty(
        x.shape[0], weight.shape[0], *((size - 1) // stride + 1 for size in x.shape[2:])
    )


@custom_op("contextual_conv2d_backward", is_gradient=True)
def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    change: Tensor | None,
    offset: Tensor | None,
    mask: Tensor | None,
    kernel_size: int,
    stride: int,
    dilation: int,
    groups: int,
    needs: Sequence[bool],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    tensors = (x, weight, change, offset, mask)
    module = _module(backend, *tensors)
    with torch.autocast(x.device.type, enabled=False):
        found = module.backward(
            grad, *tensors, Window(kernel_size, stride, dilation), groups, needs
        )
    a, b, c, d, e = (x.new_empty(0) if gradient is None else gradient for gradient in found)
    return a, b, c, d, e


@_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    change: Tensor | None,
    offset: Tensor | None,
    mask: Tensor | None,
    kernel_size: int,
    stride: int,
    dilation: int,
    groups: int,
    needs: Sequence[bool],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    a, b, c, d, e = (
        x.new_empty(0) if tensor is None or not needed else tensor.new_empty(tensor.shape)
        for tensor, needed in zip((x, weight, change, offset, mask), needs, strict=True)
    )
    return a, b, c, d, e


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tensors, ctx.rest = inputs[:5], inputs[5:]
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    *numbers, backend = ctx.rest
    needs = list(ctx.needs_input_grad[:5])
    found = _backward(grad, *ctx.saved_tensors, *numbers, needs, backend)
    return *(one if needed else None for one, needed in zip(found, needs, strict=True)), *(
        None for _ in ctx.rest
    )


_forward.register_autograd(_differentiate, setup_context=_remember)


def _module(backend: str, *tensors: Tensor | None) -> ModuleType:
    if backend == "torch":
        return _torch
    check_triton("ctxconv", *tensors)
    from ctxbench.kernels.ctxconv import _triton

    return _triton
