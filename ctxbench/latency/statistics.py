"""Medians, percentiles and bootstrap intervals of times; numbers in, numbers out."""

from collections.abc import Sequence

import numpy as np

# percentile -> runs below which it says little about the tail: the numbers of queries that MLPerf
# asks for (LoadGen, early stopping)
_ENOUGH = {90: 64, 99: 662}
_DRAWS = 2000

# launch -> round -> value
Rounds = Sequence[Sequence[float]]


def percentile(samples: Sequence[float], of: int) -> float | None:
    """Return a percentile, or None where there are too few samples for one so far out."""
    if not samples or len(samples) < _ENOUGH.get(of, 1):
        return None
    return float(np.percentile(samples, of))


def stable(samples: Sequence[float], *, window: int, tolerance: float) -> bool:
    """Tell whether the medians of the last two windows agree to that part of the value."""
    if len(samples) < 2 * window:
        return False
    before, last = (np.median(samples[i:j]) for i, j in ((-2 * window, -window), (-window, None)))
    return bool(abs(before - last) <= tolerance * last)


def interval(rounds: Rounds, *, draws: int = _DRAWS) -> tuple[float, float, float]:
    """Return an estimate and its 95 % bootstrap interval: (value, low, high).

    The estimate is the median over launches of the median over a launch's rounds. Launches are
    drawn with replacement, and within each its rounds: a process differs from the next by where its
    memory lies, which no number of runs in one process would show (Kalibera and Jones, 2013).
    """
    kept = [np.asarray(launch, dtype=float) for launch in rounds if len(launch)]
    if not kept:
        raise ValueError("interval takes at least one round.")
    generator = np.random.default_rng(0)
    chosen = generator.integers(len(kept), size=(draws, len(kept)))
    medians = np.empty(chosen.shape)
    for index, launch in enumerate(kept):
        places = np.nonzero(chosen == index)
        drawn = generator.integers(len(launch), size=(len(places[0]), len(launch)))
        medians[places] = np.median(launch[drawn], axis=1)
    value = np.median([np.median(launch) for launch in kept])
    low, high = np.percentile(np.median(medians, axis=1), (2.5, 97.5))
    return float(value), float(low), float(high)


def ratio_interval(mine: Rounds, theirs: Rounds) -> tuple[float, float, float]:
    """Return the ratio of times of the same rounds, with its 95 % interval.

    It is taken of logarithms: exchanging the two networks inverts the result.
    """
    logs = [
        np.log(np.asarray(a) / np.asarray(b)).tolist() for a, b in zip(mine, theirs, strict=True)
    ]
    value, low, high = np.exp(interval(logs))
    return float(value), float(low), float(high)


def narrow(low: float, value: float, high: float, precision: float) -> bool:
    """Tell whether half the width of an interval is within that part of its value."""
    return (high - low) / 2 <= precision * value
