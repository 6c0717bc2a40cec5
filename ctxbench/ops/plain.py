"""The plain convolution, for the operators that stand in for it to be compared with."""

from torch import nn

from ctxbench.ops._conv import check_kernel
from ctxbench.ops._spec import Layer, check_numbers, one_map, or_same


def _layer(
    *,
    channels: int = 64,
    out_channels: int | None = None,
    kernel: int = 3,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    depthwise: bool = False,
    bias: bool = True,
) -> nn.Conv2d:
    """Return a convolution with "same" padding; `depthwise` is short for groups=channels."""
    outputs = or_same(out_channels, channels)
    check_kernel("conv", kernel)
    check_numbers(
        channels=channels, out_channels=outputs, stride=stride, dilation=dilation, groups=groups
    )
    if depthwise and groups != 1:
        raise ValueError(f"depthwise=true is groups={channels}; got groups={groups}. Leave one.")
    return nn.Conv2d(
        channels, outputs, kernel, stride, dilation * (kernel // 2), dilation,
        groups=channels if depthwise else groups, bias=bias,
    )  # fmt: skip


LAYER = Layer(_layer, one_map)
