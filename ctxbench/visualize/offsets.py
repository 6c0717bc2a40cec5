"""Where displaced convolutions sample: places, masks, and what they come to through layers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from ctxbench.errors import VisualizeError
from ctxbench.ops import ContextualConv2d
from ctxbench.visualize.inside import at_rest, outcome, prepared, unwrapped
from ctxbench.visualize.offsets_geometry import (
    Grid,
    Pair,
    Reading,
    Watch,
    Window,
    as_numpy,
    even_grid,
    watching,
)
from ctxbench.visualize.subject import Array

_MOST_POINTS = 1_000_000


@dataclass(frozen=True, slots=True)
class LayerSampling:
    """Where one layer sampled its input map, for a batch of images.

    `offset` (B, groups, taps, Y, X, 2) is the displacement (dy, dx) of each tap at each output
    position, in pixels of the layer's input map; `mask` (B, groups, taps, Y, X) its factor, 1
    without masks.
    Taps run over the kernel row by row. The channels of the input are split evenly between the
    groups (torchvision's offset groups). `grid` says where the pixels of the input map stand in
    the image; `followed` is False if the way to the map could not be followed, and the map is
    taken to divide the image evenly.
    """

    layer: str
    window: Window
    input_size: Pair
    image_size: Pair
    grid: Grid
    followed: bool
    offset: Array
    mask: Array

    @property
    def output_size(self) -> Pair:
        """Rows and columns of the layer's output."""
        rows, columns = self.mask.shape[3:]
        return rows, columns

    @property
    def output_grid(self) -> Grid:
        """Where the output positions stand in the image: in the middle of their regular taps."""
        return self.grid.after(self.window)

    @property
    def groups(self) -> int:
        """How many groups of channels have displacements of their own."""
        return int(self.mask.shape[1])

    @property
    def taps(self) -> int:
        """Points that an output position samples."""
        return int(self.mask.shape[2])

    @property
    def tap_spacing_px(self) -> tuple[float, float]:
        """How far apart regular taps stand in the image, (y, x)."""
        y, x = np.array(self.window.dilation) * self.grid.step_px
        return float(y), float(x)

    @property
    def zero(self) -> bool:
        """Whether nothing is displaced, as in a layer that was never trained."""
        return not self.offset.any()

    @property
    def regular(self) -> Array:
        """Places (taps, Y, X, 2) of the plain convolution.

        They are position * stride - padding + tap * dilation, in pixels of the input map.
        """
        axes = [
            np.arange(size) * stride - padding + np.arange(kernel)[:, None] * dilation
            for size, kernel, stride, padding, dilation in zip(
                self.output_size, *self.window, strict=True
            )
        ]
        (rows, columns), (height, width) = self.window.kernel_size, self.output_size
        shape = (rows, columns, height, width)
        y = np.broadcast_to(axes[0][:, None, :, None], shape)
        x = np.broadcast_to(axes[1][None, :, None, :], shape)
        return np.stack([y, x], axis=-1).reshape(-1, height, width, 2).astype(np.float64)

    @property
    def places(self) -> Array:
        """Places that the layer reads, like `offset`: (y, x) in pixels of its input map."""
        read: Array = self.regular + self.offset
        return read

    def nearest(self, place: tuple[float, float]) -> Pair:
        """Return the output position that is nearest to a place (y, x) of the image."""
        found = _rounded(self.output_grid.from_image(np.array(place)))
        y, x = np.clip(found, 0, np.array(self.output_size) - 1)
        return int(y), int(x)

    def undisplaced(self) -> "LayerSampling":
        """Return the plain convolution of the same window: no displacements, no masks."""
        return LayerSampling(
            self.layer, self.window, self.input_size, self.image_size, self.grid, self.followed,
            np.zeros_like(self.offset), np.ones_like(self.mask),
        )  # fmt: skip


def sampled_layers(model: nn.Module) -> list[str]:
    """Return the layers made to displace: contextual convolutions, torchvision's DeformConv2d.

    Layers that call `torchvision.ops.deform_conv2d` themselves show only when they run: `sampling`
    finds those too.
    """
    return [
        name or type(model).__name__
        for name, module in unwrapped(model).named_modules()
        if _displaces(module)
    ]


def _displaces(module: nn.Module) -> bool:
    from torchvision.ops import DeformConv2d

    if isinstance(module, ContextualConv2d):
        return module.offset_net is not None
    return isinstance(module, DeformConv2d)


def sampling(
    model: nn.Module, x: Tensor, *, layers: Sequence[str] | None = None
) -> list[LayerSampling]:
    """Return where layers sample for images x (B, C, H, W), in the order in which they run.

    By default all layers that are called once: contextual convolutions, and whatever calls
    torchvision's deform_conv2d, as DeformConv2d does.
    Raises: VisualizeError for a network that displaces nothing, and for a layer that does not, or
            that is called more than once.
    """
    model = unwrapped(model)
    with at_rest(model), torch.no_grad():
        x = prepared(model, x)
        with watching(model, x) as watch:
            outcome(model, x)
    times = Counter(reading.layer for reading in watch.readings)
    if not times:
        raise VisualizeError(_without(model))
    wanted = _checked(layers, times)
    return [_sampling(r, watch, x) for r in watch.readings if r.layer in wanted]


def _without(model: nn.Module) -> str:
    """Say that a network displaces nothing, and what it has."""
    kinds = Counter(
        type(module).__name__
        for module in model.modules()
        if isinstance(module, nn.Conv2d | ContextualConv2d)
    )
    has = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no convolution"
    plain = " (parts='kernels')" if "ContextualConv2d" in kinds else ""
    return (
        f"{type(model).__name__} samples on the regular grid everywhere: it has {has}{plain}. "
        f"Choose a network with offsets: ctx_resnet50, or any with torchvision.ops.DeformConv2d."
    )


def _checked(layers: Sequence[str] | None, times: Counter[str]) -> set[str]:
    once = [name for name, count in times.items() if count == 1]
    there = f"Layers to choose: {', '.join(once) or 'none'}."
    for name in times if layers is None and not once else layers or ():
        if name not in times:
            raise VisualizeError(f"Layer {name!r} displaces no samples in this network. {there}")
        if times[name] > 1:
            raise VisualizeError(
                f"Layer {name!r} is called {times[name]} times, so there is not one map to show. "
                f"{there}"
            )
    return set(once if layers is None else layers)


def _sampling(reading: Reading, watch: Watch, x: Tensor) -> LayerSampling:
    groups, offset, window = reading.groups, as_numpy(reading.offset), reading.window
    batch, _, rows, columns = offset.shape
    taps = prod(window.kernel_size)
    offset_BGT2YX = offset.reshape(batch, groups, taps, 2, rows, columns)
    shape = (batch, groups, taps, rows, columns)
    mask = np.ones(shape, offset.dtype) if reading.mask is None else as_numpy(reading.mask)
    image_size = (x.shape[2], x.shape[3])
    grid = watch.grids.get(reading.input_size)
    return LayerSampling(
        layer=reading.layer,
        window=window,
        input_size=reading.input_size,
        image_size=image_size,
        grid=grid or even_grid(reading.input_size, image_size),
        followed=grid is not None,
        offset=np.moveaxis(offset_BGT2YX, 3, -1),
        mask=mask.reshape(shape),
    )


@dataclass(frozen=True, slots=True)
class Composed:
    """Points of the image that an output position reaches through several layers.

    `points` (P, 2) are (y, x) in image pixels, `weight` (P,) the plain product of the masks on the
    way. Ways that leave a map before the first of the layers read zeros there: they are no points,
    and `lost` counts them.
    """

    points: Array
    weight: Array
    lost: int


def composed(
    layers: Sequence[LayerSampling], position: Pair, *, image: int = 0, group: int = 0
) -> Composed:
    """Return the points that position (y, x) of the last layer's output samples through all layers.

    The layers are in the order in which they run. A place that a layer reads is carried to the
    nearest output position of the layer before, which samples in turn: 3x3 kernels give 9, 81 and
    729 points through 1, 2 and 3 layers. What plain layers between them mix in is left out, and
    of layers with fewer groups than `group` the last one is taken.
    Raises: VisualizeError for more than a million points, or a position that there is not.
    """
    total = prod(layer.taps for layer in layers)
    if not layers or total > _MOST_POINTS:
        raise VisualizeError(
            f"{len(layers)} layers give {total:,} points, and it takes 1 to {_MOST_POINTS:,} to "
            f"draw. Give another number of layers."
        )
    if not all(0 <= at < size for at, size in zip(position, layers[-1].output_size, strict=True)):
        raise VisualizeError(
            f"Layer {layers[-1].layer!r} has no output position {tuple(position)}: its output has "
            f"{layers[-1].output_size} rows and columns, counted from 0."
        )
    at_P2, weight_P = np.array([position]), np.ones(1)
    points_P2 = np.zeros((0, 2))
    for layer in reversed(layers):
        if layer is not layers[-1]:
            at_P2 = _rounded(layer.output_grid.from_image(points_P2))
            inside = ((at_P2 >= 0) & (at_P2 < layer.output_size)).all(axis=1)
            at_P2, weight_P = at_P2[inside], weight_P[inside]
        own = min(group, layer.groups - 1)
        y, x = at_P2.T
        places_TP2 = layer.places[image, own][:, y, x]
        weight_P = (layer.mask[image, own][:, y, x] * weight_P).T.reshape(-1)
        points_P2 = layer.grid.to_image(places_TP2.transpose(1, 0, 2).reshape(-1, 2))
    return Composed(points_P2, weight_P, total - len(points_P2))


def _rounded(places: Array) -> Array:
    """Round halves up: to even numbers, every other tie would go the other way.

    The last bits of a place are not its own, so what is a half up to those counts as one.
    """
    rounded: Array = np.floor(np.round(places, 6) + 0.5).astype(np.int64)
    return rounded


def mean_field(layer: LayerSampling, *, image: int = 0) -> tuple[Array, Array]:
    """Return the mean displacement (Y, X, 2) of the taps, and the mean of its length (Y, X).

    Both in image pixels, over taps and groups, each weighted by its mask. Taps that move apart
    have a length and no mean displacement.
    """
    moved = layer.offset[image] * np.array(layer.grid.step_px)
    mask_GTYX = layer.mask[image].astype(np.float64)
    total = mask_GTYX.sum((0, 1))
    share = mask_GTYX / np.where(total == 0, 1, total)
    length = np.linalg.norm(moved, axis=-1)
    return (moved * share[..., None]).sum((0, 1)), (length * share).sum((0, 1))


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the displacements of a layer come to, over all groups, taps and output positions.

    Displacements are lengths, in image pixels or in pixels of the input map; `weighted` is by the
    mask (None if all masks are 0). A sample is outside if it is not over a pixel of the input map;
    the regular grid has samples outside too, over the padding. `constant_share` is the part of the
    displacement that is the same at all positions: by tap the length of the mean displacement
    over the mean length (None if nothing is displaced).
    """

    mean_displacement_px: float
    weighted_displacement_px: float | None
    largest_displacement_px: float
    mean_displacement_map_px: float
    share_outside: float
    regular_share_outside: float
    mean_mask: float
    constant_share: float | None


def statistics(layer: LayerSampling, *, image: int = 0) -> Statistics:
    """Return the statistics of one layer for one image."""
    offset = layer.offset[image].astype(np.float64)
    moved = offset * np.array(layer.grid.step_px)
    mask = layer.mask[image].astype(np.float64)
    length, length_map = (np.linalg.norm(vector, axis=-1) for vector in (moved, offset))
    mean = float(length.mean())
    constant = float(np.linalg.norm(moved.mean((2, 3)), axis=-1).mean())
    return Statistics(
        mean_displacement_px=mean,
        weighted_displacement_px=float((length * mask).sum() / mask.sum()) if mask.sum() else None,
        largest_displacement_px=float(length.max()),
        mean_displacement_map_px=float(length_map.mean()),
        share_outside=_share_outside(layer.places[image], layer.input_size),
        regular_share_outside=_share_outside(layer.regular, layer.input_size),
        mean_mask=float(mask.mean()),
        constant_share=constant / mean if mean else None,
    )


def _share_outside(places: Array, size: Pair) -> float:
    """Return the share of places that are outside the area of the pixels, half of one around."""
    outside = (places < -0.5) | (places > np.array(size) - 0.5)
    return float(outside.any(axis=-1).mean())


@dataclass(frozen=True, slots=True)
class OffsetsRow:
    """Where one layer of a network samples one image; `picture` is the file that shows it.

    The last numbers are those of `Statistics`. `zero` means that nothing is displaced.
    """

    model: str
    weights: str
    trained: bool
    layer: str
    image: str
    taps: int
    groups: int
    map_height: int
    map_width: int
    step_px: float
    zero: bool
    mean_displacement_px: float
    weighted_displacement_px: float | None
    largest_displacement_px: float
    mean_displacement_map_px: float
    share_outside: float
    regular_share_outside: float
    mean_mask: float
    constant_share: float | None
    picture: str = ""
