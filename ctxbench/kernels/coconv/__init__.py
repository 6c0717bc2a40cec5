"""CoConv: one convolution whose output channels are split between dilations."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ctxbench.errors import BackendError
from ctxbench.kernels._backend import Backend, Formulation, check_triton, choose
from ctxbench.kernels._plain import autocast_type
from ctxbench.kernels._register import custom_op
from ctxbench.kernels.coconv import _reference, _torch
from ctxbench.kernels.coconv._reference import PaddingMode

__all__ = ["FORMULATIONS", "PaddingMode", "coconv2d", "coconv2d_norm_relu"]

FORMULATIONS: dict[Backend, Formulation] = {
    "reference": Formulation("one convolution a level, concatenated", "everywhere"),
    "torch": Formulation(
        "one convolution a level on the pixels it reads; the input converted once on a CPU",
        "everywhere",
    ),
    "triton": Formulation(
        "one implicit matrix product over all levels",
        "NVIDIA GPUs; float32, bfloat16 and float16; no groups, zero padding",
    ),
}


def coconv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    levels: Sequence[tuple[int, int]],
    stride: tuple[int, int] = (1, 1),
    groups: int = 1,
    padding_mode: PaddingMode = "zeros",
    backend: Backend | None = None,
) -> Tensor:
    """Convolve with "same" padding, each level of output channels with its own dilation.

    `levels` are (width, dilation); the widths sum to the output channels.

    Shape: x (B, C, H, W) or (C, H, W), weight (O, C / groups, kh, kw) of odd sides, bias (O,)
           -> (B, O, ceil(H / stride), ceil(W / stride)).
    Raises: BackendError where the chosen backend cannot compute this.
    """
    chosen = choose(backend)
    if chosen == "triton":
        _check_plain(groups, padding_mode)
    elif chosen == "reference" or groups > 1 or padding_mode != "zeros":
        levels = levels if chosen == "reference" else _torch.merge(levels)
        return _reference.coconv2d(
            x, weight, bias, levels=levels, stride=stride, groups=groups, padding_mode=padding_mode
        )
    elif not _torch.converts(x, weight, levels, stride):
        return _torch.separate(x, weight, bias, levels=levels, stride=stride)
    return _whole(x, weight, bias, None, None, False, levels=levels, stride=stride, chosen=chosen)


def coconv2d_norm_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    scale: Tensor,
    shift: Tensor,
    relu: bool,
    levels: Sequence[tuple[int, int]],
    stride: tuple[int, int] = (1, 1),
    backend: Backend | None = None,
) -> Tensor:
    """Return `coconv2d` times scale plus shift of each output channel, and its ReLU if asked.

    That is batch normalisation of a network in eval mode. Triton does it before it writes the map,
    and has no gradient for it.

    Shape:  as `coconv2d` without groups, scale and shift (O,).
    Raises: BackendError where the chosen backend cannot compute this.
    """
    chosen = choose(backend)
    if chosen == "triton":
        return _whole(
            x, weight, bias, scale, shift, relu, levels=levels, stride=stride, chosen=chosen
        )
    y = coconv2d(x, weight, bias, levels=levels, stride=stride, backend=backend)
    y = y * scale.to(y.dtype)[:, None, None] + shift.to(y.dtype)[:, None, None]
    return y.relu() if relu else y


def _check_plain(groups: int, padding_mode: PaddingMode) -> None:
    for name, value, plain in ("groups", groups, 1), ("padding_mode", padding_mode, "zeros"):
        if value != plain:
            raise BackendError(
                f"coconv: backend='triton' computes {name}={plain!r}; got {name}={value!r}. "
                f"Use backend='torch'."
            )


def _whole(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
    *,
    levels: Sequence[tuple[int, int]],
    stride: tuple[int, int],
    chosen: Backend,
) -> Tensor:
    """Call the operator as a convolution can be called: on one image, in mixed precision."""
    low = autocast_type(x)
    if low is not None:
        x, weight, bias = x.to(low), weight.to(low), None if bias is None else bias.to(low)
    widths, rates = [width for width, _ in levels], [rate for _, rate in levels]
    batch = x if x.dim() == 4 else x[None]
    y: Tensor = _forward(batch, weight, bias, scale, shift, relu, widths, rates, stride, chosen)
    return y if x.dim() == 4 else y[0]


@custom_op("coconv2d")
def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
    widths: Sequence[int],
    dilations: Sequence[int],
    stride: Sequence[int],
    backend: str,
) -> Tensor:
    levels, steps = list(zip(widths, dilations, strict=True)), (stride[0], stride[1])
    with torch.autocast(x.device.type, enabled=False):
        if backend == "torch":
            return _torch.forward(x, weight, bias, levels=levels, stride=steps)
        check_triton("coconv", x, weight, bias, scale, shift)
        from ctxbench.kernels.coconv import _triton

        after = _triton.After(scale, shift, relu)
        return _triton.forward(x, weight, bias, levels=levels, stride=steps, after=after)


@_forward.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
    widths: Sequence[int],
    dilations: Sequence[int],
    stride: Sequence[int],
    backend: str,
) -> Tensor:
    return _torch.empty_result(x, weight, (stride[0], stride[1]))


@custom_op("coconv2d_backward", is_gradient=True)
def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    widths: Sequence[int],
    dilations: Sequence[int],
    stride: Sequence[int],
    needs: Sequence[bool],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    levels, steps = list(zip(widths, dilations, strict=True)), (stride[0], stride[1])
    of_x, of_weight, of_bias = needs
    asked = (of_x, of_weight, of_bias)
    with torch.autocast(x.device.type, enabled=False):
        if backend == "torch":
            a, b, c = _torch.backward(grad, x, weight, levels=levels, stride=steps, needs=asked)
        else:
            from ctxbench.kernels.coconv import _triton

            a, b, c = _triton.backward(grad, x, weight, levels=levels, stride=steps, needs=asked)
    return (
        x.new_empty(0) if a is None else a,
        x.new_empty(0) if b is None else b,
        x.new_empty(0) if c is None else c,
    )


@_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    widths: Sequence[int],
    dilations: Sequence[int],
    stride: Sequence[int],
    needs: Sequence[bool],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    of_x, of_weight, of_bias = needs
    return (
        _torch.empty_gradient(x) if of_x else x.new_empty(0),
        torch.empty_like(weight) if of_weight else x.new_empty(0),
        grad.new_empty(len(weight)) if of_bias else x.new_empty(0),
    )


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, scale, _, relu, *ctx.rest = inputs
    ctx.save_for_backward(x, weight)
    ctx.for_inference = scale is not None or relu


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    if ctx.for_inference:
        raise BackendError(
            "coconv: backend='triton' normalises for inference alone; got a gradient of "
            "coconv2d_norm_relu. Use backend='torch'."
        )
    *numbers, backend = ctx.rest
    needs = list(ctx.needs_input_grad[:3])
    found = _backward(grad, *ctx.saved_tensors, *numbers, needs, backend)
    given = (one if needed else None for one, needed in zip(found, needs, strict=True))
    return *given, *(None for _ in range(7))


_forward.register_autograd(_differentiate, setup_context=_remember)
