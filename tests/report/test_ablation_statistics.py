import math
import random
from itertools import permutations

import pytest
from scipy import stats

from ctxbench.report._ablation_statistics import Estimate, estimate, estimate_error, holm


def test_an_interval_by_hand():
    # mean 3, variance 2.5; 2.776445 is the 97.5 % point of Student's t with 4 degrees of freedom
    found = estimate([1.0, 2.0, 3.0, 4.0, 5.0])
    reach = 2.7764451 * math.sqrt(2.5 / 5)
    assert found[:2] == (5, 3.0)
    assert (found.low, found.high) == pytest.approx((3 - reach, 3 + reach))


def test_two_values_have_one_degree_of_freedom():
    # with it Student's t is Cauchy's distribution: p = 1 - 2 / pi * atan(t), t = mean / error = 3
    found = estimate([1.0, 2.0])
    assert found.p == pytest.approx(1 - 2 / math.pi * math.atan(3))


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_interval_and_p_are_those_of_scipy(count):
    draw = random.Random(count)
    ours = [draw.gauss(20, 2) for _ in range(count)]
    theirs = [draw.gauss(21, 2) for _ in range(count)]
    found = estimate(a - b for a, b in zip(ours, theirs, strict=True))
    expected = stats.ttest_rel(ours, theirs)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_the_order_of_seeds_changes_no_bit():
    values = [12.31, 10.07, 13.9, 11.11, 10.1]
    assert {estimate(order) for order in permutations(values)} == {estimate(values)}


def test_the_interval_covers_the_mean_in_95_of_100_experiments():
    draw = random.Random(0)
    found = [estimate(draw.gauss(30, 2) for _ in range(5)) for _ in range(3000)]
    covered = sum(one.low <= 30 <= one.high for one in found) / len(found)
    assert 0.938 < covered < 0.962  # three standard deviations of the share itself


@pytest.mark.parametrize("values", [[5.0], [0.0] * 5, [0.1 + 0.2, 0.3, 0.3], [-4.0, -4.0]])
def test_without_spread_nothing_is_claimed(values):
    found = estimate(values)
    assert found.mean == pytest.approx(values[0])
    assert found[2:] == (None, None, None)


@pytest.mark.parametrize(
    ("errors", "ends"),
    [([1, 2, 50], (0.0, None)), ([99, 60, 98], (None, 100.0)), ([5], (None,) * 2)],
)
def test_the_interval_of_an_error_ends_where_errors_do(errors, ends):
    found, wide = estimate_error(errors), estimate(errors)
    assert (found.mean, found.p) == (wide.mean, wide.p)
    kept = [wide.low, wide.high]
    assert [found.low, found.high] == [
        mine if mine is not None else other for mine, other in zip(ends, kept, strict=True)
    ]


def test_what_was_not_measured_does_not_count():
    assert estimate([math.nan, 2.0, math.nan]) == Estimate(1, 2.0)
    assert estimate([math.nan]) == estimate([]) == Estimate(0)


def test_holm_on_a_worked_example():
    # in order: 0.005 x 4, 0.01 x 3, 0.03 x 2, then 0.04 x 1, which may not be below the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_goes_no_further_than_1_and_keeps_one_as_it_is():
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04]
    assert holm([]) == []


def test_a_comparison_without_p_counts_as_one_that_shows_nothing():
    assert holm([0.01, None, 0.03]) == pytest.approx([0.03, None, 0.06])


def test_of_true_nulls_any_is_rejected_in_5_of_100_families_at_most():
    draw = random.Random(1)
    families = [holm([draw.random() for _ in range(6)]) for _ in range(4000)]
    rejected = sum(min(family) < 0.05 for family in families) / len(families)
    assert 0.038 < rejected < 0.06
