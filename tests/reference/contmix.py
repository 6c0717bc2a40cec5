"""ContMix: for each query the affinities, the logits, the softmax and the window, one by one."""

import torch
from torch.nn import functional as F

from tests.reference.repconv import (
    conv1x1,
    feed_forward,
    large,
    layer_norm,
    local,
    norm,
    scaled,
    squeeze_excite,
)


def contmix_block(x, p, *, kernel_sizes, groups):
    """Return the plug-in block; `p` maps the names of its entries to tensors."""

    def mixer(features):
        values = norm(conv1x1(features, p, "block.mixer.values.0"), p, "block.mixer.values.1")
        mixed = contmix(
            values, features, features, p, "block.mixer.contmix",
            kernel_sizes=kernel_sizes, groups=groups,
        )  # fmt: skip
        return gated(features, mixed, p, "block.mixer")

    return residual_mix(x, mixer, p)


def residual_mix(x, mixer, p):
    """Return what surrounds the mixer in both kinds of block."""
    x = local(x, p, "block.local1")
    x = scaled(x, p, "block.scale1") + mixer(layer_norm(x, p, "block.norm1"))
    x = local(x, p, "block.local2")
    y = feed_forward(layer_norm(x, p, "block.norm2"), p, "block.ffn")
    return scaled(x, p, "block.scale2") + y


def gated(features, mixed, p, name):
    """Return steps 3 and 8: the static kernel beside the dynamic one, and the gate of both."""
    gate = norm(conv1x1(features, p, f"{name}.gate.0"), p, f"{name}.gate.1")
    gate = gate / (1 + torch.exp(-gate))
    beside = norm(large(features, p, f"{name}.local.0"), p, f"{name}.local.1")
    y = norm(conv1x1(mixed, p, f"{name}.fuse.0"), p, f"{name}.fuse.1") + beside
    y = gate * squeeze_excite(y, p, f"{name}.excite")
    return conv1x1(norm(y, p, f"{name}.project.0"), p, f"{name}.project.1")


def contmix(values, query, context, p, name, *, kernel_sizes, groups):
    """Return steps 4 to 7, on an enlarged map if a side is shorter than the large kernel."""
    size = values.shape[-2:]
    values, query, context = (enlarged(x, max(kernel_sizes)) for x in (values, query, context))
    small, big = kernels(query, context, p, name, kernel_sizes=kernel_sizes, groups=groups)
    half = values.shape[1] // 2
    y = torch.cat([mix(values[:, :half], small), mix(values[:, half:], big)], dim=1)
    return y if y.shape[-2:] == size else F.adaptive_avg_pool2d(y, size)


def enlarged(x, kernel_size):
    """Return x with its short side at least the kernel, bilinearly."""
    short, long = sorted(x.shape[-2:])
    if short >= kernel_size:
        return x
    other = int(kernel_size / short * long)
    size = (kernel_size, other) if x.shape[-2] == short else (other, kernel_size)
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def kernels(query, context, p, name, *, kernel_sizes, groups):
    """Return both windows' kernels, (B, G, taps, H, W): steps 4 to 6."""
    scale = (query.shape[1] / groups) ** -0.5
    query = norm(conv1x1(query, p, f"{name}.query.0"), p, f"{name}.query.1") * scale
    pooled = F.adaptive_avg_pool2d(context, 7)
    key = norm(conv1x1(pooled, p, f"{name}.key.1"), p, f"{name}.key.2").flatten(2)
    h, w = query.shape[-2:]
    width = query.shape[1] // groups
    weight, bias = p[f"{name}.projection.weight"][:, :, 0, 0], p[f"{name}.projection.bias"]
    tables = (p[f"{name}.small_bias"], p[f"{name}.large_bias"])
    made = [query.new_zeros(len(query), groups, k * k, h, w) for k in kernel_sizes]
    for group in range(groups):
        part = slice(group * width, (group + 1) * width)
        for row in range(h):
            for column in range(w):
                affinity = torch.einsum("bc,bcl->bl", query[:, part, row, column], key[:, part])
                logits = affinity @ weight.T + bias
                both = logits.split([k * k for k in kernel_sizes], dim=1)
                for out, own, table in zip(made, both, tables, strict=True):
                    added = own + _bias(table[group], row, column, h, w)
                    out[:, group, :, row, column] = added.softmax(1)
    return made


def mix(values, weights):
    """values (B, G * C, H, W), weights (B, G, taps, H, W): the window of each position, summed."""
    groups, taps, h, w = weights.shape[1:]
    kernel_size = round(taps**0.5)
    grouped = values.unflatten(1, (groups, -1))
    rows = []
    for row in range(h):
        top = window_start(row, h, kernel_size)
        for column in range(w):
            left = window_start(column, w, kernel_size)
            window = grouped[..., top : top + kernel_size, left : left + kernel_size].flatten(3)
            rows.append(torch.einsum("bgct,bgt->bgc", window, weights[..., row, column]))
    return torch.stack(rows, dim=-1).reshape(values.shape)


def window_start(position, length, kernel_size):
    """Return where the window begins: centred, but shifted inward to stay full."""
    return min(max(position - kernel_size // 2, 0), length - kernel_size)


def _bias(table, row, column, h, w):
    kernel_size = (len(table) + 1) // 2
    top = window_start(row, h, kernel_size) - row + kernel_size - 1
    left = window_start(column, w, kernel_size) - column + kernel_size - 1
    return table[top : top + kernel_size, left : left + kernel_size].flatten()
