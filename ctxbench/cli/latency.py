"""`ctxbench latency`."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import typer

from ctxbench.cli._options import (
    RESULTS,
    FormatOption,
    OutOption,
    QuietOption,
    image_size,
    note,
    ticker,
)

_COLUMNS = {
    "model": "network",
    "batch": "batch",
    "image_size": "image",
    "dtype": "dtype",
    "backend": "backend",
    "status": "status",
    "median_ms": "median (ms)",
    "low_ms": "low",
    "high_ms": "high",
    "backward_ms": "backward",
    "optimiser_ms": "optimiser",
    "images_s": "images/s",
    "params": "params",
    "macs": "MACs",
    "gflops_s": "GFLOP/s",
    "fraction": "of the roof",
    "weights_mib": "weights (MiB)",
    "peak_mib": "peak above (MiB)",
    "rss_mib": "process (MiB)",
    "kernels_ms": "kernels (ms)",
    "host_ms": "host (ms)",
    "failing_batch": "too large",
    "params_ratio": "x params",
    "macs_ratio": "x MACs",
    "ratio": "x latency",
    "ratio_low": "low",
    "ratio_high": "high",
    "peak_mib_ratio": "x peak",
}
_LAYERS = {
    "model": "network",
    "layer": "layer",
    "kind": "kind",
    "macs": "MACs",
    "ms": "ms",
    "against_kind": "kind there",
    "against_macs": "MACs there",
    "against_ms": "ms there",
}
# shown where rows differ in them
_ASKED = ("batch", "image_size", "dtype", "backend", "status")


def latency(
    specs: Annotated[
        list[str],
        typer.Argument(
            metavar="SPEC...", help="Networks or operators: overlock_xt, op/coconv, ..."
        ),
    ],
    against: Annotated[
        str | None, typer.Option("--against", metavar="SPEC", help="The one to compare with.")
    ] = None,
    mode: Annotated[
        Literal["inference", "training"],
        typer.Option("--mode", help="Forward passes, or training steps with SGD."),
    ] = "inference",
    batch: Annotated[
        str, typer.Option("--batch", help="Samples in a batch: 1 or 1,8,64, or max: all that fit.")
    ] = "1",
    size: Annotated[
        str | None,
        typer.Option("--image-size", help="224 or 256x192 or a list; default: the network's."),
    ] = None,
    dtype: Annotated[
        str, typer.Option("--dtype", help="fp32, tf32, bf16 or fp16, or a list of them.")
    ] = "fp32",
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Keep the channels of a pixel side by side.")
    ] = False,
    backend: Annotated[
        str, typer.Option("--backend", help="eager, compiled or cudagraph, or a list of them.")
    ] = "eager",
    cold: Annotated[
        bool, typer.Option("--cold-cache", help="Overwrite the caches before each run.")
    ] = False,
    device: Annotated[
        str, typer.Option("--device", help="cpu, cuda or cuda:1; auto is the GPU if there is one.")
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads; default: all cores.")
    ] = None,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="Time each layer too, beside its MACs.")
    ] = False,
    precision: Annotated[
        float, typer.Option("--precision", help="Half the interval that is narrow enough, in %.")
    ] = 1.0,
    budget: Annotated[
        float, typer.Option("--budget", help="Seconds of timing at most, for each condition.")
    ] = 30.0,
    warmup: Annotated[
        float, typer.Option("--warmup", help="Seconds of warm-up at most, for each process.")
    ] = 5.0,
    launches: Annotated[
        int, typer.Option("--launches", min=1, help="How often all processes are started anew.")
    ] = 5,
    seed: Annotated[int, typer.Option("--seed", help="Of the weights and the input.")] = 0,
    form: FormatOption = "table",
    out: OutOption = RESULTS,
    quiet: QuietOption = False,
) -> None:
    """Measure latency, throughput and memory, in turns with another network.

    Example: ctxbench latency coresnet50 --against resnet50
    """
    from ctxbench.latency.compare import measure_all
    from ctxbench.latency.condition import Plan, sweep
    from ctxbench.models import resolve
    from ctxbench.models.listing import expand
    from ctxbench.records import append_rows, as_row
    from ctxbench.render import render
    from ctxbench.report.timings import compared

    named = expand(specs)
    px = [resolve(spec).image_px for spec in [*named, *([against] if against else [])]]
    conditions = sweep(
        batches=[] if batch == "max" else batch.split(","),
        image_sizes=[image_size(each) or (px[0], px[0]) for each in (size or "").split(",")],
        dtypes=dtype.split(","),
        backends=backend.split(","),
        device=device,
        mode=mode,
        layout="channels_last" if channels_last else "contiguous",
        cache="cold" if cold else "warm",
        threads=threads,
        seed=seed,
    )
    measured = measure_all(
        named,
        conditions,
        against=against,
        plan=Plan(launches, budget, precision / 100, warmup),
        per_layer=per_layer,
        largest=batch == "max",
        notify=ticker(quiet=quiet),
    )
    rows: list[dict[str, Any]] = []
    layers: list[dict[str, Any]] = []
    for each in measured:
        found: dict[str, list[dict[str, Any]]] = {
            "latency": [as_row(row) for row in each.rows],
            "latency_layers": [as_row(row) for row in each.layers],
            "ceilings": [dict(each.ceilings)] if each.ceilings else [],
        }
        for kind, made in found.items():
            append_rows(kind, made, raw=out / "raw", seed=seed)
        rows += found["latency"]
        layers += found["latency_layers"]
    ticker(quiet=quiet)("")
    beside = {(row["group"], row["model"]): row for row in compared(rows)}
    shown = [_flat(beside.get((row["group"], row["model"]), row)) for row in rows]
    if layers:
        typer.echo(render(layers, _used(_LAYERS, layers), form))
    else:
        typer.echo(render(shown, _columns(shown), form))
    for text in _notes(rows):
        note(text, quiet=quiet)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Leave out the samples, which are in the saved rows, and make a column of each phase."""
    kept = {key: value for key, value in row.items() if key != "samples_ms"}
    return {**kept, **{f"{phase}_ms": ms for phase, ms in row["phases_ms"].items()}}


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Name the columns that hold something, and of what was asked only what differs."""
    same = [key for key in _ASKED if len({str(row[key]) for row in rows}) == 1]
    used = _used(_COLUMNS, rows)
    return {key: head for key, head in used.items() if key not in same}


def _used(columns: dict[str, str], rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    return {
        key: head for key, head in columns.items() if any(row.get(key) is not None for row in rows)
    }


def _notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Say what the numbers are of, and what weakens them."""
    from ctxbench.report.timings import place, words

    settings = [f"{place(row)}: {', '.join(words(row))}" for row in rows]
    told = list(dict.fromkeys(settings))
    several = len(told) > 1
    for row, setting in zip(rows, settings, strict=True):
        where = f" ({setting})" if several else ""
        told += [f"{row['model']}{where}: {text}." for text in row["notes"]]
    return told
