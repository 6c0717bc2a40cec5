"""Percentiles, intervals and ratios of times, against definitions and simulated experiments."""

import numpy as np
import pytest

from ctxbench.latency.statistics import interval, narrow, percentile, ratio_interval, stable


def experiment(generator, *, launches, mean=100.0, between=0.02, within=0.01, rounds=12):
    """Return simulated rounds whose launches differ: a part of `mean` is 1 sigma."""
    means = mean * (1 + between * generator.standard_normal((launches, 1)))
    return means * (1 + within * generator.standard_normal((launches, rounds)))


def coverage(launches, *, experiments=300):
    """Return the part of experiments whose interval holds the true value."""
    generator = np.random.default_rng(1)
    found = [
        interval(experiment(generator, launches=launches), draws=500) for _ in range(experiments)
    ]
    return sum(low <= 100.0 <= high for _, low, high in found) / experiments


@pytest.mark.parametrize(("of", "fewest"), [(90, 64), (99, 662)])
def test_a_far_percentile_takes_many_samples(of, fewest):
    samples = list(range(fewest))
    assert percentile(samples[1:], of) is None
    assert percentile(samples, of) == pytest.approx((fewest - 1) * of / 100)  # of 0, 1, 2, ...


@pytest.mark.parametrize(("of", "expected"), [(25, 20.0), (50, 30.0), (75, 40.0)])
def test_a_quartile_needs_no_more_than_a_few(of, expected):
    assert percentile([50.0, 10.0, 40.0, 20.0, 30.0], of) == expected


def test_nothing_has_no_percentile():
    assert percentile([], 50) is None


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([10, 10, 10, 10, 10], False),  # too few for two windows of 3
        ([10, 10, 10, 10, 10, 10], True),
        ([10, 99, 10, 10, 10, 99], True),  # medians: outliers do not count
        ([103, 103, 103, 100, 100, 100], True),  # 3 %: just within
        ([104, 104, 104, 100, 100, 100], False),
        ([96, 96, 96, 100, 100, 100], False),  # slower is no more stable than faster
        ([50, 70, 104, 100, 100, 100, 100, 100, 100], True),  # only the last two count
    ],
)
def test_times_are_stable_when_two_windows_agree(samples, expected):
    assert stable(samples, window=3, tolerance=0.03) is expected


@pytest.mark.parametrize(("high", "expected"), [(102.0, True), (102.1, False)])
def test_half_the_width_has_to_be_narrow(high, expected):
    assert narrow(100.0, 100.0, high, 0.01) is expected


def test_the_estimate_is_the_median_of_medians():
    launches = [[1.0, 2.0, 9.0], [4.0, 5.0], [3.0, 3.0, 3.0, 100.0]]  # medians 2, 4.5, 3
    assert interval(launches)[0] == 3.0


def test_a_constant_has_an_interval_of_no_width():
    assert interval([[7.0] * 5, [7.0] * 4]) == (7.0, 7.0, 7.0)


def test_one_round_is_all_that_is_known():
    assert interval([[7.0]]) == (7.0, 7.0, 7.0)


def test_launches_without_rounds_do_not_count():
    rounds = [[1.0, 2.0, 3.0], [2.0, 4.0]]
    assert interval([rounds[0], [], rounds[1]]) == interval(rounds)


@pytest.mark.parametrize("empty", [[], [[], []]])
def test_nothing_has_no_interval(empty):
    with pytest.raises(ValueError, match="takes at least one round"):
        interval(empty)


def test_an_interval_is_reproducible():
    rounds = experiment(np.random.default_rng(0), launches=3)
    assert interval(rounds) == interval(rounds)


def test_an_interval_lies_around_its_estimate_and_within_the_rounds():
    rounds = experiment(np.random.default_rng(0), launches=5)
    value, low, high = interval(rounds)
    assert rounds.min() <= low < value < high <= rounds.max()


@pytest.mark.parametrize("launches", [5, 8])
def test_the_interval_holds_the_true_value_as_often_as_it_says(launches):
    assert 0.9 <= coverage(launches) <= 0.99  # 95 %, and 300 experiments tell it to 2.5 %


def test_an_interval_of_three_launches_is_too_narrow():
    assert 0.75 <= coverage(3) <= 0.88  # three draws of three cannot show how launches differ


def test_four_times_the_launches_halve_the_interval():
    generator = np.random.default_rng(0)
    widths = [
        [np.ptp(interval(experiment(generator, launches=launches), draws=500)) for _ in range(20)]
        for launches in (8, 32)
    ]
    assert np.median(widths[1]) / np.median(widths[0]) == pytest.approx(0.5, rel=0.2)


def test_launches_that_differ_widen_the_interval():
    generator = np.random.default_rng(0)
    alike = interval(experiment(generator, launches=5, between=0.0))
    different = interval(experiment(generator, launches=5, between=0.05))
    assert different[2] - different[1] > 5 * (alike[2] - alike[1])


def pair(*, ratio=1.2):
    """Return the rounds of two networks, in three launches."""
    generator = np.random.default_rng(2)
    return (experiment(generator, launches=3, mean=100 * mean) for mean in (ratio, 1.0))


def test_the_ratio_of_multiples_is_exact():
    _, theirs = pair()
    assert ratio_interval(1.5 * theirs, theirs) == pytest.approx((1.5, 1.5, 1.5), rel=1e-12)


def test_exchanging_the_two_inverts_the_ratio():
    mine, theirs = pair()
    value, low, high = ratio_interval(mine, theirs)
    assert low < value < high
    assert ratio_interval(theirs, mine) == pytest.approx((1 / value, 1 / high, 1 / low), rel=1e-12)


def test_what_slows_both_down_leaves_the_ratio():
    mine, theirs = pair()
    drift = np.linspace(1.0, 3.0, mine.size).reshape(mine.shape)
    expected = ratio_interval(mine, theirs)
    assert ratio_interval(drift * mine, drift * theirs) == pytest.approx(expected, rel=1e-12)


def test_one_disturbed_launch_of_three_moves_the_ratio_little():
    mine, theirs = experiment(np.random.default_rng(2), launches=6, between=0.0).reshape(2, 3, 12)
    mine[1] *= 5  # something ran beside this network alone
    assert ratio_interval(1.2 * mine, theirs)[0] == pytest.approx(1.2, rel=0.02)


def test_the_two_need_the_same_launches():
    with pytest.raises(ValueError, match="zip"):
        ratio_interval([[1.0], [1.0]], [[1.0]])
