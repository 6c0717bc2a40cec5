"""CoConv as one plain convolution a level."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


def coconv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    levels: Sequence[tuple[int, int]],
    stride: tuple[int, int],
    groups: int,
    padding_mode: PaddingMode,
) -> Tensor:
    """Return every level's output, side by side on the channel axis."""
    pieces = cut(levels, len(weight) // groups, weight.shape[1])
    widths = [piece.width for piece in pieces]
    weights = torch.split(weight, widths)  # at once: one gradient instead of one a level
    biases = [None] * len(widths) if bias is None else torch.split(bias, widths)
    parts = []
    for piece, own_weight, own_bias in zip(pieces, weights, biases, strict=True):
        seen = x if piece.inputs is None else x.narrow(-3, *piece.inputs)
        (top, left) = padding = tuple(piece.dilation * (size // 2) for size in weight.shape[2:])
        if padding_mode != "zeros":
            seen, padding = F.pad(seen, (left, left, top, top), mode=padding_mode), (0, 0)
        parts.append(
            F.conv2d(seen, own_weight, own_bias, stride, padding, piece.dilation, piece.groups)
        )
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-3)


class Piece(NamedTuple):
    """Output channels that one call of the plain convolution computes.

    `inputs` is the first of the input channels that it sees and their number, None for all.
    """

    width: int
    inputs: tuple[int, int] | None
    dilation: int
    groups: int


def cut(levels: Sequence[tuple[int, int]], outputs: int, inputs: int) -> list[Piece]:
    """Cut the levels where a channel group begins or ends inside them.

    `outputs` and `inputs` are channels per group. A piece is a run of whole groups, or a part of
    one; without groups every level is one piece.
    """
    pieces = []
    start, total = 0, sum(width for width, _ in levels)
    for width, rate in levels:
        stop = start + width
        first, last = -(-start // outputs) * outputs, stop // outputs * outputs
        edges = sorted({start, stop} | {edge for edge in (first, last) if start < edge < stop})
        for a, b in pairwise(edges):
            groups = (b - a) // outputs if a % outputs == b % outputs == 0 else 1
            seen = (a // outputs * inputs, (-(-b // outputs) - a // outputs) * inputs)
            everything = seen == (0, total // outputs * inputs)
            pieces.append(Piece(b - a, None if everything else seen, rate, groups))
        start = stop
    return pieces
