"""The figure `ablation_errors`: the error of each variant, every seed of it, and its interval."""

from collections.abc import Iterable
from typing import Any

import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas import DataFrame

from ctxbench.records import Row
from ctxbench.report._ablation_lines import (
    chance_words,
    colour,
    draw_chance,
    heading,
    known,
    line_numbers,
    marker,
    reach,
    room_for_text,
)
from ctxbench.report._ablation_statistics import estimate_error
from ctxbench.report.ablations import points, published_error
from ctxbench.report.studies import FAILED, OK, Study, studies
from ctxbench.style import BLACK, GREY, WIDTH_IN, style, wrap, write_column

_COLUMNS = [
    "experiment", "title", "variant", "line", "baseline", "mean", "low", "high", "errors", "n",
    "failed", "planned", "published", "chance",
]  # fmt: skip
_LINE_IN, _LABEL_LETTERS, _TITLE_LETTERS = 0.185, 40, 62
_SEEDS_BELOW = 0.3
_ERROR_PT, _GAP_PT, _LETTER_PT = 88, 10, 3.7


def select(rows: Iterable[Row]) -> DataFrame:
    """Make a line for each variant of the experiments of which any trial has ended well."""
    lines = [line for study in studies(rows) for line in _lines(study)]
    return DataFrame(lines, columns=_COLUMNS)


def draw(lines: DataFrame) -> Figure:
    """Draw the mean and its interval, the seeds beneath it, and chance; write the rest beside."""
    panels = [panel for _, panel in lines.groupby("experiment", sort=False)]
    labels = [[wrap(name, _LABEL_LETTERS) for name in panel["variant"]] for panel in panels]
    with style():
        heights = [sum(map(len, names)) + 2.6 for names in labels]
        figure = Figure(figsize=(WIDTH_IN, _LINE_IN * (sum(heights) + 5)), layout=room_for_text())
        axes = figure.subplots(
            len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
        )
        for axis, panel, names in zip(axes[:, 0], panels, labels, strict=True):
            _draw_panel(axis, panel.reset_index(drop=True), names)
        axes[-1, 0].set_xlabel("top-1 error of the validation images (%)")
        sns.despine(figure, left=True)
        figure.suptitle("Errors of the trained variants", fontsize=9, weight="bold")
        figure.legend(handles=_legend(), loc="outside lower center", ncols=5, frameon=False)
    return figure


def _lines(study: Study) -> list[Row]:
    errors, numbers = study.values(), line_numbers(study)
    if errors.isna().all(axis=None):
        return []
    lines = []
    for variant, name in enumerate(study.names):
        found = estimate_error(errors[variant])
        status = list(study.trials.loc[study.trials["variant"] == variant, "status"])
        published = published_error(study.variants[variant], "top1_error")
        lines.append({
            "experiment": study.name, "title": study.row.get("title") or study.name,
            "variant": name, "line": numbers[variant],
            "baseline": study.baseline(variant) == variant, "mean": found.mean, "low": found.low,
            "high": found.high, "errors": tuple(errors[variant].dropna()), "n": status.count(OK),
            "failed": status.count(FAILED), "planned": len(status),
            "published": f"{published:.2f}" if isinstance(published, float | int)
            else published or "",
            "chance": study.chance(variant),
        })  # fmt: skip
    return lines


def _draw_panel(axis: Any, panel: DataFrame, names: list[list[str]]) -> None:
    numbers = panel[["mean", "low", "high"]].astype("float64")
    seeds = [error for errors in panel["errors"] for error in errors]
    chances = sorted(set(panel["chance"].dropna()))
    low, high = reach([*numbers.to_numpy().ravel(), *seeds], chances[0] if chances else None)
    at, place = [], 0
    for lines, row, of in zip(names, panel.itertuples(), numbers.itertuples(), strict=True):
        at.append(place)
        if row.n:
            _draw_variant(axis, place, row, of)
        else:
            _write_why(axis, place, row)
        place += len(lines)
    for chance in chances:
        draw_chance(axis.axvline, chance)
    axis.set_yticks(range(place), [line for lines in names for line in lines])
    axis.set(xlim=(low, high), ylim=(place - 0.4, -0.6))
    axis.grid(visible=False, axis="y")
    axis.hlines(at, 0, 1, color="0.9", linewidth=0.4, zorder=0.5,
                transform=axis.get_yaxis_transform())  # fmt: skip
    title = wrap(heading(panel["experiment"][0], panel["title"][0]), _TITLE_LETTERS)
    # the last line, short or empty, leaves room for the heads of the columns
    title.append(chance_words(chances[0] if chances else None, low, high))
    axis.set_title("\n".join(title), loc="left", pad=3)
    _write_beside(axis, panel, at)


def _draw_variant(axis: Any, y: float, row: Any, of: Any) -> None:
    ink = colour(row.line)
    axis.scatter(row.errors, [y + _SEEDS_BELOW] * len(row.errors), s=4, color=ink, alpha=0.7,
                 linewidth=0, zorder=2.4)  # fmt: skip
    axis.hlines(y, of.low, of.high, color=ink, linewidth=1.6, zorder=2.6)
    axis.scatter(of.mean, y, s=20, marker=marker(row.line), linewidth=1.1, edgecolor=[ink],
                 facecolor="white" if row.baseline else [ink], zorder=3)  # fmt: skip


def _write_why(axis: Any, y: float, row: Any) -> None:
    """Say why nothing is drawn of a variant."""
    why = f"{row.failed} failed" if row.failed else "not run"
    across = axis.get_yaxis_transform()
    axis.text(0.02, y, why, transform=across, va="center", color=GREY, fontsize=7)


def _write_beside(axis: Any, panel: DataFrame, at: list[int]) -> None:
    numbers = panel[["mean", "low", "high"]].astype("float64").to_numpy()
    errors = [points(*map(known, row)) for row in numbers]
    write_column(axis, _ERROR_PT, "error (%) [95 %]", zip(at, errors, strict=True))
    seeds = [_seeds(row) for row in panel.itertuples()]
    right = _ERROR_PT + _GAP_PT + _LETTER_PT * max(map(len, (*seeds, "seeds")))
    write_column(axis, right, "seeds", zip(at, seeds, strict=True))
    if any(panel["published"]):
        right += _GAP_PT + _LETTER_PT * max(map(len, (*panel["published"], "(ImageNet)")))
        cells = zip(at, panel["published"], strict=True)
        write_column(axis, right, "published\n(ImageNet)", cells)


def _seeds(row: Any) -> str:
    """Say how many seeds there are, of how many where some are lacking."""
    return f"{row.n}" if row.n == row.planned else f"{row.n} of {row.planned}"


def _legend() -> list[Line2D]:
    return [
        Line2D([], [], color=BLACK, linewidth=1.6, marker="o", markersize=4.5,
               label="mean, 95 % interval"),
        Line2D([], [], color=BLACK, linewidth=1.6, marker="o", markersize=4.5,
               markerfacecolor="white", label="baseline"),
        Line2D([], [], linestyle="", marker="o", markersize=2, color=BLACK, label="one seed"),
        Line2D([], [], color=GREY, linestyle=(0, (4, 3)), linewidth=0.9, label="chance"),
    ]  # fmt: skip
