"""The gated weights of all samples, and a convolution with kernels of each sample."""

import torch
from torch import Tensor

from ctxbench.kernels._per_sample import conv2d_per_sample


def gated_conv2d(
    x: Tensor,
    weight: Tensor,
    input_BCT: Tensor,
    output_BOT: Tensor,
    *,
    stride: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Tensor:
    """Return the convolution of each sample with its own gated weight."""
    gates = make_gates(input_BCT, output_BOT, groups=groups)
    gates = gates.reshape(len(x), *weight.shape)
    padding = (dilation[0] * (weight.shape[2] // 2), dilation[1] * (weight.shape[3] // 2))
    return conv2d_per_sample(
        x, weight * gates, stride=stride, padding=padding, dilation=dilation, groups=groups
    )


def make_gates(input_BCT: Tensor, output_BOT: Tensor, *, groups: int) -> Tensor:
    """Return the gate of every tap between connected channels, (B, O, C / groups, T) in 0 to 1."""
    batch, channels, taps = input_BCT.shape
    input_BG1CT = input_BCT.reshape(batch, groups, 1, channels // groups, taps)
    output_BGO1T = output_BOT.reshape(batch, groups, output_BOT.shape[1] // groups, 1, taps)
    return torch.sigmoid(input_BG1CT + output_BGO1T).flatten(1, 2)
