"""The figures `ablation_distance` and `ablation_priors`: errors over an axis of an experiment."""

import math
from collections.abc import Iterable
from typing import Any

import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from pandas import DataFrame, Series

from ctxbench.records import Row
from ctxbench.report._ablation_lines import (
    chance_words,
    colour,
    draw_chance,
    foremost,
    heading,
    is_size,
    known,
    line_names,
    line_numbers,
    marker,
    number_axes,
    panel_height,
    reach,
    room_for_text,
    size_axes,
)
from ctxbench.report._ablation_statistics import estimate_error
from ctxbench.report.studies import Study, studies
from ctxbench.style import GREY, WIDTH_IN, style, wrap

_COLUMNS = [
    "experiment", "title", "axis", "name", "line", "label", "x", "mean", "low", "high", "chance",
    "left_out",
]  # fmt: skip
_ROW_IN, _LABEL_LETTERS, _TITLE_LETTERS = 2.3, 30, 100
# labels further apart than this many times are drawn on a logarithmic scale
_LOG = 10.0
# none is no size: it stands apart, this many times below the smallest
_APART = 2.5
_SIDE_BY_SIDE = 1.04
_NUMBERS = ["x", "mean", "low", "high"]
# what an axis of the data sets that come with ctxbench is counted in
_WITH_UNIT = {"distance": "distance (px)", "image_px": "image side (px)"}


def select_distance(rows: Iterable[Row]) -> DataFrame:
    """Make a line for each variant with a number, on each axis whose labels all are."""
    return _select(rows, sizes=False)


def select_priors(rows: Iterable[Row]) -> DataFrame:
    """Make a line for each variant with a size: its `x` is the share of the classes in %.

    Sizes are counts, percentages, "all", and "none", which is no share and has no `x`.
    """
    return _select(rows, sizes=True)


def draw_distance(lines: DataFrame) -> Figure:
    """Draw the error over numbers, a line for what else differs, its interval as a band."""
    return _draw(
        lines, "Errors over a number that was varied: mean over seeds, 95 % interval", sizes=False
    )


def draw_priors(lines: DataFrame) -> Figure:
    """Draw the error over the share of the classes that a prior holds; no prior stands apart."""
    return _draw(
        lines, "Errors over the size of the prior: mean over seeds, 95 % interval", sizes=True
    )


def _select(rows: Iterable[Row], *, sizes: bool) -> DataFrame:
    lines = [
        line
        for study in studies(rows)
        for axis in (size_axes(study) if sizes else number_axes(study))
        for line in _lines(study, axis, sizes=sizes)
    ]
    return DataFrame(lines, columns=_COLUMNS)


def _lines(study: Study, axis: str, *, sizes: bool) -> list[Row]:
    errors, names, numbers = study.values(), line_names(study, [axis]), line_numbers(study)
    groups: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        groups.setdefault(name, []).append(number)
    members = list(groups.values())
    kept = foremost(study, members)
    labels = [str(variant["labels"][axis]) for variant in study.variants]
    unsized = sum(not is_size(label) for label in labels) if sizes else 0
    own = len({numbers[members[place][0]] for place in kept}) == len(kept)
    lines = []
    for place in kept:
        for number in members[place]:
            label = labels[number]
            if sizes and not is_size(label):
                continue
            found = estimate_error(errors[number])
            lines.append({
                "experiment": study.name, "title": study.row.get("title") or study.name,
                "axis": axis, "name": names[number], "label": label,
                "line": numbers[members[place][0]] if own else place,
                "x": _share(label, study.variants[number]) if sizes else float(label),
                "mean": found.mean, "low": found.low, "high": found.high,
                "chance": study.chance(number), "left_out": len(members) - len(kept) + unsized,
            })  # fmt: skip
    return sorted((line for line in lines if line["mean"] is not None), key=_order)


def _order(line: Row) -> tuple[Any, ...]:
    return line["line"], line["name"], -1.0 if math.isnan(line["x"]) else line["x"]


def _share(label: str, variant: Row) -> float:
    """Return the share of the classes in %, NaN for none."""
    if label in ("none", "0"):
        return math.nan
    if label == "all":
        return 100.0
    if label.endswith("%"):
        return float(label.removesuffix("%"))
    return 100 * float(label) / variant["classes"] if variant.get("classes") else math.nan


def _draw(lines: DataFrame, title: str, *, sizes: bool) -> Figure:
    panels = [panel for _, panel in lines.groupby(["experiment", "axis"], sort=False)]
    with style():
        heights = [panel_height(p["name"].unique(), _LABEL_LETTERS, _ROW_IN) for p in panels]
        figure = Figure(figsize=(WIDTH_IN, sum(heights) + 0.4), layout=room_for_text())
        axes = figure.subplots(
            len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
        )
        for axis, panel in zip(axes[:, 0], panels, strict=True):
            numbers = panel[_NUMBERS].astype("float64")
            _draw_panel(axis, panel.assign(**numbers).reset_index(drop=True), sizes=sizes)
        sns.despine(figure)
        figure.suptitle(f"{title}; dashed: chance", fontsize=9, weight="bold")
    return figure


def _draw_panel(axis: Any, panel: DataFrame, *, sizes: bool) -> None:
    chance = known(panel["chance"][0])
    low, high = reach(panel[["mean", "low", "high"]].to_numpy().ravel(), chance)
    smallest, largest = panel["x"].min(), panel["x"].max()
    log = sizes or (smallest > 0 and largest / smallest >= _LOG)
    if log:
        axis.set_xscale("log")
    for index, (name, line) in enumerate(panel.groupby("name", sort=False)):
        scaled = line.assign(x=line["x"].fillna(_apart(smallest) * _SIDE_BY_SIDE**index))
        _draw_line(axis, str(name), scaled, at=line["x"].notna())
    _mark_labels(axis, panel)
    named = _WITH_UNIT.get(panel["axis"][0], panel["axis"][0].replace("_", " "))
    how = ", at its share of the classes" if sizes else ""
    axis.set_xlabel(f"{named}{how}{' (log scale)' if log else ''}")
    axis.set(ylabel="top-1 error (%)", ylim=(low, high))
    draw_chance(axis.axhline, chance)
    left_out = panel["left_out"][0]
    beside = [f"{left_out} more in the table"] if left_out else []
    beside += filter(None, [chance_words(chance, low, high)])
    title = wrap(heading(panel["experiment"][0], panel["title"][0]), _TITLE_LETTERS)
    axis.set_title("\n".join([*title, *([", ".join(beside)] if beside else [])]), loc="left", pad=4)
    if any(panel["name"]):
        axis.legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, borderaxespad=0)


def _draw_line(axis: Any, name: str, line: DataFrame, *, at: "Series[bool]") -> None:
    """Draw a line with its band through the points at `at`, and the others for themselves."""
    number = line["line"].iloc[0]
    look = {"color": colour(number), "marker": marker(number), "markersize": 4, "linewidth": 1.2}
    label = "\n".join(wrap(name, _LABEL_LETTERS))
    for points, join in ((line[at], "-"), (line[~at], "")):
        if len(points) > 1 and join:
            axis.fill_between(points["x"], points["low"], points["high"], color=look["color"],
                              alpha=0.18, linewidth=0, zorder=2)  # fmt: skip
        elif len(points):
            axis.vlines(points["x"], points["low"], points["high"], color=look["color"],
                        linewidth=1.2, zorder=2.5)  # fmt: skip
        if len(points):
            axis.plot(points["x"], points["mean"], linestyle=join, label=label, zorder=3, **look)
            label = "_"  # the key needs it once


def _mark_labels(axis: Any, panel: DataFrame) -> None:
    """Put a tick at each label, and a line between sizes and none."""
    ticks = dict(zip(panel["x"], panel["label"], strict=True))
    ticks = {x: label for x, label in ticks.items() if not math.isnan(x)}
    none = panel.loc[panel["x"].isna(), "label"]
    if len(none):
        smallest = min(ticks, default=1.0)
        axis.axvline(smallest / math.sqrt(_APART), color=GREY, linewidth=0.6, linestyle=":")
        ticks[_apart(smallest)] = none.iloc[0]
    axis.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(list(ticks), list(ticks.values()))


def _apart(smallest: float) -> float:
    return (1.0 if math.isnan(smallest) else smallest) / _APART
