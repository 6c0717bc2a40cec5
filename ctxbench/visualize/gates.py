"""CGC's gates: what each image multiplies the weights of a convolution by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from torch import Tensor, nn

from ctxbench.ops import CGConv2d
from ctxbench.visualize.inside import called, unwrapped
from ctxbench.visualize.kernels import chosen_layers
from ctxbench.visualize.subject import Array


@dataclass(frozen=True, slots=True)
class Gates:
    """The gates of one layer for some images: (B, O, C / groups, kh, kw) in 0..1, float32."""

    layer: str
    gates: Array


def gates(model: nn.Module, x: Tensor, *, layers: Sequence[str] | None = None) -> list[Gates]:
    """Return the gates that the CGC layers set for some images (B, C, H, W).

    Raises: VisualizeError for a network or a layer without CGC, and for a layer called twice.
    """
    model = unwrapped(model)
    names = chosen_layers(model, layers, ["CGC"])["CGC"]
    found = []
    with called(model, x, names) as calls:
        for name, layer, call in calls:
            (given,) = (*call.inputs, *call.options.values())
            values = cast(CGConv2d, layer).gates(given)
            found.append(Gates(name, values.float().cpu().numpy()))
    return found


@dataclass(frozen=True, slots=True)
class GateSummary:
    """The gates of one layer over any number of images, at the memory of one.

    `first` are those of the first image, `mean` those of all, (O, C / groups, kh, kw); `squares` is
    the sum of the squared differences from `mean`; `within` sums each image's own deviation.
    """

    layer: str
    images: int
    first: Array
    mean: Array
    squares: Array
    within: float

    @classmethod
    def of(cls, found: Gates) -> "GateSummary":
        """Summarise the images of one batch."""
        values = found.gates
        mean = values.mean(0)
        return cls(
            found.layer, len(values), values[0].copy(), mean, ((values - mean) ** 2).sum(0),
            float(values.std((1, 2, 3, 4)).sum()),
        )  # fmt: skip

    def __add__(self, other: "GateSummary") -> "GateSummary":
        """Return the summary of the images of both."""
        images = self.images + other.images
        away = other.mean - self.mean
        mean = self.mean + away * (other.images / images)
        squares = self.squares + other.squares + away**2 * (self.images * other.images / images)
        return GateSummary(
            self.layer, images, self.first, mean, squares, self.within + other.within
        )

    def between(self) -> Array | None:
        """Return the standard deviation of each gate between images, None of one image."""
        return np.sqrt(self.squares / (self.images - 1)) if self.images > 1 else None

    def statistics(self) -> dict[str, float]:
        """Return the mean gate, and how gates differ inside an image and between images.

        Both are standard deviations; that between images is the root of the mean variance of the
        gates, of n - 1, and is missing for one image.
        """
        found = {
            "mean_gate": float(self.mean.mean()),
            "std_within_image": self.within / self.images,
        }
        if self.images > 1:
            found["std_between_images"] = float(self.squares.mean() / (self.images - 1)) ** 0.5
        return found
