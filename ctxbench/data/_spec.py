"""What a data set is to the rest of ctxbench: two sequences of images, and a few numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ctxbench.errors import CtxbenchError


class Images(Protocol):
    """Labelled images, each by its index.

    Shape:  an item is an image (C, H, W) in uint8 and its label.
    Raises: BrokenImageError by an item whose file cannot be read.
    """

    def __len__(self) -> int:
        """Return how many images there are."""
        ...

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one image, (C, H, W) in uint8, and its label."""
        ...


@dataclass(frozen=True, slots=True)
class Data:
    """A data set in two parts; `mean` and `std` are of pixels as 0..1, one for each channel."""

    train: Images
    validation: Images
    classes: int
    channels: int
    image_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """What a network is given, (C, H, W)."""
        return self.channels, self.image_px, self.image_px


@dataclass(frozen=True, slots=True)
class DataSource:
    """A data set by name, checked and not yet loaded.

    `spec` is the name and then every option that was given, sorted; the images are the same as long
    as it and what stands in `files` are: the module of the builder, or the user's own file.
    """

    spec: str
    files: tuple[Path, ...]
    load: Callable[[], Data]


class TensorImages:
    """Images that are all in memory.

    Shape:  images (N, C, H, W) in uint8, labels (N,) in int64.
    Raises: ValueError if the two do not fit.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(
                f"images must be uint8 (N, C, H, W), not {images.dtype} {tuple(images.shape)}."
            )
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"labels must be int64 ({len(images)},), one for each image, "
                f"not {labels.dtype} {tuple(labels.shape)}."
            )
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one image, (C, H, W) in uint8, and its label."""
        return self.images[index], int(self.labels[index])


class BrokenImageError(CtxbenchError):
    """An image file that cannot be read; `path` names it."""

    def __init__(self, path: Path | str, reason: str) -> None:
        self.path, self.reason = str(path), reason
        super().__init__(f"{path} cannot be read as an image: {reason}")

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """Pickle what it was made from: it comes from a worker process."""
        return type(self), (self.path, self.reason)
