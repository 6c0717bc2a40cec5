"""How long the steps of a training take, without what happens between them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Adds up the time of steps: on a GPU by events, since a step returns before it has run."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time what happens inside."""
        if self._on_gpu:
            began = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            ended = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            began.record()
            yield
            ended.record()
            self._events.append((began, ended))
        else:
            began_s = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - began_s

    def take(self) -> float:
        """Return the seconds since the last time; the GPU must have done all it was given."""
        seconds = self._seconds + sum(float(a.elapsed_time(b)) for a, b in self._events) / 1000
        self._seconds, self._events = 0.0, []
        return seconds
