"""Class priors: how the ranking of the classes moves by stage, and what another's prior changes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctxbench.errors import VisualizeError
from ctxbench.models import MODELS
from ctxbench.models.contextual import ContextualNetwork, contextual_loss
from ctxbench.ops.class_prior import rank
from ctxbench.visualize.inside import (
    at_rest,
    listening,
    only_call,
    outcome,
    prepared,
    unwrapped,
)
from ctxbench.visualize.subject import Array

ALL = "all stages"


@dataclass(frozen=True, slots=True)
class Ranked:
    """The classes after one stage, for a batch of B images and N classes.

    `scores` (B, N) are in class order, of dropped classes too; `order` (B, k) holds the k classes
    that this stage still ranks, the likeliest first; `probabilities` (B, N) is the softmax over
    them, NaN for dropped ones. `prior_size` is how many of them become the context of the next
    stage, None if it takes none; only `kept` of them does the next stage rank.
    `true_rank` (1 is the first) is None for an image without a label and NaN for a dropped class;
    `within_prior` is the share of the labelled images whose class is among the merged ones.
    """

    name: str
    scores: Array
    order: Array
    probabilities: Array
    prior_size: int | None
    kept: int
    true_rank: tuple[float | None, ...]
    within_prior: float | None


@dataclass(frozen=True, slots=True)
class Priors:
    """The classes after every ranked stage, and the true classes of the images."""

    stages: tuple[Ranked, ...]
    labels: tuple[int | None, ...]

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return int(self.stages[0].scores.shape[1])


@dataclass(frozen=True, slots=True)
class Change:
    """What the last stage says when the context of `exchanged` stages is another image's.

    By image: `predicted`; `own_rank` and `true_rank`, the places that the class predicted with the
    image's own prior and the true class now have (NaN: dropped; None: no label);
    `score_change`, the mean absolute change of the scores over the standard deviation of the
    image's own ones, both over all classes; `top_overlap`, the share of the own top classes that
    still are there; `correlation`, Spearman's of the two rankings, where dropped classes share one
    place behind all others. The two ratios are NaN where all classes are scored, or ranked, alike.
    """

    exchanged: str
    scores: Array
    order: Array
    probabilities: Array
    predicted: Array
    own_rank: Array
    true_rank: tuple[float | None, ...]
    score_change: Array
    top_overlap: Array
    correlation: Array


@dataclass(frozen=True, slots=True)
class Swap:
    """The images with the context vectors of `donors`: of all stages at once, then of each alone.

    `top` is how many classes `top_overlap` looks at.
    """

    own: Priors
    donors: tuple[int, ...]
    top: int
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class PriorsRow:
    """One network and one image: the ranking by stage, and what another image's prior changes.

    Classes are names. Ranks count from 1; None is a dropped class, or an image without a label.
    What is about the swap is None where there is no other image, or no prior.
    """

    picture: str = ""
    model: str = ""
    weights: str = ""
    trained: bool = False
    image: str = ""
    true_class: str | None = None
    stages: tuple[str, ...] = ()
    prior_sizes: tuple[int | None, ...] = ()
    top_classes: tuple[tuple[str, ...], ...] = ()
    true_rank: tuple[int | None, ...] = ()
    predicted: str = ""
    donor: str | None = None
    swapped_predicted: str | None = None
    swapped_own_rank: int | None = None
    swapped_true_rank: int | None = None
    swapped_top: int | None = None
    swapped_top_overlap: float | None = None
    swapped_correlation: float | None = None
    exchanged: tuple[str, ...] = ()
    score_change: tuple[float | None, ...] = ()


def priors(model: nn.Module, x: Tensor, *, labels: Sequence[int | None] | None = None) -> Priors:
    """Return the ranking of the classes after every ranked stage, of images (B, C, H, W).

    The network of class priors may be a part of `model`.
    Raises: VisualizeError for a network without class priors, and labels that do not fit.
    """
    model = unwrapped(model)
    _, network = contextual_part(model)
    labels = _checked_labels(labels, len(x), len(network.classes.weight))
    with at_rest(model):
        found, _ = _run(model, prepared(model, x))
    return _priors(network, found, labels)


def swapped(
    model: nn.Module,
    x: Tensor,
    *,
    donors: Sequence[int] | None = None,
    labels: Sequence[int | None] | None = None,
    top: int = 5,
) -> Swap:
    """Run images (B, C, H, W) again with the context vectors of others, by default the next ones.

    Image b is given what the mergers made of image donors[b] in an undisturbed run; its features
    and the class embeddings stay its own. Contexts are exchanged in all contextual stages at once,
    and in each of them alone.
    Raises: VisualizeError for a network without a prior, donors, labels or `top` that do not fit,
            and a single image without a donor.
    """
    at_least_one_class(top)
    model = unwrapped(model)
    _, network = contextual_part(model)
    if not network.mergers:
        raise VisualizeError(
            f"{type(network).__name__} was built with prior=false or contextual_stages=none: no "
            f"stage takes a prior, so there is none to exchange. Choose a network with one."
        )
    donors = _checked_donors(donors, len(x))
    labels = _checked_labels(labels, len(x), len(network.classes.weight))
    with at_rest(model):
        x = prepared(model, x)
        found, contexts = _run(model, x)
        own = _priors(network, found, labels)
        given = {stage: context[list(donors)] for stage, context in contexts.items()}
        sets = {ALL: given} | {_stage(int(stage)): {stage: given[stage]} for stage in given}
        changes = []
        for exchanged, part in sets.items():
            with _giving(network, part):
                last = _priors(network, _run(model, x)[0], labels).stages[-1]
            changes.append(_change(exchanged, own.stages[-1], last, top=top))
    looked_at = min(top, own.stages[-1].order.shape[1])
    return Swap(own, donors, looked_at, tuple(changes))


def contextual_part(model: nn.Module) -> tuple[str, ContextualNetwork]:
    """Return the network of class priors that `model` is or holds, and its name in there.

    Raises: VisualizeError if there is none, or more than one.
    """
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, ContextualNetwork)
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        known = [name for name, spec in MODELS.items() if spec.loss is contextual_loss]
        raise VisualizeError(
            f"{type(model).__name__} ranks no classes between its stages. Networks with class "
            f"priors: {', '.join(known)}."
        )
    raise VisualizeError(
        f"{type(model).__name__} holds {len(found)} networks with class priors "
        f"({', '.join(name for name, _ in found)}). Give one of them."
    )


def at_least_one_class(top: int) -> None:
    """Raise VisualizeError for a number of top classes that shows none."""
    if top < 1:
        raise VisualizeError(f"top={top} shows no class. Give 1 or more.")


def places(order: Array, classes: Array) -> Array:
    """Return the places (B, m), from 1, of classes (B, m) in `order` (B, k); NaN: not there."""
    same = order[:, None, :] == classes[:, :, None]
    return np.where(same.any(2), same.argmax(2) + 1.0, np.nan)


def _run(model: nn.Module, x: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Return the scores of each ranked stage, and the context of each contextual one."""
    name, network = contextual_part(model)
    inside = f"{name}." if name else ""
    scores = f"{inside}classes"
    contexts = {stage: f"{inside}mergers.{stage}" for stage in network.mergers}
    with torch.no_grad(), listening(model, [scores, *contexts.values()]) as calls:
        outcome(model, x)
    found = [call.output for call in calls[scores]]
    if len(found) != len(network.projections):
        raise VisualizeError(
            f"{type(model).__name__} asks the class embedding {scores!r} {len(found)} times for "
            f"{len(network.projections)} ranked stages. Give the network that is inside it."
        )
    if not all(stage.isfinite().all() for stage in found):
        raise VisualizeError(
            f"{type(network).__name__} gives scores that are not finite, so there is no ranking. "
            f"Look at its weights and at the images."
        )
    return found, {stage: only_call(calls, layer).output for stage, layer in contexts.items()}


@contextmanager
def _giving(network: ContextualNetwork, contexts: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the mergers of some stages return these vectors, whatever they are asked."""

    def hook_for(context: Tensor) -> Any:
        def hook(_: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            return context

        return hook

    handles = []
    try:
        for stage, context in contexts.items():
            merger = network.mergers[stage]
            handles.append(merger.register_forward_hook(hook_for(context)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _priors(
    network: ContextualNetwork, found: Sequence[Tensor], labels: tuple[int | None, ...]
) -> Priors:
    stages = []
    order = torch.arange(found[0].shape[1], device=found[0].device).expand(len(labels), -1)
    for number, scores in enumerate(found, network.first_ranked):
        order = order.gather(1, rank(scores.gather(1, order)))
        size = network.sizes.get(number + 1)
        merged = size if str(number + 1) in network.mergers else None
        left = order if size is None or not network.reduces else order[:, :size]
        stages.append(_ranked(_stage(number), scores, order, merged, left.shape[1], labels))
        order = left
    return Priors(tuple(stages), labels)


def _ranked(
    name: str,
    scores: Tensor,
    order: Tensor,
    merged: int | None,
    kept: int,
    labels: tuple[int | None, ...],
) -> Ranked:
    precise = scores if scores.dtype == torch.float64 else scores.float()
    shares = torch.full_like(precise, torch.nan)
    shares = shares.scatter(1, order, precise.gather(1, order).softmax(1))
    ordered = order.cpu().numpy()
    ranks = _true_ranks(ordered, labels)
    known = [place for place in ranks if place is not None]
    within = None
    if known and merged is not None:
        within = sum(place <= merged for place in known) / len(known)  # NaN is not
    return Ranked(
        name, precise.cpu().numpy(), ordered, shares.cpu().numpy(), merged, kept, ranks, within
    )


def _true_ranks(order: Array, labels: Sequence[int | None]) -> tuple[float | None, ...]:
    asked = np.array([[-1 if label is None else label] for label in labels])
    found = places(order, asked)[:, 0]
    return tuple(
        None if label is None else float(place) for label, place in zip(labels, found, strict=True)
    )


def _change(exchanged: str, own: Ranked, last: Ranked, *, top: int) -> Change:
    top = min(top, own.order.shape[1])
    now = places(last.order, own.order[:, :top])
    with np.errstate(invalid="ignore"):  # all scores alike: 0 / 0
        moved = np.abs(last.scores - own.scores).mean(1) / own.scores.std(1)
    pairs = zip(_all_places(own), _all_places(last), strict=True)
    return Change(
        exchanged,
        last.scores,
        last.order,
        last.probabilities,
        predicted=last.order[:, 0],
        own_rank=now[:, 0],
        true_rank=last.true_rank,
        score_change=moved,
        top_overlap=(now <= top).mean(1),
        correlation=np.array([_correlation(*pair) for pair in pairs]),
    )


def _all_places(stage: Ranked) -> Array:
    """Return the place of every class (B, N); dropped ones share the mean of those behind."""
    classes, left = stage.scores.shape[1], stage.order.shape[1]
    found = np.full(stage.scores.shape, (left + 1 + classes) / 2)
    np.put_along_axis(found, stage.order, np.arange(1.0, left + 1)[None], axis=1)
    return found


def _correlation(first: Array, second: Array) -> float:
    first, second = first - first.mean(), second - second.mean()
    spread = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / spread if spread else float("nan")


def _stage(number: int) -> str:
    return f"stage {number + 1}"


def _checked_labels(
    labels: Sequence[int | None] | None, images: int, classes: int
) -> tuple[int | None, ...]:
    labels = (None,) * images if labels is None else tuple(labels)
    if len(labels) != images:
        raise VisualizeError(f"{len(labels)} labels do not fit {images} images. Give one an image.")
    for label in labels:
        if label is not None and not 0 <= label < classes:
            raise VisualizeError(
                f"Label {label} is none of the network's {classes} classes. Give 0 to "
                f"{classes - 1}, or none."
            )
    return labels


def _checked_donors(donors: Sequence[int] | None, images: int) -> tuple[int, ...]:
    if donors is None and images == 1:
        raise VisualizeError(
            "One image alone has no other's prior to be given. Give a second image."
        )
    donors = [(b + 1) % images for b in range(images)] if donors is None else donors
    if len(donors) != images or not all(0 <= donor < images for donor in donors):
        raise VisualizeError(
            f"donors={tuple(donors)} does not fit {images} images. Give each the index of one, "
            f"0 to {images - 1}."
        )
    return tuple(donors)
