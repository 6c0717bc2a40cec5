"""`ctxbench latency`."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import typer

from ctxbench.cli._complete import complete_spec
from ctxbench.cli._options import (
    RESULTS,
    DeviceOption,
    FormatOption,
    OutOption,
    QuietOption,
    image_size,
    listed,
    note,
    ticker,
)

_COLUMNS = {
    "model": "network",
    "batch": "batch",
    "image_size": "image",
    "dtype": "dtype",
    "backend": "backend",
    "op_backend": "operators by",
    "status": "status",
    "ratio": "x latency",
    "ratio_low": "low",
    "ratio_high": "high",
    "params_ratio": "x params",
    "macs_ratio": "x MACs",
    "peak_mib_ratio": "x peak memory",
    "median_ms": "latency (ms)",
    "low_ms": "low (ms)",
    "high_ms": "high (ms)",
    "forward_ms": "forward (ms)",
    "backward_ms": "backward (ms)",
    "optimiser_ms": "optimiser (ms)",
    "images_s": "images/s",
    "params": "params",
    "macs": "MACs",
    "fraction": "share of the roof",
    "weights_mib": "weights (MiB)",
    "peak_mib": "peak beyond (MiB)",
    "rss_mib": "process (MiB)",
    "kernels_ms": "kernels (ms)",
    "host_ms": "host (ms)",
    "first_s": "first step (s)",
    "failing_batch": "fails at batch",
}
_ASKED = ("batch", "image_size", "dtype", "backend", "status")  # shown where rows differ in them


def latency(
    specs: Annotated[
        list[str],
        typer.Argument(
            metavar="SPEC...",
            help="Networks or operators: overlock_xt, op/coconv, ...",
            autocompletion=complete_spec,
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="SPEC",
            help="The one to compare with.",
            autocompletion=complete_spec,
        ),
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
    device: DeviceOption = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", min=1, help="CPU threads; default: OMP_NUM_THREADS, or all cores."
        ),
    ] = None,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="Time each layer too, beside its MACs.")
    ] = False,
    precision: Annotated[
        float,
        typer.Option(
            "--precision", min=0.01, help="Stop when the ratio is known to +- this many %."
        ),
    ] = 2.0,
    budget: Annotated[
        float,
        typer.Option("--budget", min=0.01, help="Seconds of timing at most, for each condition."),
    ] = 30.0,
    warmup: Annotated[
        float, typer.Option("--warmup", min=0.01, help="Give up warming up after so many seconds.")
    ] = 5.0,
    launches: Annotated[
        int,
        typer.Option(
            "--launches", min=1, help="Fresh processes for each network, one after the other."
        ),
    ] = 5,
    seed: Annotated[int, typer.Option("--seed", help="Of the weights and the input.")] = 0,
    form: FormatOption = "table",
    out: OutOption = RESULTS,
    quiet: QuietOption = False,
) -> None:
    """Measure latency, throughput and memory, in turns with another network.

    Example: ctxbench latency coresnet50 --against resnet50
    """
    from ctxbench.api._networks import beside, named
    from ctxbench.api._times import lines_of, time_all
    from ctxbench.latency.condition import Plan, sweep
    from ctxbench.models import resolve
    from ctxbench.render import render

    found = named(specs)
    sides = {spec: resolve(spec).image_px for spec in [*found, *([against] if against else [])]}
    side = next(iter(sides.values()))
    if len(set(sides.values())) > 1 and not size:
        first = next(iter(found))
        note(f"All run at {side} px, the size of {first}. Choose --image-size.", quiet=quiet)
    conditions = sweep(
        batches=[] if batch == "max" else listed(batch),
        image_sizes=[image_size(each) or (side, side) for each in listed(size or "")],
        dtypes=listed(dtype),
        backends=listed(backend),
        device=device,
        mode=mode,
        layout="channels_last" if channels_last else "contiguous",
        cache="cold" if cold else "warm",
        threads=threads,
        seed=seed,
    )
    tell = ticker(quiet=quiet)
    rows: list[dict[str, Any]] = []
    layers: list[dict[str, Any]] = []
    try:
        for made in time_all(
            found,
            conditions,
            against=beside(against, found),
            plan=Plan(launches, budget, precision / 100, warmup),
            per_layer=per_layer,
            largest=batch == "max",
            raw=out / "raw",
            notify=tell,
        ):
            rows += made["latency"]
            layers += made["latency_layers"]
    finally:  # what was measured before a mistake is worth seeing
        tell("")
        shown = lines_of(rows)
        if layers:
            typer.echo(render(layers, _layer_columns(layers, against), form))
        elif shown:
            typer.echo(render(shown, _columns(shown), form))
        for text in _notes(shown):
            note(text, quiet=quiet)


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Name the columns that hold something, and of what was asked only what differs.

    What computes the operators is named where anything but the default does.
    """
    from ctxbench.report.timings import asked_backend

    same = [key for key in _ASKED if len({str(row[key]) for row in rows}) == 1]
    same += [] if any(map(asked_backend, rows)) else ["op_backend"]
    used = [key for key in _COLUMNS if any(row.get(key) is not None for row in rows)]
    return {key: _COLUMNS[key] for key in used if key not in same}


def _layer_columns(rows: Sequence[dict[str, Any]], against: str | None) -> dict[str, str]:
    several = [key for key in _ASKED[:3] if len({str(row[key]) for row in rows}) > 1]
    columns = {"model": "network"} | {key: _COLUMNS[key] for key in several}
    columns |= {"layer": "layer", "kind": "kind", "macs": "MACs", "ms": "ms"}
    if against is None:
        return columns
    there = {"against_kind": "kind", "against_macs": "MACs", "against_ms": "ms"}
    return columns | {key: f"{head} of {against}" for key, head in there.items()}


def _notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Say what the numbers are of, what they answer, and what weakens them."""
    from ctxbench.report.machines import place
    from ctxbench.report.timings import answer, common_words, words

    said = [[place(row), *words(row)] for row in rows]
    common = common_words(said) if said else []
    told = [", ".join(common)] if common else []
    cautions: dict[str, list[str]] = {}
    for row, here in zip(rows, said, strict=True):
        apart = ", ".join(word for word in here if word not in common)
        where = f" ({apart})" if apart else ""
        told += [f"{answer(row)}{where}."] if row.get("macs_ratio") else []
        for text in row["notes"]:
            cautions.setdefault(text, []).append(f"{row['model']}{where}")
    return told + [f"{', '.join(of)}: {text}." for text, of in cautions.items()]
