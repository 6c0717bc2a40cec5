"""What the process of one network can be asked: get ready, run a turn, tell memory and layers."""

import gc
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ctxbench.errors import LatencyError
from ctxbench.latency import machine
from ctxbench.latency.clock import Sample, timer_of
from ctxbench.latency.condition import Condition
from ctxbench.latency.protocol import Block
from ctxbench.latency.statistics import stable
from ctxbench.latency.subject import DTYPES, TOLERANCES, Subject, compare, set_precision

_EMPTY_RUNS = 200
_STABLE = 0.03  # two windows of the warm-up agree when their medians are this close
_WINDOW_S, _SMALLEST_WINDOW, _LARGEST_WINDOW = 0.1, 3, 50


@dataclass(frozen=True, slots=True)
class Ready:
    """What getting a network ready has shown; `pace_s` is a run with all that goes beside it."""

    build_s: float
    first_s: float
    warmup_runs: int
    stable: bool
    pace_s: float
    overhead_ms: float
    weights_mib: float
    max_difference: float | None
    whole_graph: bool | None
    settings: dict[str, Any]
    note: str


class Bench:
    """One network under one condition, in a process of its own."""

    def __init__(self, spec: str, condition: Condition, settings: dict[str, Any]) -> None:
        self._spec, self._condition, self._settings = spec, condition, settings
        self._timer = timer_of(condition.device)
        self._flush = _flusher(condition) if condition.cache == "cold" else None

    @cached_property
    def _subject(self) -> Subject:
        start = time.perf_counter()
        subject: Subject = self._explained(partial(Subject, self._spec, self._condition))
        self._synchronize()
        self._build_s = time.perf_counter() - start
        return subject

    # getting ready

    def get_ready(self, *, check: bool, warmup_s: float) -> Ready:
        """Make the first step, and run until the time is steady.

        With `check`, a fast path is first held against the plain form: the two are run once.
        """
        subject = self._subject
        reference, note = self._reference() if check and subject.fast else ([], "")
        start = time.perf_counter()
        self._explained(subject.make_fast)
        results = self._explained(subject.results if reference else self._step)
        self._synchronize()
        first_s = time.perf_counter() - start
        difference = self._difference(results, reference) if reference else None
        with subject.grad_mode():
            overhead = median(self._timer({"": _nothing}).total_ms for _ in range(_EMPTY_RUNS))
            runs, settled = warm_up(lambda: self._sample().total_ms, limit_s=warmup_s)
            start = time.perf_counter()
            self._sample()
            pace_s = time.perf_counter() - start
        return Ready(
            build_s=self._build_s,
            first_s=first_s,
            warmup_runs=runs,
            stable=settled,
            pace_s=pace_s,
            overhead_ms=overhead,
            weights_mib=subject.weights_bytes / machine.MIB,
            max_difference=difference,
            whole_graph=_whole_graph() if self._condition.backend == "compiled" else None,
            settings=self._settings,
            note=note,
        )

    def _reference(self) -> tuple[list[Tensor], str]:
        """Return what the plain form computes, or nothing, and why it says nothing."""
        first, second = (self._explained(self._subject.results) for _ in range(2))
        if not all(x.isfinite().all() for x in first):
            return [], "not compared with the plain form, whose results are not finite"
        if compare(second, first) > TOLERANCES[self._condition.dtype]:
            return [], "not compared with the plain form, which draws random numbers"
        return first, ""

    def _difference(self, results: list[Tensor], reference: list[Tensor]) -> float:
        difference = compare(results, reference)
        if not difference <= TOLERANCES[self._condition.dtype]:
            raise LatencyError(
                f"{self._spec} ({self._condition}) is wrong: it differs from the plain form by "
                f"{difference:.2g} of its largest value. Its time would mean nothing."
            )
        return difference

    def _explained(self, run: Callable[[], Any]) -> Any:
        """Run something; an input that does not fit a network is the user's to mend."""
        try:
            return run()
        except (ValueError, IndexError, RuntimeError) as error:
            if machine.is_out_of_memory(error) or type(error).__module__.startswith("torch."):
                raise
            raise LatencyError(
                f"{self._spec} cannot run ({self._condition}): {_first_line(error)}"
            ) from None

    # turns

    def block(self, *, runs: int, settle: int) -> Block:
        """Time a turn of `runs` steps, after `settle` untimed ones that fill the caches again."""
        for _ in range(settle):
            self._step()
        load, faults, start = machine.Load(), machine.page_faults(), time.perf_counter()
        with self._subject.grad_mode():
            samples = [self._sample() for _ in range(runs)]
        others = load.others(time.perf_counter() - start)
        faulted = machine.page_faults() - faults
        names = self._subject.phases()
        columns = zip(*(sample.phases_ms for sample in samples), strict=True)
        return Block(
            phases_ms=dict(zip(names, map(list, columns), strict=True)),
            disturbed=sum(sample.disturbed for sample in samples),
            page_faults=faulted / runs,
            other_load=others,
            host_ms=[sample.host_ms for sample in samples] if self._condition.cuda else (),
        )

    def _sample(self) -> Sample:
        if self._flush:
            self._flush()
        return self._timer(self._subject.phases())

    def _step(self) -> None:
        with self._subject.grad_mode():
            for phase in self._subject.phases().values():
                phase()
        self._synchronize()

    # what explains it

    def traffic(self) -> int:
        """Return the bytes that the operators of an eager forward pass read and write."""
        from ctxbench.measure.traffic import traffic

        return traffic(self._subject.plain_forward)

    def layers(self, *, runs: int) -> dict[str, float]:
        """Return the own time in ms of every module in an eager forward pass."""
        from ctxbench.latency.layers import layer_times

        subject, device = self._subject, torch.device(self._condition.device)
        with subject.grad_mode():
            return layer_times(subject.model, subject.plain_forward, runs=runs, device=device)

    def kernels(self, *, steps: int = 3) -> tuple[float, int] | None:
        """Return ms and number of a step's kernels on the device, as the profiler sees them."""
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for _ in range(steps):
                self._step()
        events = [e for e in profiler.events() or () if e.device_type.name == "CUDA"]
        spent_us = sum(event.self_device_time_total for event in events)
        return (spent_us / 1000 / steps, len(events) // steps) if spent_us else None

    def ceilings(self) -> dict[str, Any]:
        """Return what this machine reaches on a large product and on a large copy."""
        from ctxbench.latency.ceilings import measure_ceilings

        set_precision(self._condition)
        device, dtype = torch.device(self._condition.device), DTYPES[self._condition.dtype]
        return asdict(measure_ceilings(device, dtype))

    def device(self) -> dict[str, Any]:
        """Return the name of the device, and of its driver and libraries."""
        if not self._condition.cuda:
            return {"device_name": machine.cpu_name()}
        state = _gpu_state(torch.cuda.current_device())
        return {
            "device_name": torch.cuda.get_device_name(self._condition.device),
            "driver": state.get("driver_version"),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        }

    def clocks(self) -> dict[str, Any]:
        """Return the clocks, of a GPU while it works, and what slows them down."""
        if not self._condition.cuda:
            mhz = machine.cpu_mhz()
            return {} if mhz is None else {"cpu_mhz": round(mhz)}
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(_gpu_state, torch.cuda.current_device())
            while not asked.done():
                self._step()
        state = asked.result()
        return {**state, "throttled": machine.throttled(state)} if state else {}

    # memory

    def peaks(self) -> dict[str, float | None]:
        """Return peaks of memory in MiB: of a step above the weights, and of the whole process.

        The first step is not counted: it loads code, and searches.
        """
        self._flush = None  # its buffer is not the network's
        self._subject.make_fast()
        weights = self._subject.weights_bytes
        self._step()
        gc.collect()
        if self._condition.cuda:
            return self._cuda_peaks(weights)
        whole = machine.peak_resident_mib()
        held = machine.resident_mib() if machine.restart_peak() else None
        self._step()
        top = machine.peak_resident_mib()
        if whole is None or top is None or held is None:
            return {"rss_mib": top}
        state = self._subject.state_bytes / machine.MIB
        return {"peak_mib": top - held + state, "rss_mib": max(whole, top)}

    def _cuda_peaks(self, weights: int) -> dict[str, float | None]:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        self._step()
        peak = (torch.cuda.max_memory_allocated() - weights) / machine.MIB
        return {
            # a replayed graph allocates nothing: what it needs is reserved
            "peak_mib": None if self._condition.backend == "cudagraph" else peak,
            "reserved_mib": (torch.cuda.max_memory_reserved() - weights) / machine.MIB,
        }

    def fits(self, *, batch: int) -> bool:
        """Tell whether a step of that batch fits into the memory."""
        subject = self._subject
        try:
            subject.make_fast()
            subject.set_batch(batch)
            self._explained(self._step)
        except (RuntimeError, MemoryError) as error:
            if not machine.is_out_of_memory(error):
                raise
            return False
        finally:
            subject.forget()
            gc.collect()
            if self._condition.cuda:
                torch.cuda.empty_cache()
        return True

    def _synchronize(self) -> None:
        if self._condition.cuda:
            torch.cuda.synchronize()


def warm_up(
    sample: Callable[[], float],
    *,
    limit_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[int, bool]:
    """Run until the times settle, or for `limit_s`; return how many runs, and whether they did.

    Two windows of equal length have to agree; what a window is depends on how long a run takes.
    """
    start = clock()
    samples = [sample()]
    while True:
        wanted = round(1000 * _WINDOW_S / max(median(samples[-5:]), 1e-6))
        window = max(_SMALLEST_WINDOW, min(_LARGEST_WINDOW, wanted))
        settled = stable(samples, window=window, tolerance=_STABLE)
        if settled or clock() - start >= limit_s:
            return len(samples), settled
        samples.append(sample())


def _nothing() -> None:
    """Do nothing: what timing this takes is the overhead of the clock."""


def _flusher(condition: Condition) -> Callable[[], object]:
    """Return what overwrites the last cache of a device, twice its size."""
    if condition.cuda:
        size = 2 * torch.cuda.get_device_properties(condition.device).L2_cache_size
    else:
        size = int(2 * (machine.last_cache_mib() or 64) * machine.MIB)
    buffer = torch.empty(size, dtype=torch.int8, device=condition.device)
    return buffer.zero_


def _gpu_state(index: int) -> dict[str, Any]:
    """Ask for the state of a GPU, which CUDA_VISIBLE_DEVICES may number otherwise."""
    properties = torch.cuda.get_device_properties(index)
    return machine.gpu_state(f"GPU-{properties.uuid}")


def _whole_graph() -> bool:
    """Tell whether torch.compile took the network, and in one piece."""
    from torch._dynamo.utils import counters

    return bool(counters["stats"]["unique_graphs"]) and not counters["graph_break"]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
