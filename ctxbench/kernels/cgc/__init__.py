"""Context-gated convolution: each sample multiplies the weight by gates of its own."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ctxbench.kernels._backend import Backend, Formulation, check_triton, choose
from ctxbench.kernels._plain import autocast_type
from ctxbench.kernels._register import custom_op
from ctxbench.kernels.cgc import _reference, _torch
from ctxbench.kernels.cgc._reference import make_gates
from ctxbench.kernels.cgc._shape import empty_output

__all__ = ["FORMULATIONS", "gated_conv2d", "make_gates"]

FORMULATIONS: dict[Backend, Formulation] = {
    "reference": Formulation("all gated weights, then a group a sample", "everywhere"),
    "torch": Formulation(
        "gated weights of a few samples at a time; backward makes them again", "everywhere"
    ),
    "triton": Formulation(
        "gates made inside of the convolution", "NVIDIA GPUs; float32, bfloat16 and float16"
    ),
}


def gated_conv2d(
    x: Tensor,
    weight: Tensor,
    input_BCT: Tensor,
    output_BOT: Tensor,
    *,
    stride: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    backend: Backend | None = None,
) -> Tensor:
    """Convolve sample b with weight[o, c] * sigmoid(input[b, c] + output[b, o]), tap by tap.

    Shape:  x (B, C, H, W), weight (O, C / groups, kh, kw) of odd sides, T = kh * kw taps
            -> (B, O, ceil(H / stride), ceil(W / stride)), with "same" padding, in the type of x.
            Gates and sums are float32 at least.
    Raises: BackendError where the chosen backend cannot compute this.
    """
    chosen = choose(backend)
    if chosen == "reference" or (chosen == "torch" and _torch.is_plain(x, weight)):
        return _reference.gated_conv2d(
            x, weight, input_BCT, output_BOT, stride=stride, dilation=dilation, groups=groups
        )
    x = x.to(autocast_type(x) or x.dtype)
    y: Tensor = _forward(x, weight, input_BCT, output_BOT, stride, dilation, groups, chosen)
    return y


@custom_op("gated_conv2d")
def _forward(
    x: Tensor,
    weight: Tensor,
    input: Tensor,
    output: Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    backend: str,
) -> Tensor:
    tensors = (x, weight, input, output)
    module = _module(backend, *tensors)
    with torch.autocast(x.device.type, enabled=False):
        y: Tensor = module.forward(*tensors, stride, dilation, groups)
    return y


@_forward.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    input: Tensor,
    output: Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    backend: str,
) -> Tensor:
    return empty_output(x, weight, stride)


@custom_op("gated_conv2d_backward", is_gradient=True)
def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    input: Tensor,
    output: Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    needs: Sequence[bool],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tensors = (x, weight, input, output)
    module = _module(backend, *tensors)
    with torch.autocast(x.device.type, enabled=False):
        found = module.backward(grad, *tensors, stride, dilation, groups, needs)
    first, second, third, fourth = (
        tensor.new_empty(0) if each is None else each
        for tensor, each in zip(tensors, found, strict=True)
    )
    return first, second, third, fourth


@_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    input: Tensor,
    output: Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    needs: Sequence[bool],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    first, second, third, fourth = (
        torch.empty_like(tensor) if need else tensor.new_empty(0)
        for tensor, need in zip((x, weight, input, output), needs, strict=True)
    )
    return first, second, third, fourth


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.stride, ctx.dilation, ctx.groups, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs = list(ctx.needs_input_grad[:4])
    found = _backward(
        grad, *ctx.saved_tensors, ctx.stride, ctx.dilation, ctx.groups, needs, ctx.backend
    )
    gradients = (each if need else None for each, need in zip(found, needs, strict=True))
    return *gradients, None, None, None, None


_forward.register_autograd(_autograd, setup_context=_setup_context)


def _module(backend: str, *tensors: Tensor) -> ModuleType:
    """Return what computes, after asking whether it can."""
    if backend == "torch":
        return _torch
    check_triton("cgc", *tensors)
    from ctxbench.kernels.cgc import _triton

    return _triton
