"""Convolution in which every sample of the batch has kernels of its own."""

from math import prod

from torch import Tensor
from torch.nn import functional as F

Pair = tuple[int, int]


def conv2d_per_sample(
    x: Tensor, weight_BOCYX: Tensor, *, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    """Convolve sample b of x (B, C, H, W) with the kernels weight[b].

    The samples stand side by side on the channel axis as groups of one convolution, so that no
    patch is copied. Only where all patches of a map are far fewer than the kernels is it faster to
    copy the patches than to bring the kernels into the order that a convolution wants them in.
    """
    batch, outputs = weight_BOCYX.shape[:2]
    sizes = zip(x.shape[2:], weight_BOCYX.shape[3:], stride, padding, dilation, strict=True)
    places = [
        (size + 2 * pad - rate * (k - 1) - 1) // step + 1 for size, k, step, pad, rate in sizes
    ]
    if not batch:  # any kernels do, and those of nobody have gradients too
        return F.conv2d(x, weight_BOCYX.sum(0), None, stride, padding, dilation, groups)
    if groups == 1 and 4 * prod(places) <= outputs:
        patches = F.unfold(x, weight_BOCYX.shape[3:], dilation, padding, stride)
        return (weight_BOCYX.flatten(2) @ patches).reshape(batch, outputs, *places)
    y = F.conv2d(
        x.flatten(0, 1)[None], weight_BOCYX.flatten(0, 1), None,
        stride, padding, dilation, batch * groups,
    )  # fmt: skip
    return y.reshape(batch, outputs, *y.shape[2:])
