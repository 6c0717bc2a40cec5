"""The picture of ContMix: what chosen positions of an image read, and how much of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from ctxbench.style import WIDTH_IN, style
from ctxbench.visualize._kernels_panels import (
    OVERLAY,
    colour_bar,
    show_image,
    show_map,
    write_heads,
)
from ctxbench.visualize._marks import draw_marks
from ctxbench.visualize.dynamic_kernels import (
    DynamicKernels,
    cell_at,
    kernel_size_of,
    spread,
    window,
)
from ctxbench.visualize.subject import Array, Sample, Subject

_GROUPS, _POSITIONS = 4, 3
_PANEL_IN, _ENDS_IN = 1.07, 1.25
_INK = "tab:red"
# a light rim, so that red shows on red
_RIM = [withStroke(linewidth=1.7, foreground="white", alpha=0.8)]
# of the image, where no marks say what to look at
_PLACES = ((0.5, 0.5), (0.25, 0.25), (0.75, 0.75))


@dataclass(frozen=True, slots=True)
class Position:
    """A pixel (y, x) of what the network sees, and what it is."""

    y: float
    x: float
    name: str


def positions_of(
    sample: Sample, given: Sequence[tuple[float, float]] | None = None
) -> list[Position]:
    """Return the pixels (y, x) to look at: those given, else the marks, else the centre and two."""
    if given:
        return [Position(y, x, f"y={y:g}, x={x:g}") for y, x in given]
    height, width = sample.shown.shape[:2]
    places = [Position(*m.centre, m.name) for m in sample.marks]
    for down, right in _PLACES:
        y, x = float(int(down * height)), float(int(right * width))
        name = "centre" if (down, right) == _PLACES[0] else f"y={y:g}, x={x:g}"
        places.append(Position(y, x, name))
    return places[:_POSITIONS]


def draw(
    subject: Subject, sample: Sample, found: DynamicKernels, positions: Sequence[Position]
) -> Figure:
    """Draw the kernels of one layer for one image: a row a position, for either size."""
    rows = len(positions)
    height = _ENDS_IN + 2 * (rows * _PANEL_IN + 0.3)
    with style():
        figure = Figure(figsize=(WIDTH_IN, height), layout="constrained")
        parts = figure.subfigures(2, 1, squeeze=False, hspace=0.02)[:, 0]
        for part, name in zip(parts, ("small", "large"), strict=True):
            _draw_size(part, sample, found, name, positions)
        write_heads(
            figure, subject, "Dynamic kernels (ContMix)",
            f"layer {found.layer}: {_told(found)}",
            f"{sample.name}; red: the position and the window it reads"
            + ("; blue: the object; orange: the cue" if sample.marks else ""),
        )  # fmt: skip
    return figure


def arrays(
    sample: Sample, found: DynamicKernels, positions: Sequence[Position]
) -> dict[str, Array]:
    """Return what is drawn, and all kernels of this image."""
    return {
        "image": sample.shown,
        "layer": np.array(found.layer),
        "small_kernels": found.small[0],
        "large_kernels": found.large[0],
        "positions_yx_px": np.array([(p.y, p.x) for p in positions]),
        "position_names": np.array([p.name for p in positions]),
        "cells": np.array([_cell(p, found) for p in positions]),
    }


def _told(found: DynamicKernels) -> str:
    """Say how large the map is, and which groups are drawn."""
    (height, width), (tall, wide) = found.feature_size, found.map_size
    enlarged = f", enlarged to {tall}x{wide}" if found.feature_size != found.map_size else ""
    groups = found.small.shape[1]
    shown = f"the first {_GROUPS} of " if groups > _GROUPS else ""
    return f"map of {height}x{width} positions{enlarged}; {shown}{groups} groups of channels"


def _draw_size(
    part: Any, sample: Sample, found: DynamicKernels, which: str, positions: Sequence[Position]
) -> None:
    kernel = getattr(found, which)[0]
    size = kernel_size_of(kernel)
    groups = min(len(kernel), _GROUPS)
    axes = part.subplots(len(positions), 2 + groups, squeeze=False)
    # 1 is a uniform kernel
    cells = [_cell(position, found) for position in positions]
    maps = [spread(kernel, cell) * size**2 for cell in cells]
    stacks = [np.concatenate([each.mean(0, keepdims=True), each[:groups]]) for each in maps]
    top = max(2.0, *(float(stack.max()) for stack in stacks))
    for row, position, cell, stack in zip(axes, positions, cells, stacks, strict=True):
        _draw_place(row[0], sample, found, position, size)
        for axis, values in zip(row[1:], stack, strict=True):
            drawn = _draw_spread(axis, sample, values, cell, size, top)
    for axis, title in zip(
        axes[0], ("position, window", "mean of groups", *(f"group {g + 1}" for g in range(groups))),
        strict=True,
    ):  # fmt: skip
        axis.set_title(title, fontsize=7)
    told = found.statistics()
    half = "first" if which == "small" else "second"
    part.suptitle(
        f"{size}x{size} kernels of the {half} half of the channels: "
        f"evenness {told[f'{which}_evenness']:.3f} (uniform 1), mean reach "
        f"{told[f'{which}_reach_px']:.1f} px (uniform {told[f'{which}_uniform_reach_px']:.1f} px)",
        fontsize=7, x=0.01, ha="left", weight="bold",
    )  # fmt: skip
    colour_bar(part, drawn, axes, "kernel weight\n(1: uniform)")


def _draw_place(
    axis: Any, sample: Sample, found: DynamicKernels, position: Position, size: int
) -> None:
    show_image(axis, sample)
    draw_marks(axis, sample.marks)
    cell = _cell(position, found)
    axis.add_patch(_frame(sample, found.map_size, window(size, cell, found.map_size), size))
    axis.plot(
        position.x,
        position.y,
        marker="+",
        color=_INK,
        markersize=6,
        markeredgewidth=1.2,
        path_effects=_RIM,
    )
    axis.set_ylabel(position.name, fontsize=7)


def _draw_spread(
    axis: Any, sample: Sample, values: Array, cell: tuple[int, int], size: int, top: float
) -> Any:
    show_image(axis, sample, grey=True)
    height, width = sample.shown.shape[:2]
    shape = (values.shape[0], values.shape[1])
    upper, left = window(size, cell, shape)
    inside = np.full(shape, np.nan)
    inside[upper : upper + size, left : left + size] = values[
        upper : upper + size, left : left + size
    ]
    drawn = show_map(
        axis, inside, extent=(-0.5, width - 0.5, height - 0.5, -0.5), cmap="viridis",
        vmin=0, vmax=top, alpha=OVERLAY,
    )  # fmt: skip
    axis.add_patch(_frame(sample, shape, (upper, left), size))
    axis.add_patch(_frame(sample, shape, cell, 1))
    return drawn


def _frame(
    sample: Sample, map_size: tuple[int, int], first: tuple[int, int], cells: int
) -> Rectangle:
    """Return the outline of some cells of a map over the image."""
    tall, wide = (
        side / places for side, places in zip(sample.shown.shape[:2], map_size, strict=True)
    )
    corner = (first[1] * wide - 0.5, first[0] * tall - 0.5)
    return Rectangle(
        corner,
        cells * wide,
        cells * tall,
        fill=False,
        edgecolor=_INK,
        lw=0.9,
        clip_on=False,
        path_effects=_RIM,
    )


def _cell(position: Position, found: DynamicKernels) -> tuple[int, int]:
    return cell_at((position.y, position.x), found.image_size, found.map_size)
