"""ContMix's kernels: which positions each position of a map reads, and how much of each."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt, log
from typing import cast

import numpy as np
from torch import Tensor, nn

from ctxbench.errors import VisualizeError
from ctxbench.ops import ContMix
from ctxbench.visualize.inside import called, unwrapped
from ctxbench.visualize.kernels import chosen_layers
from ctxbench.visualize.subject import Array


@dataclass(frozen=True, slots=True)
class DynamicKernels:
    """The kernels of one ContMix layer for some images.

    `small` and `large` are (B, G, taps, H, W) in float32: at every position of the map the weights
    of its window, row by row, which sum to one. The groups are of channels, two for each head;
    small kernels mix the first half of the channels, large ones the second. A map smaller than the
    large window is enlarged, and H x W is the enlarged one; `feature_size` is as it was.
    """

    layer: str
    small: Array
    large: Array
    feature_size: tuple[int, int]
    image_size: tuple[int, int]

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the map, enlarged if it is."""
        return (self.large.shape[-2], self.large.shape[-1])

    def statistics(self) -> dict[str, float]:
        """Return means over images, groups and positions: evenness, reach, and a uniform reach."""
        found: dict[str, float] = {}
        for name, kernel in (("small", self.small), ("large", self.large)):
            size = kernel_size_of(kernel)
            uniform = np.full_like(kernel[:1, :1], 1 / size**2)
            found |= {
                f"{name}_kernel_size": size,
                f"{name}_evenness": float(evenness(kernel).mean()),
                f"{name}_reach_px": float(reach_px(kernel, self.image_size).mean()),
                f"{name}_uniform_reach_px": float(reach_px(uniform, self.image_size).mean()),
            }
        return found


def dynamic_kernels(
    model: nn.Module, x: Tensor, *, layers: Sequence[str] | None = None
) -> list[DynamicKernels]:
    """Return the kernels that the ContMix layers mix with in some images (B, C, H, W).

    Raises: VisualizeError for a network or a layer without ContMix, and for a layer called twice.
    """
    model = unwrapped(model)
    names = chosen_layers(model, layers, ["ContMix"])["ContMix"]
    found = []
    with called(model, x, names) as calls:
        for name, layer, call in calls:
            given = inspect.signature(ContMix.forward).bind(layer, *call.inputs, **call.options)
            query, context = given.arguments["query"], given.arguments["context"]
            small, large = cast(ContMix, layer).kernels(query, context)
            sizes = [(each.shape[-2], each.shape[-1]) for each in (query, x)]
            found.append(DynamicKernels(name, _array(small), _array(large), *sizes))
    return found


def kernel_size_of(kernel: Array) -> int:
    """Return K of kernels (..., K * K, H, W)."""
    return isqrt(kernel.shape[-3])


def window(kernel_size: int, position: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Return the upper left position of what a position reads, on a map of some size.

    Tap (row, column) reads `row` below and `column` right of it. The window is centred, and
    shifted inward near a border.
    """
    top, left = (
        min(max(place - kernel_size // 2, 0), side - kernel_size)
        for place, side in zip(position, size, strict=True)
    )
    return top, left


def spread(kernel: Array, position: tuple[int, int]) -> Array:
    """Return how much one position reads of each, (..., H, W), from kernels (..., taps, H, W)."""
    height, width = kernel.shape[-2:]
    size = kernel_size_of(kernel)
    top, left = window(size, position, (height, width))
    weights = kernel[..., position[0], position[1]]
    spread_map = np.zeros((*weights.shape[:-1], height, width), kernel.dtype)
    spread_map[..., top : top + size, left : left + size] = weights.reshape(
        *weights.shape[:-1], size, size
    )
    return spread_map


def evenness(kernel: Array) -> Array:
    """Return the entropy of kernels (B, G, taps, H, W) over that of a uniform one, (B, G).

    It is the mean over the positions: 1 is uniform, 0 reads one position alone.
    """
    taps = kernel.shape[-3]
    if taps == 1:
        return np.ones(kernel.shape[:-3])
    weights = _exact(kernel)
    terms = weights * np.log(np.where(weights > 0, weights, 1))
    return np.asarray(-terms.sum(-3).mean((-2, -1)) / log(taps))


def reach_px(kernel: Array, image_size: tuple[int, int]) -> Array:
    """Return how far positions look, weighted and averaged, (B, G), in pixels of the image."""
    size, shape = kernel_size_of(kernel), kernel.shape[-2:]
    down, right = (
        _offsets(size, side) * pixels / side for side, pixels in zip(shape, image_size, strict=True)
    )
    away = np.hypot(down[:, None, :, None], right[None, :, None, :])
    weighted = _exact(kernel) * away.reshape(size * size, *shape)
    return np.asarray(weighted.sum(-3).mean((-2, -1)))


def cell_at(
    pixel: tuple[float, float], image_size: tuple[int, int], map_size: tuple[int, int]
) -> tuple[int, int]:
    """Return the position of a map (row, column) that lies over a pixel (y, x) of the image.

    Raises: VisualizeError for a pixel outside.
    """
    if any(not 0 <= place < side for place, side in zip(pixel, image_size, strict=True)):
        height, width = image_size
        raise VisualizeError(
            f"Position y={pixel[0]:g}, x={pixel[1]:g} is outside the image. Give y from 0 to "
            f"{height - 1} and x from 0 to {width - 1}."
        )
    row, column = (
        min(int((place + 0.5) * cells / side), cells - 1)  # pixel 0 goes from 0 to 1
        for place, side, cells in zip(pixel, image_size, map_size, strict=True)
    )
    return row, column


def _offsets(kernel_size: int, side: int) -> Array:
    """Return how far each tap of a window is from the position that reads it, (taps, positions)."""
    first = np.array([window(kernel_size, (at, at), (side, side))[0] for at in range(side)])
    return np.asarray(np.arange(kernel_size)[:, None] + first - np.arange(side))


def _exact(kernel: Array) -> Array:
    """Return kernels whose sums are 1 in float64; those of half precision miss it by a percent."""
    weights = kernel.astype(np.float64)
    return np.asarray(weights / weights.sum(-3, keepdims=True))


def _array(x: Tensor) -> Array:
    return x.float().cpu().numpy()
