"""Whether a network looks at what decides the class: the share of its attention within the cue.

For images that tell where object and cue stand. Attention is what each of these says, as a map over
the image: the gradient of the true class, its Grad-CAM, the places that a displaced convolution
samples from the object's position, the kernel that ContMix makes there.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import floor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ctxbench.errors import VisualizeError
from ctxbench.ops import ContMix
from ctxbench.visualize.dynamic_kernels import DynamicKernels, cell_at, dynamic_kernels, spread
from ctxbench.visualize.gradcam import gradcam, upsampled
from ctxbench.visualize.inside import (
    at_rest,
    layers_of_type,
    outcome,
    prepared,
    scores_of,
    unwrapped,
)
from ctxbench.visualize.offsets import LayerSampling, sampled_layers, sampling
from ctxbench.visualize.subject import Array, Image, Mark, Sample, Subject, batch_of, chunks

_BATCH = 64
_AROUND = 4  # pixels shown beyond the cue
Place = tuple[float, float]


@dataclass(frozen=True, slots=True)
class CuesRow:
    """How much of the attention falls within a part of the image that decides the class, in %.

    Means over the images that have any: a Grad-CAM may hold nothing. `shuffled_percent` is that of
    the same attention in another image, at the same places; `plain_percent` that of the regular
    grid, or of an even kernel, at the object's position; `area_percent` the part's share of the
    image's area.
    """

    model: str
    weights: str
    trained: bool
    measure: str
    layer: str | None
    part: str
    images: int
    share_percent: float | None
    shuffled_percent: float | None
    plain_percent: float | None
    area_percent: float
    picture: str = ""


class Look(NamedTuple):
    """Attention in a batch of images: `at` takes a place for each and returns maps (B, H, W).

    `plain` is what it would be without looking, where there is such a thing.
    """

    measure: str
    layer: str | None
    at: Callable[[Sequence[Place]], Array]
    plain: Callable[[Sequence[Place]], Array] | None = None


@dataclass(slots=True)
class Found:
    """The attention of one measure over many images.

    `around` is the sum of the maps around the object, `inside` how often each pixel was in the
    image. `marks` are those of the first image.
    """

    measure: str
    layer: str | None
    marks: tuple[Mark, ...] = ()
    images: int = 0
    shares: dict[str, list[float]] = field(default_factory=dict)
    around: Array | float = 0.0
    inside: Array | float = 0.0

    @property
    def mean(self) -> Array:
        """The mean of the maps around the object, as shares, where there was image."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.around / self.inside)


def looks_of(subject: Subject, samples: Sequence[Sample]) -> Iterator[Look]:
    """Yield every kind of attention that the network has in some images."""
    model, x = unwrapped(subject.model), batch_of(samples)
    labels = [_label(sample) for sample in samples]
    size = (x.shape[2], x.shape[3])
    yield Look("gradient", None, _constant(gradients(subject, x, labels)))
    cams = gradcam(model, x, classes=labels)
    yield Look("Grad-CAM", cams.layer, _constant(upsampled(cams.maps, size)))
    for layer in sampling(model, x) if sampled_layers(model) else ():
        yield Look("samples", layer.layer, _sampled(layer), _sampled(layer.undisplaced()))
    for kernels in dynamic_kernels(model, x) if layers_of_type(model, ContMix) else ():
        small, large = (np.full_like(k, 1 / k.shape[-3]) for k in (kernels.small, kernels.large))
        even = replace(kernels, small=small, large=large)
        yield Look("dynamic kernel", kernels.layer, _mixed(kernels), _mixed(even))


def gradients(subject: Subject, x: Tensor, labels: Sequence[int]) -> Array:
    """Return the squared gradient of the scores of some classes, (B, H, W), over the colours."""
    model = unwrapped(subject.model)
    with at_rest(model):
        x = prepared(model, x).detach().clone().requires_grad_()
        scores = scores_of(outcome(model, x))
        _check_labels(labels, scores.shape[1])
        chosen = torch.tensor(labels, device=x.device)[:, None]
        (gradient,) = torch.autograd.grad(scores.gather(1, chosen).sum(), x)
    squared: Array = gradient.float().square().sum(1).cpu().numpy()
    return squared


def attend(subject: Subject, images: Iterable[Image]) -> list[Found]:
    """Measure every kind of attention of a network over many images, a batch at a time.

    Raises: VisualizeError for images that do not tell where object and cue stand, or one alone.
    """
    found: dict[tuple[str, str | None], Found] = {}
    for batch in _batches(images):
        samples = [subject.sample(image) for image in batch]
        if len(samples) == 1:
            raise VisualizeError("Attention is compared between images. Give two or more.")
        for look in looks_of(subject, samples):
            first = Found(look.measure, look.layer, samples[0].marks)
            _add(found.setdefault((look.measure, look.layer), first), look, samples)
    if not found:
        raise VisualizeError("Attention is compared between images. Give two or more.")
    return list(found.values())


def _batches(images: Iterable[Image]) -> Iterator[list[Image]]:
    """Yield batches; an image left over joins the last: it needs another to be compared with."""
    held: list[Image] = []
    for batch in chunks(images, _BATCH):
        if held and len(batch) > 1:
            yield held
            held = []
        held += batch
    if held:
        yield held


def _add(found: Found, look: Look, samples: Sequence[Sample]) -> None:
    """Add the attention in a batch; each image is compared with the one after it."""
    objects = [_marks(sample)[0].centre for sample in samples]
    own = look.at(objects)
    # image i + 1, asked at the places of image i, is the control of image i
    others = np.roll(look.at([*objects[-1:], *objects[:-1]]), -1, axis=0)
    maps = {"share": own, "shuffled": others}
    if look.plain is not None:
        maps["plain"] = look.plain(objects)
    for name, attention in maps.items():
        for sample, single in zip(samples, attention, strict=True):
            for mark in _marks(sample):
                key = f"{mark.name.split()[0]} {name}"
                found.shares.setdefault(key, []).append(within(single, mark))
    centred = np.stack(
        [around(single, *_marks(sample)[:2]) for single, sample in zip(own, samples, strict=True)]
    )
    found.around = found.around + np.nan_to_num(centred).sum(0)
    found.inside = found.inside + np.isfinite(centred).sum(0)
    found.images += len(samples)


def rows_of(subject: Subject, found: Found, marks: Sequence[Mark], size: Place) -> list[CuesRow]:
    """Return a row for each part that decides the class."""
    rows = []
    for mark in marks:
        part = mark.name.split()[0]
        means = {
            name: _mean(found.shares.get(f"{part} {name}", []))
            for name in ("share", "shuffled", "plain")
        }
        rows.append(
            CuesRow(
                model=subject.spec, weights=subject.weights, trained=subject.trained,
                measure=found.measure, layer=found.layer, part=part,
                images=found.images, share_percent=means["share"],
                shuffled_percent=means["shuffled"],
                plain_percent=means["plain"],
                area_percent=100 * mark.height * mark.width / (size[0] * size[1]),
            )
        )  # fmt: skip
    return rows


def _mean(shares: Sequence[float]) -> float | None:
    """Return the mean of the shares there are, in %."""
    there = [share for share in shares if not np.isnan(share)]
    return 100 * float(np.mean(there)) if there else None


def within(attention: Array, mark: Mark) -> float:
    """Return the share of a map (H, W) that falls within a part; NaN for an empty map."""
    rows, columns = (
        # of each pixel, how much of it: a part of a resized image may end within one
        np.clip(np.minimum(np.arange(size) + 1, start + side) - np.maximum(np.arange(size), start),
                0, 1)
        for size, start, side in zip(
            attention.shape, (mark.top, mark.left), (mark.height, mark.width), strict=True
        )
    )  # fmt: skip
    total = float(attention.sum(dtype=np.float64))
    part = float(rows @ attention.astype(np.float64) @ columns)
    return part / total if total > 0 else float("nan")


def around(attention: Array, thing: Mark, cue: Mark) -> Array:
    """Return a map as shares, cut out around an object and turned so that its cue is at the right.

    What is beyond the border of the image is NaN.
    """
    (y, x), (cue_y, cue_x) = thing.centre, cue.centre
    down, right = cue_y - y, cue_x - x
    reach = round(max(abs(down), abs(right))) + _AROUND
    total = attention.sum(dtype=np.float64)
    shares = np.pad(attention / (total or 1), reach, constant_values=np.nan)
    # an object of an even number of pixels has its centre between two
    side = 2 * reach + round(thing.height) % 2
    top, left = (floor(at + reach - (side - 1) / 2 + 0.5) for at in (y, x))
    cut = shares[top : top + side, left : left + side]
    if abs(right) >= abs(down):
        return cut if right >= 0 else np.rot90(cut, 2)
    return np.rot90(cut, 1 if down > 0 else -1)


def raster(points_P2: Array, weight_P: Array, side_px: Place, size: tuple[int, int]) -> Array:
    """Return the map (H, W) of points (y, x) that each cover a rectangle of `side_px`."""
    covers = []
    for axis, pixels in enumerate(size):
        pixel, half = np.arange(pixels), side_px[axis] / 2
        at = points_P2[:, axis, None]
        low, high = np.maximum(at - half, pixel - 0.5), np.minimum(at + half, pixel + 0.5)
        covers.append(np.maximum(high - low, 0) / side_px[axis])
    painted: Array = np.einsum("p,ph,pw->hw", weight_P, *covers)
    return painted


def _sampled(layer: LayerSampling) -> Callable[[Sequence[Place]], Array]:
    """Return what a layer samples for the output positions nearest to some places."""

    def at(places: Sequence[Place]) -> Array:
        maps = []
        for image, place in enumerate(places):
            y, x = layer.nearest(place)
            points = layer.grid.to_image(layer.places[image, :, :, y, x].reshape(-1, 2))
            weight = layer.mask[image, :, :, y, x].reshape(-1)
            maps.append(raster(points, weight, layer.grid.step_px, layer.image_size))
        return np.stack(maps)

    return at


def _mixed(kernels: DynamicKernels) -> Callable[[Sequence[Place]], Array]:
    """Return what the kernels at some places mix, the mean over both sizes and all groups."""
    size, cells = kernels.image_size, kernels.map_size
    side = (size[0] / cells[0], size[1] / cells[1])
    rows, columns = ((np.arange(n) + 0.5) * s - 0.5 for n, s in zip(cells, side, strict=True))
    points = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)

    def at(places: Sequence[Place]) -> Array:
        maps = []
        for image, place in enumerate(places):
            cell = cell_at(place, size, cells)
            read = sum(spread(k[image], cell).mean(0) for k in (kernels.small, kernels.large))
            maps.append(raster(points, np.asarray(read).reshape(-1), side, size))
        return np.stack(maps)

    return at


def _constant(maps: Array) -> Callable[[Sequence[Place]], Array]:
    return lambda places: maps


def _label(sample: Sample) -> int:
    _marks(sample)
    if sample.label is None:
        raise VisualizeError(f"{sample.name} has no class, so nothing decides it.")
    return sample.label


def _check_labels(labels: Sequence[int], classes: int) -> None:
    for label in labels:
        if not 0 <= label < classes:
            raise VisualizeError(
                f"The images have class {label}, and the network's classes are 0 to {classes - 1}. "
                f"Choose a network of these classes: num_classes=..."
            )


def _marks(sample: Sample) -> tuple[Mark, ...]:
    if len(sample.marks) < 2:
        height, width = sample.shown.shape[:2]
        raise VisualizeError(
            f"{sample.name} does not tell where object and cue stand, as the network sees it "
            f"({height}x{width} px). Draw images of --data context:..., or a run that was trained "
            f"on them, whole."
        )
    return sample.marks
