"""CoConv in torch: the exact formulations, which one is fastest where, and the gradients by hand.

A level whose dilation shares a factor with the stride reads only every such pixel, so that it is a
smaller convolution of those pixels: at stride 2, dilation 2 becomes 1 and dilation 4 becomes 2.
Libraries have fast gradients for that one, and none for strided dilated convolutions: a training
step of 64 maps of 56x56 at stride 2 takes 1.6 to 2.5 times the plain convolution, not 2.7 to 3.2.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from math import gcd
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ctxbench.kernels._plain import layout

Levels = Sequence[tuple[int, int]]
Pair = tuple[int, int]

# Below as many numbers the calls cost what converting saves, on smaller maps at any batch.
WORTH_CONVERTING = 2**18
_PIXELS = 28 * 28
# Outputs of a level that fill the blocks in which a CPU's convolution computes.
_BLOCK = 16


class _Level(NamedTuple):
    """A run of output channels, and the convolution that computes it from every `step`-th pixel."""

    outputs: slice
    step: Pair
    stride: Pair
    padding: Pair
    dilation: Pair


def converts(x: Tensor, weight: Tensor, levels: Levels, stride: Pair) -> bool:
    """Whether `convert_once` is the fastest formulation; where not, `separate` is.

    On a CPU a convolution brings a map of the default layout into an order of its own, and its
    result back, so levels do that work again and again. With three and more of them it pays off to
    do it once where levels are thin, 0.87 to 0.9 of `separate` forward and 0.7 to 0.86 in training
    (4 and 8 outputs, 32x32), and at stride 2, 0.9 to 1.07 and 0.8 to 0.93 (64 maps of 56x56, 128
    of 28x28). Elsewhere it does not: 0.96 to 1.2 at stride 1 and 16 outputs, up to 1.5 at 8x8.
    """
    widths = [width for width, _ in merge(levels)]
    gains = len(widths) > 2 and (min(widths) < _BLOCK or max(stride) > 1)
    plain = x.dim() == 4 and x.device.type == "cpu" and x.is_contiguous() and weight.is_contiguous()
    large = x.numel() >= WORTH_CONVERTING and x.shape[-2] * x.shape[-1] >= _PIXELS
    return gains and plain and large


def separate(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, levels: Levels, stride: Pair
) -> Tensor:
    """Convolve level by level and concatenate; autograd differentiates it, in any layout."""
    plan = _plan(levels, weight, stride)
    widths = [level.outputs.stop - level.outputs.start for level in plan]
    weights = torch.split(weight, widths)  # at once: one gradient instead of one a level
    biases = [None] * len(plan) if bias is None else torch.split(bias, widths)
    parts = [
        F.conv2d(seen, own, own_bias, level.stride, level.padding, level.dilation)
        for (level, seen), own, own_bias in zip(_read(x, plan), weights, biases, strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-3)


def convert_once(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, levels: Levels, stride: Pair
) -> Tensor:
    """Bring x into channels_last, write every level where it belongs, in the layout of x.

    The copy that would concatenate changes the layout back.
    """
    y = empty_result(x, weight, stride)
    plan = _plan(levels, weight, stride)
    for level, seen in _read(x.contiguous(memory_format=torch.channels_last), plan):
        own = None if bias is None else bias[level.outputs]
        y[:, level.outputs] = F.conv2d(
            seen, weight[level.outputs], own, level.stride, level.padding, level.dilation
        )
    return y


def fill_with_zeros(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, levels: Levels, stride: Pair
) -> Tensor:
    """Spread all kernels to the size of the largest and convolve once.

    It multiplies by zeros: 81 taps for 9 at dilation 4. Never chosen: 0.5 to 0.9 of `separate` at
    8 and 16 channels of 4x4 and 8x8 at batch 32, what an operator of our own costs to call not
    counted, it takes up to 9 times as long elsewhere.
    """
    largest = max(rate for _, rate in levels)
    middle = [largest * (size // 2) for size in weight.shape[2:]]
    spread = weight.new_zeros(*weight.shape[:2], *(2 * size + 1 for size in middle))
    for level in _plan(levels, weight, (1, 1)):
        rows, columns = (
            slice(centre - pad, centre + pad + 1, rate)
            for centre, pad, rate in zip(middle, level.padding, level.dilation, strict=True)
        )
        spread[level.outputs, :, rows, columns] = weight[level.outputs]
    return F.conv2d(x, spread, bias, stride, middle)


# what a benchmark can time one by one
FORMS: dict[str, Callable[..., Tensor]] = {
    "separate": separate,
    "converted once": convert_once,
    "zero-filled": fill_with_zeros,
}


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, levels: Levels, stride: Pair
) -> Tensor:
    """Return what the operator computes where `converts` holds."""
    return convert_once(x, weight, bias, levels=levels, stride=stride)


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    *,
    levels: Levels,
    stride: Pair,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of x, weight and bias, each where it is needed.

    The maps are converted once for all levels. Nothing is summed with atomics: on a CPU the sums
    are the same each time, on a GPU as far as cuDNN's are.
    """
    of_input, of_weight, of_bias = needs
    last = torch.channels_last if x.device.type == "cpu" else layout(x)
    grad_weight = torch.empty_like(weight) if of_weight else None
    parts: dict[Pair, Tensor] = {}  # step -> the gradient of every step-th pixel
    plan = _plan(levels, weight, stride) if of_input or of_weight else []
    for level, seen in _read(x.contiguous(memory_format=last), plan):
        of_seen, of_own, _ = torch.ops.aten.convolution_backward(
            grad[:, level.outputs].contiguous(memory_format=last), seen, weight[level.outputs],
            None, level.stride, level.padding, level.dilation, False, (0, 0), 1,
            (of_input, of_weight, False),
        )  # fmt: skip
        if grad_weight is not None:
            grad_weight[level.outputs] = of_own
        if of_input:
            parts[level.step] = parts[level.step].add_(of_seen) if level.step in parts else of_seen
    return (
        _put_back(parts, x) if of_input else None,
        grad_weight,
        grad.sum((0, 2, 3)) if of_bias else None,
    )


def _put_back(parts: dict[Pair, Tensor], x: Tensor) -> Tensor:
    """Add up the gradients of all pixels and of every step-th, in the layout of x."""
    whole = parts.pop((1, 1), None)
    whole = torch.zeros_like(x, memory_format=layout(x)) if whole is None else whole
    for (down, across), part in parts.items():
        whole[..., ::down, ::across] += part
    return whole.contiguous(memory_format=layout(x))


def empty_result(x: Tensor, weight: Tensor, stride: Pair) -> Tensor:
    """Return an empty map for the result, in the layout of x."""
    places = [(size - 1) // step + 1 for size, step in zip(x.shape[2:], stride, strict=True)]
    shape = (x.shape[0], weight.shape[0], *places)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout(x))


def empty_gradient(x: Tensor) -> Tensor:
    """Return an empty map for the gradient of x, in its layout."""
    return torch.empty_like(x, memory_format=layout(x))


def merge(levels: Levels) -> list[tuple[int, int]]:
    """Stack the weights of neighbours of one dilation: they are one convolution."""
    runs = groupby(levels, key=lambda level: level[1])
    return [(sum(width for width, _ in run), rate) for rate, run in runs]


def _plan(levels: Levels, weight: Tensor, stride: Pair) -> list[_Level]:
    """Return the convolution of every level, on as few pixels as it reads."""
    plan, start = [], 0
    for width, rate in merge(levels):
        tall, wide = (gcd(step, rate) for step in stride)
        dilation = (rate // tall, rate // wide)
        padding = dilation[0] * (weight.shape[2] // 2), dilation[1] * (weight.shape[3] // 2)
        rest = (stride[0] // tall, stride[1] // wide)
        plan.append(_Level(slice(start, start + width), (tall, wide), rest, padding, dilation))
        start += width
    return plan


def _read(x: Tensor, plan: list[_Level]) -> Iterator[tuple[_Level, Tensor]]:
    """Go through the levels with the pixels that each reads; levels of one step share a copy."""
    copies = {(1, 1): x}
    for level in plan:
        if level.step not in copies:
            down, across = level.step
            copies[level.step] = x[..., ::down, ::across].clone(memory_format=torch.preserve_format)
        yield level, copies[level.step]
