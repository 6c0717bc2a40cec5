"""What is drawn: a network with its weights, and images as that network sees them."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ctxbench.errors import CtxbenchError
from ctxbench.visualize.preprocess import Preprocess

Array = npt.NDArray[Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Mark:
    """A part of an image that decides its class: place and size in pixels, and what it is."""

    top: float
    left: float
    height: float
    width: float
    name: str

    @property
    def centre(self) -> tuple[float, float]:
        """The place (y, x) of its middle."""
        return self.top + (self.height - 1) / 2, self.left + (self.width - 1) / 2


@dataclass(frozen=True, slots=True)
class Image:
    """An image as it is: upright, (C, H, W) in uint8, C is 1 or 3; `label` is its true class."""

    name: str
    pixels: Tensor
    label: int | None = None
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """An image as a network sees it.

    `shown` is what the network sees before it is normalised, (H, W, 3) in uint8; `x` is what it
    takes, (C, H, W), on the device of the network. `marks` are places in `shown`; there are none if
    a part of the image is cut out.
    """

    name: str
    shown: Array
    x: Tensor
    label: int | None = None
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Subject:
    """A network to be drawn, and how to say which it is.

    `title` is short, for headings; `weights` says where they come from, `trained` is False for
    random ones, which every picture says. `class_names` has one name a class, if they are known,
    `error` is the top-1 error in % after a training of ours.
    """

    spec: str
    title: str
    model: nn.Module
    weights: str
    trained: bool
    preprocess: Preprocess
    class_names: tuple[str, ...] | None = None
    error: float | None = None

    def sample(self, image: Image) -> Sample:
        """Return an image as this network sees it."""
        shown = self.preprocess.frame(image.pixels)
        parameter = next(self.model.parameters(), torch.empty(0))
        return Sample(
            image.name,
            np.ascontiguousarray(shown.expand(3, -1, -1).permute(1, 2, 0).numpy()),
            self.preprocess.normalise(shown).to(parameter),
            image.label,
            self._marks(image, shown),
        )

    def _marks(self, image: Image, shown: Tensor) -> tuple[Mark, ...]:
        before, after = image.pixels.shape[1:], shown.shape[1:]
        if before != after and self.preprocess.resize_px is not None:
            return ()
        y, x = after[0] / before[0], after[1] / before[1]
        return tuple(
            Mark(mark.top * y, mark.left * x, mark.height * y, mark.width * x, mark.name)
            for mark in image.marks
        )

    def name_of(self, index: int) -> str:
        """Return the name of a class, or its number."""
        if self.class_names and index < len(self.class_names):
            return self.class_names[index]
        return f"class {index}"


@dataclass(frozen=True, slots=True)
class Page:
    """One picture: the figure, the numbers it shows, and a row for each thing it says.

    `rows` holds frozen dataclasses of plain values.
    """

    figure: Figure
    arrays: dict[str, Array]
    rows: Sequence[Any] = field(default_factory=tuple)


@contextmanager
def of(subject: Subject) -> Iterator[None]:
    """Put the name of a network in front of what is wrong with it."""
    try:
        yield
    except CtxbenchError as error:
        error.args = (f"{subject.title}: {error}",)
        raise


def batch_of(samples: Sequence[Sample]) -> Tensor:
    """Return the inputs of some samples as one batch (B, C, H, W)."""
    return torch.stack([sample.x for sample in samples])


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of up to `size` items in turn."""
    held: list[T] = []
    for item in items:
        held.append(item)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held
