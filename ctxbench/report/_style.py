"""How every figure looks and is saved: at a paper's width, the same bytes for the same rows."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import seaborn as sns
from matplotlib import style as sheets
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

WIDTH_IN = 7.0
GREY, BLACK = "0.4", "0.2"
PNG_DPI = 200
# what is compared with is a ring, ours a mark inside it: equal values show both
RING = {"facecolor": "white", "edgecolor": BLACK, "linewidth": 0.8, "zorder": 2}

_RC = {
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.4,
    "svg.hashsalt": "ctxbench",  # else the ids of an SVG are random
}
# a date or a version would change the bytes of an unchanged figure
_METADATA = {".svg": {"Date": None, "Creator": None}, ".png": {"Software": None}}


@contextmanager
def style() -> Iterator[None]:
    """Draw in the report's style, whatever the user's matplotlibrc says, and put it back."""
    with sheets.context(["default", sns.axes_style("whitegrid"), _RC]):
        yield


def save(figure: Figure, path: Path) -> None:
    """Save a figure as PNG or SVG, by the path's suffix."""
    with style():
        figure.savefig(path, dpi=PNG_DPI, metadata=_METADATA[path.suffix])


def ring_key(label: str) -> Line2D:
    """Make the legend's entry for the rings."""
    return Line2D([], [], linestyle="", marker="o", markersize=6.2, label=label,
                  markerfacecolor="none", markeredgecolor=BLACK)  # fmt: skip


def mark_key(label: str, marker: str, colour: object = BLACK) -> Line2D:
    """Make the legend's entry for one kind of mark."""
    return Line2D([], [], linestyle="", marker=marker, markersize=5, color=colour, label=label)
