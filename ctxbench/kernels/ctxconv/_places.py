"""Where displaced taps stand on maps, and how rows of channels go there and back.

Maps stand as rows of channels, one a pixel, so that a tap reads whole rows; a margin of zeros
around every map leaves nothing to ask at a border. Letters of the shapes: T taps and S samples of
a block, N = Y * X places of a sample, M = S * N, R rows.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ctxbench.kernels.ctxconv._reference import Window

# a place beyond a border is moved to this distance, where all pixels around it are zero
_MARGIN = 2


class Rows(NamedTuple):
    """Maps (B, C, H, W) as rows (R, C), a pixel each.

    Every map begins with lines of the margin and every line with pixels of it, which also end the
    line and the map before; rows of zeros end the last map.
    """

    rows: Tensor
    batch: int
    height: int
    width: int

    @classmethod
    def holding(cls, x: Tensor) -> "Rows":
        """Return the maps x (B, C, H, W), in float32 at least.

        Places and sums need it: half precision is whole pixels from 1024 on, bfloat16 from 128 on.
        """
        batch, channels, height, width = x.shape
        count = batch * (height + _MARGIN) * (width + _MARGIN) + _tail(width)
        exact = torch.promote_types(x.dtype, torch.float32)
        made = cls(x.new_zeros(count, channels, dtype=exact), batch, height, width)
        made.maps().copy_(x)
        return made

    def some(self, samples: slice) -> Tensor:
        """Return the rows of some samples, with those that end the last of them."""
        size = (self.height + _MARGIN) * (self.width + _MARGIN)
        return self.rows[samples.start * size : samples.stop * size + _tail(self.width)]

    def each(self, samples: slice) -> Tensor:
        """Return the rows of some samples by sample, a view (S, R, C)."""
        whole = self.some(samples)[: -_tail(self.width)]
        return whole.view(samples.stop - samples.start, -1, whole.shape[1])

    def maps(self) -> Tensor:
        """Return the maps, a view (B, C, H, W)."""
        lines = self.rows[: -_tail(self.width)].view(
            self.batch, self.height + _MARGIN, self.width + _MARGIN, self.rows.shape[1]
        )
        return lines[:, _MARGIN:, _MARGIN:].permute(0, 3, 1, 2)


def _tail(width: int) -> int:
    """Return how many rows end a map: lines of the margin, and pixels that end the last line."""
    return _MARGIN * (width + _MARGIN + 1)


class Block(NamedTuple):
    """Taps and samples that are computed at once."""

    taps: slice
    samples: slice

    def columns(self, channels: int) -> slice:
        """Return where all channels of the taps stand in a row of all channels of all taps."""
        return slice(self.taps.start * channels, self.taps.stop * channels)


def blocks(batch: int, taps: int, numbers: int, limit: int) -> Iterator[Block]:
    """Cut taps and samples so that a block of `numbers` a tap of a sample stays below a limit."""
    some_taps = max(1, min(taps, limit // numbers))
    some_samples = max(1, limit // (numbers * some_taps))
    for sample in range(0, batch, some_samples):
        for tap in range(0, taps, some_taps):
            yield Block(
                slice(tap, min(tap + some_taps, taps)),
                slice(sample, min(sample + some_samples, batch)),
            )


class Places(NamedTuple):
    """Where the taps of a block stand on the rows of its samples, (T, S, Y, X) or (S, Y, X, T).

    Of the 4 pixels around every place `pixels` (T * M, 4) holds the rows, and `shares` how much of
    them is read. `down` and `right` lead in pixels from the first of them to the place, `mask` is
    the factor of what is read.
    """

    pixels: Tensor
    shares: Tensor
    down: Tensor
    right: Tensor
    mask: Tensor | None

    def read(self, rows: Tensor) -> Tensor:
        """Return what is read of rows (R, C) at every place, (T * M, C)."""
        return F.embedding_bag(self.pixels, rows, per_sample_weights=self.shares, mode="sum")

    def give_back(self, values: Tensor, rows: int, *, sets: int = 1) -> Tensor:
        """Return what every pixel is read for, the transpose of reading: (sets, R, C).

        `values` are those of all places, (T * M, C). Or the places are cut into sets, which all
        have the same values (T * M / sets, C); each is then given back alone.
        Sorted by pixel, this is a sum of rows again: several times as fast as to add row by row,
        and in the same order each time.
        """
        own = torch.arange(sets, device=values.device, dtype=torch.int32).unsqueeze(1)
        pixels = (self.pixels.view(sets, -1) + own * rows).flatten()
        order = pixels.sort(stable=True)[1]
        shares = self.shares.flatten()[order]
        places = (order.view(sets, -1) - own * (len(order) // sets)) >> 2
        counts = torch.bincount(pixels, minlength=sets * rows)
        sums = F.embedding_bag(
            places.flatten(), values, counts.cumsum(0) - counts,
            per_sample_weights=shares, mode="sum",
        )  # fmt: skip
        return sums.view(sets, rows, -1)

    def slopes(self, values: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of dy, dx and the mask for those of what is read, (T * M, C)."""
        pixels = self.pixels.flatten()
        entry = torch.arange(len(pixels), device=pixels.device, dtype=pixels.dtype)
        # the derivative of embedding_bag by its weights, which has no public name, but has taken
        # these arguments since torch 1.x; products would be four maps a tap
        products = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            values, rows, pixels, entry[::4].contiguous(), entry >> 2, 0
        )
        (a, b), (c, d) = (
            line.unbind(-1) for line in products.view(*self.down.shape, 2, 2).unbind(-2)
        )
        upper, lower = torch.lerp(a, b, self.right), torch.lerp(c, d, self.right)
        down, right = lower - upper, torch.lerp(b - a, d - c, self.down)
        if self.mask is not None:
            down, right = down * self.mask, right * self.mask
        return down, right, torch.lerp(upper, lower, self.down)


class Taps(NamedTuple):
    """Where all taps stand: their own places, what displaces them (dy, dx), and their factors.

    All have the axes of the places that `at` returns, taps first or last.
    """

    start: tuple[Tensor, Tensor]
    offset: tuple[Tensor, Tensor]
    mask: Tensor | None
    sides: tuple[int, int]
    last: bool

    @classmethod
    def of(
        cls, offset: Tensor, mask: Tensor | None, window: Window, maps: Rows, *, last: bool
    ) -> "Taps":
        """Return the taps of a window on maps, for offset (B, 2 * T, Y, X), mask (B, T, Y, X)."""
        size, stride, dilation = window
        reach = (torch.arange(size, device=offset.device) - size // 2) * dilation
        down, right = (
            (reach[:, None] + torch.arange(side, device=offset.device) * stride).to(maps.rows.dtype)
            for side in offset.shape[2:]
        )
        axis = -1 if last else 0
        start = (
            down.repeat_interleave(size, dim=0)[:, None, :, None].movedim(0, axis),
            right.repeat(size, 1)[:, None, None, :].movedim(0, axis),
        )
        dy, dx = offset[:, ::2], offset[:, 1::2]
        factor = None if mask is None else mask.movedim(1, axis)
        displaced = (dy.movedim(1, axis), dx.movedim(1, axis))
        return cls(start, displaced, factor, (maps.height, maps.width), last)

    def cut(self, whole: Tensor, block: Block) -> Tensor:
        """Return the part of a block, a view."""
        if self.last:
            return whole[block.samples, ..., block.taps]
        return whole[block.taps, block.samples]

    def write(self, parts: tuple[Tensor, Tensor, Tensor], block: Block) -> None:
        """Write dy, dx and factors of a block into their places."""
        for whole, part in zip((*self.offset, self.mask), parts, strict=True):
            if whole is not None:
                self.cut(whole, block).copy_(part)

    def at(self, block: Block) -> Places:
        """Return the places of a block."""
        alone = Block(block.taps, slice(None))
        y, x = (
            self.cut(start, alone) + self.cut(offset, block).contiguous()
            for start, offset in zip(self.start, self.offset, strict=True)
        )
        top, left = y.floor(), x.floor()
        down, right = y - top, x - left
        # what is no number stands beyond the border, and its shares are still no number
        top, left = (
            corner.nan_to_num_(-_MARGIN).clamp_(-_MARGIN, size).to(torch.int32)
            for corner, size in zip((top, left), self.sides, strict=True)
        )
        line = self.sides[1] + _MARGIN
        samples = torch.arange(y.shape[not self.last], device=y.device, dtype=torch.int32)
        samples = samples.view(-1, 1, 1, 1) if self.last else samples.view(-1, 1, 1)
        first = samples * ((self.sides[0] + _MARGIN) * line) + _MARGIN * (line + 1)
        mask = None if self.mask is None else self.cut(self.mask, block).to(y.dtype)
        pixels = _around(first + top * line + left, line)
        return Places(pixels, _shares(down, right, mask), down, right, mask)


def _around(first: Tensor, line: int) -> Tensor:
    """Return the 4 pixels around every place, in the order of `_shares`."""
    return torch.stack([first, first + 1, first + line, first + line + 1], dim=-1).flatten(0, 3)


def _shares(down: Tensor, right: Tensor, mask: Tensor | None) -> Tensor:
    """Return the shares of the 4 pixels around every place.

    Products of whole maps and one copy: a product of pairs is several times as slow.
    """
    upper, lower = (1 - down, down) if mask is None else (mask - mask * down, mask * down)
    upper_right, lower_right = upper * right, lower * right
    shares = [upper - upper_right, upper_right, lower - lower_right, lower_right]
    return torch.stack(shares, dim=-1).flatten(0, 3)
