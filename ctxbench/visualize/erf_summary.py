"""Effective receptive fields over many images: the mean, its interval, and what squares hold."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ctxbench.errors import VisualizeError
from ctxbench.visualize.erf import ROUNDING, Erf
from ctxbench.visualize.subject import Array, Subject

SHARES = (0.2, 0.5, 0.99)
_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class ErfRow:
    """The effective field of one output of one network, over many images.

    `square20_px` is the side of the smallest square around the centre that holds 20 % of an image's
    energy, mean over images and 95 % interval (Student's t), `square20_of_mean_px` that of the mean
    map. `area20_share` is what the square covers of the image, `set20_share` the smallest set of
    pixels that holds 20 % of the mean map, which few images and probes make look smaller than it
    is. All are None where no image has a gradient. Positions count from 0; class scores have none.
    `field_whole`: the theoretical field, at this size of images, is all of them.
    """

    model: str
    weights: str
    trained: bool
    layer: str
    images: int
    dead_images: int
    probes: int
    seed: int
    height_px: int
    width_px: int
    map_height: int | None
    map_width: int | None
    position_row: int | None
    position_column: int | None
    centre_row_px: float
    centre_column_px: float
    field_height_px: int
    field_width_px: int
    field_whole: bool
    square20_px: float | None
    square20_low_px: float | None
    square20_high_px: float | None
    square20_of_mean_px: float | None
    area20_share: float | None
    area20_low: float | None
    area20_high: float | None
    set20_share: float | None
    square50_px: float | None
    square50_low_px: float | None
    square50_high_px: float | None
    square50_of_mean_px: float | None
    area50_share: float | None
    area50_low: float | None
    area50_high: float | None
    set50_share: float | None
    square99_px: float | None
    square99_low_px: float | None
    square99_high_px: float | None
    square99_of_mean_px: float | None
    area99_share: float | None
    area99_low: float | None
    area99_high: float | None
    set99_share: float | None
    picture: str = ""


class Estimate(NamedTuple):
    """A mean over images and its 95 % interval by Student's t, which one image does not have."""

    mean: float
    low: float | None
    high: float | None


class _Running:
    """Mean and spread of arrays that come one by one (Welford's way, which keeps none of them)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, np.zeros(()), np.zeros(())

    def add(self, values: Array) -> None:
        self.count += 1
        before = values - self.mean
        self.mean = self.mean + before / self.count
        self.squares = self.squares + before * (values - self.mean)

    def reach(self) -> Array | None:
        """Return half the width of the 95 % interval."""
        if self.count < 2:
            return None
        # special, not stats, which takes a second to import
        from scipy.special import stdtrit  # type: ignore[import-untyped]  # it has no types

        freedom = self.count - 1
        error = np.sqrt(self.squares / freedom / self.count)
        return np.asarray(float(stdtrit(freedom, (1 + _LEVEL) / 2)) * error)


@dataclass(frozen=True, slots=True)
class Summary:
    """The effective field over many images.

    `mean_map` (H, W) is the mean energy. `held` is the mean share of the energy that the squares of
    `sides_px` around the centre hold, with its interval over the images from `low` to `high`;
    `areas` are the shares of the image that these squares cover, as far as they lie in it.
    `squares_px` and `square_areas` are, for each of SHARES, those of the smallest square of each
    image that holds so much. `dead` images have no gradient and count nowhere; without any other,
    all is NaN.
    """

    images: int
    dead: int
    mean_map: Array
    sides_px: Array
    held: Array
    low: Array | None
    high: Array | None
    areas: Array
    squares_px: dict[float, Estimate]
    square_areas: dict[float, Estimate]

    def square_of_mean_px(self, share: float) -> float:
        """Return the side of the smallest centred square that holds a share of the mean map."""
        return float(self.sides_px[_first(self.held, share)]) if self.images else math.nan

    def set_share(self, share: float) -> float:
        """Return the share of the pixels in the smallest set that holds a share of the mean map.

        It has no interval, and is of the mean map alone: random signs make the energy of single
        pixels uneven, and the set picks the largest, so that of one image would look too small.
        """
        if not self.images:
            return math.nan
        held = np.cumsum(np.sort(self.mean_map, axis=None)[::-1])
        return (_first(held, share) + 1) / self.mean_map.size


class ErfTotal:
    """Sums up effective fields over many images, of which it keeps none."""

    def __init__(self) -> None:
        self._map, self._held = _Running(), _Running()
        self._sides, self._areas = _Running(), _Running()
        self._dead = 0
        self._like: Erf | None = None

    def add(self, found: Erf) -> None:
        """Add the images of a result; all must share the position and the centre of the first."""
        if self._like is None:
            self._like = found
            self._rings_HW = _rings(found)
            pixels = np.bincount(self._rings_HW.ravel())
            self._area = np.cumsum(pixels) / self._rings_HW.size
        for energy_HW in found.energies:
            if np.isnan(energy_HW).any():
                self._dead += 1
                continue
            held = np.cumsum(np.bincount(self._rings_HW.ravel(), energy_HW.ravel()))
            places = np.array([_first(held, share) for share in SHARES])
            self._map.add(energy_HW)
            self._held.add(held)
            self._sides.add(places + 1.0)
            self._areas.add(self._area[places])

    def summary(self) -> Summary:
        """Return the mean and its interval over all images so far."""
        if self._like is None:
            raise VisualizeError("An effective field takes at least one image; got none.")
        size = self._like.energies.shape[1:]
        nothing = np.full(len(self._area), math.nan)
        held, reach = (self._held.mean if self._held.count else nothing), self._held.reach()
        return Summary(
            images=self._held.count,
            dead=self._dead,
            mean_map=self._map.mean if self._map.count else np.full(size, math.nan),
            sides_px=np.arange(len(self._area)) + 1,
            held=held,
            low=None if reach is None else np.clip(held - reach, 0, 1),
            high=None if reach is None else np.clip(held + reach, 0, 1),
            areas=self._area,
            squares_px=_estimates(self._sides, 1, len(self._area)),
            square_areas=_estimates(self._areas, 0, 1),
        )


def _rings(found: Erf) -> Array:
    """Return by how many half pixels the square around the centre has to grow to hold each pixel.

    The square of n half pixels has a side of n + 1 pixels.
    """
    rows, columns = (
        np.abs(np.arange(size) - middle)
        for size, middle in zip(found.energies.shape[1:], found.centre, strict=True)
    )
    rings: Array = np.rint(2 * np.maximum(rows[:, None], columns[None, :])).astype(int)
    return rings


def _first(held: Array, share: float) -> int:
    """Return the first place at which a rising row of shares reaches one."""
    return int(np.argmax(held >= min(share, float(held[-1])) - ROUNDING))


def _estimates(running: _Running, lowest: float, highest: float) -> dict[float, Estimate]:
    if not running.count:
        return dict.fromkeys(SHARES, Estimate(math.nan, None, None))
    reach = running.reach()
    if reach is None:
        means = zip(SHARES, running.mean, strict=True)
        return {share: Estimate(float(mean), None, None) for share, mean in means}
    return {
        share: Estimate(float(mean), max(lowest, float(mean - r)), min(highest, float(mean + r)))
        for share, mean, r in zip(SHARES, running.mean, reach, strict=True)
    }


def row_of(subject: Subject, found: Erf, summary: Summary, *, probes: int, seed: int) -> ErfRow:
    """Return the row of a network; `found` is any result that was summed up."""
    height, width = found.energies.shape[1:]
    shares: dict[str, Any] = {}
    for share in SHARES:
        percent, side = round(100 * share), summary.squares_px[share]
        area = summary.square_areas[share]
        shares |= {
            f"square{percent}_px": side.mean,
            f"square{percent}_low_px": side.low,
            f"square{percent}_high_px": side.high,
            f"square{percent}_of_mean_px": summary.square_of_mean_px(share),
            f"area{percent}_share": area.mean,
            f"area{percent}_low": area.low,
            f"area{percent}_high": area.high,
            f"set{percent}_share": summary.set_share(share),
        }
    shares = {k: None if v is None or math.isnan(v) else v for k, v in shares.items()}
    map_height, map_width = found.map_size or (None, None)
    row, column = found.position or (None, None)
    return ErfRow(
        model=subject.spec,
        weights=subject.weights,
        trained=subject.trained,
        layer=found.layer,
        images=summary.images,
        dead_images=summary.dead,
        probes=probes,
        seed=seed,
        height_px=height,
        width_px=width,
        map_height=map_height,
        map_width=map_width,
        position_row=row,
        position_column=column,
        centre_row_px=found.centre[0],
        centre_column_px=found.centre[1],
        field_height_px=found.field.height,
        field_width_px=found.field.width,
        field_whole=found.field.is_whole(height, width),
        **shares,
    )
