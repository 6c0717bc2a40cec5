"""CGC: a convolution whose kernels are gated, image by image, by what the whole map holds."""

from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctxbench.kernels import Backend, check_backend, told
from ctxbench.kernels.cgc import gated_conv2d, make_gates
from ctxbench.ops._conv import (
    add_bias,
    check_groups,
    check_input,
    check_kernel,
    check_replaceable,
    check_zero_padding,
    initialise,
    pair,
    take_over,
)
from ctxbench.ops._spec import Layer, OpSpec, one_map, or_same

# input channels that interact with each other; fewer are one group
_GROUP = 16


class CGConv2d(nn.Module):
    """A convolution whose weights are multiplied by gates that the image's global context sets.

    It stands in for an `nn.Conv2d` of the same arguments with "same" padding: its weight has the
    same shape, and `gate` is added. A 1x1 kernel is left plain, without a gate.

    Shape:  (B, C, H, W) -> (B, O, ceil(H / stride), ceil(W / stride)).
    Cost:   kh * kw * C * O / groups MACs per output pixel, as without the gate, and those of
            `ContextGate` per image.
    Raises: ValueError for even kernels, indivisible groups, widths that `ContextGate` has no answer
            for, and for an input of other channels.
    Source: arXiv:1910.05577, section 3; XudongLinthu/context-gated-convolution@920557e.
    """

    def __init__(  # noqa: PLR0913 - the arguments of nn.Conv2d
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        *,
        stride: int | tuple[int, int] = 1,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        backend: Backend | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.backend = backend and check_backend(backend)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = pair("kernel_size", kernel_size)
        self.stride, self.dilation = pair("stride", stride), pair("dilation", dilation)
        self._check()
        up, left = (size // 2 for size in self.kernel_size)
        self.padding = (self.dilation[0] * up, self.dilation[1] * left)
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(self.weight.new_empty(out_channels)) if bias else None
        self.gate = None
        if prod(self.kernel_size) > 1:
            self.gate = ContextGate(
                in_channels, out_channels, self.kernel_size,
                groups=groups, device=device, dtype=dtype,
            )  # fmt: skip
        self.reset_parameters()

    def _check(self) -> None:
        check_kernel("CGConv2d", self.kernel_size)
        channels = (self.in_channels, self.out_channels, self.groups)
        if min(*channels, *self.stride, *self.dilation) < 1:
            raise ValueError(
                f"CGConv2d needs channels, groups, stride and dilation of at least 1; got "
                f"{', '.join(map(str, channels))}, {self.stride}, {self.dilation}."
            )
        check_groups("CGConv2d", self.in_channels, self.out_channels, self.groups)

    def reset_parameters(self) -> None:
        """Initialise the weight and the bias as `nn.Conv2d` does."""
        initialise(self.weight, self.bias)

    def gates(self, x: Tensor) -> Tensor:
        """Return what each image multiplies the weight by, (B, O, C / groups, kh, kw) in 0 to 1."""
        if self.gate is None:
            raise ValueError("A CGConv2d of kernel_size=(1, 1) is plain and has no gates.")
        check_input("CGConv2d", self.in_channels, x)
        return self.gate(x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of each image with its own gated weight."""
        if self.gate is None:
            check_input("CGConv2d", self.in_channels, x)
            return F.conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)
        check_input("CGConv2d", self.in_channels, x)
        y = gated_conv2d(
            x, self.weight, *self.gate.halves(x),
            stride=self.stride, dilation=self.dilation, groups=self.groups, backend=self.backend,
        )  # fmt: skip
        return add_bias(y, self.bias)

    def extra_repr(self) -> str:
        """Describe the layer inside a printed network."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, dilation={self.dilation}, groups={self.groups}, "
            f"bias={self.bias is not None}{told(self.backend)}"
        )


class ContextGate(nn.Module):
    """The gates of a convolution's weight: a part of its input channel and one of its output's.

    The map is pooled to the size of the kernel and encoded, channel by channel. The input channels'
    part is decoded from that; for the output channels', groups of input channels interact first.

    Suffixes: B batch, C input channels, O output channels, G channel groups of the convolution,
    K = kh * kw taps in Y rows and X columns, D = K // 2 + 1 codes. Below, g is the number of
    channels that interact: 16, or C if they are fewer.

    Shape:  (B, C, H, W) -> (B, O, C / groups, kh, kw), between 0 and 1.
    Cost:   K * D * (2 * C + O) + D * g * O MACs per image; besides, an addition, a sigmoid and the
            multiplication of the weight for each of its O * C / groups * K gates.
    Raises: ValueError for 16 or more input channels that are no multiple of 16, and for output
            channels that are no multiple of the C / g groups.
    Source: arXiv:1910.05577, section 3; XudongLinthu/context-gated-convolution@920557e.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        *,
        groups: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size, self.groups = kernel_size, groups
        together, outputs = _interacting(in_channels, out_channels)
        taps = prod(kernel_size)
        codes = taps // 2 + 1
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.encode = nn.Linear(taps, codes, bias=False, **place)
        self.input_norm = nn.BatchNorm1d(in_channels, **place)
        self.input_decode = nn.Linear(codes, taps, bias=False, **place)
        self.interact_norm = nn.BatchNorm1d(in_channels, **place)
        self.interact = nn.Linear(together, outputs, bias=False, **place)
        self.output_norm = nn.BatchNorm1d(out_channels, **place)
        self.output_decode = nn.Linear(codes, taps, bias=False, **place)

    def forward(self, x: Tensor) -> Tensor:
        """Return the gate of every tap between every pair of channels that is connected."""
        gates = make_gates(*self.halves(x), groups=self.groups)
        return gates.reshape(*gates.shape[:3], *self.kernel_size)

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what input (B, C, K) and output channels (B, O, K) add to their gates' logits."""
        pooled_BCK = F.adaptive_avg_pool2d(x, self.kernel_size).flatten(2)
        context_BCD = self.encode(pooled_BCK)
        input_BCK = self.input_decode(F.relu(self.input_norm(context_BCD)))
        context_BOD = self._interacted(context_BCD)
        return input_BCK, self.output_decode(F.relu(self.output_norm(context_BOD)))

    def _interacted(self, context_BCD: Tensor) -> Tensor:
        """Return the context of the output channels; every group meets the same matrix."""
        batch, channels, codes = context_BCD.shape
        together = self.interact.in_features
        groups = F.relu(self.interact_norm(context_BCD)).reshape(
            batch, channels // together, together, codes
        )
        outputs: Tensor = self.interact(groups.transpose(2, 3))
        # contiguous: the compiled backward of a batch norm expects another layout than it gets
        return outputs.transpose(2, 3).flatten(1, 2).contiguous()


def from_conv(conv: nn.Conv2d, *, backend: Backend | None = None) -> CGConv2d:
    """Return the gated convolution that takes over the weight and the bias of a plain one.

    They stay the parameters they are, so an optimiser that holds them goes on with them.
    Raises: ValueError, with the reason alone, for a convolution that CGC cannot replace.
    """
    if prod(conv.kernel_size) == 1:
        raise ValueError("1x1, which CGC leaves plain")
    check_replaceable(conv)
    check_zero_padding(conv, "CGC")
    op = CGConv2d(
        conv.in_channels, conv.out_channels, (conv.kernel_size[0], conv.kernel_size[1]),
        stride=(conv.stride[0], conv.stride[1]), dilation=(conv.dilation[0], conv.dilation[1]),
        groups=conv.groups, bias=conv.bias is not None, backend=backend,
        device=conv.weight.device, dtype=conv.weight.dtype,
    )  # fmt: skip
    take_over(op, conv)
    return op


def _interacting(channels: int, outputs: int) -> tuple[int, int]:
    """Return how many input channels interact, and how many output channels they make."""
    together = min(channels, _GROUP)
    groups, rest = divmod(channels, together)
    if rest:
        raise ValueError(
            f"CGConv2d lets {_GROUP} input channels interact at a time; got in_channels={channels}."
            f" Give a multiple of {_GROUP}, or fewer than {_GROUP}."
        )
    if outputs % groups:
        raise ValueError(
            f"CGConv2d makes as many output channels from each {_GROUP} of {channels} input "
            f"channels; got out_channels={outputs}. Give a multiple of {groups}."
        )
    return together, outputs // groups


def _layer(
    *,
    channels: int = 64,
    out_channels: int | None = None,
    kernel: int = 3,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
    backend: Backend | None = None,
) -> CGConv2d:
    return CGConv2d(
        channels, or_same(out_channels, channels), kernel,
        stride=stride, dilation=dilation, groups=groups, bias=bias,
        backend=backend,
    )  # fmt: skip


LAYER = Layer(_layer, one_map)
SPEC = OpSpec(
    build=lambda: CGConv2d(32, 8, 3),
    inputs=lambda b, h, w: (torch.randn(b, 32, h, w),),
    source="arXiv:1910.05577; XudongLinthu/context-gated-convolution@920557e",
    from_conv=from_conv,
)
