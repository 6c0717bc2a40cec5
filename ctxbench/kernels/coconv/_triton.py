"""CoConv in Triton: all levels are one matrix product whose patches nobody copies.

Nothing is summed with atomics here. The gradient of the weight is a sum over all pixels, which
libraries split better between programs, so that one comes from them, level by level; a GPU's
library can be told to be deterministic.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ctxbench.errors import BackendError
from ctxbench.kernels._backend import interprets, launches_there
from ctxbench.kernels.coconv import _torch

Levels = Sequence[tuple[int, int]]
Pair = tuple[int, int]


class After(NamedTuple):
    """What happens to a result before it is written: times scale, plus shift, and the ReLU."""

    scale: Tensor | None = None
    shift: Tensor | None = None
    relu: bool = False


class Blocks(NamedTuple):
    """How much of the product one program computes: pixels, channels, and depth of a step."""

    pixels: int
    channels: int
    depth: int


@triton.jit
def forward_kernel(
    x, weight, bias, scale, shift, y, pixels, channels, height, width, rows, columns,
    x_b, x_c, x_h, x_w, weight_o, weight_c, weight_h, weight_w, y_b, y_o, y_h, y_w,
    STARTS: tl.constexpr, STOPS: tl.constexpr, RATES: tl.constexpr, TILES: tl.constexpr,
    LEVELS: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr,
    DOWN: tl.constexpr, ACROSS: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_SCALE: tl.constexpr, RELU: tl.constexpr,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr, DEPTH: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Compute a tile of pixels and of the output channels of one level.

    The second axis of the grid counts the tiles of the first level, then those of the next, which
    begin at TILES: no tile belongs to two levels, so all of its channels read the same pixels.
    """
    tile = tl.program_id(1)
    first, stop, rate = tile * 0, tile * 0, tile * 0
    for level in tl.static_range(LEVELS):
        inside = tile >= TILES[level]
        first = tl.where(inside, STARTS[level] + (tile - TILES[level]) * CHANNELS, first)
        stop = tl.where(inside, STOPS[level], stop)
        rate = tl.where(inside, RATES[level], rate)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    sample = (pixel // (rows * columns)).to(tl.int64)
    row, column = pixel // columns % rows, pixel % columns
    output = first + tl.arange(0, CHANNELS)
    read = x + sample * x_b
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for tap in range(TALL * WIDE):
        i, j = tap // WIDE, tap % WIDE
        down = row * DOWN + (i - TALL // 2) * rate
        across = column * ACROSS + (j - WIDE // 2) * rate
        seen = (down >= 0) & (down < height) & (across >= 0) & (across < width)
        seen = seen & (pixel < pixels)
        place = read + down.to(tl.int64) * x_h + across.to(tl.int64) * x_w
        own = weight + output * weight_o + i * weight_h + j * weight_w
        for step in range(0, channels, DEPTH):
            channel = step + tl.arange(0, DEPTH)
            there = channel < channels
            values = tl.load(
                place[:, None] + channel.to(tl.int64)[None, :] * x_c,
                mask=seen[:, None] & there[None, :], other=0.0,
            )  # fmt: skip
            factors = tl.load(
                own[None, :] + channel[:, None] * weight_c,
                mask=there[:, None] & (output < stop)[None, :], other=0.0,
            )  # fmt: skip
            if not HALF:
                values, factors = values.to(tl.float32), factors.to(tl.float32)
            total = tl.dot(values, factors, total, input_precision="ieee")
    written = output < stop
    if HAS_BIAS:
        total += tl.load(bias + output, mask=written, other=0.0).to(tl.float32)[None, :]
    if HAS_SCALE:
        total *= tl.load(scale + output, mask=written, other=0.0).to(tl.float32)[None, :]
        total += tl.load(shift + output, mask=written, other=0.0).to(tl.float32)[None, :]
    if RELU:
        total = tl.where(total < 0, 0.0, total)  # what is no number stays so
    place = y + sample * y_b + row.to(tl.int64) * y_h + column.to(tl.int64) * y_w
    tl.store(
        place[:, None] + output.to(tl.int64)[None, :] * y_o,
        total.to(y.dtype.element_ty),
        mask=(pixel < pixels)[:, None] & written[None, :],
    )


@triton.jit
def input_kernel(
    grad, weight, grad_x, pixels, channels, height, width, rows, columns,
    grad_b, grad_o, grad_h, grad_w, weight_o, weight_c, weight_h, weight_w, x_b, x_c, x_h, x_w,
    STARTS: tl.constexpr, STOPS: tl.constexpr, RATES: tl.constexpr,
    LEVELS: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr,
    DOWN: tl.constexpr, ACROSS: tl.constexpr,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr, DEPTH: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of a tile of pixels and channels of x from all levels.

    A pixel collects from every result that read it: tap i of result r read pixel
    r * DOWN + (i - TALL // 2) * rate, so r follows from the pixel, if the stride leads there.
    """
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    sample = (pixel // (height * width)).to(tl.int64)
    row, column = pixel // width % height, pixel % width
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    read = grad + sample * grad_b
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for level in tl.static_range(LEVELS):
        for tap in range(TALL * WIDE):
            i, j = tap // WIDE, tap % WIDE
            down = row - (i - TALL // 2) * RATES[level]
            across = column - (j - WIDE // 2) * RATES[level]
            seen = (down >= 0) & (down < rows * DOWN) & (across >= 0) & (across < columns * ACROSS)
            seen = seen & (down % DOWN == 0) & (across % ACROSS == 0) & (pixel < pixels)
            place = read + (down // DOWN).to(tl.int64) * grad_h
            place += (across // ACROSS).to(tl.int64) * grad_w
            own = weight + channel * weight_c + i * weight_h + j * weight_w
            for step in range(STARTS[level], STOPS[level], DEPTH):
                output = step + tl.arange(0, DEPTH)
                there = output < STOPS[level]
                values = tl.load(
                    place[:, None] + output.to(tl.int64)[None, :] * grad_o,
                    mask=seen[:, None] & there[None, :], other=0.0,
                )  # fmt: skip
                factors = tl.load(
                    own[None, :] + output[:, None] * weight_o,
                    mask=there[:, None] & (channel < channels)[None, :], other=0.0,
                )  # fmt: skip
                if not HALF:
                    values, factors = values.to(tl.float32), factors.to(tl.float32)
                total = tl.dot(values, factors, total, input_precision="ieee")
    place = grad_x + sample * x_b + row.to(tl.int64) * x_h + column.to(tl.int64) * x_w
    tl.store(
        place[:, None] + channel.to(tl.int64)[None, :] * x_c,
        total.to(grad_x.dtype.element_ty),
        mask=(pixel < pixels)[:, None] & (channel < channels)[None, :],
    )


@launches_there
def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    levels: Levels,
    stride: Pair,
    after: After = After(),  # noqa: B008 - it cannot be changed
) -> Tensor:
    """Return the result in the type and layout of x. Raises: BackendError for other types."""
    _check(x, weight)
    y = _torch.empty_result(x, weight, stride)
    merged = _torch.merge(levels)
    pixels = len(y) * y.shape[2] * y.shape[3]
    blocks = choose_blocks(pixels, [width for width, _ in merged], x.shape[1], x.element_size())
    table = make_table(merged, blocks.channels)
    tiles = sum(triton.cdiv(width, blocks.channels) for width, _ in merged)
    # the kernel reads one number of them after the other
    rows = (None if row is None else row.contiguous() for row in (bias, after.scale, after.shift))
    if y.numel():
        forward_kernel[triton.cdiv(pixels, blocks.pixels), tiles](
            x, weight, *rows, y,
            pixels, x.shape[1], *x.shape[2:], *y.shape[2:],
            *x.stride(), *weight.stride(), *y.stride(), **table, **_sizes(weight, stride, blocks),
            HAS_BIAS=bias is not None, HAS_SCALE=after.scale is not None, RELU=after.relu,
            HALF=_half(x), num_warps=count_warps(blocks), num_stages=3,
        )  # fmt: skip
    return y


@launches_there
def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    *,
    levels: Levels,
    stride: Pair,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of x, weight and bias, each where it is needed."""
    _check(x, weight)
    rest = (False, *needs[1:])
    _, grad_weight, grad_bias = _torch.backward(
        grad, x, weight, levels=levels, stride=stride, needs=rest
    )
    return _grad_x(grad, x, weight, levels, stride) if needs[0] else None, grad_weight, grad_bias


def _grad_x(grad: Tensor, x: Tensor, weight: Tensor, levels: Levels, stride: Pair) -> Tensor:
    grad_x = _torch.empty_gradient(x)
    merged = _torch.merge(levels)
    pixels = len(x) * x.shape[2] * x.shape[3]
    widest = max(width for width, _ in merged)
    blocks = choose_blocks(pixels, x.shape[1:2], widest, x.element_size())
    table = make_table(merged, blocks.channels)
    del table["TILES"]
    if grad_x.numel():
        input_kernel[triton.cdiv(pixels, blocks.pixels), triton.cdiv(x.shape[1], blocks.channels)](
            grad, weight, grad_x, pixels, x.shape[1], *x.shape[2:], *grad.shape[2:],
            *grad.stride(), *weight.stride(), *grad_x.stride(),
            **table, **_sizes(weight, stride, blocks),
            HALF=_half(x), num_warps=count_warps(blocks), num_stages=3,
        )  # fmt: skip
    return grad_x


def _check(x: Tensor, weight: Tensor) -> None:
    if x.dtype != weight.dtype:
        raise BackendError(
            f"coconv: backend='triton' takes a map and a weight of one type; got {x.dtype} and "
            f"{weight.dtype}. Use backend='torch'."
        )


def _half(x: Tensor) -> bool:
    """Whether products take the numbers as they are; interpreted, bfloat16 goes wrong in them."""
    return x.element_size() == 2 and not interprets()


def choose_blocks(pixels: int, widths: Sequence[int], depth: int, itemsize: int) -> Blocks:
    """Choose the tile of a product of pixels by channels, which stand in runs, summed over `depth`.

    A product needs 16 of everything. Sums of 32-bit products stay off the tensor cores, whose
    operands wait in registers: a quarter of the tile keeps them there. Of the channels as many as
    waste no more than an eighth of the work on what is beyond a run.
    """
    largest = 128 if itemsize == 2 else 64
    across = largest
    while across > 16 and 8 * sum(-width % across for width in widths) > sum(widths):
        across //= 2
    down = min(largest, max(16, triton.next_power_of_2(pixels)))
    return Blocks(down, across, min(32, max(16, triton.next_power_of_2(depth))))


def count_warps(blocks: Blocks) -> int:
    """Return the warps of a program: with 4 of them, tiles of 64x64 and more spill up to 4 kB."""
    return 8 if blocks.pixels * blocks.channels >= 4096 else 4


def make_table(merged: Levels, channels: int) -> dict[str, Any]:
    """Return the first channel of every level, the one after its last, dilation, first tile."""
    starts, tiles = [0], [0]
    for width, _ in merged:
        starts.append(starts[-1] + width)
        tiles.append(tiles[-1] + triton.cdiv(width, channels))
    return {
        "STARTS": tuple(starts[:-1]),
        "STOPS": tuple(starts[1:]),
        "RATES": tuple(rate for _, rate in merged),
        "TILES": tuple(tiles[:-1]),
        "LEVELS": len(merged),
    }


def _sizes(weight: Tensor, stride: Pair, blocks: Blocks) -> dict[str, int]:
    return {
        "TALL": weight.shape[2], "WIDE": weight.shape[3], "DOWN": stride[0], "ACROSS": stride[1],
        "PIXELS": blocks.pixels, "CHANNELS": blocks.channels, "DEPTH": blocks.depth,
    }  # fmt: skip
