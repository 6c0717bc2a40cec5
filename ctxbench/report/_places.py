"""Where to write beside crowded points, always the same way for the same points."""

import math
from collections.abc import Iterator, Sequence

Spot = tuple[float, float]
Box = tuple[float, float, float, float]

_RADII_PT = (7.5, 11, 15, 20, 26, 33, 41, 50)
_DIRECTIONS = 16
_POINT_PT, _LETTER_PT, _HEIGHT_PT = 3.2, 4.6, 7.5


def beside(
    points: Sequence[Spot], texts: Sequence[str], edges: Sequence[float], *,
    avoided: Sequence[Box] = (),
) -> list[Spot]:  # fmt: skip
    """Return for each point how far off to centre its text: the nearest spot that is free.

    Points, avoided boxes and edges (left, bottom, right, top) are in typographic points, like
    what is returned.
    """
    taken = [*avoided, *(_box(x, y, 2 * _POINT_PT, 2 * _POINT_PT) for x, y in points)]
    spots = []
    for (x, y), text in zip(points, texts, strict=True):
        for dx, dy in _around():
            box = _box(x + dx, y + dy, _LETTER_PT * len(text) + 1, _HEIGHT_PT)
            if _inside(box, edges) and not any(_touch(box, other) for other in taken):
                break
        taken.append(box)
        spots.append((dx, dy))
    return spots


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move ascending places apart by `gap`, as little as that takes, between `low` and `high`."""
    right = _pushed_right(wanted, gap)
    left = [-place for place in _pushed_right([-place for place in reversed(wanted)], gap)]
    places = [(a + b) / 2 for a, b in zip(right, reversed(left), strict=True)]
    last = len(places) - 1
    kept = [max(place, low + gap * index) for index, place in enumerate(places)]
    return [min(place, high - gap * (last - index)) for index, place in enumerate(kept)]


def _pushed_right(wanted: Sequence[float], gap: float) -> list[float]:
    places: list[float] = []
    for place in wanted:
        places.append(max(place, places[-1] + gap) if places else place)
    return places


def _around() -> Iterator[Spot]:
    for radius in _RADII_PT:
        for step in range(_DIRECTIONS):
            angle = 2 * math.pi * step / _DIRECTIONS
            yield radius * math.cos(angle), radius * math.sin(angle)


def _box(x: float, y: float, width: float, height: float) -> Box:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _touch(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _inside(box: Box, edges: Sequence[float]) -> bool:
    return box[0] >= edges[0] and box[1] >= edges[1] and box[2] <= edges[2] and box[3] <= edges[3]
