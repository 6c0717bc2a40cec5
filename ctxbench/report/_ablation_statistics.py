"""Statistics over a few seeds: Student's interval, paired differences, Holm's correction."""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

LEVEL = 0.05
# in points of a percentage: no validation set is so large that a smaller spread is one
_RESOLUTION = 1e-9


class Estimate(NamedTuple):
    """A mean over seeds, its 95 % interval, and p of its being 0; None where nothing tells."""

    n: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None


def estimate(values: Iterable[float]) -> Estimate:
    """Estimate a mean by Student's t, in whatever order the values come.

    One value has no interval. Values that are all equal have none either: that no spread was
    seen in a few seeds does not show that there is none, and p would be 0 from nothing.
    """
    seen = [value for value in values if not math.isnan(value)]
    if not seen:
        return Estimate(0)
    mean = fmean(seen)
    spread = stdev(seen) if len(seen) > 1 else 0.0
    if spread <= _RESOLUTION:
        return Estimate(len(seen), mean)
    # special, not stats, which takes a second to import
    from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]  # it has no types

    error, freedom = spread / math.sqrt(len(seen)), len(seen) - 1
    reach = float(stdtrit(freedom, 1 - LEVEL / 2)) * error
    p = 2 * float(stdtr(freedom, -abs(mean) / error))
    return Estimate(len(seen), mean, mean - reach, mean + reach, p)


def estimate_error(values: Iterable[float]) -> Estimate:
    """Estimate a mean error in %, whose interval ends where errors do, at 0 and 100."""
    found = estimate(values)
    if found.low is None or found.high is None:
        return found
    return found._replace(low=max(found.low, 0.0), high=min(found.high, 100.0))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct p-values for being several, by Holm's step-down method.

    A comparison without a p-value counts as one that shows nothing (p = 1): those of the others
    then do not grow when its seeds have been run.
    """
    order = sorted(range(len(p_values)), key=lambda place: _or_one(p_values[place]))
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(order):
        p = p_values[place]
        largest = max(largest, min(1.0, (len(order) - rank) * _or_one(p)))
        corrected[place] = None if p is None else largest
    return corrected


def _or_one(p: float | None) -> float:
    return 1.0 if p is None else p
