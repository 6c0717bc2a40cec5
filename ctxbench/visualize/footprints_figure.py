"""The picture of CoConv: where each level looks, and how much weight it has there."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from ctxbench.style import GREY, WIDTH_IN, style
from ctxbench.visualize._kernels_panels import colour_bar, name_layers, show_map, write_heads
from ctxbench.visualize.footprints import Footprint
from ctxbench.visualize.subject import Array, Subject

_PANEL_IN, _LINES_IN, _ENDS_IN = 1.25, 1.8, 0.7
_BAR = 0.38
_COLUMNS = 3  # at least, so that a single level does not fill the page


def draw(subject: Subject, shown: Sequence[Footprint], depth: Sequence[Footprint]) -> Figure:
    """Draw the levels of the layers shown, and the shares of energy of all in `depth`."""
    with style():
        height = _ENDS_IN + len(shown) * _PANEL_IN + _LINES_IN
        figure = Figure(figsize=(WIDTH_IN, height), layout="constrained")
        ratios = [len(shown) * _PANEL_IN, _LINES_IN]
        upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=ratios)[:, 0]
        _draw_levels(upper, shown)
        _draw_depth(lower, depth)
        write_heads(
            figure, subject, "Sampling footprint and weight energy (CoConv)",
            "energy: sum of squared weights; 1: even over channels and taps; distances in pixels "
            "of the layer's input",
            seen=False,
        )  # fmt: skip
    return figure


def arrays(shown: Sequence[Footprint], depth: Sequence[Footprint]) -> dict[str, Array]:
    """Return every footprint, by the number of its layer in `layers`."""
    found: dict[str, Array] = {
        "layers": np.array([each.layer for each in depth]),
        "drawn_layers": np.array([each.layer for each in shown]),
    }
    for number, each in enumerate(depth):
        found[f"widths_{number}"] = each.widths
        found[f"dilations_{number}"] = each.dilations
        found[f"places_px_{number}"] = each.places_px
        found[f"energy_{number}"] = each.energy
    return found


def _draw_levels(figure: Any, shown: Sequence[Footprint]) -> None:
    levels = max(_COLUMNS, *(len(each.widths) for each in shown))
    axes = figure.subplots(
        len(shown), levels + 1, squeeze=False, width_ratios=[1] * levels + [1.25]
    )
    high = max(float(each.relative_energy().max()) for each in shown)
    for row, each in zip(axes, shown, strict=True):
        for axis in row[len(each.widths) : -1]:
            axis.set_axis_off()
        # one frame for kernels of the same size: a large one would hide how small ones differ
        alike = [one for one in shown if one.energy.shape[1:] == each.energy.shape[1:]]
        reach = max(int(np.abs(one.places_px).max()) for one in alike)
        for level, axis in enumerate(row[: len(each.widths)]):
            drawn = _draw_taps(axis, each, level, reach=reach, high=high)
        row[0].set_ylabel(each.layer)
        _draw_shares(row[-1], each, levels)
    axes[0, -1].set_title("share of the layer")
    axes[0, -1].legend(frameon=False, fontsize=6, loc="lower right", handlelength=1)
    colour_bar(figure, drawn, axes[:, :-1], "energy for each tap and channel (1: even)")


def _draw_taps(axis: Any, each: Footprint, level: int, *, reach: int, high: float) -> Any:
    """Draw the taps of a level as pixels of the map, in the frame that all levels fit into."""
    side = 2 * reach + 1
    grid = np.full((side, side), np.nan)
    rows, columns = np.moveaxis(each.places_px[level] + reach, -1, 0)
    grid[rows, columns] = each.relative_energy()[level]
    half = reach + 0.5
    drawn = show_map(
        axis, grid, cmap="viridis", vmin=0, vmax=high or 1, extent=(-half, half, half, -half)
    )
    axis.set_title(f"dilation {each.dilations[level]}, {each.widths[level]} ch.", fontsize=7)
    ticks = [-reach, 0, reach]
    axis.set_xticks(ticks, [f"{tick:+d}" if tick else "0" for tick in ticks], fontsize=6)
    axis.set_yticks(ticks, [f"{tick:+d}" if tick else "0" for tick in ticks], fontsize=6)
    return drawn


def _draw_shares(axis: Any, each: Footprint, levels: int) -> None:
    places = np.arange(len(each.widths))
    axis.barh(places - _BAR / 2, each.channel_share(), _BAR, color="0.75", label="channels")
    axis.barh(places + _BAR / 2, each.energy_share(), _BAR, color="tab:blue", label="energy")
    axis.set_yticks(places, [f"dil. {rate}" for rate in each.dilations], fontsize=6.5)
    axis.set(xlim=(0, 1), ylim=(levels - 0.5, -0.5))
    axis.grid(visible=False, axis="y")


def _draw_depth(figure: Any, depth: Sequence[Footprint]) -> None:
    """Draw each dilation's share of the energy over the layers; a ring is that of the channels."""
    axis = figure.subplots()
    rates = sorted({int(rate) for each in depth for rate in each.dilations})
    palette = sns.color_palette("colorblind", len(rates))
    for colour, rate in zip(palette, rates, strict=True):
        energy, channels = (
            [float(share[each.dilations == rate].sum()) or np.nan for each, share in parts]
            for parts in (
                [(each, each.energy_share()) for each in depth],
                [(each, each.channel_share()) for each in depth],
            )
        )
        places = np.arange(len(depth))
        axis.plot(places, energy, marker="o", markersize=3, lw=1, color=colour,
                  label=f"dilation {rate}")  # fmt: skip
        axis.plot(places, channels, linestyle="", marker="o", markersize=6.5, color=colour,
                  markerfacecolor="none", markeredgewidth=0.7)  # fmt: skip
    axis.plot([], [], linestyle="", marker="o", markersize=6.5, markerfacecolor="none",
              markeredgecolor=GREY, label="ring: its channels")  # fmt: skip
    axis.set(ylabel="share of the energy", title="over the layers of the network")
    axis.set_ylim(0, 1.12 * max(float(each.energy_share().max()) for each in depth) or 1)
    axis.legend(frameon=False, ncols=1, loc="center left", bbox_to_anchor=(1, 0.5))
    name_layers(axis, [each.layer for each in depth])
