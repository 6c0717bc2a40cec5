"""Does a map say what the network looks at? Deletion and insertion, beside a random order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ctxbench.visualize.inside import (
    at_rest,
    is_detection,
    outcome,
    prepared,
    probabilities_of,
    unwrapped,
)
from ctxbench.visualize.subject import chunks

Array = npt.NDArray[np.float32]

_TOGETHER = 16  # images a pass, whatever the batch
_PATCHES = 8  # of the random order, along each side
_SIGMA = 5 / 224  # of the blur, as a share of the side; it is cut off at one sigma, as the paper's


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """Curves of the class's probability over the share of pixels that are replaced, or restored.

    `shares` (S) goes from 0 to 1. Each curve (B, S) has its area between 0 and 1: a good map has a
    small one under deletion and a large one under insertion. The areas of `random_...` are those
    of an order that knows nothing. All is NaN for a network that returns boxes.
    """

    shares: Array
    deletion: Array
    insertion: Array
    random_deletion: Array
    random_insertion: Array

    def areas(self) -> dict[str, Array]:
        """Return the area under each curve (B), by the trapezoidal rule."""
        curves = {
            "deletion": self.deletion,
            "insertion": self.insertion,
            "random_deletion": self.random_deletion,
            "random_insertion": self.random_insertion,
        }
        widths = np.diff(self.shares)
        return {
            name: np.asarray(((y[:, 1:] + y[:, :-1]) / 2) @ widths, np.float32)
            for name, y in curves.items()
        }


def faithfulness(
    model: nn.Module,
    x: Tensor,
    maps_BHW: Array,
    classes: Sequence[int],
    *,
    steps: int = 16,
    seed: int = 0,
) -> Faithfulness:
    """Return how the probability of a class follows a map at the size of the images `x`.

    Deletion replaces the pixels of the highest values by 0, the mean colour of a normalised image,
    1 / steps of all at a time. Insertion begins with the image blurred by a Gaussian (5 px within
    11 px at a side of 224, in proportion at others), and restores its pixels in the same order.
    The random order is one of 8x8 patches, the same for all images of a seed; it also decides
    between equal values.

    Cost:   4 * steps - 1 passes of the network for each image.
    Source: Petsiuk et al., RISE (arXiv:1806.07421), section 4.2; the random order is ours.
    """
    model = unwrapped(model)
    with at_rest(model), torch.no_grad():
        x = prepared(model, x)
        order_N = _random_order(x.shape[2], x.shape[3], seed)
        counts = _counts(len(order_N), steps)
        shares = (np.array(counts) / len(order_N)).astype(np.float32)
        curves = np.full((4, len(x), len(counts)), np.nan, np.float32)
        for i, index in enumerate(classes):
            ranks = [_ranks(_by_value(maps_BHW[i], order_N)), _ranks(order_N)]
            found = _curves(model, x[i], ranks, counts, index)
            if found is None:
                break
            curves[:, i] = found
    return Faithfulness(shares, *curves)


def _counts(pixels: int, steps: int) -> list[int]:
    return [round(step * pixels / steps) for step in range(steps + 1)]


def _random_order(height: int, width: int, seed: int) -> npt.NDArray[np.int64]:
    """Return the pixels (H * W) in the order of shuffled patches."""
    random = np.random.default_rng(seed)
    place_PP = random.permutation(_PATCHES**2).reshape(_PATCHES, _PATCHES)
    rows, columns = (np.arange(side) * _PATCHES // side for side in (height, width))
    patch_HW = place_PP[rows[:, None], columns[None]]
    # within a patch by chance, too: neighbours in a row would be a pattern
    return np.lexsort((random.permutation(height * width), patch_HW.ravel()))


def _by_value(map_HW: Array, order_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the pixels by falling value; equal ones, as where a map is 0, in the given order."""
    falling: npt.NDArray[np.int64] = order_N[np.argsort(-map_HW.ravel()[order_N], kind="stable")]
    return falling


def _ranks(order_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the place in the order of each pixel."""
    ranks = np.empty_like(order_N)
    ranks[order_N] = np.arange(len(order_N))
    return ranks


def _curves(
    model: nn.Module, x: Tensor, ranks: Sequence[Any], counts: Sequence[int], index: int
) -> Any:
    """Return the curves (4, steps + 1) of an image (C, H, W); None where there are only boxes."""
    blurred = _blurred(x)
    rank_HW = [torch.from_numpy(rank).to(x.device).view(x.shape[1:]) for rank in ranks]
    starts = (x, torch.zeros_like(x)), (blurred, x)  # deletion, insertion: from, to
    middle = counts[1:-1]

    def images() -> Iterator[Tensor]:
        yield from (x, torch.zeros_like(x), blurred)
        for rank, (before, after), count in product(rank_HW, starts, middle):
            yield torch.where(rank < count, after, before)

    found = []
    for several in chunks(images(), _TOGETHER):
        output = outcome(model, torch.stack(several))
        if is_detection(output):
            return None
        found.append(probabilities_of(output)[:, index].cpu())
    values = torch.cat(found).numpy()
    whole, nothing, blurry = values[:3]
    steps = values[3:].reshape(4, len(middle))
    ends = [(whole, nothing), (blurry, whole)] * 2
    return [[first, *between, last] for (first, last), between in zip(ends, steps, strict=True)]


def _blurred(x: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional as v2

    sigma = _SIGMA * min(x.shape[1:])
    kernel = 2 * max(1, round(sigma)) + 1
    blurred: Tensor = v2.gaussian_blur(x, [kernel, kernel], [sigma, sigma])
    return blurred
