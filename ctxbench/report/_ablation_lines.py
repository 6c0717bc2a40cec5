"""What the figures of ablations share: which variants make a line, and how a line looks."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import seaborn as sns
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ctxbench.report._ablation_statistics import estimate
from ctxbench.report.studies import Study, variant_name
from ctxbench.style import GREY, wrap

MANY = 8
_PALETTE = sns.color_palette("colorblind")
# what is pale on white comes last
_COLOURS = [_PALETTE[place] for place in (0, 1, 2, 3, 4, 5, 9, 6, 7, 8)]
_MARKERS = "os^DvPX"
_NUMBER = re.compile(r"\d+(\.\d+)?")
_SIZE = re.compile(r"\d+(\.\d+)?( ?%)?|all|none")
# how much wider than the errors an axis may become for the line of chance to be on it
_STRETCH = 2.5
_RIGHT = 0.975
_KEY_LINE_IN, _AROUND_IN = 0.14, 0.8


def colour(number: int) -> Any:
    """Return the colour of a line by its number."""
    return _COLOURS[number % len(_COLOURS)]


def marker(number: int) -> str:
    """Return the mark of a line by its number; with the colour it tells 70 lines apart."""
    return _MARKERS[number % len(_MARKERS)]


def heading(experiment: str, title: str) -> str:
    """Return what stands above an experiment: its name, and its title if that says more."""
    return experiment if title == experiment else f"{experiment}: {title}"


def number_axes(study: Study) -> list[str]:
    """Return the axes whose labels are all numbers, like distances."""
    return [axis for axis in study.axes() if all(map(_NUMBER.fullmatch, _labels(study, axis)))]


def size_axes(study: Study) -> list[str]:
    """Return the axes of which most labels are sizes of a prior: numbers, percentages, all, none.

    One of them is a share, a percentage or all: "none, 5, 9" can be anything. The others are what
    has no single size, as one that differs from stage to stage.
    """
    return [
        axis
        for axis in study.axes()
        if 2 * len(sizes := list(filter(is_size, labels := _labels(study, axis)))) > len(labels)
        and any(label == "all" or label.endswith("%") for label in sizes)
    ]


def is_size(label: str) -> bool:
    """Say whether a label is a size of a prior."""
    return _SIZE.fullmatch(label) is not None


def line_names(study: Study, without: Sequence[str]) -> list[str]:
    """Name each variant by its labels on all axes but these, which those of one line share."""
    axes = [axis for axis in study.axes() if axis not in without]
    return [variant_name(axes, variant) if axes else "" for variant in study.variants]


def line_numbers(study: Study) -> list[int]:
    """Give the variants numbers for their colours, the same in every figure of an experiment.

    Those that differ only in numbers or sizes share a number, unless all of them do.
    """
    names = line_names(study, [*number_axes(study), *size_axes(study)])
    if len(set(names)) < 2:
        return list(range(len(names)))
    order = list(dict.fromkeys(names))
    return [order.index(name) for name in names]


def means(study: Study) -> list[float | None]:
    """Return the mean error of each variant."""
    errors = study.values()
    return [estimate(errors[number]).mean for number in range(len(study.names))]


def foremost(study: Study, groups: Sequence[Sequence[int]]) -> list[int]:
    """Choose as many groups of variants as a panel can hold: the baseline's, then the best."""
    found = means(study)

    def rank(place: int) -> tuple[bool, float]:
        errors = [error for n in groups[place] if (error := found[n]) is not None]
        is_baseline = any(study.baseline(n) == n for n in groups[place])
        return not is_baseline, sum(errors) / len(errors) if errors else float("inf")

    return sorted(sorted(range(len(groups)), key=rank)[:MANY])


def reach(values: Iterable[float], chance: float | None) -> tuple[float, float]:
    """Span an axis of errors; chance is on it where that does not squeeze them."""
    seen = [value for value in values if not math.isnan(value)]
    low, high = min(seen), max(seen)
    wide = max(high - low, 1.0)
    if chance is not None and max(high, chance) - min(low, chance) <= _STRETCH * wide:
        low, high = min(low, chance), max(high, chance)
    margin = 0.06 * max(high - low, 1.0)
    return low - margin, high + margin


def room_for_text() -> ConstrainedLayoutEngine:
    """Lay a figure out with its text beside the panels a little off the page's right edge.

    The layout measures letters at another resolution than a file's, where they can be wider.
    """
    return ConstrainedLayoutEngine(rect=(0, 0, _RIGHT, 1))


def panel_height(names: Iterable[str], letters: int, least: float) -> float:
    """Return how high a panel must be, in inches, to have a key to its lines beside it."""
    lines = sum(len(wrap(name, letters)) for name in names)
    return max(least, _KEY_LINE_IN * lines + _AROUND_IN)


def known(value: float | None) -> float | None:
    """Return None for NaN, which tables of numbers hold in its place."""
    return None if value is None or math.isnan(value) else float(value)


def chance_words(chance: float | None, low: float, high: float) -> str:
    """Say where chance is, or nothing if it is in sight."""
    if chance is None or low <= chance <= high:
        return ""
    return f"chance, {chance:.4g} %, is out of sight"


def draw_chance(line: Any, chance: float | None) -> None:
    """Draw the error of guessing; `line` is an axis's `axhline` or `axvline`."""
    if chance is not None:
        line(chance, color=GREY, linestyle=(0, (4, 3)), linewidth=0.9, zorder=1.2)


def _labels(study: Study, axis: str) -> list[str]:
    return [str(label) for label in study.row["axes"][axis]]
