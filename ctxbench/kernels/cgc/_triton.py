"""CGC as Triton kernels: convolutions by matrix products, which make the gated weight as they go.

A program holds a tile of the result, and gates a tile of the weight where a plain convolution would
load it: no gate is ever written. Three kernels: the convolution, the gradient of the map, and that
of the weight of each sample, which is at once spread over the weight and both halves of the logits.

The gradients of the weight and of the halves are summed with atomic additions in float32, so they
differ from run to run by rounding; the result and the gradient of the map do not.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ctxbench.kernels._backend import interprets, launches_there
from ctxbench.kernels.cgc._shape import empty_output

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]

# Positions, channels and outputs of a tile at most: 64 x 64 sums are 32 registers of each of the
# 128 threads, which leaves room for the two tiles that are multiplied. In float32, off the tensor
# cores, those tiles wait in registers too: 256 threads hold them, where 128 spill up to 6 kB each.
_POSITIONS, _CHANNELS = 64, 64
# how many channels, outputs or positions are multiplied at a time
_DEPTH = 32


@triton.jit
def _tile(rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return what a program works at: the item, and the indices of rows and columns of its tile."""
    across = tl.cdiv(columns, COLUMNS)
    tiles = tl.cdiv(rows, ROWS) * across
    item, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    row = tile // across * ROWS + tl.arange(0, ROWS)
    return item, row, tile % across * COLUMNS + tl.arange(0, COLUMNS)


@triton.jit
def _gate(weight, inputs, outputs, c, o, all_outputs, c_valid, o_valid):
    """Return weight and gate of one tap as (C, O) in float32, zero weight outside.

    `weight` (C, all O), `inputs` (C) and `outputs` (O) begin at the sample, the group and the tap.
    """
    valid = c_valid[:, None] & o_valid[None, :]
    weight_CO = tl.load(weight + c[:, None] * all_outputs + o[None, :], mask=valid, other=0.0)
    input_C = tl.load(inputs + c, mask=c_valid, other=0.0).to(tl.float32)
    output_O = tl.load(outputs + o, mask=o_valid, other=0.0).to(tl.float32)
    return weight_CO.to(tl.float32), tl.sigmoid(input_C[:, None] + output_O[None, :])


@triton.jit
def _seen(
    n, tap, height, width, across, positions,
    STRIDE_Y: tl.constexpr, STRIDE_X: tl.constexpr, DILATION_Y: tl.constexpr,
    DILATION_X: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
):  # fmt: skip
    """Return the pixels which a tap reads for some positions, and whether they exist."""
    y = n // across * STRIDE_Y + (tap // KW - KH // 2) * DILATION_Y
    x = n % across * STRIDE_X + (tap % KW - KW // 2) * DILATION_X
    return y, x, (n < positions) & (y >= 0) & (y < height) & (x >= 0) & (x < width)


@triton.jit
def _seeing(
    n, tap, rows, across, width, pixels,
    STRIDE_Y: tl.constexpr, STRIDE_X: tl.constexpr, DILATION_Y: tl.constexpr,
    DILATION_X: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
):  # fmt: skip
    """Return the positions whose tap reads some pixels, and whether they exist."""
    y = n // width - (tap // KW - KH // 2) * DILATION_Y
    x = n % width - (tap % KW - KW // 2) * DILATION_X
    valid = (n < pixels) & (y >= 0) & (x >= 0) & (y % STRIDE_Y == 0) & (x % STRIDE_X == 0)
    y, x = y // STRIDE_Y, x // STRIDE_X
    return y, x, valid & (y < rows) & (x < across)


@triton.jit
def forward_kernel(
    x, x_b, x_c, x_y, x_x, y, y_b, y_c, y_y, y_x, weight, inputs, outputs,
    groups, channels, width_o, height, width, rows, across,
    STRIDE_Y: tl.constexpr, STRIDE_X: tl.constexpr, DILATION_Y: tl.constexpr,
    DILATION_X: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    N: tl.constexpr, C: tl.constexpr, OUT: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Convolve at one tile of positions and outputs of one group of one sample."""
    item, n, o = _tile(rows * across, width_o, N, OUT)
    sample, group = (item // groups).to(tl.int64), item % groups
    x += sample * x_b + group * channels * x_c
    y += sample * y_b + group * width_o * y_c
    weight += group * width_o
    inputs += sample * KH * KW * groups * channels + group * channels
    outputs += sample * KH * KW * groups * width_o + group * width_o
    sums = tl.zeros((N, OUT), dtype=tl.float32)
    for tap in range(KH * KW):
        py, px, valid = _seen(
            n, tap, height, width, across, rows * across,
            STRIDE_Y, STRIDE_X, DILATION_Y, DILATION_X, KH, KW,
        )  # fmt: skip
        for start in range(0, channels, C):
            c = start + tl.arange(0, C)
            place = (py * x_y + px * x_x)[:, None] + c[None, :] * x_c
            x_NC = tl.load(x + place, mask=valid[:, None] & (c < channels)[None, :], other=0.0)
            weight_CO, gate_CO = _gate(
                weight + tap * channels * groups * width_o, inputs + tap * groups * channels,
                outputs + tap * groups * width_o, c, o, groups * width_o,
                c < channels, o < width_o,
            )  # fmt: skip
            gated_CO = (weight_CO * gate_CO).to(DOT)
            sums = tl.dot(x_NC.to(DOT), gated_CO, sums, input_precision="ieee")
    place = (n // across * y_y + n % across * y_x)[:, None] + o[None, :] * y_c
    mask = (n < rows * across)[:, None] & (o < width_o)[None, :]
    tl.store(y + place, sums.to(y.dtype.element_ty), mask=mask)


@triton.jit
def map_kernel(
    grad, y_b, y_c, y_y, y_x, of_x, x_b, x_c, x_y, x_x, weight, inputs, outputs,
    groups, channels, width_o, height, width, rows, across,
    STRIDE_Y: tl.constexpr, STRIDE_X: tl.constexpr, DILATION_Y: tl.constexpr,
    DILATION_X: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    N: tl.constexpr, C: tl.constexpr, OUT: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Make the gradient of the map at one tile of pixels and channels."""
    item, n, c = _tile(height * width, channels, N, C)
    sample, group = (item // groups).to(tl.int64), item % groups
    grad += sample * y_b + group * width_o * y_c
    of_x += sample * x_b + group * channels * x_c
    weight += group * width_o
    inputs += sample * KH * KW * groups * channels + group * channels
    outputs += sample * KH * KW * groups * width_o + group * width_o
    sums = tl.zeros((N, C), dtype=tl.float32)
    for tap in range(KH * KW):
        py, px, valid = _seeing(
            n, tap, rows, across, width, height * width,
            STRIDE_Y, STRIDE_X, DILATION_Y, DILATION_X, KH, KW,
        )  # fmt: skip
        for start in range(0, width_o, OUT):
            o = start + tl.arange(0, OUT)
            place = (py * y_y + px * y_x)[:, None] + o[None, :] * y_c
            mask = valid[:, None] & (o < width_o)[None, :]
            grad_NO = tl.load(grad + place, mask=mask, other=0.0)
            weight_CO, gate_CO = _gate(
                weight + tap * channels * groups * width_o, inputs + tap * groups * channels,
                outputs + tap * groups * width_o, c, o, groups * width_o,
                c < channels, o < width_o,
            )  # fmt: skip
            gated_OC = tl.trans((weight_CO * gate_CO).to(DOT))
            sums = tl.dot(grad_NO.to(DOT), gated_OC, sums, input_precision="ieee")
    place = (n // width * x_y + n % width * x_x)[:, None] + c[None, :] * x_c
    mask = (n < height * width)[:, None] & (c < channels)[None, :]
    tl.store(of_x + place, sums.to(of_x.dtype.element_ty), mask=mask)


@triton.jit
def weight_kernel(
    grad, y_b, y_c, y_y, y_x, x, x_b, x_c, x_y, x_x, weight, inputs, outputs,
    of_weight, of_inputs, of_outputs,
    groups, channels, width_o, height, width, rows, across,
    STRIDE_Y: tl.constexpr, STRIDE_X: tl.constexpr, DILATION_Y: tl.constexpr,
    DILATION_X: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    N: tl.constexpr, C: tl.constexpr, OUT: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Add what one tap, between a tile of channels and one of outputs, gives for one sample."""
    item, c, o = _tile(channels, width_o, C, OUT)
    tap, group = item % (KH * KW), item // (KH * KW) % groups
    sample = (item // (KH * KW) // groups).to(tl.int64)
    grad += sample * y_b + group * width_o * y_c
    x += sample * x_b + group * channels * x_c
    sums = tl.zeros((C, OUT), dtype=tl.float32)
    for start in range(0, rows * across, N):
        n = start + tl.arange(0, N)
        py, px, valid = _seen(
            n, tap, height, width, across, rows * across,
            STRIDE_Y, STRIDE_X, DILATION_Y, DILATION_X, KH, KW,
        )  # fmt: skip
        place = (py * x_y + px * x_x)[None, :] + c[:, None] * x_c
        x_CN = tl.load(x + place, mask=valid[None, :] & (c < channels)[:, None], other=0.0)
        place = (n // across * y_y + n % across * y_x)[:, None] + o[None, :] * y_c
        mask = (n < rows * across)[:, None] & (o < width_o)[None, :]
        grad_NO = tl.load(grad + place, mask=mask, other=0.0)
        sums = tl.dot(x_CN.to(DOT), grad_NO.to(DOT), sums, input_precision="ieee")
    at_weight = tap * channels * groups * width_o + group * width_o
    at_inputs = (sample * KH * KW + tap) * groups * channels + group * channels
    at_outputs = (sample * KH * KW + tap) * groups * width_o + group * width_o
    weight_CO, gate_CO = _gate(
        weight + at_weight, inputs + at_inputs, outputs + at_outputs,
        c, o, groups * width_o, c < channels, o < width_o,
    )  # fmt: skip
    sums *= gate_CO
    place = c[:, None] * (groups * width_o) + o[None, :]
    mask = (c < channels)[:, None] & (o < width_o)[None, :]
    tl.atomic_add(of_weight + at_weight + place, sums, mask=mask)
    sums *= weight_CO * (1 - gate_CO)  # the weight is zero outside of the mask
    tl.atomic_add(of_inputs + at_inputs + c, tl.sum(sums, 1), mask=c < channels)
    tl.atomic_add(of_outputs + at_outputs + o, tl.sum(sums, 0), mask=o < width_o)


class _Parts(NamedTuple):
    """Weight and halves of the logits with what neighbouring threads read side by side.

    Suffixes: T taps, C input channels (c of one group), O output channels, B batch.
    """

    weight_TcO: Tensor
    input_BTC: Tensor
    output_BTO: Tensor


@launches_there
def forward(
    x: Tensor,
    weight: Tensor,
    input_BCT: Tensor,
    output_BOT: Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Return the convolution of each sample with its own gated weight."""
    y = empty_output(x, weight, stride)
    if not y.numel():
        return y
    parts = _parts(weight, input_BCT, output_BOT)
    sizes = _sizes(x, y, weight, groups)
    n, o = _block(y.shape[2] * y.shape[3], _POSITIONS), _block(sizes[2], _CHANNELS)
    tiles = triton.cdiv(y.shape[2] * y.shape[3], n) * triton.cdiv(sizes[2], o)
    forward_kernel[(len(x) * groups * tiles,)](
        x, *x.stride(), y, *y.stride(), *parts, *sizes, *stride, *dilation, *weight.shape[2:],
        N=n, C=_block(sizes[1], _DEPTH), OUT=o, DOT=_dot(x), num_warps=_warps(x),
    )  # fmt: skip
    return y


@launches_there
def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    input_BCT: Tensor,
    output_BOT: Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    needs: Sequence[bool],
) -> Gradients:
    """Return the gradients of x, the weight and both halves of the logits; None if not needed."""
    parts = _parts(weight, input_BCT, output_BOT)
    geometry = (*_sizes(x, grad, weight, groups), *stride, *dilation, *weight.shape[2:])
    of_x = _of_map(grad, x, parts, geometry) if needs[0] else None
    if not any(needs[1:]):
        return of_x, None, None, None
    of_weight, of_input, of_output = _of_weight(grad, x, parts, geometry)
    return (
        of_x,
        _like(weight, of_weight.permute(2, 1, 0)) if needs[1] else None,
        _like(input_BCT, of_input.transpose(1, 2)) if needs[2] else None,
        _like(output_BOT, of_output.transpose(1, 2)) if needs[3] else None,
    )


def _of_map(grad: Tensor, x: Tensor, parts: _Parts, geometry: tuple[int, ...]) -> Tensor:
    groups, channels, outputs = geometry[:3]
    of_x = torch.empty_like(x)
    pixels = x.shape[2] * x.shape[3]
    n, c = _block(pixels, _POSITIONS), _block(channels, _CHANNELS)
    tiles = triton.cdiv(pixels, n) * triton.cdiv(channels, c)
    if of_x.numel():
        map_kernel[(len(x) * groups * tiles,)](
            grad, *grad.stride(), of_x, *of_x.stride(), *parts, *geometry,
            N=n, C=c, OUT=_block(outputs, _DEPTH), DOT=_dot(x), num_warps=_warps(x),
        )  # fmt: skip
    return of_x


def _of_weight(grad: Tensor, x: Tensor, parts: _Parts, geometry: tuple[int, ...]) -> _Parts:
    groups, channels, outputs = geometry[:3]
    sums = _Parts(*(torch.zeros_like(part, dtype=torch.float32) for part in parts))
    c, o = _block(channels, _CHANNELS), _block(outputs, _CHANNELS)
    tiles = triton.cdiv(channels, c) * triton.cdiv(outputs, o)
    if x.numel():
        weight_kernel[(len(x) * groups * len(parts.weight_TcO) * tiles,)](
            grad, *grad.stride(), x, *x.stride(), *parts, *sums, *geometry,
            N=_block(grad.shape[2] * grad.shape[3], _DEPTH), C=c, OUT=o, DOT=_dot(x),
        )  # fmt: skip
    return sums


def _parts(weight: Tensor, input_BCT: Tensor, output_BOT: Tensor) -> _Parts:
    return _Parts(
        weight.flatten(2).permute(2, 1, 0).contiguous(),
        input_BCT.transpose(1, 2).contiguous(),
        output_BOT.transpose(1, 2).contiguous(),
    )


def _sizes(x: Tensor, y: Tensor, weight: Tensor, groups: int) -> tuple[int, ...]:
    """Return groups, channels and outputs of one, and the sizes of both maps."""
    return groups, weight.shape[1], len(weight) // groups, *x.shape[2:], *y.shape[2:]


def _block(size: int, most: int) -> int:
    """Return the power of 2 that covers a size, as far as matrix products allow it."""
    return int(max(16, min(most, triton.next_power_of_2(size))))


def _dot(x: Tensor) -> tl.dtype:
    """Return the type to multiply in; the interpreter multiplies bfloat16 wrongly."""
    types = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
    return tl.float32 if interprets() else types.get(x.dtype, tl.float32)


def _warps(x: Tensor) -> int:
    """Return the warps of a program that gates a tile of the weight each time it multiplies."""
    return 8 if x.element_size() == 4 else 4


def _like(tensor: Tensor, values: Tensor) -> Tensor:
    return torch.empty_like(tensor).copy_(values.reshape(tensor.shape))
