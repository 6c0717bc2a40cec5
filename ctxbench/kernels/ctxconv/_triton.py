"""Contextual convolution in Triton: one kernel a direction and kind, and no copy of any patch.

A program computes a tile of output positions of one sample. Tap by tap it finds out where its
positions read, gathers those places for a block of channels, and multiplies them with the weights
plus the change of the sample: a matrix product where the convolution is dense, number by number
where it is depthwise. Beside inputs and output there is one copy of x in the order of channels_last
at most.
"""

import triton
import triton.language as tl
from torch import Tensor

from ctxbench.kernels._backend import launches_there
from ctxbench.kernels.ctxconv._reference import Window
from ctxbench.kernels.ctxconv._triton_backward import backward
from ctxbench.kernels.ctxconv._triton_places import (
    arguments,
    block,
    dense_kernel,
    depthwise_kernel,
    locate,
    places,
    product_type,
    read,
    wide,
)

__all__ = ["backward", "forward"]


@launches_there
def forward(
    x: Tensor,
    weight: Tensor,
    change_BCT: Tensor | None,
    offset: Tensor | None,
    mask: Tensor | None,
    window: Window,
    groups: int,
) -> Tensor:
    """Return the convolution (B, O, Y, X)."""
    batch, channels = x.shape[:2]
    outputs, (height, width) = len(weight), places(x, window)
    shared = arguments(x, weight, change_BCT, offset, mask, window)
    y = x.new_empty(
        batch, outputs, height, width, dtype=x.dtype if offset is None else offset.dtype
    )
    tile = block(64, height * width)
    tiles = batch * triton.cdiv(height * width, tile)
    if groups == 1:
        sizes = tile, block(32 // wide(y), channels), block(128 // wide(y), outputs)
        grid = (tiles, triton.cdiv(outputs, sizes[2]))
        _dense[grid](*shared, y, outputs, product_type(y), *sizes)
    else:
        per_program = block(32, channels)
        _depthwise[tiles, triton.cdiv(channels, per_program)](*shared, y, tile, per_program)
    return y


@triton.jit
def _dense(
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
    y: tl.tensor,
    outputs: int,
    PRODUCT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
) -> None:
    tiles = tl.cdiv(positions, BLOCK_N)
    sample = (tl.program_id(0) // tiles).to(tl.int64)
    x += sample * height * width * channels
    change += sample * KERNEL * KERNEL * channels
    offset, mask = offset + sample * offset_b, mask + sample * mask_b
    n = tl.program_id(0) % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    total = tl.zeros((BLOCK_N, BLOCK_O), tl.float32)
    for tap in range(KERNEL * KERNEL):
        place = locate(
            offset, mask, offset_t, offset_n, mask_t, mask_n, positions, height, width, out_width,
            KERNEL, STRIDE, DILATION, MOVED, tap, n,
        )  # fmt: skip
        for start in range(0, channels, BLOCK_C):
            c = start + tl.arange(0, BLOCK_C)
            samples = read(x, place, c, channels, width).to(PRODUCT)
            kernel = dense_kernel(weight, change, channels, outputs, tap, c, o).to(PRODUCT)
            total = tl.dot(samples, kernel, total, input_precision="ieee")
    to = y + sample * outputs * positions + o[None, :] * positions + n[:, None]
    there = (n < positions)[:, None] & (o < outputs)[None, :]
    tl.store(to, total.to(y.dtype.element_ty), mask=there)


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
    y: tl.tensor,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    tiles = tl.cdiv(positions, BLOCK_N)
    sample = (tl.program_id(0) // tiles).to(tl.int64)
    x += sample * height * width * channels
    change += sample * KERNEL * KERNEL * channels
    offset, mask = offset + sample * offset_b, mask + sample * mask_b
    n = tl.program_id(0) % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    for tap in range(KERNEL * KERNEL):
        place = locate(
            offset, mask, offset_t, offset_n, mask_t, mask_n, positions, height, width, out_width,
            KERNEL, STRIDE, DILATION, MOVED, tap, n,
        )  # fmt: skip
        kernel = depthwise_kernel(weight, change, channels, tap, c)
        total += read(x, place, c, channels, width) * kernel[None, :]
    to = y + sample * channels * positions + c[None, :] * positions + n[:, None]
    there = (n < positions)[:, None] & (c < channels)[None, :]
    tl.store(to, total.to(y.dtype.element_ty), mask=there)
