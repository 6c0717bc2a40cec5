"""What torch's FlopCounterMode adds for our operators, which it cannot look into: 2 a MAC."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from ctxbench.kernels import macs
from ctxbench.kernels.macs import Shape

_ops = torch.ops.ctxbench


@register_flop_formula(
    [_ops.coconv2d, _ops.gated_conv2d, _ops.contextual_conv2d, _ops.depthwise_conv2d]
)
def _convolution(x: Shape, weight: Shape, *_: Any, out_shape: Shape) -> int:
    return 2 * macs.convolution(weight, out_shape)


@register_flop_formula(_ops.coconv2d_backward)
def _coconv_backward(
    grad: Shape, x: Shape, weight: Shape, *rest: Any, out_shape: Sequence[Shape]
) -> int:
    """Count the product for the input, and that for the weight; a bias is only added."""
    needs: Sequence[bool] = rest[-2]
    of_x, of_weight, _ = needs
    return 2 * macs.convolution(weight, grad) * (of_x + of_weight)


@register_flop_formula(_ops.depthwise_conv2d_backward)
def _depthwise_backward(
    grad: Shape,
    x: Shape,
    weight: Shape,
    dilation: int,
    needs: Sequence[bool],
    *,
    out_shape: Sequence[Shape],
) -> int:
    """Count the product for the input, and that for the weight; a bias is only added."""
    of_x, of_weight, _ = needs
    return 2 * macs.convolution(weight, grad) * (of_x + of_weight)


@register_flop_formula(_ops.gated_conv2d_backward)
def _gated_backward(
    grad: Shape, x: Shape, weight: Shape, *rest: Any, out_shape: Sequence[Shape]
) -> int:
    """Count the product for the input, and that for the gated weight."""
    needs: Sequence[bool] = rest[-2]
    of_x, *of_factors = needs
    return 2 * macs.convolution(weight, grad) * (of_x + any(of_factors))


@register_flop_formula(_ops.contextual_conv2d_backward)
def _contextual_backward(
    grad: Shape, x: Shape, weight: Shape, *rest: Any, out_shape: Sequence[Shape]
) -> int:
    """Count the product for what is sampled, the map and its taps, and that for the kernels."""
    needs: Sequence[bool] = rest[-2]
    of_x, of_weight, of_change, of_offset, of_mask = needs
    products = any((of_x, of_offset, of_mask)) + any((of_weight, of_change))
    return 2 * macs.convolution(weight, grad) * products


@register_flop_formula(_ops.contmix)
def _contmix(values: Shape, affinity: Shape, weight: Shape, *_: Any, out_shape: Any) -> int:
    return 2 * (macs.contmix_logits(affinity, weight) + macs.contmix_sums(values, weight))


@register_flop_formula(_ops.contmix_backward)
def _contmix_backward(
    grad: Shape, inputs: Sequence[Shape], *rest: Any, out_shape: Sequence[Shape]
) -> int:
    """Count the products for the values and the kernels, then those for what made the kernels."""
    values, affinity, weight, *_ = inputs
    needs: Sequence[bool] = rest[-2]
    of_values, of_affinity, of_weight, *others = needs
    sums = of_values + any((of_affinity, of_weight, *others))
    logits = of_affinity + of_weight
    found = macs.contmix_sums(values, weight) * sums
    return 2 * (found + macs.contmix_logits(affinity, weight) * logits)
