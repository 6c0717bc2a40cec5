"""ContMix for large windows: the logits of a tile, their softmax, and one dense product.

The windows of a tile of positions lie inside one rectangle of keys. So the weights of a tile, put
where their taps lie in the rectangle, are a dense matrix, and the sums over the windows are its
product with the values: much of it is zeros, but it runs at the speed of a matrix product. No
weight outlives its tile; backward computes them again, from the logarithm of the sum of the
exponentials that forward returns. On a CPU every sum has a fixed order.

A value that is not finite reaches every position of its tile, as 0 times infinity is not 0.

Where no G follows it, B are the samples and groups of a tile as one axis. M are its positions, row
by row, N its keys, T the taps, and L the regions of the context.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

# Numbers of the dense matrix of a tile: with the weights they stay in the caches of a core. On a
# GPU, where every tile costs the start of a dozen kernels, larger ones are better.
_DENSE = 2**19
_DENSE_ON_GPU = 2**24
# Columns of a tile. Fewer mean fewer zeros, but smaller products and more calls: on maps of 28x28
# whole rows took 0.7 of the time of halves.
_COLUMNS = 28


class _Run(NamedTuple):
    """Positions along one axis of a tile whose windows move by `step` from each to the next.

    The first window begins at key `first`. In the middle of a map windows move by 1; near a border
    they stay where they are.
    """

    start: int
    stop: int
    first: int
    step: int


class _Cut(NamedTuple):
    """A tile along one axis: its positions, the keys that they see, and where windows begin.

    `entries` are those that the first taps of the positions have in the table.
    """

    positions: slice
    keys: slice
    runs: tuple[_Run, ...]
    entries: tuple[int, ...]


class _Tile(NamedTuple):
    """Positions of some samples and groups, and what is added to their logits."""

    samples: slice
    groups: slice
    rows: _Cut
    columns: _Cut
    bias_GMT: Tensor

    def positions(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW[self.samples, :, self.rows.positions, self.columns.positions]

    def keys(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW[self.samples, :, self.rows.keys, self.columns.keys]


def forward(
    values_BGCHW: Tensor,
    affinity_BGLHW: Tensor,
    weight_TL: Tensor,
    bias_T: Tensor,
    table_GYX: Tensor,
    kernel_size: int,
) -> tuple[Tensor, Tensor]:
    """Return the mixed values and the logarithm of the sum of the exponentials of all logits.

    Shape: values (B, G, C, H, W), affinity (B, G, L, H, W) -> (B, G, C, H, W), (B, G, H, W).
    """
    work = _Work((values_BGCHW, affinity_BGLHW, weight_TL, bias_T, table_GYX), kernel_size)
    out = torch.empty_like(values_BGCHW, memory_format=torch.contiguous_format)
    lse_BG1HW = out.new_empty(*out.shape[:2], 1, *out.shape[3:], dtype=work.dtype)
    out_BCHW, lse_B1HW = out.flatten(0, 1), lse_BG1HW.flatten(0, 1)
    for tile in work.tiles():
        weights_BMT = work.logits(tile)
        highest_BM = weights_BMT.amax(2)
        sums_BM = weights_BMT.sub_(highest_BM[..., None]).exp_().sum(2)
        dense_BMN = work.spread(tile, weights_BMT)
        mixed_BCM = work.multiply("mixed", work.values(tile), dense_BMN.mT)
        mixed, lse = tile.positions(out_BCHW), tile.positions(lse_B1HW)
        torch.div(mixed_BCM.view(mixed.shape), sums_BM.view(lse.shape), out=mixed)
        torch.add(highest_BM.view(lse.shape), sums_BM.view(lse.shape).log(), out=lse)
    return out, lse_BG1HW.squeeze(2)


def backward(
    grad_BGCHW: Tensor,
    values_BGCHW: Tensor,
    affinity_BGLHW: Tensor,
    weight_TL: Tensor,
    bias_T: Tensor,
    table_GYX: Tensor,
    out_BGCHW: Tensor,
    lse_BGHW: Tensor,
    kernel_size: int,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Return the gradients of values, affinity, weight, bias and table; None where not needed."""
    inputs = (values_BGCHW, affinity_BGLHW, weight_TL, bias_T, table_GYX)
    work = _Work(inputs, kernel_size)
    totals = _Totals(work, inputs, needs)
    grad_BCHW, lse_B1HW = grad_BGCHW.flatten(0, 1), lse_BGHW.flatten(0, 1)[:, None]
    # the sum over the taps that the gradient of a softmax subtracts
    inner_B1HW = (grad_BGCHW.to(work.dtype) * out_BGCHW).sum(2).flatten(0, 1)[:, None]
    for tile in work.tiles():
        weights_BMT = work.logits(tile, tile.positions(lse_B1HW)).exp_()
        grad_BCM = work.flat("grad", tile.positions(grad_BCHW))
        if needs[0]:
            totals.add_values(tile, grad_BCM, work.spread(tile, weights_BMT))
        if any(needs[1:]):
            dense_BMN = work.multiply("scores", grad_BCM.mT, work.values(tile))
            inner_BM1 = tile.positions(inner_B1HW).reshape(*weights_BMT.shape[:2], 1)
            logits_BMT = work.collect(tile, dense_BMN).sub_(inner_BM1).mul_(weights_BMT)
            totals.add_logits(tile, logits_BMT)
    return totals.grads(inputs)


class _Work:
    """The inputs as tiles see them, and memory that every tile uses again.

    Fresh memory would cost more than what is computed in it: it is given out page by page.
    """

    def __init__(self, inputs: Sequence[Tensor], kernel_size: int) -> None:
        values_BGCHW, affinity_BGLHW, *parameters = inputs
        # half precision is computed in full precision, a tile at a time
        self.dtype = torch.promote_types(values_BGCHW.dtype, torch.float32)
        self.kernel_size = kernel_size
        self._shape = values_BGCHW.shape
        self._values_BCHW = values_BGCHW.flatten(0, 1).contiguous()
        self._affinity_BLHW = affinity_BGLHW.flatten(0, 1).contiguous()
        self.weight_TL, self._bias_T, self._table_GYX = (x.to(self.dtype) for x in parameters)
        self._memory: dict[str, Tensor] = {}
        self._zeros: object = None  # where the dense matrix has them

    def tiles(self) -> Iterator[_Tile]:
        """Yield tiles that cover every position of every sample once."""
        height, width = self._shape[3:]
        for columns in _cuts(width, self.kernel_size, _COLUMNS):
            made_for: tuple[int, ...] = ()
            # so many rows: at a border they share one window
            for rows in _cuts(height, self.kernel_size, self.kernel_size // 2 + 1):
                if rows.entries != made_for:  # those in the middle of a map are the same
                    made_for, bias_GMT = rows.entries, self._bias(rows, columns)
                for samples, groups in self._parts(rows, columns):
                    yield _Tile(samples, groups, rows, columns, bias_GMT[groups])

    def logits(self, tile: _Tile, less_B1YX: Tensor | None = None) -> Tensor:
        """Return the logits of a tile, (B, M, T), less a number at each position."""
        affinity_BLM, (groups, *rest) = self.affinity(tile), tile.bias_GMT.shape
        logits_BGMT = self._take("logits", len(affinity_BLM) // groups, groups, *rest)
        if less_B1YX is None:
            logits_BGMT.copy_(tile.bias_GMT)
        else:
            less_BGM1 = less_B1YX.reshape(*logits_BGMT.shape[:3], 1)
            torch.sub(tile.bias_GMT, less_BGM1, out=logits_BGMT)
        weight_BLT = self.weight_TL.mT.expand(len(affinity_BLM), -1, -1)
        return logits_BGMT.flatten(0, 1).baddbmm_(affinity_BLM.mT, weight_BLT)

    def values(self, tile: _Tile) -> Tensor:
        """Return the values of the keys of a tile, (B, C, N)."""
        return self.flat("values", tile.keys(self._values_BCHW))

    def affinity(self, tile: _Tile) -> Tensor:
        """Return the affinities of the positions of a tile, (B, L, M)."""
        return self.flat("affinity", tile.positions(self._affinity_BLHW))

    def spread(self, tile: _Tile, weights_BMT: Tensor) -> Tensor:
        """Return the weights of a tile as a dense matrix, (B, M, N), with zeros among them."""
        keys = _length(tile.rows.keys) * _length(tile.columns.keys)
        if keys == self.kernel_size**2:
            return weights_BMT  # all positions share one window
        dense_BMN = self._take("dense", *weights_BMT.shape[:2], keys)
        zeros = (dense_BMN.shape, tile.rows.runs, tile.columns.runs)
        if zeros != self._zeros:
            self._zeros = zeros
            dense_BMN.zero_()
        for window, weights in self._windows(tile, dense_BMN, weights_BMT):
            window.copy_(weights)
        return dense_BMN

    def collect(self, tile: _Tile, dense_BMN: Tensor) -> Tensor:
        """Return what a dense matrix has at the taps, (B, M, T)."""
        taps_BMT = self._take("taps", *dense_BMN.shape[:2], self.kernel_size**2)
        for window, taps in self._windows(tile, dense_BMN, taps_BMT):
            taps.copy_(window)
        return taps_BMT

    def flat(self, name: str, x_BCYX: Tensor) -> Tensor:
        """Return a part of a map as (B, C, Y * X), copied only if it must be."""
        if x_BCYX.dtype == self.dtype and x_BCYX.stride()[2:] == (x_BCYX.shape[3], 1):
            return x_BCYX.flatten(2)
        return self._take(name, *x_BCYX.shape).copy_(x_BCYX).flatten(2)

    def multiply(self, name: str, left_BIJ: Tensor, right_BJK: Tensor) -> Tensor:
        """Return the matrix products, (B, I, K)."""
        shape = (*left_BIJ.shape[:2], right_BJK.shape[2])
        return torch.bmm(left_BIJ, right_BJK, out=self._take(name, *shape))

    def _bias(self, rows: _Cut, columns: _Cut) -> Tensor:
        """Return bias and entry of the table for every tap of every position: (G, M, T)."""
        size = self.kernel_size
        taps = [[entry + tap for tap in range(size)] for entry in columns.entries]
        table_GXYV = self._table_GYX[:, :, taps].transpose(1, 2)
        lines = [table_GXYV[:, :, entry : entry + size] for entry in rows.entries]
        return torch.stack(lines, dim=1).flatten(3).flatten(1, 2).add_(self._bias_T)

    def _parts(self, rows: _Cut, columns: _Cut) -> Iterator[tuple[slice, slice]]:
        """Yield where B begins and ends, and the groups: all of some samples, or some of one."""
        batch, groups = self._shape[:2]
        limit = _DENSE if self.weight_TL.device.type == "cpu" else _DENSE_ON_GPU
        numbers = [_length(part) for cut in (rows, columns) for part in (cut.positions, cut.keys)]
        together = limit // prod(numbers)
        for part, few in product(split(groups, together), split(batch, together // groups)):
            last = (few.stop - 1) * groups + part.stop
            yield slice(few.start * groups + part.start, last), part

    def _windows(
        self, tile: _Tile, dense_BMN: Tensor, taps_BMT: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the taps of some positions as views: in the dense matrix, and side by side."""
        rows, columns = _length(tile.rows.positions), _length(tile.columns.positions)
        width, size = _length(tile.columns.keys), self.kernel_size
        sample, position, _ = dense_BMN.stride()
        taps_BYXVU = taps_BMT.view(-1, rows, columns, size, size)
        for row, column in product(tile.rows.runs, tile.columns.runs):
            taps = taps_BYXVU[:, row.start : row.stop, column.start : column.stop]
            line = columns * position
            first = row.start * line + row.first * width + column.start * position + column.first
            steps = (sample, line + row.step * width, position + column.step, width, 1)
            yield dense_BMN.as_strided(taps.shape, steps, dense_BMN.storage_offset() + first), taps

    def _take(self, name: str, *shape: int) -> Tensor:
        """Return memory by name; it holds what it did when it was last taken in this shape."""
        numbers = prod(shape)
        if name not in self._memory or len(self._memory[name]) < numbers:
            self._memory[name] = self.weight_TL.new_empty(numbers)
        return self._memory[name][:numbers].view(shape)


class _Totals:
    """The gradients, to which every tile adds its part."""

    def __init__(self, work: _Work, inputs: Sequence[Tensor], needs: Sequence[bool]) -> None:
        self._work, self._needs = work, needs
        # each affinity belongs to one tile, so nothing is summed in half precision
        dtypes = [work.dtype, inputs[1].dtype, *[work.dtype] * 3]
        self._values, self._affinity, self._weight, self._bias, self._table = (
            torch.zeros(x.shape, dtype=dtype, device=x.device)
            for x, dtype in zip(inputs, dtypes, strict=True)
        )
        # that of the table, still apart for each column of the map
        groups, height, _ = self._table.shape
        self._table_GXYV = self._table.new_zeros(
            groups, inputs[0].shape[-1], height, work.kernel_size
        )

    def add_values(self, tile: _Tile, grad_BCM: Tensor, dense_BMN: Tensor) -> None:
        """Add what the positions of a tile send back to their keys."""
        keys = tile.keys(self._values.flatten(0, 1))
        keys += self._work.multiply("back", grad_BCM, dense_BMN).view(keys.shape)

    def add_logits(self, tile: _Tile, logits_BMT: Tensor) -> None:
        """Add what the logits of a tile, by their gradients, send back."""
        work = self._work
        if self._needs[1]:
            weight_BLT = work.weight_TL.mT.expand(len(logits_BMT), -1, -1)
            places = tile.positions(self._affinity.flatten(0, 1))
            places.copy_(work.multiply("regions", weight_BLT, logits_BMT.mT).view(places.shape))
        if self._needs[2]:
            self._weight.addbmm_(logits_BMT.mT, work.affinity(tile).mT)
        if self._needs[3] or self._needs[4]:
            self._add_bias(tile, logits_BMT.view(-1, *tile.bias_GMT.shape).sum(0))

    def _add_bias(self, tile: _Tile, logits_GMT: Tensor) -> None:
        self._bias += logits_GMT.sum((0, 1))
        rows, columns = tile.rows.entries, tile.columns
        size = self._work.kernel_size
        logits_GYXVU = logits_GMT.view(-1, len(rows), len(columns.entries), size, size)
        for entry in dict.fromkeys(rows):  # those that are equal stand side by side
            same = slice(rows.index(entry), rows.index(entry) + rows.count(entry))
            place = self._table_GXYV[tile.groups, columns.positions, entry : entry + size]
            place += logits_GYXVU[:, same].sum(1)

    def grads(self, inputs: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        """Return them all, each in the precision of its input."""
        width, size = self._table_GXYV.shape[1], self._work.kernel_size
        for position in range(width):
            first = entry(position, width, size)
            self._table[..., first : first + size] += self._table_GXYV[:, position]
        totals = (self._values, self._affinity, self._weight, self._bias, self._table)
        return tuple(
            total.to(x.dtype) if need else None
            for total, x, need in zip(totals, inputs, self._needs, strict=True)
        )


def _cuts(size: int, kernel_size: int, most: int) -> Iterator[_Cut]:
    """Yield tiles of at most so many positions, of about the same size, along one axis."""
    half = kernel_size // 2
    for cut in split(size, most):
        first = begin(cut.start, size, kernel_size)
        last = begin(cut.stop - 1, size, kernel_size)
        edges = [edge for edge in (half, size - kernel_size + half) if cut.start < edge < cut.stop]
        runs = []
        for start, stop in pairwise([cut.start, *dict.fromkeys(edges), cut.stop]):
            near, far = (begin(at, size, kernel_size) for at in (start, stop - 1))
            runs.append(_Run(start - cut.start, stop - cut.start, near - first, min(1, far - near)))
        entries = tuple(entry(i, size, kernel_size) for i in range(cut.start, cut.stop))
        yield _Cut(cut, slice(first, last + kernel_size), tuple(runs), entries)


def split(size: int, most: int) -> list[slice]:
    """Cut so many things into parts of at most so many, but of one at least, about the same."""
    parts = -(-size // max(1, most))
    edges = [size * part // parts for part in range(parts + 1)] if parts else []
    return [slice(start, stop) for start, stop in pairwise(edges)]


def begin(position: int, size: int, kernel_size: int) -> int:
    """Return where the window of a position begins: centred, but shifted inward to stay full."""
    return min(max(position - kernel_size // 2, 0), size - kernel_size)


def entry(position: int, size: int, kernel_size: int) -> int:
    """Return the entry of the table for the first tap; that of the position is kernel_size - 1."""
    return begin(position, size, kernel_size) - position + kernel_size - 1


def _length(part: slice) -> int:
    return part.stop - part.start  # type: ignore[no-any-return]
