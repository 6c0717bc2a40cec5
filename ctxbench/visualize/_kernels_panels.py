"""What the pictures of kernels share: headings, images, colour bars."""

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

from ctxbench.style import GREY
from ctxbench.visualize.subject import Array, Sample, Subject

OVERLAY = 0.65  # how much a map hides the image below it
_LETTERS, _SMALL, _NAMED = 112, 64, 8


def write_heads(figure: Any, subject: Subject, what: str, *lines: str, seen: bool = True) -> None:
    """Write what a figure shows above it, and how the network was fed below, if it was `seen`."""
    weights = subject.weights
    if not subject.trained and "random" not in weights:
        weights = f"random weights ({weights})"
    told = [f"{what}: {subject.title}", weights, *lines]
    heading = "\n".join(part for line in told for part in wrap(line, _LETTERS))
    figure.suptitle(heading, x=0.01, ha="left", fontsize=8)
    if seen:
        below = "\n".join(wrap(f"images: {subject.preprocess}", _LETTERS + 20))
        figure.supxlabel(below, x=0.01, ha="left", fontsize=6, color=GREY)


def show_image(axis: Any, sample: Sample, *, grey: bool = False) -> None:
    """Draw an image as the network sees it, with frames around its marks; `grey` below a map."""
    pixels = sample.shown.mean(-1) if grey else sample.shown
    small = min(sample.shown.shape[:2]) < _SMALL
    axis.imshow(
        pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest" if small else "antialiased"
    )
    bare(axis)


def show_map(axis: Any, values: Array, **options: Any) -> Any:
    """Draw a map without ticks and return it for its colour bar."""
    drawn = axis.imshow(values, interpolation="nearest", **options)
    bare(axis)
    return drawn


def bare(axis: Any) -> None:
    """Take the ticks and the grid off a panel."""
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    axis.spines[:].set(linewidth=0.4, color=GREY)


def colour_bar(figure: Any, drawn: Any, axes: Sequence[Any] | Any, label: str) -> None:
    """Put a colour bar with its unit beside some panels."""
    bar = figure.colorbar(drawn, ax=axes, shrink=0.9, aspect=25, pad=0.015)
    bar.set_label(label, fontsize=7)
    bar.ax.tick_params(labelsize=6.5, length=2, width=0.4)
    bar.outline.set_linewidth(0.4)


def name_layers(axis: Any, layers: Sequence[str]) -> None:
    """Put the names of some layers below an axis, evenly, of the last among them."""
    step = max(1, -(-(len(layers) - 1) // _NAMED))
    places = range((len(layers) - 1) % step, len(layers), step)
    names = [layers[place] for place in places]
    axis.set_xticks(places, names, rotation=30, ha="right", rotation_mode="anchor", fontsize=6)
