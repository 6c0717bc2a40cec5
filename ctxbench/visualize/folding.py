"""A large kernel beside the branches that fold into it."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn

from ctxbench.ops import DilatedReparam
from ctxbench.visualize.inside import layer_of, unwrapped
from ctxbench.visualize.kernels import chosen_layers
from ctxbench.visualize.subject import Array


@dataclass(frozen=True, slots=True)
class Folding:
    """The kernel of one DilatedReparam layer and what each branch gives to it, in float64.

    `parts` (N, C, K, K) holds each branch's weights where they stand in the large kernel, times the
    scale of its batch norm; `names` says their size and dilation. `kernel` (C, K, K) is what
    `fold` makes of them. A layer that is folded already has no parts left.
    """

    layer: str
    names: tuple[str, ...]
    parts: Array
    kernel: Array

    @property
    def folded(self) -> bool:
        """Whether the kernel is all that is left."""
        return not self.names

    def statistics(self) -> dict[str, float]:
        """Return root mean squares over channels and taps: of the kernel, and of each part.

        `largest_difference` is that between the kernel and the sum of the parts, a check.
        """
        found = {"rms_folded": _rms(self.kernel)}
        for name, part in zip(self.names, self.parts, strict=True):
            found[f"rms_{name.replace(' ', '_')}"] = _rms(part)
        if self.names:
            found["largest_difference"] = float(np.abs(self.parts.sum(0) - self.kernel).max())
        return found


@torch.no_grad()
def folding(model: nn.Module, *, layers: Sequence[str] | None = None) -> list[Folding]:
    """Return the large kernels of the DilatedReparam layers; they depend on no image.

    Raises: VisualizeError for a network or a layer without DilatedReparam.
    """
    model = unwrapped(model)
    names = chosen_layers(model, layers, ["DilatedReparam"])["DilatedReparam"]
    return [_folding(name, cast(DilatedReparam, layer_of(model, name))) for name in names]


def _folding(name: str, layer: DilatedReparam) -> Folding:
    size = layer.kernel_size
    alone = copy.deepcopy(layer).cpu().double()  # the network keeps its branches
    names, parts = [], np.zeros((0, layer.channels, size, size))
    if not alone.folded:
        branches = alone.branches.values()
        placed = [_placed(cast(nn.Sequential, branch), size) for branch in branches]
        names, parts = [part for part, _ in placed], np.stack([weights for _, weights in placed])
        alone.fold()
    return Folding(name, tuple(names), parts, alone.conv.weight[:, 0].numpy())


def _placed(branch: nn.Sequential, size: int) -> tuple[str, Array]:
    """Return a branch's name and its scaled weights inside the large kernel, (C, K, K)."""
    conv, norm = cast(nn.Conv2d, branch[0]), cast(nn.BatchNorm2d, branch[1])
    scale = norm.weight / (cast(torch.Tensor, norm.running_var) + norm.eps).sqrt()
    taps, rate = conv.kernel_size[0], conv.dilation[0]
    places = size // 2 + rate * (torch.arange(taps) - taps // 2)
    weights = conv.weight.new_zeros(len(scale), size, size)
    weights[:, places[:, None], places] = conv.weight[:, 0] * scale[:, None, None]
    name = f"{taps}x{taps}" + (f" dilation {rate}" if rate > 1 else "")
    return name, weights.numpy()


def _rms(x: Array) -> float:
    return float((x**2).mean() ** 0.5)
