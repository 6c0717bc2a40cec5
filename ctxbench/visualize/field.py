"""The theoretical receptive field of any network: which pixels can reach an output at all."""

from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ctxbench.errors import VisualizeError
from ctxbench.visualize.inside import (
    at_rest,
    layer_of,
    listening,
    only_call,
    outcome,
    scores_of,
    unwrapped,
)

# the name for a network's class scores, in the place of a layer's
OUTPUT = "output"
_ALL = "all"
# four axes of them may be (B, H, W, C)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm)
_SIDES = ("top", "bottom", "left", "right")


@dataclass(frozen=True, slots=True)
class Field:
    """The rows and the columns of an image that an output depends on, counted from 0, inclusive."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        """The number of rows."""
        return self.bottom - self.top + 1

    @property
    def width(self) -> int:
        """The number of columns."""
        return self.right - self.left + 1

    def is_whole(self, height: int, width: int) -> bool:
        """Tell whether that is all of an image."""
        return (self.height, self.width) == (height, width)


def field_of(
    model: nn.Module,
    x: Tensor | tuple[int, int, int],
    layer: str,
    position: tuple[int, int] | None = None,
) -> Field:
    """Return the smallest box of pixels that holds all that an output depends on.

    The output is `position` (y, x) of the map of a layer, its centre without one, or the class
    scores where `layer` is "output". `x` is an image (C, H, W), images (B, C, H, W), whose fields
    are united, or a size (C, H, W), for which noise is taken.

    It is measured: the rows on one side are made no numbers (NaN), and what they reach is no number
    either, whatever the weights, also through zeros, poolings and norms. Of a copy in float64 on
    the CPU, whose convolutions work pixel by pixel, without transforms that spread a NaN. More rows
    reach no less, so each side is found by bisection.

    What the network only chooses by, without a gradient, as a ranking of classes, carries no NaN
    and counts as no dependence. Where it displaces its taps the field is that at these images.
    Samples must be independent of each other, as they are in eval mode.

    Raises: VisualizeError for a layer that makes no map or that no pixel reaches,
            UnknownNameError for one that does not exist.
    """
    images = _images(x)
    model = deepcopy(unwrapped(model)).to("cpu", torch.float64)
    probe = _Probe(model, images, layer, position)
    spoilt = probe.reached([("top", 0), (_ALL, 0)])
    if spoilt != [False, True]:
        told = "is no number by itself" if spoilt[0] else "depends on no pixel"
        raise VisualizeError(f"The map of layer {layer!r} {told}, so it has no receptive field.")
    height, width = images.shape[2:]
    free = dict.fromkeys(_SIDES, 0)
    reached = {"top": height, "bottom": height, "left": width, "right": width}
    first = True
    while open_sides := [side for side in _SIDES if reached[side] - free[side] > 1]:
        # a field up to the border, the usual one of deep networks, is found at once
        tried = {side: 1 if first else (free[side] + reached[side]) // 2 for side in open_sides}
        first = False
        for side, reaches in zip(tried, probe.reached(list(tried.items())), strict=True):
            (reached if reaches else free)[side] = tried[side]
    return Field(
        top=reached["top"] - 1,
        bottom=height - reached["bottom"],
        left=reached["left"] - 1,
        right=width - reached["right"],
    )


@dataclass(frozen=True, slots=True)
class _Probe:
    """Tells whether pixels that are no numbers make an output one."""

    model: nn.Module
    images: Tensor
    layer: str
    position: tuple[int, int] | None

    def reached(self, spoilt: list[tuple[str, int]]) -> list[bool]:
        """Tell for each (side, number of rows or columns) whether spoiling them is seen."""
        x = torch.cat([_spoilt(self.images, side, count) for side, count in spoilt])
        with at_rest(self.model), torch.no_grad():
            seen = output_of(self.model, x, self.layer, self.position).channels
        return seen.isnan().any(1).reshape(len(spoilt), -1).any(1).tolist()


def _spoilt(images: Tensor, side: str, count: int) -> Tensor:
    images = images.clone()
    height, width = images.shape[2:]
    rows, columns = {
        "top": (slice(0, count), slice(None)),
        "bottom": (slice(height - count, height), slice(None)),
        "left": (slice(None), slice(0, count)),
        "right": (slice(None), slice(width - count, width)),
        _ALL: (slice(None), slice(None)),
    }[side]
    images[:, :, rows, columns] = torch.nan
    return images


def _images(x: Tensor | tuple[int, int, int]) -> Tensor:
    if isinstance(x, Tensor):
        return x.detach().to("cpu", torch.float64).reshape(-1, *x.shape[-3:])
    # not zeros: a norm of nothing would be no number
    return torch.randn(1, *x, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def is_output(model: nn.Module, layer: str) -> bool:
    """Tell whether a layer's name means the class scores: "output", unless a layer is called so."""
    return layer == OUTPUT and layer not in dict(model.named_modules())


class Output(NamedTuple):
    """The channels (B, C) of an output; class scores have no position (row, column) in a map."""

    channels: Tensor
    position: tuple[int, int] | None
    map_size: tuple[int, int] | None


def output_of(model: nn.Module, x: Tensor, layer: str, position: tuple[int, int] | None) -> Output:
    """Run a network and return a position of a layer, its centre without one, or its class scores.

    Raises: VisualizeError for a layer that makes no map, or for a position outside it.
    """
    if is_output(model, layer):
        if position is not None:
            raise VisualizeError(f"Class scores have no position; got {position}. Give a layer.")
        return Output(scores_of(outcome(model, x)), None, None)
    features = map_of(model, x, layer)
    height, width = features.shape[2:]
    # the middle, the later one of two
    row, column = (height // 2, width // 2) if position is None else position
    if not (0 <= row < height and 0 <= column < width):
        raise VisualizeError(
            f"Position {position} is outside the map of layer {layer!r}, which has {height} rows "
            f"and {width} columns."
        )
    return Output(features[:, :, row, column], (row, column), (height, width))


def map_of(model: nn.Module, x: Tensor, layer: str) -> Tensor:
    """Run a network and return the map (B, C, H, W) of a layer."""
    if type(layer_of(model, layer)) in _CHANNELS_LAST:
        raise VisualizeError(
            f"Layer {layer!r} works on the last axis, so what it returns is no map (B, C, H, W). "
            f"Choose the block around it."
        )
    with listening(model, [layer]) as calls:
        outcome(model, x)
    output = only_call(calls, layer).output
    if not isinstance(output, Tensor) or output.ndim != 4 or len(output) != len(x):
        told = f"{type(output).__name__} {tuple(getattr(output, 'shape', ()))}"
        raise VisualizeError(
            f"Layer {layer!r} returns {told}, not a map (B, C, H, W). Choose another layer."
        )
    return output
