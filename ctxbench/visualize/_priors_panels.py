"""The panels of the picture of class priors, an image at a time."""

from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import cycle
from math import isnan
from textwrap import wrap
from typing import Any

import numpy as np
import seaborn as sns

from ctxbench.style import BLACK, GREY
from ctxbench.visualize._marks import draw_marks
from ctxbench.visualize.priors import Priors, Ranked, Swap, places
from ctxbench.visualize.subject import Array, Sample, Subject

_PALETTE = sns.color_palette("colorblind")
TRUE = _PALETTE[3]
MERGED, OTHER, OWN, SWAPPED = "#a6cbe3", "0.87", "#a8d8bd", "#d8bfe0"
DASHES = (0, (3, 1.5))
_LINES = [_PALETTE[number] for number in (0, 2, 4, 9, 5, 7, 8, 6)]
_LETTERS = 15  # of a class name that shares 1.3 inches with a number
_TITLE = 19  # letters of a line above the image
_MANY = 12  # classes, from which ranks are on a logarithmic scale
_SMALL_PX = 64
_LEAST = 0.01  # the end of a scale of changes: less is rounding, and shall look like it


@dataclass(frozen=True, slots=True)
class View:
    """What all panels of a page share; `bars` is how many classes a panel has room for."""

    subject: Subject
    samples: Sequence[Sample]
    found: Priors
    swap: Swap | None
    _: KW_ONLY
    top: int
    bars: int

    def name(self, index: int, letters: int = _LETTERS) -> str:
        """Return the name of a class, shortened."""
        return short(self.subject.name_of(int(index)), letters)

    @property
    def most(self) -> float:
        """Return the end of the scale of all probabilities on the page."""
        shares = [stage.probabilities for stage in self.found.stages]
        shares += [change.probabilities for change in self.swap.changes] if self.swap else []
        return max(float(np.nanmax(share)) for share in shares) * 1.02

    @property
    def most_rank(self) -> int:
        """Return the largest rank that is drawn on the page."""
        sizes = [stage.prior_size or 1 for stage in self.found.stages]
        ranks = [
            np.nanmax(_ranks(stage, number, _followed(self, number)), initial=1)
            for number in range(len(self.found.labels))
            for stage in self.found.stages
        ]
        return int(max(self.top, *sizes, *ranks))


def _followed(view: View, number: int) -> dict[int, Any]:
    """Return the classes whose ranks are drawn, the final order and then the true, and colours."""
    label = view.found.labels[number]
    classes = [int(index) for index in view.found.stages[-1].order[number, : view.top]]
    colours = dict(zip(classes, cycle(_LINES)))
    return colours if label is None else colours | {label: TRUE}


def draw_stages(part: Any, view: View, number: int) -> None:
    """Draw the image, and its likeliest classes after each stage."""
    stages = view.found.stages
    axes = part.subplots(1, 1 + len(stages), width_ratios=[1.0, *[1.25] * len(stages)])
    _draw_image(axes[0], view, number)
    for axis, stage in zip(axes[1:], stages, strict=True):
        _draw_stage(axis, view, number, stage)


def _draw_image(axis: Any, view: View, number: int) -> None:
    sample = view.samples[number]
    small = max(sample.shown.shape[:2]) < _SMALL_PX
    axis.imshow(sample.shown, interpolation="nearest" if small else "antialiased")
    axis.set(xticks=[], yticks=[])
    axis.grid(visible=False)
    draw_marks(axis, sample.marks)
    # a layout leaves no room for a title that is wider than its panel
    axis.set_title("\n".join(wrap(short(sample.name, 2 * _TITLE), _TITLE)), fontsize=6.5)
    label = view.found.labels[number]
    told = "no label" if label is None else f"true: {view.name(label, 12)}"
    told = "\n".join([told, *(short(mark.name, 24) for mark in sample.marks)])
    axis.set_xlabel(told, fontsize=6.5, color=GREY if label is None else TRUE)


def _draw_stage(axis: Any, view: View, number: int, stage: Ranked) -> None:
    """Draw the probabilities of the first classes, the prior's cut, and where the true one is."""
    label, order = view.found.labels[number], stage.order[number]
    rows = [(place, index) for place, index in enumerate(order[: view.top], 1)]
    rank = stage.true_rank[number]
    if rank is not None and not isnan(rank) and rank > view.top:
        rows.append((int(rank), label))
    for y, (place, index) in enumerate(rows):
        share = stage.probabilities[number, index]
        merged = stage.prior_size is not None and place <= stage.prior_size
        colour = MERGED if merged else OTHER
        axis.barh(y, share, 0.8, color=colour)
        told = short(f"{place}. {view.subject.name_of(int(index))}", _LETTERS)
        _write(axis, y, told, _share(share), true=index == label)
    if rank is not None and isnan(rank):
        _write(axis, view.bars - 1, "true class dropped", "", true=True)
    cut = stage.prior_size
    if cut is not None and cut < len(rows) and cut <= view.top:
        axis.axhline(cut - 0.5, color=BLACK, linewidth=0.9, linestyle=DASHES)
    _frame(axis, view)
    axis.set_title(f"after {stage.name}", fontsize=7)
    axis.set_xlabel(_told(view.found, stage), fontsize=6.5, labelpad=1)


def _told(found: Priors, stage: Ranked) -> str:
    """Say what becomes of the ranking."""
    ranked = stage.order.shape[1]
    if stage is found.stages[-1]:
        return f"probability\nthe output, of {ranked}"
    dropped = ", rest dropped" if stage.kept < ranked else ""
    if stage.prior_size is None:
        kept = f"{stage.kept} of {ranked} kept" if dropped else f"ranks {ranked}"
        return f"probability\n{kept}{dropped}, no prior"
    first = "" if dropped else "first "  # or it is too long
    return f"probability\nprior: {first}{stage.prior_size} of {ranked}{dropped}"


def draw_moves(part: Any, view: View, number: int) -> None:
    """Draw how the classes move, and what the prior of another image changes."""
    if view.swap is None:
        _draw_ranks(part.subplots(), view, number)
        return
    axes = part.subplots(1, 3, width_ratios=[2.7, 2.4, 1.3])
    _draw_ranks(axes[0], view, number)
    _draw_swap(axes[1], view, number, view.swap)
    _draw_changes(axes[2], number, view.swap)


def _draw_ranks(axis: Any, view: View, number: int) -> None:
    """Draw the ranks of the final top classes and of the true one, over the stages."""
    stages, label = view.found.stages, view.found.labels[number]
    colours = _followed(view, number)
    ranks = np.array([_ranks(stage, number, colours) for stage in stages])
    x = np.arange(len(stages))
    for place, stage in enumerate(stages[:-1]):
        if stage.prior_size is not None:
            _draw_prior(axis, place, stage.prior_size)
    for column, (index, colour) in enumerate(colours.items()):
        width = 2.0 if index == label else 1.1
        axis.plot(x, ranks[:, column], "o-", color=colour, linewidth=width, markersize=3.2)
        kept = np.flatnonzero(~np.isnan(ranks[:, column]))
        if kept[-1] < len(x) - 1:
            axis.plot(kept[-1], ranks[kept[-1], column], "X", color=colour, markersize=6)
    _scale_ranks(axis, view.found.classes, view.most_rank)
    axis.set_xticks(x, [stage.name for stage in stages])
    axis.set_xlim(-0.2, len(stages) - 1 + 0.2)
    axis.set_ylabel(f"rank, of {view.found.classes:,}", fontsize=6.5, labelpad=1)
    axis.tick_params(axis="x", labelsize=6.5, pad=1)
    followed = "the final top classes" + ("" if label is None else " and the true one")
    axis.set_title(f"rank of {followed}", fontsize=7)
    _write_ends(axis, [
        (last, f"{view.name(index, 16)}" + (" (dropped)" if isnan(last) else ""), colour)
        for (index, colour), last in zip(colours.items(), ranks[-1], strict=True)
    ])  # fmt: skip


def _ranks(stage: Ranked, number: int, classes: Iterable[int]) -> Array:
    found: Array = places(stage.order[number][None], np.array([list(classes)]))[0]
    return found


def _draw_prior(axis: Any, place: int, size: int) -> None:
    axis.plot([place, place + 1], [size + 0.5] * 2, color=BLACK, linewidth=0.9,
              linestyle=DASHES)  # fmt: skip
    axis.annotate(
        f"prior {size}", (place + 0.5, size + 0.5), xytext=(0, -1.5), textcoords="offset points",
        ha="center", va="top", fontsize=6, color=BLACK,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.2},
    )  # fmt: skip


def _scale_ranks(axis: Any, classes: int, most: int) -> None:
    if classes > _MANY:
        axis.set_yscale("log")
        axis.set_ylim(most * 1.3, 0.8)
        digits = (1, 2, 5) if most <= 100 else (1,)
        ticks = [digit * 10**power for power in range(6) for digit in digits]
        axis.set_yticks(ticks := [tick for tick in ticks if tick <= most], map(str, ticks))
        axis.minorticks_off()
    else:
        axis.set_ylim(most + 0.9, 0.4)
        axis.set_yticks(range(1, most + 1))
    axis.tick_params(axis="y", labelsize=6, pad=1)


def _write_ends(axis: Any, ends: Sequence[tuple[float, str, Any]]) -> None:
    """Write the names behind the lines, apart from each other; dropped ones at the bottom."""
    low, high = axis.get_ylim()
    log = axis.get_yscale() == "log"
    scaled = np.log if log else (lambda value: value)
    heights = [
        0.0 if isnan(rank) else float((scaled(rank) - scaled(low)) / (scaled(high) - scaled(low)))
        for rank, _, _ in ends
    ]
    down = sorted(range(len(ends)), key=lambda place: -heights[place])
    apart = min(0.1, 1 / max(1, len(ends) - 1))
    for y, place in zip(_spread([heights[place] for place in down], apart), down, strict=True):
        _, told, colour = ends[place]
        axis.annotate(
            told, (1.0, heights[place]), xycoords="axes fraction", xytext=(1.07, y),
            textcoords="axes fraction", va="center", fontsize=6.5, color=BLACK,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 1.2, "relpos": (0, 0.5)},
        )  # fmt: skip


def _spread(heights: Sequence[float], apart: float) -> list[float]:
    """Move falling heights down until they are apart, and up again from below 0."""
    found: list[float] = []
    for height in heights:
        found.append(min(height, found[-1] - apart) if found else height)
    least = 0.0
    for place in reversed(range(len(found))):
        found[place] = max(found[place], least)
        least = found[place] + apart
    return found


def _draw_swap(axis: Any, view: View, number: int, swap: Swap) -> None:
    """Draw the final probabilities of the likeliest classes with both priors, in pairs."""
    own, change = view.found.stages[-1], swap.changes[0]
    label = view.found.labels[number]
    classes = [int(index) for index in own.order[number, : view.top]]
    others = [int(change.predicted[number])] + ([] if label is None else [label])
    classes = [*dict.fromkeys(classes + others)]
    for y, index in enumerate(classes):
        before, after = (of.probabilities[number, index] for of in (own, change))
        axis.barh(y - 0.21, before, 0.38, color=OWN)
        axis.barh(y + 0.21, after, 0.38, color=SWAPPED)
        told = f"{_share(before)} \N{RIGHTWARDS ARROW} {_share(after)}"
        _write(axis, y, view.name(index, 10 if index == label else 12), told, true=index == label)
    _frame(axis, view)
    axis.set_ylim(max(view.bars, len(classes)) - 0.4, -0.6)
    axis.set_xlabel("final probability", fontsize=6.5, labelpad=1)
    donor = view.samples[swap.donors[number]].name
    predicted = dict.fromkeys((int(own.order[number, 0]), int(change.predicted[number])))
    arrow = " \N{RIGHTWARDS ARROW} "
    told = arrow.join(view.name(index) for index in predicted)
    told = told if len(predicted) > 1 else "the same first class"
    told = f"{told}; rank correlation {change.correlation[number]:.2f}"
    axis.set_title(f"with the prior of {short(donor, 22)}\n{told}", fontsize=7)


def _draw_changes(axis: Any, number: int, swap: Swap) -> None:
    """Draw how much the scores change, by the stages whose prior is another's."""
    values = [float(change.score_change[number]) for change in swap.changes]
    every = [float(np.nanmax([*change.score_change, 0])) for change in swap.changes]
    for y, value in enumerate(values):
        axis.barh(y, 0 if isnan(value) else value, 0.7, color=SWAPPED)
        axis.text(0.03, y, f"{value:.2g}", transform=axis.get_yaxis_transform(), va="center",
                  fontsize=6.5)  # fmt: skip
    axis.set_yticks(range(len(values)), [change.exchanged for change in swap.changes])
    axis.set_ylim(len(values) - 0.5, -0.5)
    axis.set_xlim(0, max(*every, _LEAST) * 1.05)
    axis.locator_params(axis="x", nbins=3)
    axis.grid(visible=False, axis="y")
    axis.tick_params(labelsize=6.5, pad=1)
    axis.set_xlabel("mean change of the\nscores / their spread", fontsize=6.5, labelpad=1)
    axis.set_title("by the stage that\ngets that prior", fontsize=7)


def _frame(axis: Any, view: View) -> None:
    axis.set(yticks=[], xlim=(0, view.most), ylim=(view.bars - 0.4, -0.6))
    axis.grid(visible=False, axis="y")
    axis.locator_params(axis="x", nbins=3)
    axis.tick_params(labelsize=6, pad=1)


def _write(axis: Any, y: float, name: str, number: str, *, true: bool) -> None:
    place = {"transform": axis.get_yaxis_transform(), "va": "center_baseline", "fontsize": 6.5}
    look = {"color": TRUE, "weight": "bold"} if true else {"color": "black"}
    axis.text(0.03, y, name, ha="left", **place, **look)
    axis.text(0.985, y, number, ha="right", **place, **look)


def _share(share: float) -> str:
    return "dropped" if isnan(share) else f"{share:#.2g}" if share >= 0.01 else f"{share:.4f}"


def short(name: str, letters: int) -> str:
    """Return a name of at most so many letters, with an ellipsis for what is cut off."""
    return (
        name if len(name) <= letters else f"{name[: letters - 1].rstrip()}\N{HORIZONTAL ELLIPSIS}"
    )
