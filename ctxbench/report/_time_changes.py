"""Times of two commits, which were not measured in turns: ratios with their intervals."""

import math
import sys
from collections.abc import Sequence
from statistics import NormalDist, median
from typing import Any, NamedTuple

import numpy as np

from ctxbench.records import Row

FASTER, SLOWER, SAME = "faster", "slower", "no difference to be seen"
UNSURE = "no interval"
_DRAWS = 2000
_LEAST_ROUNDS = 5  # of fewer, the ends of a bootstrap lie too close
_REACH = NormalDist().inv_cdf(0.975)

# launch -> round -> the logarithm of a time
Rounds = Sequence[Sequence[float]]


class Ratio(NamedTuple):
    """The ratio new / old with its 95 % interval, and of what it is."""

    of: str
    old: float
    new: float
    value: float
    low: float | None = None
    high: float | None = None

    @property
    def verdict(self) -> str:
        """Say what the interval shows."""
        if self.low is None or self.high is None:
            return UNSURE
        return SLOWER if self.low > 1 else FASTER if self.high < 1 else SAME


def ratio_of_ratios(old: Row, new: Row, *, key: str, against: str) -> Ratio | None:
    """Divide the ratios to one baseline, each measured in turns with it.

    What the machine did in between slowed the baseline too, and cancels. The interval joins those
    of both rows, as of independent runs, in logarithms. None where a row has no such ratio.
    """
    was, now = _ratio(old, key), _ratio(new, key)
    if was is None or now is None:
        return None
    (before, early), (after, late) = was, now
    value, reach = math.log(after / before), _REACH * math.hypot(early, late)
    low, high = math.exp(value - reach), math.exp(value + reach)
    return Ratio(f"time / that of {against}", before, after, math.exp(value), low, high)


def ratio_of_medians(old: Row, new: Row, *, key: str, samples: str) -> Ratio | None:
    """Divide the medians; the interval is a bootstrap over launches, and rounds in each."""
    if not all(_positive(row.get(key)) for row in (old, new)):
        return None
    of = f"{key.rpartition('_')[0].replace('_', ' ')} ({key.rpartition('_')[2]})"
    ratio = Ratio(of, old[key], new[key], new[key] / old[key])
    rounds = [_rounds(row.get(samples)) for row in (old, new)]
    if any(sum(map(len, each)) < _LEAST_ROUNDS for each in rounds):
        return ratio
    # a seed for each side: with one for both their draws would go up and down together
    drawn = [_draw(each, seed) for seed, each in enumerate(rounds)]
    low, high = np.exp(np.percentile(drawn[1] - drawn[0], (2.5, 97.5)))
    return ratio._replace(low=float(low), high=float(high))


def _ratio(row: Row, key: str) -> tuple[float, float] | None:
    """Return a ratio and the standard error of its logarithm."""
    start = key.partition("_")[0]
    ends: list[Any] = [row.get(key), row.get(f"{start}_low"), row.get(f"{start}_high")]
    if not all(map(_positive, ends)) or ends[1] >= ends[2]:
        return None  # that of a baseline to itself has no interval
    return float(ends[0]), math.log(ends[2] / ends[1]) / (2 * _REACH)


def _positive(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value <= sys.float_info.max


def _rounds(samples: Any) -> Rounds:
    """Return the times of launches and rounds as logarithms; phases of a step are added up."""
    if isinstance(samples, dict):
        phases = [phase for phase in samples.values() if isinstance(phase, list)]
        try:
            return [
                [_log(sum(median(phase) for phase in block)) for block in zip(*launch, strict=True)]
                for launch in zip(*phases, strict=True)
            ]
        except (TypeError, ValueError, OverflowError):
            return []
    if not isinstance(samples, list) or not all(map(_positive, samples)):
        return []
    return [[math.log(seconds) for seconds in samples]]


def _log(time: float) -> float:
    """Return the logarithm of a time; ValueError if it is none."""
    if not _positive(time):
        raise ValueError(time)
    return math.log(time)


def _draw(rounds: Rounds, seed: int) -> Any:
    """Draw medians over launches of the medians over rounds, both with replacement."""
    generator = np.random.default_rng(seed)
    kept = [np.asarray(launch) for launch in rounds if len(launch)]
    chosen = generator.integers(len(kept), size=(_DRAWS, len(kept)))
    medians = np.empty(chosen.shape)
    for number, launch in enumerate(kept):
        places = np.nonzero(chosen == number)
        drawn = generator.integers(len(launch), size=(len(places[0]), len(launch)))
        medians[places] = np.median(launch[drawn], axis=1)
    return np.median(medians, axis=1)
