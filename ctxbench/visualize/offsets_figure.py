"""The picture of sampling: points of each layer, its field of displacements, points of several."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from ctxbench.errors import VisualizeError
from ctxbench.style import BLACK, GREY, WIDTH_IN, log_ticks, style
from ctxbench.visualize._marks import look_of
from ctxbench.visualize._offsets_panels import (
    COLOURS,
    Frame,
    draw_composed,
    draw_field,
    draw_samples,
    frame_of,
)
from ctxbench.visualize.offsets import (
    Composed,
    LayerSampling,
    OffsetsRow,
    composed,
    mean_field,
    sampling,
    statistics,
)
from ctxbench.visualize.subject import Array, Image, Page, Sample, Subject, batch_of, of

_LAYERS, _COLUMNS = 4, 3  # at most of the first, at least of the second, side by side
_BAR_IN, _TEXT_IN, _ENDS_IN = 0.75, 0.7, 0.75
_FAR_APART = 10.0  # lengths of layers, from which on colours are logarithmic
_ROWS = ("samples", "mean displacement", "through layers")
Place = tuple[float, float]


def pages(
    subjects: Sequence[Subject],
    images: Iterable[Image],
    *,
    layers: Sequence[str] | None = None,
    positions: Sequence[Place] | None = None,
    depth: int = 3,
    group: int = 0,
) -> Iterator[Page]:
    """Yield a page for each image and network.

    `layers` are drawn, by default the last one of each size of map, of the last four sizes; the
    last `depth` of them, or of all there are by default, are composed. `positions` are (y, x) in
    pixels of what the network sees, by default the first mark of an image, or its centre and two
    other places. Of a layer with several groups of displacements one is drawn, from 0; the field
    and the statistics are over all.
    Raises: VisualizeError for a network that displaces nothing, and for what is not there.
    """
    if depth < 1:
        raise VisualizeError(f"depth={depth} composes no layer. Give at least 1.")
    for image in images:
        drawings = []  # of all networks, before the first page: one of them may displace nothing
        for subject in subjects:
            with of(subject):
                sample = subject.sample(image)
                found = sampling(subject.model, batch_of([sample]), layers=layers)
                shown = tuple(found if layers else _last_of_each_size(found))
                places, depths = _places(sample, positions), min(depth, len(found))
                drawings.append(
                    Drawing(
                        subject, sample, tuple(found), shown, places, depths, _group(found, group)
                    )
                )
        yield from map(_page, drawings)


@dataclass(frozen=True, slots=True)
class Drawing:
    """What a picture shows of one image: `found` in the order of the network, some of it `shown`.

    `places` are (y, x) in the image; each layer is drawn at its nearest output position.
    """

    subject: Subject
    sample: Sample
    found: tuple[LayerSampling, ...]
    shown: tuple[LayerSampling, ...]
    places: tuple[Place, ...]
    depth: int
    group: int = 0

    def composed(self, layers: int) -> tuple[Composed, Composed]:
        """Return the points of the first place through the last layers, and the plain ones."""
        chain = self.found[-layers:]
        position = chain[-1].nearest(self.places[0])
        plain = [layer.undisplaced() for layer in chain]
        return composed(chain, position, group=self.group), composed(plain, position)


def _last_of_each_size(found: Sequence[LayerSampling]) -> list[LayerSampling]:
    """Return the last layer of each output size, of the last few sizes, as they run."""
    last = {layer.output_size: layer for layer in found}
    return [layer for layer in found if last[layer.output_size] is layer][-_LAYERS:]


def _places(sample: Sample, given: Sequence[Place] | None) -> tuple[Place, ...]:
    height, width = sample.shown.shape[:2]
    if given:
        for y, x in given:
            if not (0 <= y <= height - 1 and 0 <= x <= width - 1):
                raise VisualizeError(
                    f"Position y={y:g}, x={x:g} is outside image {sample.name!r}, which the "
                    f"network sees in {height}x{width} pixels, counted from 0."
                )
        return tuple(given)
    if sample.marks:
        return (sample.marks[0].centre,)
    last = np.array((height - 1, width - 1))
    return tuple(tuple((last * share).tolist()) for share in ((0.5, 0.5), (0.2, 0.25), (0.8, 0.75)))


def _group(found: Sequence[LayerSampling], group: int) -> int:
    most = max(layer.groups for layer in found)
    if not 0 <= group < most:
        raise VisualizeError(
            f"There is no offset group {group}: the layers have at most {most}, counted from 0."
        )
    return group


def draw(drawing: Drawing) -> Figure:
    """Draw a row of sampled points, one of fields, and one of points through several layers."""
    shown, depth = drawing.shown, drawing.depth
    columns = max(_COLUMNS, len(shown), depth)
    width = (WIDTH_IN - _BAR_IN) / columns
    frame = frame_of(drawing, width)
    with style():
        high = width * frame.aspect + _TEXT_IN
        figure = Figure(
            figsize=(WIDTH_IN, 3 * high + _ENDS_IN),
            layout=ConstrainedLayoutEngine(compress=True, h_pad=0.09),
        )
        axes = figure.subplots(3, columns, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for axis, layer in zip(axes[0], shown, strict=False):
            draw_samples(axis, drawing, layer, frame)
        _draw_fields(figure, axes[1], drawing, frame)
        for layers, axis in zip(range(1, depth + 1), axes[2], strict=False):
            draw_composed(axis, drawing, layers, frame)
        for axis, told in zip(axes[:, 0], _ROWS, strict=True):
            axis.set_ylabel(told, weight="bold")
        _draw_ends(figure, drawing)
    return figure


def _draw_fields(figure: Figure, axes: Any, drawing: Drawing, frame: Frame) -> None:
    """Draw all fields at one scale: of colours, and of arrows."""
    fields = [mean_field(layer) for layer in drawing.shown]
    colours = _colours([length for _, length in fields])
    for axis, layer, field in zip(axes, drawing.shown, fields, strict=False):
        image = draw_field(axis, drawing, layer, field, frame=frame, colours=colours)
    bar = figure.colorbar(image, ax=list(axes), fraction=0.025, pad=0.01, aspect=18)
    bar.set_label("displacement of a tap,\nmean length (image px)")
    if isinstance(colours, LogNorm):
        log_ticks(bar.ax.yaxis, *bar.ax.get_ylim(), digits=(1, 3))
    bar.outline.set_linewidth(0.4)


def _colours(lengths: Sequence[Array]) -> Normalize:
    """Return one scale for the lengths of all layers, logarithmic if some are far longer."""
    top = max(float(length.max()) for length in lengths)
    typical = [float(np.median(length)) for length in lengths if length.any()]
    if typical and max(typical) > _FAR_APART * min(typical) > 0:
        return LogNorm(min(typical) / 2, top, clip=True)
    return Normalize(0, top or 1.0)


def _draw_ends(figure: Figure, drawing: Drawing) -> None:
    """Say whose samples these are, and what the signs mean."""
    subject = drawing.subject
    figure.suptitle(
        f"Where convolutions sample: {subject.title}, {drawing.sample.name}\n{_weights(subject)}",
        fontsize=9,
        weight="bold",
    )
    legend = figure.legend(
        handles=_keys(drawing), loc="outside lower center", ncols=3, frameon=False, fontsize=6.5,
        title=str(subject.preprocess), title_fontproperties={"size": 6},
    )  # fmt: skip
    legend.get_title().set_color(GREY)


def _weights(subject: Subject) -> str:
    if subject.trained:
        return subject.weights
    told = subject.weights if "random" in subject.weights else f"random weights, {subject.weights}"
    return f"{told}: untrained, the places mean nothing"


def _keys(drawing: Drawing) -> list[Line2D]:
    colour = COLOURS[0]
    line = {"linestyle": "", "color": colour}
    dot = {**line, "marker": "o", "markeredgewidth": 0}
    keys = [
        Line2D([], [], **line, marker="x", markersize=4, label="output position"),
        Line2D([], [], linestyle="", marker="+", color=BLACK, markersize=5, label="regular grid"),
        Line2D([], [], color=colour, linewidth=0.8, label="displacement, true to scale"),
        Line2D([], [], **dot, markersize=4, label="sample; area: mask, over the largest"),
        Line2D([], [], **dot, markersize=2, label="through layers; opacity: product of masks"),
    ]
    return keys + [
        Line2D([], [], **look_of(mark), linewidth=1.2, label=mark.name)
        for mark in drawing.sample.marks
    ]


def _page(drawing: Drawing) -> Page:
    return Page(draw(drawing), _arrays(drawing), [_row(drawing, layer) for layer in drawing.found])


def _arrays(drawing: Drawing) -> dict[str, Array]:
    """Return what is drawn, and the displacements of all layers: `<layer>.offset_GTYX2`, ..."""
    arrays: dict[str, Array] = {
        "image": drawing.sample.shown,
        "image_name": np.array(drawing.sample.name),
        "layers": np.array([layer.layer for layer in drawing.found]),
        "drawn_layers": np.array([layer.layer for layer in drawing.shown]),
        "positions_yx": np.array(drawing.places),
        "group": np.array(drawing.group),
    }
    for layer in drawing.found:
        mean_YX2, length_YX = mean_field(layer)
        arrays |= {
            f"{layer.layer}.offset_GTYX2": layer.offset[0],
            f"{layer.layer}.mask_GTYX": layer.mask[0],
            f"{layer.layer}.places_GTYX2": layer.places[0].astype(np.float32),
            f"{layer.layer}.map_start_px": np.array(layer.grid.start_px),
            f"{layer.layer}.map_step_px": np.array(layer.grid.step_px),
            f"{layer.layer}.mean_displacement_px_YX2": mean_YX2,
            f"{layer.layer}.mean_length_px_YX": length_YX,
        }
    for layers in range(1, drawing.depth + 1):
        points, plain = drawing.composed(layers)
        arrays |= {
            f"composed{layers}.points_px": points.points,
            f"composed{layers}.weight": points.weight,
            f"composed{layers}.lost": np.array(points.lost),
            f"composed{layers}.regular_points_px": plain.points,
        }
    return arrays


def _row(drawing: Drawing, layer: LayerSampling) -> OffsetsRow:
    subject = drawing.subject
    height, width = layer.input_size
    return OffsetsRow(
        model=subject.spec,
        weights=subject.weights,
        trained=subject.trained,
        layer=layer.layer,
        image=drawing.sample.name,
        taps=layer.taps,
        groups=layer.groups,
        map_height=height,
        map_width=width,
        step_px=layer.grid.step_px[0],
        zero=layer.zero,
        **asdict(statistics(layer)),
    )
