"""A trial: what it is, how it runs, how far it is, and how it ends early."""

from dataclasses import dataclass

from ctxbench.ablate.recipe import Recipe
from ctxbench.data.augment import Augmentation
from ctxbench.errors import CtxbenchError

OUT_OF_MEMORY = "out of memory"  # what the reason of such a trial begins with


class TrialError(CtxbenchError):
    """A trial that cannot go on; its row says why."""


class InterruptedTrial(CtxbenchError):  # noqa: N818 - nothing is wrong: it was asked to stop
    """A trial that was asked to stop, and has saved where it is."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What decides the result of a training, by name; `id` is the hash of all of it."""

    id: str
    model: str
    data: str
    recipe: Recipe
    augmentation: Augmentation
    seed: int


@dataclass(frozen=True, slots=True)
class Run:
    """How and where trials run, which is no part of what they are."""

    device: str = "auto"
    threads: int = 1
    workers: int = 0
    download: bool = False
    strict: bool = False
    checkpoint_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a trial is; `steps` are all of its steps, None where minutes are its budget."""

    epoch: int
    epochs: int
    step: int
    steps: int | None
    loss: float | None
    top1_error: float | None
    images_s: float | None
