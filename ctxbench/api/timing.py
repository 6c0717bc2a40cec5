"""Times side by side: `ctxbench latency` as a function."""

import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pandas import DataFrame
from torch import nn

from ctxbench.api._networks import (
    Network,
    Networks,
    Size,
    beside,
    channels_of,
    named,
    side_of,
    size_of,
)
from ctxbench.api._rows import frame_of, raw_of, without_empty
from ctxbench.errors import CtxbenchError, LatencyError
from ctxbench.latency.compare import measure_all
from ctxbench.latency.condition import Plan, sweep
from ctxbench.records import append_rows, as_row, prepare
from ctxbench.report.timings import answer, compared

_KEPT = ("model", "against", "status", "median_ms")
# what only the saved rows hold
_LEFT_OUT = ("group", "samples_ms", "phases_ms", "settings", "clocks", "place", "made_of")
# a network in memory goes to the process that times it in a file
_LOADER = """import torch


def network(in_channels=3):
    return torch.load({path!r}, map_location="cpu", weights_only=False)
"""


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
    other = beside(against, found)
    first = side_of(next(iter(found.values())))
    one = [image_size] if isinstance(image_size, tuple) else _listed(image_size)
    sizes = [size_of(each) or (first, first) for each in one]
    conditions = sweep(
        batches=[] if batch == "max" else [str(each) for each in _listed(batch)],
        image_sizes=sizes,
        dtypes=_listed(dtype),
        backends=_listed(backend),
        device=device,
        mode=mode,
        layout="channels_last" if channels_last else "contiguous",
        cache="cold" if cold_cache else "warm",
        threads=threads,
        seed=seed,
    )
    if out is not None:
        prepare(raw_of(out))
    kinds: dict[str, list[dict[str, Any]]] = {"latency": [], "latency_layers": [], "ceilings": []}
    with _as_specs({**found, **dict([other] if other else [])}) as specs:
        for each in measure_all(
            [specs[name] for name in found],
            conditions,
            against=specs[other[0]] if other else None,
            plan=Plan(launches, budget_s, precision / 100, warmup_s),
            per_layer=per_layer,
            largest=batch == "max",
            notify=notify,
        ):
            names = {spec: name for name, spec in specs.items()}
            made = {
                "latency": [_renamed(as_row(row), names) for row in each.rows],
                "latency_layers": [_renamed(as_row(row), names) for row in each.layers],
                "ceilings": [dict(each.ceilings)] if each.ceilings else [],
            }
            for kind, rows in made.items():
                kinds[kind] += rows
                if out is not None:
                    append_rows(kind, rows, raw=raw_of(out), seed=seed)
    return _table(kinds["latency_layers"] if per_layer else _answered(kinds["latency"]))


def _answered(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Put ratios and words beside times, and make a column of each phase."""
    beside_baseline = {(row["group"], row["model"]): row for row in compared(map(dict, rows))}
    lines = []
    for row in rows:
        line = dict(beside_baseline.get((row["group"], row["model"]), row))
        said = answer(line) if line.get("macs_ratio") else None
        phases = {f"{phase}_ms": ms for phase, ms in row["phases_ms"].items()}
        lines.append({**line, **phases, "answer": said, "notes": "; ".join(row["notes"]) or None})
    return lines


def _table(rows: Sequence[Mapping[str, Any]]) -> DataFrame:
    lines = [{key: row[key] for key in row if key not in _LEFT_OUT} for row in rows]
    return without_empty(frame_of(lines), _KEPT)


def _listed(value: Any) -> list[Any]:
    """Return the values of a list, or of text like `1,8,64`, each once."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    return list(dict.fromkeys(value if isinstance(value, Iterable) else [value]))


@contextmanager
def _as_specs(networks: Mapping[str, Network]) -> Iterator[dict[str, str]]:
    """Give every network a spec that another process can resolve; errors say the names given."""
    specs: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="ctxbench-") as folder:
        for name, network in networks.items():
            stem = Path(folder) / f"network{len(specs)}"
            specs[name] = network if isinstance(network, str) else _stored(name, network, stem)
        try:
            yield specs
        except CtxbenchError as error:
            told = str(error)
            for name, spec in specs.items():
                told = told.replace(spec, name)
            error.args = (told,)
            raise


def _stored(name: str, model: nn.Module, stem: Path) -> str:
    """Save a network for another process, and return the spec that loads it."""
    own = {type(module) for module in model.modules() if type(module).__module__ == "__main__"}
    if own:
        names = ", ".join(sorted(each.__name__ for each in own))
        raise LatencyError(
            f"{name} cannot be timed: {names} is defined in the notebook or program itself, which "
            f"the process that times it cannot import. Put it into a file: FILE.py:FUNCTION."
        )
    weights = stem.with_suffix(".pt")
    try:
        torch.save(model, weights)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise LatencyError(
            f"{name} cannot be timed: {error}. Name a function that builds it: FILE.py:FUNCTION."
        ) from None
    stem.with_suffix(".py").write_text(_LOADER.format(path=str(weights)))
    return f"{stem}.py:network:in_channels={channels_of(model)}"


def _renamed(row: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Put the names that the caller gave into a row."""
    renamed = {key: names.get(row[key], row[key]) for key in ("model", "against")}
    told = list(row.get("notes", ()))
    for spec, name in names.items():
        told = [text.replace(spec, name) for text in told]
    return {**row, **renamed, **({"notes": told} if "notes" in row else {})}
