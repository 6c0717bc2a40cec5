"""The effective receptive field: how the influence on an output is spread over the pixels."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ctxbench.errors import VisualizeError
from ctxbench.visualize.field import Field, Output, field_of, output_of
from ctxbench.visualize.inside import at_rest, prepared, target_layer, unwrapped
from ctxbench.visualize.subject import Array

ROUNDING = 1e-9  # of sums of float64 over the pixels of an image


@dataclass(frozen=True, slots=True)
class Erf:
    """The influence of each pixel on one output, by image.

    `energies` (B, H, W) sum to 1 for each image, or are NaN where no pixel has a gradient.
    `position` (row, column) is that in the map of the layer, of `map_size`; class scores have none.
    `field` is what the output can depend on, `centre` (row, column) the pixel it stands at, in
    steps of a half.
    """

    layer: str
    energies: Array
    position: tuple[int, int] | None
    map_size: tuple[int, int] | None
    field: Field
    centre: tuple[float, float]


def erf(
    model: nn.Module,
    x: Tensor,
    *,
    layer: str | None = None,
    position: tuple[int, int] | None = None,
    probes: int = 4,
    seed: int = 0,
    like: Erf | None = None,
    start: int = 0,
) -> Erf:
    """Return the effective receptive field of a position of a layer's map, at some images.

    The energy of a pixel is the sum, over its colours and over the channels of the output, of the
    squared derivative of the channel with respect to it; divided by the sum over all pixels, so
    that the scale of the output does not matter. Channels are not added up before: their signs
    would cancel, and behind a norm over the channels the sum is constant and has no gradient.

    One backward pass gives the sum over channels that random signs multiply; its square is, on
    average over the signs, the sum of squares (Hutchinson). `probes` passes are averaged. With
    as many probes as channels or more, each channel has its own pass, and the energy is exact.
    Signs come from `seed` and the number of the image, which counts from `start`: how images are
    cut into batches changes nothing.

    `layer` is the last map without a name, or "output": the class scores. `position` is the centre
    of the map if it is not given. `like` is an earlier result of the same network, whose layer,
    position, field and centre are taken over. The field is measured at the first image.

    The centre is the middle of the theoretical field, along each axis on which the field, or else
    that of the first and of the last position, ends inside the image. A field that ends nowhere has
    no middle. Networks align positions in one of two ways: with kernels padded by half, position n
    is at stride * n; cut into patches, it is in the middle of the n-th. Half a stride lies between
    them: the one is taken on whose both sides, as far as both reach, the energy is more alike. If
    no whole stride makes that map of that image, it is the median of the energy. The centre of
    class scores is the middle of the image.

    Raises: VisualizeError, UnknownNameError for a layer or a position that does not fit.
    """
    model = unwrapped(model)
    with at_rest(model):
        x = prepared(model, x).detach().clone().requires_grad_()
        if like is not None:
            _check_like(like, x)
            layer, position = like.layer, like.position
        layer = layer or target_layer(model, x)
        output = output_of(model, x, layer, position)
        signs = _signs(output.channels, probes, seed, start)
        energy = _energies(output.channels, x, signs).cpu().numpy()
    position, map_size = output.position, output.map_size
    if like is not None:
        return Erf(layer, energy, position, map_size, like.field, like.centre)
    field = field_of(model, x[:1], layer, position)
    centre = _centre(model, x[:1], layer, energy, field, output)
    return Erf(layer, energy, position, map_size, field, centre)


def _check_like(like: Erf, x: Tensor) -> None:
    before, now = like.energies.shape[1:], tuple(x.shape[2:])
    if before != now:
        raise VisualizeError(
            f"Effective fields are compared at one size of images; got {now[0]}x{now[1]} px after "
            f"{before[0]}x{before[1]} px."
        )


def _signs(chosen: Tensor, probes: int, seed: int, start: int) -> Tensor:
    """Return the upstream vectors, (probes, B, C)."""
    images, channels = chosen.shape
    if probes < 1:
        raise VisualizeError(f"An effective field takes at least one probe; got probes={probes}.")
    if probes >= channels:
        return torch.eye(channels).to(chosen)[:, None].expand(-1, images, -1)
    drawn = [
        torch.randint(
            2, (probes, channels),
            generator=torch.Generator().manual_seed(1_000_003 * seed + start + index),
        )
        for index in range(images)
    ]  # fmt: skip
    return (2 * torch.stack(drawn, dim=1) - 1).to(chosen)


def _energies(chosen: Tensor, x: Tensor, signs: Tensor) -> Tensor:
    """Return the energy of each pixel, (B, H, W) in float64, each image's divided by its sum."""
    energy = x.new_zeros((len(x), *x.shape[2:]), dtype=torch.float64)
    for upstream in signs if chosen.requires_grad else ():
        (slope,) = torch.autograd.grad(chosen, x, upstream, retain_graph=True, allow_unused=True)
        if slope is not None:
            energy += slope.double().square().sum(1)
    if not energy.isfinite().all():
        raise VisualizeError(
            f"The gradients of the network are no finite numbers in {x.dtype}, so they have no "
            f"energy. Take a wider kind of number."
        )
    return energy / energy.sum((1, 2), keepdim=True)


def _centre(
    model: nn.Module, x: Tensor, layer: str, energy_BHW: Array, field: Field, output: Output
) -> tuple[float, float]:
    height, width = energy_BHW.shape[1:]
    if output.position is None or output.map_size is None:
        return (height - 1) / 2, (width - 1) / 2
    rows, columns = output.map_size
    first, last = field, field
    if min(field.top, field.left) == 0 or field.bottom == height - 1 or field.right == width - 1:
        first = field_of(model, x, layer, (0, 0))
        last = field_of(model, x, layer, (rows - 1, columns - 1))
    mean_HW, (row, column) = _mean(energy_BHW), output.position
    vertical, horizontal = _Axis(mean_HW.sum(1), row, rows), _Axis(mean_HW.sum(0), column, columns)
    return (
        vertical.middle(field.top, field.bottom, first.bottom, last.top),
        horizontal.middle(field.left, field.right, first.right, last.left),
    )


def _mean(energy_BHW: Array) -> Array:
    """Return the mean over the images that have a gradient, or nothing anywhere."""
    alive = energy_BHW[~np.isnan(energy_BHW).any((1, 2))]
    return alive.mean(0) if len(alive) else np.zeros(energy_BHW.shape[1:])


@dataclass(frozen=True, slots=True)
class _Axis:
    """The energy of each row of pixels, or each column, and which place of how many it is of."""

    energy: Array
    place: int
    places: int

    def middle(self, start: int, end: int, first_end: int, last_start: int) -> float:
        """Return the pixel of the place, in steps of a half, from the ends of fields.

        `start` and `end` are those of the place itself, the others of the first and last place.
        """
        border = len(self.energy) - 1
        stride = self._stride()
        if start > 0 and end < border:
            return (start + end) / 2
        if stride and first_end < border and last_start > 0:
            between = stride * (self.place - (self.places - 1) / 2)
            return (first_end + last_start) / 2 + between
        if self.energy.sum() == 0:
            return (start + end) / 2
        if stride is None:
            return round(2 * float(np.interp(0.5, self._held(), self._edges()))) / 2
        padded, patches = float(stride * self.place), stride * (self.place + 0.5) - 0.5
        if stride * (self.place + 1) > len(self.energy):
            return padded  # no patch is cut across the border
        # equal ones differ by rounding
        return patches if self._leaning(patches) < self._leaning(padded) - ROUNDING else padded

    def _stride(self) -> int | None:
        """Return the pixels from place to place: what divides the size, or halvings, rounded up."""
        size = len(self.energy)
        halvings = [1 << times for times in range(size.bit_length() + 1)]
        for stride in halvings:
            if -(-size // stride) == self.places > 1:
                return stride
        return None if size % self.places else size // self.places

    def _held(self) -> Array:
        """Return the share of the energy before each edge of a pixel, and behind the last."""
        held: Array = np.concatenate([[0.0], np.cumsum(self.energy)]) / self.energy.sum()
        return held

    def _edges(self) -> Array:
        return np.arange(len(self.energy) + 1) - 0.5

    def _leaning(self, centre: float) -> float:
        """Return by how much one side of a place has more energy, as a share, as far as both go."""
        reach = min(centre, len(self.energy) - 1 - centre) + 0.5
        places = [centre - reach, centre, centre + reach]
        low, middle, high = np.interp(places, self._edges(), self._held())
        return abs(float(high + low - 2 * middle)) / max(float(high - low), ROUNDING)
