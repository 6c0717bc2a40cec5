"""The picture of class priors: top classes by stage, how they move, what another's prior does."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from math import isnan
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import nn

from ctxbench.errors import VisualizeError
from ctxbench.ops.ctxconv import ContextualConv2d
from ctxbench.style import BLACK, GREY, WIDTH_IN, style
from ctxbench.visualize._priors_panels import (
    DASHES,
    MERGED,
    OTHER,
    OWN,
    SWAPPED,
    TRUE,
    View,
    draw_moves,
    draw_stages,
)
from ctxbench.visualize.inside import unwrapped
from ctxbench.visualize.priors import (
    Change,
    Priors,
    PriorsRow,
    Swap,
    at_least_one_class,
    contextual_part,
    priors,
    swapped,
)
from ctxbench.visualize.subject import Array, Image, Page, Sample, Subject, batch_of, chunks, of

_IMAGES = 3  # on a page
_ENDS_IN, _AXES_IN, _BAR_IN, _PAIR_IN = 1.05, 0.58, 0.135, 0.17
_NAME_IN = 0.12  # the second line of an image's name
_LETTERS = 105  # of a line of the title


def pages(
    subjects: Sequence[Subject],
    images: Iterable[Image],
    *,
    top: int = 5,
    labels: Iterable[int | None] | None = None,
) -> Iterator[Page]:
    """Yield a page for each network and three images; `labels` stand in for the images' own.

    Each image is shown with the prior of the next one on its page, the last with that of the first.
    A last page of one image borrows from the page before; an image that is alone, and a network
    without a prior (prior=false), are shown without that part.
    Raises: VisualizeError for a network that ranks no classes, and values that do not fit.
    """
    at_least_one_class(top)
    for subject in subjects:
        with of(subject):
            contextual_part(unwrapped(subject.model))  # before any work
    borrowed: list[Image] = []
    for held in chunks(images if labels is None else _labelled(images, labels), _IMAGES):
        donors = borrowed if len(held) == 1 else []
        for subject in subjects:
            yield _page(subject, [*held, *donors], shown=len(held), top=top)
        borrowed = held[-1:]


def draw(
    subject: Subject,
    samples: Sequence[Sample],
    found: Priors,
    swap: Swap | None,
    *,
    top: int = 5,
    shown: int | None = None,
) -> Figure:
    """Draw the first `shown` samples, by default all; the others are donors of priors only."""
    shown = len(samples) if shown is None else shown
    top = min(top, found.classes)
    extra = found.classes > top and any(label is not None for label in found.labels)
    view = View(subject, samples, found, swap, top=top, bars=top + extra)
    heights = [
        _AXES_IN + _NAME_IN + _BAR_IN * view.bars,
        _AXES_IN + max(1.05, _PAIR_IN * (view.bars + 1)),
    ]
    with style():
        figure = Figure(figsize=(WIDTH_IN, _ENDS_IN + sum(heights) * shown), layout="constrained")
        for number, part in enumerate(figure.subfigures(shown, 1, squeeze=False)[:, 0]):
            upper, lower = part.subfigures(2, 1, height_ratios=heights)
            draw_stages(upper, view, number)
            draw_moves(lower, view, number)
        _draw_ends(figure, view)
    return figure


def _draw_ends(figure: Figure, view: View) -> None:
    """Say whose classes these are, and what the colours mean."""
    subject = view.subject
    said = wrap(f"{subject.weights}{_caution(view)}", _LETTERS)
    title = "\n".join([f"Class priors: {subject.title}", *said])
    figure.suptitle(title, fontsize=8, weight="bold")
    cut: dict[str, Any] = {"color": BLACK, "linewidth": 0.9, "linestyle": DASHES}
    keys: list[Any] = [Line2D([], [], color=TRUE, linewidth=2, label="true class")]
    if any(stage.prior_size for stage in view.found.stages):
        keys.insert(0, Patch(color=MERGED, label="merged into the prior of the next stage"))
        keys.insert(1, Patch(color=OTHER, label="not merged"))
        keys.append(Line2D([], [], **cut, label="size of the prior"))
    if view.swap is not None:
        keys.append(Patch(color=OWN, label="with the image's own prior"))
        keys.append(Patch(color=SWAPPED, label="with another image's prior"))
    legend = figure.legend(
        handles=keys, loc="outside lower center", ncols=3, frameon=False, fontsize=6.5,
        title=str(subject.preprocess), title_fontproperties={"size": 6},
    )  # fmt: skip
    legend.get_title().set_color(GREY)


def _caution(view: View) -> str:
    """Say what is missing, and what must not be read into a picture of random weights."""
    told = ""
    if not view.subject.trained:
        random = "" if "random" in view.subject.weights else "; random weights"
        told = f"{random}: these rankings mean nothing"
    if view.swap is not None and _prior_is_ignored(view.subject.model):
        told += "; its contextual convolutions are new, and ignore the prior"
    if view.swap is None:
        merged = any(stage.prior_size for stage in view.found.stages)
        alone = "one image alone, with no other's prior to exchange"
        told += f"; {alone if merged else 'the stages take no prior: rankings only'}"
    return told


def _prior_is_ignored(model: nn.Module) -> bool:
    """Tell whether what a prior generates is multiplied by zeros, as in new networks."""
    nets = [
        net
        for module in model.modules()
        if isinstance(module, ContextualConv2d)
        for net in (module.offset_net, module.kernel_net)
        if net is not None
    ]
    return not any(bool(net[-1].get_parameter("weight").any()) for net in nets)


def _labelled(images: Iterable[Image], labels: Iterable[int | None]) -> Iterator[Image]:
    given = iter(labels)
    for number, image in enumerate(images):
        try:
            yield replace(image, label=next(given))
        except StopIteration:
            raise VisualizeError(
                f"There are {number} labels, and none for image {image.name!r}. Give one an image."
            ) from None
    if (more := sum(1 for _ in given)) != 0:
        raise VisualizeError(f"There are {more} more labels than images. Give one an image.")


def _page(subject: Subject, images: Sequence[Image], *, shown: int, top: int) -> Page:
    samples = [subject.sample(image) for image in images]
    labels, x = [sample.label for sample in samples], batch_of(samples)
    _, network = contextual_part(unwrapped(subject.model))
    swap = None
    if network.mergers and len(samples) > 1:
        swap = swapped(subject.model, x, labels=labels, top=top)
    found = swap.own if swap else priors(subject.model, x, labels=labels)
    return Page(
        draw(subject, samples, found, swap, top=top, shown=shown),
        _arrays(subject, samples, found, swap),
        [_row(subject, samples, found, swap, number=n, top=top) for n in range(shown)],
    )


def _arrays(
    subject: Subject, samples: Sequence[Sample], found: Priors, swap: Swap | None
) -> dict[str, Array]:
    """Return what is drawn: S stages, E exchanges, B images, N classes; -1 stands for none."""
    stages = found.stages
    arrays = {
        "images": np.stack([sample.shown for sample in samples]),
        "image_names": np.array([sample.name for sample in samples]),
        "labels": np.array([-1 if label is None else label for label in found.labels]),
        "class_names": np.array([subject.name_of(index) for index in range(found.classes)]),
        "stages": np.array([stage.name for stage in stages]),
        "prior_sizes": np.array([stage.prior_size or -1 for stage in stages]),
        "scores_SBN": np.stack([stage.scores for stage in stages]),
        "probabilities_SBN": np.stack([stage.probabilities for stage in stages]),
        "order_SBN": np.stack([_filled(stage.order, found.classes) for stage in stages]),
        "true_rank_SB": np.array(
            [[-1 if rank is None else rank for rank in stage.true_rank] for stage in stages]
        ),
    }
    if swap is None:
        return arrays
    changes = swap.changes
    return arrays | {
        "donors": np.array(swap.donors),
        "exchanged": np.array([change.exchanged for change in changes]),
        "swapped_scores_EBN": np.stack([change.scores for change in changes]),
        "swapped_probabilities_EBN": np.stack([change.probabilities for change in changes]),
        "swapped_order_EBN": np.stack([_filled(change.order, found.classes) for change in changes]),
        "score_change_EB": np.stack([change.score_change for change in changes]),
        "top_overlap_EB": np.stack([change.top_overlap for change in changes]),
        "correlation_EB": np.stack([change.correlation for change in changes]),
    }


def _filled(order: Array, classes: int) -> Array:
    return np.pad(order, ((0, 0), (0, classes - order.shape[1])), constant_values=-1)


def _row(
    subject: Subject,
    samples: Sequence[Sample],
    found: Priors,
    swap: Swap | None,
    *,
    number: int,
    top: int,
) -> PriorsRow:
    label = found.labels[number]
    row = PriorsRow(
        model=subject.spec,
        weights=subject.weights,
        trained=subject.trained,
        image=samples[number].name,
        true_class=None if label is None else subject.name_of(label),
        stages=tuple(stage.name for stage in found.stages),
        prior_sizes=tuple(stage.prior_size for stage in found.stages),
        top_classes=tuple(
            tuple(subject.name_of(int(index)) for index in stage.order[number, :top])
            for stage in found.stages
        ),
        true_rank=tuple(_place(stage.true_rank[number]) for stage in found.stages),
        predicted=subject.name_of(int(found.stages[-1].order[number, 0])),
    )
    if swap is None:
        return row
    every: Change = swap.changes[0]
    return replace(
        row,
        donor=samples[swap.donors[number]].name,
        swapped_predicted=subject.name_of(int(every.predicted[number])),
        swapped_own_rank=_place(every.own_rank[number]),
        swapped_true_rank=_place(every.true_rank[number]),
        swapped_top=swap.top,
        swapped_top_overlap=_number(every.top_overlap[number]),
        swapped_correlation=_number(every.correlation[number]),
        exchanged=tuple(change.exchanged for change in swap.changes),
        score_change=tuple(_number(change.score_change[number]) for change in swap.changes),
    )


def _place(rank: float | None) -> int | None:
    return None if rank is None or isnan(rank) else int(rank)


def _number(value: float) -> float | None:
    return None if isnan(value) else float(value)
