"""Networks timed in turns, each in a process of its own: `measure` makes the rows."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ctxbench.errors import CountingError, LatencyError, OutOfMemoryError
from ctxbench.latency.condition import Condition, Plan, check
from ctxbench.latency.protocol import (
    MIN_ROUNDS,
    Block,
    Launch,
    is_precise,
    runs_a_block,
    take_turns,
)
from ctxbench.latency.rows import LatencyRow, LayerTimeRow
from ctxbench.latency.subject import check_folding, check_op_backend, op_backend
from ctxbench.latency.summary import Found, Machine, Summary, slowest
from ctxbench.latency.worker import Worker
from ctxbench.measure.costs import Setting, count_spec
from ctxbench.measure.flops import Count

Notify = Callable[[str], None]
_LAYER_RUNS = 3  # in each of the two turns of a launch
_SETTLE_S = 1.0  # a run that takes longer needs none before it to fill the caches


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured under one condition; `ceilings` where the machine was asked anew."""

    rows: Sequence[LatencyRow]
    layers: Sequence[LayerTimeRow] = ()
    ceilings: Mapping[str, Any] | None = None


def measure_all(
    specs: Sequence[str],
    conditions: Sequence[Condition],
    *,
    against: str | None = None,
    plan: Plan,
    per_layer: bool = False,
    largest: bool = False,
    notify: Notify = lambda text: None,
) -> Iterator[Measured]:
    """Measure networks under one condition after the other, and yield what each gave.

    `largest` finds the largest batch of each network, and times it alone at that batch: two
    networks at two batches have no time in common, only a throughput.
    """
    check(conditions)
    if against is not None and set(specs) == {against}:
        raise LatencyError(f"{against} is compared with itself. Name another network.")
    for condition in conditions:
        if per_layer:
            check_layers(condition)
        if largest:
            check_largest(condition, per_layer=per_layer)
    names = list(dict.fromkeys([*specs, *([against] if against else [])]))
    for condition in conditions:
        for name in names:
            check_folding(name, condition)
            check_op_backend(name, condition)
            count_one(name, condition)  # what cannot run is told before anything is measured
    known: dict[tuple[str, str], Machine] = {}
    for condition in conditions:
        place = (condition.device, condition.dtype)
        new = None
        if place not in known:
            notify(f"{condition.device}, {condition.dtype}: the ceilings of this machine")
            known[place] = know_machine(condition)
            new = known[place].as_row(condition)
        if largest:
            for name in names:
                row = measure_largest(
                    name, condition, plan=plan, machine=known[place], notify=notify
                )
                yield Measured([row], ceilings=new)
                new = None
        else:
            found, layers = measure(
                specs, condition, against=against, plan=plan, per_layer=per_layer,
                machine=known[place], notify=notify,
            )  # fmt: skip
            yield Measured(found, layers, new)


def measure(
    specs: Sequence[str],
    condition: Condition,
    *,
    against: str | None = None,
    plan: Plan,
    per_layer: bool = False,
    machine: Machine,
    notify: Notify = lambda text: None,
) -> tuple[list[LatencyRow], list[LayerTimeRow]]:
    """Time networks in turns under one condition, and the one they are compared with among them.

    A network that does not fit into the memory gets a row that says so, and the others go on.
    `machine` is what `know_machine` returns for this device and dtype.
    Raises: LatencyError for what cannot be measured, or would be measured wrongly.
    """
    check([condition])
    names = list(dict.fromkeys([*specs, *([against] if against else [])]))
    counts = {name: count_one(name, condition) for name in names}
    found = {name: Found(op_backend=op_backend(name)) for name in names}
    launches: list[Launch] = []
    with tempfile.TemporaryDirectory(prefix="ctxbench-", ignore_cleanup_errors=True) as folder:
        run = _Run(condition, plan, against, per_layer, Path(folder), found)
        for index in range(plan.launches):
            notify(f"{condition}: processes {index + 1} of {plan.launches}")
            launches.append(run.launch(launches))
        for name in names:
            run.measure_memory(name)
    summary = Summary(condition, plan, against, f"{time.time_ns():x}", machine)
    rows = [summary.row(name, counts[name], found[name], launches) for name in names]
    layers: list[LayerTimeRow] = []
    for index, row in enumerate(rows):
        if found[row.model].layers and row.model != against:
            mine = list(summary.layers(row.model, counts, found))
            layers += mine
            if any(each.against_ms is not None for each in mine):
                rows[index] = replace(row, notes=[*row.notes, slowest(mine)])
    return rows, layers


def measure_largest(
    spec: str,
    condition: Condition,
    *,
    plan: Plan,
    machine: Machine,
    notify: Notify = lambda text: None,
) -> LatencyRow:
    """Find the largest batch that fits into the memory, and time the network at it, alone.

    If not even one sample fits, the row says so.
    Raises: what `measure` raises.
    """
    check([condition])
    check_largest(condition)
    worker = Worker(spec, condition, memory="kept")

    def fits(batch: int) -> bool:
        nonlocal worker
        notify(f"{spec}: does a batch of {batch} fit?")
        try:
            return bool(worker.call("fits", batch=batch))
        except OutOfMemoryError:  # the system has ended the process
            worker.close()
            worker = Worker(spec, condition, memory="kept")
            return False

    try:
        fitting, failing = largest(fits)
    finally:
        worker.close()
    if not fitting:
        reason = f"not even a batch of {failing} fits"
        found = Found(failure=reason, op_backend=op_backend(spec))
        summary = Summary(condition, plan, None, f"{time.time_ns():x}", machine)
        row = summary.row(spec, count_one(spec, condition), found, [])
        return replace(row, failing_batch=failing)
    while True:
        condition = replace(condition, batch=fitting)
        (row,), _ = measure([spec], condition, plan=plan, machine=machine, notify=notify)
        if row.status == "ok" or fitting == 1:
            return replace(row, largest_batch=fitting, failing_batch=failing)
        failing, fitting = fitting, fitting - max(1, fitting // 16)  # many steps need more than one


def largest(fits: Callable[[int], bool], *, limit: int = 2**20) -> tuple[int, int | None]:
    """Return the largest batch known to fit, and the smallest known not to.

    Doubles until one fails, then halves the gap until it is a sixteenth.
    """
    good, bad = 0, None
    batch = 1
    while bad is None and batch <= limit:
        if fits(batch):
            good, batch = batch, 2 * batch
        else:
            bad = batch
    while bad is not None and bad - good > max(1, good // 16):
        middle = (good + bad) // 2
        if fits(middle):
            good = middle
        else:
            bad = middle
    return good, bad


def know_machine(condition: Condition) -> Machine:
    """Ask a fresh process for the name of the device and for its ceilings in that dtype."""
    with Worker("", condition, memory="kept") as worker:
        return Machine(worker.call("device"), worker.call("ceilings"))


def count_one(spec: str, condition: Condition) -> Count:
    """Count the forward pass of one sample; a batch costs as much for each."""
    try:
        return count_spec(spec, Setting(1, condition.image_size, allow_uncounted=True))[0]
    except CountingError as error:
        raise LatencyError(f"{spec}: {error}") from None


class _Run:
    """One comparison under way; what it finds out about each network goes into `found`."""

    def __init__(
        self, condition: Condition, plan: Plan, against: str | None, per_layer: bool, cache: Path,
        found: Mapping[str, Found],
    ) -> None:  # fmt: skip
        self._condition, self._plan, self._against = condition, plan, against
        self._per_layer, self._cache, self._found = per_layer, cache, found
        self._spent_s = 0.0

    def launch(self, before: Sequence[Launch]) -> Launch:
        """Start a process for each network that fits, and let them take turns."""
        while True:
            with ExitStack() as stack:
                workers = self._start(stack, first=not before)
                try:
                    launch = self._take_turns(workers, before)
                except _DoesNotFitError as failed:  # beside the others; they begin again without it
                    self._found[failed.name].failure = str(failed)
                    continue
                for name, worker in workers.items():
                    self._explain(name, worker, first=not before)
                for name in [*workers, *reversed(workers)] if self._per_layer else ():
                    times = workers[name].call("layers", runs=_LAYER_RUNS)
                    self._found[name].layers.append(times)
                return launch

    def _start(self, stack: ExitStack, *, first: bool) -> dict[str, Worker]:
        """Start all processes at once, then get one after the other ready."""
        workers = {
            name: stack.enter_context(
                Worker(name, self._condition, memory="kept", cache=self._cache_of(name))
            )
            for name, found in self._found.items()
            if not found.failure
        }
        for name, worker in list(workers.items()):
            found = self._found[name]
            try:
                found.ready.append(
                    worker.call("get_ready", check=first, warmup_s=self._plan.warmup_s)
                )
            except OutOfMemoryError as error:
                found.failure = str(error)
                workers.pop(name).close()
        return workers

    def _cache_of(self, name: str) -> Path:
        """Return where a network's compiled code is kept: nobody's first step is another's."""
        return self._cache / str(list(self._found).index(name))

    def _take_turns(self, workers: Mapping[str, Worker], before: Sequence[Launch]) -> Launch:
        """Let all take turns for their share of the time that is left.

        The launches before the last end when they are narrow themselves, the last when all are.
        """
        if not workers:
            return Launch()
        left = self._plan.launches - len(before)
        start = time.perf_counter()
        launch = take_turns(
            {name: partial(self._turn, name, worker) for name, worker in workers.items()},
            reverse=len(before) % 2 == 1,
            enough=partial(self._enough, before if left == 1 else ()),
            budget_s=(self._plan.budget_s - self._spent_s) / left,
            clock=time.perf_counter,
        )
        self._spent_s += time.perf_counter() - start
        return launch

    def _turn(self, name: str, worker: Worker) -> Block:
        run_s = self._found[name].ready[-1].pace_s
        runs = runs_a_block(run_s, self._plan.block_s)
        try:
            block: Block = worker.call("block", runs=runs, settle=int(run_s < _SETTLE_S))
        except OutOfMemoryError as error:
            raise _DoesNotFitError(name, error) from None
        return block

    def _enough(self, before: Sequence[Launch], launch: Launch) -> bool:
        rounds = len(next(iter(launch.blocks.values()))) // 2
        known = [*before, launch]
        return rounds >= MIN_ROUNDS and is_precise(known, self._against, self._plan.precision)

    def _explain(self, name: str, worker: Worker, *, first: bool) -> None:
        """Ask what explains the times; what does not fit beside them stays unknown."""
        found = self._found[name]
        found.clocks.append(worker.call("clocks"))
        with suppress(OutOfMemoryError):
            if first and self._condition.cuda:
                found.kernels = worker.call("kernels")
                found.peaks = worker.call("peaks")  # exact in any process: its allocator counts
            if first:
                found.traffic_bytes = worker.call("traffic")

    def measure_memory(self, name: str) -> None:
        """Measure the peaks of a network in one more process, which keeps no freed memory."""
        found = self._found[name]
        if found.failure or found.peaks:
            return
        try:
            cache = self._cache_of(name)
            with Worker(name, self._condition, memory="returned", cache=cache) as worker:
                found.peaks = worker.call("peaks")
        except OutOfMemoryError as error:
            found.failure = str(error)


class _DoesNotFitError(Exception):
    def __init__(self, name: str, error: Exception) -> None:
        self.name = name
        super().__init__(str(error))


def check_layers(condition: Condition) -> None:
    """Refuse to time layers where they cannot be told apart."""
    if condition.backend != "eager" or condition.mode != "inference":
        raise LatencyError(
            "--per-layer times the modules of eager inference. Leave --backend and --mode out."
        )


def check_largest(condition: Condition, *, per_layer: bool = False) -> None:
    """Refuse to search a batch where each would be compiled anew."""
    if per_layer:
        raise LatencyError("--batch max times whole networks. Leave it or --per-layer out.")
    if condition.backend != "eager":
        raise LatencyError("--batch max is found in eager mode. Leave --backend out.")
