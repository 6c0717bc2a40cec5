"""The figure `roofline`: how much of what the machine can do networks and operators achieve."""

import math
from collections.abc import Iterable
from typing import Any

import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy import geomspace, minimum
from pandas import DataFrame, to_numeric

from ctxbench.records import Row
from ctxbench.report._places import beside
from ctxbench.report.machines import placed
from ctxbench.report.timings import asked_backend, is_operator, label, timed
from ctxbench.style import BLACK, GREY, WIDTH_IN, log_ticks, mark_key, style, wrap

_ROOF = ("roof_gflops_s", "roof_gb_s")
_NUMBERS = ["intensity", "gflops_s", "fraction", *_ROOF]
_COLUMNS = ["place", "dtype", "model", "operator", "batch", "label", *_NUMBERS]
# of several conditions a network is shown in the plainest, then with the largest batch
_PLAIN = {"backend": "eager", "layout": "contiguous", "cache": "warm"}
_BLUE, _ORANGE = sns.color_palette("colorblind")[:2]
_MARKS = {False: ("o", _BLUE), True: ("D", _ORANGE)}
_LINE_PT, _KEY_LETTERS, _TITLE_LETTERS = 9.5, 44, 66
_LEAST_IN, _OVERHEAD_IN = 2.4, 0.75


def select(rows: Iterable[Row]) -> DataFrame:
    """Keep one point for each network and operator, by device and dtype: its largest batch."""
    rows = placed(rows)
    # the machine as it was measured last, whichever network was beside it
    roofs = {
        (row["place"], row["dtype"]): {key: row[key] for key in _ROOF}
        for row in rows
        if all(row.get(key) for key in _ROOF)
    }
    chosen: dict[tuple[str, str, str], Row] = {}
    for row in timed(rows):
        if _has_a_place(row):
            key = (row["place"], row["dtype"], row["model"])
            chosen[key] = max(row, chosen.get(key, row), key=_preference)
    points = sorted(chosen.values(), key=lambda row: is_operator(row["model"]))
    frame = DataFrame(
        [
            {
                **row,
                "operator": is_operator(row["model"]),
                "label": label(row["model"]),
                **roofs.get((row["place"], row["dtype"]), {}),
            }
            for row in points
        ],
        columns=_COLUMNS,
    )
    frame[_NUMBERS] = frame[_NUMBERS].apply(to_numeric)
    return frame


def draw(points: DataFrame) -> Figure:
    """Draw a numbered point for each under the roof of its machine, and the key beside."""
    panels = [panel for _, panel in points.groupby(["place", "dtype"], sort=False)]
    keys = [_key(panel) for panel in panels]
    with style():
        heights = [max(_LEAST_IN, (len(key) + 1) * _LINE_PT / 72) for key in keys]
        size = (WIDTH_IN, sum(heights) + _OVERHEAD_IN * len(panels) + 0.6)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(
            len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
        )[:, 0]
        roofs = [_draw_panel(axis, panel) for axis, panel in zip(axes, panels, strict=True)]
        for axis, key in zip(axes, keys, strict=True):
            _write_key(axis, key)
        figure.suptitle("What networks achieve of what the machine can do, in inference",
                        fontsize=9, weight="bold")  # fmt: skip
        figure.legend(handles=_legend(points), loc="outside lower center", ncols=3, frameon=False)
        figure.draw_without_rendering()
        for axis, panel, roof in zip(axes, panels, roofs, strict=True):
            _write_numbers(axis, panel, roof)
    return figure


def _has_a_place(row: Row) -> bool:
    known = row.get("intensity") and row.get("gflops_s")
    return row["status"] == "ok" and row["mode"] == "inference" and bool(known)


def _preference(row: Row) -> tuple[int, int, str]:
    plain = sum(row[key] == value for key, value in _PLAIN.items()) + (not asked_backend(row))
    return plain, row["batch"], (row.get("stamp") or {}).get("time") or ""


def _draw_panel(axis: Any, panel: DataFrame) -> list[Any]:
    """Draw points and roof; return the texts that no number may hide."""
    texts = []
    low, high = panel["intensity"].min() / 2, panel["intensity"].max() * 2
    floor, top = panel["gflops_s"].min() / 2, panel["gflops_s"].max() * 2
    peak, bandwidth = panel[list(_ROOF)].iloc[0]
    if peak > 0:
        low, high = min(low, peak / bandwidth / 2), max(high, peak / bandwidth * 2)
        top = max(top, peak * 1.7)
        floor = min(floor, low * bandwidth)
        x = geomspace(low, high, 200)
        axis.plot(x, minimum(peak, x * bandwidth), color=BLACK, linewidth=1.1, zorder=1.5)
        roof = f"{peak:,.0f} GFLOP/s, {bandwidth:,.0f} GB/s"
        place_pt = {"xytext": (-4, 3), "textcoords": "offset points", "ha": "right"}
        said = axis.annotate(roof, (high, peak), color=BLACK, fontsize=7, **place_pt)
        texts.append(said)
    for operator, (marker, colour) in _MARKS.items():
        of = panel[panel["operator"] == operator]
        if len(of):
            axis.scatter(of["intensity"], of["gflops_s"], s=16, marker=marker, color=colour,
                         linewidth=0, zorder=3)  # fmt: skip
    axis.set(xscale="log", yscale="log", xlim=(low, high), ylim=(floor, top))
    log_ticks(axis.xaxis, low, high, digits=_digits(high / low))
    log_ticks(axis.yaxis, floor, top, digits=_digits(top / floor))
    axis.set_xlabel(
        "FLOP / byte of the operators, unfused: what stays in caches is above the slope"
    )
    axis.set_ylabel("GFLOP/s")
    title = [*wrap(str(panel["place"].iloc[0]), _TITLE_LETTERS), ", ".join(_common(panel))]
    axis.set_title("\n".join(title), loc="left", fontsize=8, pad=3)
    return texts


def _common(panel: DataFrame) -> list[str]:
    """Say what all points of a panel have in common."""
    batches = panel["batch"].unique()
    return [panel["dtype"].iloc[0], *([f"batch {batches[0]}"] if len(batches) == 1 else [])]


def _digits(span: float) -> tuple[int, ...]:
    return (1, 2, 5) if span < 300 else (1,)


def _key(panel: DataFrame) -> list[str]:
    """Say which number is what, and how much of its roof it reaches."""
    single = panel["batch"].nunique() == 1
    lines = []
    columns = zip(panel["label"], panel["batch"], panel["fraction"], strict=True)
    for number, (name, batch, fraction) in enumerate(columns, start=1):
        reached = "" if math.isnan(fraction) else f": {100 * fraction:.{int(fraction < 0.1)}f} %"
        text = wrap(f"{name}{'' if single else f', batch {batch}'}{reached}", _KEY_LETTERS)
        lines += [f"{number:>2}  {text[0]}", *(f"     {more}" for more in text[1:])]
    return lines


def _write_key(axis: Any, key: list[str]) -> None:
    place = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "top"}
    axis.annotate(
        "which: part of the roof above it", (1, 1), xytext=(8, 2), color=GREY, fontsize=7, **place
    )
    for line, text in enumerate(key, start=1):
        axis.annotate(text, (1, 1), xytext=(8, 2 - line * _LINE_PT), fontsize=7, **place)


def _write_numbers(axis: Any, panel: DataFrame, avoided: list[Any]) -> None:
    """Write each point's number beside it, where it touches neither a point nor a text."""
    scale = 72 / axis.figure.dpi
    points = scale * axis.transData.transform(panel[["intensity", "gflops_s"]].to_numpy(float))
    edges = scale * axis.get_window_extent().extents
    boxes = [tuple(scale * text.get_window_extent().extents) for text in avoided]
    texts = [str(number) for number in range(1, len(panel) + 1)]
    spots = beside(points, texts, edges, avoided=boxes)
    for text, (dx, dy), (_, row) in zip(texts, spots, panel.iterrows(), strict=True):
        axis.annotate(
            text, (row["intensity"], row["gflops_s"]), xytext=(dx, dy), fontsize=7,
            textcoords="offset points", ha="center", va="center_baseline", zorder=4,
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": GREY, "shrinkB": 2,
                        "shrinkA": 0} if abs(dx) + abs(dy) > 14 else None,
        )  # fmt: skip


def _legend(points: DataFrame) -> list[Line2D]:
    names = {False: "network", True: "operator"}
    keys = [
        mark_key(names[kind], *_MARKS[kind]) for kind in names if kind in set(points["operator"])
    ]
    return [*keys, Line2D([], [], color=BLACK, linewidth=1.1, label="measured roof")]
