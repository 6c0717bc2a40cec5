"""The figure `latency`: what context costs in time, beside what it costs in MACs."""

from collections.abc import Iterable
from typing import Any

import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas import DataFrame, to_numeric

from ctxbench.records import Row
from ctxbench.report.timings import (
    common_words,
    compared,
    is_operator,
    pair_labels,
    with_interval,
    words,
)
from ctxbench.style import (
    BLACK,
    GREY,
    RING,
    WIDTH_IN,
    log_ticks,
    mark_key,
    ring_key,
    style,
    wrap,
    write_column,
)

_MANY = 40
# what is kept of a device with more lines than that
_PLAIN = {"mode": "inference", "dtype": "fp32", "backend": "eager"}
_RATIOS = ["ratio", "ratio_low", "ratio_high", "macs_ratio"]
_COLUMNS = ["place", "model", "against", "pair", "operator", "mode", "words", "left_out", *_RATIOS]
_LINE_IN, _LABEL_LETTERS, _TITLE_LETTERS = 0.165, 38, 66
_BLUE, _ORANGE = sns.color_palette("colorblind")[:2]
_MARKS = {"inference": ("o", _BLUE), "training": ("s", _ORANGE)}
# span of the ratios -> digits that have a tick
_TICKS = {3.0: (1, 1.2, 1.5, 2, 3, 5, 7, 8, 9), 30.0: (1, 1.5, 2, 3, 5, 7)}
_FEW_TICKS = (1, 2, 5)


def select(rows: Iterable[Row]) -> DataFrame:
    """Make a line for each pair and condition, by device: networks first, then operators.

    Of more than 40 lines of either only inference in fp32, eager, is kept where there is any;
    `left_out` counts the others.
    """
    found = compared(rows)
    groups: dict[tuple[str, bool], list[Row]] = {}
    for row in found:
        groups.setdefault((row["place"], is_operator(row["model"])), []).append(row)
    names = pair_labels({(row["model"], row["against"]): None for row in found})
    lines = []
    places = list(dict.fromkeys(place for place, _ in groups))
    for key in sorted(groups, key=lambda key: (places.index(key[0]), key[1])):
        group = groups[key]
        kept = [row for row in group if all(row[k] == v for k, v in _PLAIN.items())]
        kept = kept if kept and len(group) > _MANY else group
        lines += [
            {
                **row,
                "pair": names[row["model"], row["against"]],
                "operator": key[1],
                "words": tuple(words(row)),
                "left_out": len(group) - len(kept),
            }
            for row in kept
        ]
    frame = DataFrame([{key: line[key] for key in _COLUMNS} for line in lines], columns=_COLUMNS)
    frame[_RATIOS] = frame[_RATIOS].apply(to_numeric)
    return frame


def draw(lines: DataFrame) -> Figure:
    """Draw a ring at the ratio of MACs and a mark at that of latency, with its interval."""
    panels = [_arrange(panel) for _, panel in lines.groupby(["place", "operator"], sort=False)]
    with style():
        heights = [len(labels) + 2.2 for _, labels in panels]
        figure = Figure(figsize=(WIDTH_IN, _LINE_IN * (sum(heights) + 7)), layout="constrained")
        axes = figure.subplots(
            len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
        )
        for axis, (panel, labels) in zip(axes[:, 0], panels, strict=True):
            low, high = _reach(panel)
            axis.set(xscale="log", xlim=(low, high))
            log_ticks(axis.xaxis, low, high, digits=_digits(high / low))
            _draw_panel(axis, panel, labels)
        axes[-1, 0].set_xlabel("ratio to what stands behind the slash (log scale)")
        sns.despine(figure, left=True)
        figure.suptitle("What context costs: MACs, and time", fontsize=9, weight="bold")
        figure.legend(handles=_legend(lines), loc="outside lower center", ncols=5, frameon=False)
    return figure


def _arrange(panel: DataFrame) -> tuple[DataFrame, list[str]]:
    """Give each line its place `y`, and each place its line of a label."""
    texts: list[str] = []
    places: dict[Any, int] = {}
    for pair, conditions in panel.groupby("pair", sort=False):
        label = _label(str(pair))
        places |= {index: len(texts) + line for line, index in enumerate(conditions.index)}
        texts += label + [""] * (len(conditions) - len(label))
    return panel.assign(y=[places[index] for index in panel.index]), texts


def _label(pair: str) -> list[str]:
    """Break the label of a pair, before its baseline if that helps."""
    if len(pair) <= _LABEL_LETTERS:
        return [pair]
    ours, _, theirs = pair.rpartition(" / ")
    lines, behind = wrap(ours, _LABEL_LETTERS), f"/ {theirs}"
    if len(f"{lines[-1]} {behind}") <= _LABEL_LETTERS:
        return [*lines[:-1], f"{lines[-1]} {behind}"]
    return lines + wrap(behind, _LABEL_LETTERS)


def _draw_panel(axis: Any, panel: DataFrame, labels: list[str]) -> None:
    y = panel["y"]
    axis.axvline(1, color=BLACK, linewidth=0.9, zorder=1.2)
    axis.hlines(y, panel["macs_ratio"], panel["ratio"], color=GREY, linewidth=0.8, zorder=1.5)
    axis.scatter(panel["macs_ratio"], y, s=42, **RING)
    for mode, (marker, colour) in _MARKS.items():
        of = panel[panel["mode"] == mode]
        if len(of):
            bars = axis.hlines(of["y"], of["ratio_low"], of["ratio_high"], color=colour)
            bars.set(linewidth=1.6, zorder=2.6)
            axis.scatter(
                of["ratio"], of["y"], s=18, marker=marker, color=colour, linewidth=0, zorder=3
            )
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.tick_params(labelbottom=True)
    axis.grid(visible=False, axis="y")
    axis.hlines(y, 0, 1, color="0.9", linewidth=0.4, zorder=0.5,
                transform=axis.get_yaxis_transform())  # fmt: skip
    _write_beside(axis, panel)


def _write_beside(axis: Any, panel: DataFrame) -> None:
    """Write the times and conditions beside a panel; what all share stands in its title."""
    common = common_words(list(panel["words"]))
    ratios = [with_interval(ratio, None, None) for ratio in panel["ratio"]]
    write_column(axis, 30, "time", zip(panel["y"], ratios, strict=True))
    others = [", ".join(word for word in said if word not in common) for said in panel["words"]]
    if any(others):
        cells = zip(panel["y"], others, strict=True)
        write_column(axis, 40, "condition", cells, align="left")
    left_out = panel["left_out"].iloc[0]
    kind = "operators" if panel["operator"].iloc[0] else "networks"
    title = wrap(f"{panel['place'].iloc[0]}: {kind}", _TITLE_LETTERS)
    title += [f"{left_out} other conditions: in the table"] if left_out else []
    # the last line, short or empty, leaves room for the heads of the columns
    title += wrap(", ".join(common), _LABEL_LETTERS)
    axis.set_title("\n".join(title), loc="left", fontsize=8, pad=3)


def _reach(lines: DataFrame) -> tuple[float, float]:
    """Span the axis so that 1 is on it, and that a hundredth does not look like much."""
    values = lines[_RATIOS].to_numpy()
    values = values[values > 0]
    return min(0.8, values.min() / 1.15), max(1.5, values.max() * 1.15)


def _digits(span: float) -> tuple[float, ...]:
    return next((digits for limit, digits in _TICKS.items() if span <= limit), _FEW_TICKS)


def _legend(lines: DataFrame) -> list[Line2D]:
    keys = [mark_key("as the baseline", "|"), ring_key("MACs")]
    modes = [mode for mode in _MARKS if (lines["mode"] == mode).any()]
    keys += [mark_key(f"time, {mode}", *_MARKS[mode]) for mode in modes]
    return [*keys, Line2D([], [], color=_BLUE, linewidth=1.6, label="95 % interval")]
