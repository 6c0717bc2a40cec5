"""The rows of `latency`, `latency_layers` and `ceilings`: plain values, units in the names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# phase -> launch -> block -> the milliseconds of each run
Samples = Mapping[str, Sequence[Sequence[Sequence[float]]]]


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """One network under one condition; None is what was not, or cannot be, measured.

    status        "ok", "out of memory", or why there is no number
    group         the same for all rows of networks that were timed in turns
    backend       what runs the network: eager, compiled, cudagraph
    op_backend    what computes our operators in it: torch, triton, reference; None if it has none
    macs          of the forward pass of the whole batch
    traffic_bytes what the operators of an eager forward pass read and write
    median_ms     of a step (training) or forward pass: the median over launches of the medians
                  over rounds, with its 95 % interval; q1_ms and q3_ms are quartiles of all runs
    p90_ms, p99_ms  where there are runs enough: 64 and 662
    phases_ms     medians of forward, backward and optimiser apart
    ratio         of the time to that of `against` in the same turns, with its 95 % interval
    overhead_ms   what an empty operation takes under the same clock
    host_ms       until the host has queued the work of a step (CUDA)
    kernels_ms    sum of the kernels of a step on the device (CUDA), and `kernels` how many
    build_s, first_s  making the network, and its first step: loading, searching, compiling
    whole_graph   whether torch.compile took it in one piece
    peak_mib      above the weights, during a step: allocated (CUDA), or resident (CPU)
    reserved_mib  of the CUDA allocator above the weights
    rss_mib       peak resident size of a fresh process that builds the network and runs two steps
    max_difference  from the reference path, as a part of its largest value; None: it is that path
    page_faults   per run; other_load  cores busy with something else
    disturbed     runs that were off the CPU for more than a tenth of their time
    """

    model: str
    against: str | None
    group: str
    status: str
    device: str
    device_name: str
    threads: int
    mode: str
    batch: int
    image_size: tuple[int, int]
    dtype: str
    layout: str
    backend: str
    cache: str
    params: int
    macs: int | None
    op_backend: str | None = None
    traffic_bytes: int | None = None
    weights_mib: float | None = None
    median_ms: float | None = None
    q1_ms: float | None = None
    q3_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    images_s: float | None = None
    phases_ms: Mapping[str, float] = field(default_factory=dict)
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    overhead_ms: float | None = None
    host_ms: float | None = None
    kernels_ms: float | None = None
    kernels: int | None = None
    build_s: float | None = None
    first_s: float | None = None
    whole_graph: bool | None = None
    max_difference: float | None = None
    peak_mib: float | None = None
    reserved_mib: float | None = None
    rss_mib: float | None = None
    gflops_s: float | None = None
    roof_gflops_s: float | None = None
    roof_gb_s: float | None = None
    intensity: float | None = None
    fraction: float | None = None
    bound: str | None = None
    launches: int | None = None
    blocks: int | None = None
    runs: int | None = None
    warmup_runs: int | None = None
    stable: bool | None = None
    precise: bool | None = None
    disturbed: int | None = None
    page_faults: float | None = None
    other_load: float | None = None
    largest_batch: int | None = None
    failing_batch: int | None = None
    notes: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    clocks: Sequence[Mapping[str, Any]] = ()
    samples_ms: Samples = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LayerTimeRow:
    """One layer's own time in an eager forward pass, beside that of `against`."""

    model: str
    against: str | None
    group: str
    device: str
    device_name: str
    threads: int
    batch: int
    image_size: tuple[int, int]
    dtype: str
    layout: str
    layer: str
    kind: str | None
    macs: int | None
    ms: float | None
    against_kind: str | None
    against_macs: int | None
    against_ms: float | None
    op_backend: str | None = None
