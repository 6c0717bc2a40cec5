"""Convolution at displaced taps: some taps of some samples at a time, read once more backward.

Nothing but the inputs is kept for the backward pass, and what a block of taps reads stays in the
cache of a processor. Letters of the shapes: T taps and S samples of a block, N = Y * X places of a
sample, M = S * N, R rows of a map. On a CPU every sum has one order, so results repeat exactly.
"""

from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch import Tensor

from ctxbench.kernels.ctxconv import _in_place
from ctxbench.kernels.ctxconv._places import Block, Places, Rows, Taps, blocks
from ctxbench.kernels.ctxconv._reference import Window


def forward(
    x: Tensor,
    weight: Tensor,
    change_BCT: Tensor | None,
    offset: Tensor | None,
    mask: Tensor | None,
    window: Window,
    groups: int,
) -> Tensor:
    """Return the convolution (B, O, Y, X), in the type of the offset, or of x without one."""
    if offset is None:
        return _in_place.forward(x, weight, change_BCT, window, groups)
    maps = Rows.holding(x)
    kernels = (_Dense if groups == 1 else _Depthwise)(weight, change_BCT, maps)
    taps = Taps.of(offset, mask, window, maps, last=kernels.taps_last)
    out_BNO = maps.rows.new_zeros(len(x), prod(offset.shape[2:]), len(weight))
    for block in _blocks(x, offset, window, kernels.numbers):
        # no name holds what is read: the next block would be read while it is still there
        kernels.add_products(
            out_BNO[block.samples], taps.at(block).read(maps.some(block.samples)), block
        )
    y = out_BNO.transpose(1, 2).reshape(len(x), len(weight), *offset.shape[2:])
    return y.to(offset.dtype).contiguous()


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
    """Return the gradients of the first five inputs of `forward`, None for what is not needed."""
    if offset is None:
        return _in_place.backward(grad, x, weight, change_BCT, window, groups, needs)
    maps = Rows.holding(x)
    kernels = (_Dense if groups == 1 else _Depthwise)(weight, change_BCT, maps)
    taps = Taps.of(offset, mask, window, maps, last=kernels.taps_last)
    grad_BNO = grad.to(maps.rows.dtype).flatten(2).transpose(1, 2).contiguous()
    grad_maps = Rows(torch.zeros_like(maps.rows), *maps[1:])
    count = window.kernel_size**2
    grad_offset, grad_mask = (
        maps.rows.new_empty(len(x), size * count, *offset.shape[2:]) for size in (2, 1)
    )
    moved = Taps.of(grad_offset, grad_mask, window, maps, last=kernels.taps_last)
    for block in _blocks(x, offset, window, kernels.numbers):
        places, rows = taps.at(block), maps.some(block.samples)
        given_SNO = grad_BNO[block.samples]
        values = kernels.spread(given_SNO, block)
        moved.write(places.slopes(values, rows), block)
        kernels.differentiate(places, block, maps, grad_maps, given_SNO, values)
    found = (grad_maps.maps(), *kernels.gradients(weight), grad_offset, grad_mask)
    return tuple(
        gradient.to(given.dtype).contiguous() if given is not None and needed else None
        for gradient, given, needed in zip(
            found, (x, weight, change_BCT, offset, mask), needs, strict=True
        )
    )


def _blocks(x: Tensor, offset: Tensor, window: Window, limit: int) -> Iterator[Block]:
    numbers = max(1, x.shape[1] * prod(offset.shape[2:]))
    return blocks(len(x), window.kernel_size**2, numbers, limit)


class _Dense:
    """Kernels from all channels to all; the change of a sample is the same for every output.

    So it is multiplied once, and no sample needs a weight of its own. Taps come last, and what
    those of a place read is one row, of K = T * C numbers. Of few places that is copied into the
    order of the weight, else the weight into that of what is read.
    """

    taps_last = True
    # that the taps of a block read at once; 2**19 is 1.3 times as slow at 128 channels and 28x28
    numbers = 2**21

    def __init__(self, weight: Tensor, change_BCT: Tensor | None, maps: Rows) -> None:
        exact = maps.rows.dtype
        self.channels = weight.shape[1]
        pixels = maps.batch * maps.height * maps.width
        # the copy of the weight took a quarter of the time at 512 channels and one map of 7x7
        self.channels_first = pixels < len(weight) and (
            pixels * self.channels * weight[0, 0].numel() <= self.numbers
        )
        order = (0, 1, 2) if self.channels_first else (0, 2, 1)
        self.weight_OK = weight.to(exact).flatten(2).permute(order).flatten(1)
        self.change_BK = None
        if change_BCT is not None:
            self.change_BK = change_BCT.to(exact).permute(order).flatten(1)
        self.grad_OK = torch.zeros_like(self.weight_OK)
        self.grad_BK = self.grad_OK.new_zeros(maps.batch, self.grad_OK.shape[1])

    def add_products(self, out_SNO: Tensor, read: Tensor, block: Block) -> None:
        """Add to the output what the taps read, times their kernels."""
        columns = block.columns(self.channels)
        read_MK = self._one_row(read, out_SNO.shape[:2].numel())
        out_SNO.flatten(0, 1).addmm_(read_MK, self.weight_OK[:, columns].T)
        if self.change_BK is not None:
            read_SNK = read_MK.view(*out_SNO.shape[:2], -1)
            changes = self.change_BK[block.samples, columns]
            for out_NO, read_NK, change_K in zip(out_SNO, read_SNK, changes, strict=True):
                out_NO.add_((read_NK @ change_K).unsqueeze(1))

    def spread(self, given_SNO: Tensor, block: Block) -> Tensor:
        """Return the gradient of what the taps read, (M * T, C)."""
        columns = block.columns(self.channels)
        values_MK = given_SNO.flatten(0, 1) @ self.weight_OK[:, columns]
        if self.change_BK is not None:
            values_SNK = values_MK.view(*given_SNO.shape[:2], -1)
            change_S1K = self.change_BK[block.samples, columns].unsqueeze(1)
            values_SNK.addcmul_(given_SNO.sum(2, keepdim=True), change_S1K)
        if self.channels_first:
            values_MK = values_MK.view(len(values_MK), self.channels, -1).transpose(1, 2)
        return values_MK.reshape(-1, self.channels)

    def _one_row(self, read: Tensor, places: int) -> Tensor:
        """Return what all taps read, (M * T, C), as a row a place, (M, K)."""
        if self.channels_first:
            return read.view(places, -1, self.channels).transpose(1, 2).flatten(1)
        return read.view(places, -1)

    def differentiate(
        self,
        places: Places,
        block: Block,
        maps: Rows,
        grad_maps: Rows,
        given_SNO: Tensor,
        values: Tensor,
    ) -> None:
        """Add up the gradients of the maps and of the kernels."""
        grad_rows, columns = grad_maps.some(block.samples), block.columns(self.channels)
        grad_rows += places.give_back(values, len(grad_rows))[0]
        read = places.read(maps.some(block.samples))
        read_MK = self._one_row(read, given_SNO.shape[:2].numel())
        self.grad_OK[:, columns].addmm_(given_SNO.flatten(0, 1).T, read_MK)
        given_S1N = given_SNO.sum(2).unsqueeze(1)
        sums_S1K = given_S1N @ read_MK.view(*given_SNO.shape[:2], -1)
        self.grad_BK[block.samples, columns] = sums_S1K.squeeze(1)

    def gradients(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of the weight and of its change (B, C, T)."""
        taps = weight[0, 0].numel()
        grad_OCT, grad_BCT = (
            grad.view(len(grad), self.channels, taps)
            if self.channels_first
            else grad.view(len(grad), taps, self.channels).transpose(1, 2)
            for grad in (self.grad_OK, self.grad_BK)
        )
        return grad_OCT.reshape(weight.shape), grad_BCT


class _Depthwise:
    """A kernel a channel, which every sample changes. Taps come first.

    A pixel takes the same kernel from all that read it: so the gradient goes back first, and the
    kernels and their gradient meet it there, without reading again.
    """

    taps_last = False
    # that the taps of a block read at once; 2**19 is 1.2 times as slow at 96 channels and 28x28
    numbers = 2**20

    def __init__(self, weight: Tensor, change_BCT: Tensor | None, maps: Rows) -> None:
        kernels = weight.to(maps.rows.dtype).flatten(1)
        kernels = kernels if change_BCT is None else kernels + change_BCT
        self.kernels_BTC = (
            kernels.T.expand(maps.batch, -1, -1)
            if change_BCT is None
            else (kernels.transpose(1, 2).contiguous())
        )
        self.grad_BTC = kernels.new_zeros(self.kernels_BTC.shape)

    def add_products(self, out_SNC: Tensor, read: Tensor, block: Block) -> None:
        """Add to the output what the taps read, times their kernels."""
        kernels_STC = self.kernels_BTC[block.samples, block.taps]
        read_TSNC = read.view(-1, *out_SNC.shape)
        for read_SNC, kernel_SC in zip(read_TSNC, kernels_STC.unbind(1), strict=True):
            out_SNC.addcmul_(read_SNC, kernel_SC.unsqueeze(1))

    def spread(self, given_SNC: Tensor, block: Block) -> Tensor:
        """Return the gradient of what the taps read, (T * M, C)."""
        kernels_TSC = self.kernels_BTC[block.samples, block.taps].transpose(0, 1)
        return (kernels_TSC.unsqueeze(2) * given_SNC).flatten(0, 2)

    def differentiate(
        self,
        places: Places,
        block: Block,
        maps: Rows,
        grad_maps: Rows,
        given_SNC: Tensor,
        values: Tensor,
    ) -> None:
        """Add up the gradients of the maps and of the kernels; `values` is not needed."""
        maps_SRC, grad_SRC = maps.each(block.samples), grad_maps.each(block.samples)
        kernels_STC = self.kernels_BTC[block.samples, block.taps]
        rows, sets = len(maps.some(block.samples)), kernels_STC.shape[1]
        given_TRC = places.give_back(given_SNC.flatten(0, 1), rows, sets=sets)
        given_TSRC = given_TRC[:, : maps_SRC.shape[:2].numel()].view(-1, *maps_SRC.shape)
        for given_SRC, kernel_SC in zip(given_TSRC, kernels_STC.unbind(1), strict=True):
            grad_SRC.addcmul_(given_SRC, kernel_SC.unsqueeze(1))
        sums_TSC = given_TSRC.mul_(maps_SRC).sum(2)
        self.grad_BTC[block.samples, block.taps] = sums_TSC.transpose(0, 1)

    def gradients(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of the weight and of its change (B, C, T)."""
        return self.grad_BTC.sum(0).T.reshape(weight.shape), self.grad_BTC.transpose(1, 2)
