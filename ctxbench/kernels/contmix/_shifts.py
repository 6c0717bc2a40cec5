"""ContMix for small windows: a map is shifted, weighted and added up in place, tap by tap.

A map that goes on beyond each border with the values one period of K positions away turns windows
that are shifted inward into plain ones, with their taps in turned order. Its lines stand one after
another, so every tap of all positions is one piece of memory; what comes out in the margin of a
line is left there. The weights are those of some samples and groups at a time; backward computes
them again. On a CPU every sum has a fixed order.

Where no G follows it, B are the samples and groups of a part as one axis. M are the positions, T
the K * K taps, L the regions of the context, P the positions with the margins of their lines, and
R those of the map that goes on. Memory by name begins as zeros, and no margin of weights ever
holds more than finite numbers.
"""

from collections.abc import Iterator, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ctxbench.kernels.contmix._tiles import begin, entry, split

# Numbers of the weights of a part: with what is made of them they stay in the second cache of a
# core. 2**17 took 1.3 times as long at 28x28 and K = 7. On a GPU, where every part costs the start
# of a hundred kernels, larger ones are better.
_WEIGHTS = 2**19
_WEIGHTS_ON_GPU = 2**24


class _Part(NamedTuple):
    """Samples and groups that are computed at once, and what is added to their logits."""

    samples: slice
    groups: slice
    bias_GTM: Tensor


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
    lse = out.new_empty(*out.shape[:2], *out.shape[3:], dtype=work.dtype)
    for part in work.parts():
        weights_BTP = work.logits(part, work.affinity(part))
        highest_BP = weights_BTP.amax(1)
        sums_BP = weights_BTP.sub_(highest_BP.unsqueeze(1)).exp_().sum(1)
        map_BCR = work.go_on(part)
        mixed_BCP = work.take("mixed", *map_BCR.shape[:2], work.span).zero_()
        for tap, weight_BP in enumerate(weights_BTP.unbind(1)):
            mixed_BCP.addcmul_(weight_BP.unsqueeze(1), work.at(tap, map_BCR))
        mixed, sums, highest = map(work.inner, (mixed_BCP, sums_BP, highest_BP))
        torch.div(mixed, sums.unsqueeze(1), out=out.flatten(0, 1)[part.samples])
        torch.add(highest, sums.log(), out=lse.flatten(0, 1)[part.samples])
    return out, lse


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
    # the sum over the taps that the gradient of a softmax subtracts
    inner_BHW = (grad_BGCHW.to(work.dtype) * out_BGCHW).sum(2).neg_().flatten(0, 1)
    grad_BCHW, lse_BHW = grad_BGCHW.flatten(0, 1), lse_BGHW.flatten(0, 1)
    for part in work.parts():
        affinity_BLM = work.affinity(part)
        weights_BTP = work.logits(part, affinity_BLM)
        # exponentials in the margin are zero
        weights_BTP.sub_(work.widen("lse", lse_BHW[part.samples, None], margin=torch.inf)).exp_()
        grad_BCP = work.widen("grad", grad_BCHW[part.samples], margin=0)
        if any(needs[1:]):
            inner_B1P = work.widen("inner", inner_BHW[part.samples, None], margin=0)
            scores_BTP = work.scores(grad_BCP, work.go_on(part), inner_B1P).mul_(weights_BTP)
            totals.add_logits(part, work.turn_back(scores_BTP), affinity_BLM)
        if needs[0]:
            totals.add_values(part, grad_BCP, weights_BTP)
    return totals.grads()


class _Work:
    """The inputs part by part, and memory that every part uses again."""

    def __init__(self, inputs: Sequence[Tensor], kernel_size: int) -> None:
        values_BGCHW, affinity_BGLHW, *parameters = inputs
        # half precision is computed in full precision, a part at a time
        self.dtype = torch.promote_types(values_BGCHW.dtype, torch.float32)
        self.kernel_size, self.reach = kernel_size, kernel_size // 2
        self.shape, self.size = values_BGCHW.shape[:2], values_BGCHW.shape[3:]
        self._line = self.size[1] + 2 * self.reach
        self.span = self.size[0] * self._line
        self._values_BCHW = values_BGCHW.flatten(0, 1)
        self._affinity_BLHW = affinity_BGLHW.flatten(0, 1)
        self.weight_TL, self._bias_T, self._table_GYX = (x.to(self.dtype) for x in parameters)
        device = values_BGCHW.device
        down, right = (
            torch.tensor([entry(i, side, kernel_size) for i in range(side)], device=device)
            for side in self.size
        )
        # which K x K entries of the table the taps of a position have
        self.entries_M = (down[:, None] * kernel_size + right).flatten()
        self._memory: dict[str, Tensor] = {}

    def parts(self) -> Iterator[_Part]:
        """Yield all groups of some samples, or some groups of one: every one once."""
        batch, groups = self.shape
        on_cpu = self.weight_TL.device.type == "cpu"
        limit = _WEIGHTS if on_cpu else _WEIGHTS_ON_GPU
        together = limit // (len(self._bias_T) * self.span)
        for some in split(groups, together):
            entries_GTE = F.unfold(self._table_GYX[some, None], self.kernel_size)
            bias_GTM = entries_GTE[..., self.entries_M].add_(self._bias_T[:, None])
            for few in split(batch, together // groups):
                first, last = few.start * groups + some.start, (few.stop - 1) * groups + some.stop
                yield _Part(slice(first, last), some, bias_GTM)

    def affinity(self, part: _Part) -> Tensor:
        """Return the affinities of a part, (B, L, M), copied only if they must be."""
        x = self._affinity_BLHW[part.samples]
        if x.dtype == self.dtype and x.is_contiguous():
            return x.flatten(2)
        return self.take("affinity", *x.shape).copy_(x).flatten(2)

    def logits(self, part: _Part, affinity_BLM: Tensor) -> Tensor:
        """Return the logits of a part with their taps in turned order, (B, T, P)."""
        shape = (len(affinity_BLM), *self.weight_TL.shape[:1])
        compact_BTM = self.take("compact", *shape, affinity_BLM.shape[2])
        torch.bmm(self.weight_TL.expand(shape[0], -1, -1), affinity_BLM, out=compact_BTM)
        turned_BTP = self.take("turned", *shape, self.span)
        groups = len(part.bias_GTM)
        compact, bias, turned = (
            self._taps(x).view(-1, groups, *self._taps(x).shape[1:])
            for x in (compact_BTM, part.bias_GTM, turned_BTP)
        )
        torch.add(compact, bias, out=turned[..., : self.size[1]])
        for column, turn in self._turns(self.size[1]):
            for here, there in self._halves(turn):
                parts = (x[..., there, :, column] for x in (compact, bias))
                torch.add(*parts, out=turned[..., here, :, column])
        for row, turn in self._turns(self.size[0]):
            lines = turned[..., row, :]
            lines.copy_(lines.roll(-turn, 2))
        return turned_BTP

    def turn_back(self, turned_BTP: Tensor) -> Tensor:
        """Return numbers with their taps in the order of the shifted windows, (B, T, M)."""
        compact_BTM = self.take("compact", *turned_BTP.shape[:2], prod(self.size))
        compact, turned = self._taps(compact_BTM), self._taps(turned_BTP)
        for row, turn in self._turns(self.size[0]):
            lines = turned[..., row, :]
            lines.copy_(lines.roll(turn, 1))
        compact.copy_(turned[..., : self.size[1]])
        for column, turn in self._turns(self.size[1]):
            for here, there in self._halves(turn):
                compact[..., there, :, column] = turned[..., here, :, column]
        return compact_BTM

    def scores(self, grad_BCP: Tensor, map_BCR: Tensor, less_B1P: Tensor) -> Tensor:
        """Return the gradient of all weights and a number at each position, (B, T, P)."""
        size, batch = self.kernel_size, len(grad_BCP)
        scores_BYXP = self.take("scores", batch, size, size, self.span)
        total = less_B1P.unsqueeze(1)
        for grad_BP, one_BR in zip(grad_BCP.unbind(1), map_BCR.unbind(1), strict=True):
            taps_BYXP = one_BR.as_strided(
                scores_BYXP.shape, (one_BR.stride(0), self._line, 1, 1), one_BR.storage_offset()
            )
            total = torch.addcmul(total, taps_BYXP, grad_BP[:, None, None], out=scores_BYXP)
        return scores_BYXP.flatten(1, 2)

    def go_on(self, part: _Part) -> Tensor:
        """Return the maps of a part with what they go on with, (B, C, R)."""
        (height, width), size, reach = self.size, self.kernel_size, self.reach
        x = self._values_BCHW[part.samples]
        flat_BCR = self.room(*x.shape[:2])
        lines = self._lines(flat_BCR)
        rows = lines[:, :, reach : reach + height]
        rows[..., reach : reach + width] = x
        rows[..., :reach] = x[..., size - reach : size]
        rows[..., reach + width :] = x[..., width - size : width - size + reach]
        lines[:, :, :reach] = lines[:, :, size : size + reach]
        last = reach + height
        lines[:, :, last:] = lines[:, :, last - size : last - size + reach]
        return flat_BCR

    def fold(self, flat_BCR: Tensor) -> Tensor:
        """Return the transpose of `go_on`: what goes on is added to the values it repeats."""
        (height, width), size, reach = self.size, self.kernel_size, self.reach
        lines, last = self._lines(flat_BCR), reach + height
        lines[:, :, last - size : last - size + reach] += lines[:, :, last:]
        lines[:, :, size : size + reach] += lines[:, :, :reach]
        rows, last = lines[:, :, reach : reach + height], reach + width
        rows[..., last - size : last - size + reach] += rows[..., last:]
        rows[..., size : size + reach] += rows[..., :reach]
        return rows[..., reach : reach + width]

    def room(self, batch: int, channels: int) -> Tensor:
        """Return memory for maps that go on, with as much behind them as the last tap sees."""
        numbers = (self.size[0] + 2 * self.reach) * self._line + 2 * self.reach
        return self.take("map", batch, channels, numbers)

    def at(self, tap: int, flat_BCR: Tensor) -> Tensor:
        """Return what a tap sees of maps that go on, a view (B, C, P)."""
        row, column = divmod(tap, self.kernel_size)
        return flat_BCR.narrow(2, row * self._line + column, self.span)

    def widen(self, name: str, x_BCHW: Tensor, *, margin: float) -> Tensor:
        """Return maps whose lines have a margin of one number, (B, C, P)."""
        wide = self.take(name, *x_BCHW.shape[:3], self._line)
        wide[..., : self.size[1]] = x_BCHW
        wide[..., self.size[1] :] = margin
        return wide.flatten(2)

    def inner(self, x_BP: Tensor) -> Tensor:
        """Return numbers without the margins of their lines, a view."""
        return x_BP.view(*x_BP.shape[:-1], self.size[0], self._line)[..., : self.size[1]]

    def take(self, name: str, *shape: int) -> Tensor:
        """Return memory by name; it holds what it did when it was last taken."""
        numbers = prod(shape)
        if name not in self._memory or len(self._memory[name]) < numbers:
            self._memory[name] = self.weight_TL.new_zeros(numbers)
        return self._memory[name][:numbers].view(shape)

    def _taps(self, x_BTP: Tensor) -> Tensor:
        """Return rows and columns of taps and of positions apart."""
        return x_BTP.view(-1, self.kernel_size, self.kernel_size, self.size[0],
                          x_BTP.shape[2] // self.size[0])  # fmt: skip

    def _lines(self, flat_BCR: Tensor) -> Tensor:
        rows = self.size[0] + 2 * self.reach
        return flat_BCR[..., : rows * self._line].view(*flat_BCR.shape[:2], rows, self._line)

    def _turns(self, side: int) -> Iterator[tuple[int, int]]:
        """Yield positions at a border, and by how many taps the order of theirs is turned."""
        for i in (*range(self.reach), *range(side - self.reach, side)):
            yield i, (i - self.reach - begin(i, side, self.kernel_size)) % self.kernel_size

    def _halves(self, turn: int) -> Iterator[tuple[slice, slice]]:
        """Yield taps in turned order, and where these are in the shifted window."""
        rest = self.kernel_size - turn
        yield slice(rest), slice(turn, None)
        yield slice(rest, None), slice(turn)


class _Totals:
    """The gradients, to which every part adds its own."""

    def __init__(self, work: _Work, inputs: Sequence[Tensor], needs: Sequence[bool]) -> None:
        self._work, self._inputs, self._needs = work, inputs, needs
        # each value and affinity belongs to one part, so nothing is summed in half precision
        self._values, self._affinity = (
            torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs[:2]
        )
        self._weight_TL = torch.zeros_like(work.weight_TL)
        groups, taps = work.shape[1], len(work.weight_TL)
        self._bias_GTM = self._weight_TL.new_zeros(groups, taps, prod(work.size))

    def add_values(self, part: _Part, grad_BCP: Tensor, weights_BTP: Tensor) -> None:
        """Add what the positions of a part send back to their windows."""
        work = self._work
        map_BCR = work.room(*grad_BCP.shape[:2]).zero_()
        for tap, weight_BP in enumerate(weights_BTP.unbind(1)):
            work.at(tap, map_BCR).addcmul_(weight_BP.unsqueeze(1), grad_BCP)
        self._values.flatten(0, 1)[part.samples] = work.fold(map_BCR)

    def add_logits(self, part: _Part, logits_BTM: Tensor, affinity_BLM: Tensor) -> None:
        """Add what the logits of a part, by their gradients, send back."""
        work, batch = self._work, len(logits_BTM)
        if self._needs[1]:
            regions_BLM = work.take("regions", *affinity_BLM.shape)
            torch.bmm(work.weight_TL.mT.expand(batch, -1, -1), logits_BTM, out=regions_BLM)
            places = self._affinity.flatten(0, 1)[part.samples]
            places.copy_(regions_BLM.view(places.shape))
        if self._needs[2]:
            products_BTL = work.take("products", batch, *work.weight_TL.shape)
            self._weight_TL += torch.bmm(logits_BTM, affinity_BLM.mT, out=products_BTL).sum(0)
        if self._needs[3] or self._needs[4]:
            self._bias_GTM[part.groups] += logits_BTM.view(-1, *part.bias_GTM.shape).sum(0)

    def grads(self) -> tuple[Tensor | None, ...]:
        """Return them all, each in the precision of its input."""
        size, bias_GTM = self._work.kernel_size, self._bias_GTM
        entries_GTE = bias_GTM.new_zeros(*bias_GTM.shape[:2], size**2)
        entries_GTE.index_add_(2, self._work.entries_M, bias_GTM)
        table_GYX = F.fold(entries_GTE, (2 * size - 1,) * 2, size).squeeze(1)
        totals = (self._values, self._affinity, self._weight_TL, bias_GTM.sum((0, 2)), table_GYX)
        return tuple(
            total.to(x.dtype) if need else None
            for total, x, need in zip(totals, self._inputs, self._needs, strict=True)
        )
