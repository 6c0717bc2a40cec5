"""The figure of `cues`: where networks look, around the object that counts, on average."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ctxbench.style import BLACK, GREY, WIDTH_IN, style, wrap
from ctxbench.visualize._marks import CUE, OBJECT
from ctxbench.visualize.cues import CuesRow, Found, attend, rows_of
from ctxbench.visualize.subject import Array, Image, Mark, Page, Subject, of

_PANEL_IN, _TEXT_IN, _ENDS_IN = 1.0, 0.42, 1.1
_BAR_IN, _NARROW_IN = 0.9, 4.2
_LETTERS = 22  # of a heading's line

_SHARED = 2  # the gradient and Grad-CAM, which all networks have, are on one scale

_Run = tuple[Found, list[CuesRow]]
# by network, the kinds of attention that it has, and of each what every trial came to
_Seen = dict[Any, list[list[_Run]]]


def pages(subjects: Sequence[Subject], images: Iterable[Image]) -> Iterator[Page]:
    """Draw all networks over all images on one page; trials of one network are one column.

    Raises: VisualizeError for images that do not tell where object and cue stand.
    """
    kept = list(images)  # small, and each network takes them all
    seen: _Seen = {}
    trials: dict[Any, list[Subject]] = {}
    rows: list[CuesRow] = []
    for subject in subjects:
        with of(subject):
            found = attend(subject, kept)
        size = subject.sample(kept[0]).shown.shape[:2]
        made = [rows_of(subject, attention, attention.marks, size) for attention in found]
        # only what differs in nothing but its training is averaged
        kinds = tuple((each.measure, each.layer) for each in found)
        key = (subject.title, subject.trained, subject.preprocess, kinds)
        trials.setdefault(key, []).append(subject)
        column = seen.setdefault(key, [[] for _ in found])
        for runs, run in zip(column, zip(found, made, strict=True), strict=True):
            runs.append(run)
        rows += chain.from_iterable(made)
    headings = [_heading(several) for several in trials.values()]
    seen_as = dict.fromkeys(str(subject.preprocess) for subject in subjects)
    foot = f"Images: {'; or '.join(seen_as)}"
    yield Page(draw(seen, headings, len(kept), foot), _arrays(seen, trials), rows)


def _arrays(seen: _Seen, trials: dict[Any, list[Subject]]) -> dict[str, Array]:
    """Return the means by network and kind; of networks of one title the later are numbered."""
    arrays: dict[str, Array] = {}
    titles: list[str] = []
    for key, column in seen.items():
        titles.append(trials[key][0].title)
        again = titles.count(titles[-1])
        name = titles[-1] if again == 1 else f"{titles[-1]} ({again})"
        for runs in column:
            arrays[f"{name} {runs[0][0].measure} {runs[0][0].layer or ''}".strip()] = _mean(runs)
    return arrays


def draw(seen: _Seen, headings: Sequence[str], images: int, foot: str) -> Figure:
    """Draw a column for each network, and in it a panel for each kind of attention.

    `foot` is said below: how the networks see the images.
    """
    tall = max(map(len, seen.values()))
    height = tall * (_PANEL_IN + _TEXT_IN) + _ENDS_IN
    width = min(WIDTH_IN, max(_NARROW_IN, len(seen) * _PANEL_IN * 1.3 + _BAR_IN))
    partner = next(iter(seen.values()))[0][0][0].marks[1].name.split()[0]
    with style():
        figure = Figure(figsize=(width, height), layout="compressed")
        axes = figure.subplots(tall, len(seen), squeeze=False)
        for number, row in enumerate(axes):
            runs = [column[number] if number < len(column) else [] for column in seen.values()]
            _draw_row(figure, row, runs, shared=number < _SHARED)
        for axis, heading in zip(axes[0], headings, strict=True):
            axis.set_title(heading, fontsize=6.5)
        figure.suptitle(
            f"Where networks look, around the object that counts\nMean of {images} images, turned "
            f"so that the {partner} is at the right",
            fontsize=8.5,
        )
        figure.supxlabel(
            f"Blue: the object. Orange: the {partner}. Below, the share of the attention that is "
            f"within the {partner},\nand in brackets that of another image's attention at the same "
            f"place\n{foot}",
            fontsize=6.5, color=GREY,
        )  # fmt: skip
    return figure


def _heading(trials: Sequence[Subject]) -> str:
    """Name a network, and say of how many trainings it is the mean and how well they went."""
    told = ["random weights"]
    if all(trial.trained for trial in trials):
        told = [f"trained, {len(trials)} seed{'s' if len(trials) > 1 else ''}"]
        errors = [trial.error for trial in trials if trial.error is not None]
        low, high = (f"{end(errors, default=0):.1f}" for end in (min, max))
        told += [f"error {low} %" if low == high else f"errors {low} to {high} %"] if errors else []
    return "\n".join([*wrap(trials[0].title.replace(":", " "), _LETTERS), *told])


def _draw_row(figure: Figure, axes: Any, row: Sequence[Sequence[_Run]], *, shared: bool) -> None:
    maps = [100 * _mean(runs) if runs else None for runs in row]
    tops = [0.0 if shares is None else float(np.nanmax(shares)) for shares in maps]
    for axis, runs, shares, own in zip(axes, row, maps, tops, strict=True):
        axis.set(xticks=[], yticks=[])
        if shares is None:
            axis.set_axis_off()
            continue
        top = max(tops) if shared else own
        drawn = axis.imshow(shares, cmap="magma", vmin=0, vmax=top, interpolation="nearest")
        _frame(axis, shares, runs[0][0].marks)
        axis.set_xlabel(_words(runs), fontsize=6.5)
        if not shared or axis is axes[-1]:
            bar = figure.colorbar(drawn, ax=axis, shrink=0.85, pad=0.03, aspect=12)
            bar.ax.tick_params(labelsize=6)
            bar.set_label("% a pixel", fontsize=6.5)


def _frame(axis: Any, shares: Array, marks: Sequence[Mark]) -> None:
    """Frame the object, in the middle, and the cue, at the right of it."""
    middle = (shares.shape[0] - 1) / 2
    thing, cue = marks[:2]
    away = max(abs(cue.left - thing.left), abs(cue.top - thing.top))
    for colour, right, mark in zip((OBJECT, CUE), (0, away), (thing, cue), strict=True):
        corner = (middle + right - mark.width / 2, middle - mark.height / 2)
        axis.add_patch(
            Rectangle(corner, mark.width, mark.height, fill=False, edgecolor=colour, zorder=3)
        )
    axis.spines[:].set(linewidth=0.4, color=BLACK)


def _words(runs: Sequence[_Run]) -> str:
    """Say what looks, and the share of the part that is bound to the object, over the runs."""
    rows = [rows[1] for _, rows in runs]
    share = _told([row.share_percent for row in rows])
    shuffled = _told([row.shuffled_percent for row in rows])
    layer = (rows[0].layer or "").removeprefix("backbone.")
    what = wrap(f"{rows[0].measure} {layer}".strip(), _LETTERS)
    return "\n".join([*what, f"{rows[0].part} {share} % ({shuffled})"])


def _told(values: Sequence[float | None]) -> str:
    """Write the mean of the shares there are; maps that are all empty have none."""
    there = [value for value in values if value is not None]
    return f"{np.mean(there):.1f}" if there else "\N{EN DASH}"


def _mean(runs: Sequence[_Run]) -> Array:
    """Return the mean of the shares around the object, over runs and images."""
    return np.asarray(np.mean([found.mean for found, _ in runs], axis=0))
