"""Depthwise convolution on a CPU: always in a shape and a layout that oneDNN has a fast kernel for.

It has none for a padding of 7 and more, but in channels_last (4 x 56 x 56 x 56, 17x17, one core:
117 ms, there 5); none for gradients through a dilation, and a slow one for those of the weight
(182 ms). The gradient of the input is the convolution with the turned kernel, that of the weight
the convolution of every map with the gradient of its output as kernel (10 ms).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ctxbench.kernels._plain import layout

# from here on, one-sided, the default layout has no fast kernel
_WIDE_PADDING = 7
# from so many taps on, the zeros of a dilated kernel cost less than its dilation: 16 against 6 ms
_MANY_TAPS = 25


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """Return the convolution, in the layout of x."""
    weight = weight.to(x.dtype)
    bias = None if bias is None else bias.to(x.dtype)
    wanted = layout(x)
    if dilation * (weight.shape[-1] // 2) >= _WIDE_PADDING:
        x = x.contiguous(memory_format=torch.channels_last)
        if dilation > 1 and weight[0].numel() >= _MANY_TAPS:
            weight, dilation = _stuffed(weight, dilation), 1
    else:
        x = x.contiguous(memory_format=wanted)
    padding = dilation * (weight.shape[-1] // 2)
    y = F.conv2d(x, weight, bias, 1, padding, dilation, len(weight))
    return y.contiguous(memory_format=wanted)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, dilation: int, needs: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of x, weight and bias, those that are needed."""
    of_x, of_weight, of_bias = needs
    return (
        _of_input(grad, x, weight, dilation) if of_x else None,
        _of_weight(grad, x, weight, dilation) if of_weight else None,
        grad.sum((0, 2, 3), dtype=_exact(x)).to(weight.dtype) if of_bias else None,
    )


def _of_input(grad: Tensor, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    found = forward(grad.to(x.dtype), weight.flip(2, 3), None, dilation)
    return found.contiguous(memory_format=layout(x))


def _of_weight(grad: Tensor, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Correlate each map with the gradient of its output; taps lie `dilation` apart."""
    batch, channels, *sides = x.shape
    size = weight.shape[-1]
    reach = dilation * (size // 2)
    maps = F.pad(x.contiguous(), (reach,) * 4).flatten(0, 1)[None]
    kernels = grad.to(x.dtype).contiguous().reshape(batch * channels, 1, *sides)
    found = F.conv2d(maps, kernels, None, dilation, groups=batch * channels)
    found = found.reshape(batch, channels, 1, size, size)
    return found.sum(0, dtype=_exact(x)).to(weight.dtype)


def _stuffed(weight: Tensor, dilation: int) -> Tensor:
    """Return the kernel with the zeros between its taps written out."""
    side = dilation * (weight.shape[-1] - 1) + 1
    stuffed = weight.new_zeros(len(weight), 1, side, side)
    stuffed[..., ::dilation, ::dilation] = weight
    return stuffed


def _exact(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
