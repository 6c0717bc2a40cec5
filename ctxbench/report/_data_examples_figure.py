"""The figure `data_examples`: images of each data set, and in them what decides their class."""

import base64
import io
from collections.abc import Iterable
from typing import Any

import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from pandas import DataFrame

from ctxbench.records import Row, latest
from ctxbench.report._ablation_lines import room_for_text
from ctxbench.style import GREY, WIDTH_IN, style, wrap

_COLUMNS = ["data", "classes", "image_px", "rule", "image", "label", "marks"]
_PALETTE = sns.color_palette("colorblind")
# by the order of the marks
_LOOKS = (
    ("the object that counts", _PALETTE[0], "-"),
    ("what is bound to it: a cue or a detail", _PALETTE[1], (0, (2.2, 1.2))),
    ("the cue that says which object counts", _PALETTE[2], (0, (0.9, 0.9))),
)
_ACROSS, _LETTERS = 6, 118
_IMAGE_IN, _LINE_IN, _ENDS_IN = 1.22, 0.122, 0.6
_BETWEEN = 0.05  # data sets, as a share of their height
_AROUND = 0.5  # pixels between a mark and what it frames


def select(rows: Iterable[Row]) -> DataFrame:
    """Make a line for each image of the last row of each data set."""
    lines = [
        {**row, "image": image, "label": label, "marks": marks}
        for row in latest(rows, "data")
        for image, label, marks in zip(row["images"], row["labels"], row["marks"], strict=True)
    ]
    return DataFrame(lines, columns=_COLUMNS)


def draw(lines: DataFrame) -> Figure:
    """Draw the images of a data set side by side, with their classes."""
    sets = [panel.reset_index(drop=True) for _, panel in lines.groupby("data", sort=False)]
    titles = [_title(panel) for panel in sets]
    heights = [
        _IMAGE_IN + _LINE_IN * (len(title) + _caption_lines(panel))
        for title, panel in zip(titles, sets, strict=True)
    ]
    with style():
        figure = Figure(figsize=(WIDTH_IN, sum(heights) + _ENDS_IN), layout=room_for_text())
        parts = figure.subfigures(
            len(sets), 1, squeeze=False, height_ratios=heights, hspace=_BETWEEN
        )[:, 0]
        for part, panel, title in zip(parts, sets, titles, strict=True):
            part.suptitle("\n".join(title), x=0.01, ha="left", fontsize=7.5)
            axes = part.subplots(1, _ACROSS, squeeze=False)[0]
            for axis in axes[len(panel) :]:
                axis.set_axis_off()
            for axis, line in zip(axes, panel.to_dict("records"), strict=False):
                _draw_image(axis, line)
        marked = max(map(len, lines["marks"]))
        if marked:
            figure.legend(
                handles=[_key(number) for number in range(marked)],
                loc="outside lower center", ncols=marked, frameon=False,
            )  # fmt: skip
        figure.suptitle("What the networks see: validation images", fontsize=9, weight="bold")
    return figure


def _title(panel: DataFrame) -> list[str]:
    size, shown = (
        panel["image_px"][0],
        max(max(_pixels(image).shape[:2]) for image in panel["image"]),
    )
    told = f"{size} px" + (f", here reduced to {shown} px" if shown < size else "")
    rule = panel["rule"][0]
    named = wrap(f"{panel['data'][0]} ({panel['classes'][0]} classes, {told})", _LETTERS)
    return [*named, *(wrap(rule, _LETTERS) if isinstance(rule, str) else [])]


def _caption_lines(panel: DataFrame) -> int:
    return 1 + max(map(len, panel["marks"]))


def _draw_image(axis: Any, line: dict[Any, Any]) -> None:
    axis.imshow(_pixels(line["image"]), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set(linewidth=0.4, color=GREY)
    names = []
    for number, (top, left, height, width, name) in enumerate(line["marks"]):
        _, colour, dashes = _LOOKS[number]
        axis.add_patch(
            Rectangle(
                (left - 0.5 - _AROUND, top - 0.5 - _AROUND), width + 2 * _AROUND,
                height + 2 * _AROUND, fill=False, edgecolor=colour, linestyle=dashes,
                linewidth=1.4, clip_on=False, zorder=3,
            )
        )  # fmt: skip
        names.append(name)
    axis.set_xlabel("\n".join([f"class {line['label']}", *names]), fontsize=7, labelpad=3)


def _pixels(image: str) -> Any:
    """Return the pixels (H, W) or (H, W, 3) of a PNG file in base64, as 0..1."""
    return imread(io.BytesIO(base64.b64decode(image)), format="png")


def _key(number: int) -> Line2D:
    label, colour, dashes = _LOOKS[number]
    return Line2D([], [], color=colour, linestyle=dashes, linewidth=1.4, label=label)
