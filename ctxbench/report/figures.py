"""Figures: rows -> what is drawn -> Figure, both steps pure."""

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import NamedTuple

from matplotlib.figure import Figure
from pandas import DataFrame, Series

from ctxbench.records import Row
from ctxbench.report import (
    _ablation_curves_figure,
    _ablation_errors_figure,
    _ablation_scales_figure,
    _claims_figure,
    _data_examples_figure,
    _latency_figure,
    _layers_figure,
    _operators_figure,
    _parity_figure,
    _roofline_figure,
)
from ctxbench.style import save

_LEFT_OUT = "left_out"

__all__ = ["FIGURES", "Picture", "save"]


class Picture(NamedTuple):
    """A figure: the kind of row it is made of, what it takes of them, and how it is drawn.

    Rows of the kinds `also` come behind those of its own.
    """

    kind: str
    select: Callable[[Iterable[Row]], DataFrame]
    draw: Callable[[DataFrame], Figure]
    also: tuple[str, ...] = ()


class _Limit(NamedTuple):
    """How much a page can hold: the columns whose values make a panel, and the most of both."""

    by: tuple[str, ...]
    panels: int
    lines: int
    panel: str = "panels"


def _legible(kind: str, of: ModuleType, limit: _Limit) -> Picture:
    select, draw = _within(limit, of.select, of.draw)
    return Picture(kind, select, draw)


def _ablation(
    select: Callable[[Iterable[Row]], DataFrame],
    draw: Callable[[DataFrame], Figure],
    limit: _Limit,
) -> Picture:
    return Picture("experiments", *_within(limit, select, draw), ("trials",))


def _within(
    limit: _Limit,
    select: Callable[[Iterable[Row]], DataFrame],
    draw: Callable[[DataFrame], Figure],
) -> tuple[Callable[[Iterable[Row]], DataFrame], Callable[[DataFrame], Figure]]:
    """Draw the last panels and the first lines of each; what is left out is said in the title."""

    def select_some(rows: Iterable[Row]) -> DataFrame:
        found = select(rows)
        panel = Series(0, index=found.index)
        if limit.by and len(found):
            panel = found.groupby(list(limit.by), sort=False).ngroup()
        last = panel > panel.max() - limit.panels
        line = found.groupby(panel).cumcount() < limit.lines
        kept = found[last & line].reset_index(drop=True)
        panels, lines = panel.nunique() - limit.panels, int((last & ~line).sum())
        told = [f"{panels} more {limit.panel}"] if panels > 0 else []
        told += [f"{lines} more lines"] if lines else []
        kept.attrs[_LEFT_OUT] = " and ".join(told)
        return kept if told else found

    def draw_and_say(lines: DataFrame) -> Figure:
        left_out = lines.attrs.get(_LEFT_OUT)
        figure = draw(lines)
        if left_out:
            title = f"{figure.get_suptitle()}\n{left_out}: in the tables"
            figure.suptitle(title, fontsize=9, weight="bold")
        return figure

    return select_some, draw_and_say


_EXPERIMENTS = _Limit(("experiment",), 6, 16, "experiments")
_CURVES = _EXPERIMENTS._replace(lines=10**6)  # its lines are epochs
_AXES = _CURVES._replace(by=("experiment", "axis"))
FIGURES = {
    "claims": _legible("claims", _claims_figure, _Limit((), 1, 120)),
    "parity": Picture("layers", _parity_figure.select, _parity_figure.draw),
    "latency": _legible("latency", _latency_figure, _Limit(("place", "operator"), 8, 40)),
    "roofline": _legible("latency", _roofline_figure, _Limit(("place", "dtype"), 8, 40)),
    "operators": _legible("operators", _operators_figure, _Limit(("panel",), 4, 200)),
    "layers": Picture("latency_layers", _layers_figure.select, _layers_figure.draw),
    "ablation_errors": _ablation(
        _ablation_errors_figure.select, _ablation_errors_figure.draw, _EXPERIMENTS
    ),
    "ablation_curves": _ablation(
        _ablation_curves_figure.select, _ablation_curves_figure.draw, _CURVES
    ),
    "ablation_distance": _ablation(
        _ablation_scales_figure.select_distance, _ablation_scales_figure.draw_distance, _AXES
    ),
    "ablation_priors": _ablation(
        _ablation_scales_figure.select_priors, _ablation_scales_figure.draw_priors, _AXES
    ),
    "data_examples": _legible(
        "examples", _data_examples_figure, _Limit(("data",), 12, 6, "data sets")
    ),
}
