"""The kernels of all positions, and a weighted sum over windows that stay inside the map."""

import torch
from torch import Tensor
from torch.nn import functional as F


def make_kernels(
    affinity_BGLHW: Tensor, weight_TL: Tensor, bias_T: Tensor, table_GYX: Tensor
) -> Tensor:
    """Return the kernel of every position, (B, G, T, H, W), which sums to one over its taps."""
    height, width = affinity_BGLHW.shape[-2:]
    heads_BLHW = affinity_BGLHW.flatten(0, 1)  # those of all samples share one projection
    logits = F.conv2d(heads_BLHW, weight_TL[:, :, None, None], bias_T)
    logits = logits.reshape(*affinity_BGLHW.shape[:2], len(weight_TL), height, width)
    return (logits + spread_bias(table_GYX, height, width)).softmax(2)


def aggregate(values_BGCHW: Tensor, weights_BGTHW: Tensor, kernel_size: int) -> Tensor:
    """Return at every position the weighted sum of its window: (B, G, C, H, W).

    T are the kernel_size^2 taps of the window, row by row. Near a border the window is shifted
    inward to stay full, so the map must be at least as large as the window.

    Any kernel_size positions in a row hold each remainder modulo kernel_size once. So a map that
    goes on beyond each border with the values one period away turns the shifted windows into
    plain ones, with the taps in turned order: every tap is a view of one map, and that map is all
    that autograd keeps, where an unfold would keep kernel_size^2 of them.
    """
    height, width = values_BGCHW.shape[-2:]
    weights = weights_BGTHW.to(values_BGCHW.dtype)  # autocast leaves a softmax in float32
    turned = weights.gather(2, _turn(weights, kernel_size).expand_as(weights))
    continued = _continue(_continue(values_BGCHW, kernel_size, -2), kernel_size, -1)
    # unbound at once: a slice for each tap would get a gradient as large as all weights
    taps = turned.unsqueeze(2).unbind(3)
    out = torch.zeros_like(values_BGCHW)
    for row in range(kernel_size):
        line = torch.zeros_like(out)  # summed by itself, which rounds less in half precision
        for column in range(kernel_size):
            shifted = continued[..., row : row + height, column : column + width]
            line = torch.addcmul(line, taps[row * kernel_size + column], shifted)
        out = out + line
    return out


def spread_bias(table_GYX: Tensor, height: int, width: int) -> Tensor:
    """Return the bias of every tap at every position: (G, taps, H, W)."""
    kernel_size = (table_GYX.shape[-1] + 1) // 2
    taps = torch.arange(kernel_size, device=table_GYX.device)
    # entry kernel_size - 1 of the table is that of the position itself
    first = kernel_size - 1 - kernel_size // 2
    rows, columns = (
        taps[:, None] + first - _shift(size, kernel_size, table_GYX.device)
        for size in (height, width)
    )
    return table_GYX[:, rows[:, None, :, None], columns[None, :, None, :]].flatten(1, 2)


def _turn(weights_BGTHW: Tensor, kernel_size: int) -> Tensor:
    """Return which tap of the shifted window stands where the plain window has each of its own."""
    taps = torch.arange(kernel_size, device=weights_BGTHW.device)
    rows, columns = (
        (taps[:, None] + _shift(size, kernel_size, weights_BGTHW.device)) % kernel_size
        for size in weights_BGTHW.shape[-2:]
    )
    return (rows[:, None, :, None] * kernel_size + columns[None, :, None, :]).flatten(0, 1)


def _shift(positions: int, kernel_size: int, device: torch.device) -> Tensor:
    """Return how far before its shifted window each position's centred window begins."""
    centred = torch.arange(positions, device=device) - kernel_size // 2
    return centred - centred.clamp(0, positions - kernel_size)


def _continue(x: Tensor, period: int, axis: int) -> Tensor:
    reach, size = period // 2, x.shape[axis]
    before = x.narrow(axis, period - reach, reach)
    after = x.narrow(axis, size - period, reach)
    return torch.cat([before, x, after], dim=axis)
