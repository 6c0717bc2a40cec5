"""Images whose label no part of them tells: two small patterns have to be bound over a distance.

Every image holds the same glyphs, each once, on noise. Flat (`supers=1`): k objects and k cues, of
which exactly one object and one cue stand `distance` pixels from each other along an axis, and the
label is (object + cue) mod k of that pair. Hierarchical (`supers` above 1): each family has its
object, with a detail at that distance, and one cue stands anywhere and says which family counts;
the label is family * details + the detail of that family.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from ctxbench.data._spec import Data, TensorImages

Array = npt.NDArray[Any]
Directions = Literal[1, 2, 4]

_CHUNK = 500  # images drawn from one generator: train=500 are the first images of train=1000
_TRIES, _RESTARTS = 60, 40  # for one glyph, and for a whole image, before there is no room
_CONTRAST = 0.4  # glyphs are black and white, less this from mid-grey
_MARGIN = 1  # other pairs keep this many pixels more from the distance that binds
_TRAIN, _VALIDATION = 0, 1  # streams of random numbers
_LAYOUT, _NOISE = 0, 1


def context(  # noqa: PLR0913 - every argument is an option of the spec string
    *,
    image_px: int = 32,
    classes: int = 4,
    supers: int = 1,
    distance: int = 8,
    directions: Directions = 4,
    clutter: int = 0,
    glyph_px: int = 3,
    noise: float = 0.1,
    train: int = 12000,
    validation: int = 2000,
    seed: int = 0,
) -> Data:
    """Draw the images, the same bytes for the same options.

    `classes` is all of them, of which `supers` families hold an equal share each. What is bound to
    an object stands right of it; with 2 `directions` left or right, with 4 also above or below. On
    none of the four sides does any other pair stand at `distance`, so a mirrored image means the
    same with 2 or 4. `clutter` more glyphs mean nothing. `noise` is the standard deviation of
    pixels as 0..1, where glyphs are 0.1 and 0.9 on 0.5. Fewer images are the first ones of more.
    Raises: ValueError for options that do not fit each other, and for glyphs that find no room.
    """
    plan = Plan(image_px, classes, supers, distance, directions, clutter, glyph_px)
    if not 0 <= noise <= 1:
        raise ValueError(f"noise={noise} is not between 0 and 1.")
    for name, value, least in (
        ("train", train, 1),
        ("validation", validation, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise ValueError(f"{name}={value} is too small. Give {least} or more.")
    training = _images(plan, train, noise, (seed, _TRAIN))
    share = torch.bincount(training.images.flatten(), minlength=256).double() / len(training)
    share /= image_px**2
    level = torch.arange(256).double() / 255
    mean = (share * level).sum()
    std = (share * (level - mean) ** 2).sum().sqrt()
    return Data(
        train=training,
        validation=_images(plan, validation, noise, (seed, _VALIDATION)),
        classes=classes,
        channels=1,
        image_px=image_px,
        mean=(float(mean),),
        std=(float(std),),
    )


@dataclass(frozen=True)
class Plan:
    """What stands in every image, before anything is placed.

    A scene has a column for each glyph. Column 0 is the object that counts and column 1 what it is
    bound to: its cue, or, in the hierarchical form, its detail. Glyphs are numbered through: first
    objects, then partners (cues or details), then the families' cues, then clutter.
    """

    image_px: int = 32
    classes: int = 4
    supers: int = 1
    distance: int = 8
    directions: Directions = 4
    clutter: int = 0
    glyph_px: int = 3

    def __post_init__(self) -> None:
        for name, least in (
            ("image_px", 1), ("classes", 2), ("supers", 1), ("clutter", 0), ("glyph_px", 2)
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(
                    f"{name}={getattr(self, name)} is too small. Give {least} or more."
                )
        if self.classes % self.supers or self.classes == self.supers > 1:
            raise ValueError(
                f"classes={self.classes} is no multiple of supers={self.supers} of 2 or more: "
                "every family has as many details."
            )
        if self.directions not in get_args(Directions):
            raise ValueError(f"directions={self.directions} is not 1, 2 or 4.")
        longest = self.image_px - self.glyph_px
        if not self.glyph_px <= self.distance <= longest:
            raise ValueError(
                f"distance={self.distance} does not fit: glyphs of glyph_px={self.glyph_px} in "
                f"images of image_px={self.image_px} stand {self.glyph_px} to {longest} apart."
            )
        room = (self.image_px // self.glyph_px) ** 2
        if len(self.sides) > room:
            raise ValueError(f"{self._crowd} do not fit. {_MORE_ROOM}")
        glyphs(self.kinds, self.glyph_px)  # too many kinds for their size

    @property
    def objects(self) -> int:
        """How many kinds of objects there are, each once in every image."""
        return self.supers if self.supers > 1 else self.classes

    @property
    def partners(self) -> int:
        """How many kinds of partners there are, each equally often in every image."""
        return self.classes // self.supers

    @property
    def bound(self) -> int:
        """How many pairs stand at the distance; the first of them counts."""
        return self.supers

    @property
    def copies(self) -> int:
        """How often every partner stands in the image, so that each bound object has one."""
        return -(-self.bound // self.partners)

    @property
    def kinds(self) -> int:
        """How many different glyphs there are."""
        return self.objects + self.partners + (self.supers if self.supers > 1 else 0) + self.clutter

    @cached_property
    def sides(self) -> tuple[int, ...]:
        """What each column holds: 1 an object, -1 a partner, 0 anything else."""
        objects = self.objects - self.bound
        partners = self.copies * self.partners - self.bound
        others = (self.supers > 1) + self.clutter
        return (1, -1) * self.bound + (1,) * objects + (-1,) * partners + (0,) * others

    @property
    def cue(self) -> int:
        """The column of what decides beside the object: its bound cue, or that of the families."""
        return len(self.sides) - self.clutter - 1 if self.supers > 1 else 1

    @property
    def _crowd(self) -> str:
        return (
            f"{len(self.sides)} glyphs of glyph_px={self.glyph_px} at distance={self.distance} in "
            f"image_px={self.image_px}"
        )

    def name(self, glyph: int) -> str:
        """Say what a glyph is, as `object 2`."""
        for kind, count in (
            ("object", self.objects),
            ("detail" if self.supers > 1 else "cue", self.partners),
            ("cue", self.supers if self.supers > 1 else 0),
        ):
            if glyph < count:
                return f"{kind} {glyph}"
            glyph -= count
        return f"clutter {glyph}"

    def label(self, glyphs_NG: Array) -> Array:
        """Return the labels (N,) that the glyphs in the columns of scenes mean."""
        objects, partners = glyphs_NG[:, 0], glyphs_NG[:, 1] - self.objects
        flat: Array = (objects + partners) % self.classes
        return flat if self.supers == 1 else objects * self.partners + partners


_MORE_ROOM = "Give more image_px, or fewer classes or clutter."


@dataclass(frozen=True, slots=True)
class Scenes:
    """Where every glyph stands.

    Shape: glyphs (N, G) are the numbers of the glyphs in the columns of a Plan, places (N, G, 2)
           the y and x of their upper left pixels, labels (N,).
    """

    plan: Plan
    glyphs: Array
    places: Array
    labels: Array


class SceneImages(TensorImages):
    """Images that know what stands where: `scenes` has one scene for each of them."""

    def __init__(self, images: torch.Tensor, scenes: Scenes) -> None:
        super().__init__(images, torch.from_numpy(scenes.labels))
        self.scenes = scenes


def draw_scenes(plan: Plan, count: int, generator: np.random.Generator) -> Scenes:
    """Draw which glyph stands where; the glyphs do not depend on the places.

    Raises: ValueError if they find no room.
    """
    objects = _shuffled(np.arange(plan.objects), count, generator)
    partners = plan.objects + _shuffled(
        np.repeat(np.arange(plan.partners), plan.copies), count, generator
    )
    bound = np.stack([objects[:, : plan.bound], partners[:, : plan.bound]], axis=2)
    columns = [bound.reshape(count, -1), objects[:, plan.bound :], partners[:, plan.bound :]]
    if plan.supers > 1:
        columns.append(objects[:, :1] + plan.objects + plan.partners)
    clutter = np.arange(plan.kinds - plan.clutter, plan.kinds)
    columns.append(np.broadcast_to(clutter, (count, plan.clutter)))
    numbers = np.concatenate(columns, axis=1)
    return Scenes(plan, numbers, _places(plan, count, generator), plan.label(numbers))


def render(scenes: Scenes, noise: float, generator: np.random.Generator) -> Array:
    """Return the images of scenes, (N, image_px, image_px) in uint8."""
    plan = scenes.plan
    count, px = len(scenes.labels), plan.image_px
    images = generator.standard_normal((count, px, px), dtype=np.float32)
    images *= np.float32(noise)
    signs = (2 * glyphs(plan.kinds, plan.glyph_px) - 1).astype(np.float32)
    inside = np.arange(plan.glyph_px)
    y = scenes.places[..., 0, None, None] + inside[:, None]
    x = scenes.places[..., 1, None, None] + inside
    images[np.arange(count)[:, None, None, None], y, x] += _CONTRAST * signs[scenes.glyphs]
    images += 0.5
    images *= 255
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


@lru_cache(maxsize=32)
def glyphs(count: int, side: int) -> Array:
    """Return `count` patterns (count, side, side) of 0 and 1, far from each other.

    They differ in as many pixels as a greedy choice finds, mirrored ones too, so that a flipped
    image shows no other glyphs. The choice is the same in every call.
    Raises: ValueError if there are fewer that differ in two pixels.
    """
    cells = side * side
    generator = np.random.default_rng(0)
    if cells <= 12:
        candidates = generator.permutation(2**cells)[:, None] >> np.arange(cells) & 1
    else:
        candidates = generator.integers(0, 2, (4096, cells))
    ones = candidates.sum(1)
    candidates = candidates[(ones >= cells // 3) & (ones <= cells - cells // 3)]
    most = 0
    for apart in range(cells // 2, 1, -1):
        chosen = _apart(candidates, apart, count, side)
        most = max(most, len(chosen))
        if len(chosen) == count:
            patterns = chosen.reshape(count, side, side)
            patterns.flags.writeable = False  # the cache hands it to everybody
            return patterns
    raise ValueError(
        f"glyph_px={side} gives only {most} different glyphs, and {count} are needed. "
        "Give a greater glyph_px, or fewer classes or clutter."
    )


def _apart(candidates: Array, apart: int, count: int, side: int) -> Array:
    """Return the first candidates, `count` at most, that differ in `apart` cells or more."""
    chosen: list[Array] = []
    while len(candidates) and len(chosen) < count:
        first = candidates[0]
        mirrored = first.reshape(side, side)[:, ::-1].ravel()
        chosen.append(first)
        far = ((candidates != first).sum(1) >= apart) & ((candidates != mirrored).sum(1) >= apart)
        candidates = candidates[far]
    return np.array(chosen).reshape(len(chosen), side * side)


def _images(plan: Plan, count: int, noise: float, stream: tuple[int, int]) -> SceneImages:
    """Draw images in chunks with generators of their own; the noise leaves the layout alone."""
    scenes, images = [], []
    for chunk in range(-(-count // _CHUNK)):
        layout, grain = (
            np.random.default_rng([*stream, chunk, purpose]) for purpose in (_LAYOUT, _NOISE)
        )
        scenes.append(draw_scenes(plan, _CHUNK, layout))
        images.append(render(scenes[-1], noise, grain))
    numbers, places, labels = (
        np.concatenate([getattr(part, name) for part in scenes])[:count]
        for name in ("glyphs", "places", "labels")
    )
    pixels = np.concatenate(images)[:count, None]
    return SceneImages(torch.from_numpy(pixels), Scenes(plan, numbers, places, labels))


def _shuffled(values: Array, count: int, generator: np.random.Generator) -> Array:
    return generator.permuted(np.tile(values, (count, 1)), axis=1)


def _places(plan: Plan, count: int, generator: np.random.Generator) -> Array:
    """Return where the columns of scenes stand, (count, columns, 2): upper left pixels."""
    places = np.zeros((count, len(plan.sides), 2), dtype=np.int64)
    left = np.arange(count)
    for _ in range(_RESTARTS):
        tried, fits = _try(plan, len(left), generator)
        places[left[fits]] = tried[fits]
        left = left[~fits]
        if not len(left):
            return places
        if len(left) == count > 1:  # none of them
            break
    raise ValueError(f"{plan._crowd} find no room. {_MORE_ROOM}")


def _try(plan: Plan, count: int, generator: np.random.Generator) -> tuple[Array, Array]:
    """Place one column, or bound pair, after the other; return the places and which are good."""
    places = np.zeros((count, len(plan.sides), 2), dtype=np.int64)
    fits = np.ones(count, dtype=bool)
    column = 0
    while column < len(plan.sides):
        end = column + (2 if column < 2 * plan.bound else 1)
        left = np.flatnonzero(fits)
        for _ in range(_TRIES):
            places[left, column:end] = _drawn(plan, plan.sides[column:end], len(left), generator)
            left = left[_clashes(plan, places[left], column, end)]
            if not len(left):
                break
        fits[left] = False
        column = end
    return places, fits


def _drawn(plan: Plan, sides: tuple[int, ...], count: int, generator: np.random.Generator) -> Array:
    """Draw places (count, len(sides), 2), not looking at what stands there already.

    A single object or partner is drawn as one end of a pair whose other end is left out: else
    those that are bound would stand elsewhere on average, and their places would tell them.
    """
    free = plan.image_px - plan.glyph_px + 1
    if sides == (0,):
        return generator.integers(0, free, (count, 1, 2))
    along = generator.integers(0, free - plan.distance, count)
    across = generator.integers(0, free, count)
    pair = np.stack([[across, along], [across, along + plan.distance]]).transpose(2, 0, 1)
    if plan.directions > 1:
        turned = generator.random(count) < 0.5
        pair[turned] = pair[turned, ::-1]
    if plan.directions > 2:
        upright = generator.random(count) < 0.5
        pair[upright] = pair[upright, :, ::-1]
    return pair if len(sides) == 2 else pair[:, [0 if sides == (1,) else 1]]


def _clashes(plan: Plan, places: Array, start: int, end: int) -> Array:
    """Tell where the columns from start to end overlap earlier ones, or are bound to them."""
    clash = np.zeros(len(places), dtype=bool)
    sides = np.array(plan.sides)
    for column in range(start, end):
        apart = np.abs(places[:, :start] - places[:, column : column + 1])
        clash |= (apart.max(2) < plan.glyph_px).any(1)
        bound = (apart.max(2) - plan.distance <= _MARGIN) & (
            plan.distance - apart.max(2) <= _MARGIN
        )
        bound &= apart.min(2) <= _MARGIN
        clash |= (bound & (sides[:start] * sides[column] < 0)).any(1)
    return clash
