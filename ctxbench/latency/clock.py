"""Clocks for one run of a network: wall time on the CPU, device events on a GPU."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

Phases = Mapping[str, Callable[[], object]]

# a run is called disturbed when it was off the CPU for more than this share, and this long
_OFF_SHARE, _OFF_MS = 0.1, 0.05


@dataclass(frozen=True, slots=True)
class Sample:
    """One timed run: ms of each phase, ms until the host had queued it, and ms it did not run."""

    phases_ms: tuple[float, ...]
    host_ms: float
    off_ms: float

    @property
    def total_ms(self) -> float:
        """All phases together."""
        return sum(self.phases_ms)

    @property
    def disturbed(self) -> bool:
        """Whether something else had the CPU for a good part of the run."""
        return self.off_ms > max(_OFF_SHARE * self.host_ms, _OFF_MS)


class Timer(Protocol):
    """Times the phases of one run, each from where the one before ends."""

    def __call__(self, phases: Phases) -> Sample:
        """Run the phases once."""


class WallTimer:
    """Reads a wall clock around each phase. `cpu_clock` counts only while the thread runs."""

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._clock, self._cpu_clock = clock, cpu_clock

    def __call__(self, phases: Phases) -> Sample:
        """Run the phases once."""
        clock = self._clock
        ran = self._cpu_clock()
        marks = [clock()]
        for phase in phases.values():
            phase()
            marks.append(clock())
        ran = self._cpu_clock() - ran
        wall_ms = 1000 * (marks[-1] - marks[0])
        phases_ms = tuple(1000 * (b - a) for a, b in pairwise(marks))
        return Sample(phases_ms, wall_ms, wall_ms - 1000 * ran)


class EventTimer:
    """Records an event on the device around each phase, and waits for the device before and after.

    The device is idle when a run begins, so its time is the latency of that run: what the host
    takes to queue the first kernels is part of it. `cpu_clock` counts while any thread of the
    process runs: the backward pass has a thread of its own, for which the caller waits.
    """

    def __init__(
        self,
        event: Callable[[], Any],
        synchronize: Callable[[], None],
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self._event, self._synchronize = event, synchronize
        self._clock, self._cpu_clock = clock, cpu_clock

    def __call__(self, phases: Phases) -> Sample:
        """Run the phases once."""
        events = [self._event() for _ in range(len(phases) + 1)]
        self._synchronize()
        ran, start = self._cpu_clock(), self._clock()
        events[0].record()
        for phase, event in zip(phases.values(), events[1:], strict=True):
            phase()
            event.record()
        host_ms = 1000 * (self._clock() - start)
        off_ms = host_ms - 1000 * (self._cpu_clock() - ran)
        self._synchronize()
        phases_ms = tuple(a.elapsed_time(b) for a, b in pairwise(events))
        return Sample(phases_ms, host_ms, off_ms)


def timer_of(device: str) -> Timer:
    """Return the clock of a device."""
    if not device.startswith("cuda"):
        return WallTimer()
    import torch

    return EventTimer(partial(torch.cuda.Event, enable_timing=True), torch.cuda.synchronize)
