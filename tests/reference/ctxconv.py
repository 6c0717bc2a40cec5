"""Contextual convolution from its definition: every tap of every sample read by hand."""

import torch
from torch.nn import functional as F


def ctxconv(x, weight, bias, offset, mask, kernel_offset, *, stride=1, dilation=1, groups=1):
    """x (B, C, H, W), weight (O, C / groups, k, k), the generated parts by sample.

    offset (B, 2 k k, Y, X) holds (dy, dx) by tap, mask (B, k k, Y, X), kernel_offset (B, C k k);
    None stands for nothing generated.
    """
    k = weight.shape[-1]
    up = dilation * (k // 2)
    places = [(size + 2 * up - dilation * (k - 1) - 1) // stride + 1 for size in x.shape[2:]]
    samples = []
    for b in range(len(x)):
        kernels = weight
        if kernel_offset is not None:
            shape = (1, x.shape[1], k, k) if groups == 1 else (x.shape[1], 1, k, k)
            kernels = weight + kernel_offset[b].reshape(shape)
        total = 0
        for tap in range(k * k):
            i, j = divmod(tap, k)
            y0 = torch.arange(places[0], dtype=x.dtype)[:, None] * stride - up + i * dilation
            x0 = torch.arange(places[1], dtype=x.dtype)[None, :] * stride - up + j * dilation
            if offset is not None:
                y0, x0 = y0 + offset[b, 2 * tap], x0 + offset[b, 2 * tap + 1]
            values = _bilinear(x[b], *torch.broadcast_tensors(y0, x0))
            if mask is not None:
                values = values * mask[b, tap]
            per_group = values.reshape(groups, -1, *places)
            kernel = kernels[:, :, i, j].reshape(groups, -1, kernels.shape[1])
            total = total + torch.einsum("goc,gcyx->goyx", kernel, per_group).flatten(0, 1)
        samples.append(total)
    y = torch.stack(samples)
    return y if bias is None else y + bias[None, :, None, None]


def generated(op, x, context):
    """Return offset, mask and kernel offset of a ContextualConv2d, from its weights by name."""
    weights = dict(op.named_parameters()) | dict(op.named_buffers())
    offset = mask = kernel_offset = None
    if op.offset_net is not None:
        seen = x
        if context is not None:
            everywhere = context[:, :, None, None] * torch.ones_like(x[:, :1])
            seen = torch.cat([everywhere, x], dim=1)
        hidden = torch.einsum("oc,bcyx->boyx", weights["offset_net.0.weight"][..., 0, 0], seen)
        hidden = hidden + weights["offset_net.0.bias"][:, None, None]
        hidden = _norm(hidden, weights, "offset_net.1", eps=1e-6).clamp(min=0)
        maps = F.conv2d(
            hidden, weights["offset_net.3.weight"], weights["offset_net.3.bias"],
            stride=op.stride, padding=op.padding, dilation=op.dilation,
        )  # fmt: skip
        third = op.kernel_size[0] ** 2
        offset = maps[:, : 2 * third]
        mask = 1 / (1 + torch.exp(-maps[:, 2 * third :])) if op.mask else None
    if op.kernel_net is not None:
        seen = x.sum((2, 3)) / x.shape[2] / x.shape[3]
        seen = seen if context is None else torch.cat([context, seen], dim=1)
        hidden = seen @ weights["kernel_net.0.weight"].T + weights["kernel_net.0.bias"]
        hidden = _norm(hidden, weights, "kernel_net.1", eps=1e-5).clamp(min=0)
        kernel_offset = hidden @ weights["kernel_net.3.weight"].T + weights["kernel_net.3.bias"]
    return offset, mask, kernel_offset


def _norm(x, weights, name, *, eps):
    """Batch norm by running statistics where there are any, else layer norm over channels."""
    rest = (-1,) + (1,) * (x.ndim - 2)
    if f"{name}.running_mean" in weights:
        mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        x = (x - mean.reshape(rest)) / torch.sqrt(variance.reshape(rest) + 1e-5)
    else:
        mean = x.mean(1, keepdim=True)
        variance = ((x - mean) ** 2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + eps)
    return x * weights[f"{name}.weight"].reshape(rest) + weights[f"{name}.bias"].reshape(rest)


def _bilinear(x, ys, xs):
    """Read x (C, H, W) at fractional places; beyond the border it is zero."""
    total = 0
    for dy in (0, 1):
        for dx in (0, 1):
            top, left = ys.detach().floor() + dy, xs.detach().floor() + dx
            share = (1 - (ys - top).abs()) * (1 - (xs - left).abs())
            inside = (top >= 0) & (top < x.shape[1]) & (left >= 0) & (left < x.shape[2])
            row, column = (
                index.clamp(0, size - 1).long()
                for index, size in ((top, x.shape[1]), (left, x.shape[2]))
            )
            total = total + x[:, row, column] * (share * inside)
    return total
