"""What a plain convolution would do with its input, and operators that stand in for one do too."""

import torch
from torch import Tensor


def autocast_type(x: Tensor) -> torch.dtype | None:
    """Return the type that autocast has a convolution of x compute in; None if it leaves it alone.

    Tensors on a device without autocast, as meta, are left alone.
    """
    kind = x.device.type
    known = torch.amp.is_autocast_available(kind)
    lowers = known and torch.is_autocast_enabled(kind) and x.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if lowers else None


def layout(x: Tensor) -> torch.memory_format:
    """Return the memory format of the output, which is that of x."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
