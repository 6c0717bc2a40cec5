"""CoConv: one convolution whose output channels are split between several dilations."""

import re
from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctxbench.ops._spec import OpSpec

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
Levels = int | str | Sequence[tuple[int, int]]

# number of levels -> the share of the output channels of dilation 1, 2, 3, ... as a divisor
_SHARES = {1: (1,), 2: (2, 2), 3: (2, 4, 4), 4: (4, 4, 4, 4), 5: (4, 4, 4, 8, 8)}


class CoConv2d(nn.Module):
    """A convolution that looks at several scales: each level of output channels has its dilation.

    It stands in for an `nn.Conv2d` of the same arguments with "same" padding: its weight has the
    same shape, every output channel sees the same input channels, and only the distance between
    the taps differs from level to level. The plain convolution is `levels=1`.

    `levels` is a count (the paper's split of the channels over dilations 1, 2, 3, ...), `"top"` or
    `"top3"` (the largest of 4, or of 3, dilations alone), or (width, dilation) pairs.
    `dilation` multiplies the dilation of every level.

    Shape:  (B, C, H, W) -> (B, O, ceil(H / stride), ceil(W / stride)).
    Cost:   kh * kw * C * O / groups MACs per output pixel, whatever the levels.
    Raises: ValueError for even kernels, levels that do not sum to O, indivisible groups.
    Source: arXiv:2108.07387, section 3; iduta/coconv@755147c.
    """

    def __init__(  # noqa: PLR0913 - the arguments of nn.Conv2d, and the levels
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        *,
        levels: Levels = 4,
        stride: int | tuple[int, int] = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        super().__init__()
        kernel = _pair(kernel_size)
        _check(in_channels, out_channels, kernel, groups=groups, padding_mode=padding_mode)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.padding_mode = kernel, _pair(stride), padding_mode
        self.levels = tuple(
            (width, rate * dilation) for width, rate in split_levels(out_channels, levels)
        )
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *kernel))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self._pieces = _cut(self.levels, out_channels // groups, in_channels // groups)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as `nn.Conv2d` does."""
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        if self.bias is not None:
            bound = prod(self.weight.shape[1:]) ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Return every level's output, side by side on the channel axis."""
        parts = [self._convolve(x, piece) for piece in self._pieces]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _convolve(self, x: Tensor, piece: "_Piece") -> Tensor:
        x = x if piece.inputs is None else x[:, piece.inputs]
        bias = None if self.bias is None else self.bias[piece.outputs]
        padding = tuple(piece.dilation * (size // 2) for size in self.kernel_size)
        if self.padding_mode != "zeros":
            (top, left), padding = padding, (0, 0)
            x = F.pad(x, (left, left, top, top), mode=self.padding_mode)
        weight = self.weight[piece.outputs]
        return F.conv2d(x, weight, bias, self.stride, padding, piece.dilation, piece.groups)

    def get_extra_state(self) -> Tensor:
        """Return the (width, dilation) of each level, so that a state dict says what it is for."""
        return torch.tensor(self.levels)

    def set_extra_state(self, state: Tensor) -> None:
        """Refuse the weights of other levels; the shapes alone would not tell them apart."""
        theirs = tuple((int(width), int(rate)) for width, rate in state.tolist())
        if theirs != self.levels:
            raise ValueError(
                f"The weights belong to a CoConv2d of (width, dilation) levels {theirs}; "
                f"this one has {self.levels}."
            )

    def extra_repr(self) -> str:
        """Describe the layer inside a printed network."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, levels={self.levels}, groups={self.groups}, "
            f"bias={self.bias is not None}"
        )


def split_levels(channels: int, levels: Levels) -> tuple[tuple[int, int], ...]:
    """Return the (width, dilation) of every level; the widths sum to `channels`.

    A count follows the paper: dilations 1, 2, 3, ... with all, 1/2 1/2, 1/2 1/4 1/4, 4 x 1/4 or
    1/4 1/4 1/4 1/8 1/8 of the channels. Widths are rounded down, to 1 at least, and the first
    level takes the rest.
    """
    if isinstance(levels, str):
        return ((channels, _top(levels)),)
    if isinstance(levels, int):
        if levels not in _SHARES:
            raise ValueError(
                f"CoConv2d splits into 1 to 5 levels; got levels={levels}. "
                f"Give (width, dilation) pairs for any other split."
            )
        rest = [max(1, channels // share) for share in _SHARES[levels][1:]]
        levels = list(zip([channels - sum(rest), *rest], range(1, levels + 1), strict=True))
    pairs = tuple((int(width), int(rate)) for width, rate in levels)
    if min(min(pair) for pair in pairs) < 1 or sum(width for width, _ in pairs) != channels:
        raise ValueError(
            f"CoConv2d needs levels of at least one channel and dilation 1 whose widths sum to "
            f"out_channels={channels}; got (width, dilation) {pairs}."
        )
    return pairs


class _Piece(NamedTuple):
    """Output channels that one call of the plain convolution computes."""

    outputs: slice
    inputs: slice | None
    dilation: int
    groups: int


def _cut(levels: Sequence[tuple[int, int]], outputs: int, inputs: int) -> list[_Piece]:
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
            span = slice(a // outputs * inputs, -(-b // outputs) * inputs)
            whole = span == slice(0, total // outputs * inputs)
            pieces.append(_Piece(slice(a, b), None if whole else span, rate, groups))
        start = stop
    return pieces


def _top(levels: str) -> int:
    match = re.fullmatch(r"top(\d*)", levels)
    if not match or int(match[1] or 4) < 1:
        raise ValueError(f"CoConv2d takes levels='top' or 'top1', 'top2', ...; got {levels!r}.")
    return int(match[1] or 4)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _check(
    in_channels: int, out_channels: int, kernel: tuple[int, int], *, groups: int, padding_mode: str
) -> None:
    if any(size < 1 or size % 2 == 0 for size in kernel):
        raise ValueError(f"CoConv2d needs an odd kernel to stay centred; got kernel_size={kernel}.")
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError(
            f"CoConv2d needs channels divisible by groups={groups}; "
            f"got in_channels={in_channels}, out_channels={out_channels}."
        )
    modes = ("zeros", "reflect", "replicate", "circular")
    if padding_mode not in modes:
        raise ValueError(f"CoConv2d pads with one of {modes}; got padding_mode={padding_mode!r}.")


SPEC = OpSpec(
    build=lambda: CoConv2d(8, 8, 3, levels=3),
    inputs=lambda b, h, w: (torch.randn(b, 8, h, w),),
    source="arXiv:2108.07387; iduta/coconv@755147c",
)
