"""A run under the roof of two ceilings."""

import math

import pytest

from ctxbench.latency.roofline import Roofline, roofline

CEILINGS = (100.0, 20.0)  # they meet at 5 FLOPs per byte


def test_a_run_bound_by_memory():
    # 4e9 FLOPs over 2e9 bytes in half a second, below a roof of 2 x 20 GFLOP/s
    assert roofline(4_000_000_000, 2_000_000_000, 0.5, CEILINGS) == Roofline(
        intensity=2.0,
        achieved_gflops_s=8.0,
        achieved_gb_s=4.0,
        roof_gflops_s=40.0,
        fraction=0.2,
        bound="memory",
    )


def test_a_run_bound_by_compute():
    found = roofline(50_000_000_000, 1_000_000_000, 1.0, CEILINGS)
    assert (found.bound, found.roof_gflops_s, found.fraction) == ("compute", 100.0, 0.5)


@pytest.mark.parametrize(("flops", "bound"), [(4_999, "memory"), (5_000, "compute")])
def test_the_bound_changes_where_the_ceilings_meet(flops, bound):
    assert roofline(flops, 1_000, 1.0, CEILINGS).bound == bound


def test_data_in_a_cache_exceed_the_roof():
    found = roofline(1_000_000_000, 1_000_000_000, 0.025, CEILINGS)
    assert found.fraction == pytest.approx(2.0)


def test_the_fraction_is_that_of_the_lower_ceiling():
    found = roofline(1_000_000_000, 1_000_000_000, 0.1, CEILINGS)
    assert found.fraction == pytest.approx(found.achieved_gb_s / CEILINGS[1])


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ((0, 1, 1.0, CEILINGS), "flops = 0"),
        ((1, -1, 1.0, CEILINGS), "traffic_bytes = -1"),
        ((1, 1, math.nan, CEILINGS), "seconds = nan"),
        ((1, 1, 1.0, (0.0, 1.0)), "ceiling of GFLOP/s = 0.0"),
        ((1, 1, 1.0, (1.0, math.inf)), "ceiling of GB/s = inf"),
    ],
)
def test_nonsense_is_an_error(given, name):
    with pytest.raises(ValueError, match=name):
        roofline(*given)
