"""What operators cost, from the shapes of their tensors: the same multiplications anywhere."""

from collections.abc import Sequence
from math import prod

Shape = Sequence[int]


def convolution(weight: Shape, out: Shape) -> int:
    """Return the MACs of a convolution, wherever its taps are and whatever its kernels."""
    return prod(out) * prod(weight[1:])


def contmix_logits(affinity_BGLHW: Shape, weight_TL: Shape) -> int:
    """Return the MACs of the logits of all taps at every position."""
    batch, groups, _, height, width = affinity_BGLHW
    return batch * groups * height * width * prod(weight_TL)


def contmix_sums(values_BGCHW: Shape, weight_TL: Shape) -> int:
    """Return the MACs of the weighted sums over all windows."""
    return prod(values_BGCHW) * weight_TL[0]
