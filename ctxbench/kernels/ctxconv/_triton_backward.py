"""The gradients of the contextual convolution in Triton.

All that the forward pass found out is found out again; nothing is stored for it.

- x: the gradient of what a tap reads is added to the four pixels that it reads, by atomic additions
  in float32, in no order: the last bits differ from run to run. Cast to the type of x at the end.
- offset, mask: every number is written by one program.
- weight, change: programs write partial sums in float32, of which torch makes the sum. They depend
  on the shapes alone, as do offset and mask: those four are deterministic.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ctxbench.kernels._backend import launches_there
from ctxbench.kernels.ctxconv._reference import Window
from ctxbench.kernels.ctxconv._triton_places import (
    arguments,
    at_pixel,
    between,
    block,
    corners,
    dense_kernel,
    depthwise_kernel,
    locate,
    product_type,
    read,
    rows,
    wide,
)

# programs that keep a GPU busy while they sum the gradient of a dense weight; every further one
# is a block more of partial sums
_PROGRAMS = 256


@launches_there
def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    change_BCT: Tensor | None,
    offset: Tensor | None,
    mask: Tensor | None,
    window: Window,
    groups: int,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, weight, change, offset and mask, each where it is needed."""
    shared = arguments(x, weight, change_BCT, offset, mask, window)
    x_grad = torch.zeros_like(shared[0], dtype=torch.float32) if needs[0] else None
    offset_grad = offset.new_empty(offset.shape) if offset is not None and needs[3] else None
    mask_grad = mask.new_empty(mask.shape) if mask is not None and needs[4] else None
    inputs, kernels = (x_grad, offset_grad, mask_grad), needs[1] or needs[2]
    through = _through_dense if groups == 1 else _through_depthwise
    weight_grad, change_grad = through(shared, rows(grad), weight, inputs, kernels)
    return (
        None if x_grad is None else _maps(x_grad, x),
        weight_grad.to(weight.dtype) if needs[1] else None,
        change_grad.to(change_BCT.dtype) if change_BCT is not None and needs[2] else None,
        offset_grad,
        mask_grad,
    )


def _maps(x_grad: Tensor, x: Tensor) -> Tensor:
    """Return rows of channels as maps (B, C, H, W) of the type of x."""
    maps = x_grad.reshape(len(x), *x.shape[2:], x.shape[1]).permute(0, 3, 1, 2)
    return maps.to(x.dtype, memory_format=torch.contiguous_format)


def _through_depthwise(
    shared: tuple[Any, ...],
    grad_BNC: Tensor,
    weight: Tensor,
    inputs: tuple[Tensor | None, ...],
    kernels: bool,
) -> tuple[Tensor, Tensor]:
    """Fill the gradients of the inputs; return those of weight and change, if wanted."""
    batch, positions, channels = grad_BNC.shape
    taps = weight[0].numel()
    tile = block(64, positions)
    tiles = triton.cdiv(positions, tile)
    parts = grad_BNC.new_empty(batch, tiles if kernels else 0, taps, channels, dtype=torch.float32)
    _depthwise[batch * tiles, taps](
        *shared, grad_BNC, *inputs, parts if kernels else None, tile, block(32, channels),
        num_warps=8,
    )  # fmt: skip
    change_grad = parts.sum(1).transpose(1, 2).contiguous()
    return change_grad.sum(0).reshape(weight.shape), change_grad


def _through_dense(
    shared: tuple[Any, ...],
    grad_BNO: Tensor,
    weight: Tensor,
    inputs: tuple[Tensor | None, ...],
    kernels: bool,
) -> tuple[Tensor, Tensor]:
    """Fill the gradients of the inputs; return those of weight and change, if wanted."""
    batch, positions, outputs = grad_BNO.shape
    taps, product = weight[0, 0].numel(), product_type(grad_BNO)
    if any(gradient is not None for gradient in inputs):
        across = block(32 // wide(grad_BNO), weight.shape[1])
        sizes = block(64, positions), across, block(64, outputs)
        grid = (batch * triton.cdiv(positions, sizes[0]), taps)
        _dense_inputs[grid](*shared, grad_BNO, *inputs, outputs, product, *sizes, num_warps=8)
    if not kernels:
        return weight, weight
    return _dense_sums(shared, grad_BNO, weight, product)


def _dense_sums(
    shared: tuple[Any, ...], grad_BNO: Tensor, weight: Tensor, product: tl.dtype
) -> tuple[Tensor, Tensor]:
    """Return the gradients of weight and change."""
    batch, positions, outputs = grad_BNO.shape
    channels, taps = weight.shape[1], weight[0, 0].numel()
    room = wide(grad_BNO)
    sizes = block(32 // room, positions), block(64, channels), block(64 // room, outputs)
    tiles, across, up = map(triton.cdiv, (positions, channels, outputs), sizes)
    # what is summed is dealt out to programs: samples, or parts of them where samples are few
    splits = triton.cdiv(_PROGRAMS, taps * across * up)
    parts = min(tiles, triton.cdiv(splits, max(batch, 1)))
    units = batch * parts
    splits = min(splits, units)
    weight_parts = grad_BNO.new_empty(splits, taps, channels, outputs, dtype=torch.float32)
    change_parts = weight_parts.new_empty(up, batch, parts, taps, channels)
    _dense_kernels[taps * across * up, splits](
        *shared, grad_BNO, weight_parts, change_parts, outputs,
        units, parts, triton.cdiv(tiles, parts) * sizes[0], splits, product, *sizes,
    )  # fmt: skip
    weight_grad = weight_parts.sum(0).permute(2, 1, 0).contiguous().reshape(weight.shape)
    return weight_grad, change_parts.sum((0, 2)).transpose(1, 2).contiguous()


@triton.jit
def _dense_inputs(
    x: tl.tensor,
    weight: tl.tensor,
    change: tl.tensor,
    offset: tl.tensor,
    mask: tl.tensor,
    offset_b: int,
    offset_t: int,
    offset_n: int,
    mask_b: int,
    mask_t: int,
    mask_n: int,
    channels: int,
    positions: int,
    height: int,
    width: int,
    out_width: int,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    MOVED: tl.constexpr,
    grad: tl.tensor,
    x_grad: tl.tensor,
    offset_grad: tl.tensor,
    mask_grad: tl.tensor,
    outputs: int,
    PRODUCT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
) -> None:
    tiles, tap = tl.cdiv(positions, BLOCK_N), tl.program_id(1)
    sample = (tl.program_id(0) // tiles).to(tl.int64)
    x += sample * height * width * channels
    change += sample * KERNEL * KERNEL * channels
    offset, mask = offset + sample * offset_b, mask + sample * mask_b
    grad += sample * positions * outputs
    if x_grad is not None:
        x_grad += sample * height * width * channels
    n = tl.program_id(0) % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    place = locate(
        offset, mask, offset_t, offset_n, mask_t, mask_n, positions, height, width, out_width,
        KERNEL, STRIDE, DILATION, MOVED, tap, n,
    )  # fmt: skip
    row = sample * KERNEL * KERNEL + tap
    by_mask = tl.zeros((BLOCK_N,), tl.float32)
    by_dy = tl.zeros((BLOCK_N,), tl.float32)
    by_dx = tl.zeros((BLOCK_N,), tl.float32)
    for start in range(0, channels, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        received = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
        for first in range(0, outputs, BLOCK_O):
            o = first + tl.arange(0, BLOCK_O)
            kernel = dense_kernel(weight, change, channels, outputs, tap, c, o).to(PRODUCT)
            above = at_pixel(grad, n, n < positions, o, outputs).to(PRODUCT)
            received = tl.dot(above, tl.trans(kernel), received, input_precision="ieee")
        part_mask, part_dy, part_dx = _respond(x, place, received, c, channels, width)
        by_mask += part_mask
        by_dy += part_dy
        by_dx += part_dx
        if x_grad is not None:
            _scatter(x_grad, place, received, c, channels, width)
    _store(offset_grad, mask_grad, row, n, positions, by_mask, by_dy, by_dx)


@triton.jit
def _dense_kernels(
    x: tl.tensor,
    weight: tl.tensor,
    change: tl.tensor,
    offset: tl.tensor,
    mask: tl.tensor,
    offset_b: int,
    offset_t: int,
    offset_n: int,
    mask_b: int,
    mask_t: int,
    mask_n: int,
    channels: int,
    positions: int,
    height: int,
    width: int,
    out_width: int,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    MOVED: tl.constexpr,
    grad: tl.tensor,
    weight_parts: tl.tensor,
    change_parts: tl.tensor,
    outputs: int,
    units: int,
    parts: int,
    span: int,
    splits: int,
    PRODUCT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
) -> None:
    taps: tl.constexpr = KERNEL * KERNEL
    across = tl.cdiv(channels, BLOCK_C)
    tap, c_block = tl.program_id(0) % taps, tl.program_id(0) // taps % across
    o_block, split = tl.program_id(0) // taps // across, tl.program_id(1)
    c = c_block * BLOCK_C + tl.arange(0, BLOCK_C)
    o = o_block * BLOCK_O + tl.arange(0, BLOCK_O)
    total = tl.zeros((BLOCK_C, BLOCK_O), tl.float32)
    for unit in range(split, units, splits):
        sample = tl.full((), unit // parts, tl.int64)
        own_x = x + sample * height * width * channels
        own_offset, own_mask = offset + sample * offset_b, mask + sample * mask_b
        own_grad = grad + sample * positions * outputs
        own = tl.zeros((BLOCK_C, BLOCK_O), tl.float32)
        for start in range(0, span, BLOCK_N):
            n = unit % parts * span + start + tl.arange(0, BLOCK_N)
            place = locate(
                own_offset, own_mask, offset_t, offset_n, mask_t, mask_n, positions, height, width,
                out_width, KERNEL, STRIDE, DILATION, MOVED, tap, n,
            )  # fmt: skip
            samples = read(own_x, place, c, channels, width).to(PRODUCT)
            above = at_pixel(own_grad, n, n < positions, o, outputs).to(PRODUCT)
            own = tl.dot(tl.trans(samples), above, own, input_precision="ieee")
        row = tl.full((), o_block * units + unit, tl.int64) * taps + tap
        tl.store(change_parts + row * channels + c, tl.sum(own, 1), mask=c < channels)
        total += own
    to = weight_parts + ((split * taps + tap) * channels + c)[:, None] * outputs + o[None, :]
    tl.store(to, total, mask=(c < channels)[:, None] & (o < outputs)[None, :])


@triton.jit
def _depthwise(
    x: tl.tensor,
    weight: tl.tensor,
    change: tl.tensor,
    offset: tl.tensor,
    mask: tl.tensor,
    offset_b: int,
    offset_t: int,
    offset_n: int,
    mask_b: int,
    mask_t: int,
    mask_n: int,
    channels: int,
    positions: int,
    height: int,
    width: int,
    out_width: int,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    MOVED: tl.constexpr,
    grad: tl.tensor,
    x_grad: tl.tensor,
    offset_grad: tl.tensor,
    mask_grad: tl.tensor,
    kernel_parts: tl.tensor,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    tiles, tap = tl.cdiv(positions, BLOCK_N), tl.program_id(1)
    sample = (tl.program_id(0) // tiles).to(tl.int64)
    x += sample * height * width * channels
    change += sample * KERNEL * KERNEL * channels
    offset, mask = offset + sample * offset_b, mask + sample * mask_b
    grad += sample * positions * channels
    if x_grad is not None:
        x_grad += sample * height * width * channels
    n = tl.program_id(0) % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    part = (tl.program_id(0).to(tl.int64) * KERNEL * KERNEL + tap) * channels
    place = locate(
        offset, mask, offset_t, offset_n, mask_t, mask_n, positions, height, width, out_width,
        KERNEL, STRIDE, DILATION, MOVED, tap, n,
    )  # fmt: skip
    row = sample * KERNEL * KERNEL + tap
    by_mask = tl.zeros((BLOCK_N,), tl.float32)
    by_dy = tl.zeros((BLOCK_N,), tl.float32)
    by_dx = tl.zeros((BLOCK_N,), tl.float32)
    for start in range(0, channels, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        above = at_pixel(grad, n, n < positions, c, channels)
        if kernel_parts is not None:
            by_kernel = tl.sum(above * read(x, place, c, channels, width), 0)
            tl.store(kernel_parts + part + c, by_kernel, mask=c < channels)
        received = above * depthwise_kernel(weight, change, channels, tap, c)[None, :]
        part_mask, part_dy, part_dx = _respond(x, place, received, c, channels, width)
        by_mask += part_mask
        by_dy += part_dy
        by_dx += part_dx
        if x_grad is not None:
            _scatter(x_grad, place, received, c, channels, width)
    _store(offset_grad, mask_grad, row, n, positions, by_mask, by_dy, by_dx)


@triton.jit
def _respond(
    x: tl.tensor, place: tl.tuple, received: tl.tensor, c: tl.tensor, channels: int, width: int
) -> tl.tuple:
    """Return what channels c add to the gradients of a mask, of its dy and of its dx."""
    _pixel, down, across, _top, _bottom, _left, _right, factor = place
    top_left, top_right, bottom_left, bottom_right = corners(x, place, c, channels, width)
    upper = between(top_left, top_right, across)
    lower = between(bottom_left, bottom_right, across)
    slope = between(top_right - top_left, bottom_right - bottom_left, down)
    by_mask = tl.sum(received * between(upper, lower, down), 1)
    by_dy = tl.sum(received * (lower - upper), 1) * factor
    return by_mask, by_dy, tl.sum(received * slope, 1) * factor


@triton.jit
def _scatter(
    x_grad: tl.tensor, place: tl.tuple, received: tl.tensor, c: tl.tensor, channels: int, width: int
) -> None:
    """Add what a tap received to the gradients of the pixels that it read."""
    pixel, down, across, top, bottom, left, right, factor = place
    upper, lower = factor * (1 - down), factor * down
    _add(x_grad, pixel, top & left, upper * (1 - across), received, c, channels)
    _add(x_grad, pixel + 1, top & right, upper * across, received, c, channels)
    _add(x_grad, pixel + width, bottom & left, lower * (1 - across), received, c, channels)
    _add(x_grad, pixel + width + 1, bottom & right, lower * across, received, c, channels)


@triton.jit
def _add(
    x_grad: tl.tensor,
    pixel: tl.tensor,
    inside: tl.tensor,
    share: tl.tensor,
    received: tl.tensor,
    c: tl.tensor,
    channels: int,
) -> None:
    """Add a share of what a tap received to one pixel a position."""
    there = inside[:, None] & (c < channels)[None, :]
    to = x_grad + pixel[:, None] * channels + c[None, :]
    tl.atomic_add(to, share[:, None] * received, mask=there, sem="relaxed")


@triton.jit
def _store(
    offset_grad: tl.tensor,
    mask_grad: tl.tensor,
    row: tl.tensor,
    n: tl.tensor,
    positions: int,
    by_mask: tl.tensor,
    by_dy: tl.tensor,
    by_dx: tl.tensor,
) -> None:
    """Write the gradients of a tap, where they are wanted."""
    real = n < positions
    if offset_grad is not None:
        to = offset_grad + 2 * row * positions + n
        tl.store(to, by_dy.to(offset_grad.dtype.element_ty), mask=real)
        tl.store(to + positions, by_dx.to(offset_grad.dtype.element_ty), mask=real)
    if mask_grad is not None:
        to = mask_grad + row * positions + n
        tl.store(to, by_mask.to(mask_grad.dtype.element_ty), mask=real)
