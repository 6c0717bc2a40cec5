"""The panels of the picture of sampling, all in the coordinates of the image."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from ctxbench.style import BLACK, GREY
from ctxbench.visualize._marks import draw_marks
from ctxbench.visualize.offsets import LayerSampling, statistics
from ctxbench.visualize.subject import Array

if TYPE_CHECKING:
    from ctxbench.visualize.offsets_figure import Drawing

_PALETTE = sns.color_palette("colorblind")
COLOURS = [_PALETTE[index] for index in (3, 0, 2, 1, 4)]
_UNDER = [withStroke(linewidth=1.6, foreground="white")]
_ARROWS = 14  # at most, across a field
_FURTHEST = 0.25  # around the image, as a share of its side
_SOME, _DENSE = 200, 1000  # points, from which on they get smaller, and fainter
_FEW_TAPS, _CLOSE_PT2 = 9, 4.0
_INSET, _SMALL_PT2 = 0.4, 7.0  # as a share of a panel; the area of dots that are enlarged
_NICE = (1, 2, 5)
_ZERO = "all displacements are zero:\nuntrained"


@dataclass(frozen=True, slots=True)
class Frame:
    """The part of the plane that all panels show, in image pixels: the image and some around it."""

    top: float
    bottom: float
    left: float
    right: float
    width_pt: float

    def area_pt2(self, spacing_px: float) -> float:
        """Return the area of a dot half as wide as dots stand apart."""
        spacing_pt = spacing_px * self.width_pt / (self.right - self.left)
        return float(np.clip((spacing_pt / 2) ** 2, 1.5, 10))

    @property
    def aspect(self) -> float:
        """Height over width."""
        return (self.bottom - self.top) / (self.right - self.left)

    @property
    def square(self) -> float:
        """Height of a square as a share of the frame's, if its width is one of the frame's."""
        return 1 / self.aspect

    def beyond(self, points: Array) -> int:
        """Return how many points (P, 2) lie outside."""
        y, x = points.T
        inside = (self.top <= y) & (y <= self.bottom) & (self.left <= x) & (x <= self.right)
        return int((~inside).sum())


def frame_of(drawing: "Drawing", width_in: float) -> Frame:
    """Return a frame with room for all points that are drawn, up to a part of a side around.

    `width_in` is about how wide it will be.
    """
    sides = np.array(drawing.sample.shown.shape[:2])
    points = [_samples(drawing, layer, place)[1] for layer in drawing.shown
              for place in drawing.places]  # fmt: skip
    for layers in range(1, drawing.depth + 1):
        points += [part.points for part in drawing.composed(layers)]
    every = np.concatenate(points) if points else np.zeros((1, 2))
    over = np.maximum(-0.5 - every.min(0), every.max(0) - (sides - 0.5))
    # one margin for all sides, so that the image stays in the middle
    margin = float(np.clip(over.max() + 0.03 * sides.max(), 0.03 * sides.max(),
                           _FURTHEST * sides.min()))  # fmt: skip
    first, (bottom, right) = -0.5 - margin, sides - 0.5 + margin
    return Frame(first, float(bottom), first, float(right), 72 * width_in)


def _samples(
    drawing: "Drawing", layer: LayerSampling, place: tuple[float, float]
) -> tuple[Array, Array, Array]:
    """Return the regular places, the sampled ones, and the masks, of the position at a place."""
    y, x = layer.nearest(place)
    group = min(drawing.group, layer.groups - 1)
    return (
        layer.grid.to_image(layer.regular[:, y, x]),
        layer.grid.to_image(layer.places[0, group][:, y, x]),
        layer.mask[0, group][:, y, x],
    )


def draw_samples(axis: Any, drawing: "Drawing", layer: LayerSampling, frame: Frame) -> None:
    """Draw where a layer samples at each place, and the first place enlarged if it is small."""
    _draw_image(axis, drawing, frame)
    further = sum(_draw_points(axis, drawing, layer, number, frame=frame)
                  for number in range(len(drawing.places)))  # fmt: skip
    close = _close_frame(drawing, layer, frame)
    times = (frame.right - frame.left) / (close.right - close.left) * _INSET
    inset = frame.area_pt2(min(layer.tap_spacing_px)) < _SMALL_PT2 and times >= 2
    if inset:
        corner = axis.inset_axes((*_free_corner(drawing, frame), _INSET, _INSET * frame.square))
        _draw_image(corner, drawing, close)
        _draw_points(corner, drawing, layer, 0, frame=close)
        corner.spines[:].set(linewidth=1.0, color=COLOURS[0])
    (height, width), (rows, columns) = layer.input_size, layer.window.kernel_size
    stride, step = layer.window.stride[0], layer.grid.step_px[0]
    group = f"\noffset group {min(drawing.group, layer.groups - 1)} of {layer.groups}"
    enlarged = f"\ninset enlarged {times:.2g} times"
    _head(axis, layer.layer, zero=layer.zero)
    axis.set_xlabel(
        f"{rows}x{columns}, stride {stride}, of a {height}x{width} map"
        f"\n1 map px = {step:.3g} image px{'' if layer.followed else ' (assumed)'}"
        f"{group if layer.groups > 1 else ''}"
        f"{enlarged if inset else ''}{_further(further)}",
        fontsize=6.5,
    )


def _draw_points(
    axis: Any, drawing: "Drawing", layer: LayerSampling, number: int, *, frame: Frame
) -> int:
    """Draw one place's regular grid, its samples and the arrows; return how many are outside."""
    place, colour = drawing.places[number], COLOURS[number % len(COLOURS)]
    regular, places, mask = _samples(drawing, layer, place)
    dot = frame.area_pt2(min(layer.tap_spacing_px))
    halo = _UNDER if layer.taps <= _FEW_TAPS and dot > _CLOSE_PT2 else None
    largest = max(float(layer.mask[0].max()), 1e-12)
    axis.scatter(
        *regular.T[::-1], marker="+", s=1.5 * dot, linewidths=0.5, color=BLACK, zorder=3,
        path_effects=halo,
    )  # fmt: skip
    moved = places - regular
    far = moved.any(axis=1)  # what stays would be drawn as a dot
    axis.quiver(
        *regular[far].T[::-1], *moved[far].T[::-1], angles="xy", scale_units="xy", scale=1,
        units="inches", width=0.011, headwidth=4, headlength=5, headaxislength=4.5,
        minlength=0, color=[colour], zorder=4,
    )  # fmt: skip
    axis.scatter(
        *places.T[::-1], s=dot * np.clip(mask / largest, 0, 1), color=[colour],
        linewidths=0.3 if halo else 0, edgecolors="white", zorder=5,
    )  # fmt: skip
    _draw_position(axis, layer, place, colour, area=1.6 * dot)
    return frame.beyond(places)


def _close_frame(drawing: "Drawing", layer: LayerSampling, frame: Frame) -> Frame:
    """Return a square around the samples of the first place, up to three times its regular grid."""
    regular, places, _ = _samples(drawing, layer, drawing.places[0])
    centre, spacing = regular.mean(0), max(layer.tap_spacing_px)
    grid = float(np.abs(regular - centre).max()) + spacing / 2
    half = min(float(np.abs(places - centre).max()) + spacing / 2, 3 * grid)
    half, (y, x) = max(half, grid), centre.tolist()
    return Frame(y - half, y + half, x - half, x + half, _INSET * frame.width_pt)


def _free_corner(drawing: "Drawing", frame: Frame) -> tuple[float, float]:
    """Return the corner of a panel, as shares of its sides, that is furthest from all places."""
    high = _INSET * frame.square
    corners = [(x, y) for x in (0.98 - _INSET, 0.02) for y in (0.02, 0.98 - high)]
    shares = np.array([
        ((x - frame.left) / (frame.right - frame.left),
         (frame.bottom - y) / (frame.bottom - frame.top))
        for y, x in drawing.places
    ])  # fmt: skip
    middles = np.array(corners) + np.array((_INSET / 2, high / 2))
    away = np.linalg.norm(middles[:, None] - shares, axis=-1).min(axis=1)
    return corners[int(away.argmax())]


def draw_field(
    axis: Any,
    drawing: "Drawing",
    layer: LayerSampling,
    field: tuple[Array, Array],
    *,
    frame: Frame,
    colours: Normalize,
) -> Any:
    """Draw the mean displacement at each output position; return the map of lengths."""
    mean, length = field
    _draw_image(axis, drawing, frame)
    grid, (rows, columns) = layer.output_grid, layer.output_size
    edges = grid.to_image(np.array([[-0.5, -0.5], [rows - 0.5, columns - 0.5]]))
    (upper, left), (lower, right) = edges
    image = axis.imshow(
        length, cmap="viridis", norm=colours, extent=(left, right, lower, upper),
        interpolation="nearest", zorder=1,
    )  # fmt: skip
    every, times = _every(layer), magnification(layer, mean)
    y, x = np.meshgrid(*(np.arange(every // 2, size, every) for size in (rows, columns)),
                       indexing="ij")  # fmt: skip
    start = grid.to_image(np.stack([y, x], axis=-1).reshape(-1, 2).astype(float))
    arrow = mean[y, x].reshape(-1, 2) * times
    if arrow.any():
        axis.quiver(
            *start.T[::-1], *arrow.T[::-1], angles="xy", scale_units="xy", scale=1,
            units="inches", width=0.011, headwidth=4, headlength=5, headaxislength=4.5,
            color="white", zorder=4,
        )  # fmt: skip
    _set(axis, frame)
    some = f", 1 in {every * every} drawn" if every > 1 else ""
    _head(axis, _ZERO if layer.zero else f"arrow lengths x{times:g}{some}", zero=False, size=6.5)
    axis.set_xlabel(_told(layer), fontsize=6.5)
    return image


def _told(layer: LayerSampling) -> str:
    """Say the statistics of a layer."""
    found = statistics(layer)
    constant = found.constant_share
    same = "" if constant is None else f"\n{constant:.0%} of it the same everywhere"
    return (
        f"mean {_short(found.mean_displacement_px)} px = "
        f"{_short(found.mean_displacement_map_px)} map px{same}\n"
        f"largest {_short(found.largest_displacement_px)} px, mean mask {found.mean_mask:.2g}\n"
        f"outside {found.share_outside:.1%} (regular {found.regular_share_outside:.1%})"
    )


def _short(number: float) -> str:
    return f"{number:.3g}" if number < 1000 else f"{number:,.0f}"


def draw_composed(axis: Any, drawing: "Drawing", layers: int, frame: Frame) -> None:
    """Draw the points that the first place reaches through the last layers."""
    _draw_image(axis, drawing, frame)
    last = drawing.found[-1]
    found, plain = drawing.composed(layers)
    many = len(found.points) > _DENSE
    spacing = min(drawing.found[-layers].tap_spacing_px)
    most = 10.0 if len(found.points) < _SOME else 2.5
    size = 1.0 if many else min(frame.area_pt2(spacing), most)
    unique = np.unique(plain.points, axis=0)
    axis.scatter(
        *unique.T[::-1], marker="+", s=1.5 * max(size, 3), linewidths=0.4, color=BLACK, zorder=3,
        rasterized=len(unique) > _DENSE,
    )  # fmt: skip
    share = found.weight / max(float(found.weight.max(initial=0)), 1e-12)
    colour = np.array([(*COLOURS[0], 1.0)]).repeat(len(share), axis=0)
    colour[:, 3] = np.clip(share * (max(0.1, _DENSE / len(share)) if many else 1), 0, 1)
    axis.scatter(
        *found.points.T[::-1], s=size, color=colour, linewidths=0, zorder=5, rasterized=many
    )
    _draw_position(axis, last, drawing.places[0], COLOURS[0], area=16)
    which = "last layer" if layers == 1 else f"last {layers} layers"
    of = f" of {len(found.points) + found.lost:,}" if found.lost else ""
    zero = all(layer.zero for layer in drawing.found[-layers:])
    _head(axis, f"{which}: {len(found.points):,}{of} points", zero=zero)
    lost = f"{found.lost:,} leave a map on their way" if found.lost else ""
    told = (lost + _further(frame.beyond(found.points))).strip()
    axis.set_xlabel(told, fontsize=6.5)


def magnification(layer: LayerSampling, mean: Array) -> float:
    """Return how much longer than true arrows are drawn: the longest nearly meet their neighbours.

    It is a number of one digit.
    """
    longest = float(np.linalg.norm(mean, axis=-1).max())
    if longest == 0:
        return 1.0
    room = _every(layer) * min(layer.output_grid.step_px) / longest
    power = 10.0 ** np.floor(np.log10(room))
    return float(max(n * power for n in _NICE if n * power <= room * (1 + 1e-9)))


def _every(layer: LayerSampling) -> int:
    return -(-max(layer.output_size) // _ARROWS)


def _draw_image(axis: Any, drawing: "Drawing", frame: Frame) -> None:
    """Draw the image and its marks into the frame, with a line around what there is of it."""
    shown = drawing.sample.shown
    height, width = shown.shape[:2]
    axis.set_axis_on()
    axis.grid(visible=False)
    small = min(height, width) < 64
    axis.imshow(shown, interpolation="nearest" if small else "antialiased", alpha=0.75, zorder=0)
    axis.add_patch(
        Rectangle((-0.5, -0.5), width, height, fill=False, edgecolor=GREY, linewidth=0.6, zorder=2)
    )
    draw_marks(axis, drawing.sample.marks)
    _set(axis, frame)


def _set(axis: Any, frame: Frame) -> None:
    axis.set(
        xticks=[], yticks=[], xlim=(frame.left, frame.right), ylim=(frame.bottom, frame.top),
        aspect="equal",
    )  # fmt: skip
    axis.spines[:].set(linewidth=0.3, color="0.8")


def _draw_position(
    axis: Any, layer: LayerSampling, place: tuple[float, float], colour: Any, *, area: float
) -> None:
    """Draw the output position that is nearest to a place."""
    y, x = layer.output_grid.to_image(np.array(layer.nearest(place)))
    axis.scatter(
        [x], [y], marker="x", s=area, linewidths=1.1 if area > 2 * _CLOSE_PT2 else 0.7,
        color=[colour], zorder=6, path_effects=_UNDER,
    )  # fmt: skip


def _head(axis: Any, told: str, *, zero: bool, size: float = 7.5) -> None:
    """Write the title of a panel, and below it whether nothing is displaced."""
    axis.set_title(f"{told}\n{_ZERO}" if zero else told, fontsize=size)


def _further(points: int) -> str:
    return f"\n{points:,} points further out" if points else ""
