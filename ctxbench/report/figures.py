"""Figures: rows -> what is drawn -> Figure, both steps pure."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from matplotlib.figure import Figure
from pandas import DataFrame

from ctxbench.records import Row
from ctxbench.report import (
    _ablation_curves_figure,
    _ablation_errors_figure,
    _ablation_scales_figure,
    _claims_figure,
    _data_examples_figure,
    _latency_figure,
    _layers_figure,
    _parity_figure,
    _roofline_figure,
)
from ctxbench.style import save

__all__ = ["FIGURES", "Picture", "save"]


class Picture(NamedTuple):
    """A figure: the kind of row it is made of, what it takes of them, and how it is drawn.

    Rows of the kinds `also` come behind those of its own.
    """

    kind: str
    select: Callable[[Iterable[Row]], DataFrame]
    draw: Callable[[DataFrame], Figure]
    also: tuple[str, ...] = ()


def _ablation(
    select: Callable[[Iterable[Row]], DataFrame], draw: Callable[[DataFrame], Figure]
) -> Picture:
    return Picture("experiments", select, draw, ("trials",))


FIGURES = {
    "claims": Picture("claims", _claims_figure.select, _claims_figure.draw),
    "parity": Picture("layers", _parity_figure.select, _parity_figure.draw),
    "latency": Picture("latency", _latency_figure.select, _latency_figure.draw),
    "roofline": Picture("latency", _roofline_figure.select, _roofline_figure.draw),
    "layers": Picture("latency_layers", _layers_figure.select, _layers_figure.draw),
    "ablation_errors": _ablation(_ablation_errors_figure.select, _ablation_errors_figure.draw),
    "ablation_curves": _ablation(_ablation_curves_figure.select, _ablation_curves_figure.draw),
    "ablation_distance": _ablation(
        _ablation_scales_figure.select_distance, _ablation_scales_figure.draw_distance
    ),
    "ablation_priors": _ablation(
        _ablation_scales_figure.select_priors, _ablation_scales_figure.draw_priors
    ),
    "data_examples": Picture("examples", _data_examples_figure.select, _data_examples_figure.draw),
}
