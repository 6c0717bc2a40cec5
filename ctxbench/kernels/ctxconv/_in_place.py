"""Convolution whose taps stay in place, with kernels that every sample changes."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ctxbench.kernels.ctxconv._reference import Window


def forward(
    x: Tensor, weight: Tensor, change_BCT: Tensor | None, window: Window, groups: int
) -> Tensor:
    """Return the convolution (B, O, Y, X), in the type of x.

    The change of a dense kernel is the same for all output channels: what it adds is one map a
    sample. A depthwise kernel is changed, and the samples are groups of one convolution.
    """
    if groups > 1 and change_BCT is not None and len(x):
        kernels = _changed(weight, change_BCT, x.dtype)
        y = F.conv2d(x.flatten(0, 1)[None], kernels, None, *_geometry(window), len(kernels))
        return y.view(*x.shape[:2], *y.shape[2:])
    y = F.conv2d(x, weight.to(x.dtype), None, *_geometry(window), groups).contiguous()
    if change_BCT is not None and len(x):
        sums = change_BCT.to(x.dtype).transpose(1, 2) @ x.flatten(2)
        padded = F.pad(sums.view(*sums.shape[:2], *x.shape[2:]), _padding(window) * 2)
        y += _shifted(padded, window, y.shape[2:]).sum((1, 2)).unsqueeze(1)
    return y


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    change_BCT: Tensor | None,
    window: Window,
    groups: int,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, weight, change, offset and mask, None for what is not needed."""
    grad = grad.to(x.dtype)
    grad_change: Tensor | None = None
    if groups > 1 and change_BCT is not None and len(x):
        kernels = _changed(weight, change_BCT, x.dtype)
        grad_x, grad_kernels = _differentiate(
            grad.flatten(0, 1)[None], x.flatten(0, 1)[None], kernels, window, len(kernels)
        )
        grad_BCT = grad_kernels.view_as(change_BCT)
        grad_x, grad_weight = grad_x.view_as(x), grad_BCT.sum(0).view_as(weight)
        grad_change = grad_BCT
    else:
        grad_x, grad_weight = _differentiate(grad, x, weight.to(x.dtype), window, groups)
        if change_BCT is not None:
            sums_BTN = _sums(grad, x, window)
            grad_x = grad_x + (change_BCT.to(x.dtype) @ sums_BTN).view_as(x)
            grad_change = x.flatten(2) @ sums_BTN.transpose(1, 2)
    if grad_change is not None and change_BCT is not None:
        grad_change = grad_change.to(change_BCT.dtype).contiguous()
    found = (grad_x.contiguous(), grad_weight.to(weight.dtype).contiguous(), grad_change)
    wanted = (one if needed else None for one, needed in zip(found, needs[:3], strict=True))
    return (*wanted, None, None)


def _sums(grad: Tensor, x: Tensor, window: Window) -> Tensor:
    """Return the gradient of every tap at every pixel, over all outputs, (B, T, H * W)."""
    (pad, _), (height, width) = _padding(window), x.shape[2:]
    padded = grad.new_zeros(len(x), window.kernel_size**2, height + 2 * pad, width + 2 * pad)
    _shifted(padded, window, grad.shape[2:]).copy_(grad.sum(1)[:, None, None])
    return padded[:, :, pad : pad + height, pad : pad + width].flatten(2)


def _padding(window: Window) -> tuple[int, int]:
    return (window.dilation * (window.kernel_size // 2),) * 2


def _geometry(window: Window) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    return (window.stride,) * 2, _padding(window), (window.dilation,) * 2


def _changed(weight: Tensor, change_BCT: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the depthwise kernels of all samples, (B * C, 1, k, k)."""
    changed = weight.flatten(1) + change_BCT
    return changed.view(-1, *weight.shape[1:]).to(dtype)


def _differentiate(
    grad: Tensor, x: Tensor, weight: Tensor, window: Window, groups: int
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the maps and of the kernels of a plain convolution."""
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, *_geometry(window), False, (0, 0), groups, (True, True, False)
    )
    return grad_x, grad_weight


def _shifted(padded_BTHW: Tensor, window: Window, places: Sequence[int]) -> Tensor:
    """Return what each tap reads of a map of its own, a view (B, k, k, Y, X)."""
    batch, tap, line, _ = padded_BTHW.stride()
    size, step, rate = window
    return padded_BTHW.as_strided(
        (len(padded_BTHW), size, size, *places),
        (batch, size * tap + rate * line, tap + rate, step * line, step),
    )
