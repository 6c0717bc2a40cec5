"""Turns: their order, when they end, and what order and drift do to a ratio: nothing."""

from itertools import count

import numpy as np
import pytest

from ctxbench.latency.protocol import Block, Launch, is_precise, runs_a_block, take_turns
from ctxbench.latency.statistics import ratio_interval


def block(ms):
    return Block({"forward": [ms]})


def order(names, *, rounds, reverse=False):
    """Return whose turn it is, in so many rounds."""
    turns = []
    take_turns(
        {name: lambda name=name: turns.append(name) or block(1.0) for name in names},
        reverse=reverse,
        enough=lambda launch: len(turns) == rounds * 2 * len(names),
        budget_s=100.0,
        clock=lambda: 0.0,
    )
    return "".join(turns)


def test_two_take_turns_so_that_drift_falls_on_both():
    assert order("AB", rounds=2) == "ABBAABBA"


def test_the_last_may_begin():
    assert order("AB", rounds=2, reverse=True) == "BAABBAAB"


def test_three_go_there_and_back():
    assert order("ABC", rounds=1) == "ABCCBA"


def test_one_alone_has_two_turns_a_round():
    assert order("A", rounds=3) == "AAAAAA"


def rounds_in(*, budget_s, turn_s=1.0, enough=lambda launch: False):
    """Return how many rounds two networks have, each of whose turns takes so long."""
    time = [0.0]

    def turn():
        time[0] += turn_s
        return block(1.0)

    launch = take_turns(
        {"A": turn, "B": turn},
        reverse=False,
        enough=enough,
        budget_s=budget_s,
        clock=lambda: time[0],
    )
    return len(launch.rounds("A"))


@pytest.mark.parametrize(("budget_s", "rounds"), [(8.0, 2), (8.1, 3), (0.1, 1)])
def test_no_round_begins_after_the_budget(budget_s, rounds):
    assert rounds_in(budget_s=budget_s) == rounds  # a round takes 4 s


def test_turns_end_when_they_are_enough():
    assert rounds_in(budget_s=100.0, enough=lambda launch: len(launch.rounds("B")) == 3) == 3


def test_there_is_always_a_whole_round():
    assert rounds_in(budget_s=100.0, enough=lambda launch: True) == 1


def test_what_turns_return_is_kept_in_their_order():
    values = iter([1.0, 2.0, 3.0, 4.0])
    turn = lambda: block(next(values))  # noqa: E731
    launch = take_turns(
        {"A": turn, "B": turn},
        reverse=True,
        enough=lambda launch: True,
        budget_s=1.0,
        clock=lambda: 0.0,
    )
    assert launch.blocks == {"A": [block(2.0), block(3.0)], "B": [block(1.0), block(4.0)]}


@pytest.mark.parametrize(
    ("run_s", "runs"),
    [(0.01, 25), (0.0001, 200), (0.05, 5), (0.5, 3), (0.999, 3), (1.0, 1), (60.0, 1)],
)
def test_a_turn_lasts_a_quarter_second_within_limits(run_s, runs):
    assert runs_a_block(run_s, 0.25) == runs


def test_a_run_is_all_its_phases():
    turn = Block({"forward": [1.0, 2.0, 4.0], "backward": [10.0, 30.0, 20.0]})
    assert turn.totals_ms == [11.0, 32.0, 24.0]
    assert turn.median_ms == 24.0


def test_the_median_of_an_even_number_lies_between_two():
    assert Block({"forward": [9.0, 1.0, 2.0, 5.0]}).median_ms == 3.5


def test_phases_of_different_lengths_are_no_runs():
    with pytest.raises(ValueError, match="zip"):
        _ = Block({"forward": [1.0], "backward": []}).totals_ms


def test_a_round_is_the_mean_of_its_two_turns():
    launch = Launch({"A": [block(1.0), block(3.0), block(10.0), block(30.0)]})
    assert launch.rounds("A") == [2.0, 20.0]


def launch_of(*, slowdown, reverse, times=(("A", 13.0), ("B", 10.0)), rounds=8):
    """Return what two networks measure on a machine that slows down with every turn."""
    turns = count()

    def competitor(base_ms):
        return lambda: block(base_ms * slowdown(next(turns)))

    return take_turns(
        {name: competitor(ms) for name, ms in times},
        reverse=reverse,
        enough=lambda launch: len(launch.rounds("A")) == rounds,
        budget_s=1.0,
        clock=lambda: 0.0,
    )


def ratio_of(*launches):
    return ratio_interval([x.rounds("A") for x in launches], [x.rounds("B") for x in launches])


@pytest.mark.parametrize("reverse", [False, True])
def test_a_linear_drift_leaves_the_ratio_exact(reverse):
    launch = launch_of(slowdown=lambda turn: 1 + 0.05 * turn, reverse=reverse)
    assert launch.rounds("A")[-1] > 2 * launch.rounds("A")[0]
    assert ratio_of(launch) == pytest.approx((1.3, 1.3, 1.3), rel=1e-12)


def test_the_order_leaves_the_ratio_within_its_interval():
    generator = np.random.default_rng(0)

    def slowdown(turn):
        return (1 + 0.01 * turn) * (1 + 0.02 * generator.random())

    straight, back = (
        ratio_of(*(launch_of(slowdown=slowdown, reverse=reverse) for _ in range(3)))
        for reverse in (False, True)
    )
    for _, low, high in (straight, back):
        assert low < 1.3 < high
    assert straight[1] < back[0] < straight[2]


def noisy(name_ms, *, noise=0.2, common=False):
    """Return a launch of 8 rounds whose times differ, in common or each for itself."""
    generator = np.random.default_rng(0)
    shared = 1 + noise * generator.random(16)
    own = {name: shared if common else 1 + noise * generator.random(16) for name in name_ms}
    return Launch({name: [block(ms * x) for x in own[name]] for name, ms in name_ms.items()})


def test_the_ratio_has_to_be_known_well_not_the_times():
    launch = noisy({"A": 1.0, "B": 2.0}, common=True)
    assert is_precise([launch], "B", 0.01)
    assert not is_precise([launch], None, 0.01)


def test_every_ratio_has_to_be_known_well():
    launch = noisy({"A": 1.0, "B": 2.0}, common=True)
    launch.blocks["C"] = noisy({"C": 1.0}).blocks["C"]
    assert not is_precise([launch], "B", 0.001)


def test_times_alone_are_known_well_when_they_are_alike():
    assert is_precise([noisy({"A": 1.0}, noise=0.001)], None, 0.01)
    assert not is_precise([noisy({"A": 1.0}, noise=0.5)], None, 0.01)


@pytest.mark.parametrize(("noise", "expected"), [(0.001, True), (0.5, False)])
def test_times_count_where_what_they_are_compared_with_did_not_fit(noise, expected):
    assert is_precise([noisy({"A": 1.0}, noise=noise)], "B", 0.01) is expected


def test_all_launches_count():
    launches = [Launch({"A": [block(ms)] * 8}) for ms in (1.0, 1.5, 2.0)]
    assert is_precise(launches[:1], None, 0.01)
    assert not is_precise(launches, None, 0.01)
