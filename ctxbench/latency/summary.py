"""From turns to rows: medians, intervals, ratios, rates, and what to be careful about."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean, median
from typing import Any

from ctxbench.latency.bench import Ready
from ctxbench.latency.condition import Condition, Plan
from ctxbench.latency.layers import pair_times
from ctxbench.latency.protocol import MIN_ROUNDS, Block, Launch
from ctxbench.latency.roofline import roofline
from ctxbench.latency.rows import LatencyRow, LayerTimeRow
from ctxbench.latency.statistics import interval, narrow, percentile, ratio_interval
from ctxbench.measure.flops import Count

# what is worth a note: cores of other load, part of the runs disturbed, pages given at each run
_BUSY, _DISTURBED, _FAULTS = 0.25, 0.1, 100
_ENOUGH_LAUNCHES = 5  # to draw from; with 3, the 95 % of an interval are about 80 %
_ENDS = ("low", "high", "low_ms", "high_ms")
_DIGITS = 5  # of a sample in ms: 10 ns


@dataclass(frozen=True, slots=True)
class Machine:
    """The device and its libraries, and the ceilings measured on it (see `Ceilings`)."""

    device: Mapping[str, Any]
    ceilings: Mapping[str, Any]

    def as_row(self, condition: Condition) -> dict[str, Any]:
        """Return the ceilings, and what they are of."""
        keys = ("device", "threads", "dtype")
        asked = {key: getattr(condition, key) for key in keys}
        return {**self.device, **asked, **self.ceilings}


@dataclass(slots=True)
class Found:
    """What was found out about one network beside its turns; `failure` says why it has none.

    `op_backend` computes its operators.
    """

    ready: list[Ready] = field(default_factory=list)
    traffic_bytes: int | None = None
    kernels: tuple[float, int] | None = None
    clocks: list[dict[str, Any]] = field(default_factory=list)
    layers: list[dict[str, float]] = field(default_factory=list)
    peaks: dict[str, float | None] = field(default_factory=dict)
    failure: str | None = None
    op_backend: str | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """Makes the rows of networks that were timed in turns under one condition."""

    condition: Condition
    plan: Plan
    against: str | None
    group: str
    machine: Machine

    def row(
        self, name: str, counted: Count, found: Found, launches: Sequence[Launch]
    ) -> LatencyRow:
        """Make the row of one network."""
        macs = None if counted.uncounted else counted.macs * self.condition.batch
        values = {
            "params": counted.params,
            "macs": macs,
            "op_backend": found.op_backend,
            **self._asked(name),
        }
        if found.failure:
            return LatencyRow(status="out of memory", notes=[found.failure], **values)
        values |= _readiness(found.ready) | found.peaks | _times(_blocks(name, launches))
        values |= self._intervals(name, launches)
        values |= self._rates(macs, found.traffic_bytes, values["phases_ms"]["forward"])
        if found.kernels:
            values["kernels_ms"], values["kernels"] = found.kernels
        settings = {**self.machine.device, **found.ready[0].settings}
        notes = [*_cautions(values, counted, found, self.plan)]
        return LatencyRow(
            status="ok", notes=notes, settings=settings, clocks=found.clocks, **values
        )

    def layers(
        self, name: str, counts: Mapping[str, Count], found: Mapping[str, Found]
    ) -> Iterator[LayerTimeRow]:
        """Make a row for each layer of a network, beside the one that it is compared with."""
        other = self.against if self.against and not found[self.against].failure else None
        pairs = pair_times(
            counts[name],
            _medians(found[name].layers),
            counts[other] if other else None,
            _medians(found[other].layers) if other else None,
        )
        asked = {key: value for key, value in self._asked(name).items() if key not in _NO_LAYER}
        for pair in pairs:
            values = asdict(pair)
            for key in ("macs", "against_macs"):
                if values[key] is not None:
                    values[key] *= self.condition.batch
            yield LayerTimeRow(**asked, **values, op_backend=found[name].op_backend)

    def _asked(self, name: str) -> dict[str, Any]:
        asked = asdict(self.condition)
        del asked["seed"]
        return {
            "model": name,
            "against": self.against if name != self.against else None,
            "group": self.group,
            "device_name": self.machine.device["device_name"],
            **asked,
        }

    def _intervals(self, name: str, launches: Sequence[Launch]) -> dict[str, Any]:
        """Return time and ratio with their intervals; a handful of rounds has none."""
        mine = [launch.rounds(name) for launch in launches]
        value, low, high = interval(mine)
        rate = 1000 * self.condition.batch / value
        found = {"median_ms": value, "images_s": rate, "low_ms": low, "high_ms": high}
        theirs = [
            launch.rounds(self.against)
            for launch in launches
            if self.against and self.against in launch.blocks
        ]
        if name != self.against and len(theirs) == len(mine):
            value, low, high = ratio_interval(mine, theirs)
            found |= {"ratio": value, "ratio_low": low, "ratio_high": high}
        if sum(map(len, mine)) < MIN_ROUNDS:
            known = {key: value for key, value in found.items() if not key.endswith(_ENDS)}
            return {**known, "precise": False}
        return {**found, "precise": narrow(low, value, high, self.plan.precision)}

    def _rates(
        self, macs: int | None, traffic_bytes: int | None, forward_ms: float
    ) -> dict[str, Any]:
        """Hold the forward pass against the machine's ceilings."""
        roofs = (self.machine.ceilings["gflops_s"], self.machine.ceilings["gb_s"])
        found = {"traffic_bytes": traffic_bytes}
        found |= {"roof_gflops_s": roofs[0], "roof_gb_s": roofs[1]}
        if not macs or not traffic_bytes:
            return found
        at = roofline(2 * macs, traffic_bytes, forward_ms / 1000, roofs)
        return {
            **found,
            "gflops_s": at.achieved_gflops_s,
            "intensity": at.intensity,
            "fraction": at.fraction,
            "bound": at.bound,
        }


_NO_LAYER = ("mode", "backend", "cache")


def _readiness(ready: Sequence[Ready]) -> dict[str, Any]:
    """Tell of getting ready: first steps are those of the first processes, which compiled."""
    first = ready[0]
    return {
        "weights_mib": first.weights_mib,
        "build_s": first.build_s,
        "first_s": first.first_s,
        "max_difference": first.max_difference,
        "whole_graph": first.whole_graph,
        "overhead_ms": median(each.overhead_ms for each in ready),
        "warmup_runs": sum(each.warmup_runs for each in ready),
        "stable": all(each.stable for each in ready),
    }


def _times(launches: Sequence[Sequence[Block]]) -> dict[str, Any]:
    """Describe the runs of all launches and turns together."""
    blocks = [block for launch in launches for block in launch]
    totals = [total for block in blocks for total in block.totals_ms]
    phases = blocks[0].phases_ms
    host = [each for block in blocks for each in block.host_ms]
    return {
        "q1_ms": percentile(totals, 25),
        "q3_ms": percentile(totals, 75),
        "p90_ms": percentile(totals, 90),
        "p99_ms": percentile(totals, 99),
        "phases_ms": {
            phase: median(ms for block in blocks for ms in block.phases_ms[phase])
            for phase in phases
        },
        "host_ms": median(host) if host else None,
        "launches": len(launches),
        "blocks": len(blocks),
        "runs": len(totals),
        "disturbed": sum(block.disturbed for block in blocks),
        "page_faults": mean(block.page_faults for block in blocks),
        "other_load": _other_load(blocks),
        "samples_ms": {
            phase: [
                [[round(ms, _DIGITS) for ms in block.phases_ms[phase]] for block in launch]
                for launch in launches
            ]
            for phase in phases
        },
    }


def _cautions(values: Mapping[str, Any], counted: Count, found: Found, plan: Plan) -> Iterator[str]:
    """Say what makes the numbers weaker than they look, each with the way out."""
    if found.ready[0].note:
        yield found.ready[0].note
    if "low_ms" not in values:
        yield "too few rounds for an interval: raise --budget"
    elif "ratio" in values and not values["precise"]:
        half = (values["ratio_high"] - values["ratio_low"]) / 2 / values["ratio"]
        yield (
            f"the ratio is known to {100 * half:.2g} %, not to {100 * plan.precision:g} %: "
            f"raise --budget or --launches"
        )
    if values["launches"] < _ENOUGH_LAUNCHES:
        yield (
            f"processes were started {values['launches']} times: the interval leaves out a part of "
            f"how they differ; use --launches {_ENOUGH_LAUNCHES}"
        )
    if not values["stable"]:
        yield "its times had not settled when the warm-up ended: raise --warmup"
    if (values["other_load"] or 0) > _BUSY:
        yield f"{values['other_load']:.1f} cores were busy with something else"
    if values["disturbed"] > _DISTURBED * values["runs"]:
        yield f"{values['disturbed']} of {values['runs']} runs were interrupted"
    if (values["page_faults"] or 0) > _FAULTS:
        yield f"each run was given {values['page_faults']:.0f} pages anew, which takes time"
    if any(clocks.get("throttled") for clocks in found.clocks):
        yield "the GPU was throttled"
    if counted.uncounted:
        yield f"no counting rule for {', '.join(counted.uncounted)}: no MACs"
    if values["whole_graph"] is False:
        yield "torch.compile could not take it in one piece: parts run in eager mode between them"


def _blocks(name: str, launches: Sequence[Launch]) -> list[Sequence[Block]]:
    return [launch.blocks[name] for launch in launches]


def _other_load(blocks: Sequence[Block]) -> float | None:
    """Return the cores busy with something else over all blocks, each for as long as it took."""
    known = [(b.other_load, sum(b.totals_ms)) for b in blocks if b.other_load is not None]
    spent = sum(ms for _, ms in known)
    return max(0.0, sum(load * ms for load, ms in known) / spent) if spent else None


def _medians(times: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: median(each[name] for each in times if name in each) for name in times[0]}


def slowest(times: Sequence[LayerTimeRow], *, shown: int = 3) -> str:
    """Say in which kinds of layer, and in which layers, one network takes longer than another."""
    kinds: dict[str, float] = {}
    apart = {each.layer: (each.ms or 0) - (each.against_ms or 0) for each in times}
    for each in times:
        kind = each.kind or each.against_kind or each.layer
        kinds[kind] = kinds.get(kind, 0) + apart[each.layer]
    by_kind, by_layer = (
        ", ".join(
            f"{name or 'itself'} {ms:+.2g}"
            for name, ms in sorted(found.items(), key=lambda item: -abs(item[1]))[:shown]
        )
        for found in (kinds, apart)
    )
    return (
        f"{sum(apart.values()):+.2g} ms beside {times[0].against} layer by layer. "
        f"By kind: {by_kind}. Largest: {by_layer}"
    )
