"""Convolution at displaced taps: maps are read between their pixels, then multiplied as ever."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ctxbench.kernels._per_sample import conv2d_per_sample


class Window(NamedTuple):
    """The geometry of a square convolution with "same" padding."""

    kernel_size: int
    stride: int
    dilation: int


def contextual_conv2d(
    x: Tensor,
    weight: Tensor,
    change_BCT: Tensor | None,
    offset: Tensor | None,
    mask: Tensor | None,
    *,
    window: Window,
    groups: int,
) -> Tensor:
    """Return the convolution (B, O, Y, X), of what all taps read or tap by tap."""
    if offset is None:
        return _in_place(x, weight, change_BCT, window, groups)
    # places need float32: half precision is whole pixels from 1024 on, bfloat16 from 128 on
    exact = torch.promote_types(x.dtype, torch.float32)
    mask = None if mask is None else mask.to(exact)
    change = None if change_BCT is None else change_BCT.to(exact)
    samples = sample(x.to(exact), offset.to(exact), mask, window)
    if groups == 1:
        y = dense_conv(samples, weight.to(exact), change)
    else:
        kernels = weight.to(exact).flatten(1)
        y = depthwise_conv(samples, kernels[None] if change is None else kernels + change)
    # the offset has the type that a convolution gives, also under autocast
    return y.to(offset.dtype).reshape(len(x), len(weight), *offset.shape[2:])


def _in_place(
    x: Tensor, weight: Tensor, change_BCT: Tensor | None, window: Window, groups: int
) -> Tensor:
    """Return the convolution with the kernels of each sample, whose taps stay in place."""
    stride, dilation = (window.stride,) * 2, (window.dilation,) * 2
    padding = (window.dilation * (window.kernel_size // 2),) * 2
    if change_BCT is None:
        return F.conv2d(x, weight, None, stride, padding, dilation, groups)
    change = change_BCT.reshape(*change_BCT.shape[:2], *weight.shape[2:])
    return conv2d_per_sample(
        x, weight + change.unsqueeze(1 if groups == 1 else 2),
        stride=stride, padding=padding, dilation=dilation, groups=groups,
    )  # fmt: skip


class Samples(NamedTuple):
    """Where each tap of each output position reads a map, and with what weights.

    `rows` holds the maps as one row of channels a pixel, those of the whole batch one after
    another. `pixels` and `shares` are (B, T, N, 4) for T taps, N output positions and the 4 pixels
    around each place.
    """

    rows: Tensor
    pixels: Tensor
    shares: Tensor

    def columns(self) -> Tensor:
        """Return what all taps read, (B, N, T, C): the matrix that a convolution multiplies."""
        return _read(self.rows, self.pixels.transpose(1, 2), self.shares.transpose(1, 2))


def sample(x: Tensor, offset: Tensor, mask: Tensor | None, window: Window) -> Samples:
    """Return where and how x (B, C, H, W) is read.

    `offset` (B, 2 * T, Y, X) holds (dy, dx) of each tap in pixels, `mask` (B, T, Y, X) its factor.
    Between pixels a map is bilinear, beyond its border zero. Where a tap stands exactly on a pixel
    the gradient of its offset is that towards the next one, as in torchvision's deform_conv2d.
    """
    height, width = x.shape[2:]
    offset_BT2YX = offset.reshape(len(x), window.kernel_size**2, 2, *offset.shape[2:])
    y_index, y_share = _neighbours(offset_BT2YX[:, :, 0], height, window, axis=0)
    x_index, x_share = _neighbours(offset_BT2YX[:, :, 1], width, window, axis=1)
    if mask is not None:
        y_share = y_share * mask.unsqueeze(-1)
    first = torch.arange(len(x), device=x.device).reshape(-1, 1, 1, 1, 1) * (height * width)
    index = (first + y_index * width).unsqueeze(-1) + x_index.unsqueeze(-2)
    share = y_share.unsqueeze(-1) * x_share.unsqueeze(-2)
    rows = x.permute(0, 2, 3, 1).flatten(0, 2)
    return Samples(rows, *(pixels.flatten(4).flatten(2, 3) for pixels in (index, share)))


def dense_conv(samples: Samples, weight: Tensor, change_BCT: Tensor | None) -> Tensor:
    """Return the convolution with weight (O, C, k, k), (B, O, N).

    `change` is added to the weight of every output channel of a sample.
    """
    columns = samples.columns()
    weight_OTC = weight.flatten(2).transpose(1, 2)
    if change_BCT is None:
        return F.linear(columns.flatten(2), weight_OTC.flatten(1)).transpose(1, 2)
    # the smaller of both is copied into the order of the other
    if columns[..., 0, 0].numel() < len(weight):
        columns, kernels = columns.transpose(2, 3), weight.flatten(1) + _row(change_BCT)
    else:
        kernels = weight_OTC.flatten(1) + _row(change_BCT.transpose(1, 2))
    return kernels @ columns.flatten(2).transpose(1, 2)


def depthwise_conv(samples: Samples, weight_BCT: Tensor) -> Tensor:
    """Return the depthwise convolution with the kernels of each sample, (B, C, N).

    Tap by tap: all that they read together would be kernel_size^2 maps.
    """
    out = samples.rows.new_zeros(())
    places = zip(samples.pixels.unbind(1), samples.shares.unbind(1), strict=True)
    weights = weight_BCT.expand(len(samples.pixels), -1, -1).unbind(2)
    for (index, share), weight in zip(places, weights, strict=True):
        out = out + weight.unsqueeze(1) * _read(samples.rows, index, share)
    return out.transpose(1, 2)


def _neighbours(offset: Tensor, size: int, window: Window, *, axis: int) -> tuple[Tensor, Tensor]:
    """Return the pixels before and after each place along an axis, and their shares."""
    kernel_size, stride, dilation = window
    taps = torch.arange(kernel_size**2, device=offset.device)
    tap = taps % kernel_size if axis else taps // kernel_size
    start = (tap - kernel_size // 2) * dilation
    steps = torch.arange(offset.shape[2 + axis], device=offset.device) * stride
    steps = steps[None, :] if axis else steps[:, None]
    place = (start[:, None, None] + steps).to(offset.dtype) + offset
    before = place.detach().floor()
    after_share = place - before
    pixels = torch.stack([before, before + 1], dim=-1)
    shares = torch.stack([1 - after_share, after_share], dim=-1)
    inside = (pixels >= 0) & (pixels < size)
    # a place that is no number reads pixel 0, and its share is still no number
    return pixels.nan_to_num(0).clamp(0, size - 1).long(), shares * inside


def _row(change: Tensor) -> Tensor:
    """Return the change as one row for all output channels."""
    return change.flatten(1).unsqueeze(1)


def _read(rows: Tensor, index: Tensor, share: Tensor) -> Tensor:
    """Return weighted sums of rows, one for the last axis of `index` and `share`: (..., C)."""
    read = F.embedding_bag(
        index.flatten(0, -2),
        rows,
        per_sample_weights=share.flatten(0, -2),
        mode="sum",
    )
    return read.reshape(*index.shape[:-1], rows.shape[1])
