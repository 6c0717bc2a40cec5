"""CoConv from its definition: one product for each tap of each level, nothing fused."""

import torch
from torch.nn import functional as F

_MODES = {
    "zeros": "constant",
    "reflect": "reflect",
    "replicate": "replicate",
    "circular": "circular",
}


def coconv(x, weight, bias, levels, *, stride=(1, 1), groups=1, padding_mode="zeros"):
    """x (B, C, H, W), weight (O, C / groups, kh, kw), levels [(width, dilation), ...].

    The output channels of a plain grouped convolution, those of each level at its dilation.
    """
    outputs, start = [], 0
    per_group = len(weight) // groups
    for width, rate in levels:
        for channel in range(start, start + width):
            first = channel // per_group * weight.shape[1]
            seen = x[:, first : first + weight.shape[1]]
            outputs.append(_channel(seen, weight[channel], rate, stride, padding_mode))
        start += width
    y = torch.stack(outputs, dim=1)
    return y if bias is None else y + bias[None, :, None, None]


def _channel(x, kernel, rate, stride, padding_mode):
    h, w = x.shape[-2:]
    up, left = rate * (kernel.shape[1] // 2), rate * (kernel.shape[2] // 2)
    padded = F.pad(x, (left, left, up, up), mode=_MODES[padding_mode])
    total = 0
    for i in range(kernel.shape[1]):
        for j in range(kernel.shape[2]):
            tap = padded[..., i * rate : i * rate + h, j * rate : j * rate + w]
            total = total + torch.einsum("c,bchw->bhw", kernel[:, i, j], tap)
    return total[..., :: stride[0], :: stride[1]]
