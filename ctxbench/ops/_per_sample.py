"""Convolution in which every sample of the batch has kernels of its own."""

import torch
from torch import Tensor
from torch.nn import functional as F


def conv2d_per_sample(
    x: Tensor, weight_BOCYX: Tensor, *,
    stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int], groups: int,
) -> Tensor:  # fmt: skip
    """Convolve sample b of x (B, C, H, W) with the kernels weight[b].

    The samples stand side by side on the channel axis as groups of one convolution, so that no
    patch is ever copied.
    """
    batch, outputs = weight_BOCYX.shape[:2]
    y = F.conv2d(
        _side_by_side(x, batch), weight_BOCYX.flatten(0, 1), None,
        stride, padding, dilation, batch * groups,
    )  # fmt: skip
    return y.reshape(batch, outputs, *y.shape[2:])


def deform_conv2d_per_sample(
    x: Tensor, weight_BOCYX: Tensor, offset: Tensor, mask: Tensor | None, *,
    stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int],
) -> Tensor:  # fmt: skip
    """Convolve sample b of x (B, C, H, W) with the kernels weight[b] at displaced taps.

    `offset` (B, 2 * kh * kw, Y, X) holds (dy, dx) of each tap, `mask` (B, kh * kw, Y, X) factors.
    A weight of batch 1 is that of all samples. The channel groups are those of the weight's shape.
    """
    from torchvision.ops import deform_conv2d  # not at import: it takes a second to load

    batch, (samples, outputs) = len(x), weight_BOCYX.shape[:2]
    # positions need float32: half precision is whole pixels from 1024 on, bfloat16 from 128 on
    exact = x.dtype if x.dtype.itemsize >= 4 else torch.float32
    y = deform_conv2d(
        _side_by_side(x.to(exact), samples),
        _side_by_side(offset.to(exact), samples),
        weight_BOCYX.flatten(0, 1).to(exact),
        None, stride, padding, dilation,
        None if mask is None else _side_by_side(mask.to(exact), samples),
    )  # fmt: skip
    return y.reshape(batch, outputs, *y.shape[2:]).to(x.dtype)  # type: ignore[no-any-return]


def _side_by_side(x: Tensor, samples: int) -> Tensor:
    """Put that many samples next to each other on the channel axis."""
    return x.reshape(-1, samples * x.shape[1], *x.shape[2:])
