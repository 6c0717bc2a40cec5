"""The order of turns: competitors go A B B A in blocks, until their ratio is known well enough.

Nothing here knows of processes, devices or clocks: a competitor is a function that runs a block.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ctxbench.latency.statistics import interval, narrow, ratio_interval

# with fewer rounds, an interval means little
MIN_ROUNDS = 5
_MAX_RUNS = 200
# a turn of less than this many runs would have no median to speak of
_MIN_RUNS = 3
_LONG_S = 1.0


@dataclass(frozen=True, slots=True)
class Block:
    """One turn of a network: for each phase the milliseconds of every run, and what disturbed it.

    disturbed    runs in which the process was off the CPU for a good part
    page_faults  per run
    other_load   cores busy with something else; None where the system does not tell
    host_ms      of each run, until the host had queued it (CUDA)
    """

    phases_ms: Mapping[str, Sequence[float]]
    disturbed: int = 0
    page_faults: float = 0.0
    other_load: float | None = None
    host_ms: Sequence[float] = ()

    @property
    def totals_ms(self) -> list[float]:
        """All phases of each run together."""
        return [sum(run) for run in zip(*self.phases_ms.values(), strict=True)]

    @property
    def median_ms(self) -> float:
        """The median run."""
        totals = sorted(self.totals_ms)
        middle = len(totals) // 2
        return (totals[middle] + totals[~middle]) / 2


@dataclass(slots=True)
class Launch:
    """What one set of processes measured: network -> its blocks, two a round."""

    blocks: dict[str, list[Block]] = field(default_factory=dict)

    def rounds(self, name: str) -> list[float]:
        """Return a network's time in each round: the mean of its two turns, in ms."""
        medians = [block.median_ms for block in self.blocks[name]]
        return [(a + b) / 2 for a, b in zip(medians[::2], medians[1::2], strict=True)]


def runs_a_block(run_s: float, block_s: float) -> int:
    """Return how many runs a turn has."""
    if run_s >= _LONG_S:
        return 1
    return max(_MIN_RUNS, min(_MAX_RUNS, round(block_s / run_s)))


def take_turns(
    competitors: Mapping[str, Callable[[], Block]],
    *,
    reverse: bool,
    enough: Callable[[Launch], bool],
    budget_s: float,
    clock: Callable[[], float],
) -> Launch:
    """Run rounds of A B ... B A until `enough` of them or the time is spent; one at least.

    `reverse` lets the last begin. What drifts evenly, like the temperature, falls on all alike.
    """
    names = list(competitors)
    order = [*reversed(names), *names] if reverse else [*names, *reversed(names)]
    launch = Launch({name: [] for name in names})
    start = clock()
    while True:
        for name in order:
            launch.blocks[name].append(competitors[name]())
        if clock() - start >= budget_s or enough(launch):
            return launch


def is_precise(launches: Sequence[Launch], against: str | None, precision: float) -> bool:
    """Tell whether the ratios to `against`, or the times where there is none, are known so well."""
    others = [name for name in launches[0].blocks if name != against]
    for name in others or launches[0].blocks:
        mine = [launch.rounds(name) for launch in launches]
        if others and against in launches[0].blocks:
            value, low, high = ratio_interval(mine, [x.rounds(against) for x in launches])
        else:
            value, low, high = interval(mine)
        if not narrow(low, value, high, precision):
            return False
    return True
