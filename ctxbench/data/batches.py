"""Batches by their number: a batch is a function of (seed, epoch, step) and of nothing else.

A position in an epoch is a number, and a run that goes on from it sees the very same batches.
"""

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ctxbench.data._keys import key, keys
from ctxbench.data._spec import BrokenImageError, Images, TensorImages
from ctxbench.data.augment import Mixing, Transform, seeded_apart
from ctxbench.errors import CtxbenchError, DataError

# what a random number is for, within an epoch
_ORDER, _IMAGES, _MIXING = range(3)


class Batch(NamedTuple):
    """Images (B, C, H, W) and their labels (B,), or shares (B, classes) after mixing.

    `broken` names the files that are missing from it, `seconds` is what it took to make.
    """

    images: Tensor
    target: Tensor
    broken: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Reading:
    """How images become batches.

    `batch` counts the images of all `world` processes together; this one is number `rank`.
    `workers` are processes that make batches ahead; with 0 each is made when it is asked for.
    `strict`: a broken image is an error instead of being left out.
    Raises: ValueError naming the field and its value.
    """

    batch: int
    seed: int = 0
    workers: int = 0
    rank: int = 0
    world: int = 1
    strict: bool = False

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("workers", 0), ("world", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} is not {least} or more.")
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank={self.rank} is not from 0 to {self.world - 1}.")


def steps(images: Images, batch: int) -> int:
    """Return how many full batches an epoch has."""
    if batch > len(images):
        raise DataError(
            f"A batch of {batch} is more than the {len(images)} training images. Take fewer: "
            f"batch={len(images)} or less in [recipe]."
        )
    return len(images) // batch


def training_batches(
    images: Images,
    reading: Reading,
    transform: Transform,
    mix: Mixing | None,
    *,
    epoch: int,
    start: int = 0,
) -> Iterator[Batch]:
    """Yield the batches of an epoch from number `start` on, all of one size.

    Each image comes once an epoch, but for those that do not fill the last batch. Over all ranks
    together the images are the same whatever `world` is; mixing pairs those of one rank.
    Raises: DataError if a batch is more than the data, or cannot be shared evenly.
    """
    count = steps(images, reading.batch)
    if reading.batch % reading.world:  # their mean would weigh some images more than others
        raise DataError(
            f"A batch of {reading.batch} cannot be shared evenly by {reading.world} processes. "
            f"Take a multiple of {reading.world}."
        )
    generator = torch.Generator().manual_seed(key(reading.seed, epoch, _ORDER))
    order = torch.randperm(len(images), generator=generator)[: count * reading.batch]
    batches = _Batches(
        images=images,
        transform=transform,
        mix=mix,
        order=order[reading.rank :: reading.world],
        size=reading.batch // reading.world,
        seed=reading.seed,
        epoch=epoch,
        strict=reading.strict,
    )
    return _filled(_read(batches, range(start, count), reading.workers))


def evaluation_batches(images: Images, reading: Reading, transform: Transform) -> Iterator[Batch]:
    """Yield every image exactly once over all ranks, in order; the last batch may be smaller."""
    batches = _Batches(
        images=images,
        transform=transform,
        mix=None,
        order=torch.arange(reading.rank, len(images), reading.world),
        size=-(-reading.batch // reading.world),
        seed=reading.seed,
        epoch=0,
        strict=reading.strict,
    )
    count = -(-len(batches.order) // batches.size)
    return _joined(_read(batches, range(count), reading.workers))


@dataclass(frozen=True, slots=True, eq=False)
class _Batches(Dataset["Batch | CtxbenchError"]):
    """A data set whose items are whole batches, so that the sampler counts steps."""

    images: Images
    transform: Transform
    mix: Mixing | None
    order: Tensor  # the indices of this rank's images
    size: int
    seed: int
    epoch: int
    strict: bool

    def __getitem__(self, step: int) -> "Batch | CtxbenchError":
        began = time.perf_counter()
        try:
            images, target, broken = self._made(step)
        except (
            CtxbenchError
        ) as error:  # a worker's exception would arrive with its traceback as text
            return error
        return Batch(images, target, broken, time.perf_counter() - began)

    def _made(self, step: int) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        indices = self.order[step * self.size : (step + 1) * self.size]
        raw, target, indices, broken = self._found(indices)
        if not len(target):
            return torch.empty(0), target, broken
        base = key(self.seed, self.epoch, _IMAGES)
        x = self.transform.batch(raw, keys(base, indices))
        if self.mix is not None:
            with seeded_apart() as generator:
                generator.manual_seed(key(self.seed, self.epoch, _MIXING, step))
                x, target = self.mix(x, target)
        return x, target, broken

    def _found(
        self, indices: Tensor
    ) -> tuple[Tensor | list[Tensor], Tensor, Tensor, tuple[str, ...]]:
        """Return images, labels and indices of those that can be read, and the other's names."""
        if isinstance(self.images, TensorImages):
            return self.images.images[indices], self.images.labels[indices], indices, ()
        found, broken = [], []
        for index in indices.tolist():
            try:
                image, label = self.images[index]
            except BrokenImageError as error:
                if self.strict:
                    raise
                broken.append(error.path)
            else:
                found.append((image, label, index))
        labels, left = ([item[place] for item in found] for place in (1, 2))
        return (
            [item[0] for item in found],
            torch.tensor(labels, dtype=torch.int64),
            torch.tensor(left, dtype=torch.int64),
            tuple(broken),
        )


def _read(batches: _Batches, numbers: range, workers: int) -> Iterator[Batch]:
    with warnings.catch_warnings():
        # the user's number of workers may be more than the cores: they wait for the disk
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        # Python 3.12 on: torch has threads, which its workers do not use
        warnings.filterwarnings("ignore", ".*use of fork", DeprecationWarning)
        loader: DataLoader[Batch | CtxbenchError] = DataLoader(
            batches,
            batch_size=None,
            sampler=numbers,
            num_workers=workers,
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # or it draws a number from the global one
        )
        made = iter(loader)
    try:
        for batch in made:
            if isinstance(batch, CtxbenchError):
                raise batch
            yield batch
    finally:
        # ends the workers now; left to the traceback of an error, they go after 5 seconds each
        del made


def _as_it_is(batch: Any) -> Any:
    return batch


def _filled(batches: Iterator[Batch]) -> Iterator[Batch]:
    for batch in batches:
        if not len(batch.target):
            raise _nothing_left(batch)
        yield batch


def _joined(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield batches; one with nothing left, as a small last one may be, is told with another."""
    held: Batch | None = None
    for batch in batches:
        if held is None:
            held = batch
        elif len(held.target) and len(batch.target):
            yield held
            held = batch
        else:
            full = held if len(held.target) else batch
            held = full._replace(
                broken=held.broken + batch.broken, seconds=held.seconds + batch.seconds
            )
    if held is not None:
        if not len(held.target):
            raise _nothing_left(held)
        yield held


def _nothing_left(batch: Batch) -> DataError:
    return DataError(
        f"None of the {len(batch.broken)} images of a batch can be read, the first is "
        f"{batch.broken[0]}. Look whether the folder is still there."
    )
