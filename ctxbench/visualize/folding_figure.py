"""The picture of a folded kernel beside the branches that it is made of."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ctxbench.style import WIDTH_IN, style
from ctxbench.visualize._kernels_panels import colour_bar, show_map, write_heads
from ctxbench.visualize.folding import Folding
from ctxbench.visualize.subject import Array, Subject

_WHAT = "Large kernels and the branches that fold into them (DilatedReparam)"
_OVER_CHANNELS = "root mean square over the channels"
_SAMPLES = 3  # channels
_COLUMNS = 4  # at least, so that a single kernel does not fill the page
_ACROSS_IN, _LARGEST_IN, _BETWEEN_IN, _ENDS_IN = 5.6, 0.75, 0.15, 1.7


def draw(subject: Subject, shown: Sequence[Folding]) -> Figure:
    """Draw the branches of each layer side by side, then single channels of the last layer.

    Each row has its own scale, since a batch norm behind the layer takes the scale away.
    """
    if all(each.folded for each in shown):
        return _draw_folded(subject, shown)
    last = shown[-1]
    channels = sample_channels(last)
    columns = max(_COLUMNS, *(len(each.names) + 1 for each in shown))
    panel = min(_ACROSS_IN / columns, _LARGEST_IN) + _BETWEEN_IN
    with style():
        figure, upper, lower = _page(len(shown) * panel, len(channels) * panel)
        _draw_sizes(upper, shown, columns)
        _draw_channels(lower, last, channels, columns)
        told = "each branch with the scale of its batch norm, where its taps stand"
        write_heads(figure, subject, _WHAT, told, seen=False)
    return figure


def _draw_folded(subject: Subject, shown: Sequence[Folding]) -> Figure:
    """Draw a column a layer, since there are no branches to stand beside each other."""
    columns = max(_COLUMNS, len(shown))
    panel = min(_ACROSS_IN / columns, _LARGEST_IN) + 2 * _BETWEEN_IN
    channels = [sample_channels(each) for each in shown]
    rows = max(map(len, channels))
    with style():
        figure, upper, lower = _page(panel, rows * panel)
        above = upper.subplots(1, columns, squeeze=False)
        below = lower.subplots(rows, columns, squeeze=False)
        for axis in (*above.flat, *below.flat):
            axis.set_axis_off()
        for number, (each, some) in enumerate(zip(shown, channels, strict=True)):
            mean = np.sqrt((each.kernel**2).mean(0))
            size = _draw_alone(above[0, number], mean, f"to {mean.max():.3g}", "magma", 0)
            above[0, number].set_title(_broken(each.layer), fontsize=6.5)
            for axis, channel in zip(below[:, number], some, strict=False):
                kernel = each.kernel[channel]
                told = f"ch. {channel}, to {np.abs(kernel).max():.3g}"
                signed = _draw_alone(axis, kernel, told, "RdBu_r", -1)
        _write_heading(upper, _OVER_CHANNELS)
        _write_heading(lower, "channels: the largest, the middle and the smallest kernel")
        colour_bar(upper, size, above, "rms, of the\npanel's largest")
        colour_bar(lower, signed, below, "weight, of the panel's largest")
        write_heads(figure, subject, _WHAT, "the network is folded: no branches left", seen=False)
    return figure


def _page(upper_in: float, lower_in: float) -> tuple[Figure, Any, Any]:
    figure = Figure(figsize=(WIDTH_IN, upper_in + lower_in + _ENDS_IN), layout="constrained")
    heads = _ENDS_IN / 3  # each part has its own heading
    ratios = [upper_in + heads, lower_in + heads]
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=ratios, hspace=0.02)[:, 0]
    return figure, upper, lower


def arrays(shown: Sequence[Folding]) -> dict[str, Array]:
    """Return every kernel and its parts, by the number of its layer in `layers`."""
    found: dict[str, Array] = {"layers": np.array([each.layer for each in shown])}
    for number, each in enumerate(shown):
        found[f"kernel_{number}"] = each.kernel
        found[f"parts_{number}"] = each.parts
        found[f"part_names_{number}"] = np.array(each.names, dtype=np.str_)
    return found


def sample_channels(found: Folding) -> list[int]:
    """Return channels to look at: first, middle and last by the size of their kernel."""
    order = np.argsort((found.kernel**2).sum((1, 2)))[::-1]
    places = np.linspace(0, len(order) - 1, min(_SAMPLES, len(order))).round().astype(int)
    return [int(order[place]) for place in places]


def _panels(each: Folding) -> tuple[list[str], Array]:
    """Return the titles and the kernels (panels, C, K, K) of a layer, the folded one last."""
    titles = [*(name.replace(" dilation ", "\ndil. ") for name in each.names), "folded"]
    return titles, np.concatenate([each.parts, each.kernel[None]])


def _draw_sizes(figure: Any, shown: Sequence[Folding], columns: int) -> None:
    axes = figure.subplots(len(shown), columns, squeeze=False)
    above: list[str] = []
    for row, each in zip(axes, shown, strict=True):
        titles, kernels = _panels(each)
        mean = np.sqrt((kernels**2).mean(1))
        drawn = _draw_row(row, mean, cmap="magma", vmin=0)
        row[0].set_ylabel(f"{_broken(each.layer)}\nto {mean.max():.3g}", fontsize=6)
        if titles != above:
            _write_titles(row, titles)
        above = titles
    _write_heading(figure, _OVER_CHANNELS)
    colour_bar(figure, drawn, axes, "rms of the weight,\nof the row's largest")


def _draw_channels(figure: Any, each: Folding, channels: Sequence[int], columns: int) -> None:
    titles, kernels = _panels(each)
    axes = figure.subplots(len(channels), columns, squeeze=False)
    for row, channel in zip(axes, channels, strict=True):
        drawn = _draw_row(row, kernels[:, channel], cmap="RdBu_r", vmin=-1)
        high = np.abs(kernels[:, channel]).max()
        row[0].set_ylabel(f"channel {channel}\nto {high:.3g}", fontsize=6)
    _write_titles(axes[0], titles)
    which = ": the largest, the middle and the smallest kernel" if len(channels) == _SAMPLES else ""
    _write_heading(figure, f"channels of {each.layer}{which}")
    colour_bar(figure, drawn, axes, "weight, of the\nrow's largest")


def _draw_alone(axis: Any, values: Array, label: str, colours: str, low: float) -> Any:
    axis.set_axis_on()
    axis.set_xlabel(label, fontsize=6, labelpad=2)
    return _draw_row([axis], values[None], cmap=colours, vmin=low)


def _draw_row(row: Any, maps: Array, **colours: Any) -> Any:
    """Draw maps in a row, in units of the largest value among them."""
    high = float(np.abs(maps).max()) or 1
    for axis in row[len(maps) :]:
        axis.set_axis_off()
    for axis, values in zip(row, maps, strict=False):
        drawn = show_map(axis, values / high, vmax=1, **colours)
    return drawn


def _write_titles(row: Any, titles: Sequence[str]) -> None:
    for axis, title in zip(row, titles, strict=False):
        axis.set_title(title, fontsize=6.5)


def _write_heading(figure: Any, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", fontsize=7.5, weight="bold")


def _broken(name: str) -> str:
    """Break a long name of a layer in the middle, at a point."""
    parts = name.split(".")
    half = (len(parts) + 1) // 2
    return name if len(name) < 14 else ".".join(parts[:half]) + ".\n" + ".".join(parts[half:])
