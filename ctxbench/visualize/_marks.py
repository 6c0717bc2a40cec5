"""Frames around what decides the class of an image, the same in all pictures."""

from collections.abc import Iterable
from typing import Any

from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from ctxbench.style import BLACK
from ctxbench.visualize.subject import Mark

OBJECT, CUE, OTHER = "#56b4e9", "#e69f00", "#cc79a7"
# the first word of a mark's name -> the colour and the line of its frame
_LOOKS: dict[str, tuple[str, Any]] = {"object": (OBJECT, "-"), "cue": (CUE, (0, (2, 1)))}


def look_of(mark: Mark) -> dict[str, Any]:
    """Return the colour and the line style of a mark's frame, and of its entry in a legend."""
    colour, line = _LOOKS.get(mark.name.partition(" ")[0], (OTHER, (0, (1, 1))))
    return {"color": colour, "linestyle": line}


def draw_marks(axis: Any, marks: Iterable[Mark]) -> None:
    """Draw a thin frame, with a dark rim, around each mark of an image on an axis."""
    for mark in marks:
        axis.add_patch(
            Rectangle(
                (mark.left - 0.5, mark.top - 0.5), mark.width, mark.height, fill=False,
                linewidth=0.9, zorder=2.5, **look_of(mark),
                path_effects=[withStroke(linewidth=1.7, foreground=BLACK)],
            )
        )  # fmt: skip
