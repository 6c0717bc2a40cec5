"""The dilated re-parameterised depthwise convolution: a sum over taps for each of its branches."""

import torch
from torch.nn import functional as F


def dilated_reparam(x, branches):
    """x (B, C, H, W), branches [(weight (C, 1, k, k), dilation, batch norm), ...].

    A batch norm is (weight, bias, mean, variance).
    """
    return sum(batch_norm(depthwise(x, weight, rate), norm) for weight, rate, norm in branches)


def depthwise(x, weight, rate=1, bias=None):
    """Return the centred depthwise convolution, tap by tap."""
    size, (h, w) = weight.shape[-1], x.shape[-2:]
    reach = rate * (size // 2)
    padded = F.pad(x, (reach,) * 4)
    total = 0
    for i in range(size):
        for j in range(size):
            tap = padded[..., i * rate : i * rate + h, j * rate : j * rate + w]
            total = total + torch.einsum("c,bchw->bchw", weight[:, 0, i, j], tap)
    return total if bias is None else total + per_channel(bias)


def batch_norm(x, norm):
    """Return x normalised by running statistics."""
    weight, bias, mean, variance = map(per_channel, norm)
    return (x - mean) / (variance + 1e-5) ** 0.5 * weight + bias


def per_channel(values):
    """Return (C) values, in any shape, as they are added to a map."""
    return values.reshape(-1, 1, 1)
