"""What a reader of a figure sees."""

import numpy as np
from matplotlib.text import Text

from ctxbench.report.figures import FIGURES


def draw(name, rows):
    picture = FIGURES[name]
    return picture.draw(picture.select(rows))


def written(figure):
    """The pieces of text that a reader sees."""
    figure.draw_without_rendering()
    beyond = {label for axis in figure.axes for label in _out_of_view(axis.xaxis, axis.yaxis)}
    found = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    return [text for text in found if text not in beyond]


def _out_of_view(*scales):
    """The labels of ticks beyond an axis's ends, which are there and never drawn."""
    for scale in scales:
        low, high = sorted(scale.get_view_interval())
        for tick in scale.get_major_ticks():
            if not low <= tick.get_loc() <= high:
                yield from (tick.label1, tick.label2)


def texts(figure):
    return [text.get_text() for text in written(figure)]


def points(axis):
    """The points of every series of dots on an axis, lines apart."""
    series = [np.asarray(dots.get_offsets()) for dots in axis.collections]
    return [dots for dots in series if len(dots) and dots.any()]
