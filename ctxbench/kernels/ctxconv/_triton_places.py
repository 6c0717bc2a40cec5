"""Where the taps of a contextual convolution read, and what: functions that its kernels share.

Maps are rows of channels, one a pixel: all channels of a place are read side by side. A tap that is
displaced stands between four pixels, top or bottom and left or right of it.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ctxbench.errors import BackendError
from ctxbench.kernels._backend import interprets
from ctxbench.kernels.ctxconv._reference import Window


@triton.jit
def axis(start: tl.tensor, offset: tl.tensor, size: int, MOVED: tl.constexpr) -> tl.tuple:
    """Return the pixel before each place, the share of the one after it, and which are inside.

    Compared as floats: a place that is far away or no number is no integer.
    """
    place = start.to(tl.float32) + offset
    before = tl.floor(place)
    first = (before >= 0) & (before < size)
    second = (before >= -1) & (before < size - 1) & MOVED
    pixel = tl.where(first | second, before, 0).to(tl.int32)
    return pixel, place - before, first, second


@triton.jit
def locate(
    offset: tl.tensor,
    mask: tl.tensor,
    offset_t: int,
    offset_n: int,
    mask_t: int,
    mask_n: int,
    positions: int,
    height: int,
    width: int,
    out_width: int,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    MOVED: tl.constexpr,
    tap: tl.tensor,
    n: tl.tensor,
) -> tl.tuple:
    """Return where a tap stands at positions n of a sample: top left pixel, shares, insides, mask.

    A position beyond the last is outside everywhere.
    """
    real = n < positions
    to_dy = offset + 2 * tap * offset_t + n * offset_n
    to_mask = mask + tap * mask_t + n * mask_n
    dy = tl.load(to_dy, mask=real, other=0).to(tl.float32)
    dx = tl.load(to_dy + offset_t, mask=real, other=0).to(tl.float32)
    factor = tl.load(to_mask, mask=real, other=0).to(tl.float32)
    y = n // out_width * STRIDE + (tap // KERNEL - KERNEL // 2) * DILATION
    x = n % out_width * STRIDE + (tap % KERNEL - KERNEL // 2) * DILATION
    row, down, top, bottom = axis(y, dy, height, MOVED)
    column, across, left, right = axis(x, dx, width, MOVED)
    return row * width + column, down, across, top & real, bottom & real, left, right, factor


@triton.jit
def at_pixel(
    rows: tl.tensor, pixel: tl.tensor, inside: tl.tensor, c: tl.tensor, channels: int
) -> tl.tensor:
    """Return what pixels hold (positions x channels), zero where they are outside."""
    there = inside[:, None] & (c < channels)[None, :]
    pointers = rows + pixel[:, None] * channels + c[None, :]
    return tl.load(pointers, mask=there, other=0).to(tl.float32)


@triton.jit
def corners(rows: tl.tensor, place: tl.tuple, c: tl.tensor, channels: int, width: int) -> tl.tuple:
    """Return what the four pixels around each place hold (positions x channels)."""
    pixel, _down, _across, top, bottom, left, right, _factor = place
    top_left = at_pixel(rows, pixel, top & left, c, channels)
    top_right = at_pixel(rows, pixel + 1, top & right, c, channels)
    bottom_left = at_pixel(rows, pixel + width, bottom & left, c, channels)
    bottom_right = at_pixel(rows, pixel + width + 1, bottom & right, c, channels)
    return top_left, top_right, bottom_left, bottom_right


@triton.jit
def read(rows: tl.tensor, place: tl.tuple, c: tl.tensor, channels: int, width: int) -> tl.tensor:
    """Return what a tap reads, times its mask (positions x channels)."""
    _pixel, down, across, _top, _bottom, _left, _right, factor = place
    top_left, top_right, bottom_left, bottom_right = corners(rows, place, c, channels, width)
    upper = between(top_left, top_right, across)
    return factor[:, None] * between(upper, between(bottom_left, bottom_right, across), down)


@triton.jit
def between(first: tl.tensor, second: tl.tensor, share: tl.tensor) -> tl.tensor:
    """Return the mean of two tiles; `share` is that of the second at every position."""
    return (1 - share)[:, None] * first + share[:, None] * second


@triton.jit
def dense_kernel(
    weight: tl.tensor,
    change: tl.tensor,
    channels: int,
    outputs: int,
    tap: tl.tensor,
    c: tl.tensor,
    o: tl.tensor,
) -> tl.tensor:
    """Return the kernels of a sample at a tap (channels x outputs)."""
    real = (c < channels)[:, None] & (o < outputs)[None, :]
    pointers = weight + (tap * channels + c)[:, None] * outputs + o[None, :]
    added = tl.load(change + tap * channels + c, mask=c < channels, other=0).to(tl.float32)
    return tl.load(pointers, mask=real, other=0).to(tl.float32) + added[:, None]


@triton.jit
def depthwise_kernel(
    weight: tl.tensor,
    change: tl.tensor,
    channels: int,
    tap: tl.tensor,
    c: tl.tensor,
) -> tl.tensor:
    """Return the kernels of a sample at a tap (channels)."""
    own = tl.load(weight + tap * channels + c, mask=c < channels, other=0).to(tl.float32)
    added = tl.load(change + tap * channels + c, mask=c < channels, other=0).to(tl.float32)
    return own + added


def rows(maps: Tensor) -> Tensor:
    """Return maps (B, C, H, W) as rows of channels (B, H * W, C); no copy of channels_last."""
    return maps.permute(0, 2, 3, 1).contiguous().flatten(1, 2)


def places(x: Tensor, window: Window) -> tuple[int, int]:
    """Return the height and the width of the output."""
    height, width = ((size - 1) // window.stride + 1 for size in x.shape[2:])
    return height, width


def arguments(
    x: Tensor,
    weight: Tensor,
    change_BCT: Tensor | None,
    offset: Tensor | None,
    mask: Tensor | None,
    window: Window,
) -> tuple[Any, ...]:
    """Return the arguments that all kernels begin with.

    What is not there is one number that stands everywhere: no displacement, a mask of 1.
    """
    batch, channels, height, width = x.shape
    for tensor in (x, offset, mask):
        _check_reach(tensor)
    taps, (out_height, out_width) = window.kernel_size**2, places(x, window)
    positions = out_height * out_width
    change = x.new_zeros(batch, channels, taps) if change_BCT is None else change_BCT
    moves = x.new_zeros(()).expand(batch, 2 * taps, positions)
    moves = moves if offset is None else offset.flatten(2)
    factors = x.new_ones(()).expand(batch, taps, positions)
    factors = factors if mask is None else mask.flatten(2)
    return (
        rows(x), weight.flatten(2).permute(2, 1, 0).contiguous(),
        change.transpose(1, 2).contiguous(), moves, factors, *moves.stride(), *factors.stride(),
        channels, positions, height, width, out_width, *window, offset is not None,
    )  # fmt: skip


def _check_reach(tensor: Tensor | None) -> None:
    """Raise BackendError where the numbers of a sample lie further apart than int32 counts."""
    if tensor is None:
        return
    sizes = zip(tensor.shape[1:], tensor.stride()[1:], strict=True)
    reach = sum((size - 1) * stride for size, stride in sizes)
    if reach >= 2**31:
        raise BackendError(
            f"ctxconv: backend='triton' takes samples of up to 2^31 numbers; got "
            f"{tuple(tensor.shape[1:])}. Use backend='torch', which takes any."
        )


def block(limit: int, count: int) -> int:
    """Return the size of a block along an axis: a power of two that a matrix product takes.

    The limits, and the warps beside them, are those at which registers do not spill, compiled for
    an A100 and an H100 with channels that are a multiple of 16.
    """
    size: int = triton.next_power_of_2(count)
    return max(16, min(limit, size))


def wide(tensor: Tensor) -> int:
    """Return how many times as much room a number takes in a matrix product as half precision."""
    return 2 if tensor.dtype == torch.float32 else 1


def product_type(tensor: Tensor) -> tl.dtype:
    """Return the type of what tl.dot multiplies: that of the output, as in any convolution."""
    # the interpreter takes bfloat16 for whole numbers
    if interprets():
        return tl.float32
    return {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}.get(tensor.dtype, tl.float16)
