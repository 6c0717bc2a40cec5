"""CGC from its definition: each gate by itself, each image by itself, nothing fused."""

from math import ceil, floor

import torch
from torch.nn import functional as F


def cgc(x, weight, bias, parts, *, stride=(1, 1), dilation=(1, 1), groups=1, training=False):
    """x (B, C, H, W), weight (O, C / groups, kh, kw); the rest is as for `gates`."""
    gate = gates(x, weight.shape[-2:], parts, training=training)
    outputs = []
    for image, gate_OCK in zip(x, gate, strict=True):
        kernels = _connected(gate_OCK, groups) * weight
        outputs.append(_convolution(image, kernels, stride, dilation, groups))
    y = torch.stack(outputs)
    return y if bias is None else y + bias[None, :, None, None]


def gates(x, kernel_size, parts, *, training=False):
    """Gates of all pairs of channels, (B, O, C, kh, kw).

    parts: E (k^2, d), D1 and D2 (d, k^2), I (o * g / c, g), and the batch norms BN_c, BN'_c and
    BN_o as (weight, bias, running mean, running variance), k^2 being kh * kw.
    """
    channels = x.shape[1]
    group = 16 if channels >= 16 else channels
    context = torch.einsum("bck,kd->bcd", _pooled(x, kernel_size), parts["E"])
    first = torch.relu(_batch_norm(context, *parts["BN_c"], training=training))
    inputs = torch.einsum("bcd,dk->bck", first, parts["D1"])
    second = torch.relu(_batch_norm(context, *parts["BN'_c"], training=training))
    stacked = torch.cat(
        [
            torch.einsum("og,bgd->bod", parts["I"], second[:, start : start + group])
            for start in range(0, channels, group)
        ],
        dim=1,
    )
    third = torch.relu(_batch_norm(stacked, *parts["BN_o"], training=training))
    outputs = torch.einsum("bod,dk->bok", third, parts["D2"])
    total = inputs[:, None, :, :] + outputs[:, :, None, :]
    return (1 / (1 + torch.exp(-total))).reshape(*total.shape[:3], *kernel_size)


def _pooled(x, size):
    h, w = x.shape[-2:]
    cells = []
    for i in range(size[0]):
        rows = slice(floor(i * h / size[0]), ceil((i + 1) * h / size[0]))
        for j in range(size[1]):
            columns = slice(floor(j * w / size[1]), ceil((j + 1) * w / size[1]))
            cells.append(x[:, :, rows, columns].mean(dim=(2, 3)))
    return torch.stack(cells, dim=2)


def _batch_norm(x, weight, bias, mean, variance, *, training):
    if training:
        mean = x.mean(dim=(0, 2))
        variance = (x - mean[None, :, None]).square().mean(dim=(0, 2))
    unit = (x - mean[None, :, None]) / torch.sqrt(variance + 1e-5)[None, :, None]
    return unit * weight[None, :, None] + bias[None, :, None]


def _connected(gate, groups):
    outputs, inputs = gate.shape[0] // groups, gate.shape[1] // groups
    return torch.stack(
        [gate[o, o // outputs * inputs : (o // outputs + 1) * inputs] for o in range(gate.shape[0])]
    )


def _convolution(image, kernels, stride, dilation, groups):
    h, w = image.shape[-2:]
    kh, kw = kernels.shape[-2:]
    up, left = dilation[0] * (kh // 2), dilation[1] * (kw // 2)
    padded = F.pad(image, (left, left, up, up))
    outputs, inputs = kernels.shape[0] // groups, kernels.shape[1]
    parts = []
    for group in range(groups):
        seen = padded[group * inputs : (group + 1) * inputs]
        mine = kernels[group * outputs : (group + 1) * outputs]
        total = 0
        for i in range(kh):
            for j in range(kw):
                top, start = i * dilation[0], j * dilation[1]
                tap = seen[:, top : top + h, start : start + w]
                total = total + torch.einsum("oc,chw->ohw", mine[:, :, i, j], tap)
        parts.append(total)
    return torch.cat(parts)[:, :: stride[0], :: stride[1]]
