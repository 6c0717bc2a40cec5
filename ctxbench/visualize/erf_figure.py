"""The figure of effective receptive fields: a map for each network, and what squares hold."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ctxbench.errors import VisualizeError
from ctxbench.style import BLACK, GREY, WIDTH_IN, style, wrap
from ctxbench.visualize.erf import Erf, erf
from ctxbench.visualize.erf_summary import SHARES, ErfTotal, Estimate, Summary, row_of
from ctxbench.visualize.subject import Array, Image, Page, Subject, batch_of, chunks, of

_PALETTE = sns.color_palette("colorblind")
_ACROSS, _LETTERS = 4, 27
_CHUNK = 8  # images at a time
_DECADES = 4
_END = 0.999  # of the energy, where the curves end
_MAP_IN, _MAP_MOST_IN, _LINE_IN, _CURVES_IN, _ENDS_IN = 1.55, 3.0, 0.115, 2.4, 0.95
_DASHED, _DOTTED = (0, (3.2, 1.6)), (0, (0.9, 1.1))
# what a frame on a map shows -> its looks
_FRAMES: dict[str, dict[str, Any]] = {
    "square that holds 50 % of the energy": {"color": "white", "linestyle": "-"},
    "99 % of it": {"color": "white", "linestyle": _DASHED},
    "theoretical field": {"color": "#56e0ff", "linestyle": _DOTTED},
}


@dataclass(frozen=True, slots=True)
class Compared:
    """A network, its effective field over all images, and any result that was summed up for it."""

    subject: Subject
    found: Erf
    summary: Summary


def pages(
    subjects: Sequence[Subject],
    images: Iterable[Image],
    *,
    layer: str | None = None,
    seed: int = 0,
    probes: int = 4,
) -> Iterator[Page]:
    """Yield one page that compares all networks over all images, of which a few are held at a time.

    `layer` is one name for all networks, "output" for their class scores, or the last map of each.
    Raises: VisualizeError without images, and where `ctxbench.visualize.erf.erf` does.
    """
    totals, first = [ErfTotal() for _ in subjects], dict[int, Erf]()
    names: list[str] = []
    for held in chunks(images, _CHUNK):
        for number, subject in enumerate(subjects):
            with of(subject):
                found = erf(
                    subject.model, batch_of([subject.sample(image) for image in held]),
                    layer=layer, probes=probes, seed=seed, like=first.get(number), start=len(names),
                )  # fmt: skip
            first.setdefault(number, found)
            totals[number].add(found)
        names += [image.name for image in held]
    compared = [
        Compared(subject, first[number], total.summary())
        for number, (subject, total) in enumerate(zip(subjects, totals, strict=True))
        if number in first
    ]
    if not compared:
        raise VisualizeError("An effective field takes a network and at least one image; got none.")
    rows = [
        row_of(one.subject, one.found, one.summary, probes=probes, seed=seed) for one in compared
    ]
    yield Page(draw(compared), _arrays(compared, names), rows)


def draw(compared: Sequence[Compared]) -> Figure:
    """Draw the mean energy of each network on one scale, and below what centred squares hold."""
    across = min(_ACROSS, len(compared))
    down = -(-len(compared) // across)
    heads = [_head(one, _LETTERS * _ACROSS // across) for one in compared]
    shapes = [one.summary.mean_map.shape for one in compared]
    tall = max(height / width for height, width in shapes)
    map_in = min(_MAP_IN * tall * _ACROSS / across, _MAP_MOST_IN)
    map_in += _LINE_IN * max(map(len, heads))
    size = (WIDTH_IN, down * map_in + _CURVES_IN + _ENDS_IN)
    with style():
        figure = Figure(figsize=size, layout="constrained")
        parts = figure.subfigures(
            2, 1, squeeze=False, height_ratios=[down * map_in + 0.4, _CURVES_IN]
        )
        upper, lower = parts[:, 0]
        axes = upper.subplots(down, across, squeeze=False)
        _draw_maps(upper, compared, heads, axes.ravel())
        _draw_curves(lower.subplots(), compared)
        figure.suptitle(f"{_title(compared)}\n", fontsize=9, weight="bold")
        figure.supxlabel(_foot(compared), fontsize=6, color=GREY)
    return figure


def _title(compared: Sequence[Compared]) -> str:
    images = sorted({one.summary.images for one in compared})
    told = " or ".join(map(str, images)) + (" image" if images == [1] else " images")
    return f"Effective receptive fields, mean over {told}"


def _foot(compared: Sequence[Compared]) -> str:
    """Say what the brackets are, and how the images were prepared."""
    lines = ["In brackets: 95 % interval over images (Student's t)."]
    if all(one.summary.low is None for one in compared):
        lines = []
    said = dict.fromkeys(str(one.subject.preprocess) for one in compared)
    if len(said) == 1:
        return "\n".join([*lines, f"Images: {next(iter(said))}"])
    return "\n".join(
        [*lines, *(f"{one.subject.title}: {one.subject.preprocess}" for one in compared)]
    )


def _head(one: Compared, letters: int) -> list[str]:
    found, summary = one.found, one.summary
    place = "class scores"
    if found.position is not None and found.map_size is not None:
        (row, column), (rows, columns) = found.position, found.map_size
        place = f"{found.layer} at {row},{column} of {rows}x{columns}"
    field = f"{found.field.height}x{found.field.width} px"
    if found.field.is_whole(*summary.mean_map.shape):
        field = "the whole image"
    lines = [
        one.subject.title,
        one.subject.weights if one.subject.trained else _random(one.subject.weights),
        place,
        *(f"{share:.0%}: {_side(summary.squares_px[share])}" for share in SHARES[1:]),
        f"field: {field}",
    ]
    if summary.dead:
        lines.append(f"no gradient: {summary.dead} image{'s' if summary.dead > 1 else ''}")
    return [piece for line in lines for piece in wrap(line, letters)]


def _random(weights: str) -> str:
    return weights if "random" in weights else f"random weights ({weights})"


def _side(side: Estimate) -> str:
    if np.isnan(side.mean):
        return "no gradient"
    if side.low is None or side.high is None:
        return f"{side.mean:.3g} px"
    return f"{side.mean:.3g} px [{side.low:.3g}, {side.high:.3g}]"


def _draw_maps(
    figure: Any, compared: Sequence[Compared], heads: Sequence[Sequence[str]], axes: Sequence[Any]
) -> None:
    highest = max(float(np.nanmax(one.summary.mean_map, initial=0.0)) for one in compared)
    highest = highest or 1.0  # of networks without any gradient
    lowest = highest / 10**_DECADES
    scale = LogNorm(lowest, highest)
    for axis in axes[len(compared) :]:
        axis.set_axis_off()
    shown = None
    for number, (axis, one, head) in enumerate(zip(axes, compared, heads, strict=False)):
        energy = np.maximum(np.nan_to_num(one.summary.mean_map), lowest)
        shown = axis.imshow(energy, norm=scale, cmap="magma", interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.grid(visible=False)
        axis.set_title("\n".join(head), fontsize=6.5, loc="left")
        axis.spines[:].set(linewidth=2, color=_colour(number))  # that of its curve
        for frame, looks in zip(_frames(one), _FRAMES.values(), strict=True):
            if frame is not None:
                axis.add_patch(Rectangle(*frame, fill=False, linewidth=1, **looks))
    bar = figure.colorbar(shown, ax=list(axes), fraction=0.03, pad=0.01, extend="min")
    bar.set_label("energy of a pixel\n(share of the image's)")
    drawn = zip(*(_frames(one) for one in compared), strict=True)
    keys = [
        Line2D([], [], linewidth=1, label=label, **looks)
        for (label, looks), frames in zip(_FRAMES.items(), drawn, strict=True)
        if any(frames)
    ]
    figure.legend(
        handles=keys, loc="outside lower center", ncols=max(1, len(keys)), handlelength=3,
        facecolor="0.1", labelcolor="white", framealpha=1,
    )  # fmt: skip


def _colour(number: int) -> Any:
    return _PALETTE[number % len(_PALETTE)]


def _frames(one: Compared) -> list[tuple[tuple[float, float], float, float] | None]:
    """Return corner, width and height of what `_FRAMES` names, in the order of it."""
    row, column = one.found.centre
    sides = [one.summary.squares_px[share].mean for share in SHARES[1:]]
    field = one.found.field
    whole = field.is_whole(*one.summary.mean_map.shape)
    box = ((field.left - 0.5, field.top - 0.5), float(field.width), float(field.height))
    return [
        *(
            None if np.isnan(side) else ((column - side / 2, row - side / 2), side, side)
            for side in sides
        ),
        None if whole else box,
    ]


def _draw_curves(axis: Any, compared: Sequence[Compared]) -> None:
    longest = max(one.summary.square_of_mean_px(_END) for one in compared)
    longest = 1.0 if np.isnan(longest) else 1.05 * longest
    for number, one in enumerate(compared):
        summary, looks = one.summary, {"color": _colour(number)}
        sides = np.append(summary.sides_px, max(longest, summary.sides_px[-1]))
        held, low, high = (
            None if values is None else 100 * np.append(values, values[-1])
            for values in (summary.held, summary.low, summary.high)
        )
        dashes = "-" if one.subject.trained else _DASHED
        axis.step(sides, held, where="post", linewidth=1.3, linestyle=dashes, **looks)
        if low is not None:
            axis.fill_between(sides, low, high, step="post", alpha=0.2, linewidth=0, **looks)
    for share in SHARES:
        axis.axhline(100 * share, color=GREY, linewidth=0.5, linestyle=_DOTTED)
    axis.set(
        xlim=(0, longest), ylim=(0, 102),
        yticks=[0, *(100 * share for share in SHARES)],
        xlabel="side of a square around the place of the output (px)",
        ylabel="energy that it holds (%)",
    )  # fmt: skip
    axis.grid(axis="y", visible=False)
    axis.legend(handles=_keys(compared), loc="center left", bbox_to_anchor=(1.01, 0.5),
                frameon=False, fontsize=6.5)  # fmt: skip


def _keys(compared: Sequence[Compared]) -> list[Any]:
    """Return a line for each network, and what the band is where there is one."""
    lines: list[Any] = []
    for number, one in enumerate(compared):
        told = "trained" if one.subject.trained else "random weights"
        label = "\n".join(wrap(f"{one.subject.title}, {told}", 34))
        dashes = "-" if one.subject.trained else _DASHED
        lines.append(Line2D([], [], color=_colour(number), linestyle=dashes, label=label))
    if any(one.summary.low is not None for one in compared):
        band = "95 % interval over images"
        lines.append(Rectangle((0, 0), 1, 1, facecolor=BLACK, alpha=0.2, label=band))
    return lines


def _arrays(compared: Sequence[Compared], names: Sequence[str]) -> dict[str, Array]:
    """Return what is drawn, by the number of the network."""
    arrays: dict[str, Array] = {
        "images": np.array(names),
        "models": np.array([one.subject.spec for one in compared]),
        "layers": np.array([one.found.layer for one in compared]),
    }
    for number, one in enumerate(compared):
        summary, field = one.summary, one.found.field
        arrays |= {
            f"energy_{number}": summary.mean_map,
            f"sides_px_{number}": summary.sides_px,
            f"held_{number}": summary.held,
            f"area_{number}": summary.areas,
            f"centre_{number}": np.array(one.found.centre),
            f"field_{number}": np.array([field.top, field.bottom, field.left, field.right]),
        }
        if summary.low is not None and summary.high is not None:
            arrays |= {f"held_low_{number}": summary.low, f"held_high_{number}": summary.high}
    return arrays
