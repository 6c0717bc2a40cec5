"""Each family's operator from its definition, in a few lines that share no code with it.

An operator gives its weights, and the contextual one what it has generated. Fresh batch norms in
eval mode divide by the root of 1 + eps, and do nothing else.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_BN = (1 + 1e-5) ** 0.5


def coconv(op: Any, x: Tensor) -> Tensor:
    """Multiply what the taps of each level see, as columns, by the level's rows of the weight."""
    parts, start = [], 0
    for width, rate in op.levels:
        seen = F.unfold(x, 3, dilation=rate, padding=rate)
        parts.append(op.weight[start : start + width].flatten(1) @ seen)
        start += width
    y = torch.cat(parts, dim=1).reshape(len(x), -1, *x.shape[2:])
    return y.add(op.bias[:, None, None])


def cgc(op: Any, x: Tensor) -> Tensor:
    """Gate the weight of each image by its map, pooled to 3x3 as means of 2x2 pixels."""
    gate = op.gate
    pooled = x.reshape(*x.shape[:2], 3, 2, 3, 2).mean((3, 5)).flatten(2)
    context = pooled @ gate.encode.weight.T
    positive = (context / _BN).clamp_min(0)
    inputs = positive @ gate.input_decode.weight.T
    interacted = torch.einsum("oc,bcd->bod", gate.interact.weight, positive)
    outputs = (interacted / _BN).clamp_min(0) @ gate.output_decode.weight.T
    gates = 1 / (1 + torch.exp(-inputs[:, None] - outputs[:, :, None]))
    weight = op.weight.flatten(2) * gates
    y: Tensor = weight.flatten(2) @ F.unfold(x, 3, padding=1)
    return y.reshape(len(x), -1, *x.shape[2:]).add(op.bias[:, None, None])


def contextual(op: Any, x: Tensor) -> Tensor:
    """Read the maps at the displaced taps by grid_sample, and multiply by each image's kernels."""
    offset, mask = op.sampling(x)
    side = x.shape[-1]
    steps = torch.arange(side, dtype=x.dtype, device=x.device)
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    for tap in range(9):
        rows = steps[:, None] + tap // 3 - 1 + offset[:, 2 * tap]
        columns = steps + tap % 3 - 1 + offset[:, 2 * tap + 1]
        places = torch.stack([columns, rows], dim=-1) * 2 / (side - 1) - 1
        seen = F.grid_sample(x, places, align_corners=True) * mask[:, tap, None]
        kernels = op.kernels(x).flatten(3)[..., tap]
        total = total + torch.einsum("boc,bchw->bohw", kernels, seen)
    return total.add(op.bias[:, None, None])


def contmix(op: Any, values: Tensor, query: Tensor, context: Tensor) -> Tensor:
    """Make the kernels of each position from its affinities, and sum its window."""
    groups, (batch, channels, side, _) = op.groups, values.shape
    asked = torch.einsum("oc,bchw->bohw", op.query[0].weight[:, :, 0, 0], query) / _BN
    key = torch.einsum("oc,bcl->bol", op.key[1].weight[:, :, 0, 0], context.flatten(2)) / _BN
    asked = (asked * op.scale).reshape(batch, groups, -1, side, side)
    key = key.reshape(batch, groups, -1, key.shape[-1])
    affinity = torch.einsum("bgchw,bgcl->bglhw", asked, key)
    weight, bias = op.projection.weight[:, :, 0, 0], op.projection.bias
    logits = torch.einsum("tl,bglhw->bghwt", weight, affinity) + bias
    small, large = logits.exp().split([size**2 for size in op.kernel_sizes], dim=-1)
    y = torch.zeros_like(values)
    halves = values.chunk(2, dim=1)
    for half, size, kernels in zip((0, 1), op.kernel_sizes, (small, large), strict=True):
        shares = kernels / kernels.sum(-1, keepdim=True)
        grouped = halves[half].reshape(batch, groups, -1, side, side)
        for row, column in [(i, j) for i in range(side) for j in range(side)]:
            top, left = (min(max(at - size // 2, 0), side - size) for at in (row, column))
            window = grouped[..., top : top + size, left : left + size].flatten(3)
            mixed = torch.einsum("bgct,bgt->bgc", window, shares[:, :, row, column])
            start = half * channels // 2
            y[:, start : start + channels // 2, row, column] = mixed.reshape(batch, -1)
    return y
