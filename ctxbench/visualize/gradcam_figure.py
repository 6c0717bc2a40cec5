"""The picture of class activation maps: images down, networks and methods across."""

import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ctxbench.style import BLACK, GREY, WIDTH_IN, style
from ctxbench.visualize._cam_methods import method_of
from ctxbench.visualize._marks import draw_marks
from ctxbench.visualize.class_names import class_index
from ctxbench.visualize.faithfulness import Faithfulness, faithfulness
from ctxbench.visualize.gradcam import Cams, gradcam, shares, upsampled
from ctxbench.visualize.subject import Array, Image, Page, Sample, Subject, batch_of, chunks, of

_IMAGES, _COLUMNS = 4, 6  # on a page
_COLOURS, _OPACITY = "viridis", 0.6
_PANEL_IN, _BAR_IN, _LINE_IN = 2.1, 0.75, 0.115
_LETTER_IN, _NOTE_LETTERS = 0.058, 165
_BELOW = 3.6  # lines of text below a panel
_SMALL_PX = 64
_RUN = len("run 12345678")  # as the weights name it
_HELP = (
    "Below each map: the class and its probability p, then the area under p while pixels are "
    "replaced, most important first (del: lower is better), and restored (ins: higher is better); "
    "in brackets the same in a random order."
)
_MARKS = " Frames: blue the object, orange the cue that decides its class."


@dataclass(frozen=True, slots=True)
class GradcamRow:
    """The map of one image, network and method; the areas are None for what returns boxes.

    `deletion` and `insertion` are areas under the probability of the class, between 0 and 1; those
    of `random_...` have a random order. `map_max` is in the unit of the method.
    """

    model: str
    weights: str
    trained: bool
    layer: str
    method: str
    image: str
    label: int | None
    class_index: int
    class_name: str
    score: float
    probability: float | None
    map_max: float
    deletion: float | None
    insertion: float | None
    random_deletion: float | None
    random_insertion: float | None
    steps: int
    picture: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """A column: the maps of some images by one network and method, or, without, the images."""

    subject: Subject
    samples: Sequence[Sample]
    cams: Cams | None = None
    scores: Faithfulness | None = None


def pages(
    subjects: Sequence[Subject],
    images: Iterable[Image],
    *,
    methods: Sequence[str] = ("gradcam",),
    layer: str | None = None,
    target: int | str | None = None,
    steps: int = 8,
) -> Iterator[Page]:
    """Yield a page for four images and as many networks and methods as fit beside each other.

    `target` is the class that is explained, by default the one that each network predicts; `steps`
    are those of `faithfulness`.
    Raises: UnknownNameError for a method, layer or class that does not exist; VisualizeError for
    what has no maps or classes.
    """
    for method in methods:
        method_of(method)  # before any work
    classes = []
    for subject in subjects:
        with of(subject):
            classes.append(class_of(subject, target))
    layers = [layer for _ in subjects]
    for held in chunks(images, _IMAGES):
        panels = []
        for number, subject in enumerate(subjects):
            samples = [subject.sample(image) for image in held]
            for method in methods:
                panel = _panel(subject, samples, method, layers[number], classes[number], steps)
                if panel.cams and method_of(method).layered:
                    layers[number] = panel.cams.layer  # looked for once
                panels.append(panel)
        yield from map(_page, _columns(panels))


def class_of(subject: Subject, target: int | str | None) -> int | None:
    """Return the number of a class that is given by number or by name.

    Raises: UnknownNameError or VisualizeError as `class_index` does.
    """
    if target is None or isinstance(target, int):
        return target
    return class_index(target, subject.class_names, None)


def _panel(
    subject: Subject, samples: Sequence[Sample], method: str, layer: str | None,
    target: int | None, steps: int,
) -> Panel:  # fmt: skip
    x = batch_of(samples)
    layer = layer if method_of(method).layered else None
    classes = None if target is None else [target] * len(samples)
    with of(subject):
        cams = gradcam(subject.model, x, layer=layer, method=method, classes=classes)
    large = upsampled(cams.maps, (x.shape[2], x.shape[3]))
    scores = faithfulness(subject.model, x, large, cams.classes.tolist(), steps=steps)
    return Panel(subject, samples, cams, scores)


def _columns(panels: Sequence[Panel]) -> Iterator[list[Panel]]:
    """Yield the columns of each page: in front of maps the images as their network sees them."""
    page: list[Panel] = []
    for panel in panels:
        images = [Panel(panel.subject, panel.samples)]
        same = page and page[-1].subject.preprocess == panel.subject.preprocess
        if page and len(page) + (1 if same else 2) > _COLUMNS:
            yield page
            page, same = [], False
        page += [panel] if same else [*images, panel]
    if page:
        yield page


def _page(columns: Sequence[Panel]) -> Page:
    arrays: dict[str, Array] = {
        "images": np.array([sample.name for sample in columns[0].samples]),
        "columns": np.array([_title(panel) for panel in columns]),
    }
    rows: list[GradcamRow] = []
    for number, panel in enumerate(columns):
        if panel.cams is None or panel.scores is None:
            arrays[f"shown_{number}"] = np.stack([sample.shown for sample in panel.samples])
            continue
        arrays[f"maps_{number}"] = panel.cams.maps
        arrays[f"classes_{number}"] = panel.cams.classes
        arrays[f"probabilities_{number}"] = panel.cams.probabilities
        arrays[f"shares_{number}"] = panel.scores.shares
        for name in ("deletion", "insertion", "random_deletion", "random_insertion"):
            arrays[f"{name}_{number}"] = getattr(panel.scores, name)
        rows += _rows(panel, panel.cams, panel.scores)
    return Page(draw(columns), arrays, rows)


def _rows(panel: Panel, cams: Cams, scores: Faithfulness) -> Iterator[GradcamRow]:
    areas = scores.areas()
    for i, sample in enumerate(panel.samples):
        index = int(cams.classes[i])
        yield GradcamRow(
            model=panel.subject.spec,
            weights=panel.subject.weights,
            trained=panel.subject.trained,
            layer=cams.layer,
            method=cams.method,
            image=sample.name,
            label=sample.label,
            class_index=index,
            class_name=panel.subject.name_of(index),
            score=float(cams.scores[i]),
            probability=_known(cams.probabilities[i]),
            map_max=float(cams.maps[i].max()),
            deletion=_known(areas["deletion"][i]),
            insertion=_known(areas["insertion"][i]),
            random_deletion=_known(areas["random_deletion"][i]),
            random_insertion=_known(areas["random_insertion"][i]),
            steps=len(scores.shares) - 1,
        )


def _known(value: Any) -> float | None:
    return None if isnan(value) else float(value)


def draw(columns: Sequence[Panel]) -> Figure:
    """Draw the columns of a page, all of the same images."""
    width = min(_PANEL_IN, (WIDTH_IN - _BAR_IN) / len(columns))
    letters = int(width / _LETTER_IN)
    spread = Counter(title for title, _ in {(p.subject.title, p.subject.spec) for p in columns})
    titles = [
        _title_lines(panel, letters, run=spread[panel.subject.title] > 1) for panel in columns
    ]
    notes = _notes(columns)
    high = [width * max(_aspect(panel, i) for panel in columns) + _BELOW * _LINE_IN
            for i in range(len(columns[0].samples))]  # fmt: skip
    ends = _LINE_IN * (max(map(len, titles)) + len(notes) + 3)
    with style():
        figure = Figure(figsize=(WIDTH_IN, sum(high) + ends), layout="compressed")
        axes = figure.subplots(len(high), len(columns), squeeze=False)
        for across, panel in enumerate(columns):
            axes[0, across].set_title("\n".join(titles[across]), fontsize=6.5, color=BLACK)
            for down, axis in enumerate(axes[:, across]):
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set(linewidth=0.4, color=GREY)
                _draw_panel(axis, panel, down, letters)
        _draw_bar(figure, axes, share=min(1, 2.5 / sum(high)))
        figure.suptitle(_heading(columns), fontsize=9, weight="bold")
        figure.supxlabel("\n".join(notes), fontsize=5.5, color=GREY, x=0.01, ha="left")
    return figure


def _aspect(panel: Panel, number: int) -> float:
    height, width = panel.samples[number].shown.shape[:2]
    return float(height / width)


def _draw_panel(axis: Any, panel: Panel, number: int, letters: int) -> None:
    sample = panel.samples[number]
    small = max(sample.shown.shape[:2]) < _SMALL_PX
    how = "nearest" if small else "antialiased"
    if panel.cams is None or panel.scores is None:
        axis.imshow(sample.shown, interpolation=how)
        draw_marks(axis, sample.marks)
        lines = textwrap.wrap(sample.name, letters, break_on_hyphens=False)
        named = [*lines[:1], *([_clipped(" ".join(lines[1:]), letters)] if lines[1:] else [])]
        if sample.label is not None:
            named.append(_clipped(f"label: {panel.subject.name_of(sample.label)}", letters))
        axis.set_xlabel("\n".join(named), fontsize=6, labelpad=2)
        return
    # without its dark half, which would darken the colours of the map
    axis.imshow(sample.shown.mean(2), cmap="gray", vmin=-255, vmax=255, interpolation=how)
    share = shares(panel.cams.maps[number : number + 1])
    large = upsampled(share, (sample.shown.shape[0], sample.shown.shape[1]))[0]
    axis.imshow(large, cmap=_COLOURS, vmin=0, vmax=1, alpha=_OPACITY, interpolation=how)
    if not share.any():
        axis.text(
            0.5, 0.5, "no positive\nevidence", transform=axis.transAxes, ha="center", va="center",
            fontsize=6.5, color="white",
        )  # fmt: skip
    axis.set_xlabel(
        "\n".join(_below(panel, panel.cams, panel.scores, number, letters)), fontsize=6, labelpad=2
    )


def _below(panel: Panel, cams: Cams, scores: Faithfulness, number: int, letters: int) -> list[str]:
    """Return what stands below a map."""
    index, probability = int(cams.classes[number]), cams.probabilities[number]
    name = panel.subject.name_of(index)
    if isnan(probability):
        return [_clipped(name, letters), f"score {cams.scores[number]:.2f}"]
    told = f"p {_decimals(probability)}"
    areas = {key: float(area[number]) for key, area in scores.areas().items()}
    return [_clipped(name, letters - len(told) - 2) + f", {told}"] + [
        f"{short} {_decimals(areas[key])} ({_decimals(areas[f'random_{key}'])})"
        for short, key in (("del", "deletion"), ("ins", "insertion"))
    ]


def _decimals(value: float) -> str:
    """Write a probability with two digits that say something: .12, .0012, <.0001."""
    if value < 0.0001:
        return "<.0001"
    return f"{value:.2f}" if value >= 0.0995 else f"{value:.{3 if value >= 0.00995 else 4}f}"


def _draw_bar(figure: Figure, axes: Any, *, share: float) -> None:
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), _COLOURS), ax=axes, alpha=_OPACITY, aspect=25,
        shrink=share, pad=0.01,
    )  # fmt: skip
    bar.set_label("share of the map's maximum")
    bar.outline.set_linewidth(0.4)


def _title(panel: Panel) -> str:
    if panel.cams is None:
        height, width = panel.samples[0].shown.shape[:2]
        return f"image, {height}x{width} px"
    return f"{panel.subject.title}\n{panel.cams.method}\n{panel.cams.layer}"


def _title_lines(panel: Panel, letters: int, *, run: bool) -> list[str]:
    """Return what stands above a column; with its `run`, where others have the same title."""
    lines = _title(panel).split("\n")
    if panel.cams is not None and run:
        lines.insert(1, panel.subject.spec.replace(":", " ")[:_RUN])
    if panel.cams is not None and not panel.subject.trained:
        lines.append("random weights")
    return [piece for line in lines for piece in _wrapped(line, letters)]


def _wrapped(name: str, letters: int) -> list[str]:
    """Break the name of a network or layer behind its punctuation."""
    lines = [""]
    for piece in re.findall(r"[^_./:, ]*[_./:, ]*", name):
        if lines[-1] and len(lines[-1] + piece.rstrip()) > letters:
            lines.append("")
        lines[-1] += piece
    return [line.strip() for line in lines]


def _heading(columns: Sequence[Panel]) -> str:
    random = any(not panel.subject.trained for panel in columns)
    return "Class activation maps" + (": random weights, so they mean nothing" if random else "")


def _notes(columns: Sequence[Panel]) -> list[str]:
    """Return what the numbers are, the weights of each network, and how it sees images."""
    marked = any(sample.marks for panel in columns for sample in panel.samples)
    lines = textwrap.wrap(_HELP + (_MARKS if marked else ""), _NOTE_LETTERS)
    for subject in {id(panel.subject): panel.subject for panel in columns}.values():
        told = f"{subject.title}: {subject.weights}; {subject.preprocess}"
        lines += textwrap.wrap(told, _NOTE_LETTERS)
    return lines


def _clipped(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: max(letters - 1, 1)] + "\N{HORIZONTAL ELLIPSIS}"
