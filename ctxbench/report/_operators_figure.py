"""The figure `operators`: what context costs in each operator, by every way of computing it."""

from collections.abc import Iterable
from typing import Any

from matplotlib.figure import Figure
from pandas import DataFrame

from ctxbench.records import Row
from ctxbench.report._operator_rows import at_largest_batch
from ctxbench.report.machines import PLACE, last_of_each
from ctxbench.style import GREY, WIDTH_IN, log_ticks, mark_key, style

_TASKS = ("forward", "training")
_KEY = ("operator", "case", "device", "dtype", "layout", "task", "form", "formulation")
_COLUMNS = ["panel", "line", "task", "form", "ratio"]
# form -> marker, colour, size; later ones lie on top, so that none hides what is at its place
_MARKS = {
    "torch": ("o", "C0", 6.0),
    "reference": ("s", "0.65", 4.0),
    "triton": ("D", "C3", 3.5),
    "obvious": ("x", "0.2", 4.5),
}
_WORDS = {
    "obvious": "obvious formulation", "reference": "backend reference",
    "torch": "backend torch (the default)", "triton": "backend triton",
}  # fmt: skip
_LINE_IN = 0.17


def select(rows: Iterable[Row]) -> DataFrame:
    """Keep the ratios to the plain convolution, of the largest batch with an obvious form."""
    found = [
        row
        for row in last_of_each(rows, *_KEY)
        if row["form"] in _MARKS and row["ratio_to_plain"] is not None
    ]
    lines = [
        {
            "panel": f"{row[PLACE]}: {row['dtype']}, {row['layout']}",
            "line": f"{row['operator']}: {row['case']}",
            "task": row["task"],
            "form": row["form"],
            "ratio": row["ratio_to_plain"],
        }
        for row in at_largest_batch(found)
    ]
    return DataFrame(lines, columns=_COLUMNS)


def draw(lines: DataFrame) -> Figure:
    """Draw the time of every form over that of the plain convolution, a line an operator."""
    panels = list(lines.groupby("panel", sort=False))
    heights = [part["line"].nunique() for _, part in panels]
    with style():
        size = (WIDTH_IN, 1.1 + sum(0.45 + _LINE_IN * height for height in heights))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(panels), 2, sharex="col", squeeze=False, height_ratios=heights)
        for axes, (name, part) in zip(grid, panels, strict=True):
            for axis, task in zip(axes, _TASKS, strict=True):
                _draw_panel(axis, part, task, named=axis is axes[0])
                # in lines, since one would run over the next panel and the edge
                over = [*str(name).rsplit(": ", 1), task] if axis is axes[0] else [task]
                axis.set_title("\n".join(over), loc="left")
        for axis, task in zip(grid[-1], _TASKS, strict=True):
            _scale(axis, lines.loc[lines["task"] == task, "ratio"])
            axis.set_xlabel("time / plain convolution")
        forms = [form for form in _MARKS if form in set(lines["form"])]
        figure.legend(
            handles=[mark_key(_WORDS[form], *_MARKS[form][:2]) for form in forms],
            loc="outside lower center", ncols=len(forms), frameon=False,
        )  # fmt: skip
        figure.suptitle("What context costs in an operator", fontsize=8.5, weight="bold")
    return figure


def _draw_panel(axis: Any, part: DataFrame, task: str, *, named: bool) -> None:
    names = list(dict.fromkeys(part["line"]))
    places = {name: -index for index, name in enumerate(names)}
    shown = part[part["task"] == task]
    for form, (marker, colour, size) in _MARKS.items():
        of_form = shown[shown["form"] == form]
        axis.plot(
            of_form["ratio"], [places[name] for name in of_form["line"]],
            linestyle="", marker=marker, color=colour, markersize=size, zorder=3,
        )  # fmt: skip
    axis.axvline(1, color=GREY, linewidth=0.8)
    axis.set_yticks(list(places.values()), names if named else [""] * len(names))
    axis.set_ylim(-len(names) + 0.5, 0.5)


def _scale(axis: Any, ratios: Any) -> None:
    """Give a column of panels, which share it, an axis on which all of its ratios are."""
    low, high = min([1.0, *ratios]), max([1.0, *ratios])
    margin = max(1.2, (high / low) ** 0.05)  # no mark is cut
    low, high = low / margin, high * margin
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    log_ticks(axis.xaxis, low, high, digits=(1, 2, 5) if high < 50 * low else (1,))
