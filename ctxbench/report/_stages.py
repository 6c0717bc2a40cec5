"""Layers side by side, grouped by stage: what the figures `parity` and `layers` share."""

from typing import Any

import seaborn as sns
from matplotlib.lines import Line2D
from pandas import DataFrame, Series, concat

from ctxbench.style import GREY, RING, WIDTH_IN, mark_key, ring_key, wrap

# the pair whose layers are shown before those of any other
PAIR = ("coresnet50", "resnet50")
# whether a layer stands for one of another kind -> marker
MARKERS = {False: "o", True: "D"}
_COLOURS, _ROOM, _KEY_LETTERS = 10, 70, 36
# how wide an axis is drawn, less what its labels take, and a letter
_ACROSS_PT, _LETTER_PT = 72 * (WIDTH_IN - 0.8), 4.6


def with_stages(layers: DataFrame) -> DataFrame:
    """Add each layer's stage, and whether it replaces a layer of another kind."""
    return layers.assign(
        stage=[layer.partition(".")[0] for layer in layers["layer"]],
        replaced=layers["kind"].fillna("") != layers["against_kind"].fillna(""),
    )


def draw_pair(axis: Any, shown: DataFrame, ours: Series, theirs: Series) -> None:
    """Draw a ring for the baseline's layers and a mark for ours."""
    axis.scatter(shown.index, theirs, s=34 * _smaller(shown), **RING)
    draw_marks(axis, shown, ours)
    highest = concat([ours, theirs]).max()
    highest = highest if highest > 0 else 1  # no layer has any, or none is known
    axis.set_ylim(-0.05 * highest, 1.1 * highest)


def draw_difference(axis: Any, shown: DataFrame, difference: Series) -> None:
    """Draw a line from 0 to each layer's difference."""
    draw_marks(axis, shown, difference)
    axis.vlines(shown.index, 0, difference, color=GREY, linewidth=1)
    axis.axhline(0, color=GREY, linewidth=0.8)


def draw_marks(axis: Any, shown: DataFrame, values: Series) -> None:
    """Draw a mark for each layer, coloured by its stage, shaped by whether it is replaced."""
    stages = list(shown["stage"].unique())
    if len(stages) > _COLOURS:  # then the small ones share colours
        stages = list(shown["stage"].value_counts().index)
    palette = dict(zip(stages, sns.color_palette("colorblind", len(stages)), strict=True))
    sns.scatterplot(
        x=shown.index, y=values, hue=shown["stage"], style=shown["replaced"], markers=MARKERS,
        palette=palette, s=13 * _smaller(shown), linewidth=0, ax=axis, legend=False, zorder=3,
    )  # fmt: skip


def mark_stages(axis: Any, shown: DataFrame, *, named: bool = True) -> None:
    """Draw a line between stages, and name those whose names do not touch a larger one's."""
    axis.grid(visible=False, axis="x")
    spans = [
        (str(stage), layers.index[0], layers.index[-1])
        for stage, layers in shown.groupby("stage", sort=False)
    ]
    for _, first, _ in spans[1:]:
        axis.axvline(first - 0.5, color=GREY, linewidth=0.5, linestyle=":")
    for stage, middle in _named(shown, spans) if named else ():
        axis.annotate(stage, (middle, 1), xycoords=axis.get_xaxis_transform(), xytext=(0, 2),
                      textcoords="offset points", ha="center")  # fmt: skip


def _named(shown: DataFrame, spans: list[tuple[str, Any, Any]]) -> list[tuple[str, float]]:
    """Choose the stages to name, the longest first, and the middle of each, in their order."""
    chosen: dict[str, tuple[float, float]] = {}
    for stage, first, last in sorted(spans, key=lambda span: span[1] - span[2]):
        middle, half = (first + last) / 2, per_layer(shown, _LETTER_PT * (len(stage) + 1)) / 2
        if all(abs(middle - other) >= half + wide for other, wide in chosen.values()):
            chosen[stage] = (middle, half)
    return [(stage, chosen[stage][0]) for stage, _, _ in spans if stage in chosen]


def _smaller(shown: DataFrame) -> float:
    """Return by how much marks shrink where there are more layers than room."""
    return min(1.0, _ROOM / len(shown))


def per_layer(shown: DataFrame, points: float) -> float:
    """Convert a width on paper into a number of layers."""
    return points * (len(shown) + 1) / _ACROSS_PT


def within(layer: str) -> str:
    """Name a layer inside its stage."""
    return layer.partition(".")[2] or layer


def legend(shown: DataFrame, ours: str, theirs: str) -> list[Line2D]:
    """Make the keys of the rings, and of the marks of each kind."""
    kinds = shown.loc[shown["replaced"], "kind"].dropna().unique()
    marks = {f"{ours}, same kind of layer": MARKERS[False]}
    marks |= {f"{ours}, {kind} instead": MARKERS[True] for kind in kinds}
    keys = [mark_key(_folded(text), marker) for text, marker in marks.items()]
    return [ring_key(_folded(theirs)), *keys]


def _folded(text: str) -> str:
    return "\n".join(wrap(text, _KEY_LETTERS))
