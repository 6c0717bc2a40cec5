"""Times side by side: `ctxbench latency` as a function."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pandas import DataFrame

from ctxbench.api._networks import Network, Networks, Size, beside, named, side_of, size_of
from ctxbench.api._rows import frame_of, saved_in, without_empty
from ctxbench.api._times import lines_of, time_all
from ctxbench.latency.condition import Plan, sweep
from ctxbench.records import Row
from ctxbench.report.timings import answer

_KEPT = ("model", "against", "status", "median_ms")
# what only the saved rows hold
_LEFT_OUT = ("group", "phases_ms", "settings", "clocks", "place", "made_of")


def time_networks(  # noqa: PLR0913 - the options of `ctxbench latency`
    networks: Networks,
    *,
    against: Network | None = None,
    mode: Literal["inference", "training"] = "inference",
    batch: int | str | Sequence[int] = 1,
    image_size: Size | Sequence[Size] | None = None,
    dtype: str | Sequence[str] = "fp32",
    channels_last: bool = False,
    backend: str | Sequence[str] = "eager",
    cold_cache: bool = False,
    device: str = "auto",
    threads: int | None = None,
    per_layer: bool = False,
    precision: float = 2.0,
    budget_s: float = 30.0,
    warmup_s: float = 5.0,
    launches: int = 5,
    seed: int = 0,
    out: str | Path | None = None,
    notify: Callable[[str], None] = lambda text: None,
) -> DataFrame:
    """Measure latency, throughput and memory, in turns with another network.

    Options are those of the command; `batch`, `image_size`, `dtype` and `backend` may be lists, and
    `batch="max"` is the largest that fits. Each network runs in fresh processes, a module in
    memory as a copy: its classes must be in files that a new process can import. Times are in
    milliseconds a batch; `ratio` is that to `against`, with a 95 % interval, and `answer` says it
    in words. `precision` is half that interval in %, `budget_s` the seconds of timing at most,
    for each condition. `notify` is told what is under way. With `out`, a folder of results, the
    rows are saved there as they are made.

    >>> times = time_networks("op/coconv:channels=8", against="op/conv:channels=8", image_size=8,
    ...     launches=1, budget_s=0.05, warmup_s=0.05, precision=50)
    >>> times[["model", "status"]]
                      model status
    0  op/coconv:channels=8     ok
    1    op/conv:channels=8     ok

    Raises: CtxbenchError for what cannot be named, or measured as asked.
    """
    found = named(networks)
    first = side_of(next(iter(found.values())))
    one = [image_size] if isinstance(image_size, tuple) else _listed(image_size)
    conditions = sweep(
        batches=[] if batch == "max" else [str(each) for each in _listed(batch)],
        image_sizes=[size_of(each) or (first, first) for each in one],
        dtypes=_listed(dtype),
        backends=_listed(backend),
        device=device,
        mode=mode,
        layout="channels_last" if channels_last else "contiguous",
        cache="cold" if cold_cache else "warm",
        threads=threads,
        seed=seed,
    )
    rows: list[Row] = []
    layers: list[Row] = []
    for made in time_all(
        found,
        conditions,
        against=beside(against, found),
        plan=Plan(launches, budget_s, precision / 100, warmup_s),
        per_layer=per_layer,
        largest=batch == "max",
        raw=saved_in(out),
        notify=notify,
    ):
        rows += made["latency"]
        layers += made["latency_layers"]
    lines = layers if per_layer else [_answered(line) for line in lines_of(rows)]
    kept = [{key: line[key] for key in line if key not in _LEFT_OUT} for line in lines]
    return without_empty(frame_of(kept), _KEPT)


def _answered(line: Row) -> Row:
    said = answer(line) if line.get("macs_ratio") else None
    return {**line, "answer": said, "notes": "; ".join(line["notes"]) or None}


def _listed(value: Any) -> list[Any]:
    """Return the values of a list, or of text like `1,8,64`, each once."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    return list(dict.fromkeys(value if isinstance(value, Iterable) else [value]))
