"""The figure `ablation_curves`: errors on training and validation images, epoch by epoch."""

from collections.abc import Iterable, Sequence
from typing import Any

import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame

from ctxbench.records import Row
from ctxbench.report._ablation_lines import (
    MANY,
    chance_words,
    colour,
    draw_chance,
    foremost,
    heading,
    known,
    line_names,
    line_numbers,
    means,
    number_axes,
    panel_height,
    reach,
    room_for_text,
    size_axes,
)
from ctxbench.report._ablation_statistics import estimate_error
from ctxbench.report.studies import OK, Study, studies
from ctxbench.style import WIDTH_IN, style, wrap

_PANELS = {"train_top1_error": "training images", "top1_error": "validation images"}
_COLUMNS = [
    "experiment", "title", "variant", "line", "images", "epoch", "mean", "low", "high", "chance",
    "shown",
]  # fmt: skip
_ROW_IN, _LABEL_LETTERS, _TITLE_LETTERS = 2.1, 26, 110


def select(rows: Iterable[Row]) -> DataFrame:
    """Make a line for each epoch of each variant that is drawn, averaged over its seeds.

    Of more than 8 variants those are drawn that share a number of an axis of numbers, the one at
    which they differ most; or those that differ in size alone; then the baseline and the best.
    """
    lines = [line for study in studies(rows) for line in _lines(study)]
    return DataFrame(lines, columns=_COLUMNS)


def draw(lines: DataFrame) -> Figure:
    """Draw the mean over seeds with its 95 % interval as a band, training images on the left."""
    panels = [panel for _, panel in lines.groupby("experiment", sort=False)]
    with style():
        heights = [panel_height(p["variant"].unique(), _LABEL_LETTERS, _ROW_IN) for p in panels]
        figure = Figure(figsize=(WIDTH_IN, sum(heights) + 0.5), layout=room_for_text())
        axes = figure.subplots(
            len(panels), 2, squeeze=False, sharey="row", gridspec_kw={"height_ratios": heights}
        )
        for (left, right), panel in zip(axes, panels, strict=True):
            numbers = panel[["mean", "low", "high"]].astype("float64")
            low, high = reach(numbers.to_numpy().ravel(), known(panel["chance"].iloc[0]))
            for axis, (images, name) in zip((left, right), _PANELS.items(), strict=True):
                _draw_panel(axis, panel[panel["images"] == images])
                axis.set(xlabel=f"epoch ({name})", ylim=(low, high))
            left.set_ylabel("top-1 error (%)")
            left.set_title(_title(panel, low, high), loc="left", pad=4)
            right.legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False,
                         borderaxespad=0, fontsize=7)  # fmt: skip
        sns.despine(figure)
        title = "Errors in training: mean over seeds and its 95 % interval; dashed: chance"
        figure.suptitle(title, fontsize=9, weight="bold")
    return figure


def _lines(study: Study) -> list[Row]:
    numbers, kept = line_numbers(study), _kept(study)
    curves = {variant: _curves(study, variant) for variant in kept}
    own = len({numbers[variant] for variant in kept}) == len(kept)
    shown = f"{len(kept)} of {len(study.names)} variants"
    text = {"experiment": study.name, "title": study.row.get("title") or study.name}
    return [
        {
            **text,
            "variant": study.names[variant],
            "line": numbers[variant] if own else place,
            "images": images,
            "epoch": epoch,
            **estimate_error(curve[epoch][images] for curve in curves[variant])._asdict(),
            "chance": study.chance(variant),
            "shown": shown if len(kept) < len(study.names) else "",
        }
        for place, variant in enumerate(kept)
        for images in _PANELS
        for epoch in _common_epochs(curves[variant])
    ]


def _kept(study: Study) -> list[int]:
    """Choose the variants to draw, of which a panel can hold 8."""
    kept = [number for number in range(len(study.names)) if _curves(study, number)]
    axes = study.axes()
    # what differs in what is drawn: all but a number, or the sizes alone
    along = [[other for other in axes if other != axis] for axis in number_axes(study)]
    for differing in (*along, size_axes(study)):
        if differing and len(kept) > MANY:
            kept = _where_they_differ_most(study, differing, kept)
    return [kept[place] for place in foremost(study, [[variant] for variant in kept])]


def _where_they_differ_most(study: Study, axes: Sequence[str], kept: Sequence[int]) -> list[int]:
    """Choose those variants that differ along these axes alone, and by most."""
    found, names = means(study), line_names(study, axes)
    groups: dict[str, list[int]] = {}
    for number in kept:
        groups.setdefault(names[number], []).append(number)

    def span(group: Sequence[int]) -> float:
        errors = [error for number in group if (error := found[number]) is not None]
        return max(errors) - min(errors)

    return max(groups.values(), key=span, default=[])


def _curves(study: Study, variant: int) -> list[dict[float, dict[str, float]]]:
    """Return for each seed its epochs, and for each of them both errors, NaN if not measured."""
    trials = study.trials
    ended = trials[(trials["variant"] == variant) & (trials["status"] == OK)]
    return [
        {
            epoch: {
                images: float("nan") if (error := curve[images][place]) is None else float(error)
                for images in _PANELS
            }
            for place, epoch in enumerate(curve["epoch"])
        }
        for curve in ended["curve"]
        if isinstance(curve, dict) and curve.get("epoch")
    ]


def _common_epochs(curves: Sequence[dict[float, Any]]) -> list[float]:
    """Keep the epochs of all seeds: elsewhere the mean would be that of fewer of them."""
    return sorted(set.intersection(*(set(curve) for curve in curves)))


def _draw_panel(axis: Any, panel: DataFrame) -> None:
    for name, line in panel.groupby("variant", sort=False):
        ink = colour(line["line"].iloc[0])
        ends = line[["low", "high"]].astype("float64")
        axis.fill_between(line["epoch"].astype("float64"), ends["low"], ends["high"], color=ink,
                          alpha=0.18, linewidth=0, zorder=2)  # fmt: skip
        label = "\n".join(wrap(str(name), _LABEL_LETTERS))
        few = {"marker": "o", "markersize": 2.5} if len(line) < 3 else {}
        axis.plot(line["epoch"], line["mean"].astype("float64"), color=ink, linewidth=1.2,
                  label=label, zorder=3, **few)  # fmt: skip
    draw_chance(axis.axhline, known(panel["chance"].iloc[0]))
    axis.xaxis.set_major_locator(
        MaxNLocator(6, integer=panel["epoch"].max() > 2, steps=[1, 2, 2.5, 5, 10])
    )


def _title(panel: DataFrame, low: float, high: float) -> str:
    named = heading(panel["experiment"].iloc[0], panel["title"].iloc[0])
    title = wrap(named, _TITLE_LETTERS)
    chance = chance_words(known(panel["chance"].iloc[0]), low, high)
    beside = list(filter(None, [panel["shown"].iloc[0], chance]))
    return "\n".join([*title, *([", ".join(beside)] if beside else [])])
