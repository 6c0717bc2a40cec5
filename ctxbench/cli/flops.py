"""`ctxbench flops`."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ctxbench.cli._complete import complete_spec
from ctxbench.cli._options import (
    RESULTS,
    BatchOption,
    FormatOption,
    ImageSizeOption,
    OutOption,
    QuietOption,
    image_size,
    note,
    progress,
)

_LAYERS = {
    "model": "network",
    "layer": "layer",
    "kind": "kind",
    "params": "params",
    "macs": "MACs",
    "flops": "FLOPs (2 x MACs)",
}
_COSTS = {
    "model": "network",
    "input_shape": "input",
    "params": "params",
    "macs": "MACs",
    "flops": "FLOPs (2 x MACs)",
}


def flops(
    specs: Annotated[
        list[str],
        typer.Argument(
            metavar="SPEC...",
            help="Networks: coresnet50, 'coresnet*', ...",
            autocompletion=complete_spec,
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="SPEC",
            help="The network to compare with.",
            autocompletion=complete_spec,
        ),
    ] = None,
    size: ImageSizeOption = None,
    batch: BatchOption = 1,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="One row a layer instead of one a network.")
    ] = False,
    convention: Annotated[
        str, typer.Option("--convention", help="Show the total in this way of counting too.")
    ] = "macs",
    cross_check: Annotated[
        bool, typer.Option("--cross-check", help="Count with torch's own counter beside ours.")
    ] = False,
    allow_uncounted: Annotated[
        bool, typer.Option("--allow-uncounted", help="Note operations without a rule and go on.")
    ] = False,
    form: FormatOption = "table",
    out: OutOption = RESULTS,
    quiet: QuietOption = False,
) -> None:
    """Count parameters, MACs and FLOPs of networks, in total or by layer.

    Example: ctxbench flops coresnet50 --against resnet50 --per-layer
    """
    from ctxbench.api._counting import count_all, lines_of
    from ctxbench.errors import SpecError
    from ctxbench.measure.conventions import convention as look_up
    from ctxbench.measure.costs import LayerRow, Setting, parity_of, warnings_of
    from ctxbench.models import replaced_in
    from ctxbench.models.listing import expand
    from ctxbench.records import as_row
    from ctxbench.render import render

    look_up(convention)
    if per_layer and convention not in ("macs", "flops"):
        raise SpecError("--convention counts whole networks. Leave it or --per-layer out.")
    named = expand(specs)
    notes = [f"{spec}: {done}" for spec in named if (done := replaced_in(spec))]
    costs: list[dict[str, Any]] = []
    layers: list[LayerRow] = []
    for cost, found in count_all(
        ((spec, spec) for spec in progress(named, "counting", quiet=quiet)),
        against=(against, against) if against else None,
        setting=Setting(batch, image_size(size), allow_uncounted, cross_check),
        per_layer=per_layer,
        raw=out / "raw",
    ):
        for text in warnings_of(cost):
            note(text, quiet=False)  # a wrong number must not go unnoticed
        notes += [parity_of(cost, found)] if found and against else []
        costs.append(as_row(cost))
        layers += found
    if per_layer:
        typer.echo(render(lines_of(layers), _layer_columns(against), form))
    else:
        typer.echo(render([_flat(row) for row in costs], _columns(costs, convention), form))
    for text in notes:
        note(text, quiet=quiet)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    named = {f"in_{name}": total for name, total in row["conventions"].items()}
    return {**row, **named, "uncounted": ", ".join(row["uncounted"])}


def _columns(rows: Sequence[dict[str, Any]], convention: str) -> dict[str, str]:
    from ctxbench.measure.conventions import CONVENTIONS

    columns = dict(_COSTS)
    if convention not in ("macs", "flops"):
        columns[f"in_{convention}"] = f"{convention} ({CONVENTIONS[convention].unit})"
    if any(row["torch_macs"] is not None for row in rows):
        columns["torch_macs"] = "MACs by torch"
    if any(row["uncounted"] for row in rows):
        columns["uncounted"] = "NOT COUNTED"
    if any(row["against"] for row in rows):
        columns["params_difference"] = f"params - {rows[0]['against']}"
        columns["macs_difference"] = f"MACs - {rows[0]['against']}"
    return columns


def _layer_columns(against: str | None) -> dict[str, str]:
    if against is None:
        return _LAYERS
    other = {"against_params": f"params of {against}", "against_macs": f"MACs of {against}"}
    return {**_LAYERS, **other, "equal": "equal"}
