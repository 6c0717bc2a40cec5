"""ContMix as one Triton kernel a direction, each of which works through the map tile by tile.

A program holds the logits of all taps at a tile of positions: one matrix product makes them, and
the kernels made from them never leave the program. Neighbours share most of their windows, so the
kernels of a tile are laid out over the rectangle that its windows cover together, with a zero where
a pixel is in no window. Then the values are mixed by matrix products, which waste some of their
work on zeros, but run on tensor cores and read every pixel once a tile rather than once a tap.

A value that is not finite reaches every position of a tile that sees it: 0 * inf is not a number.

The gradients of the values and of the table are summed with atomic additions, so they differ from
run to run by rounding; the others do not. What each program sums for the weight, the bias and the
table is kept apart, in float32, and added up at the end: at most 264 times their size.
"""
# mypy: disable-error-code="untyped-decorator,no-untyped-def"

from collections.abc import Sequence
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from ctxbench.errors import BackendError
from ctxbench.kernels._backend import interprets, launches_there

# what a program holds: bytes of a weight's column (an A100 has no more), regions, channels a group
_LIMITS = (1024, 64, 128)
_MOST_PROGRAMS = 264  # of backward: two for each multiprocessor of an H100


@triton.jit
def _start(position, size, K: tl.constexpr):
    """Return where the window of a position begins: centred, but shifted inward to stay full."""
    return tl.minimum(tl.maximum(position - K // 2, 0), size - K)


@triton.jit
def _positions(tile, height, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return rows and columns of the positions of a tile, and which of them are in the map.

    Those beyond the map get the last row or column, so that their windows are in it.
    """
    n = tl.arange(0, ROWS * COLUMNS)
    across = tl.cdiv(width, COLUMNS)
    y = tile // across * ROWS + n // COLUMNS
    x = tile % across * COLUMNS + n % COLUMNS
    return tl.minimum(y, height - 1), tl.minimum(x, width - 1), (y < height) & (x < width)


@triton.jit
def _rectangle(y, x, height, width, K: tl.constexpr):
    """Return top, left, width and number of pixels of what the windows of a tile cover together."""
    top, left = _start(tl.min(y, 0), height, K), _start(tl.min(x, 0), width, K)
    across = _start(tl.max(x, 0), width, K) + K - left
    return top, left, across, (_start(tl.max(y, 0), height, K) + K - top) * across


@triton.jit
def _entries(y, x, height, width, K: tl.constexpr, TAPS: tl.constexpr):
    """Return where in the table of a group the taps of every position stand: (TAPS, N)."""
    tap = tl.arange(0, TAPS)
    row = (_start(y, height, K) - y + K - 1)[None, :] + (tap // K)[:, None]
    column = (_start(x, width, K) - x + K - 1)[None, :] + (tap % K)[:, None]
    return row * (2 * K - 1) + column


@triton.jit
def _logits(weight_TL, affinity_LN, bias, table, entry_TN, K: tl.constexpr, TAPS: tl.constexpr):
    """Return the logits (TAPS, N) in float32, minus infinity where there is no tap."""
    tap = tl.arange(0, TAPS)
    bias_T = tl.load(bias + tap, mask=tap < K * K, other=-float("inf")).to(tl.float32)
    table_TN = tl.load(table + entry_TN, mask=(tap < K * K)[:, None], other=0.0).to(tl.float32)
    return tl.dot(weight_TL, affinity_LN, input_precision="ieee") + bias_T[:, None] + table_TN


@triton.jit
def _spread(kernel_TN, row_Q, column_Q, y, x, height, width, K: tl.constexpr):
    """Return the kernel of each position at some pixels, (Q, N), zero outside of its window."""
    dy = row_Q[:, None] - _start(y, height, K)[None, :]
    dx = column_Q[:, None] - _start(x, width, K)[None, :]
    seen = (dy >= 0) & (dy < K) & (dx >= 0) & (dx < K)
    return tl.where(seen, tl.gather(kernel_TN, tl.where(seen, dy * K + dx, 0), 0), 0.0)


@triton.jit
def _collect(
    pixels_QN, y, x, first, top, left, across, height, width, K: tl.constexpr, TAPS: tl.constexpr
):  # fmt: skip
    """Return what stands at the taps of each position, (TAPS, N), zero for other pixels."""
    tap = tl.arange(0, TAPS)
    row = (_start(y, height, K) - top)[None, :] + (tap // K)[:, None]
    column = (_start(x, width, K) - left)[None, :] + (tap % K)[:, None]
    pixel = row * across + column - first
    here = (pixel >= 0) & (pixel < pixels_QN.shape[0]) & (tap < K * K)[:, None]
    return tl.where(here, tl.gather(pixels_QN, tl.where(here, pixel, 0), 0), 0.0)


@triton.jit
def forward_kernel(
    values, values_b, values_g, values_c, values_y, values_x,
    affinity, affinity_b, affinity_g, affinity_l, affinity_y, affinity_x,
    weight, bias, table, out, lse,
    groups, channels, height, width, regions,
    K: tl.constexpr, TAPS: tl.constexpr, REGIONS: tl.constexpr, CHANNELS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Mix one tile of positions of one group of one sample."""
    DOT: tl.constexpr = weight.dtype.element_ty
    tiles = tl.cdiv(height, ROWS) * tl.cdiv(width, COLUMNS)
    item = (tl.program_id(0) // tiles).to(tl.int64)
    sample, group = item // groups, item % groups
    y, x, valid = _positions(tl.program_id(0) % tiles, height, width, ROWS, COLUMNS)
    c, region = tl.arange(0, CHANNELS), tl.arange(0, REGIONS)

    affinity += sample * affinity_b + group * affinity_g
    affinity_LN = tl.load(
        affinity + region[:, None] * affinity_l + (y * affinity_y + x * affinity_x)[None, :],
        mask=(region < regions)[:, None], other=0.0,
    ).to(DOT)  # fmt: skip
    weight_TL = tl.load(weight + tl.arange(0, TAPS)[:, None] * REGIONS + region[None, :])
    entry_TN = _entries(y, x, height, width, K, TAPS)
    table += group * (2 * K - 1) * (2 * K - 1)
    logits = _logits(weight_TL, affinity_LN, bias, table, entry_TN, K, TAPS)
    highest = tl.max(logits, 0)
    kernel_TN = tl.exp(logits - highest[None, :])
    total = tl.sum(kernel_TN, 0)
    kernel_TN = kernel_TN / total[None, :]

    values += sample * values_b + group * values_g
    mixed_NC = tl.zeros([ROWS * COLUMNS, CHANNELS], tl.float32)
    top, left, across, pixels = _rectangle(y, x, height, width, K)
    for first in range(0, pixels, PIXELS):
        pixel = first + tl.arange(0, PIXELS)
        row, column = top + pixel // across, left + pixel % across
        values_QC = tl.load(
            values + (row * values_y + column * values_x)[:, None] + c[None, :] * values_c,
            mask=(pixel < pixels)[:, None] & (c < channels)[None, :], other=0.0,
        ).to(DOT)  # fmt: skip
        spread_QN = _spread(kernel_TN, row, column, y, x, height, width, K)
        mixed_NC = tl.dot(tl.trans(spread_QN).to(DOT), values_QC, mixed_NC, input_precision="ieee")

    place, area = y * width + x, height * width
    tl.store(lse + item * area + place, highest + tl.log(total), mask=valid)
    tl.store(
        out + item * channels * area + place[:, None] + c[None, :] * area,
        mixed_NC, mask=valid[:, None] & (c < channels)[None, :],
    )  # fmt: skip


@triton.jit
def backward_kernel(
    grad, grad_b, grad_g, grad_c, grad_y, grad_x,
    values, values_b, values_g, values_c, values_y, values_x,
    affinity, affinity_b, affinity_g, affinity_l, affinity_y, affinity_x,
    weight, bias, table, lse,
    d_values, d_affinity, d_weight, d_bias, d_table,
    samples, groups, channels, height, width, regions,
    K: tl.constexpr, TAPS: tl.constexpr, REGIONS: tl.constexpr, CHANNELS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PIXELS: tl.constexpr,
    NEEDS_VALUES: tl.constexpr,
):  # fmt: skip
    """Go back through every so manieth tile of one group, in all samples.

    d_values is (B, G, H, W, C), whose pixels get sums of neighbouring channels; d_weight, d_bias
    and d_table have a first axis for the programs that share a group.
    """
    DOT: tl.constexpr = weight.dtype.element_ty
    group, programs = tl.program_id(1).to(tl.int64), tl.num_programs(0)
    own = tl.program_id(0) * groups + group
    tiles = tl.cdiv(height, ROWS) * tl.cdiv(width, COLUMNS)
    tap, c, region = tl.arange(0, TAPS), tl.arange(0, CHANNELS), tl.arange(0, REGIONS)
    area, entries = height * width, (2 * K - 1) * (2 * K - 1)
    table += group * entries
    d_weight_TL, d_bias_T = tl.zeros([TAPS, REGIONS], tl.float32), tl.zeros([TAPS], tl.float32)

    for work in range(tl.program_id(0), samples * tiles, programs):
        sample = (work // tiles).to(tl.int64)
        item = sample * groups + group
        y, x, valid = _positions(work % tiles, height, width, ROWS, COLUMNS)
        place = y * width + x
        affinity_LN = tl.load(
            affinity + sample * affinity_b + group * affinity_g
            + region[:, None] * affinity_l + (y * affinity_y + x * affinity_x)[None, :],
            mask=(region < regions)[:, None], other=0.0,
        ).to(DOT)  # fmt: skip
        weight_TL = tl.load(weight + tap[:, None] * REGIONS + region[None, :])
        entry_TN = _entries(y, x, height, width, K, TAPS)
        logits = _logits(weight_TL, affinity_LN, bias, table, entry_TN, K, TAPS)
        kernel_TN = tl.exp(logits - tl.load(lse + item * area + place)[None, :])
        grad_NC = tl.load(
            grad + sample * grad_b + group * grad_g
            + (y * grad_y + x * grad_x)[:, None] + c[None, :] * grad_c,
            mask=valid[:, None] & (c < channels)[None, :], other=0.0,
        ).to(DOT)  # fmt: skip

        d_kernel_TN = tl.zeros([TAPS, ROWS * COLUMNS], tl.float32)
        top, left, across, pixels = _rectangle(y, x, height, width, K)
        for first in range(0, pixels, PIXELS):
            pixel = first + tl.arange(0, PIXELS)
            row, column = top + pixel // across, left + pixel % across
            place_QC = (row * width + column)[:, None] * channels + c[None, :]
            mask = (pixel < pixels)[:, None] & (c < channels)[None, :]
            values_QC = tl.load(
                values + sample * values_b + group * values_g
                + (row * values_y + column * values_x)[:, None] + c[None, :] * values_c,
                mask=mask, other=0.0,
            ).to(DOT)  # fmt: skip
            product_QN = tl.dot(values_QC, tl.trans(grad_NC), input_precision="ieee")
            d_kernel_TN += _collect(
                product_QN, y, x, first, top, left, across, height, width, K, TAPS
            )
            if NEEDS_VALUES:
                spread_QN = _spread(kernel_TN, row, column, y, x, height, width, K)
                tl.atomic_add(
                    d_values + item * area * channels + place_QC,
                    tl.dot(spread_QN.to(DOT), grad_NC, input_precision="ieee"),
                    mask=mask, sem="relaxed",
                )  # fmt: skip

        delta = tl.sum(kernel_TN * d_kernel_TN, 0)
        d_logits = kernel_TN * (d_kernel_TN - delta[None, :])
        d_bias_T += tl.sum(d_logits, 1)
        tl.atomic_add(
            d_table + own * entries + entry_TN, d_logits,
            mask=(tap < K * K)[:, None] & valid[None, :], sem="relaxed",
        )  # fmt: skip
        d_logits = d_logits.to(DOT)
        d_weight_TL = tl.dot(d_logits, tl.trans(affinity_LN), d_weight_TL, input_precision="ieee")
        tl.store(
            d_affinity + item * regions * area + region[:, None] * area + place[None, :],
            tl.dot(tl.trans(weight_TL), d_logits, input_precision="ieee"),
            mask=(region < regions)[:, None] & valid[None, :],
        )  # fmt: skip

    tl.store(d_bias + own * TAPS + tap, d_bias_T)
    tl.store(d_weight + (own * TAPS + tap[:, None]) * REGIONS + region[None, :], d_weight_TL)


@launches_there
def forward(
    values_BGCHW: Tensor, affinity_BGLHW: Tensor, weight_TL: Tensor, bias_T: Tensor,
    table_GYX: Tensor, kernel_size: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the mixed values and the logarithm of each position's sum of exponentials (float32).

    Raises: BackendError for what no program can hold.
    """
    batch, groups, channels, height, width = values_BGCHW.shape
    regions = affinity_BGLHW.shape[2]
    dtype = _dot_type(values_BGCHW, affinity_BGLHW)
    blocks = blocks_of(kernel_size, channels, regions, width, (64, dtype.itemsize))
    out = values_BGCHW.new_empty(values_BGCHW.shape)
    lse = values_BGCHW.new_empty((batch, groups, height, width), dtype=torch.float32)
    if programs := batch * groups * _tiles(height, width, blocks):
        forward_kernel[(programs,)](
            values_BGCHW, *values_BGCHW.stride(), affinity_BGLHW, *affinity_BGLHW.stride(),
            _padded(weight_TL, blocks, dtype), bias_T.contiguous(), table_GYX.contiguous(),
            out, lse, groups, channels, height, width, regions, **blocks, num_warps=8,
        )  # fmt: skip
    return out, lse


@launches_there
def backward(
    grad_BGCHW: Tensor, values_BGCHW: Tensor, affinity_BGLHW: Tensor, weight_TL: Tensor,
    bias_T: Tensor, table_GYX: Tensor, out_BGCHW: Tensor, lse_BGHW: Tensor,
    kernel_size: int, needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Return the gradients of values, affinity, weight, bias and table, or None where not needed.

    Raises: BackendError for what no program can hold.
    """
    batch, groups, channels, height, width = values_BGCHW.shape
    regions, side = affinity_BGLHW.shape[2], table_GYX.shape[-1]
    dtype = _dot_type(values_BGCHW, affinity_BGLHW)
    blocks = blocks_of(kernel_size, channels, regions, width, (32, dtype.itemsize))
    work = batch * _tiles(height, width, blocks)
    programs = min(work, max(1, _MOST_PROGRAMS // groups))
    new = partial(torch.zeros, dtype=torch.float32, device=values_BGCHW.device)
    d_values = new((batch * needs[0], groups, height, width, channels))
    d_affinity = affinity_BGLHW.new_empty(affinity_BGLHW.shape)
    d_weight = new((programs, groups, blocks["TAPS"], blocks["REGIONS"]))
    d_bias = new((programs, groups, blocks["TAPS"]))
    d_table = new((programs, groups, side, side))
    if work:
        backward_kernel[(programs, groups)](
            grad_BGCHW, *grad_BGCHW.stride(), values_BGCHW, *values_BGCHW.stride(),
            affinity_BGLHW, *affinity_BGLHW.stride(), _padded(weight_TL, blocks, dtype),
            bias_T.contiguous(), table_GYX.contiguous(), lse_BGHW.contiguous(),
            d_values, d_affinity, d_weight, d_bias, d_table,
            batch, groups, channels, height, width, regions,
            **blocks, NEEDS_VALUES=needs[0], num_warps=8,
        )  # fmt: skip
    found = (
        d_values.movedim(-1, 2), d_affinity, d_weight.sum((0, 1))[: len(bias_T), :regions],
        d_bias.sum((0, 1))[: len(bias_T)], d_table.sum(0),
    )  # fmt: skip
    inputs = (values_BGCHW, affinity_BGLHW, weight_TL, bias_T, table_GYX)
    return tuple(
        gradient.to(x.dtype).contiguous() if needed else None
        for gradient, x, needed in zip(found, inputs, needs, strict=True)
    )


def blocks_of(
    kernel_size: int, channels: int, regions: int, width: int, tile: tuple[int, int]
) -> dict[str, int]:
    """Return the sizes of the blocks of a program.

    `tile` is how many positions one has at most, and the bytes of a number. Large windows get fewer
    positions, as all logits stay in registers; so do numbers of float32, which no tensor core
    multiplies exactly. Matrix products want at least 16 on each side.

    Raises: BackendError for what no program can hold.
    """
    most, bytes_each = tile
    given = {"taps": kernel_size**2, "regions": regions, "channels a group": channels}
    limits = (_LIMITS[0] // bytes_each, *_LIMITS[1:])
    for (what, number), limit in zip(given.items(), limits, strict=True):
        if number > limit:
            raise BackendError(
                f"contmix: backend='triton' takes at most {limit} {what}; got {number}. "
                f"Use backend='torch'."
            )
    taps, regions, channels = (max(16, triton.next_power_of_2(n)) for n in given.values())
    columns = 16 if width > 8 else 8
    positions = max(16, min(most, 512 * most // bytes_each // taps))
    return {
        "K": kernel_size, "TAPS": taps, "REGIONS": regions, "CHANNELS": channels,
        "ROWS": positions // columns, "COLUMNS": columns, "PIXELS": 128 // bytes_each,
    }  # fmt: skip


def _padded(weight_TL: Tensor, blocks: dict[str, int], dtype: torch.dtype) -> Tensor:
    """Return the weight with zeros up to the size of its block, in the type it is multiplied in."""
    taps, regions = weight_TL.shape
    padded = F.pad(weight_TL, (0, blocks["REGIONS"] - regions, 0, blocks["TAPS"] - taps))
    return padded.to(dtype)


def _tiles(height: int, width: int, blocks: dict[str, int]) -> int:
    return int(triton.cdiv(height, blocks["ROWS"]) * triton.cdiv(width, blocks["COLUMNS"]))


def _dot_type(*tensors: Tensor) -> torch.dtype:
    """Return the type that numbers are multiplied in; they are summed in float32."""
    types = {tensor.dtype for tensor in tensors}
    # the interpreter multiplies bfloat16 wrongly
    return torch.float32 if interprets() or len(types) > 1 else types.pop()
