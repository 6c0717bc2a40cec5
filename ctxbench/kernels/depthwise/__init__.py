"""Large depthwise convolutions: each channel has one kernel, perhaps dilated, for itself."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ctxbench.kernels._backend import Backend, Formulation, check_triton, choose
from ctxbench.kernels._plain import autocast_type, layout
from ctxbench.kernels._register import custom_op
from ctxbench.kernels.depthwise import _torch

__all__ = ["FORMULATIONS", "depthwise_conv2d"]

_HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]

FORMULATIONS: dict[Backend, Formulation] = {
    "reference": Formulation("the plain convolution", "everywhere"),
    "torch": Formulation(
        "the layout that oneDNN is fast in; gradients as convolutions",
        "CPUs in float32 and bfloat16; elsewhere as reference",
    ),
    "triton": Formulation("the plain convolution, by cuDNN", "NVIDIA GPUs"),
}


def depthwise_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    dilation: int = 1,
    backend: Backend | None = None,
) -> Tensor:
    """Convolve every channel with its own kernel, with "same" padding and stride 1.

    Shape:  x (B, C, H, W), weight (C, 1, k, k) of an odd side, bias (C,) -> (B, C, H, W).
    Raises: BackendError where the chosen backend cannot compute this.
    """
    chosen = choose(backend)
    if chosen == "torch" and x.device.type == "cpu":
        cast = x.to(autocast_type(x) or x.dtype)
        if _is_faster(cast):
            y: Tensor = _forward(cast, weight, bias, dilation)
            return y
    if chosen == "triton":
        check_triton("depthwise_conv2d", x, weight)
    padding = dilation * (weight.shape[-1] // 2)
    return F.conv2d(x, weight, bias, 1, padding, dilation, len(weight))


def _is_faster(x: Tensor) -> bool:
    """Whether oneDNN computes this map, which is on the CPU."""
    known = x.dtype in (torch.float32, torch.bfloat16)
    return known and x.ndim == 4 and x.numel() > 0 and _HAS_ONEDNN


@custom_op("depthwise_conv2d")
def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return _torch.forward(x, weight, bias, dilation)


@_forward.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    return torch.empty_like(x, memory_format=layout(x))


@custom_op("depthwise_conv2d_backward", is_gradient=True)
def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, dilation: int, needs: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast("cpu", enabled=False):
        found = _torch.backward(grad, x, weight, dilation, needs)
    of_x, of_weight, of_bias = (weight.new_empty(0) if each is None else each for each in found)
    return of_x, of_weight, of_bias


@_backward.register_fake
def _(
    grad: Tensor, x: Tensor, weight: Tensor, dilation: int, needs: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    none = weight.new_empty(0)
    return (
        torch.empty_like(x, memory_format=layout(x)) if needs[0] else none,
        torch.empty_like(weight, memory_format=torch.contiguous_format) if needs[1] else none,
        weight.new_empty(len(weight)) if needs[2] else none,
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, ctx.dilation = inputs
    ctx.save_for_backward(x, weight)


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs = list(ctx.needs_input_grad[:3])
    found = _backward(grad, *ctx.saved_tensors, ctx.dilation, needs)
    return *(each if need else None for each, need in zip(found, needs, strict=True)), None


_forward.register_autograd(_autograd, setup_context=_setup_context)
