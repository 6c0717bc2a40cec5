"""The picture of CGC: which weights the gates let through, and what another image changes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ctxbench.style import BLACK, GREY, WIDTH_IN, style
from ctxbench.visualize._kernels_panels import colour_bar, name_layers, show_map, write_heads
from ctxbench.visualize.gates import GateSummary
from ctxbench.visualize.subject import Array, Subject

_PANEL_IN, _LINES_IN, _ENDS_IN = 1.6, 1.5, 0.9
_WRITTEN = 25  # taps whose numbers fit into a panel
_TITLES = ("gate, mean over taps", "gate, mean over channels", "what another image changes")


def draw(
    subject: Subject, shown: Sequence[GateSummary], depth: Sequence[GateSummary], first: str
) -> Figure:
    """Draw a row for each layer shown, and a line over all layers in `depth`.

    `first` is the name of the first image, whose gates are drawn.
    """
    with style():
        height = _ENDS_IN + len(shown) * _PANEL_IN + _LINES_IN
        figure = Figure(figsize=(WIDTH_IN, height), layout="constrained")
        ratios = [len(shown) * _PANEL_IN, _LINES_IN]
        upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=ratios)[:, 0]
        axes = upper.subplots(len(shown), 3, squeeze=False)
        _draw_gates(upper, axes, shown)
        if shown[0].images > 1:
            _draw_between(upper, axes, shown)
        else:
            for axis in axes[:, 2]:
                axis.set_axis_off()
                axis.text(0.5, 0.5, "needs two images", ha="center", color=GREY)
        _draw_depth(lower, depth)
        images = shown[0].images
        write_heads(
            figure, subject, "Gates of the weights (CGC)",
            "a gate of 0 shuts a weight out, 1 leaves it as it is",
            f"left and middle: {first}; right and below: "
            + (f"{images} images" if images > 1 else "this image"),
        )  # fmt: skip
    return figure


def arrays(shown: Sequence[GateSummary], depth: Sequence[GateSummary]) -> dict[str, Array]:
    """Return the gates of the first image, the moments over all, and the statistics by depth."""
    found: dict[str, Array] = {
        "layers": np.array([summary.layer for summary in shown]),
        "images": np.array(depth[0].images),
        "depth_layers": np.array([summary.layer for summary in depth]),
    }
    for name in depth[0].statistics():
        found[f"depth_{name}"] = np.array([summary.statistics()[name] for summary in depth])
    for number, summary in enumerate(shown):
        found[f"gates_{number}"] = summary.first
        found[f"mean_{number}"] = summary.mean
        between = summary.between()
        if between is not None:
            found[f"std_between_images_{number}"] = between
    return found


def _draw_gates(figure: Any, axes: Any, shown: Sequence[GateSummary]) -> None:
    maps = [(s.first.mean((2, 3)), s.first.mean((0, 1))) for s in shown]
    low = min(float(each.min()) for pair in maps for each in pair)
    high = max(float(each.max()) for pair in maps for each in pair)
    for row, summary, pair in zip(axes, shown, maps, strict=True):
        for axis, values in zip(row, pair, strict=False):
            drawn = show_map(axis, values, cmap="viridis", vmin=low, vmax=high, aspect="auto")
        outputs, inputs = summary.first.shape[:2]
        row[0].set(ylabel=f"{summary.layer}\n{outputs} outputs", xlabel=f"{inputs} inputs")
        _write_taps(row[1], pair[1], (low + high) / 2)
    for axis, title in zip(axes[0], _TITLES, strict=True):
        axis.set_title(title)
    colour_bar(figure, drawn, axes[:, :2], "gate (possible: 0..1)")


def _write_taps(axis: Any, values: Array, middle: float) -> None:
    height, width = values.shape
    axis.set(xlabel=f"taps of {height}x{width}", box_aspect=1)
    if values.size <= _WRITTEN:
        for (row, column), value in np.ndenumerate(values):
            ink = "white" if value < middle else BLACK
            axis.text(column, row, f"{value:.3f}", ha="center", va="center", fontsize=6, color=ink)


def _draw_between(figure: Any, axes: Any, shown: Sequence[GateSummary]) -> None:
    # of each pair of channels, over its taps: the root of the mean variance
    maps = [
        np.sqrt((between**2).mean((2, 3))) for s in shown if (between := s.between()) is not None
    ]
    high = max(float(each.max()) for each in maps)
    for axis, summary, values in zip(axes[:, 2], shown, maps, strict=True):
        drawn = show_map(axis, values, cmap="magma", vmin=0, vmax=high or 1, aspect="auto")
        axis.set_xlabel(f"{summary.first.shape[1]} inputs")
    colour_bar(figure, drawn, axes[:, 2], "std of the gate between images, rms over taps")


def _draw_depth(figure: Any, depth: Sequence[GateSummary]) -> None:
    left, right = figure.subplots(1, 2)
    told = [summary.statistics() for summary in depth]
    places = np.arange(len(depth))
    mean = np.array([each["mean_gate"] for each in told])
    within = np.array([each["std_within_image"] for each in told])
    left.errorbar(places, mean, within, marker="o", markersize=3, lw=1, capsize=2)
    left.set(ylabel="gate (0..1)", title="mean, bar: std within an image")
    right.plot(places, within, marker="o", markersize=3, lw=1, label="within an image")
    if depth[0].images > 1:
        between = [each["std_between_images"] for each in told]
        right.plot(places, between, marker="s", markersize=3, lw=1, label="between images")
    right.set(ylabel="std of the gate", title="what differs")
    right.set_ylim(0, 1.4 * max(line.get_ydata().max() for line in right.lines))
    right.legend(frameon=False, ncols=2, loc="upper center")
    for axis in (left, right):
        name_layers(axis, [summary.layer for summary in depth])
