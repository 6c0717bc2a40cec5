"""Where the time of a network goes: the own time of each module, paired as the costs are."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import nn

from ctxbench.measure.flops import Count
from ctxbench.measure.parity import backbone_prefix, pair_layers, sum_by_layer

REST = "(rest)"


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One layer of a network beside that of the same name in another; None where absent.

    `ms` is the own time of all that the layer holds.
    """

    layer: str
    kind: str | None
    macs: int | None
    ms: float | None
    against_kind: str | None = None
    against_macs: int | None = None
    against_ms: float | None = None


def layer_times(
    model: nn.Module,
    run: Callable[[], object],
    *,
    runs: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Time the modules of a network in eager runs of it, after one run that does not count.

    Returns the median own time in milliseconds by path ("" is the network itself): from the call
    of a module to its end, with its hooks, less what its children take. Calls in one run add up; a
    module with several names has the first; one that is never called is absent. Each call is
    longer by the microseconds that the marks take, and on CUDA, where events are the marks, an
    interval holds the time in which the device waits for the host.

    Raises: ValueError if `runs` is below 1.
    """
    if runs < 1:
        raise ValueError(f"layer_times needs one run or more; got runs={runs}.")
    run()
    spent = []
    on_cuda = device.type == "cuda"
    with torch.cuda.device(device) if on_cuda else nullcontext():
        marks = _CudaMarks() if on_cuda else _Marks(clock)
        with _marked(model, marks):
            for _ in range(runs):
                marks.begin()
                run()
                spent.append(marks.own_ms())
    names = (name for name, _ in model.named_modules() if any(name in own for own in spent))
    return {name: median(own.get(name, 0.0) for own in spent) for name in names}


class _Marks:
    """Moments at which another module becomes the innermost one that runs."""

    def __init__(self, clock: Callable[[], Any]) -> None:
        self._now = clock
        self.begin()

    def begin(self) -> None:
        """Forget the last run."""
        self._running: list[str] = []
        self._moments: list[tuple[str | None, Any]] = []

    def enter(self, name: str) -> None:
        """Mark that a module is called."""
        self._running.append(name)
        self._moments.append((name, self._now()))

    def leave(self) -> None:
        """Mark that the innermost module has ended."""
        now = self._now()
        self._running.pop()
        self._moments.append((self._running[-1] if self._running else None, now))

    def own_ms(self) -> dict[str, float]:
        """Return the time between the moments, in milliseconds, by the module that ran."""
        own: dict[str, float] = {}
        for (name, start), (_, end) in pairwise(self._moments):
            if name is not None:
                own[name] = own.get(name, 0.0) + self._ms(start, end)
        return own

    def _ms(self, start: Any, end: Any) -> float:
        return float(end - start) * 1000


class _CudaMarks(_Marks):
    """Marks in the stream of the current device, which are read when it has reached them all."""

    def __init__(self) -> None:
        super().__init__(lambda: torch.cuda.current_stream().record_event(_event()))

    def own_ms(self) -> dict[str, float]:
        """Wait for the device, and return the times between the marks."""
        torch.cuda.synchronize()
        return super().own_ms()

    def _ms(self, start: Any, end: Any) -> float:
        return float(start.elapsed_time(end))


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


@contextmanager
def _marked(model: nn.Module, marks: _Marks) -> Iterator[None]:
    """Mark the begin and end of each module, outside its other hooks."""
    with ExitStack() as hooks:
        for name, module in model.named_modules():

            def enter(_module: nn.Module, _inputs: Any, name: str = name) -> None:
                marks.enter(name)

            def leave(_module: nn.Module, _inputs: Any, _output: Any) -> None:
                marks.leave()

            for handle in (
                module.register_forward_pre_hook(enter, prepend=True),
                module.register_forward_hook(leave, always_call=True),
            ):
                hooks.callback(handle.remove)
        yield


def pair_times(
    counted: Count,
    mine: Mapping[str, float],
    against: Count | None = None,
    theirs: Mapping[str, float] | None = None,
) -> list[LayerTime]:
    """Pair own times by layer, one row for each that `pair_layers` makes; rows sum to the total.

    The last row is what no layer holds: activations, additions, pooling between them.

    Raises: ValueError if there are times of a second network and no count of it, or the reverse.
    """
    if (against is None) != (theirs is None):
        raise ValueError("pair_times takes both the count and the times of a second network.")
    pairs = pair_layers(counted, against)
    own = _by_layer(counted, mine, against, [p.layer for p in pairs if p.macs is not None])
    other: dict[str | None, float] = {}
    if against is not None and theirs is not None:
        listed = [p.layer for p in pairs if p.against_macs is not None]
        other = _by_layer(against, theirs, counted, listed)
    rows = [
        LayerTime(
            pair.layer,
            pair.kind,
            pair.macs,
            own.get(pair.layer),
            pair.against_kind,
            pair.against_macs,
            other.get(pair.layer),
        )
        for pair in pairs
    ]
    rest = (None, 0, other[None]) if against else (None, None, None)
    return [*rows, LayerTime(REST, None, 0, own[None], *rest)]


def _by_layer(
    counted: Count, times: Mapping[str, float], other: Count | None, listed: list[str]
) -> dict[str | None, float]:
    """Add up own times by the layer that holds them; None stands for no layer."""
    prefix = backbone_prefix(counted, other) if other else ""
    bare = {name.removeprefix(prefix): ms for name, ms in times.items()}
    return dict.fromkeys([None, *listed], 0.0) | sum_by_layer(bare, set(listed))
