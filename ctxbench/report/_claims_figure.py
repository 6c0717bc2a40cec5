"""The figure `claims`: published parameters and GFLOPs of every network, beside ours."""

import math
from collections.abc import Iterable
from operator import itemgetter
from typing import Any

import seaborn as sns
from matplotlib.figure import Figure
from pandas import DataFrame, Series, concat, to_numeric

from ctxbench.claims import CLOSE, DIFFERS, REPRODUCED
from ctxbench.records import Row, latest
from ctxbench.report.networks import CELLS, CLAIM, merge, networks
from ctxbench.style import (
    GREY,
    RING,
    WIDTH_IN,
    log_ticks,
    mark_key,
    ring_key,
    style,
    write_column,
)

_PANELS = {"params": "Parameters (M)", "gflops": "GFLOPs"}
_COLUMNS = ["paper", "source", "model", "table"]
_COLUMNS += [f"{panel}_{cell}" for panel in _PANELS for cell in CELLS]
_NUMERIC = ("published", "ours", "difference")
_LINE_IN = 0.165
_WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
_BLUE, _ORANGE, _, _RED = sns.color_palette("colorblind")[:4]
# verdict -> marker and colour; the marker alone tells the verdicts apart
_MARKS = {REPRODUCED: ("o", _BLUE), CLOSE: ("^", _ORANGE), DIFFERS: ("X", _RED)}


def select(rows: Iterable[Row]) -> DataFrame:
    """Make a line for each network and each way its cost is published; `y` is its place."""
    same = [f"{panel}_{key}" for panel in _PANELS for key in ("published", "ours", "verdict")]
    merged = merge(networks(latest(rows, *CLAIM)), ["paper", "model", *same])
    drawn = [line for line in merged if any(line.get(key) for key in same)]
    drawn.sort(key=itemgetter("paper"))
    lines = DataFrame(drawn, columns=_COLUMNS)
    numbers = [column for column in _COLUMNS if column.endswith(_NUMERIC)]
    lines[numbers] = lines[numbers].apply(to_numeric)
    # a free place before each paper's first line is for its heading
    return lines.assign(y=lines.index + (lines["paper"] != lines["paper"].shift()).cumsum())


def draw(lines: DataFrame) -> Figure:
    """Draw a ring for each published figure, a mark for ours, and write the deviation in %."""
    papers = lines.drop_duplicates("paper")
    with style():
        size = (WIDTH_IN, _LINE_IN * (len(lines) + len(papers)) + 1.1)
        figure = Figure(figsize=size, layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        _draw_panel(left, lines, "params")
        _draw_panel(right, lines, "gflops")
        sns.despine(figure, left=True)
        left.set_yticks(lines["y"], lines["model"])
        left.set_ylim(lines["y"].max() + 0.7, -0.5)
        for y, source in zip(papers["y"] - 1, papers["source"], strict=True):
            left.text(0, y, source, transform=left.get_yaxis_transform(), va="center",
                      weight="bold", in_layout=False, bbox=_WHITE)  # fmt: skip
        left.set_zorder(right.get_zorder() + 1)  # or the right panel hides the heading's end
        write_column(right, 72, "table", zip(lines["y"], lines["table"], strict=True))
        figure.suptitle("What the papers publish, and what we count", fontsize=9, weight="bold")
        keys = [mark_key(f"ours: {verdict}", *mark) for verdict, mark in _MARKS.items()]
        keys.insert(0, ring_key("published"))
        figure.legend(handles=keys, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_panel(axis: Any, lines: DataFrame, panel: str) -> None:
    published, ours, verdict = (lines[f"{panel}_{key}"] for key in ("published", "ours", "verdict"))
    counted = lines[verdict.isin(_MARKS)].index
    axis.hlines(lines["y"], published, ours, color=GREY, linewidth=1, zorder=1.5)
    axis.scatter(published, lines["y"], s=42, **RING)
    if len(counted):
        sns.scatterplot(
            x=ours[counted], y=lines["y"][counted], hue=verdict[counted], style=verdict[counted],
            palette={name: colour for name, (_, colour) in _MARKS.items()},
            markers={name: marker for name, (marker, _) in _MARKS.items()},
            s=24, linewidth=0, legend=False, ax=axis, zorder=3,
        )  # fmt: skip
    low, high = _reach(published, ours)
    axis.set(xscale="log", xlabel=_label(lines, panel), ylabel="", xlim=(low, high))
    log_ticks(axis.xaxis, low, high)
    deviations = map(_deviation, published, lines[f"{panel}_difference"])
    write_column(axis, 38, "ours against\npublished", zip(lines["y"], deviations, strict=True))


def _reach(published: Series, ours: Series) -> tuple[float, float]:
    """Span the axis so wide that it has a tick, and that a thousandth does not look like much."""
    values = concat([published, ours]).dropna()
    return (values.min() / 1.5, values.max() * 1.5) if len(values) else (1, 10)


def _label(lines: DataFrame, panel: str) -> str:
    """Name the axis, and in which convention the figures were counted, if there are several."""
    ways = lines["gflops_convention"].dropna().unique() if panel == "gflops" else ()
    return f"{_PANELS[panel]}{', ours as ' if len(ways) else ''}{' or '.join(ways)} (log scale)"


def _deviation(published: float, difference: float) -> str:
    """Write a relative difference in %, to two digits after the point."""
    if math.isnan(difference):
        return "" if math.isnan(published) else "not built"
    percent = f"{100 * difference:+.2f} %".replace("-", "\N{MINUS SIGN}")
    return "0.00 %" if percent[1:] == "0.00 %" else percent
