"""CoConv: one convolution whose output channels are split between several dilations."""

import re
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from ctxbench.kernels import Backend, check_backend, told
from ctxbench.kernels.coconv import PaddingMode, coconv2d
from ctxbench.ops._conv import (
    check_groups,
    check_input,
    check_kernel,
    check_replaceable,
    initialise,
    pair,
    take_over,
)
from ctxbench.ops._spec import Layer, OpSpec, one_map, or_same

Levels = int | str | Sequence[tuple[int, int]]

# number of levels -> the share of the output channels of dilation 1, 2, 3, ... as a divisor
_SHARES = {1: (1,), 2: (2, 2), 3: (2, 4, 4), 4: (4, 4, 4, 4), 5: (4, 4, 4, 8, 8)}

_MODES = ("zeros", "reflect", "replicate", "circular")


class CoConv2d(nn.Module):
    """A convolution that looks at several scales: each level of output channels has its dilation.

    It stands in for an `nn.Conv2d` of the same arguments with "same" padding: its weight has the
    same shape, every output channel sees the same input channels, and only the distance between
    the taps differs from level to level. The plain convolution is `levels=1`. A state dict holds
    the levels beside the weight, because shapes alone would not tell other levels apart.

    `levels` is a count (the paper's split of the channels over dilations 1, 2, 3, ...), `"top"` or
    `"top3"` (the largest of 4, or of 3, dilations alone), or (width, dilation) pairs.
    `dilation` multiplies the dilation of every level. There is no
    `padding`: it is always "same". `backend` is one of `ctxbench.kernels`.

    Shape:  (B, C, H, W) -> (B, O, ceil(H / stride), ceil(W / stride)).
    Cost:   kh * kw * C * O / groups MACs per output pixel, whatever the levels.
    Raises: ValueError for even kernels, levels that do not sum to O, indivisible groups, and for
            an input of other channels.
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
        backend: Backend | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = pair("kernel_size", kernel_size)
        self.stride, self.dilation = pair("stride", stride), dilation
        self.padding_mode, self.backend = padding_mode, backend and check_backend(backend)
        self._check()
        self.levels = split_levels(out_channels, levels)
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(self.weight.new_empty(out_channels)) if bias else None
        self.reset_parameters()

    def _check(self) -> None:
        check_kernel("CoConv2d", self.kernel_size)
        if not isinstance(self.dilation, int):
            raise ValueError(
                f"CoConv2d multiplies its dilations by one number; got dilation={self.dilation}."
            )
        if min(self.in_channels, self.out_channels, self.groups, self.dilation, *self.stride) < 1:
            raise ValueError(
                f"CoConv2d needs channels, groups, stride and dilation of at least 1; got "
                f"{self.in_channels}, {self.out_channels}, {self.groups}, {self.stride}, "
                f"{self.dilation}."
            )
        check_groups("CoConv2d", self.in_channels, self.out_channels, self.groups)
        if self.padding_mode not in _MODES:
            raise ValueError(
                f"CoConv2d pads with one of {_MODES}; got padding_mode={self.padding_mode!r}."
            )

    def reset_parameters(self) -> None:
        """Initialise as `nn.Conv2d` does."""
        initialise(self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return every level's output, side by side on the channel axis."""
        check_input("CoConv2d", self.in_channels, x, unbatched=True)
        return coconv2d(
            x, self.weight, self.bias,
            levels=[(width, rate * self.dilation) for width, rate in self.levels],
            stride=self.stride, groups=self.groups, padding_mode=self.padding_mode,
            backend=self.backend,
        )  # fmt: skip

    def get_extra_state(self) -> Tensor:
        """Return the (width, dilation) of each level, so that a state dict says what it is for."""
        return torch.tensor(self.levels, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Refuse the weights of other levels; the shapes alone would not tell them apart."""
        # rounded, since whoever averages state dicts averages these, too
        theirs = tuple((round(width), round(rate)) for width, rate in state.tolist())
        if theirs != self.levels:
            raise ValueError(
                f"The weights belong to a CoConv2d of (width, dilation) levels {theirs}; "
                f"this one has {self.levels}."
            )

    def extra_repr(self) -> str:
        """Describe the layer inside a printed network."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, levels={self.levels}, dilation={self.dilation}, "
            f"groups={self.groups}, bias={self.bias is not None}, padding_mode={self.padding_mode}"
            f"{told(self.backend)}"
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
        if isinstance(levels, bool) or levels not in _SHARES:
            raise ValueError(
                f"CoConv2d splits into 1 to 5 levels; got levels={levels}. "
                f"Give (width, dilation) pairs for any other split."
            )
        rest = [max(1, channels // share) for share in _SHARES[levels][1:]]
        levels = list(zip([channels - sum(rest), *rest], range(1, levels + 1), strict=True))
    try:
        pairs = tuple((width, rate) for width, rate in levels)
    except TypeError:
        raise ValueError(
            f"CoConv2d takes levels as a count, 'top', or (width, dilation) pairs; got {levels!r}."
        ) from None
    whole = all(isinstance(number, int) and number > 0 for pair in pairs for number in pair)
    if not whole or sum(width for width, _ in pairs) != channels:
        raise ValueError(
            f"CoConv2d needs levels of at least one channel and dilation 1 whose widths sum to "
            f"out_channels={channels}; got (width, dilation) {_few(pairs)}."
        )
    return pairs


def from_conv(
    conv: nn.Conv2d, *, levels: int | str = 4, backend: Backend | None = None
) -> CoConv2d:
    """Return the CoConv that takes over the weight and the bias of a plain convolution.

    They stay the parameters they are, so an optimiser that holds them goes on with them.
    Raises: ValueError, with the reason alone, for a convolution that CoConv cannot replace.
    """
    if prod(conv.kernel_size) == 1:
        raise ValueError("1x1, which no dilation changes")
    check_replaceable(conv)
    if conv.dilation[0] != conv.dilation[1]:
        raise ValueError(f"dilation {conv.dilation}, where CoConv multiplies one number")
    op = CoConv2d(
        conv.in_channels, conv.out_channels, (conv.kernel_size[0], conv.kernel_size[1]),
        levels=levels, stride=(conv.stride[0], conv.stride[1]), dilation=conv.dilation[0],
        groups=conv.groups, bias=conv.bias is not None, padding_mode=conv.padding_mode,
        backend=backend, device="meta",
    )  # fmt: skip
    take_over(op, conv)
    return op


def _few(pairs: Sequence[object], most: int = 8) -> str:
    return str(tuple(pairs)) if len(pairs) <= most else f"{tuple(pairs[:most])} and more"


def _top(levels: str) -> int:
    match = re.fullmatch(r"top(\d*)", levels)
    if not match or int(match[1] or 4) < 1:
        raise ValueError(f"CoConv2d takes levels='top' or 'top1', 'top2', ...; got {levels!r}.")
    return int(match[1] or 4)


def _layer(  # noqa: PLR0913 - the arguments of the class
    *,
    channels: int = 64,
    out_channels: int | None = None,
    kernel: int = 3,
    levels: int | str = 4,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
    backend: Backend | None = None,
) -> CoConv2d:
    return CoConv2d(
        channels, or_same(out_channels, channels), kernel,
        levels=levels, stride=stride, dilation=dilation, groups=groups, bias=bias,
        backend=backend,
    )  # fmt: skip


LAYER = Layer(_layer, one_map)
SPEC = OpSpec(
    build=lambda: CoConv2d(8, 8, 3, levels=3),
    inputs=lambda b, h, w: (torch.randn(b, 8, h, w),),
    source="arXiv:2108.07387; iduta/coconv@755147c",
    from_conv=from_conv,
)
