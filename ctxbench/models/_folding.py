"""The arithmetic of folding: what scales and shifts channels moves into the layer beside it.

Everything is computed in float64, so that folding half precision rounds once.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ctxbench.ops import CGConv2d, CoConv2d, ContextualConv2d
from ctxbench.ops._parts import LayerScale, ResidualDepthwise
from ctxbench.ops.reparam import DepthwiseConv2d

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
# not imported: timm need not be there
_NORM_AND_MORE = "timm.layers.norm_act.BatchNormAct2d"
_SCALES = {"timm.layers.layer_scale.LayerScale": -1, "timm.layers.layer_scale.LayerScale2d": -3}
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Affine(NamedTuple):
    """A scale and a shift for each channel, the axis of the channels, and what comes after."""

    scale: Tensor
    shift: Tensor
    axis: int
    then: tuple[nn.Module, ...] = ()


class Joined(nn.Conv2d):
    """A depthwise 3x3 convolution that has taken in the identity beside it: x + DW(x).

    Shape: (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, residual: ResidualDepthwise) -> None:
        conv = residual.conv
        super().__init__(
            conv.in_channels, conv.out_channels, 3, padding=1, groups=conv.groups, device="meta"
        )
        weight = conv.weight.double().clone()
        weight[:, :, 1, 1] += 1
        _set(self, "weight", weight.to(conv.weight))
        self.bias = conv.bias
        self.train(conv.training)


_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, DepthwiseConv2d, Joined)


def affine_of(module: Any) -> Affine | None:
    """Return what a module computes in eval mode, if it first scales and shifts channels."""
    if type(module) is LayerScale:
        return Affine(module.weight.double().flatten(), module.bias.double().flatten(), -3)
    if class_of(module) in _SCALES:
        scale = module.gamma.double()
        return Affine(scale, torch.zeros_like(scale), _SCALES[class_of(module)])
    more = class_of(module) == _NORM_AND_MORE
    if not (more or type(module) in _NORMS) or module.running_mean is None:  # the batch's then
        return None
    scale = (module.running_var.double() + module.eps).rsqrt()
    shift = torch.zeros_like(scale)
    if module.affine:
        scale, shift = scale * module.weight.double(), module.bias.double()
    then = (module.drop, module.act) if more else ()
    return Affine(scale, shift - module.running_mean.double() * scale, axis=1, then=then)


def class_of(module: nn.Module) -> str:
    """Return the full name of a module's class."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def output_axis(layer: Any) -> int | None:
    """Return the axis of the output channels, if a layer can scale each by itself."""
    if type(layer) is nn.Linear:
        return -1
    if type(layer) in (*_CONVS, *_TRANSPOSED):
        return 1 - layer.weight.ndim  # type: ignore[no-any-return]
    if type(layer) is ContextualConv2d and layer.kernel_net is not None and layer.groups == 1:
        return None  # one change of the kernels is for all output channels
    return -3 if type(layer) in (CoConv2d, CGConv2d, ContextualConv2d) else None


def input_axis(layer: Any) -> int | None:
    """Return the axis of the input channels, if a layer can scale and shift each by itself."""
    if type(layer) is nn.Linear:
        return -1
    # a padded map has pixels that were not shifted
    if type(layer) in _CONVS and (layer.padding == "valid" or set(layer.padding) == {0}):
        return 1 - layer.weight.ndim  # type: ignore[no-any-return]
    return None


def scale_output(layer: Any, affine: Affine) -> None:
    """Make a layer return scale * y + shift where it has returned y."""
    weight = layer.weight.double()
    if type(layer) in _TRANSPOSED:
        scale = _by_group(affine.scale, weight, layer.groups)
    else:
        scale = _in_front(affine.scale[:, None], weight)
    _set(layer, "weight", (weight * scale).to(layer.weight))
    bias = affine.shift
    if layer.bias is not None:
        bias = bias + layer.bias.double() * affine.scale
    _set(layer, "bias", bias.to(layer.weight))
    if type(layer) is ContextualConv2d and layer.kernel_net is not None:
        scale = affine.scale.repeat_interleave(layer.kernel_size[0] ** 2)
        scale_output(layer.kernel_net[-1], Affine(scale, torch.zeros_like(scale), -1))


def scale_input(layer: Any, affine: Affine) -> None:
    """Make a layer return of x what it has returned of scale * x + shift."""
    weight, groups = layer.weight.double(), getattr(layer, "groups", 1)
    bias = (weight * _by_group(affine.shift, weight, groups)).flatten(1).sum(1)
    if layer.bias is not None:
        bias = bias + layer.bias.double()
    _set(layer, "weight", (weight * _by_group(affine.scale, weight, groups)).to(layer.weight))
    _set(layer, "bias", bias.to(layer.weight))


def _by_group(values: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Return a value for each channel of the second axis of a weight, whose rows are in groups."""
    rows = values.reshape(groups, -1).repeat_interleave(len(weight) // groups, dim=0)
    return _in_front(rows, weight)


def _in_front(values: Tensor, weight: Tensor) -> Tensor:
    """Return values (O, ...) with as many axes as a weight."""
    return values.reshape(*values.shape, *(1,) * (weight.ndim - values.ndim))


def _set(layer: nn.Module, name: str, value: Tensor) -> None:
    setattr(layer, name, nn.Parameter(value.detach(), requires_grad=False))
