"""What a gated convolution returns: as large, and laid out as, what a plain one does."""

from collections.abc import Sequence

import torch
from torch import Tensor

Pair = tuple[int, int]


def padding_of(weight: Tensor, dilation: Sequence[int]) -> Pair:
    """Return the "same" padding of a kernel with odd sides."""
    return dilation[0] * (weight.shape[2] // 2), dilation[1] * (weight.shape[3] // 2)


def empty_output(x: Tensor, weight: Tensor, stride: Sequence[int]) -> Tensor:
    """Return the output, not yet filled: channels last if the map or the weight is, as ever."""
    places = [(size - 1) // step + 1 for size, step in zip(x.shape[2:], stride, strict=True)]
    last = _channels_last(x) or _channels_last(weight)
    return torch.empty(
        (x.shape[0], weight.shape[0], *places), dtype=x.dtype, device=x.device,
        memory_format=torch.channels_last if last else torch.contiguous_format,
    )  # fmt: skip


def _channels_last(tensor: Tensor) -> bool:
    return tensor.stride(1) == 1 and tensor.stride(3) > 1
