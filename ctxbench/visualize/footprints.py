"""CoConv's footprint: where the taps of each level stand, and where the weights are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from torch import nn

from ctxbench.ops import CoConv2d
from ctxbench.visualize.inside import layer_of, unwrapped
from ctxbench.visualize.kernels import chosen_layers
from ctxbench.visualize.subject import Array


@dataclass(frozen=True, slots=True)
class Footprint:
    """The taps of one CoConv layer; L levels of kh x kw taps each.

    `widths` are the output channels of the levels and `dilations` the distance of their taps, (L,);
    `places_px` where the taps stand, (L, kh, kw, 2), as rows below and columns right of the centre
    in pixels of the layer's input; `energy` the sum of the squared weights, (L, kh, kw).
    """

    layer: str
    widths: Array
    dilations: Array
    places_px: Array
    energy: Array

    def channel_share(self) -> Array:
        """Return each level's share of the output channels, (L,)."""
        return np.asarray(self.widths / self.widths.sum())

    def energy_share(self) -> Array:
        """Return each level's share of the energy, (L,); weights that are all zero have none."""
        return np.asarray(self.energy.sum((1, 2)) / (self.energy.sum() or 1))

    def relative_energy(self) -> Array:
        """Return the energy of each tap for each channel over that of the mean tap, (L, kh, kw).

        Weights that favour no level and no place have 1 everywhere.
        """
        taps = self.energy[0].size
        even = self.energy.sum() / (self.widths.sum() * taps) or 1
        return np.asarray(self.energy / self.widths[:, None, None] / even)

    def statistics(self) -> dict[str, float]:
        """Return both shares of each level, by its dilation, and the reach of all of them."""
        found = {
            "reach_px": float(np.abs(self.places_px).max()),
            # sqrt of the mean squared distance of the weights from the centre
            "energy_radius_px": float(
                ((self.places_px**2).sum(-1) * self.energy).sum() / (self.energy.sum() or 1)
            )
            ** 0.5,
        }
        rates = self.dilations.tolist()
        shares = zip(rates, self.channel_share(), self.energy_share(), strict=True)
        for level, (rate, channels, energy) in enumerate(shares):
            # levels of a user may have the same dilation
            name = f"dilation{rate}" + (f"_level{level + 1}" if rates.count(rate) > 1 else "")
            found[f"channel_share_{name}"] = float(channels)
            found[f"energy_share_{name}"] = float(energy)
        return found


def footprints(model: nn.Module, *, layers: Sequence[str] | None = None) -> list[Footprint]:
    """Return the footprints of the CoConv layers; they depend on no image.

    Raises: VisualizeError for a network or a layer without CoConv.
    """
    model = unwrapped(model)
    names = chosen_layers(model, layers, ["CoConv"])["CoConv"]
    return [_footprint(name, cast(CoConv2d, layer_of(model, name))) for name in names]


def _footprint(name: str, layer: CoConv2d) -> Footprint:
    widths, rates = zip(*layer.levels, strict=True)
    dilations = np.array(rates) * layer.dilation
    rows, columns = (np.arange(size) - size // 2 for size in layer.kernel_size)
    places = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
    squares = layer.weight.detach().double().square().sum(1).cpu().numpy()
    energy = np.stack([level.sum(0) for level in np.split(squares, np.cumsum(widths)[:-1])])
    return Footprint(
        name, np.array(widths), dilations, dilations[:, None, None, None] * places, energy
    )
