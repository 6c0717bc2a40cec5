"""How every figure looks and is saved: at a paper's width, the same bytes for the same rows."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import seaborn as sns
from matplotlib import style as sheets
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import Bbox

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
    "text.parse_math": False,  # a name with two dollars is no formula
    "svg.hashsalt": "ctxbench",  # else the ids of an SVG are random
}
_DIGITS = (1, 2, 3, 5, 7)
# a date or a version would change the bytes of an unchanged figure
_METADATA: dict[str, dict[str, None]] = {
    ".svg": {"Date": None, "Creator": None},
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in the report's style, whatever the user's matplotlibrc says, and put it back."""
    with sheets.context(["default", sns.axes_style("whitegrid"), _RC]):
        yield


def save(figure: Figure, *paths: Path) -> None:
    """Save a figure as PNG, SVG or PDF, by each path's suffix; what it says stays as it is."""
    with style():
        _freeze(figure)
        before = figure.canvas, figure.dpi
        for path in paths:
            figure.set_dpi(PNG_DPI)
            # not savefig, which draws everything twice: the layout is done
            _PRINT[path.suffix](figure, path)
            figure.set_canvas(before[0])
            figure.set_dpi(before[1])


def _print_png(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure).print_png(path, metadata=_METADATA[".png"])


def _print_svg(figure: Figure, path: Path) -> None:
    FigureCanvasSVG(figure).print_svg(path, metadata=_METADATA[".svg"])


def _print_pdf(figure: Figure, path: Path) -> None:
    FigureCanvasPdf(figure).print_pdf(path, metadata=_METADATA[".pdf"])


_PRINT = {".png": _print_png, ".svg": _print_svg, ".pdf": _print_pdf}


def _freeze(figure: Figure) -> None:
    """Round where the axes lie: the last bits of a layout change, and with them an SVG's ids."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axis in figure.axes:
        bounds = (round(side, 9) for side in axis.get_position().bounds)
        axis.set_position(Bbox.from_bounds(*bounds))


def ring_key(label: str) -> Line2D:
    """Make the legend's entry for the rings."""
    return Line2D([], [], linestyle="", marker="o", markersize=6.2, label=label,
                  markerfacecolor="none", markeredgecolor=BLACK)  # fmt: skip


def mark_key(label: str, marker: str, colour: object = BLACK) -> Line2D:
    """Make the legend's entry for one kind of mark."""
    return Line2D([], [], linestyle="", marker=marker, markersize=5, color=colour, label=label)


def log_ticks(axis: Any, low: float, high: float, *, digits: Iterable[float] = _DIGITS) -> None:
    """Put plain numbers at these digits of every power of ten on a logarithmic axis."""
    ticks = [digit * 10.0**power for power in range(-4, 8) for digit in digits]
    axis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.7g}"))


def write_column(
    axis: Any, points: float, head: str, cells: Iterable[tuple[float, str]], *, align: str = "right"
) -> None:
    """Write text beside the panel, aligned `points` away from its edge."""
    place = {"xytext": (points, 0), "textcoords": "offset points", "ha": align, "fontsize": 7}
    across = axis.get_yaxis_transform()
    for y, cell in cells:
        axis.annotate(cell, (1, y), xycoords=across, va="center_baseline", **place)
    axis.annotate(head, (1, 1), xycoords="axes fraction", va="bottom", color=GREY, **place)


def wrap(text: str, width: int) -> list[str]:
    """Break a long spec into lines, behind its punctuation where that is possible."""
    lines = [""]
    for piece in re.findall(rf"[^:,/ ]{{1,{width - 1}}}[:,/ ]*|[:,/ ]+", text):
        if lines[-1] and len(lines[-1] + piece.rstrip()) > width:
            lines.append("  ")
        lines[-1] += piece
    return [line.rstrip() for line in lines]
